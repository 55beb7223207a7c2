"""Training examples for depth networks: frames with everybody labelled, real or rendered, varied as in the paper.

Martínez-González et al., arXiv:1912.00711, section IV: rotation, crops, real backgrounds, pixels dropped along
silhouettes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from posezoo.cards.card import Card
from posezoo.codecs.part_affinity import unlabelled_joints
from posezoo.data.sample import ExampleSet, KeypointSet, PictureCache, Source
from posezoo.data.scenes import Scene, moved_boxes, moved_keypoints, warped_mask
from posezoo.geometry import box_to_crop, crop_matrix, whole_picture
from posezoo.inference.depth import cleaned, crop_depth
from posezoo.skeletons import Skeleton


@dataclass
class DepthFrame:
    """One depth frame and the people in it.

    Attributes:
        depth: float32 `(height, width)` metres, 0 where nothing was measured.
        keypoints: `(N, K, 3)`: x, y in pixels and COCO visibility.
        boxes: `(N, 4)` x, y, width, height of whole persons.
        people: bool `(height, width)`, where a person is the surface seen; None where nobody knows.
        complete: Whether all that is in the frame is labelled: a keypoint of visibility 0 is outside it.
    """

    depth: np.ndarray
    keypoints: np.ndarray
    boxes: np.ndarray
    people: np.ndarray | None = None
    complete: bool = False


class DepthFrames(Protocol):
    """A labelled set of frames by index."""

    name: str
    skeleton: Skeleton

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> DepthFrame: ...


class RecordFrames:
    """The frames of a labelled set that a reader of `posezoo.data.depth` gives.

    Args:
        people: The set.
        segmented: Whether whatever the sensor measured is a person, as where the background was cut away.
        cache_bytes: Memory for frames.
    """

    def __init__(self, people: KeypointSet, *, segmented: bool = False, cache_bytes: int = 2 << 30):
        self.people, self.segmented = people, segmented
        self.name, self.skeleton = people.name, people.skeleton
        self._caches: dict[Callable, PictureCache] = {}
        self._room = cache_bytes

    def __len__(self) -> int:
        return len(self.people.records)

    def __getitem__(self, index: int) -> DepthFrame:
        record = self.people.records[index]
        cache = self._caches.setdefault(record.read, PictureCache(self._room, record.read))
        depth = cache.read(record.path)
        return DepthFrame(depth, record.keypoints, record.boxes, depth > 0 if self.segmented else None)


@dataclass(frozen=True)
class DepthAugmentation:
    """How far a depth frame may vary; the defaults are the paper's where it prints them.

    Attributes:
        rotation_deg: Largest rotation to either side.
        rotate: Probability of a rotation.
        crop: Probability of a random crop; otherwise the whole frame is fitted.
        side: Smallest and largest side of a crop, times the frame's short side.
        flip: Probability of mirroring.
        drop: Share of the pixels along silhouettes that are dropped.
        edge_px: How far from a silhouette's edge they are dropped, in the network's pixels.
        shift_m: Largest change of every distance, in metres: another place of the camera on its axis.
    """

    rotation_deg: float = 20.0
    rotate: float = 0.8
    crop: float = 0.9
    side: tuple[float, float] = (0.6, 1.3)
    flip: float = 0.5
    drop: float = 0.2
    edge_px: int = 2
    shift_m: float = 0.0


class DepthScenes(ExampleSet):
    """Depth frames at a network's size.

    Args:
        frames: The labelled frames.
        input_wh: Width and height of the network's input.
        augmentation: Random variation, or None to fit the whole frame.
        background: Function of (random generator, frame) that puts another background behind the people.
        length: Examples per epoch; as many as there are frames by default. Others are drawn at random, or without
            augmentation spread evenly.
        enlarge: Keypoints that nobody labelled may lie within this much of a person's box.
        seed: Seed of every random number.
    """

    def __init__(
        self,
        frames: DepthFrames,
        input_wh: tuple[int, int],
        *,
        augmentation: DepthAugmentation | None = None,
        background: Callable[[np.random.Generator, DepthFrame], np.ndarray] | None = None,
        length: int | None = None,
        enlarge: float = 1.2,
        seed: int = 0,
    ):
        self.frames, self.input_wh = frames, (int(input_wh[0]), int(input_wh[1]))
        self.augmentation, self.background, self.enlarge = augmentation, background, enlarge
        source = Source(frames.__getitem__, lambda i: f"{frames.name} {i}")
        super().__init__(
            frames.name, len(frames), source, seed=seed, varied=augmentation is not None, length=length
        )  # fmt: skip

    def crop(self, index: int, epoch: int = 0) -> Scene:
        """Load one example; its image is float32 `(height, width, 1)` in metres."""
        rng = self.rng(epoch, index)
        number = index
        if len(self) != len(self.frames):
            varied = self.augmentation is not None
            number = int(rng.integers(len(self.frames))) if varied else index * len(self.frames) // len(self)
        number, frame = self._readable(number)
        depth = frame.depth if self.background is None else self.background(rng, frame)
        frame = self._chosen(rng, frame)
        matrix, flip = self._crop_matrix(rng, frame)
        image = crop_depth(cleaned(depth), matrix, self.input_wh)
        a = self.augmentation
        if a is not None:
            if a.shift_m:
                moved = image + rng.uniform(-a.shift_m, a.shift_m)
                image = np.where(image > 0, np.maximum(moved, 0.1), 0).astype(np.float32)
            if a.drop and frame.people is not None:
                edge = silhouette(warped_mask(frame.people, matrix, self.input_wh), a.edge_px)
                image[edge & (rng.random(edge.shape) < a.drop)] = 0
        given = frame.keypoints[:, list(self.frames.skeleton.flip_indices)] if flip else frame.keypoints
        keypoints = moved_keypoints(given, matrix, self.input_wh)
        boxes = moved_boxes(np.reshape(frame.boxes, (-1, 4)), matrix).astype(np.float32)
        unlabelled = None
        if not frame.complete and not (frame.keypoints[..., 2] > 0).all():
            unlabelled = unlabelled_joints(given, boxes, self.input_wh, enlarge=self.enlarge)
        areas = np.prod(boxes[:, 2:], axis=1)
        nowhere = np.zeros(self.input_wh[::-1], bool)
        return Scene(
            image, keypoints, nowhere, areas.astype(np.float32), unlabelled=unlabelled, index=number, boxes=boxes
        )  # fmt: skip

    def _chosen(self, rng: np.random.Generator, frame: DepthFrame) -> DepthFrame:
        """What of a frame's people counts: everybody."""
        return frame

    def _crop_matrix(self, rng: np.random.Generator, frame: DepthFrame) -> tuple[np.ndarray, bool]:
        a = self.augmentation
        centre, size = self._region(rng, frame)
        if a is None:
            return crop_matrix(centre, size, self.input_wh), False
        rotation = rng.uniform(-a.rotation_deg, a.rotation_deg) if rng.random() < a.rotate else 0.0
        flip = bool(rng.random() < a.flip)
        return crop_matrix(centre, size, self.input_wh, rotation_deg=rotation, flip=flip), flip

    def _region(self, rng: np.random.Generator, frame: DepthFrame) -> tuple[np.ndarray, np.ndarray]:
        """Centre and size of what is cut out, varied where there is augmentation."""
        a, aspect, frame_wh = self.augmentation, self.input_wh[0] / self.input_wh[1], frame.depth.shape[::-1]
        centre, size = box_to_crop(whole_picture(*frame_wh), aspect=aspect)
        if a is not None and rng.random() < a.crop:
            side = min(frame_wh) * np.exp(rng.uniform(*np.log(a.side)))
            size = np.array([side * aspect, side]) if aspect < 1 else np.array([side, side / aspect])
            # A crop smaller than the frame stays inside it, a larger one holds it.
            room = np.abs(np.array(frame_wh) - size) / 2
            centre = centre + rng.uniform(-room, room)
        return centre, size


