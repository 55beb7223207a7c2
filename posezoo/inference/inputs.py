"""What a network looks at, by its card: how such a picture is read, prepared, cut out and shown to people."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from posezoo.cards.card import InputSpec
from posezoo.inference.amplitude import as_amplitude, crop_amplitude, read_amplitude, shown
from posezoo.inference.depth import as_depth, cleaned, coloured, crop_depth, read_depth
from posezoo.inference.images import as_rgb, crop, read_image


@dataclass(frozen=True)
class Looks:
    """One kind of picture.

    Attributes:
        read: A file's pixels.
        take: An array's pixels, of any form that users have.
        prepare: What is done to a whole picture before it is cut.
        cut: Function of (pixels, matrix, width and height) to an affine crop `(height, width, channels)`.
        show: Pixels as RGB uint8 `(height, width, 3)`.
    """

    read: Callable[[str | os.PathLike], np.ndarray]
    take: Callable[[np.ndarray], np.ndarray]
    prepare: Callable[[np.ndarray], np.ndarray]
    cut: Callable[[np.ndarray, np.ndarray, tuple[int, int]], np.ndarray]
    show: Callable[[np.ndarray], np.ndarray]


def _as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


def looks_of(spec: InputSpec) -> Looks:
    """Return the kind of picture that a network looks at."""
    if spec.depth:
        return Looks(read_depth, as_depth, partial(cleaned, farthest_m=spec.farthest_m), crop_depth, coloured)
    if spec.amplitude:
        return Looks(read_amplitude, as_amplitude, _as_it_is, crop_amplitude, shown)
    return Looks(read_image, as_rgb, _as_it_is, crop, _as_it_is)
