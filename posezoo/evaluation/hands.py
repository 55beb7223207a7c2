"""How well the hand network finds keypoints, on any runtime: pixels of error, PCK by the hand's box, who is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posezoo.codecs.hand import HandCodec
from posezoo.data.hand_frames import HIDDEN, SEEN, UNKNOWN
from posezoo.data.pipeline import Examples, batches, load_all
from posezoo.evaluation.pck import PCK, box_size, pck
from posezoo.evaluation.top_down import Runner
from posezoo.geometry import box_of_points
from posezoo.skeletons import HAND16, HAND34, Skeleton, joint_kind


@dataclass(frozen=True)
class Found:
    """One frame's labels and what the network says of it, in input pixels.

    Attributes:
        truth: `(34, 3)`, see `HandScene`.
        hands: bool `(2,)`: who is there.
        keypoints: `(K, 2)`, each map's peak, whoever is there.
        visibility: `(K + 2,)` 0 to 1, or None without the head.
        orientation: `(2,)` true and `(2,)` found classes, or None without the head.
        pose: Alike.
    """

    truth: np.ndarray
    hands: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray | None = None
    orientation: tuple[np.ndarray, np.ndarray] | None = None
    pose: tuple[np.ndarray, np.ndarray] | None = None


def find_hands(
    run: Runner,
    scenes: Examples,
    codec: HandCodec,
    skeleton: Skeleton = HAND16,
    *,
    batch: int = 32,
    workers: int = 2,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Found]:
    """Run the network on scenes of its own input size.

    Args:
        run: The network on any runtime.
        scenes: The examples, see `posezoo.data.hands.HandScenes`.
        codec: Decodes the maps; whom the visibility head misses is decoded all the same.
        skeleton: The network's keypoints.
        batch: Scenes per call of `run`.
        workers: Loader threads.
        progress: Wraps the iteration, for a progress bar.
    """
    everybody = replace(codec, hand_threshold=0.0)
    found: list[Found] = []
    for loaded in batches(progress(load_all(scenes, workers=workers)), batch):
        outputs = run(np.stack([scene.image for scene in loaded]))
        for i, scene in enumerate(loaded):
            one = {name: np.asarray(value[i], np.float32) for name, value in outputs.items()}
            maps = everybody.merge(one)
            keypoints, *_ = everybody.decode(maps, skeleton)
            classes = {
                name: (getattr(scene, name), one[name].reshape(2, -1).argmax(axis=1))
                for name in ("orientation", "pose")
                if name in one
            }
            found.append(Found(scene.keypoints, scene.hands, keypoints[0], maps.visibility, **classes))
    return found


@dataclass(frozen=True)
class HandScores:
    """What was measured; NaN where nothing counts.

    Attributes:
        error_px: Mean distance of keypoints that are seen, in input pixels.
        hidden_px: Mean distance of keypoints that are hidden, inside the picture or not.
        pck: Share of seen keypoints nearer than 0.1 of the longer side of the hand's box, which holds all of the
            hand's labelled keypoints.
        error_of: `error_px` of each kind of keypoint.
        pck_of: `pck` of each kind of keypoint.
        hands: Share of right answers to whether a hand is there (visibility head).
        seen: Share of right answers to whether a keypoint of a hand that is there is seen.
        orientation: Share of right classes.
        pose: Share of right classes.
        frames: How many.
        counted: How many keypoints are seen.
    """

    error_px: float
    hidden_px: float
    pck: float
    error_of: dict[str, float]
    pck_of: dict[str, float]
    hands: float
    seen: float
    orientation: float
    pose: float
    frames: int
    counted: int


def score_hands(found: Sequence[Found], skeleton: Skeleton = HAND16, *, threshold: float = 0.1) -> HandScores:
    """Measure what `find_hands` found.

    Args:
        found: Frames.
        skeleton: The network's keypoints: the left hand's, then the right's.
        threshold: Of the PCK, as a share of the hand's box.
    """
    columns = [HAND34.index(k) for k in skeleton.keypoints]
    truth = np.stack([f.truth for f in found])
    state = truth[:, columns, 2]
    distance = np.linalg.norm(np.stack([f.keypoints for f in found]) - truth[:, columns, :2], axis=-1)
    kinds = [joint_kind(k) for k in skeleton.keypoints]
    by_size = _by_hand_size(found, truth, columns, skeleton)
    half = kinds[: len(kinds) // 2]
    error_of = {
        kind: _mean(distance[:, of][state[:, of] == SEEN])
        for kind in half
        for of in [[i for i, k in enumerate(kinds) if k == kind]]
    }
    hands, seen = _visibility(found, state)
    return HandScores(
        _mean(distance[state == SEEN]), _mean(distance[state == HIDDEN]), by_size.at(threshold, joints=None), error_of,
        by_size.per_joint(threshold), hands, seen, _right([f.orientation for f in found]),
        _right([f.pose for f in found]), len(found), int((state == SEEN).sum()),
    )  # fmt: skip


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _by_hand_size(found: Sequence[Found], truth: np.ndarray, columns: list[int], skeleton: Skeleton) -> PCK:
    """Every hand as one row, by the longer side of its box."""
    predicted = np.stack([f.keypoints for f in found])
    count = len(found)
    labelled = truth.reshape(2 * count, -1, 3)
    boxes = np.stack([box_of_points(hand[hand[:, 2] != UNKNOWN, :2]) for hand in labelled])
    seen = truth[:, columns].copy()
    seen[..., 2] = seen[..., 2] == SEEN
    one = _one_hand(skeleton)
    return pck(
        predicted.reshape(2 * count, -1, 2).astype(np.float32), seen.reshape(2 * count, -1, 3), box_size(boxes), one
    )  # fmt: skip


def _one_hand(skeleton: Skeleton) -> Skeleton:
    half = skeleton.num_keypoints // 2
    return Skeleton(f"{skeleton.name}_one", tuple(joint_kind(k) for k in skeleton.keypoints[:half]))


def _visibility(found: Sequence[Found], state: np.ndarray) -> tuple[float, float]:
    """Share of right answers on hands, and on keypoints of hands that are there."""
    if any(f.visibility is None for f in found):
        return float("nan"), float("nan")
    told = np.stack([f.visibility for f in found if f.visibility is not None]) >= 0.5
    there = np.stack([f.hands for f in found])
    keypoints = state.shape[1]
    known = state != UNKNOWN
    return _mean(told[:, keypoints:] == there), _mean((told[:, :keypoints] == (state == SEEN))[known])


def _right(pairs: Sequence[tuple[np.ndarray, np.ndarray] | None]) -> float:
    """Share of right classes where there is one."""
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return float("nan")
    truth, answer = (np.stack(values) for values in zip(*known, strict=True))
    return _mean((truth == answer)[truth >= 0])