class DepthPeople(DepthScenes):
    """One person of each depth frame, cut out around its box, for networks that look at one.

    With augmentation any person of the frame, at random; without, the one with the largest box. A frame without people
    is fitted, and nothing in it is labelled. The sides of a random crop are times that of the plain one.

    Args:
        enlarge_box: Factor on the box's longer side; the other arguments are those of `DepthScenes`.
    """

    def __init__(self, *args, enlarge_box: float = 1.25, **options):
        super().__init__(*args, **options)
        self.enlarge_box = enlarge_box

    def _chosen(self, rng: np.random.Generator, frame: DepthFrame) -> DepthFrame:
        areas = np.prod(np.reshape(frame.boxes, (-1, 4))[:, 2:], axis=1)
        there = np.flatnonzero((areas > 0) & (frame.keypoints[..., 2] > 0).any(axis=-1))
        if self.augmentation is None:
            chosen = there[areas[there].argsort(kind="stable")[-1:]]
        else:
            chosen = there[rng.integers(len(there))][None] if len(there) else there
        return replace(frame, keypoints=frame.keypoints[chosen], boxes=np.reshape(frame.boxes, (-1, 4))[chosen])

    def _region(self, rng: np.random.Generator, frame: DepthFrame) -> tuple[np.ndarray, np.ndarray]:
        if not len(frame.boxes):
            return super()._region(rng, frame)
        a, aspect = self.augmentation, self.input_wh[0] / self.input_wh[1]
        centre, size = box_to_crop(frame.boxes[0], enlarge=self.enlarge_box, aspect=aspect)
        if a is not None and rng.random() < a.crop:
            larger = np.exp(rng.uniform(*np.log(a.side)))
            centre, size = centre + rng.uniform(-0.1, 0.1, 2) * size, size * larger
        return centre, size


