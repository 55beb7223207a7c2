"""What every reader returns: labelled pictures of people."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.geometry import box_of_points
from posezoo.inference.images import ImageError, read_image
from posezoo.skeletons import Skeleton

log = logging.getLogger(__name__)


def keypoint_columns(names: Sequence[str], skeleton: Skeleton, source: str) -> list[int]:
    """Find a skeleton's keypoints among a file's.

    Args:
        names: The file's keypoint names, in its order.
        skeleton: The keypoints to find.
        source: The file or data set, for the message.

    Returns:
        Column of each of the skeleton's keypoints.

    Raises:
        ValueError: The file lacks some of them.
    """
    missing = [keypoint for keypoint in skeleton.keypoints if keypoint not in names]
    if missing:
        raise ValueError(
            f"{source} has no keypoint {', '.join(missing)} of skeleton '{skeleton.name}'; "
            f"it has {', '.join(map(str, names))}. Give a skeleton made of these"
        )
    return [list(names).index(keypoint) for keypoint in skeleton.keypoints]


@dataclass
class Sample:
    """One picture and the people in it.

    Attributes:
        image: RGB uint8 `(height, width, 3)`, or depth `(height, width)`, see `Record.read`.
        keypoints: `(N, K, 3)`: x, y in pixels and COCO visibility (0 unlabelled, 1 hidden, 2 visible).
        boxes: `(N, 4)`: x, y, width, height in pixels.
        areas: `(N,)` square pixels.
        ignore: bool `(height, width)`, True where people are unlabelled (crowds), or None.
        name: File name, for messages and result files.
    """

    image: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignore: np.ndarray | None = None
    name: str = ""


@dataclass
class Record:
    """A sample whose picture is still on disk; `read` gives its pixels.

    `weights` `(N, K)` says how far each label is to be trusted, 0 to 1; None trusts every label.
    """

    path: Path
    keypoints: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    image_id: int = 0
    annotation_ids: Sequence[int] = ()
    ignore: Callable[[], np.ndarray] | None = None
    read: Callable[[Path], np.ndarray] = read_image
    weights: np.ndarray | None = None

    def load(self) -> Sample:
        """Read the picture.

        Raises:
            ImageError: The file is missing or no picture.
        """
        mask = self.ignore() if self.ignore else None
        return Sample(self.read(self.path), self.keypoints, self.boxes, self.areas, mask, self.path.name)


class PictureCache:
    """Decoded pictures, kept in memory while there is room.

    Args:
        room: Bytes; 0 decodes anew each time.
        read: Function from a path to pixels; raises `ImageError`.
    """

    def __init__(self, room: int = 2 << 30, read: Callable[[Path], np.ndarray] = read_image):
        self._room, self._read = room, read
        self._kept: dict[Path, np.ndarray] = {}

    def read(self, path: Path) -> np.ndarray:
        """Return a picture's pixels.

        Raises:
            ImageError: The file is missing or no picture.
        """
        image = self._kept.get(path)
        if image is None:
            image = self._read(path)
            if image.nbytes <= self._room:
                self._room -= image.nbytes
                self._kept[path] = image
        return image


class Readable:
    """Loads examples of a set; one that cannot be read is counted, named in the log, and replaced by the next.

    So an epoch never stops in its middle.

    Args:
        load: Function from an index to a picture, or to what holds one; raises `ImageError`.
        count: Number of examples.
        name: Of the set, for messages.
        file: Function from an index to a file name.

    Attributes:
        broken: How often each unreadable file was met.
    """

    def __init__(
        self, load: Callable[[int], Any], count: int, *, name: str, file: Callable[[int], str]
    ):  # fmt: skip
        self._load, self._count, self._name, self._file = load, count, name, file
        self.broken: Counter = Counter()

    def __call__(self, index: int) -> tuple[int, Any]:
        """Return the index of the example that was read, and its picture.

        Raises:
            ImageError: No picture of the set can be read.
        """
        for substitute in range(self._count):
            found = (index + substitute) % self._count
            try:
                return found, self._load(found)
            except ImageError as error:
                file = self._file(found)
                if not self.broken[file]:
                    log.warning("%s: skipped: %s", self._name, error)
                self.broken[file] += 1
        raise ImageError(f"{self._name}: none of its {self._count} pictures can be read")


@dataclass(frozen=True)
class Source:
    """Pictures by index.

    Attributes:
        load: Function from an index to RGB uint8, or to a labelled frame; raises `ImageError`.
        file: Function from an index to a file name.
    """

    load: Callable[[int], Any]
    file: Callable[[int], str]


class ExampleSet(ABC):
    """What all sets of training and validation examples have in common.

    A subclass adds `crop(index, epoch)`, which takes its random numbers from (seed, epoch, index) alone.

    Args:
        name: Of the set, for messages.
        pictures: Number of pictures.
        source: Where they come from.
        seed: Seed of every random number.
        varied: Whether examples vary from epoch to epoch, and come in another order.
        length: Number of examples where it is not that of the pictures.
    """

    def __init__(
        self,
        name: str,
        pictures: int,
        source: Source,
        *,
        seed: int,
        varied: bool,
        length: int | None = None,
    ):
        self.seed, self.varied = seed, varied
        self._length = length or pictures
        self._readable = Readable(source.load, pictures, name=name, file=source.file)

    def __len__(self) -> int:
        return self._length

    @property
    def broken(self) -> Counter:
        """How often each unreadable file was met."""
        return self._readable.broken

    @abstractmethod
    def crop(self, index: int, epoch: int = 0) -> Any:
        """Load one example.

        Raises:
            ImageError: No picture of the set can be read.
        """

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch: as they are, or shuffled where they vary."""
        if not self.varied:
            return np.arange(len(self))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self))

    def rng(self, epoch: int, index: int) -> np.random.Generator:
        """Return the random numbers of one example."""
        return np.random.default_rng((self.seed, epoch if self.varied else 0, index))


