"""Sources of people for scenes: what the command line names, recorded poses, the built-in people in a scene."""

import pickle

import cv2
import numpy as np
import pytest

from posezoo.errors import UserError
from posezoo.skeletons import COCO17, DEPTH17
from posezoo.synth.crowd import RecordedPoses, body_source
from posezoo.synth.motion import KINECT20
from posezoo.synth.poses import ACTIVITIES
from posezoo.synth.procedural import BuiltinPeople
from posezoo.synth.scene import SEEN, Recipe, SceneSettings, make_sample

# A standing person as a Kinect's tracker gives one, millimetres, own left at larger x.
MIDDLE = {"hip_center": (0, 0), "spine": (0, 60), "shoulder_center": (0, 500), "head": (0, 680)}
LEFT = {
    "shoulder": (170, 450), "elbow": (210, 180), "wrist": (220, -60), "hand": (220, -140),
    "hip": (90, -60), "knee": (100, -480), "ankle": (100, -880), "foot": (100, -940),
}  # fmt: skip


def kinect_frame():
    places = {**MIDDLE, **{f"l_{k}": v for k, v in LEFT.items()}, **{f"r_{k}": (-x, y) for k, (x, y) in LEFT.items()}}
    frame = np.array([(*places[name], 3000) for name in KINECT20], float)
    for side in "lr":
        frame[KINECT20.index(f"{side}_foot"), 2] -= 120
    return frame


@pytest.fixture
def recorded(tmp_path):
    clips = {name: np.repeat(kinect_frame()[None], 4, axis=0).astype(np.int16) for name in ("a1_s1", "a1_s7", "a2_s1")}
    np.savez(tmp_path / "joints.npz", **clips)
    return tmp_path


def test_recorded_poses_are_mixed_with_activities(recorded):
    poses = RecordedPoses((str(recorded),), ("*_s7",))
    somebody = BuiltinPeople().random(np.random.default_rng(0))
    told = [poses(np.random.default_rng(s), somebody)[1] for s in range(60)]
    clips, acts = [t["motion"] for t in told if "motion" in t], [t["activity"] for t in told if "activity" in t]
    assert set(clips) == {recorded.name} and 15 < len(clips) < 45
    assert set(acts) <= set(ACTIVITIES) and len(set(acts)) > 5
    one, two = (poses(np.random.default_rng(3), somebody)[0] for _ in range(2))
    assert np.array_equal(one.world(), two.world())


def test_clips_are_left_out_by_name(recorded):
    from posezoo.synth.crowd import _library

    library = _library(str(recorded), ("*_s7", "a2*"))
    library.random(np.random.default_rng(0))
    assert library.keep("a1_s1") and not library.keep("a1_s7") and not library.keep("a2_s1")


def test_what_is_missing_is_told(recorded, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        RecordedPoses((str(tmp_path / "none"),))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no .bvh, .amc"):
        RecordedPoses((str(tmp_path / "empty"),))
    with pytest.raises(UserError, match="leaves no motion"):
        RecordedPoses((str(recorded),), ("*",))
    with pytest.raises(UserError, match="expected builtin, or makehuman FOLDER"):
        body_source(["smpl"])
    with pytest.raises(UserError, match="no such file"):
        body_source(["makehuman", str(tmp_path)])


def test_sources_travel_to_workers_and_give_the_same_there(recorded):
    source = body_source(["builtin"], [str(recorded)])
    again = pickle.loads(pickle.dumps(source))
    one, two = source(np.random.default_rng(5)), again(np.random.default_rng(5))
    assert np.array_equal(one[0].vertices, two[0].vertices) and one[1] == two[1]
    assert 1.0 < one[1]["height_m"] < 2.2


@pytest.mark.skipif(not hasattr(cv2, "triangleRasterize"), reason="needs OpenCV 5 (posezoo[synth])")
def test_built_in_people_in_a_scene():
    source = body_source(["builtin"])
    settings = SceneSettings(people=(1, 1), nearest_m=2.5, farthest_m=4, cut_share=0, occluder_chance=0)
    seen = []
    for seed in range(12):
        sample = make_sample(np.random.default_rng(seed), source, Recipe(scene=settings))
        if not len(sample.boxes):
            continue
        seen.append((sample.visibility[0, sample.columns(DEPTH17)] == SEEN).mean())
        assert sample.keypoints(COCO17).shape == (1, 17, 3)
        assert {"activity", "height_m", "yaw", "pixels"} <= sample.meta["people"][0].keys()
        # Seen landmarks are on the person's pixels, or within two of them.
        near = cv2.dilate((sample.people == 1).astype(np.uint8), np.ones((5, 5), np.uint8))
        points = sample.keypoints(DEPTH17)[0]
        for x, y, _ in points[points[:, 2] == 2]:
            assert near[int(round(y)), int(round(x))]
    assert len(seen) >= 10 and 0.5 < np.mean(seen) < 1
