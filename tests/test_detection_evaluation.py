"""Scores of detected boxes, on cases made by hand and against COCO's own code."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from posezoo.evaluation.detection import DetectionResult, detection_ap, recall_at_false_boxes

PERSON = [0.0, 0, 100, 200]
OTHER = [300.0, 0, 100, 200]
NOWHERE = [600.0, 600, 100, 200]
SMALL = [200.0, 300, 20, 50]
CROWD = [400.0, 300, 300, 200]


def result(found=(), labels=(), ignored=()) -> DetectionResult:
    """`found`: pairs of box and score."""
    boxes = np.array([box for box, _ in found], float).reshape(-1, 4)
    scores = np.array([score for _, score in found], float)
    return DetectionResult(boxes, scores, *(np.array(b, float).reshape(-1, 4) for b in (labels, ignored)))


def test_everything_found_and_nothing_else():
    results = [result([(PERSON, 0.9), (OTHER, 0.8)], [OTHER, PERSON]), result([(PERSON, 0.7)], [PERSON])]
    assert detection_ap(results) == 1
    assert recall_at_false_boxes(results) == (1.0, 0.7, 0.0)


def test_recall_at_a_number_of_false_boxes():
    # Best first: right, false, right, right, false, right.
    found = [(PERSON, 0.9), (NOWHERE, 0.8), (OTHER, 0.7)]
    more = [(OTHER, 0.6), ([900, 0, 9, 9], 0.5), (PERSON, 0.4)]
    results = [result(found, [PERSON, OTHER]), result(more, [PERSON, OTHER])]
    assert recall_at_false_boxes(results, per_image=0) == (0.25, 0.9, 0.0)
    assert recall_at_false_boxes(results, per_image=0.49) == (0.25, 0.9, 0.0)
    assert recall_at_false_boxes(results, per_image=0.5) == (0.75, 0.6, 0.5)
    assert recall_at_false_boxes(results, per_image=1) == (1.0, 0.4, 1.0)
    # Precision where recall reaches 1/4, 1/2, 3/4 and 1: 1, 3/4, 3/4, 4/6.
    assert detection_ap(results) == pytest.approx((26 * 1 + 50 * 0.75 + 25 * 4 / 6) / 101)


def test_a_threshold_takes_all_boxes_of_its_score():
    results = [result([(PERSON, 0.5), (NOWHERE, 0.5)], [PERSON])]
    assert recall_at_false_boxes(results, per_image=0).recall == 0
    assert recall_at_false_boxes(results, per_image=0).threshold == float("inf")
    assert recall_at_false_boxes(results, per_image=1) == (1.0, 0.5, 1.0)


def test_a_second_box_on_a_person_is_false_and_the_better_one_is_right():
    shifted = [10.0, 0, 100, 200]
    results = [result([(PERSON, 0.3), (shifted, 0.6)], [PERSON])]
    assert recall_at_false_boxes(results, per_image=0) == (1.0, 0.6, 0.0)
    assert recall_at_false_boxes(results, per_image=1) == (1.0, 0.3, 1.0)


@pytest.mark.parametrize(("shift", "hit"), [(33, 1.0), (34, 0.0)])
def test_half_of_the_union_is_enough(shift, hit):
    # (100 - shift) / (100 + shift) is above 0.5 up to a third.
    results = [result([([shift, 0, 100, 200], 0.9)], [PERSON])]
    assert recall_at_false_boxes(results, per_image=0).recall == hit
    assert detection_ap(results) == hit


def test_small_people_and_crowds_count_neither_way():
    inside_small, in_crowd = [205.0, 310, 10, 20], [450.0, 350, 100, 100]
    labels = [PERSON, SMALL]
    found = [(SMALL, 0.95), (inside_small, 0.94), (in_crowd, 0.93), (in_crowd, 0.92), (PERSON, 0.9)]
    results = [result(found, labels, [CROWD])]
    assert recall_at_false_boxes(results, per_image=0) == (1.0, 0.9, 0.0)
    assert detection_ap(results, min_px=96) == 1
    # Without a limit the small person counts, and the box inside it is false.
    assert recall_at_false_boxes(results, per_image=0, min_px=0) == (0.5, 0.95, 0.0)
    # A box that is mostly outside the crowd is false.
    outside = [result([([350.0, 350, 90, 100], 0.9)], [PERSON], [CROWD])]
    assert recall_at_false_boxes(outside, per_image=1) == (0.0, 0.9, 1.0)
    # A crowd takes no box from a person who is labelled in it.
    there = [result([(in_crowd, 0.9)], [in_crowd], [CROWD])]
    assert recall_at_false_boxes(there, per_image=0).recall == 1


def test_small_boxes_on_nothing_are_false():
    results = [result([([800.0, 800, 10, 10], 0.9), (PERSON, 0.5)], [PERSON])]
    assert recall_at_false_boxes(results, per_image=0).recall == 0


def test_the_longer_side_decides():
    lying = [0.0, 0, 96, 20]
    results = [result([(lying, 0.9)], [lying])]
    assert recall_at_false_boxes(results).recall == 1
    assert np.isnan(recall_at_false_boxes(results, min_px=97).recall)


def test_nothing_found_nobody_there_no_images():
    nothing = [result((), [PERSON])]
    assert detection_ap(nothing) == 0
    assert recall_at_false_boxes(nothing) == (0.0, float("inf"), 0.0)
    empty = [result(), result([(PERSON, 0.5)])]
    assert np.isnan(detection_ap(empty))
    point = recall_at_false_boxes(empty, per_image=0.5)
    assert np.isnan(point.recall) and point.false_per_image == 0.5
    with pytest.raises(ValueError, match="no images"):
        recall_at_false_boxes([])


def test_average_precision_is_cocos():
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)

    def boxes(n):
        return np.concatenate([rng.uniform(0, 300, (n, 2)), rng.uniform(20, 160, (n, 2))], axis=1)

    results, annotations, rows = [], [], []
    for image_id in range(1, 25):
        labels, ignored = boxes(rng.integers(0, 7)), boxes(rng.integers(0, 2))
        near = np.concatenate([labels, labels, ignored])
        found = np.concatenate([near + rng.normal(0, 12, near.shape), boxes(3)])
        found[:, 2:] = found[:, 2:].clip(5)
        scores = rng.permutation(1000)[: len(found)] / 1000
        results.append(DetectionResult(found, scores, labels, ignored))
        for box, crowd in [(b, 0) for b in labels] + [(b, 1) for b in ignored]:
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "bbox": box.tolist(),
                "area": float(box[2] * box[3]), "iscrowd": crowd,
            })  # fmt: skip
        rows += [
            {"image_id": image_id, "category_id": 1, "bbox": box.tolist(), "score": float(score)}
            for box, score in zip(found, scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(1, 25)], "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
        }  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = float(evaluation.stats[1])
    assert 0.2 < expected < 0.9
    assert detection_ap(results) == pytest.approx(expected, abs=1e-6)
