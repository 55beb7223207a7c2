"""Precision and recall of landmarks against cases computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posezoo.codecs.heatmap import HeatmapCodec
from posezoo.data.depth_scenes import DepthFrame
from posezoo.data.sample import KeypointSet
from posezoo.data.scenes import Scene
from posezoo.evaluation.pose_machines import (
    KAPPAS,
    UPPER_BODY,
    Labelled,
    find_in_crops,
    find_in_frames,
    find_in_records,
    from_scenes,
    score_landmarks,
)
from posezoo.inference.images import ImageError
from posezoo.inference.poses import Poses
from posezoo.skeletons import DEPTH17, Skeleton

PAIR = Skeleton("pair", ("neck", "left_hip", "right_hip"), (("neck", "left_hip"), ("neck", "right_hip")))


def picture(found, truth, *, height=100.0) -> Labelled:
    """One picture: found `(N, 3, 3)` as x, y, score; truth as x, y, visibility; boxes from x 0 to 1000."""
    found = np.array(found, float).reshape(-1, 3, 3)
    truth = np.array(truth, float).reshape(-1, 3, 3)
    boxes = np.array([[0, 0, 1000, height]] * len(truth), float).reshape(-1, 4)
    return Labelled(Poses(found[..., :2], found[..., 2], PAIR), truth, boxes)


def test_kappas_are_the_papers():
    assert KAPPAS == (0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.15)


def test_distance_is_measured_in_heights():
    """The neck is 8 px off: right from kappa 0.08 on, 8 of 11; the left hip 5 px: always; the right hip 16: never."""
    scores = score_landmarks(
        [picture([[8, 0, 0.9], [105, 0, 0.8], [200, 16, 0.7]], [[0, 0, 2], [100, 0, 2], [200, 0, 2]])]
    )
    assert scores.precision()[0].tolist() == [0] * 3 + [1] * 8
    assert scores.recall()[1].tolist() == [1] * 11 and scores.recall()[2].tolist() == [0] * 11
    expected = (8 / 11 + 1 + 0) / 3
    summary = scores.summary()
    assert summary.precision == pytest.approx(expected) and summary.recall == pytest.approx(expected)
    assert summary.f_score == pytest.approx(expected)
    assert scores.summary(kinds=UPPER_BODY).recall == pytest.approx(8 / 11), "of the pair only the neck"
    assert scores.per_type()["neck"].recall == pytest.approx(8 / 11)
    # A person twice as tall may be missed by twice as much.
    tall = score_landmarks([picture([[8, 0, 1]] * 3, [[0, 0, 2], [0, 0, 0], [0, 0, 0]], height=200)])
    assert tall.recall()[0].tolist() == [1] * 11


def test_means_are_over_types_not_over_landmarks():
    """Two pictures: necks 1 of 2 found and 1 of 1 right; left hips 2 of 2, but 2 of 4 right; no right hips."""
    nothing = [0, 0, 0]
    first = picture(
        [[[0, 0, 0.9], [100, 0, 0.9], nothing], [nothing, [500, 0, 0.5], nothing]],
        [[0, 0, 2], [100, 0, 2], nothing],
    )
    second = picture(
        [[nothing, [100, 0, 0.9], nothing], [nothing, [300, 0, 0.4], nothing]], [[0, 0, 2], [100, 0, 2], nothing]
    )
    scores = score_landmarks([first, second], kappas=[0.1])
    assert scores.labelled.tolist() == [2, 2, 0]
    assert scores.precision()[:2].ravel().tolist() == [1, 0.5] and np.isnan(scores.precision()[2])
    assert scores.recall()[:2].ravel().tolist() == [0.5, 1]
    summary = scores.summary()
    assert summary.precision == 0.75 and summary.recall == 0.75
    # From 0.45 on one of the false hips is gone, from 0.6 on both.
    assert scores.summary(threshold=0.45).precision == pytest.approx((1 + 2 / 3) / 2)
    assert scores.summary(threshold=0.6).precision == 1
    thresholds, precision, recall = scores.curve([0, 0.45, 0.6, 0.95])
    assert precision[:3] == pytest.approx([0.75, 5 / 6, 1]) and np.isnan(precision[3])
    assert recall == pytest.approx([0.75, 0.75, 0.75, 0]) and thresholds.tolist() == [0, 0.45, 0.6, 0.95]
    assert list(scores.per_type()) == ["neck", "left_hip"]


def test_each_landmark_is_found_once():
    """Two predictions at one neck: the better scored takes it, although the other is nearer."""
    nothing = [0, 0, 0]
    scores = score_landmarks(
        [picture([[[4, 0, 0.9], nothing, nothing], [[0, 0, 0.5], nothing, nothing]], [[0, 0, 2], nothing, nothing])]
    )
    assert scores.precision()[0].tolist() == [0.5] * 11 and scores.recall()[0].tolist() == [1] * 11
    assert scores.outcomes[0][:, 0].tolist() == [1, 0] and scores.scores[0] == pytest.approx([0.9, 0.5])


def test_predictions_take_the_nearest_free_landmark():
    """Necks at 0 and 10, predictions at 6 (0.9) and 8 (0.5): the first takes 10, the second reaches 0 from 0.08 on."""
    nothing = [0, 0, 0]
    scores = score_landmarks(
        [
            picture(
                [[[6, 0, 0.9], nothing, nothing], [[8, 0, 0.5], nothing, nothing]],
                [[[0, 0, 2], nothing, nothing], [[10, 0, 2], nothing, nothing]],
            )
        ]
    )
    assert scores.recall()[0].tolist() == [0.5] * 3 + [1] * 8


def test_people_matter_only_when_they_are_matched():
    """Two people whose hips were exchanged: every landmark is found, two of six by the wrong person."""
    truth = [
        [[0, 0, 2], [0, 50, 2], [20, 50, 2]],
        [[300, 0, 2], [300, 50, 2], [320, 50, 2]],
    ]
    found = [
        [[0, 0, 1], [300, 50, 1], [20, 50, 1]],
        [[300, 0, 1], [0, 50, 1], [320, 50, 1]],
    ]
    assert score_landmarks([picture(found, truth)]).summary().f_score == 1
    summary = score_landmarks([picture(found, truth)], matching="person").summary()
    assert summary.precision == pytest.approx(2 / 3) and summary.recall == pytest.approx(2 / 3)
    # One more person who is nobody costs precision: 6 right of 9.
    more = [*found[:0], *truth, [[700, 0, 1], [700, 50, 1], [720, 50, 1]]]
    for matching in ("landmark", "person"):
        summary = score_landmarks([picture(more, truth)], matching=matching).summary()
        assert summary.precision == pytest.approx(2 / 3) and summary.recall == 1


@pytest.mark.parametrize("matching", ["landmark", "person"])
def test_what_nobody_labelled_does_not_count(matching):
    """A second person's left hip is unlabelled: a prediction there does not count, elsewhere it is wrong."""
    truth = [[[0, 0, 2], [0, 50, 2], [20, 50, 0]], [[300, 0, 2], [300, 50, 0], [320, 50, 0]]]
    found = [[[0, 0, 1], [0, 50, 1], [20, 50, 1]], [[300, 0, 1], [310, 50, 1], [320, 50, 1]]]
    scores = score_landmarks([picture(found, truth)], matching=matching)
    assert scores.labelled.tolist() == [2, 1, 0]
    assert scores.summary().precision == 1 and scores.summary().recall == 1
    outside = [*found, [[0, 0, 0], [300, 500, 0.9], [0, 0, 0]]]
    scores = score_landmarks([picture(outside, truth)], matching=matching)
    assert scores.precision()[1].tolist() == [0.5] * 11