def scenes_for(card: Card, frames: DepthFrames, input_wh: tuple[int, int], **options) -> DepthScenes:
    """Frames as a card's network looks at them: whole, or cut out around one person; `options` as there."""
    if card.codec["type"] == "part_affinity":
        return DepthScenes(frames, input_wh, **options)
    return DepthPeople(frames, input_wh, enlarge_box=float(card.crop["enlarge"]), **options)


def person_batch(scenes: Sequence[Scene], codec, *, scale: Callable[[np.ndarray], np.ndarray], skeleton: Skeleton):
    """Stack scenes of at most one person into network inputs and heatmap targets, as `scene_batch` does for many.

    Args:
        scenes: Of `DepthPeople`.
        codec: A `HeatmapCodec`.
        scale: Brings metres to the network's input.
        skeleton: Of the keypoints; a scene without people has none of them labelled.
    """
    nobody = np.zeros((skeleton.num_keypoints, 3), np.float32)
    keypoints = np.stack([s.keypoints[0] if len(s.keypoints) else nobody for s in scenes])
    return scale(np.stack([s.image for s in scenes])), {
        "heatmaps": codec.targets(keypoints[..., :2], keypoints[..., 2])
    }


def silhouette(people: np.ndarray, reach_px: int) -> np.ndarray:
    """Return the pixels within `reach_px` of the edge of a bool mask."""
    import cv2

    kernel = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    mask = people.astype(np.uint8)
    return cv2.dilate(mask, kernel) > cv2.erode(mask, kernel)


class MixedScenes:
    """Several sets of scenes as one: each example is drawn from one of them, by shares.

    Args:
        parts: The sets.
        shares: How often each is drawn.
        length: Examples per epoch.
        seed: Seed of the draw.
    """

    def __init__(self, parts: Sequence[ExampleSet], shares: Sequence[float], *, length: int, seed: int = 0):
        if len(parts) != len(shares):
            raise ValueError(f"{len(parts)} sets need as many shares, got {len(shares)}")
        self.parts, self.shares = list(parts), np.asarray(shares, float) / np.sum(shares)
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of the examples in an epoch."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.length)

    def crop(self, index: int, epoch: int = 0) -> Scene:
        """Load one example; its `index` is the number of the set it came from."""
        rng = np.random.default_rng((self.seed, epoch, index))
        part = int(rng.choice(len(self.parts), p=self.shares))
        scene = self.parts[part].crop(int(rng.integers(len(self.parts[part]))), epoch * self.length + index)
        scene.index = part
        return scene
