"""People cut out once, so that a training run need not decode whole pictures.

A cache is a folder: `images.npy` (uint8 crops a little larger than the network's, memory-mapped), `labels.npz`
(keypoints, weights and boxes in crop pixels), `crops.json` (what it is) and, where a teacher looked at the crops,
`taught.npy` (its maps). `recipes/cache_crops.py` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from posezoo.data.augment import Augmentation
from posezoo.data.pipeline import PADDING, Crop, cut_person
from posezoo.data.sample import ExampleSet, KeypointSet, Source
from posezoo.errors import UserError
from posezoo.files import replacing, write_json
from posezoo.geometry import apply, box_to_crop, crop_matrix
from posezoo.inference.images import ImageError, crop
from posezoo.skeletons import Skeleton

VERSION = 1

#: A function from RGB uint8 crops `(batch, height, width, 3)` to maps `(batch, map height, map width, K)` near 0 to 1.
Teacher = Callable[[np.ndarray], np.ndarray]


class CacheError(UserError, ValueError):
    """A folder that holds no whole cache of crops, or one that does not fit."""


def write_crops(
    people: KeypointSet,
    folder: Path | str,
    *,
    side_px: int = 256,
    enlarge: float = 1.5,
    nobody: float = 0.0,
    min_side: float = 32.0,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> int:
    """Cut every labelled person of a set into a cache.

    Args:
        people: The labelled pictures, with the persons' own boxes.
        folder: Where the cache is written.
        side_px: Side of the square crops.
        enlarge: Factor on the longer side of the person's box; augmentation needs more than the network's 1.25.
        nobody: Crops without a person, as a share of those with one, from places that meet no person's box; only for
            sets in which every person is labelled or ignored.
        min_side: Shortest longer side of a person's box in pixels.
        seed: Of the places without a person.
        progress: Wraps the iteration over pictures, for a progress bar.

    Returns:
        Number of crops.

    Raises:
        CacheError: No person of the set is large enough.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images, keypoints, weights, boxes, files = [], [], [], [], []

    def keep(record, image, box, person, weight):
        centre, size = box_to_crop(box, enlarge=enlarge)
        matrix = crop_matrix(centre, size, (side_px, side_px))
        images.append(crop(image, matrix, (side_px, side_px)))
        moved = np.column_stack([apply(matrix, person[:, :2]), person[:, 2]])
        keypoints.append(np.where(person[:, 2:] > 0, moved, 0).astype(np.float32))
        weights.append(weight)
        corner = apply(matrix, np.asarray(box[:2], float))
        boxes.append([*corner, *(np.asarray(box[2:], float) * matrix[0, 0])])
        files.append(record.path.name)

    with replacing(folder / "images.npy") as path:
        for record in progress(people.records):
            try:
                sample = record.load()
            except ImageError as error:
                people.leave_out(record.path.name, str(error))
                continue
            for i, person in enumerate(sample.keypoints):
                labelled = person[:, 2] > 0
                if labelled.sum() >= 2 and max(sample.boxes[i][2:]) >= min_side:
                    weight = labelled.astype(np.float32)
                    keep(
                        record,
                        sample.image,
                        sample.boxes[i],
                        person,
                        weight * (1 if record.weights is None else record.weights[i]),
                    )
            if nobody and rng.random() < nobody * max(len(sample.keypoints), 1):
                box = empty_place(rng, sample)
                if box is not None:
                    nothing = np.zeros((people.skeleton.num_keypoints, 3), np.float32)
                    keep(record, sample.image, box, nothing, np.ones(len(nothing), np.float32))
        if not images:
            raise CacheError(f"{people.name}: no labelled person of {min_side:g} px or more; lower min_side")
        with path.open("wb") as file:
            np.save(file, np.stack(images))
    with replacing(folder / "labels.npz") as path, path.open("wb") as file:
        np.savez(
            file, keypoints=np.stack(keypoints), weights=np.stack(weights).astype(np.float32),
            boxes=np.array(boxes, np.float32), files=np.array(files),
        )  # fmt: skip
    (folder / "taught.npy").unlink(missing_ok=True)
    about = {"version": VERSION, "set": people.name, "keypoints": list(people.skeleton.keypoints), "side_px": side_px}
    write_json(folder / "crops.json", {**about, "enlarge": enlarge, "crops": len(images), "nobody": nobody})
    return len(images)


def empty_place(rng: np.random.Generator, sample, *, tries: int = 20) -> np.ndarray | None:
    """Draw a box `(x, y, width, height)` of a picture that meets no person and no ignored region, or None."""
    height, width = sample.image.shape[:2]
    for _ in range(tries):
        side = rng.uniform(0.2, 0.7) * min(height, width)
        wide, high = side * np.exp(rng.uniform(-0.7, 0, 2))
        x, y = rng.uniform(0, width - wide), rng.uniform(0, height - high)
        meets = [
            x < bx + bw and bx < x + wide and y < by + bh and by < y + high for bx, by, bw, bh in sample.boxes
        ]  # fmt: skip
        rows, columns = slice(int(y), int(y + high) + 1), slice(int(x), int(x + wide) + 1)
        if not any(meets) and (sample.ignore is None or not sample.ignore[rows, columns].any()):
            return np.array([x, y, wide, high], np.float32)
    return None


