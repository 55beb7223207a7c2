"""A ready model: picture in, poses out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from posezoo.cards import Card
from posezoo.codecs import make_codec
from posezoo.errors import UserError
from posezoo.geometry import apply, box_of_points, box_to_crop, crop_matrix, invert, whole_picture
from posezoo.inference.bottom_up import find_people
from posezoo.inference.depth import depth_at
from posezoo.inference.inputs import looks_of
from posezoo.inference.poses import Poses
from posezoo.inference.runners import Runner
from posezoo.skeletons import Skeleton

if TYPE_CHECKING:
    import keras

Detector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class CropCodec(Protocol):
    """What `run_crops` needs of a codec of `posezoo.codecs`."""

    output: str

    def mirror(self, output: np.ndarray, flip_indices: Sequence[int], /) -> np.ndarray:
        """Return the output of a mirrored picture as that of the picture itself."""

    def decode(self, output: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        """Return keypoints `(batch, K, 2)` in input pixels and scores `(batch, K)`."""


def run_crops(
    run: Runner | Callable, codec: CropCodec, images: np.ndarray, skeleton: Skeleton, *, flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Run a single-person network on crops and decode.

    Args:
        run: The network on any runtime.
        codec: Decodes the output that it names.
        images: `(batch, height, width, channels)`, see `posezoo.inference.runners`.
        skeleton: The network's keypoints.
        flip: Whether to average with the mirrored crops' outputs.

    Returns:
        Keypoints `(batch, K, 2)` in crop pixels and scores `(batch, K)`.
    """
    output = run(images)[codec.output]
    if flip:
        mirrored = run(np.ascontiguousarray(images[:, :, ::-1]))[codec.output]
        output = (output + codec.mirror(mirrored, skeleton.flip_indices)) / 2
    return codec.decode(output)


