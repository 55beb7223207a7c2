"""One labelled frame of one or two hands: what renderers, readers and the training pipeline exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from posezoo.skeletons import Skeleton

#: States of a keypoint, in the third column of `HandFrame.keypoints`.
UNKNOWN, HIDDEN, SEEN = 0, 1, 2
#: Values of `HandFrame.segmentation`.
BACKGROUND, LEFT, RIGHT = 0, 1, 2
#: Label of a pixel of which nobody knows what it shows, in training.
NO_CLASS = 255


@dataclass
class HandFrame:
    """A depth camera's frame with up to two hands, the left one first in every array of two.

    Attributes:
        keypoints: float32 `(34, 3)` in the order of `HAND34`: x, y in pixels (centres at whole numbers) and
            `UNKNOWN` (no such hand, or not labelled), `HIDDEN` (behind another surface, or outside) or `SEEN`.
        depth: uint16 `(height, width)` millimetres, 0 where nothing was measured; None where there is none.
        amplitude: uint16 `(height, width)` active infrared, 65535 the sensor's full scale; None where there is none.
        segmentation: uint8 `(height, width)`, `BACKGROUND`, `LEFT` or `RIGHT`, forearms being background; None where
            nobody knows.
        keypoints_mm: float32 `(34, 3)` in the camera's coordinates (x right, y down, z forward), NaN where unknown.
        present: bool `(2,)`.
        orientation: int8 `(2,)`, number of the palm's direction out of eight, -1 where unknown.
        pose: int8 `(2,)`, index into `posezoo.skeletons.HAND_POSES`, -1 where unknown.
        camera: fx, fy, cx, cy in pixels; None where unknown.
    """

    keypoints: np.ndarray
    depth: np.ndarray | None = None
    amplitude: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    keypoints_mm: np.ndarray | None = None
    present: np.ndarray | None = None
    orientation: np.ndarray | None = None
    pose: np.ndarray | None = None
    camera: tuple[float, float, float, float] | None = None


class HandFrames(Protocol):
    """A labelled set of hand frames by index."""

    name: str
    skeleton: Skeleton

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> HandFrame: ...
