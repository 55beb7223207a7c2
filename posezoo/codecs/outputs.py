"""What codecs ask of the arrays that a network gave, whatever it ran on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def checked(outputs: Mapping[str, np.ndarray], sizes: Mapping[str, tuple[int, int]]) -> list[np.ndarray]:
    """Return the named outputs of one picture, `(height, width, channels)` each.

    Args:
        outputs: What the network gave.
        sizes: Width and height of each output that is needed.

    Raises:
        ValueError: One is missing, has another size, or holds NaN or infinity.
    """
    for name, (width, height) in sizes.items():
        if name not in outputs:
            raise ValueError(f"the network gave no '{name}', only {', '.join(outputs)}")
        if outputs[name].shape[:2] != (height, width):
            raise ValueError(f"{name} are {outputs[name].shape[:2]}, the codec expects {(height, width)}")
        if not np.isfinite(outputs[name]).all():
            raise ValueError(f"{name} hold NaN or infinity; the network's weights or its input are broken")
    return [outputs[name] for name in sizes]


def as_planes(maps: np.ndarray) -> np.ndarray:
    """Return maps `(height, width, channels)` as float32 `(channels, height, width)` in memory order."""
    return np.moveaxis(maps, -1, 0).astype(np.float32, order="C")
