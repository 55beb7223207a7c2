"""Where a pixel is. The one place for boxes, crops and affine maps.

Convention, everywhere in posezoo: pixel centres lie at integers, so a picture of width `w` spans
`[-0.5, w - 0.5]`. Points are `(x, y)`. Affine maps are 2x3 matrices for `cv2.warpAffine`, from picture
to crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: A point, a size or a box: a few numbers in a row.
Numbers = Sequence[float] | np.ndarray


def box_of_points(points: np.ndarray) -> np.ndarray:
    """Return the tight box `(x, y, width, height)` of points `(n, 2)`; zeros for no points."""
    if not len(points):
        return np.zeros(4, np.float32)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([low, high - low]).astype(np.float32)


def whole_picture(width: int, height: int) -> np.ndarray:
    """Return the box `(x, y, width, height)` that covers a picture."""
    return np.array([-0.5, -0.5, width, height], np.float32)


def box_to_crop(box: Numbers, *, enlarge: float = 1.0, aspect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Grow a box to the crop's shape around its centre.

    Args:
        box: `(x, y, width, height)`.
        enlarge: Factor on the longer side (relative to the crop's aspect).
        aspect: Width of the crop over its height.

    Returns:
        Centre `(2,)` and size `(2,)` of the crop in picture pixels, at least one pixel wide.
    """
    x, y, width, height = (float(v) for v in box)
    centre = np.array([x + width / 2, y + height / 2])
    crop_height = max(height, width / aspect, 1.0) * enlarge
    return centre, np.array([crop_height * aspect, crop_height])


def crop_matrix(
    centre: Numbers,
    size: Numbers,
    out_wh: tuple[int, int],
    *,
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> np.ndarray:
    """Affine map that takes a (rotated, mirrored) rectangle of the picture onto a crop.

    Args:
        centre: Centre of the rectangle in picture pixels.
        size: Width and height of the rectangle in picture pixels.
        out_wh: Width and height of the crop in pixels.
        rotation_deg: The picture's content turns clockwise by this angle.
        flip: Whether the crop is mirrored left to right, after the rotation.

    Returns:
        Matrix `(2, 3)`.
    """
    angle = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.array([out_wh[0] / size[0], out_wh[1] / size[1]])
    linear = scale[:, None] * turn
    if flip:
        linear[0] *= -1
    middle = (np.array(out_wh, float) - 1) / 2
    return np.column_stack([linear, middle - linear @ np.asarray(centre, float)])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points `(..., 2)` by a matrix `(2, 3)`."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse `(2, 3)` of an affine map."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])