def write_taught(
    folder: Path | str,
    teacher: Teacher,
    input_wh: tuple[int, int],
    *,
    stride: int = 4,
    batch: int = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Store a teacher's maps of every crop of a cache.

    Args:
        folder: The cache.
        teacher: Sees the person's box times `PADDING["annotated"]`.
        input_wh: Width and height of its input.
        stride: Input pixels per pixel of its maps, whose pixel `u` stands for input pixel `u * stride`.
        batch: Crops per call.
        progress: Wraps the iteration over batches, for a progress bar.
    """
    folder = Path(folder)
    cache = CachedCrops(folder, input_wh)
    maps = None
    with replacing(folder / "taught.npy") as path:
        for first in progress(range(0, len(cache), batch)):
            rows = range(first, min(first + batch, len(cache)))
            found = teacher(np.stack([cache.crop(i).image for i in rows]))
            if maps is None:
                shape = (len(cache), *found.shape[1:])
                maps = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            maps[first : first + len(found)] = np.rint(found.clip(0, 1) * 255)
        if maps is not None:
            maps.flush()
    about = json.loads((folder / "crops.json").read_text())
    write_json(folder / "crops.json", {**about, "taught": {"input_wh": list(input_wh), "stride": stride}})


class CachedCrops(ExampleSet):
    """The people of a cache as crops of the network's input size; see `PersonCrops`.

    Args:
        folder: What `write_crops` wrote.
        input_wh: Width and height of the crops.
        skeleton: Names the keypoints; must be those of the cache.
        enlarge: Factor on the longer side of the person's box.
        augmentation: Random variation, or None for the plain crop.
        seed: Seed of every random number.

    Raises:
        CacheError: No cache there, one of another version, or of other keypoints.
    """

    def __init__(
        self,
        folder: Path | str,
        input_wh: tuple[int, int],
        *,
        skeleton: Skeleton | None = None,
        enlarge: float = PADDING["annotated"],
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        folder = Path(folder)
        try:
            about = json.loads((folder / "crops.json").read_text())
            with np.load(folder / "labels.npz") as labels:
                self.keypoints, self.weights, self.boxes = (labels[k] for k in ("keypoints", "weights", "boxes"))
                files = labels["files"]
            self.images = np.load(folder / "images.npy", mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise CacheError(
                f"{folder}: no whole cache of crops ({error}); write it with recipes/cache_crops.py"
            ) from error
        if about.get("version") != VERSION or len(self.images) != len(self.keypoints):
            raise CacheError(f"{folder}: a cache of another version, or a half one; write it again")
        names = tuple(about["keypoints"])
        self.skeleton = skeleton or Skeleton("cached", names)
        if self.skeleton.keypoints != names:
            raise CacheError(
                f"{folder}: has the keypoints {', '.join(names)}; expected those of '{self.skeleton.name}'"
            )
        self.taught, self.taught_crop = None, about.get("taught")
        if self.taught_crop and (folder / "taught.npy").exists():
            self.taught = np.load(folder / "taught.npy", mmap_mode="r")
        self.input_wh, self.enlarge, self.augmentation = (input_wh[0], input_wh[1]), enlarge, augmentation
        source = Source(lambda i: self.images[i], lambda i: str(files[i]))
        super().__init__(folder.name, len(self.images), source, seed=seed, varied=augmentation is not None)

    def crop(self, index: int, epoch: int = 0) -> Crop:
        """Load one example."""
        person, weights, box = self.keypoints[index], self.weights[index], self.boxes[index]
        somebody = bool((person[:, 2] > 0).any())
        cut, flip = cut_person(
            self.images[index], person, box, self.input_wh, enlarge=self.enlarge, skeleton=self.skeleton,
            augmentation=self.augmentation, rng=self.rng(epoch, index), weights=weights,
        )  # fmt: skip
        cut.index = index
        if self.taught is not None and somebody:
            maps = self.taught[index]
            cut.taught = (
                maps[..., list(self.skeleton.flip_indices)] if flip else maps,
                self._from_taught(box, cut.matrix),
            )
        return cut

    def _from_taught(self, box: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The affine map from a teacher's map pixels to a crop's."""
        width, height = self.taught_crop["input_wh"]
        centre, size = box_to_crop(box, enlarge=PADDING["annotated"], aspect=width / height)
        seen = crop_matrix(centre, size, (width, height))
        back = np.linalg.inv(np.vstack([seen, [0, 0, 1]]))
        scaled = np.diag([self.taught_crop["stride"], self.taught_crop["stride"], 1.0])
        return matrix @ back @ scaled


class Mix:
    """Several sets of examples, drawn by shares: an epoch holds so many of each, another part of a large set each time.

    Args:
        parts: Pairs of a set and its share.
        length: Examples of an epoch; by default as many as the sets have together.
        seed: Of the order.

    Raises:
        ValueError: No set, or a share that is not positive.
    """

    def __init__(self, parts: Sequence[tuple[ExampleSet, float]], *, length: int | None = None, seed: int = 0):
        if not parts or any(share <= 0 for _, share in parts):
            raise ValueError("a mix needs at least one set, and shares above 0")
        self.parts, self.seed = [part for part, _ in parts], seed
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        shares = np.array([share for _, share in parts], float)
        self.counts = np.rint((length or int(self.starts[-1])) * shares / shares.sum()).astype(int)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch: every set is gone through before it repeats."""
        chosen = [
            start + self._stream(which, epoch * count, count)
            for which, (start, count) in enumerate(zip(self.starts, self.counts, strict=False))
        ]
        return np.random.default_rng((self.seed, epoch)).permutation(np.concatenate(chosen))

    def _stream(self, which: int, first: int, count: int) -> np.ndarray:
        """Examples `first` to `first + count` of a set's endless stream of shuffled rounds."""
        size = len(self.parts[which])
        rounds = range(first // size, -(-(first + count) // size))
        stream = [np.random.default_rng((self.seed, which, r)).permutation(size) for r in rounds]
        offset = first - (first // size) * size
        return np.concatenate(stream)[offset : offset + count] if stream else np.zeros(0, int)

    def crop(self, index: int, epoch: int = 0) -> Crop:
        """Load one example."""
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[which].crop(index - int(self.starts[which]), epoch)
