"""Pictures for calibrating int8 files: the crops that the network will see."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from posezoo.cards.card import InputSpec
from posezoo.data.pipeline import Examples
from posezoo.geometry import box_to_crop, crop_matrix, whole_picture
from posezoo.inference.inputs import looks_of


def whole_pictures(paths: Iterable[Path], spec: InputSpec, *, limit: int = 200) -> list[np.ndarray]:
    """Return whole pictures, padded to the input's shape and scaled; evenly chosen when there are more than `limit`.

    Args:
        paths: The files.
        spec: What the network looks at.
        limit: Most pictures.
    """
    looks = looks_of(spec)
    crops = []
    for path in _evenly(list(paths), limit):
        image = looks.prepare(looks.read(path))
        box = whole_picture(image.shape[1], image.shape[0])
        centre, size = box_to_crop(box, aspect=spec.wh[0] / spec.wh[1])
        crops.append(looks.cut(image, crop_matrix(centre, size, spec.wh), spec.wh))
    return crops


def person_crops(crops: Examples, *, limit: int = 200) -> list[np.ndarray]:
    """Return the pictures of examples, evenly chosen when there are more than `limit`."""
    return [crops.crop(i).image for i in _evenly(range(len(crops)), limit)]


def _evenly(rows, limit: int):
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)]