class PoseModel:
    """Network, preprocessing, codec and card together. Made by `posezoo.load`.

    Attributes:
        card: Facts, licences and measurements.
        runner: The network on its runtime.
        codec: Decodes the network's outputs.
        looks: What kind of picture the network looks at.
        detector: Finds people, or None to take the whole picture.
    """

    def __init__(self, card: Card, runner: Runner, *, detector: Detector | None = None):
        self.card, self.runner, self.detector = card, runner, detector
        self.codec = make_codec(input_wh=card.input.wh, **card.codec)
        self.looks = looks_of(card.input)

    def __repr__(self) -> str:
        return f"PoseModel({self.card.name!r}, runtime={self.runner.name!r})"

    @property
    def network(self) -> keras.Model:
        """The Keras network, for transfer learning.

        Raises:
            AttributeError: The model runs on another runtime.
        """
        network = getattr(self.runner, "network", None)
        if network is None:
            raise AttributeError(f"runtime '{self.runner.name}' has no Keras network; load with runtime='keras'")
        return network

    def __call__(
        self,
        image: np.ndarray | str | os.PathLike,
        *,
        boxes: np.ndarray | Sequence[Sequence[float]] | None = None,
        flip: bool = False,
        scales: Sequence[float] | None = None,
    ) -> Poses:
        """Find poses in one picture.

        Networks for one person look at boxes; bottom-up networks find everybody in the whole picture.

        Args:
            image: Path of a picture, or an array as `posezoo.inference.images.as_rgb` takes. Of networks that
                look at depth a 16-bit PNG, or an array as `posezoo.inference.depth.as_depth` takes; of those that look
                at infrared a 16- or 8-bit picture, or an array as `posezoo.inference.amplitude.as_amplitude` takes.
            boxes: People to look at, `(N, 4)` as x, y, width, height in pixels. By default the
                detector's boxes, or the whole picture where there is no detector.
                Bottom-up networks take none.
            flip: Whether to average with the mirrored picture: slower, a little more accurate.
            scales: Bottom-up networks in Keras: sizes at which the picture is seen, see
                `posezoo.inference.bottom_up.find_people`. By default it is fitted into the input.

        Returns:
            Poses in picture pixels: one per box, in the boxes' order; of bottom-up networks the best
            first, each with the box of the keypoints found. Networks that look at depth also tell how far
            away the surface at each keypoint is (`Poses.depth`).

        Raises:
            ImageError: No picture at that path, or an array that is none.
            ValueError: Boxes of another shape, without area, or not finite; boxes for a bottom-up
                network, or scales for another.
            UserError: The network has no keypoints: it is a person detector.
        """
        if not self.card.skeleton.num_keypoints:
            raise UserError(
                f"'{self.card.name}' finds boxes of people and gives no poses; load it with posezoo.zoo.load_detector "
                "and give it to a pose network: posezoo.load(..., detector=...)"
            )
        pixels = self.read(image)
        found = self._found(pixels, boxes, flip=flip, scales=scales)
        if self.card.input.depth:
            found.depth = depth_at(pixels, found.keypoints, found.scores)
        return found

    def read(self, image: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Return a picture as the network takes it: RGB uint8, depth in metres, or amplitude on its 8-bit curve.

        Raises:
            ImageError: No picture at that path, or an array that is none.
        """
        return self.looks.take(image) if isinstance(image, np.ndarray) else self.looks.read(image)

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """Return what `read` gave as an RGB uint8 picture to draw on."""
        return self.looks.show(pixels)

    def _found(
        self,
        pixels: np.ndarray,
        boxes: np.ndarray | Sequence[Sequence[float]] | None,
        *,
        flip: bool,
        scales: Sequence[float] | None,
    ) -> Poses:
        pixels, cut = self.looks.prepare(pixels), self.looks.cut
        if self.codec.bottom_up:
            if boxes is not None:
                raise ValueError(f"{self.card.name} finds the people itself; boxes= is for single-person networks")
            return self._everybody(pixels, flip=flip, scales=scales, cut=cut)
        if scales is not None:
            raise ValueError(f"{self.card.name} looks at boxes; scales= is for bottom-up networks")
        box_scores, enlarge = None, float(self.card.crop["enlarge"])
        if boxes is None and self.detector is not None:
            boxes, box_scores = self.detector(pixels)
        if boxes is None:
            boxes, enlarge = whole_picture(pixels.shape[1], pixels.shape[0])[None], 1.0
        boxes = self._checked(boxes)
        if not len(boxes):
            return Poses.empty(self.card.skeleton)
        crops, matrices = [], []
        width, height = self.card.input.wh
        for box in boxes:
            centre, size = box_to_crop(box, enlarge=enlarge, aspect=width / height)
            matrices.append(crop_matrix(centre, size, (width, height)))
            crops.append(cut(pixels, matrices[-1], (width, height)))
        keypoints, scores = run_crops(self.runner, self.codec, np.stack(crops), self.card.skeleton, flip=flip)
        keypoints = np.stack([apply(invert(m), k) for m, k in zip(matrices, keypoints, strict=True)])
        scores = np.clip(scores, 0, 1)
        person_scores = scores.mean(axis=1) * (1 if box_scores is None else np.asarray(box_scores, np.float32))
        return Poses(keypoints, scores, self.card.skeleton, person_scores, boxes)

    def decode(self, outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Decode the outputs for one picture of the input's size, as the runner gives them.

        Args:
            outputs: `(1, ...)` each.

        Returns:
            Keypoints `(N, K, 2)` in input pixels and scores `(N, K)`; N is 1 for single-person networks.
        """
        if not self.codec.bottom_up:
            return self.codec.decode(outputs[self.codec.output])
        maps = self.codec.merge({name: value[0] for name, value in outputs.items()})
        keypoints, scores, _ = self.codec.decode(maps, self.card.skeleton)
        return keypoints, scores

    def _everybody(
        self, pixels: np.ndarray, *, flip: bool, scales: Sequence[float] | None, cut: Callable[..., np.ndarray]
    ) -> Poses:
        keypoints, scores, people = find_people(
            self.runner, self.codec, pixels, self.card.skeleton, flip=flip, scales=scales, cut=cut
        )
        keep = people >= self.card.person_threshold
        keypoints, scores, people = keypoints[keep], scores[keep], people[keep]
        boxes = [box_of_points(k[s > 0]) for k, s in zip(keypoints, scores, strict=True)]
        return Poses(keypoints, scores, self.card.skeleton, people, np.array(boxes, np.float32).reshape(-1, 4))

    @staticmethod
    def _checked(boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
        boxes = np.asarray(boxes, np.float32)
        if boxes.size == 0:
            return boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"expected boxes (N, 4) as x, y, width, height, got shape {boxes.shape}")
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
            raise ValueError("every box needs a finite position and a width and height above 0")
        return boxes
