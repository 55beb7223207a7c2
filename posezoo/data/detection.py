"""Whole images as examples for person detectors: every box, crowds as ignored regions.

Random numbers come from (seed, epoch, index), as in `posezoo.data.pipeline`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from posezoo.data.augment import Augmentation, random_colour, random_cutout
from posezoo.data.coco import read_json
from posezoo.data.readers import _divide, _images, coco_annotations
from posezoo.data.sample import ExampleSet, KeypointSet, Record, Source
from posezoo.data.scenes import moved_boxes
from posezoo.geometry import box_to_crop, crop_matrix, whole_picture
from posezoo.inference.bottom_up import fit
from posezoo.inference.images import crop, read_image
from posezoo.skeletons import NONE

log = logging.getLogger(__name__)

#: Variation of training images: magnified 0.5 to 2 times, anywhere in the view, mirrored half of the time.
VARIED = Augmentation(rotation_deg=0, scale=(0.5, 2.0), translate=1.0, colour=0.5, grey=0.05)

#: Reason under which images whose labels are known to be incomplete are counted in `KeypointSet.problems`.
INCOMPLETE = "people there may be unlabelled"


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass
class BoxRecord(Record):
    """An image on disk with the boxes of everybody in it; its keypoints are none, `(N, 0, 3)`.

    Attributes:
        ignored: `(M, 4)`: regions in which people may be unlabelled (crowds).
    """

    ignored: np.ndarray = field(default_factory=_no_boxes)


def ignored_regions(record: Record) -> np.ndarray:
    """Return the regions `(M, 4)` of an image in which people may be unlabelled; none where the set has no boxes."""
    return record.ignored if isinstance(record, BoxRecord) else _no_boxes()


def read_person_boxes(root: Path | str, split: str) -> KeypointSet:
    """Read every person's box of a COCO-style set, also of people without keypoints, and of images without people.

    Boxes of crowds (`iscrowd`) become ignored regions. Images whose entry says `"persons_complete": false` are left
    out and counted in `problems`: a person that nobody labelled there would be learnt as background.

    Args:
        root: As for `posezoo.data.readers.read` with `coco`.
        split: `train`, `val` or `all`.

    Returns:
        A set without keypoints, whose records are `BoxRecord`. COCO counts from a pixel's corner; the boxes here follow
        `posezoo.geometry`, half a pixel less.

    Raises:
        FileNotFoundError: No annotations or images in `root`.
        ValueError: An unknown split, a damaged file, or categories without people.
    """
    root = Path(root)
    path, whole = coco_annotations(root, split)
    images = _images(root, split)
    content = read_json(path)
    people_ids = _person_ids(content.get("categories"), path)
    people = KeypointSet(path.name.removesuffix(".gz").removesuffix(".json"), NONE)
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict):
            people.leave_out(path.name, "an annotation that is no JSON object")
        elif people_ids is None or annotation.get("category_id") in people_ids:
            by_image[annotation.get("image_id")].append(annotation)
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder; expected the images that {path.name} labels")
    present = {p.name for p in images.iterdir()}
    for entry in content["images"]:
        if not (isinstance(entry, dict) and "id" in entry and isinstance(entry.get("file_name"), str)):
            people.leave_out(path.name, "an image without id or file_name")
        elif entry.get("persons_complete") is False:
            people.problems[INCOMPLETE] += 1
        elif entry["file_name"] not in present and not (images / entry["file_name"]).is_file():
            people.leave_out(entry["file_name"], "no such image")
        else:
            _add_image(people, images / entry["file_name"], entry["id"], by_image[entry["id"]])
    return people if whole or split == "all" else _divide(people, root, split)


def _person_ids(categories: object, path: Path) -> set | None:
    """Return the ids of the category `person`; None where the file has no categories."""
    named = [c for c in categories if isinstance(c, dict)] if isinstance(categories, list) else []
    if not named:
        return None
    ids = {c.get("id") for c in named if c.get("name") == "person"}
    if not ids:
        raise ValueError(f"{path}: no category 'person'; it has {', '.join(str(c.get('name')) for c in named)}")
    return ids


def _add_image(people: KeypointSet, path: Path, image_id: int, annotations: Sequence[dict]) -> None:
    boxes, ignored, ids = [], [], []
    for annotation in annotations:
        box = _box(annotation.get("bbox"))
        if box is None:
            people.leave_out(path.name, "a box without area, or that is not four numbers")
        elif annotation.get("iscrowd"):
            ignored.append(box)
        else:
            boxes.append(box)
            ids.append(annotation.get("id", 0))
    found = _stack(boxes)
    people.records.append(
        BoxRecord(
            path, np.zeros((len(found), 0, 3), np.float32), found, found[:, 2] * found[:, 3], image_id=image_id,
            annotation_ids=ids, ignored=_stack(ignored),
        )
    )  # fmt: skip


def _box(values: object) -> list[float] | None:
    """Return COCO's box with pixel centres at integers, or None where it is none."""
    if not isinstance(values, list) or len(values) != 4 or not all(isinstance(v, (int, float)) for v in values):
        return None
    x, y, width, height = values
    return [x - 0.5, y - 0.5, width, height] if np.isfinite(values).all() and min(width, height) > 0 else None


