"""Training examples for the hand network: labelled frames, varied, at the network's size.

Amplitude is seen on the 8-bit curve of `posezoo.inference.amplitude`, depth in metres as by
`posezoo.inference.depth`; either way the card's mean and std bring it to [-0.5, 0.5].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from posezoo.cards.card import InputSpec
from posezoo.codecs.hand import HandCodec
from posezoo.data.hand_frames import BACKGROUND, HIDDEN, LEFT, NO_CLASS, RIGHT, SEEN, UNKNOWN, HandFrame, HandFrames
from posezoo.data.sample import ExampleSet, Source, keypoint_columns
from posezoo.errors import UserError
from posezoo.geometry import apply, box_to_crop, crop_matrix, whole_picture
from posezoo.inference.amplitude import crop_amplitude, toned
from posezoo.inference.depth import cleaned, crop_depth
from posezoo.inference.images import ImageError
from posezoo.skeletons import HAND16, HAND34, HAND_AUXILIARY, HAND_ORIENTATIONS, Skeleton

INPUTS = ("amplitude", "depth")
#: A hand with fewer pixels than this share of the picture is none that anybody could find.
LEAST_SHARE = 0.001
#: Pose and orientation are known where this many of a hand's labelled keypoints are in the picture.
LEAST_KEYPOINTS = 6
#: Neighbouring frames that are read together, and how many such blocks are mixed.
BLOCK, MIXED = 500, 10

_OTHER_SIDE = np.arange(256, dtype=np.uint8)
_OTHER_SIDE[[LEFT, RIGHT]] = RIGHT, LEFT


@dataclass
class HandScene:
    """One frame at the network's size, the left hand first in every array of two.

    Attributes:
        image: uint8 amplitude on the networks' curve or float32 metres, `(height, width, 1)`.
        keypoints: `(34, 3)` in the order of `HAND34`: x, y in pixels of `image`, and `UNKNOWN`, `HIDDEN` or `SEEN`.
        hands: bool `(2,)`: which are in the picture.
        orientation: `(2,)`, -1 where unknown.
        pose: `(2,)`, -1 where unknown.
        segmentation: uint8 `(height, width)`, `NO_CLASS` where nobody knows.
        index: Number of the frame.
    """

    image: np.ndarray
    keypoints: np.ndarray
    hands: np.ndarray
    orientation: np.ndarray
    pose: np.ndarray
    segmentation: np.ndarray
    index: int = 0


@dataclass(frozen=True)
class HandAugmentation:
    """How far a frame may vary.

    Attributes:
        rotation_deg: Largest rotation to either side.
        scale: Smallest and largest magnification.
        translate: Largest shift, as a share of the picture.
        flip: Probability of mirroring, which makes left hands right ones.
        gain: Smallest and largest factor on amplitude.
        gamma: Smallest and largest exponent of the networks' curve.
        noise: Largest standard deviation added, in the 255 steps of the curve; of depth in millimetres.
        depth_shift_m: Largest change of all distances.
        cutout: Probability of covering a rectangle; what is behind it is hidden.
    """

    rotation_deg: float = 20.0
    scale: tuple[float, float] = (0.8, 1.25)
    translate: float = 0.1
    flip: float = 0.5
    gain: tuple[float, float] = (0.5, 1.6)
    gamma: tuple[float, float] = (0.8, 1.25)
    noise: float = 5.0
    depth_shift_m: float = 0.05
    cutout: float = 0.3


class HandScenes(ExampleSet):
    """Labelled frames as examples.

    Args:
        frames: The frames.
        input_wh: Width and height of the network's input.
        looks_at: `amplitude` or `depth`.
        augmentation: Random variation, or None to fit the whole frame.
        length: Examples per epoch; as many as there are frames by default. Varied ones go on in the next epoch where
            the last one stopped; others are spread evenly.
        farthest_m: What is farther is seen there (depth).
        seed: Seed of every random number.

    Raises:
        ValueError: An unknown `looks_at`, or frames of another skeleton than `HAND34`.
    """

    def __init__(
        self,
        frames: HandFrames,
        input_wh: tuple[int, int],
        *,
        looks_at: str = "amplitude",
        augmentation: HandAugmentation | None = None,
        length: int | None = None,
        farthest_m: float = 1.5,
        seed: int = 0,
    ):
        if looks_at not in INPUTS:
            raise ValueError(f"unknown input '{looks_at}'; expected amplitude or depth")
        if frames.skeleton != HAND34:
            raise ValueError(f"{frames.name} is labelled with skeleton '{frames.skeleton.name}'; expected 'hand34'")
        self.frames, self.input_wh, self.looks_at = frames, (int(input_wh[0]), int(input_wh[1])), looks_at
        self.augmentation, self.farthest_m = augmentation, farthest_m
        source = Source(self._frame, lambda i: f"{frames.name} {i}")
        super().__init__(
            frames.name, len(frames), source, seed=seed, varied=augmentation is not None, length=length
        )  # fmt: skip

    @classmethod
    def for_input(cls, frames: HandFrames, spec: InputSpec, **settings) -> HandScenes:
        """The frames as the network of a card looks at them; `settings` as above."""
        return cls(frames, spec.wh, looks_at=spec.colour, farthest_m=spec.farthest_m, **settings)

    def _frame(self, number: int) -> HandFrame:
        try:
            frame = self.frames[number]
        except UserError as error:
            raise ImageError(str(error)) from error
        if getattr(frame, self.looks_at) is None:
            raise ImageError(f"{self.frames.name} {number} has no {self.looks_at}")
        return frame

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch: as they are, or where they vary all frames once before any comes again.

        Frames are shuffled within windows of neighbouring blocks, for readers that keep a few files in memory.
        """
        count, wanted = len(self.frames), len(self)
        if not self.varied:
            return np.arange(wanted)
        first = epoch * wanted
        passes = range(first // count, (first + wanted - 1) // count + 1)
        # A frame that comes again has another index, and so other random numbers.
        stream = [one * count + shuffled(np.random.default_rng((self.seed, one)), count) for one in passes]
        begin = first - passes[0] * count
        return np.concatenate(stream)[begin : begin + wanted] - passes[0] * count

    def crop(self, index: int, epoch: int = 0) -> HandScene:
        """Load one example.

        Raises:
            ImageError: No frame of the set can be read, or has the picture that is looked at.
        """
        number = index % len(self.frames) if self.varied else index * len(self.frames) // len(self)
        number, frame = self._readable(number)
        return self._scene(self.rng(epoch, index), frame, number)

    def _scene(self, rng: np.random.Generator, frame: HandFrame, number: int) -> HandScene:
        a, amplitude = self.augmentation, self.looks_at == "amplitude"
        picture = frame.amplitude if amplitude else frame.depth
        assert picture is not None  # `_frame` saw to it
        matrix, flip = self._crop_matrix(rng, (picture.shape[1], picture.shape[0]))
        keypoints, hands, orientation, pose = labels_of(frame, flip=flip)
        keypoints = moved(keypoints, matrix, self.input_wh)
        segmentation = self._segmentation(frame, matrix, flip)
        image = self._amplitude(rng, picture, matrix) if amplitude else self._depth(rng, picture, matrix)
        if a is not None and rng.random() < a.cutout:
            self._cover(rng, image, keypoints, segmentation)
        hands, known = what_is_left(keypoints, hands, segmentation, self.input_wh)
        keypoints[~np.repeat(hands, len(keypoints) // 2), 2] = UNKNOWN
        return HandScene(
            image, keypoints, hands, np.where(known, orientation, -1), np.where(known, pose, -1), segmentation, number
        )

    def _crop_matrix(self, rng: np.random.Generator, frame_wh: tuple[int, int]) -> tuple[np.ndarray, bool]:
        a, aspect = self.augmentation, self.input_wh[0] / self.input_wh[1]
        centre, size = box_to_crop(whole_picture(*frame_wh), aspect=aspect)
        if a is None:
            return crop_matrix(centre, size, self.input_wh), False
        magnify = np.exp(rng.uniform(*np.log(a.scale)))
        shift = rng.uniform(-a.translate, a.translate, 2) * size
        turn, flip = rng.uniform(-a.rotation_deg, a.rotation_deg), bool(rng.random() < a.flip)
        return crop_matrix(centre + shift, size / magnify, self.input_wh, rotation_deg=turn, flip=flip), flip

    def _amplitude(self, rng: np.random.Generator, amplitude: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        import cv2

        a = self.augmentation
        image = crop_amplitude(toned(amplitude), matrix, self.input_wh)
        if a is None:
            return image
        # A gain on amplitude is its root on the curve.
        gain, gamma = np.sqrt(np.exp(rng.uniform(*np.log(a.gain)))), np.exp(rng.uniform(*np.log(a.gamma)))
        table = np.minimum(255 * gain * np.linspace(0, 1, 256) ** gamma, 255)
        image = cv2.LUT(image, table.astype(np.uint8))
        noise = _noise(rng, image.shape[:2], a.noise * rng.random())
        return cv2.add(image.reshape(image.shape[:2]), noise, dtype=cv2.CV_8U)[..., None]

    def _depth(self, rng: np.random.Generator, depth: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        a = self.augmentation
        metres = depth.astype(np.float32) * np.float32(0.001)
        if a is not None:
            shift = np.float32(rng.uniform(-a.depth_shift_m, a.depth_shift_m))
            metres = np.where(metres > 0, np.maximum(metres + shift, np.float32(0.05)), np.float32(0))
        image = crop_depth(cleaned(metres, farthest_m=self.farthest_m), matrix, self.input_wh)
        if a is not None:
            noise = _noise(rng, image.shape[:2], a.noise * rng.random())[..., None] * np.float32(0.001)
            image = np.where(image > 0, np.clip(image + noise, 0.001, self.farthest_m), 0).astype(np.float32)
        return image

    def _segmentation(self, frame: HandFrame, matrix: np.ndarray, flip: bool) -> np.ndarray:
        import cv2

        if frame.segmentation is None:
            return np.full(self.input_wh[::-1], NO_CLASS, np.uint8)
        warped = cv2.warpAffine(
            frame.segmentation, matrix, self.input_wh, flags=cv2.INTER_NEAREST, borderValue=BACKGROUND
        )  # fmt: skip
        return cv2.LUT(warped, _OTHER_SIDE) if flip else warped

    def _cover(self, rng: np.random.Generator, image, keypoints, segmentation) -> None:
        """Put a rectangle before the picture; in place."""
        width, height = self.input_wh
        size = rng.uniform(0.08, 0.3, 2) * (width, height)
        low = (rng.uniform(0, 1, 2) * (np.array([width, height]) - size)).astype(int)
        high = low + size.astype(int)
        if self.looks_at == "amplitude":
            surface: float = rng.uniform(0, 256)
        else:
            nearest = image[image > 0].min(initial=self.farthest_m)
            surface = 0.0 if rng.random() < 0.3 else rng.uniform(min(0.1, nearest), nearest)
        rectangle = (slice(low[1], high[1]), slice(low[0], high[0]))
        image[rectangle] = surface
        covered = segmentation[rectangle]
        covered[covered != NO_CLASS] = BACKGROUND
        behind = ((keypoints[:, :2] >= low - 0.5) & (keypoints[:, :2] < high - 0.5)).all(axis=1)
        keypoints[behind & (keypoints[:, 2] == SEEN), 2] = HIDDEN


def shuffled(rng: np.random.Generator, count: int, *, block: int = BLOCK, mixed: int = MIXED) -> np.ndarray:
    """Return the numbers below `count` in random order: blocks of neighbours shuffled, and a few mixed at a time."""
    starts = rng.permutation(-(-count // block)) * block
    windows = [starts[i : i + mixed] for i in range(0, len(starts), mixed)]
    order = [np.concatenate([np.arange(s, min(s + block, count)) for s in window]) for window in windows]
    return np.concatenate([rng.permutation(window) for window in order])


def labels_of(
    frame: HandFrame, *, flip: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return keypoints, hands that are there, orientations and poses; of the mirrored picture with `flip`.

    Mirroring makes a left hand a right one and turns its palm's direction k into -k (the keypoints' places are left
    to the affine map).
    """
    keypoints = np.asarray(frame.keypoints, np.float32)
    known = (keypoints[:, 2] != UNKNOWN).reshape(2, -1).any(axis=1)
    hands = known if frame.present is None else np.asarray(frame.present, bool)
    orientation, pose = (
        np.full(2, -1) if values is None else np.asarray(values, int) for values in (frame.orientation, frame.pose)
    )
    if not flip:
        return keypoints.copy(), hands.copy(), orientation, pose
    turned = np.where(orientation < 0, -1, -orientation % HAND_ORIENTATIONS)
    return keypoints[list(HAND34.flip_indices)], hands[::-1].copy(), turned[::-1], pose[::-1]


def moved(keypoints: np.ndarray, matrix: np.ndarray, input_wh: tuple[int, int]) -> np.ndarray:
    """Map keypoints `(K, 3)`; those that leave the picture are hidden."""
    result = keypoints.copy()
    result[:, :2] = apply(matrix, keypoints[:, :2])
    result[~_inside(result, input_wh) & (result[:, 2] == SEEN), 2] = HIDDEN
    return result


def _inside(keypoints: np.ndarray, input_wh: tuple[int, int]) -> np.ndarray:
    limits = np.array(input_wh, np.float32) - 0.5
    return np.asarray(((keypoints[:, :2] >= -0.5) & (keypoints[:, :2] < limits)).all(axis=1))


def what_is_left(
    keypoints: np.ndarray, hands: np.ndarray, segmentation: np.ndarray, input_wh: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Decide which hands are still in the picture, and which are enough so to have a pose, bool `(2,)` each."""
    inside = ((keypoints[:, 2] != UNKNOWN) & _inside(keypoints, input_wh)).reshape(2, -1).sum(axis=1)
    labelled = (keypoints[:, 2] != UNKNOWN).reshape(2, -1).sum(axis=1)
    pixels = np.bincount(segmentation.ravel(), minlength=256)
    enough = inside >= 1
    if not pixels[NO_CLASS]:
        enough = pixels[[LEFT, RIGHT]] >= LEAST_SHARE * segmentation.size
    left = hands & enough
    return left, left & (inside >= np.minimum(LEAST_KEYPOINTS, np.maximum(labelled, 1)))


_NOISE = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Gaussian noise: a random stretch of the same numbers, a hundred times faster than new ones."""
    count = shape[0] * shape[1]
    if count >= len(_NOISE):
        return np.float32(sigma) * rng.standard_normal(shape, dtype=np.float32)
    start = int(rng.integers(len(_NOISE) - count))
    return np.float32(sigma) * _NOISE[start : start + count].reshape(shape)


def hand_batch(
    scenes: Sequence[HandScene],
    codec: HandCodec,
    *,
    scale: Callable[[np.ndarray], np.ndarray],
    skeleton: Skeleton = HAND16,
    auxiliary: Sequence[str] = HAND_AUXILIARY,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Stack scenes into network inputs `(batch, height, width, 1)` and the targets of every task.

    Args:
        scenes: The frames.
        codec: Encodes keypoints.
        scale: Brings pixels or metres to the network's input.
        skeleton: The network's keypoints.
        auxiliary: Names of one hand's auxiliary keypoints.
    """
    keypoints, hands = np.stack([s.keypoints for s in scenes]), np.stack([s.hands for s in scenes])
    helping = auxiliary_skeleton(tuple(auxiliary))
    primary, more = (keypoints[:, keypoint_columns(HAND34.keypoints, s, "hand34")] for s in (skeleton, helping))
    targets = codec.targets(primary, hands, skeleton=skeleton)
    targets["points_aux"] = codec.targets(more, hands, skeleton=helping)["points"]
    targets["orientation"] = np.stack([s.orientation for s in scenes]).astype(np.int32)
    targets["pose"] = np.stack([s.pose for s in scenes]).astype(np.int32)
    targets["segmentation"] = np.stack([s.segmentation for s in scenes])
    return scale(np.stack([s.image for s in scenes])), targets


def auxiliary_skeleton(names: tuple[str, ...]) -> Skeleton:
    """The auxiliary keypoints of both hands."""
    return Skeleton("hand_auxiliary", tuple(f"{side}_{name}" for side in ("left", "right") for name in names))
