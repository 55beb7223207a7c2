"""Run a single-person network over labelled crops, on any runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from posezoo.codecs import HeatmapCodec
from posezoo.data.pipeline import PersonCrops, load_all
from posezoo.evaluation.pck import PCK, box_size, head_size, pck, torso_size
from posezoo.geometry import apply, invert
from posezoo.skeletons import Skeleton

#: Function from RGB uint8 images `(batch, height, width, 3)` to float outputs by name.
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def heatmaps_of(run: Runner, images: np.ndarray, skeleton: Skeleton, *, flip: bool = False) -> np.ndarray:
    """Return heatmaps `(batch, height, width, K)`, averaged with the mirrored pass if `flip`."""
    maps = run(images)["heatmaps"]
    if flip:
        mirrored = run(np.ascontiguousarray(images[:, :, ::-1]))["heatmaps"]
        maps = (maps + mirrored[:, :, ::-1][..., list(skeleton.flip_indices)]) / 2
    return maps


def predict_crops(
    run: Runner, crops: PersonCrops, codec: HeatmapCodec, *, flip: bool = False, batch: int = 32, workers: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Predict every crop of a set.

    Returns:
        Keypoints `(N, K, 2)` in picture pixels and scores `(N, K)`.
    """
    keypoints, scores, waiting = [], [], []

    def flush():
        images = np.stack([c.image for c in waiting])
        xy, score = codec.decode(heatmaps_of(run, images, crops.people.skeleton, flip=flip))
        keypoints.extend(apply(invert(c.matrix), points) for c, points in zip(waiting, xy, strict=True))
        scores.append(score)
        waiting.clear()

    for crop in load_all(crops, workers=workers):
        waiting.append(crop)
        if len(waiting) == batch:
            flush()
    if waiting:
        flush()
    return np.array(keypoints, np.float32), np.concatenate(scores)


def evaluate_pck(
    run: Runner, crops: PersonCrops, codec: HeatmapCodec, *, normaliser: str = "torso", flip: bool = False, **loading
) -> PCK:
    """Measure PCK over every crop of a set.

    Args:
        run: The network on any runtime.
        crops: Labelled persons.
        codec: Decodes the heatmaps.
        normaliser: `torso`, `head` or `box`.
        flip: Whether the mirrored crop's maps are averaged in.
        **loading: `batch` and `workers` of `predict_crops`.

    Raises:
        ValueError: Unknown normaliser.
    """
    predicted, _ = predict_crops(run, crops, codec, flip=flip, **loading)
    truth = np.stack([record.keypoints[person] for record, person in crops.index])
    boxes = np.stack([record.boxes[person] for record, person in crops.index])
    skeleton = crops.people.skeleton
    sizes = {"torso": lambda: torso_size(truth, skeleton), "head": lambda: head_size(truth, skeleton)}
    sizes["box"] = lambda: box_size(boxes)
    if normaliser not in sizes:
        raise ValueError(f"unknown normaliser '{normaliser}'; expected one of {', '.join(sizes)}")
    return pck(predicted, truth, sizes[normaliser](), skeleton)