def _stack(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


@dataclass(frozen=True)
class ResizedImage:
    """An image that was read, perhaps smaller than its file.

    Attributes:
        pixels: RGB uint8 `(height, width, 3)`.
        file_wh: Width and height of the file's image.
    """

    pixels: np.ndarray
    file_wh: tuple[int, int]

    def matrix(self, of_file: np.ndarray) -> np.ndarray:
        """Return the affine map `(2, 3)` of the file's pixels as that of these pixels."""
        scale = np.array(self.pixels.shape[1::-1]) / self.file_wh
        # small = (full + 0.5) * scale - 0.5, with pixel centres at integers
        linear = of_file[:, :2] / scale
        return np.column_stack([linear, of_file[:, 2] - linear @ (0.5 * scale - 0.5)])


def read_resized(path: Path, longest_px: int | None = None) -> ResizedImage:
    """Read an image; one whose longer side is above `longest_px` is averaged down to it.

    Raises:
        ImageError: The file is missing or no image.
    """
    import cv2

    pixels = read_image(path)
    height, width = pixels.shape[:2]
    if longest_px and max(height, width) > longest_px:
        scale = longest_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return ResizedImage(pixels, (width, height))


class ResizedCache:
    """Images read by `read_resized`, kept in memory while there is room.

    Args:
        room: Bytes; 0 decodes anew each time.
        longest_px: Longer side of what is kept; None keeps images as they are.
    """

    def __init__(self, room: int, longest_px: int | None):
        self._room, self._longest_px = room, longest_px
        self._kept: dict[Path, ResizedImage] = {}

    def read(self, path: Path) -> ResizedImage:
        """Return an image.

        Raises:
            ImageError: The file is missing or no image.
        """
        image = self._kept.get(path)
        if image is None:
            image = read_resized(path, self._longest_px)
            if image.pixels.nbytes <= self._room:
                self._room -= image.pixels.nbytes
                self._kept[path] = image
        return image


@dataclass
class DetectionExample:
    """One image at the network's size and the people in it.

    Attributes:
        image: RGB uint8 `(height, width, 3)`.
        boxes: `(N, 4)` x, y, width, height of people in pixels of `image`, within it.
        ignored: `(M, 4)`: regions where people may be unlabelled or too little of them is seen.
        matrix: `(2, 3)` from the file's pixels to those of `image`.
        file_wh: Width and height of the file's image.
        index: Which example of the set this is; another than asked for where that could not be read.
    """

    image: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray
    matrix: np.ndarray
    file_wh: tuple[int, int]
    index: int = 0


class DetectionImages(ExampleSet):
    """Whole images with everybody in them, varied or fitted into the network's input.

    People of whom less than `min_visible` is left in a varied image, or who are smaller than `min_px` there, are
    regions to ignore.

    Args:
        people: What `read_person_boxes` returns.
        input_wh: Width and height of the network's input.
        augmentation: Random variation, such as `VARIED`, or None to fit the whole image. `scale` magnifies the fitted
            image; `translate` is the share of the room that the view has in the image, or the image in the view.
        seed: Seed of every random number.
        cache_bytes: Memory for decoded images; 0 decodes anew each time.
        cache_px: Longer side to which images are reduced when they are read; None leaves them as they are.
        min_visible: Smallest share of a box's area within the input.
        min_px: Smallest longer side of a box within the input, in its pixels.
    """

    def __init__(
        self,
        people: KeypointSet,
        input_wh: tuple[int, int],
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache_bytes: int = 2 << 30,
        cache_px: int | None = None,
        min_visible: float = 0.3,
        min_px: float = 12.0,
    ):
        self.people, self.input_wh = people, (int(input_wh[0]), int(input_wh[1]))
        self.augmentation, self.min_visible, self.min_px = augmentation, min_visible, min_px
        cache = ResizedCache(cache_bytes, cache_px)
        files = Source(lambda i: cache.read(people.records[i].path), lambda i: people.records[i].path.name)
        super().__init__(people.name, len(people), files, seed=seed, varied=augmentation is not None)

    def crop(self, index: int, epoch: int = 0) -> DetectionExample:
        """Load one example.

        Raises:
            ImageError: No image of the set can be read.
        """
        found, read = self._readable(index)
        record = self.people.records[found]
        rng = self.rng(epoch, index)
        if self.augmentation is None:
            matrix = fit(read.file_wh, self.input_wh)
        else:
            matrix = random_view(rng, read.file_wh, self.input_wh, self.augmentation)
        pixels = read.pixels
        if self.augmentation is not None:
            # Before the image is laid into grey surroundings, which stay as they are in use.
            pixels = random_colour(rng, pixels, self.augmentation)
        pixels = crop(pixels, read.matrix(matrix), self.input_wh)
        if self.augmentation is not None:
            pixels = random_cutout(rng, pixels, self.augmentation.cutout)
        boxes, share = clip_boxes(moved_boxes(record.boxes, matrix), self.input_wh)
        known = (share >= self.min_visible) & (boxes[:, 2:].max(axis=1, initial=0) >= self.min_px)
        regions, _ = clip_boxes(moved_boxes(ignored_regions(record), matrix), self.input_wh)
        ignored = np.concatenate([boxes[~known], regions])
        return DetectionExample(
            pixels, boxes[known], ignored[(ignored[:, 2:] > 0).all(axis=1)], matrix, read.file_wh, found
        )  # fmt: skip


def random_view(
    rng: np.random.Generator, image_wh: tuple[int, int], input_wh: tuple[int, int], augmentation: Augmentation
) -> np.ndarray:
    """Draw a view of an image, or of an image in grey surroundings: magnified, shifted, perhaps mirrored.

    Args:
        rng: Source of the choice.
        image_wh: Width and height of the image.
        input_wh: Of the view.
        augmentation: `scale` on the fitted image, `translate` as in `DetectionImages`, and `flip`.

    Returns:
        Affine map `(2, 3)` from image to view.
    """
    _, whole = box_to_crop(whole_picture(*image_wh), aspect=input_wh[0] / input_wh[1])
    size = whole / np.exp(rng.uniform(*np.log(augmentation.scale)))
    room = np.abs(size - image_wh) / 2 * augmentation.translate
    centre = (np.array(image_wh) - 1) / 2 + rng.uniform(-1, 1, 2) * room
    return crop_matrix(centre, size, input_wh, flip=bool(rng.random() < augmentation.flip))


def clip_boxes(boxes: np.ndarray, image_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut boxes `(N, 4)` at an image's borders.

    Returns:
        float32 boxes `(N, 4)`, without area where nothing is left, and the share of each that is left `(N,)`.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    limit = np.array(image_wh) - 0.5
    low = np.clip(boxes[:, :2], -0.5, limit)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], -0.5, limit)
    share = (high - low).prod(axis=1) / np.maximum(boxes[:, 2:].prod(axis=1), 1e-9)
    return np.concatenate([low, high - low], axis=1).astype(np.float32), share


def detection_batch(
    examples: Iterable[DetectionExample], codec, *, scale: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Stack examples into network inputs, the codec's maps and their weights.

    Weights are such that Keras's mean over all cells becomes the sum over them divided by the number of people in the
    batch, at least one.

    Args:
        examples: The images.
        codec: Encodes their people, see `posezoo.codecs.CenterCodec`.
        scale: Brings uint8 pixels to the network's input.

    Returns:
        Images `(batch, height, width, 3)`, output -> maps `(batch, height, width, channels)`, output -> weights
        `(batch, height, width)`.
    """
    examples = list(examples)
    encoded = [codec.encode(e.boxes, e.ignored) for e in examples]
    values = {name: np.stack([one[name][0] for one in encoded]) for name in encoded[0]}
    weights = {name: np.stack([one[name][1] for one in encoded]) for name in encoded[0]}
    people = max(int((values["centers"] == 1).sum()), 1)
    weights = {name: each * np.float32(each.size / people) for name, each in weights.items()}
    return scale(np.stack([e.image for e in examples])), values, weights
