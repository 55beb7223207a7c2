"""Depth frames from files and arrays, always float32 metres with 0 where the sensor measured nothing.

As the depth pose machines see them (Martinez-Gonzalez et al. 2019, arXiv:1912.00711, section 5): 3x3 median, clipped
to 8 m; the card's mean and std bring metres to [-0.5, 0.5]. What the sensor missed, and what lies outside the frame,
is 0 m and becomes -0.5.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np

from posezoo.inference.images import ImageError, read_raw

#: Depth that the networks see, in metres; what lies beyond is seen there.
RANGE_M = 8.0
#: Float depth beyond this is taken for millimetres.
FARTHEST_M = 100.0

_EXPECTED = "expected uint16 millimetres or float metres, one channel"


def read_depth(path: str | os.PathLike) -> np.ndarray:
    """Read a depth frame: a 16-bit picture in millimetres, a float TIFF in metres, or a `.npy` of either.

    Returns:
        float32 `(height, width)` in metres, 0 where nothing was measured.

    Raises:
        ImageError: The file is missing, cannot be read, or holds no depth.
    """
    return read_raw(path, as_depth, kind="a depth frame", expected="expected a 16-bit PNG or TIFF, or a .npy file")


def as_depth(frame: np.ndarray) -> np.ndarray:
    """Bring an array to metres.

    Args:
        frame: `(height, width)` or `(height, width, 1)`; uint16 in millimetres or float in metres. 0, NaN and
            infinity stand for nothing measured.

    Returns:
        float32 `(height, width)`, 0 where nothing was measured.

    Raises:
        ImageError: A colour picture, another type, negative depth, or float that must be millimetres.
    """
    frame = np.asarray(frame)
    if frame.ndim == 3 and frame.shape[2] in (3, 4):
        raise ImageError(
            f"this network looks at depth, got a colour picture of shape {frame.shape}; {_EXPECTED}, as a depth camera "
            "gives it"
        )
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[..., 0]
    if frame.ndim != 2 or 0 in frame.shape:
        raise ImageError(f"expected a depth frame (height, width), got an array of shape {frame.shape}")
    if frame.dtype == np.uint16:
        return frame.astype(np.float32) / np.float32(1000)
    if frame.dtype == np.uint8:
        raise ImageError(f"8-bit pixels cannot hold depth: 255 mm is arm's length at most; {_EXPECTED}")
    if not np.issubdtype(frame.dtype, np.floating):
        raise ImageError(f"{_EXPECTED}; got {frame.dtype}")
    depth = np.where(np.isfinite(frame), frame, 0).astype(np.float32)
    if depth.min() < 0:
        raise ImageError(
            f"{int((depth < 0).sum())} pixel(s) of negative depth, down to {depth.min():g} m; give 0 or NaN where "
            "nothing was measured"
        )
    if depth.max() > FARTHEST_M:
        raise ImageError(
            f"float depth reaches {depth.max():g} m; that looks like millimetres: divide by 1000, or pass uint16"
        )
    return depth


def cleaned(depth: np.ndarray, *, farthest_m: float = RANGE_M) -> np.ndarray:
    """3x3 median and a network's range, on a frame `(height, width)` in metres at the sensor's own size."""
    import cv2

    return np.minimum(cv2.medianBlur(np.ascontiguousarray(depth, np.float32), 3), np.float32(farthest_m))


def crop_depth(depth: np.ndarray, matrix: np.ndarray, out_wh: tuple[int, int]) -> np.ndarray:
    """Cut an affine crop; what lies outside the frame is missing.

    Pixels that were not measured take no part in the interpolation, so that no false surface appears between a body
    and a hole; where more than half of the weight falls on them, the result is missing.

    Args:
        depth: float32 `(height, width)` in metres, 0 where missing.
        matrix: Affine map from frame to crop, see `posezoo.geometry`.
        out_wh: Width and height of the crop.

    Returns:
        float32 `(out height, out width, 1)` in metres.
    """
    import cv2

    planes: list[np.ndarray] = [np.ascontiguousarray(depth, np.float32), (depth > 0).astype(np.float32)]
    # Bilinear sampling skips pixels when shrinking by more than two: average first.
    shrink = int(1 / max(np.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6))
    shrink = max(shrink if shrink >= 2 else 1, -(-max(depth.shape) // 16384))
    if shrink > 1:
        height, width = (max(1, side // shrink) for side in depth.shape)
        scale = np.array([width / depth.shape[1], height / depth.shape[0]])
        planes = [cv2.resize(v, (width, height), interpolation=cv2.INTER_AREA) for v in planes]
        # small = (full + 0.5) * scale - 0.5, with pixel centres at integers
        linear = matrix[:, :2] / scale
        matrix = np.column_stack([linear, matrix[:, 2] - linear @ (0.5 * scale - 0.5)])
    total, weight = (
        cv2.warpAffine(v, matrix, out_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        for v in planes
    )
    return np.where(weight >= 0.5, total / np.maximum(weight, 0.5), 0).astype(np.float32)[..., None]


def depth_at(depth: np.ndarray, keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Distance of the surface that shows at each keypoint: the median of the measured pixels around it.

    Args:
        depth: float32 `(height, width)` in metres, 0 where missing.
        keypoints: `(N, K, 2)` in its pixels.
        scores: `(N, K)`; 0 where a keypoint was not found.

    Returns:
        float32 `(N, K)` in millimetres, NaN where nothing was found or measured.
    """
    height, width = depth.shape
    inside = (keypoints >= -0.5) & (keypoints < np.array([width, height]) - 0.5)
    found = (scores > 0) & inside.all(axis=-1)
    x, y = np.rint(np.where(found[..., None], keypoints, 0)).astype(int).reshape(-1, 2).T
    window = np.arange(-1, 2)
    rows = np.clip(y[:, None, None] + window[:, None], 0, height - 1)
    columns = np.clip(x[:, None, None] + window, 0, width - 1)
    values = np.sort(np.where(depth > 0, depth, np.inf)[rows, columns].reshape(len(x), 9), axis=1)
    count = np.isfinite(values).sum(axis=1)
    middle = values[np.arange(len(x)), np.maximum(count - 1, 0) // 2].reshape(found.shape)
    return np.where(found & np.isfinite(middle), middle * 1000, np.nan).astype(np.float32)


def fill_missing(depth: np.ndarray, *, method: Literal["background", "telea"] = "background") -> np.ndarray:
    """Fill holes of a depth picture: the in-painting that may go before a network, in training and in use.

    Args:
        depth: `(height, width)`, uint16 millimetres or float metres; 0 or NaN = no reading.
        method: "background" fills a hole along its row with the farther of its two ends, then along columns: a
            sensor's shadows lie on what is behind. It takes about a millisecond. "telea" is OpenCV's in-painting,
            which blends the hole's whole border and takes a hundred times longer.

    Returns:
        The same type, without holes unless the whole picture is one.

    Raises:
        ValueError: Another method or type.
    """
    if depth.ndim != 2 or depth.dtype not in (np.uint16, np.float32, np.float64):
        raise ValueError(f"expected depth (height, width), uint16 or float, got {depth.dtype} {depth.shape}")
    known = np.isfinite(depth) & (depth > 0)
    clean = np.where(known, depth, depth.dtype.type(0))
    if not known.any() or known.all():
        return clean
    if method == "background":
        filled = _fill_rows(clean)
        if not (filled > 0).all():
            filled = _fill_rows(np.ascontiguousarray(filled.T)).T
        return np.ascontiguousarray(filled)
    if method == "telea":
        import cv2

        mask = (~known).astype(np.uint8)
        painted = cv2.inpaint(clean.astype(np.float32), mask, 3, cv2.INPAINT_TELEA)
        return np.where(known, clean, np.rint(painted) if depth.dtype == np.uint16 else painted).astype(depth.dtype)
    raise ValueError(f"unknown method '{method}'; expected 'background' or 'telea'")


def _fill_rows(depth: np.ndarray) -> np.ndarray:
    """Fill zeros with the larger of the nearest values to the left and to the right; rows of zeros stay."""
    height, width = depth.shape
    column = np.where(depth > 0, np.arange(width, dtype=np.int32), -1)
    left = np.maximum.accumulate(column, axis=1)
    column[depth <= 0] = width
    right = np.minimum.accumulate(column[:, ::-1], axis=1)[:, ::-1]
    row = np.arange(height)[:, None]
    from_left = np.where(left >= 0, depth[row, np.maximum(left, 0)], 0)
    from_right = np.where(right < width, depth[row, np.minimum(right, width - 1)], 0)
    return np.maximum(from_left, from_right).astype(depth.dtype)


def coloured(depth: np.ndarray) -> np.ndarray:
    """Render a depth frame for people to look at: near is red, far blue, missing black.

    Args:
        depth: `(height, width)` in metres, 0 where missing.

    Returns:
        RGB uint8 `(height, width, 3)`.
    """
    import cv2

    known = depth > 0
    near, far = np.percentile(depth[known], (1, 99)) if known.any() else (0.0, 1.0)
    share = np.clip((far - depth) / max(far - near, 1e-3), 0, 1)
    picture = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(known[..., None], picture, 0).astype(np.uint8)
