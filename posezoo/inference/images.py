"""Pictures from files and arrays, always RGB uint8."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from posezoo.errors import UserError

#: File endings that folders are searched for.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class ImageError(UserError, ValueError):
    """A file or an array that is no picture."""


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read a picture file.

    Greyscale becomes RGB, transparency is laid over white, 16-bit is scaled to 8-bit, and the
    rotation that a camera wrote into EXIF is applied.

    Returns:
        RGB uint8 `(height, width, 3)`.

    Raises:
        ImageError: The file is missing, or is not a picture that OpenCV can read.
    """
    import cv2

    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    try:
        # Read the bytes ourselves: OpenCV cannot open every path that the system can.
        data = np.fromfile(path, np.uint8)
        # IMREAD_UNCHANGED keeps depth and alpha but ignores EXIF; colour reading applies EXIF.
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if image is not None and image.dtype in (np.uint8, np.uint16) and (image.ndim == 2 or image.shape[2] in (1, 3)):
            image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except (cv2.error, OSError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ImageError(f"{path}: cannot be read as a picture ({reason})") from error
    if image is None:
        raise ImageError(f"{path}: not a picture; expected one of {', '.join(s[1:] for s in SUFFIXES)}")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    try:
        return as_rgb(image)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def read_raw(
    path: str | os.PathLike, convert: Callable[[np.ndarray], np.ndarray], *, kind: str, expected: str
) -> np.ndarray:
    """Read a sensor's frame as it is stored, in a picture of any bit depth or a `.npy`, and convert it.

    Args:
        path: The file.
        convert: Checks the array and brings it to the wanted form; raises `ImageError`.
        kind: What the file should be, such as `a depth frame`.
        expected: What such files look like, for the message.

    Returns:
        What `convert` returns.

    Raises:
        ImageError: The file is missing, cannot be read, or does not hold such a frame.
    """
    import cv2

    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    try:
        if path.suffix == ".npy":
            frame = np.load(path, allow_pickle=False)
        else:
            data = np.fromfile(path, np.uint8)
            frame = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except (cv2.error, OSError, ValueError, EOFError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ImageError(f"{path}: cannot be read as {kind} ({reason})") from error
    if frame is None:
        raise ImageError(f"{path}: not a picture; {expected}")
    try:
        return convert(frame)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Bring an array to RGB uint8.

    Args:
        image: `(height, width)`, `(height, width, 1)`, RGB or RGBA; uint8, uint16 (full range), bool, or
            float in [0, 1].

    Raises:
        ImageError: The array has another shape or type, is empty, or holds values outside its range.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ImageError(f"expected a picture (height, width, 1, 3 or 4 channels), got an array of shape {image.shape}")
    if image.dtype == np.uint16:
        image = (image.astype(np.uint32) * 255 + 32767) // 65535
    elif image.dtype == bool:
        image = image * np.uint8(255)
    elif np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all() or image.min() < -1e-3 or image.max() > 1 + 1e-3:
            raise ImageError("float pictures must lie in [0, 1]; scale yours, or pass uint8")
        image = np.rint(image.clip(0, 1) * 255)
    elif image.dtype != np.uint8:
        raise ImageError(f"expected uint8, uint16 or float pixels, got {image.dtype}")
    image = image.astype(np.uint8)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.uint16)
        image = ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image)


def crop(
    image: np.ndarray, matrix: np.ndarray, out_wh: tuple[int, int], *, fill: Sequence[int] = (127, 127, 127)
) -> np.ndarray:
    """Cut an affine crop; what lies outside the picture is filled with grey.

    Shrinking by more than two averages the picture down first, so that thin limbs do not alias.

    Args:
        image: RGB uint8 `(height, width, 3)`.
        matrix: Affine map from picture to crop, see `posezoo.geometry`.
        out_wh: Width and height of the crop.
        fill: Colour outside the picture.

    Returns:
        `(out height, out width, 3)` uint8.
    """
    import cv2

    # OpenCV warps at most 32766 pixels a side, and bilinear sampling skips pixels when shrinking.
    shrink = int(1 / max(np.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6))
    shrink = max(shrink if shrink >= 2 else 1, -(-max(image.shape[:2]) // 16384))
    if shrink > 1:
        height, width = (max(1, side // shrink) for side in image.shape[:2])
        scale = np.array([width / image.shape[1], height / image.shape[0]])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        # small = (full + 0.5) * scale - 0.5, with pixel centres at integers
        linear = matrix[:, :2] / scale
        matrix = np.column_stack([linear, matrix[:, 2] - linear @ (0.5 * scale - 0.5)])
    return cv2.warpAffine(
        image, matrix, out_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