def cached(path_of: Callable[[int], Path], cache_bytes: int) -> Source:
    """Return the source of pictures that are files, kept in memory while there is room."""
    cache = PictureCache(cache_bytes)
    return Source(lambda i: cache.read(path_of(i)), lambda i: path_of(i).name)


@dataclass
class KeypointSet:
    """The labelled pictures of one split of one data set.

    Attributes:
        name: Data set and split, for logs and cards.
        skeleton: What the keypoint columns mean.
        records: The usable pictures.
        problems: How many annotations were left out, by reason.
        read: Reads a record's picture: RGB uint8 `(height, width, 3)`; of depth sets float32 metres
            `(height, width)`, 0 where nothing was measured.
        depth: Whether that is depth.
        person_boxes: Whether the records' boxes are those of whole persons, not of their labelled keypoints.
    """

    name: str
    skeleton: Skeleton
    records: list[Record] = field(default_factory=list)
    problems: Counter = field(default_factory=Counter)
    read: Callable[[Path], np.ndarray] = read_image
    depth: bool = False
    person_boxes: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def leave_out(self, file: str, reason: str) -> None:
        """Count an unusable annotation and name its file in the log."""
        self.problems[reason] += 1
        log.warning("%s: %s: left out, %s", self.name, file, reason)

    def add(self, path: Path | str, keypoints: np.ndarray, *, boxes=None, areas=None, **rest) -> None:
        """Add a picture, unless its labels are impossible.

        Args:
            path: The picture.
            keypoints: `(N, K, 3)`.
            boxes: `(N, 4)`; by default the box of each person's labelled keypoints.
            areas: `(N,)`; by default the boxes' areas.
            **rest: `image_id`, `annotation_ids`, `ignore`, `weights` of `Record`.
        """
        path = Path(path)
        keypoints = np.asarray(keypoints, np.float32)
        expected = self.skeleton.num_keypoints
        if keypoints.ndim != 3 or keypoints.shape[1:] != (expected, 3):
            reason = f"keypoints of shape {keypoints.shape[1:]} where ({expected}, 3) is expected"
            return self.leave_out(path.name, reason)
        if not np.isfinite(keypoints).all():
            return self.leave_out(path.name, "a keypoint is not a number")
        if boxes is None:
            boxes = [box_of_points(person[person[:, 2] > 0, :2]) for person in keypoints]
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        if len(boxes) != len(keypoints) or not np.isfinite(boxes).all():
            return self.leave_out(path.name, "boxes that are not one of four numbers per person")
        if len(boxes) and (boxes[:, 2:].max(axis=1) <= 0).any():
            return self.leave_out(path.name, "no labelled keypoint, or a box without area")
        areas = boxes[:, 2] * boxes[:, 3] if areas is None else np.asarray(areas, np.float32)
        self.records.append(Record(path, keypoints, boxes, areas, read=self.read, **rest))
        return None
