"""Percentage of correct keypoints (Yang & Ramanan, TPAMI 2013), with any normaliser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posezoo.skeletons import Skeleton, joint_kind

#: The twelve joints of arms and legs that LSP, FLIC and COCO label alike.
LIMB_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def torso_size(keypoints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Distance from left shoulder to right hip, `(N,)`; NaN where either is unlabelled.

    Args:
        keypoints: `(N, K, 3)` with COCO visibility.
        skeleton: Names `torso`'s two ends.
    """
    a, b = (keypoints[:, skeleton.index(k)] for k in skeleton.torso)
    size = np.linalg.norm(a[:, :2] - b[:, :2], axis=-1)
    return np.where((a[:, 2] > 0) & (b[:, 2] > 0), size, np.nan)


def head_size(keypoints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Distance from neck to head top, `(N,)`; NaN where either is unlabelled."""
    a, b = (keypoints[:, skeleton.index(k)] for k in ("neck", "head_top"))
    size = np.linalg.norm(a[:, :2] - b[:, :2], axis=-1)
    return np.where((a[:, 2] > 0) & (b[:, 2] > 0), size, np.nan)


def box_size(boxes: np.ndarray) -> np.ndarray:
    """Longer side of each box `(N, 4)`."""
    return np.asarray(boxes)[:, 2:].max(axis=1)


@dataclass(frozen=True)
class PCK:
    """Distances of predicted keypoints, in units of the normaliser.

    Attributes:
        distances: `(N, K)`; NaN where the keypoint does not count.
        skeleton: Names the columns.
    """

    distances: np.ndarray
    skeleton: Skeleton

    def at(self, threshold: float = 0.2, *, joints: tuple[str, ...] | None = LIMB_JOINTS) -> float:
        """Share of counted keypoints nearer than `threshold` times the normaliser.

        Args:
            threshold: Distance limit, 0.2 by custom.
            joints: Joint kinds that count, both sides; None for all.

        Returns:
            0 to 1; NaN when nothing counts.
        """
        kinds = [joint_kind(k) for k in self.skeleton.keypoints]
        columns = [i for i, kind in enumerate(kinds) if joints is None or kind in joints]
        counted = self.distances[:, columns]
        counted = counted[~np.isnan(counted)]
        return float((counted < threshold).mean()) if counted.size else float("nan")

    def per_joint(self, threshold: float = 0.2) -> dict[str, float]:
        """Both sides of each joint kind together."""
        kinds = dict.fromkeys(joint_kind(k) for k in self.skeleton.keypoints)
        return {kind: self.at(threshold, joints=(kind,)) for kind in kinds}


def pck(predicted: np.ndarray, truth: np.ndarray, normaliser: np.ndarray, skeleton: Skeleton) -> PCK:
    """Compare predictions with labels.

    Args:
        predicted: `(N, K, 2)`; NaN does not count: a joint that the network lacks, a picture that could
            not be read.
        truth: `(N, K, 3)` with COCO visibility; unlabelled keypoints do not count.
        normaliser: `(N,)` in the same pixels; persons with NaN or 0 do not count.
        skeleton: Names the columns.

    Raises:
        ValueError: The shapes disagree.
    """
    expected = (len(truth), skeleton.num_keypoints, 2)
    if predicted.shape != expected or truth.shape != (*expected[:2], 3) or normaliser.shape != expected[:1]:
        raise ValueError(
            f"expected predictions {expected}, labels {(*expected[:2], 3)} and normaliser {expected[:1]}; "
            f"got {predicted.shape}, {truth.shape}, {normaliser.shape}"
        )
    size = np.where(normaliser > 0, normaliser, np.nan)[:, None]
    distances = np.linalg.norm(predicted - truth[..., :2], axis=-1) / size
    return PCK(np.where(truth[..., 2] > 0, distances, np.nan), skeleton)
