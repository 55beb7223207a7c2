"""Amplitude of active infrared, as depth cameras give it beside depth: the picture that hand networks look at.

Light falls off with the square of the distance, so a sensor's 16 bits hold mostly darkness. The networks see its square
root, `255 * sqrt(amplitude / 65535)`, rounded to 8 bits: a surface twice as far away is half as bright, and as much
darker near the camera as far from it. Pictures of 8 bits (infrared cameras, or grey photographs) are made for eyes and
so already follow about that curve; they are taken as they are.
"""

from __future__ import annotations

import functools
import os

import numpy as np

from posezoo.inference.images import ImageError, read_raw

#: Full scale of 16-bit amplitude.
FULL_SCALE = 65535
_EXPECTED = "expected uint16 amplitude (65535 is the sensor's full scale) or an 8-bit infrared or grey picture"


@functools.cache
def _curve() -> np.ndarray:
    return np.rint(255 * np.sqrt(np.arange(FULL_SCALE + 1) / FULL_SCALE)).astype(np.uint8)


def toned(amplitude: np.ndarray) -> np.ndarray:
    """Return uint16 amplitude as the networks see it, uint8."""
    return _curve()[amplitude]


def read_amplitude(path: str | os.PathLike) -> np.ndarray:
    """Read an amplitude frame: a 16-bit picture, an 8-bit infrared or grey picture, or a `.npy` of either.

    Returns:
        uint8 `(height, width)`, see `toned`.

    Raises:
        ImageError: The file is missing, cannot be read, or holds a colour picture.
    """
    return read_raw(path, as_amplitude, kind="an amplitude frame", expected=_EXPECTED)


def as_amplitude(frame: np.ndarray) -> np.ndarray:
    """Bring an array to 8 bits on the networks' curve.

    Args:
        frame: `(height, width)`, `(height, width, 1)`, or a grey picture in three equal channels; uint16 or uint8.

    Returns:
        uint8 `(height, width)`.

    Raises:
        ImageError: A colour picture, or another shape or type.
    """
    frame = np.asarray(frame)
    if frame.ndim == 3 and frame.shape[2] == 3:
        if not (frame == frame[..., :1]).all():
            raise ImageError(f"this network looks at infrared amplitude, got a colour picture; {_EXPECTED}")
        frame = frame[..., 0]
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[..., 0]
    if frame.ndim != 2 or 0 in frame.shape:
        raise ImageError(f"expected an amplitude frame (height, width), got an array of shape {frame.shape}")
    if frame.dtype == np.uint16:
        return toned(frame)
    if frame.dtype != np.uint8:
        raise ImageError(f"{_EXPECTED}; got {frame.dtype}")
    return np.ascontiguousarray(frame)


def shown(amplitude: np.ndarray) -> np.ndarray:
    """Return amplitude for people to look at, RGB uint8 `(height, width, 3)`: brightened until highlights are white."""
    brightest = max(float(np.percentile(amplitude, 99.5)), 1.0)
    bright = np.minimum(amplitude.astype(np.float32) * (255 / brightest), 255).astype(np.uint8)
    return np.repeat(bright[..., None], 3, axis=2)


def crop_amplitude(amplitude: np.ndarray, matrix: np.ndarray, out_wh: tuple[int, int]) -> np.ndarray:
    """Cut an affine crop; outside the frame it is dark.

    Args:
        amplitude: uint8 `(height, width)`.
        matrix: Affine map from frame to crop, see `posezoo.geometry`.
        out_wh: Width and height of the crop.

    Returns:
        uint8 `(out height, out width, 1)`.
    """
    from posezoo.inference.images import crop

    return crop(amplitude, matrix, out_wh, fill=(0,))[..., None]
