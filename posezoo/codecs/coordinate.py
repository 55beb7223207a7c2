"""Direct regression: keypoints as fractions of the input, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Target of a keypoint that is not labelled; losses leave it out. Far outside any picture.
UNLABELLED = -100.0


@dataclass(frozen=True)
class CoordinateCodec:
    """Keypoints in input pixels to one vector of fractions `x0, y0, x1, y1, ...`, and back.

    Attributes:
        input_wh: Width and height of the network's input in pixels.
    """

    input_wh: tuple[int, int]

    #: Name of the network output that this codec reads.
    output = "coordinates"
    outputs = (output,)
    #: Whether the codec finds the people itself, in a whole picture.
    bottom_up = False

    def encode(self, keypoints: np.ndarray) -> np.ndarray:
        """Keypoints `(..., K, 2)` in input pixels to fractions `(..., K * 2)`; 0 and 1 are the input's borders."""
        fractions = (np.asarray(keypoints, np.float32) + 0.5) / np.array(self.input_wh, np.float32)
        return fractions.reshape(*fractions.shape[:-2], -1)

    def targets(self, keypoints: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """As `encode`, but keypoints that are not labelled (visible 0) are `UNLABELLED`."""
        labelled = np.repeat(np.asarray(visible) > 0, 2, axis=-1)
        return np.where(labelled, self.encode(keypoints), np.float32(UNLABELLED))

    def mirror(self, coordinates: np.ndarray, flip_indices: Sequence[int]) -> np.ndarray:
        """Return the coordinates `(..., K * 2)` of a mirrored picture as those of the picture itself."""
        xy = coordinates.reshape(*coordinates.shape[:-1], -1, 2)[..., list(flip_indices), :]
        return (xy * (-1, 1) + (1, 0)).reshape(coordinates.shape).astype(coordinates.dtype)

    def decode(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractions `(..., K * 2)` to keypoints `(..., K, 2)` in input pixels and scores `(..., K)`.

        Regression knows no confidence: every score is 1.

        Raises:
            ValueError: The coordinates hold NaN.
        """
        if np.isnan(coordinates).any():
            raise ValueError("coordinates hold NaN; the network's weights or its input are broken")
        xy = coordinates.reshape(*coordinates.shape[:-1], -1, 2)
        keypoints = (xy * np.array(self.input_wh, np.float32) - 0.5).astype(np.float32)
        return keypoints, np.ones(keypoints.shape[:-1], np.float32)
