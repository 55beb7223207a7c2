"""Training examples for bottom-up networks: whole pictures with everybody in them.

Two sources: pictures whose people are all labelled (COCO), and canvases onto which single labelled people
are pasted (`posezoo.data.canvases`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from posezoo.data.augment import Augmentation, random_colour, random_crop_matrix, random_cutout
from posezoo.data.sample import ExampleSet, KeypointSet, cached
from posezoo.geometry import apply, box_to_crop, crop_matrix, whole_picture
from posezoo.inference.images import ImageError, crop
from posezoo.skeletons import Skeleton

log = logging.getLogger(__name__)


@dataclass
class Scene:
    """One picture at the network's size and the people in it.

    Attributes:
        image: RGB uint8 `(height, width, 3)`, or depth float32 `(height, width, 1)` in metres.
        keypoints: `(N, K, 3)`: x, y in pixels of `image`, and COCO visibility.
        ignore: bool `(height, width)`, True where people may be unlabelled.
        unlabelled: bool `(height, width, K)` or None: where single keypoints may be unlabelled.
        areas: `(N,)` square pixels, the scale of the object-keypoint similarity.
        index: Which example of the set this is.
        boxes: `(N, 4)` x, y, width, height of whole persons in pixels of `image`, as the data set has them; None where
            it has none.
    """

    image: np.ndarray
    keypoints: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray
    unlabelled: np.ndarray | None = None
    index: int = 0
    boxes: np.ndarray | None = None

    @property
    def ignored(self) -> np.ndarray:
        """Where nothing is learnt: bool `(height, width)`, or `(height, width, K)`."""
        return self.ignore if self.unlabelled is None else self.ignore[..., None] | self.unlabelled


class Pictures(ExampleSet):
    """Pictures whose people are labelled, varied as in EfficientHRNet, section 4.2.

    Args:
        people: The labelled pictures.
        input_wh: Width and height of the network's input.
        augmentation: Random variation, or None to fit the whole picture. Its scale is relative to the
            picture's short side, its shift a share of it.
        seed: Seed of every random number.
        cache_bytes: Memory for decoded pictures.
    """

    def __init__(
        self,
        people: KeypointSet,
        input_wh: tuple[int, int],
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache_bytes: int = 2 << 30,
    ):
        self.people, self.input_wh = people, (int(input_wh[0]), int(input_wh[1]))
        self.augmentation = augmentation
        files = cached(lambda i: people.records[i].path, cache_bytes)
        super().__init__(people.name, len(people), files, seed=seed, varied=augmentation is not None)

    def crop(self, index: int, epoch: int = 0) -> Scene:
        """Load one example.

        Raises:
            ImageError: No picture of the set can be read.
        """
        found, image = self._readable(index)
        record = self.people.records[found]
        height, width = image.shape[:2]
        rng = self.rng(epoch, index)
        aspect, flip = self.input_wh[0] / self.input_wh[1], False
        if self.augmentation is None:
            centre, size = box_to_crop(whole_picture(width, height), aspect=aspect)
            matrix = crop_matrix(centre, size, self.input_wh)
        else:
            short = min(width, height)
            centre = (np.array([width, height]) - 1) / 2
            size = np.array([short * aspect, short]) if aspect < 1 else np.array([short, short / aspect])
            matrix, flip = random_crop_matrix(rng, centre, size, self.input_wh, self.augmentation)
        pixels = crop(image, matrix, self.input_wh)
        if self.augmentation is not None:
            pixels = random_cutout(rng, random_colour(rng, pixels, self.augmentation), self.augmentation.cutout)
        keypoints = record.keypoints[:, list(self.people.skeleton.flip_indices)] if flip else record.keypoints
        ignore = np.zeros(self.input_wh[::-1], bool)
        if record.ignore is not None:
            ignore = warped_mask(record.ignore(), matrix, self.input_wh)
        moved = moved_keypoints(keypoints, matrix, self.input_wh)
        areas = record.areas * abs(np.linalg.det(matrix[:, :2]))
        boxes = moved_boxes(record.boxes, matrix).astype(np.float32)
        return Scene(pixels, moved, ignore, areas.astype(np.float32), index=found, boxes=boxes)


def whole_scenes(people: KeypointSet) -> Iterator[Scene]:
    """Every picture of a set as it is, at its own size; those that cannot be read are logged and left out."""
    for index, record in enumerate(people.records):
        try:
            sample = record.load()
        except ImageError as error:
            log.warning("%s", error)
            continue
        ignore = np.zeros(sample.image.shape[:2], bool) if sample.ignore is None else sample.ignore
        yield Scene(sample.image, sample.keypoints, ignore, sample.areas, index=index)


def moved_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map boxes `(N, 4)`; of turned ones the upright box around them."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    corners = np.stack([low, high, np.column_stack([low[:, 0], high[:, 1]]), np.column_stack([high[:, 0], low[:, 1]])])
    moved = apply(matrix, corners)
    return np.concatenate([moved.min(axis=0), np.ptp(moved, axis=0)], axis=-1)


def moved_keypoints(keypoints: np.ndarray, matrix: np.ndarray, input_wh: tuple[int, int]) -> np.ndarray:
    """Map keypoints `(N, K, 3)`; those that leave the picture become unlabelled (visibility 0)."""
    moved = keypoints.astype(np.float32).copy()
    moved[..., :2] = apply(matrix, keypoints[..., :2])
    limits = np.array(input_wh) - 0.5
    inside = ((moved[..., :2] >= -0.5) & (moved[..., :2] < limits)).all(axis=-1)
    moved[~inside | (keypoints[..., 2] == 0)] = 0
    return moved


def warped_mask(mask: np.ndarray, matrix: np.ndarray, input_wh: tuple[int, int]) -> np.ndarray:
    """Warp a bool mask; outside it is False."""
    import cv2

    warped = cv2.warpAffine(
        mask.astype(np.uint8) * 255, matrix, input_wh, flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT, borderValue=0,
    )  # fmt: skip
    return warped > 127


def scene_batch(
    scenes: list[Scene], codec, *, scale: Callable[[np.ndarray], np.ndarray], skeleton: Skeleton | None = None
):  # fmt: skip
    """Stack scenes into network inputs `(batch, height, width, channels)` and a dict of the codec's targets.

    Args:
        scenes: The pictures.
        codec: Encodes their people.
        scale: Brings pixels to the network's input.
        skeleton: Where the codec's targets need the limbs (part affinity fields).
    """
    limbs = {"skeleton": skeleton} if skeleton else {}
    targets = [codec.targets(s.keypoints, s.ignored, **limbs) for s in scenes]
    stacked = {name: np.stack([t[name] for t in targets]) for name in targets[0]}
    return scale(np.stack([s.image for s in scenes])), stacked
