"""Pictures for calibrating int8 files: the crops that the network will see."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from posezoo.data.pipeline import Examples
from posezoo.geometry import box_to_crop, crop_matrix, whole_picture
from posezoo.inference.depth import cleaned, crop_depth, read_depth
from posezoo.inference.images import crop, read_image


def whole_pictures(
    paths: Iterable[Path], input_wh: tuple[int, int], *, limit: int = 200, depth: bool = False
) -> list[np.ndarray]:
    """Return whole pictures, padded to the input's shape and scaled; evenly chosen when there are more than `limit`.

    Args:
        paths: The files.
        input_wh: Width and height of the network's input.
        limit: Most pictures.
        depth: Whether they are depth frames.
    """
    cut = crop_depth if depth else crop
    crops = []
    for path in _evenly(list(paths), limit):
        image = cleaned(read_depth(path)) if depth else read_image(path)
        box = whole_picture(image.shape[1], image.shape[0])
        centre, size = box_to_crop(box, aspect=input_wh[0] / input_wh[1])
        crops.append(cut(image, crop_matrix(centre, size, input_wh), input_wh))
    return crops


def person_crops(crops: Examples, *, limit: int = 200) -> list[np.ndarray]:
    """Return the pictures of examples, evenly chosen when there are more than `limit`."""
    return [crops.crop(i).image for i in _evenly(range(len(crops)), limit)]


def _evenly(rows, limit: int):
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)]
