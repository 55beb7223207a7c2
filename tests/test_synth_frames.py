"""Rendered data sets as training frames, and new backgrounds behind people."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("cv2", minversion="5")

import posezoo  # noqa: E402
from posezoo import cli  # noqa: E402
from posezoo.data.depth_scenes import DepthFrame, DepthScenes  # noqa: E402
from posezoo.evaluation.pose_machines import Labelled, score_landmarks  # noqa: E402
from posezoo.synth.crowd import body_source  # noqa: E402
from posezoo.synth.frames import NewBackgrounds, SynthFrames  # noqa: E402
from posezoo.synth.scene import Recipe, SceneSettings  # noqa: E402
from posezoo.synth.write import Job, write_dataset  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, people in (("people", (1, 2)), ("rooms", (0, 0))):
        made[name] = tmp_path_factory.mktemp(name)
        recipe = Recipe(width=80, height=60, scene=SceneSettings(people=people))
        write_dataset(made[name], Job(body_source(["builtin"]), 6, seed=3, recipe=recipe))
    return made


def test_frames_hold_what_was_rendered(folders):
    frames = SynthFrames(folders["people"])
    assert len(frames) == 6
    frame, sample = frames[1], frames.shards[1]
    np.testing.assert_allclose(frame.depth, sample.depth / 1000.0, atol=1e-6)
    assert frame.keypoints.shape == (len(sample.boxes), 17, 3)
    assert frame.complete
    np.testing.assert_array_equal(frame.people, sample.people > 0)
    rest = SynthFrames(folders["people"], first=1)
    assert len(rest) == 5 and len(SynthFrames(folders["people"], first=1, count=2)) == 2
    few = rest.chosen([0, 3])
    assert len(few) == 2 and np.array_equal(few[1].depth, frames[4].depth) and len(rest) == 5
    scene = DepthScenes(frames, (64, 64)).crop(1)
    assert scene.unlabelled is None


def test_eval_measures_rendered_frames(folders, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert")
    told = tmp_path / "told.json"
    line = ["eval", "mpm_1s", "--dataset", "synth", "--data", str(folders["people"]), "--json", str(told)]
    assert cli.main(line) == 0
    measured, model = json.loads(told.read_text()), posezoo.load("mpm_1s", runtime="tflite")
    frames = SynthFrames(folders["people"])
    found = [Labelled(model(f.depth), f.keypoints, f.boxes) for f in (frames[i] for i in range(6))]
    scores = score_landmarks(found).summary(threshold=model.card.score_threshold)
    assert measured["frames"] == 6
    assert measured["landmarks"]["all body"]["recall"] == pytest.approx(scores.recall)
    assert measured["landmarks"]["all body"]["precision"] == pytest.approx(scores.precision) and scores.precision > 0
    assert cli.main([*line[:5], str(tmp_path)]) != 0 and "no synthetic data set" in capsys.readouterr().err


def test_people_on_nothing():
    """Table II's last row: without background nothing is read around the people, who are the same."""
    made = {}
    for empty in (False, True):
        recipe = Recipe(width=80, height=60, scene=SceneSettings(people=(2, 2)), exact=True, empty=empty)
        made[empty] = Job(body_source(["builtin"]), 1, seed=5, recipe=recipe).sample(0)
    alone = made[True]
    assert alone.meta["background"] == "none" and made[False].meta["background"] == "room"
    assert (alone.people > 0).sum() > 100 and not alone.depth[alone.people == 0].any()
    assert (made[False].depth[made[False].people == 0] > 0).any()
    # The room comes after the people in the order of random numbers.
    np.testing.assert_array_equal(alone.landmarks_px, made[False].landmarks_px)
    assert "empty" not in Job(body_source(["builtin"]), 1).described()["recipe"]


def person_at(distance_m: float, *, people: bool = True) -> DepthFrame:
    depth = np.zeros((60, 80), np.float32)
    depth[10:50, 30:50] = distance_m
    return DepthFrame(
        depth, np.zeros((1, 17, 3), np.float32), np.zeros((1, 4), np.float32), depth > 0 if people else None
    )


def test_a_person_gets_a_room_and_stays_in_front(folders):
    behind = NewBackgrounds(folders["rooms"], keep=0.0)
    frame = person_at(0.8)
    depth = behind(np.random.default_rng(1), frame)
    assert (depth[frame.people] == 0.8).mean() > 0.9
    assert (depth[~frame.people] > 0).mean() > 0.5


def test_a_room_that_hides_the_person_is_not_taken(folders):
    frame = person_at(60.0)
    np.testing.assert_array_equal(
        NewBackgrounds(folders["rooms"], keep=0.0)(np.random.default_rng(1), frame), frame.depth
    )


def test_a_frame_without_a_mask_is_told(folders):
    with pytest.raises(ValueError, match="needs a mask of its people"):
        NewBackgrounds(folders["rooms"])(np.random.default_rng(1), person_at(2.0, people=False))


def test_sides_agree_with_the_convention(folders):
    """Who faces the camera has the left shoulder at the larger x; who turns the back, at the smaller."""
    judged = 0
    for sample in SynthFrames(folders["people"]).shards:
        at = dict(zip(sample.names, sample.landmarks_mm.transpose(1, 0, 2), strict=True))
        across = at["left_shoulder"] - at["right_shoulder"]
        face = at["nose"] - (at["left_ear"] + at["right_ear"]) / 2
        for shoulders, looks in zip(across, face, strict=True):
            if abs(shoulders[0]) > 150 and abs(looks[2]) > 60:
                assert (shoulders[0] > 0) == (looks[2] < 0)
                judged += 1
    assert judged
