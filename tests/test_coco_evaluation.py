"""COCO's evaluation: ground truth scores 1, crowds and empty people are ignored, bad results are told."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from posezoo.data.coco import read_coco  # noqa: E402
from posezoo.evaluation.bottom_up import limb_joints, mostly_ignored  # noqa: E402
from posezoo.evaluation.coco import (  # noqa: E402
    PERSON,
    Known,
    ResultsError,
    evaluate_coco,
    oks_ap,
    predict_pictures,
    write_results,
)
from posezoo.inference.poses import Poses  # noqa: E402
from posezoo.skeletons import COCO17, LSP14  # noqa: E402


def annotation(id, image_id, rng, *, centre, iscrowd=0, labelled=17):
    keypoints = np.full((17, 3), 2.0)
    keypoints[:, :2] = centre + rng.uniform(-40, 40, (17, 2))
    keypoints[labelled:] = 0
    low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
    row = {
        "id": id, "image_id": image_id, "category_id": 1, "iscrowd": iscrowd, "area": 4000.0,
        "bbox": [*low, *(high - low)], "num_keypoints": labelled, "keypoints": keypoints.ravel().tolist(),
    }  # fmt: skip
    if iscrowd:
        row["segmentation"] = {"size": [200, 200], "counts": [0, 4000, 36000]}
    return row


@pytest.fixture
def truth(tmp_path):
    """Three pictures: two people, one person and a crowd, one person of whom no keypoint is labelled."""
    rng = np.random.default_rng(0)
    people = [
        annotation(1, 1, rng, centre=(60, 60)), annotation(2, 1, rng, centre=(140, 120), labelled=9),
        annotation(3, 2, rng, centre=(100, 100)), annotation(4, 2, rng, centre=(20, 20), iscrowd=1, labelled=0),
        annotation(5, 3, rng, centre=(50, 50), labelled=0),
    ]  # fmt: skip
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in (1, 2, 3)],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.keypoints), "skeleton": []}],
    }
    path = tmp_path / "person_keypoints_val2017.json"
    path.write_text(json.dumps(content))
    return path


def as_results(path):
    people = [a for a in json.loads(path.read_text())["annotations"] if a["num_keypoints"]]
    return [{k: a[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for a in people]


def test_ground_truth_scores_one(truth, tmp_path):
    scores = evaluate_coco(as_results(truth), truth)
    assert scores.ap == scores.ap50 == scores.ar == pytest.approx(1.0)
    assert np.isnan(scores.ap_large)
    write_results(tmp_path / "results.json", as_results(truth))
    assert evaluate_coco(tmp_path / "results.json", truth).ap == pytest.approx(1.0)


def test_a_missing_and_a_moved_person_cost(truth):
    results = as_results(truth)
    assert evaluate_coco(results[1:], truth).ar == pytest.approx(2 / 3)
    moved = [dict(r, keypoints=(np.array(r["keypoints"]) + 50).tolist()) for r in results]
    assert evaluate_coco(moved, truth).ap == 0
    assert evaluate_coco([], truth).ap == 0


def test_chosen_pictures_alone_count(truth):
    assert evaluate_coco(as_results(truth)[:2], truth, image_ids=[1]).ar == pytest.approx(1.0)
    with pytest.raises(ValueError, match="has no picture 7"):
        evaluate_coco([], truth, image_ids=[1, 7])


def test_annotations_may_be_gzipped(truth, tmp_path):
    path = tmp_path / "person_keypoints.json.gz"
    path.write_bytes(gzip.compress(truth.read_bytes()))
    assert evaluate_coco(as_results(truth), path).ap == pytest.approx(1.0)


def test_annotations_without_people_are_told(truth):
    content = json.loads(truth.read_text())
    content["categories"][0]["id"] = 5
    truth.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no category 1, people; it has \[5\]"):
        evaluate_coco([], truth)


def test_a_damaged_file_of_results_is_told(truth, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(as_results(truth))[:-10])
    with pytest.raises(ResultsError, match="results.json: damaged or no JSON"):
        evaluate_coco(path, truth)


def test_nothing_is_printed(truth, capsys):
    evaluate_coco(as_results(truth), truth)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"keypoints": [0.0] * 42}, "result 0 has 42 keypoint numbers; expected 51"),
        ({"image_id": 9}, "picture 9, which the annotations do not have"),
        ({"category_id": 2}, f"result 0 is of category 2; expected {PERSON}"),
        ({"score": float("nan")}, "NaN or infinity"),
    ],
)
def test_bad_results_are_told(truth, change, told):
    with pytest.raises(ResultsError, match=told):
        evaluate_coco([{**as_results(truth)[0], **change}], truth)
    broken = as_results(truth)[0]
    del broken["score"]
    with pytest.raises(ResultsError, match="result 0 has no score"):
        evaluate_coco([broken], truth)
    with pytest.raises(ResultsError, match="result 0 is a list; expected a dict"):
        evaluate_coco([[]], truth)


def test_nothing_is_written_of_bad_results(tmp_path):
    with pytest.raises(ResultsError):
        write_results(tmp_path / "results.json", [{"image_id": 1}])
    assert not list(tmp_path.iterdir())


def known(rng, *, error, count=3):
    truth = np.full((count, 17, 3), 2.0, np.float32)
    truth[..., :2] = rng.uniform(0, 100, (count, 1, 2)) + rng.uniform(-30, 30, (count, 17, 2))
    truth[..., 2] = rng.random((count, 17)) > 0.2
    # As exact as `to_coco` writes them.
    found = np.round(truth[..., :2] + rng.normal(0, error, (count, 17, 2)), 3)
    return Known(Poses(found, np.ones((count, 17)), COCO17, rng.random(count).round(5)), truth, np.full(count, 3000.0))


def test_pictures_are_scored_as_cocos_files_are(tmp_path):
    rng = np.random.default_rng(1)
    pictures = [known(rng, error=e) for e in (1.0, 4.0, 8.0, 12.0, 3.0)]
    annotations, results = [], []
    for i, picture in enumerate(pictures, start=1):
        results += picture.found.to_coco(i)
        for keypoints, area in zip(picture.keypoints, picture.areas, strict=True):
            labelled = keypoints[:, 2] > 0
            low, high = keypoints[labelled, :2].min(axis=0), keypoints[labelled, :2].max(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": float(area),
                    "bbox": [*map(float, low), *map(float, high - low)],
                    "num_keypoints": int(labelled.sum()),
                    "keypoints": np.where(labelled[:, None], keypoints, 0).ravel().tolist(),
                }  # fmt: skip
            )
    path = tmp_path / "a.json"
    images = [{"id": i} for i in range(1, 6)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1}]}))
    ours, cocos = oks_ap(pictures), evaluate_coco(results, path)
    assert 0.05 < ours.ap < 0.95
    assert ours.ap == pytest.approx(cocos.ap, abs=1e-6)
    assert ours.ar == pytest.approx(cocos.ar, abs=1e-6)


@pytest.mark.parametrize("similarity", [0.49, 0.52, 0.76, 0.94, 0.96])
def test_similarity_is_that_of_the_paper(similarity):
    """One person off by a known distance: `exp(-d^2 / (2 area (2 sigma)^2))` tells which thresholds it passes."""
    joint, area = COCO17.index("left_knee"), 4000.0
    truth = np.zeros((1, 17, 3), np.float32)
    truth[0, [joint, 0]] = (50, 60, 2)  # the nose does not count below
    off = 2 * COCO17.sigmas[joint] * np.sqrt(-2 * area * np.log(similarity))
    found = Poses(truth[..., :2] + (off, 0), np.ones((1, 17)), COCO17)
    scores = oks_ap([Known(found, truth, np.array([area]))], joints=["left_knee"])
    passed = sum(similarity > threshold for threshold in np.linspace(0.5, 0.95, 10))
    assert scores.ap == pytest.approx(passed / 10)
    assert scores.ap50 == pytest.approx(float(similarity > 0.5))


def test_people_without_a_joint_that_counts_are_ignored():
    rng = np.random.default_rng(4)
    truth = np.full((2, 17, 3), 2.0, np.float32)
    truth[..., :2] = np.array([[100, 100], [300, 300]])[:, None] + rng.uniform(-30, 30, (2, 17, 2))
    truth[1, 5:] = 0  # a face without a body, found best
    picture = Known(Poses(truth[..., :2], np.ones((2, 17)), COCO17, np.array([0.5, 0.9])), truth, np.full(2, 4000.0))
    picture.found.keypoints[1, 5:] = 300
    assert oks_ap([picture], joints=limb_joints(COCO17)).ap == pytest.approx(1.0)


def test_joints_that_do_not_count_may_be_anywhere():
    picture = known(np.random.default_rng(2), error=0.5)
    picture.found.keypoints[:, :5] = 1e4
    assert oks_ap([picture]).ap < 0.5
    assert oks_ap([picture], joints=limb_joints(COCO17)).ap == pytest.approx(1.0)
    assert len(limb_joints(COCO17)) == len(limb_joints(LSP14)) == 12


def test_people_where_nobody_is_labelled_are_left_out():
    ignore = np.zeros((50, 50), bool)
    ignore[:, 25:] = True
    keypoints = np.array([[[10, 10], [40, 10], [10, 20]], [[40, 10], [40, 20], [10, 10]]], np.float32)
    scores = np.array([[1, 1, 1], [1, 1, 0]], np.float32)
    assert mostly_ignored(keypoints, scores, ignore).tolist() == [False, True]


@pytest.mark.shared
def test_coco_mini_ground_truth_scores_one(shared):
    folder = shared / "data" / "coco_mini"
    if not folder.is_dir():
        pytest.skip("no coco_mini in the shared data")
    path = folder / "person_keypoints.json"
    assert evaluate_coco(as_results(path), path).ap == pytest.approx(1.0)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["coco_mini", "mmpose_samples/coco"])
def test_real_pictures_run_end_to_end(shared, name):
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} in the shared data")
    path = next(p for p in sorted(folder.glob("*.json")) if "keypoints" in json.loads(p.read_text())["annotations"][0])
    images = next((p for p in (folder / "images", folder / "000000000785.jpg") if p.is_dir()), folder)
    people = read_coco(path, images, keep_empty=True)

    def whole_picture(image):
        height, width = image.shape[:2]
        return Poses(np.full((1, 17, 2), (width / 2, height / 2)), np.ones((1, 17)), COCO17)

    results, unreadable = predict_pictures(whole_picture, people)
    assert len(results) + len(unreadable) == len(people) and results
    assert 0 <= evaluate_coco(results, path).ap < 0.2