def test_nobody_found_and_nobody_there():
    nothing_found = score_landmarks([picture([], [[0, 0, 2]] * 3)]).summary()
    assert (nothing_found.precision, nothing_found.recall, nothing_found.f_score) == (0, 0, 0)
    nobody_there = score_landmarks([picture([[0, 0, 1]] * 3, [])])
    assert np.isnan(nobody_there.summary().precision) and np.isnan(nobody_there.summary().f_score)
    for matching in ("landmark", "person"):
        both = score_landmarks(
            [picture([], []), picture([[0, 0, 1]] * 3, []), picture([[0, 0, 1]] * 3, [[0, 0, 2]] * 3)],
            matching=matching,
        ).summary()
        assert (both.precision, both.recall) == (0.5, 1)


def test_quick_and_plain_matching_agree():
    """With one landmark there is a short cut; a second one far away must not change it."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = rng.uniform(0, 12, (4, 3, 3))
        found[..., 2] = rng.random((4, 3))
        one = score_landmarks([picture(found, [[0, 0, 2]] * 3)])
        two = score_landmarks([picture(found, [[[0, 0, 2]] * 3, [[900, 900, 2]] * 3])])
        assert all(np.array_equal(a, b) for a, b in zip(one.outcomes, two.outcomes, strict=True))


def test_wrong_input_is_named():
    good = picture([[0, 0, 1]] * 3, [[0, 0, 2]] * 3)
    with pytest.raises(ValueError, match="unknown matching 'box'; expected one of landmark, person"):
        score_landmarks([good], matching="box")
    with pytest.raises(ValueError, match="no pictures"):
        score_landmarks([])
    with pytest.raises(ValueError, match="'pair' and 'depth17' cannot be mixed"):
        score_landmarks([good, Labelled(Poses.empty(DEPTH17), np.zeros((0, 17, 3)), np.zeros((0, 4)))])
    with pytest.raises(ValueError, match=r"expected keypoints \(N, 3, 3\) and boxes \(N, 4\)"):
        score_landmarks([Labelled(good.found, good.keypoints, np.zeros((2, 4)))])


def test_scenes_and_records_are_scored():
    truth = np.array([[[10, 10, 2], [30, 110, 2], [0, 0, 0]]], np.float32)
    poses = Poses(np.array([[[10, 16], [30, 110], [0, 0]]]), np.array([[1, 1, 0]]), PAIR)
    scene = Scene(np.zeros((8, 8, 1)), truth, np.zeros((8, 8), bool), np.ones(1))
    (labelled,) = from_scenes([(scene, poses)])
    assert labelled.boxes.tolist() == [[10, 10, 20, 100]]
    assert score_landmarks([labelled]).recall()[0].tolist() == [0] + [1] * 10
    scene.boxes = np.array([[0, 0, 40, 200]], np.float32)
    (labelled,) = from_scenes([(scene, poses)])
    # Six pixels are within 0.05 of the person's 200, but were not of its keypoints' 100.
    assert score_landmarks([labelled]).recall()[0].all()
    people = KeypointSet("two", PAIR, read=lambda path: path)
    people.add("a.png", truth)
    people.add("b.png", truth)

    def model(path: Path) -> Poses:
        if path.name == "b.png":
            raise ImageError("broken")
        return poses

    found, unreadable = find_in_records(model, people)
    assert len(found) == 1 and unreadable == ["b.png"] and found[0].boxes.tolist() == [[10, 10, 20, 100]]


def test_networks_for_one_person_are_given_the_labelled_boxes():
    truth, box = np.full((1, 3, 3), 2, np.float32), np.array([[5, 6, 70, 80]], np.float32)
    people = KeypointSet("one", PAIR, read=lambda path: np.zeros((9, 9)))
    people.add("a.png", truth, boxes=box)
    frame = DepthFrame(np.zeros((9, 9), np.float32), truth, box)
    asked = []

    def model(picture, boxes=None) -> Poses:
        asked.append(boxes)
        return Poses(truth[..., :2], np.ones((1, 3)), PAIR)

    for find, given in ((find_in_records, people), (find_in_frames, [frame])):
        for boxes in (True, False):
            (labelled,), _ = find(model, given, boxes=boxes)
            assert labelled.boxes.tolist() == box.tolist()
    assert [None if b is None else b.tolist() for b in asked] == [box.tolist(), None] * 2


def test_what_one_person_crops_give_is_scored():
    codec = HeatmapCodec((16, 16), stride=4, sigma=1.0, decoder="argmax")
    maps = codec.encode(np.array([[[1.5, 5.5], [9.5, 13.5], [5.5, 1.5]]], np.float32), np.ones((1, 3)))
    box, empty = np.array([[0, 0, 16, 16]], np.float32), np.zeros((0, 4), np.float32)
    person, nobody = np.array([[[1.5, 5.5, 2], [9.5, 13.5, 2], [5.5, 1.5, 2]]], np.float32), np.zeros((0, 3, 3))
    scenes = [
        Scene(np.zeros((16, 16, 1)), keypoints, np.zeros((16, 16), bool), np.ones(1), boxes=boxes)
        for keypoints, boxes in ((person, box), (nobody, empty), (person, box))
    ]

    class Scenes(list):
        def crop(self, index, epoch=0):
            return self[index]

    def run(images):
        return {"heatmaps": np.repeat(maps, len(images), axis=0)}

    found = from_scenes(find_in_crops(run, Scenes(scenes), codec, PAIR, batch=2))
    assert [len(picture.found) for picture in found] == [1, 0, 1]
    assert score_landmarks(found).summary().f_score == 1.0


def test_the_curve_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from posezoo.evaluation.plots import plot_precision_recall

    scores = score_landmarks(
        [picture([[8, 0, 0.9], [105, 0, 0.8], [200, 16, 0.7]], [[0, 0, 2], [100, 0, 2], [200, 0, 2]])]
    )
    plot_precision_recall({"one": scores, "two": scores}, tmp_path / "curve.png", title="title")
    assert (tmp_path / "curve.png").stat().st_size > 5000
