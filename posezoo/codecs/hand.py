"""Hand keypoints: one pixel of one map each, and whether it is seen at all (2.5D hand network, Magic Leap).

The maps are logits of a distribution over pixels (spatial softmax). A visibility head says which keypoints and which
hands are there; where it sees no hand, nothing is decoded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from posezoo.skeletons import Skeleton

#: Keypoints whose loss counts twice.
FINGERTIP = "_tip"


@functools.cache
def _side_of(skeleton: Skeleton) -> np.ndarray:
    """`(K,)`: 0 for the left hand's keypoints, 1 for the right one's."""
    return np.array([not name.startswith("left_") for name in skeleton.keypoints], int)


@functools.cache
def _tip_weight(skeleton: Skeleton) -> np.ndarray:
    """`(K,)`: 2 for fingertips, 1 for the others."""
    return np.array([2 if name.endswith(FINGERTIP) else 1 for name in skeleton.keypoints], np.float32)


class HandMaps(NamedTuple):
    """What one or two passes over a picture give.

    Attributes:
        heatmaps: `(height, width, K)` logits.
        visibility: `(K + 2,)` 0 to 1, the left and the right hand last; None without the head.
    """

    heatmaps: np.ndarray
    visibility: np.ndarray | None


@dataclass(frozen=True)
class HandCodec:
    """Two hands' keypoints in input pixels to pixels of maps, and network outputs back to keypoints.

    Attributes:
        input_wh: Width and height of the network's input in pixels.
        stride: Input pixels per map pixel: 1 for maps at the input's size, 2 before the last enlarging, which adds
            nothing but memory.
        hand_threshold: A hand whose visibility is lower is not there.
        radius: Reach in map pixels of the window whose centre of mass is the keypoint; 0 takes the arg-max itself.

    Raises:
        ValueError: An input that is no multiple of the stride.
    """

    input_wh: tuple[int, int]
    stride: int = 1
    hand_threshold: float = 0.5
    radius: int = 2

    #: Names of the network outputs that this codec reads; `visibility` too, where the network has it.
    outputs = ("heatmaps",)
    #: Whether the codec finds everybody itself, in a whole picture: here, both hands.
    bottom_up = True

    def __post_init__(self) -> None:
        if any(side % self.stride for side in self.input_wh):
            raise ValueError(f"input {self.input_wh} is no multiple of the stride {self.stride}")

    @property
    def map_wh(self) -> tuple[int, int]:
        """Width and height of the maps."""
        return self.input_wh[0] // self.stride, self.input_wh[1] // self.stride

    def targets(self, keypoints: np.ndarray, hands: np.ndarray, *, skeleton: Skeleton) -> dict[str, np.ndarray]:
        """Training targets of one picture or of many (section 3.3 of the house's facts).

        Args:
            keypoints: `(..., K, 3)` x, y in input pixels and 0 unknown, 1 hidden or outside, 2 seen.
            hands: bool `(..., 2)`: is the left, is the right hand in the picture.
            skeleton: Names the keypoints; fingertips count twice.

        Returns:
            `points` `(..., K, 3)`: x, y and the loss's weight, 0 for a keypoint that is hidden, outside, unknown or
            of a missing hand. `visibility` `(..., K + 2)`: 1 for keypoints that are seen and hands that are there,
            -1 for keypoints of hands that are there which nobody labelled.
        """
        keypoints, hands = np.asarray(keypoints, np.float32), np.asarray(hands, bool)
        there = hands[..., _side_of(skeleton)]
        inside = (keypoints[..., :2] >= -0.5) & (keypoints[..., :2] < np.array(self.input_wh, np.float32) - 0.5)
        seen = there & (keypoints[..., 2] >= 2) & inside.all(axis=-1)
        points = np.where(seen[..., None], keypoints, 0)
        points[..., 2] = seen * _tip_weight(skeleton)
        flags = np.where(there & (keypoints[..., 2] < 1), -1, seen)
        return {"points": points, "visibility": np.concatenate([flags, hands], axis=-1).astype(np.float32)}

    def merge(
        self,
        outputs: dict[str, np.ndarray],
        mirrored: dict[str, np.ndarray] | None = None,
        skeleton: Skeleton | None = None,
    ) -> HandMaps:
        """Take the outputs of one picture `(…)`, averaged with those of the mirrored one where that is given.

        Raises:
            ValueError: Maps of another size, NaN, or a mirrored pass without the skeleton.
        """
        maps = self._one_pass(outputs)
        if mirrored is None:
            return maps
        if skeleton is None:
            raise ValueError("a mirrored pass needs the skeleton, which says what changes sides")
        other, flip = self._one_pass(mirrored), list(skeleton.flip_indices)
        heatmaps = (maps.heatmaps + other.heatmaps[:, ::-1, flip]) / 2
        if maps.visibility is None or other.visibility is None:
            return HandMaps(heatmaps, None)
        count = len(flip)
        return HandMaps(heatmaps, (maps.visibility + other.visibility[[*flip, count + 1, count]]) / 2)

    def _one_pass(self, outputs: dict[str, np.ndarray]) -> HandMaps:
        heatmaps = outputs["heatmaps"]
        if heatmaps.shape[:2] != self.map_wh[::-1]:
            raise ValueError(f"heatmaps are {heatmaps.shape[:2]}, the codec expects {self.map_wh[::-1]}")
        logits = outputs.get("visibility")
        return HandMaps(heatmaps, None if logits is None else 1 / (1 + np.exp(-np.asarray(logits, np.float32))))

    def merge_scales(self, scales: Sequence[HandMaps], reference: int) -> HandMaps:
        """Networks of this kind look at one size; the reference counts."""
        return scales[reference]

    def decode(self, maps: HandMaps, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the hands.

        Returns:
            Keypoints `(N, K, 2)` in input pixels, scores `(N, K)` and person scores `(N,)`; N is 0 where the
            visibility head sees no hand, else 1. The keypoints of a hand that is not there score 0. Without the
            head, a keypoint's score is the share of its distribution within the window.

        Raises:
            ValueError: The maps hold NaN.
        """
        keypoints = skeleton.num_keypoints
        if maps.visibility is None:
            xy, share = self._peaks(maps.heatmaps)
            return xy[None], share[None], share.mean(keepdims=True)
        seen, hands = np.split(maps.visibility, [keypoints])
        if (hands < self.hand_threshold).all():
            nobody = np.zeros((0, keypoints), np.float32)
            return np.zeros((0, keypoints, 2), np.float32), nobody, np.zeros(0, np.float32)
        xy, _ = self._peaks(maps.heatmaps, shares=False)
        there = hands[_side_of(skeleton)] >= self.hand_threshold
        scores = np.where(there, seen, 0).astype(np.float32)
        return xy[None], scores[None], np.array([hands.max()], np.float32)

    def _peaks(self, heatmaps: np.ndarray, *, shares: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Each map's peak in input pixels `(K, 2)`, and its window's share of the map `(K,)`, or 1 without `shares`."""
        height, width, count = heatmaps.shape
        every = np.arange(count)
        # The best of each column of pixels, then the best column: the maps are read once and nothing large is written.
        x = heatmaps.max(axis=0).argmax(axis=0)
        y = heatmaps[:, x, every].argmax(axis=0)
        top = heatmaps[y, x, every].astype(np.float32)
        if np.isnan(top).any():
            raise ValueError("heatmaps hold NaN; the network's weights or its input are broken")
        reach = np.arange(-self.radius, self.radius + 1)
        rows, columns = y[:, None] + reach, x[:, None] + reach
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
        window = heatmaps[rows[:, :, None], columns[:, None, :], every[:, None, None]].astype(np.float32)
        mass = np.exp(window - top[:, None, None]) * inside
        total = mass.sum(axis=(1, 2))
        offset = np.stack([(mass.sum(axis=1) * reach).sum(-1), (mass.sum(axis=2) * reach).sum(-1)], -1) / total[:, None]
        xy = (np.stack([x, y], -1) + offset + 0.5) * self.stride - 0.5
        everything = np.exp(heatmaps - top).sum(axis=(0, 1)) if shares else total
        return xy.astype(np.float32), (total / everything).astype(np.float32)
