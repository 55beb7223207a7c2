"""How well people's boxes are found: average precision, and recall at a number of false boxes per image.

Boxes are matched greedily, best score first, each to the free labelled person that it overlaps most, by an intersection
over union of at least `iou`, as in COCO's evaluation, https://cocodataset.org/#detection-eval. Of the others, a box is
neither right nor false if it overlaps a person who is too small to count by as much, or if at least `iou` of its own
area lies on such a person or in an ignored region (a crowd). Everything else is false, however small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from posezoo.codecs.center import CenterCodec, box_iou, intersections
from posezoo.data.detection import DetectionImages, ignored_regions
from posezoo.data.pipeline import batches, load_all
from posezoo.data.sample import KeypointSet, Record
from posezoo.inference.detector import to_image
from posezoo.inference.images import ImageError

#: Recalls at which COCO reads precision.
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class DetectionResult:
    """What was found in an image, and what is there; boxes are x, y, width, height in the image's own pixels.

    Attributes:
        boxes: `(N, 4)` found.
        scores: `(N,)` of them.
        labels: `(M, 4)`: everybody.
        ignored: `(K, 4)`: regions where people may be unlabelled.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


class OperatingPoint(NamedTuple):
    """Recall at a score threshold.

    Attributes:
        recall: Share of the people who count that are found.
        threshold: Lowest score of a box that is taken; infinite where none may be.
        false_per_image: False boxes per image at that threshold.
    """

    recall: float
    threshold: float
    false_per_image: float


def detection_ap(results: Sequence[DetectionResult], *, iou: float = 0.5, min_px: float = 0.0) -> float:
    """Average precision over 101 recalls, as COCO's.

    Args:
        results: Of every image.
        iou: Smallest intersection over union of a match.
        min_px: People whose box's longer side is smaller do not count.

    Returns:
        0 to 1; NaN where nobody counts.
    """
    _, right, people = _ranked(results, iou, min_px)
    if not people:
        return float("nan")
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    place = np.searchsorted(hits / people, RECALLS, side="left")
    return float(np.append(precision, 0)[np.minimum(place, len(precision))].mean())


def recall_at_false_boxes(
    results: Sequence[DetectionResult], *, per_image: float = 0.15, iou: float = 0.5, min_px: float = 96.0
) -> OperatingPoint:
    """Recall at the lowest score threshold that leaves at most so many false boxes per image.

    Args:
        results: Of every image; those without people count too.
        per_image: Most false boxes, on average.
        iou: Smallest intersection over union of a match.
        min_px: People whose box's longer side is smaller do not count.

    Returns:
        Recall is NaN where nobody counts.

    Raises:
        ValueError: No images.
    """
    if not results:
        raise ValueError("no images to score; give the results of at least one")
    scores, right, people = _ranked(results, iou, min_px)
    hits, false = np.cumsum(right), np.cumsum(~right)
    # A threshold takes all boxes of the same score: only the last of equals is a place to stop.
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    allowed = np.flatnonzero(last & (false <= per_image * len(results) + 1e-9))
    if not len(allowed):
        return OperatingPoint(0.0 if people else float("nan"), float("inf"), 0.0)
    place = allowed[-1]
    recall = hits[place] / people if people else float("nan")
    return OperatingPoint(float(recall), float(scores[place]), float(false[place] / len(results)))


def _ranked(results: Sequence[DetectionResult], iou: float, min_px: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the scores of the boxes that count, best first, whether each is right, and how many people count."""
    scores: list[np.ndarray] = [np.zeros(0)]
    right: list[np.ndarray] = [np.zeros(0, bool)]
    people = 0
    for result in results:
        counts = result.labels[:, 2:].max(axis=1, initial=0) >= min_px
        order = np.argsort(-result.scores, kind="stable")
        matched, counted = _match(result.boxes[order], result, counts, iou)
        scores.append(np.asarray(result.scores, float)[order][counted])
        right.append(matched[counted])
        people += int(counts.sum())
    every, hit = np.concatenate(scores), np.concatenate(right)
    order = np.argsort(-every, kind="stable")
    return every[order], hit[order], people


def _match(boxes: np.ndarray, result: DetectionResult, counts: np.ndarray, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Match an image's boxes, best first: whether each is right `(N,)`, and whether it is right or false `(N,)`."""
    overlap = box_iou(boxes, result.labels)
    on_small = (overlap[:, ~counts] >= iou).any(axis=1)
    area = np.maximum(boxes[:, 2] * boxes[:, 3], 1e-9)[:, None]
    regions = np.concatenate([result.ignored, result.labels[~counts]])
    in_region = (intersections(boxes, regions) / area >= iou).any(axis=1)
    free = np.where(counts, overlap, 0)
    right = np.zeros(len(boxes), bool)
    for i in range(len(boxes) if free.size else 0):
        person = free[i].argmax()
        if free[i, person] >= iou:
            right[i] = True
            free[:, person] = 0
    return right, right | ~(on_small | in_region)


def detect_in_examples(
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    examples: DetectionImages,
    codec: CenterCodec,
    *,
    batch: int = 8,
    workers: int = 2,
) -> list[DetectionResult]:
    """Run a centre-point network on whole images that are fitted into its input.

    Args:
        run: The network on any runtime: uint8 images `(batch, height, width, 3)` to outputs by name.
        examples: The images, without augmentation.
        codec: Decodes the outputs; average precision wants a low `score_threshold`.
        batch: Images per call.
        workers: Loader threads.
    """
    results: dict[int, DetectionResult] = {}  # an image that cannot be read is replaced by another, which counts once
    for loaded in batches(load_all(examples, workers=workers), batch):
        outputs = run(np.stack([example.image for example in loaded]))
        for i, example in enumerate(loaded):
            found = codec.decode({name: np.asarray(value[i], np.float32) for name, value in outputs.items()})
            boxes, scores = to_image(*found, example.matrix, example.file_wh)
            results[example.index] = _against(examples.people.records[example.index], boxes, scores)
    return list(results.values())


def detect_in_images(
    detector: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    people: KeypointSet,
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[DetectionResult]:
    """Run any detector, as `posezoo.load` takes it, on every image of a set; those that cannot be read are left out.

    Args:
        detector: Image `(height, width, 3)` to boxes `(N, 4)` and scores `(N,)`.
        people: What `posezoo.data.detection.read_person_boxes` returns.
        progress: Wraps the iteration, for a progress bar.
    """
    results = []
    for record in progress(people.records):
        try:
            image = record.read(record.path)
        except ImageError:
            continue
        results.append(_against(record, *detector(image)))
    return results


def _against(record: Record, boxes: np.ndarray, scores: np.ndarray) -> DetectionResult:
    return DetectionResult(boxes, scores, record.boxes, ignored_regions(record))
