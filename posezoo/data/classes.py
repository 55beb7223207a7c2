"""Pictures with one class each, to train backbones: folders in ImageNet's layout, CIFAR-100's binary files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from posezoo.data.sample import ExampleSet, Source
from posezoo.geometry import crop_matrix
from posezoo.inference.images import SUFFIXES, crop, read_image

CIFAR_SIDE = 32

#: Principal components of ImageNet's RGB values and their standard deviations, pixels in [0, 1]
#: (Krizhevsky et al. 2012, section 4.1; the figures everybody uses).
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclass
class ClassSet:
    """The labelled pictures of one split.

    Attributes:
        name: Data set and split.
        classes: Names, in the order of the labels.
        labels: int `(N,)`.
        load: Function from an index to an RGB uint8 picture.
        file: Function from an index to a name for messages.
    """

    name: str
    classes: list[str]
    labels: np.ndarray
    load: Callable[[int], np.ndarray]
    file: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


def read_image_folders(root: Path | str, split: str) -> ClassSet:
    """Read ImageNet's layout: `root/split/class/picture`.

    Raises:
        FileNotFoundError: No such folder, or no picture in it.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected {root}/train and {root}/val with one per class")
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise FileNotFoundError(f"{folder}: no picture in its {len(classes)} class folders")
    paths, labels = zip(*found, strict=True)
    return ClassSet(
        f"{folder.parent.name}-{split}", classes, np.array(labels), lambda i: read_image(paths[i]),
        lambda i: paths[i].name,
    )  # fmt: skip


def read_cifar100(root: Path | str, split: str) -> ClassSet:
    """Read CIFAR-100's binary version: `train.bin`, `test.bin` (for split `val`), `fine_label_names.txt`.

    Raises:
        FileNotFoundError: The split's file is missing.
        ValueError: The file is cut.
    """
    path = Path(root) / {"val": "test.bin"}.get(split, f"{split}.bin")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected CIFAR-100's binary version, unpacked")
    row = 2 + 3 * CIFAR_SIDE**2  # coarse label, fine label, pixels plane by plane
    content = np.fromfile(path, np.uint8)
    if content.size % row or not content.size:
        raise ValueError(f"{path}: {content.size} bytes are no multiple of {row}; the file is cut")
    rows = content.reshape(-1, row)
    pictures = rows[:, 2:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    names = Path(root) / "fine_label_names.txt"
    classes = names.read_text().split() if names.is_file() else [str(i) for i in range(100)]
    return ClassSet(
        f"cifar100-{split}", classes, rows[:, 1].astype(int), lambda i: np.ascontiguousarray(pictures[i]),
        lambda i: f"{path.name}:{i}",
    )  # fmt: skip


READERS = {"folders": read_image_folders, "cifar100": read_cifar100}


@dataclass
class ClassCrop:
    """One picture at the network's size, and its class."""

    image: np.ndarray
    label: int


class ClassCrops(ExampleSet):
    """The pictures of a set, cut to the network's input.

    Training crops vary as in the EfficientHRNet paper, section 4.1: rotation, scale and aspect ratio,
    PCA colour noise, mirroring. Plain ones are the middle of the picture.

    Args:
        pictures: The labelled pictures.
        side: Of the square crops, in pixels.
        augment: Whether to vary.
        rotation_deg: Largest rotation.
        area: Smallest share of the picture that a crop covers.
        aspect: Largest ratio of a crop's sides.
        centre: Share of the shorter side that the plain crop covers.
        seed: Seed of every random number.
    """

    def __init__(
        self, pictures: ClassSet, side: int, *, augment: bool, rotation_deg: float = 10.0, area: float = 0.08,
        aspect: float = 4 / 3, centre: float = 0.875, seed: int = 0,
    ):  # fmt: skip
        super().__init__(
            pictures.name, len(pictures), Source(pictures.load, pictures.file), seed=seed, varied=augment
        )  # fmt: skip
        self.pictures, self.side = pictures, side
        self.rotation_deg, self.area, self.aspect, self.centre = rotation_deg, area, aspect, centre

    def crop(self, index: int, epoch: int = 0) -> ClassCrop:
        """Load one example; a picture that cannot be read is counted, named in the log and replaced by the next.

        Raises:
            ImageError: No picture of the set can be read.
        """
        found, image = self._readable(index)
        cut = partial(self._random, self.rng(epoch, index)) if self.varied else self._middle
        return ClassCrop(cut(image), int(self.pictures.labels[found]))

    def _middle(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        size = np.full(2, min(height, width) * self.centre)
        centre = (np.array([width, height]) - 1) / 2
        return crop(image, crop_matrix(centre, size, (self.side, self.side)), (self.side, self.side))

    def _random(self, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        share = rng.uniform(self.area, 1) * height * width
        ratio = np.exp(rng.uniform(-1, 1) * np.log(self.aspect))
        size = np.minimum([np.sqrt(share * ratio), np.sqrt(share / ratio)], [width, height])
        centre = rng.uniform(size / 2, [width, height] - size / 2) - 0.5
        matrix = crop_matrix(
            centre, size, (self.side, self.side), rotation_deg=rng.uniform(-self.rotation_deg, self.rotation_deg),
            flip=bool(rng.random() < 0.5),
        )  # fmt: skip
        pixels = crop(image, matrix, (self.side, self.side)).astype(np.float32)
        noise = 255 * PCA_VECTORS @ (rng.normal(0, 0.1, 3) * PCA_VALUES)
        return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def class_batch(crops: list[ClassCrop], *, scale: Callable[[np.ndarray], np.ndarray]):
    """Stack crops into network inputs and labels `(batch,)`."""
    return scale(np.stack([c.image for c in crops])), np.array([c.label for c in crops], np.int32)
