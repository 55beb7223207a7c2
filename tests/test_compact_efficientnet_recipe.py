"""Class readers and crops; the recipe is in `test_recipe.py`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from posezoo.data.classes import ClassCrops, ClassSet, read_cifar100, read_image_folders
from posezoo.inference.images import ImageError


def write(folder: Path, name: str, value: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), np.full((20, 30, 3), value, np.uint8))


def test_folders_are_classes_in_alphabetical_order(tmp_path):
    for name, value in (("zebra", 10), ("ant", 200)):
        write(tmp_path / "train" / name, "1.png", value)
        (tmp_path / "train" / name / "notes.txt").write_text("no picture")
    found = read_image_folders(tmp_path, "train")
    assert found.classes == ["ant", "zebra"]
    assert found.labels.tolist() == [0, 1]
    assert found.load(1)[0, 0, 0] == 10
    with pytest.raises(FileNotFoundError, match=r"train and .*val"):
        read_image_folders(tmp_path, "val")


def test_cifar100_planes_become_pixels(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    row = np.concatenate([[7, 42], picture.transpose(2, 0, 1).ravel()]).astype(np.uint8)
    row.tofile(tmp_path / "test.bin")
    found = read_cifar100(tmp_path, "val")
    assert found.labels.tolist() == [42]
    assert (found.load(0) == picture).all()
    row[:-1].tofile(tmp_path / "train.bin")
    with pytest.raises(ValueError, match="the file is cut"):
        read_cifar100(tmp_path, "train")


def set_of(pictures) -> ClassSet:
    def load(i):
        if pictures[i] is None:
            raise ImageError(f"{i}: broken")
        return pictures[i]

    return ClassSet("made", ["a"], np.arange(len(pictures)), load, str)


def test_crops_depend_on_seed_epoch_and_index_alone():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    crops = [ClassCrops(set_of(pictures), 24, augment=True, seed=5) for _ in range(2)]
    first = [crops[0].crop(i, 1).image for i in range(3)]
    again = [crops[1].crop(i, 1).image for i in (2, 1, 0)][::-1]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (crops[0].crop(0, 2).image != first[0]).any()
    assert first[0].shape == (24, 24, 3)


def test_the_plain_crop_is_the_middle():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255
    crop = ClassCrops(set_of([picture]), 20, augment=False, centre=1.0).crop(0)
    assert crop.image.min() == 255


def test_broken_pictures_are_replaced_and_counted():
    picture = np.zeros((8, 8, 3), np.uint8)
    crops = ClassCrops(set_of([None, picture]), 8, augment=False)
    assert crops.crop(0).label == 1
    assert crops.broken == {"0": 1}
    with pytest.raises(ImageError, match="none of its 1"):
        ClassCrops(set_of([None]), 8, augment=False).crop(0)
