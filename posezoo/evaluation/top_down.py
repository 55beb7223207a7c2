"""Run a single-person network over labelled crops, on any runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from posezoo.data.pipeline import PersonCrops, batches, load_all
from posezoo.evaluation.pck import PCK, box_size, head_size, pck, torso_size
from posezoo.geometry import apply, invert
from posezoo.inference.estimator import CropCodec, run_crops
from posezoo.skeletons import Skeleton

#: Function from RGB uint8 images `(batch, height, width, 3)` to float outputs by name.
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]

NORMALISERS = {
    "torso": lambda keypoints, boxes, skeleton: torso_size(keypoints, skeleton),
    "head": lambda keypoints, boxes, skeleton: head_size(keypoints, skeleton),
    "box": lambda keypoints, boxes, skeleton: box_size(boxes),
}


def predict_crops(
    run: Runner,
    crops: PersonCrops,
    codec: CropCodec,
    *,
    skeleton: Skeleton | None = None,
    flip: bool = False,
    batch: int = 32,
    workers: int = 2,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict every crop of a set.

    Args:
        run: The network on any runtime.
        crops: Labelled persons, not augmented.
        codec: Decodes the heatmaps.
        skeleton: The network's keypoints; the data set's by default.
        flip: Whether the mirrored crop's maps are averaged in.
        batch: Crops per call of `run`.
        workers: Loader threads.
        progress: Wraps the iteration over crops, for a progress bar.

    Returns:
        Keypoints `(N, K, 2)` in picture pixels and scores `(N, K)`, in the network's order;
        NaN and 0 for a picture that cannot be read.
    """
    skeleton = skeleton or crops.people.skeleton
    keypoints: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    found: list[int] = []
    for loaded in batches(progress(load_all(crops, workers=workers)), batch):
        xy, score = run_crops(run, codec, np.stack([c.image for c in loaded]), skeleton, flip=flip)
        keypoints.extend(apply(invert(c.matrix), points) for c, points in zip(loaded, xy, strict=True))
        scores.append(score)
        found.extend(c.index for c in loaded)
    all_keypoints, all_scores = np.array(keypoints, np.float32), np.concatenate(scores)
    unreadable = np.array(found) != np.arange(len(crops))
    all_keypoints[unreadable], all_scores[unreadable] = np.nan, 0
    return all_keypoints, all_scores


def evaluate_pck(
    run: Runner,
    crops: PersonCrops,
    codec: CropCodec,
    *,
    skeleton: Skeleton | None = None,
    normaliser: str = "torso",
    **predicting: Any,
) -> PCK:
    """Measure PCK over every crop of a set.

    Args:
        run: The network on any runtime.
        crops: Labelled persons, not augmented.
        codec: Decodes the heatmaps.
        skeleton: The network's keypoints; the data set's by default. Joints are matched by name, those
            that either side lacks do not count.
        normaliser: `torso`, `head` or `box`.
        **predicting: `flip`, `batch`, `workers` and `progress` of `predict_crops`.

    Raises:
        ValueError: Unknown normaliser, or no joint in common.
    """
    if normaliser not in NORMALISERS:
        raise ValueError(f"unknown normaliser '{normaliser}'; expected one of {', '.join(NORMALISERS)}")
    labelled = crops.people.skeleton
    skeleton = skeleton or labelled
    predicted, _ = predict_crops(run, crops, codec, skeleton=skeleton, **predicting)
    truth, boxes = labels_of(crops)
    matched = by_name(predicted, skeleton, labelled)
    return pck(matched, truth, NORMALISERS[normaliser](truth, boxes, labelled), labelled)


def labels_of(crops: PersonCrops) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels `(N, K, 3)` and boxes `(N, 4)` of every crop, in picture pixels."""
    truth = np.stack([record.keypoints[person] for record, person in crops.index])
    boxes = np.stack([record.boxes[person] for record, person in crops.index])
    return truth, boxes


def by_name(predicted: np.ndarray, skeleton: Skeleton, wanted: Skeleton) -> np.ndarray:
    """Reorder predictions `(N, K, 2)` to another skeleton; NaN where the network has no such joint.

    Raises:
        ValueError: The skeletons have no joint in common.
    """
    common = [k for k in wanted.keypoints if k in skeleton.keypoints]
    if not common:
        raise ValueError(f"skeletons '{skeleton.name}' and '{wanted.name}' have no keypoint in common")
    matched = np.full((len(predicted), wanted.num_keypoints, 2), np.nan, np.float32)
    matched[:, [wanted.index(k) for k in common]] = predicted[:, [skeleton.index(k) for k in common]]
    return matched
