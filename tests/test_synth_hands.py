"""Rendered hands: their anatomy, poses, labels, and the data sets made of them."""

import pickle
import shlex
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest

from posezoo import cli
from posezoo.data.hand_frames import HIDDEN, LEFT, RIGHT, SEEN, UNKNOWN, HandFrame
from posezoo.errors import UserError
from posezoo.skeletons import HAND34, HAND_ORIENTATIONS, HAND_POSES
from posezoo.synth.hand_arms import Arm, Hand, orientation
from posezoo.synth.hand_backgrounds import egocentric_view, facing_view
from posezoo.synth.hand_frames import HandJob, SynthHands, demo_frame, depth_levels
from posezoo.synth.hand_labels import fitted_angles, recorded_angles
from posezoo.synth.hand_poses import COMBINATIONS, nearest_class, random_pose, template
from posezoo.synth.hand_scene import HandRecipe, make_frame
from posezoo.synth.hand_shape import (
    ANGLE,
    BONES,
    FLAT,
    HIGHEST,
    KEYPOINTS,
    LANDMARKS,
    LOWEST,
    bone_frames,
    builtin_hand,
    makehuman_hand,
    resized,
)
from posezoo.synth.hand_things import Things
from posezoo.synth.makehuman import MakeHumanPeople
from posezoo.synth.preview import contact_sheet, hand_tiles
from posezoo.synth.rig import FINGERS, rotations
from posezoo.synth.write import DatasetError, SynthShards, write_dataset

renders = pytest.mark.skipif(not hasattr(cv2, "triangleRasterize"), reason="needs OpenCV 5 (posezoo[synth])")
MARK = {name: k for k, name in enumerate(LANDMARKS)}
NAMES = [name.removeprefix("left_") for name in HAND34.keypoints[:17]]
CURL = np.array([ANGLE[f"{f}.{j}"] for f in FINGERS[1:] for j in ("mcp", "pip", "dip")]).reshape(4, 3)
#: How far the wrist and every other keypoint that is seen may lie behind the surface, metres.
BEHIND_M = {"wrist": 0.033, "else": 0.025}


@lru_cache(maxsize=64)
def hand_of(number: int):
    return resized(builtin_hand(), np.random.default_rng(number))


@lru_cache(maxsize=8)
def view_of(kind: str):
    return (facing_view if kind == "facing" else egocentric_view)(np.random.default_rng(1))


@lru_cache(maxsize=64)
def frames_of(kind: str, *, furnished: bool = True) -> tuple[HandFrame, ...]:
    recipe = HandRecipe(exact=True, empty_share=0)
    wide = view_of(kind) if furnished else None
    return tuple(
        make_frame(np.random.default_rng((5, i)), hand_of, recipe, kind=kind, wide=wide) for i in range(30)
    )  # fmt: skip


def bone_lengths(marks: np.ndarray) -> np.ndarray:
    fingers = marks[..., 1:, :].reshape(*marks.shape[:-2], 5, 4, 3)
    bones = np.linalg.norm(np.diff(fingers, axis=-2), axis=-1).reshape(*marks.shape[:-2], 15)
    roots = np.linalg.norm(fingers[..., 0, :] - marks[..., None, 0, :], axis=-1)
    return np.concatenate([bones, roots], axis=-1)


def arm_of(side: int, rotation: np.ndarray, wrist=(0.0, 0.0, 0.4), angles=FLAT) -> Arm:
    """A hand before the camera; `rotation` is that of the left hand's axes, in a mirror for a right one."""
    straight, away = np.eye(3), np.array([0, 0, 1.0])
    return Arm(Hand(side, builtin_hand(), angles, 0), rotation, np.array(wrist), straight, 0.0, away, away)


#: The back towards the camera, fingers up: hand x is up, y towards the camera, z to the right.
BACK_UP = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0.0]])


# ------------------------------------------------------------------------------------------------ anatomy


def test_bones_keep_their_lengths_in_every_pose():
    rng = np.random.default_rng(0)
    poses = rng.uniform(LOWEST, HIGHEST, (50, len(LOWEST)))
    for number in range(4):
        shape = hand_of(number)
        lengths = bone_lengths(shape.landmarks_of(poses))
        np.testing.assert_allclose(lengths, np.broadcast_to(bone_lengths(shape.landmarks), lengths.shape), atol=1e-12)
    frames = bone_frames(poses)
    np.testing.assert_allclose(frames.swapaxes(-1, -2) @ frames, np.broadcast_to(np.eye(3), frames.shape), atol=1e-9)


def test_hands_differ_in_size_as_people_do():
    long = np.array([np.linalg.norm(hand_of(i).landmarks[MARK["middle4"]]) for i in range(60)])
    assert long.min() > 0.14 and long.max() < 0.23 and 0.008 < long.std() < 0.03
    wide = np.array([hand_of(i).radii[MARK["index2"]] for i in range(60)])
    assert wide.min() > 0.006 and wide.max() < 0.015
    ratios = np.array([bone_lengths(hand_of(i).landmarks)[:15] for i in range(60)])
    shares = ratios / ratios.sum(1, keepdims=True)
    assert (shares.std(0) / shares.mean(0)).min() > 0.02, "bones vary against each other too"


def test_the_surface_follows_the_joints():
    shape = builtin_hand()
    assert 1500 < (shape.parts > 0).sum() < 4500
    assert (np.linalg.norm(shape.weights.sum(axis=1) - 1, axis=1) < 1e-5).all()
    for name in HAND_POSES:
        angles, _ = random_pose(np.random.default_rng(1), shape, pose=name)
        vertices, marks = shape.posed(angles, wrist=np.eye(3), twist=0.0)
        for finger in FINGERS:
            mine = vertices[np.unique(shape.faces[shape.parts == 2 + FINGERS.index(finger)])]
            near = np.linalg.norm(mine - marks[MARK[f"{finger}4"]], axis=1)
            assert 0.003 < near.min() < 0.012, f"{finger} tip in {name}"
    bent = FLAT.copy()
    bent[CURL[0]] = 85, 95, 60
    vertices, marks = shape.posed(bent, wrist=np.eye(3), twist=0.0)
    flat, _ = shape.posed(FLAT, wrist=np.eye(3), twist=0.0)
    np.testing.assert_allclose(flat, shape.vertices, atol=1e-6)
    moved = np.linalg.norm(vertices - flat, axis=1)
    assert moved[np.unique(shape.faces[shape.parts == 0])].max() < 1e-6, "a finger moves no forearm"


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_the_thumb_is_on_the_right_side(side):
    marks = arm_of(side, BACK_UP).landmarks
    right = 1 if side == LEFT else -1
    # Seen from its back with the fingers up, a left hand's thumb points to the right, towards larger u.
    assert marks[MARK["middle4"], 1] < marks[MARK["wrist"], 1] - 0.15
    assert right * (marks[MARK["thumb4"], 0] - marks[MARK["little4"], 0]) > 0.05
    curled = FLAT.copy()
    curled[CURL.ravel()] = 60
    tips = arm_of(side, BACK_UP, angles=curled).landmarks
    assert tips[MARK["middle4"], 2] > 0.43, "fingers bend away from a camera that sees the back"


@renders
@pytest.mark.parametrize("kind", ["egocentric", "facing"])
def test_the_thumb_is_on_the_right_side_in_frames_of_both_cameras(kind):
    counted = {LEFT: 0, RIGHT: 0}
    at = {name: NAMES.index(name) for name in ("wrist", "middle_mcp", "index_mcp", "pinky_mcp")}
    for frame in frames_of(kind):
        points = frame.keypoints[:, :2].reshape(2, 17, 2)
        for hand, side in enumerate((LEFT, RIGHT)):
            if not frame.present[hand] or frame.orientation[hand] not in (0, 4):
                continue
            up = points[hand, at["middle_mcp"]] - points[hand, at["wrist"]]
            across = points[hand, at["index_mcp"]] - points[hand, at["pinky_mcp"]]
            # y points down: with the fingers up and the index finger's side to the right this is positive.
            turn = up[0] * across[1] - up[1] * across[0]
            expected = (1 if side == LEFT else -1) * (1 if frame.orientation[hand] == 4 else -1)
            assert np.sign(turn) == expected
            counted[side] += 1
    assert min(counted.values()) >= 2, counted


def test_palms_directions_are_numbered_as_documented():
    assert orientation(arm_of(LEFT, BACK_UP)) == orientation(arm_of(RIGHT, BACK_UP)) == 4
    # About the vertical: the left hand's palm turns from the far side over the right border to the camera.
    for number in range(HAND_ORIENTATIONS):
        angle = np.pi / 4 * (number - 4)
        about = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
        arm = arm_of(LEFT, about @ BACK_UP)
        assert orientation(arm) == number
        palm = -(about @ BACK_UP)[:, 1]
        if number == 2:
            assert palm[0] > 0.9, "class 2 faces the right border"
        assert orientation(arm_of(RIGHT, about @ BACK_UP)) == -number % HAND_ORIENTATIONS, "in a mirror"
        for roll in (0.7, 2.0, -1.1):
            roll = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
            assert orientation(arm_of(LEFT, roll @ about @ BACK_UP)) == number, "turning the picture changes nothing"


def test_landmarks_are_the_skeletons_keypoints():
    assert [LANDMARKS[k].replace("little", "pinky") for k in KEYPOINTS[:8]] == [
        "thumb4", "index4", "middle4", "ring4", "pinky4", "index1", "thumb2", "wrist"
    ]  # fmt: skip
    assert len(set(KEYPOINTS)) == len(NAMES) == 17


# -------------------------------------------------------------------------------------------------- poses


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_can_be_told_apart(split):
    shape = hand_of(3)
    drawn, numbers = [], []
    for name in HAND_POSES[:-1]:
        for i in range(12):
            angles, number = random_pose(np.random.default_rng((2, i)), shape, pose=name, split=split)
            assert HAND_POSES[number] == name
            drawn.append(angles)
            numbers.append(number)
    classes, away = nearest_class(np.array(drawn))
    assert (classes == numbers).mean() > 0.95
    others = np.array([random_pose(np.random.default_rng((2, i)), shape, pose="other")[0] for i in range(40)])
    assert (nearest_class(others)[1] > 0.009).mean() > 0.9
    assert np.median(nearest_class(others)[1]) > 2 * np.median(away)


def mean_curl(name: str) -> np.ndarray:
    """Sum of each finger's bends `(4,)`, index to little, on average."""
    shape = builtin_hand()
    rows = [template(np.random.default_rng((4, i)), name, shape)[CURL].sum(1) for i in range(16)]
    return np.mean(rows, axis=0)


def test_templates_look_like_their_names():
    assert mean_curl("fist").min() > 200 and mean_curl("thumbs_up").min() > 190
    assert mean_curl("open_hand").max() < 45 and mean_curl("ok")[1:].max() < 60
    for name in ("point", "l_pose"):
        assert mean_curl(name)[0] < 50 and mean_curl(name)[1:].min() > 150
    out = ANGLE["thumb.out"]
    draws = {n: [template(np.random.default_rng(i), n, builtin_hand()) for i in range(12)] for n in HAND_POSES[:-1]}
    assert np.mean([a[out] for a in draws["l_pose"]]) > np.mean([a[out] for a in draws["point"]]) + 25
    for name, low, high in (("ok", -0.004, 0.008), ("pinch", -0.004, 0.012), ("c_pose", 0.012, 0.075)):
        for number, angles in enumerate(draws[name]):
            marks = builtin_hand().landmarks_of(angles)
            radii = builtin_hand().radii
            gap = np.linalg.norm(marks[4] - marks[8]) - 1.15 * (radii[4] + radii[8])
            assert low < gap < high, f"{name} {number}: {1000 * gap:.1f} mm between thumb and index finger"
    for angles in sum(draws.values(), []):
        assert (angles >= LOWEST).all() and (angles <= HIGHEST).all()


def test_splits_share_neither_parameters_nor_combinations():
    shape = builtin_hand()
    spread = {
        split: np.array([template(np.random.default_rng(i), "l_pose", shape, split=split)[0] for i in range(200)])
        for split in ("train", "test")
    }
    # The thumb's opening is 50 + 16 u degrees with noise of 5: u is 0.55 to 0.75 in the held-out set alone.
    assert abs(spread["test"].mean() - (50 + 16 * 0.65)) < 1.2
    assert spread["train"].std() > spread["test"].std()
    assert not set(COMBINATIONS[::2]) & set(COMBINATIONS[1::2])
    jobs = [HandJob(4, recipe=HandRecipe(split=split)) for split in ("train", "test")]
    assert not np.array_equal(*(job._hand(5).landmarks for job in jobs))


def test_poses_between_two_classes_are_other():
    shape = builtin_hand()
    found = [random_pose(np.random.default_rng(i), shape) for i in range(300)]
    counts = np.bincount([number for _, number in found], minlength=len(HAND_POSES))
    assert counts[:-1].min() > 10 and 60 < counts[-1] < 130


def test_angles_are_found_again_from_joints_of_hands_of_any_size_and_side():
    rng = np.random.default_rng(3)
    shape, marks = builtin_hand(), tuple((name,) for name in LANDMARKS)
    poses = np.array([template(rng, name, shape) for name in ("open_hand", "fist", "point", "c_pose")])
    points = 0.8 * shape.landmarks_of(poses) @ rotations(rng.normal(size=3)).T + (0.1, 0, 0.5)
    for mirror in (1, -1):
        found = fitted_angles(points * (mirror, 1, 1), marks)
        assert found.shape == poses.shape
        assert np.abs(found - poses)[:, CURL].mean() < 6
        assert np.linalg.norm(shape.landmarks_of(found) - shape.landmarks_of(poses), axis=-1).mean() < 0.003


def test_labels_of_real_hands_give_poses(shared):
    folder = shared / "data" / "hand_joint_labels"
    if not (folder / "icvl_test_uvd.npz").exists():
        pytest.skip(f"no labels of hands at {folder}")
    angles = recorded_angles(str(folder), "train")
    assert len(angles) > 150 and (angles >= LOWEST).all() and (angles <= HIGHEST).all()
    curl = angles[:, CURL].sum(-1)
    assert np.percentile(curl, 20) < 60 < 130 < np.percentile(curl, 90), "straight and bent fingers"


def test_labels_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="holds neither icvl_test_uvd.npz nor nyu_test_uvd.npz"):
        HandJob(4, labels=str(tmp_path)).prepare()
    np.savez(tmp_path / "icvl_test_uvd.npz", uvd=np.zeros((5, 3, 3)))
    with pytest.raises(UserError, match=r"'uvd' is \(5, 3, 3\), expected \(frames, 16, 3\)"):
        recorded_angles(str(tmp_path), "test")
    with pytest.raises(UserError, match="expected builtin, or makehuman FOLDER"):
        HandJob(4, hands=("robots",)).prepare()


# -------------------------------------------------------------------------------------------- MakeHuman's


def test_hands_of_makehuman_are_hands_like_ours(shared):
    folder = shared / "data" / "makehuman_cc0"
    if not (folder / "3dobjs" / "base.obj").exists():
        pytest.skip(f"no MakeHuman data at {folder}")
    shape = makehuman_hand(MakeHumanPeople(str(folder)).left_arm(np.random.default_rng(2)))
    assert shape.weights.shape[0] == len(shape.vertices) and len(BONES) == 18
    assert 1500 < (shape.parts > 0).sum() < 4500 and shape.elbow[0] < -0.18
    ours, theirs = builtin_hand().landmarks, shape.landmarks
    size = np.linalg.norm(theirs[MARK["middle4"]]) / np.linalg.norm(ours[MARK["middle4"]])
    assert 0.8 < size < 1.2
    assert np.linalg.norm(theirs / size - ours, axis=1).max() < 0.025
    assert shape.radii.min() > 0.003 and shape.radii.max() < 0.03, "landmarks are inside"
    curled = np.array([template(np.random.default_rng(i), "fist", shape) for i in range(3)])
    np.testing.assert_allclose(
        bone_lengths(shape.landmarks_of(curled)), np.tile(bone_lengths(theirs), (3, 1)), atol=1e-9
    )
    vertices, marks = shape.posed(curled[0], wrist=np.eye(3), twist=0.0)
    assert np.linalg.norm(vertices - marks[MARK["index4"]], axis=1).min() < 0.012


# ------------------------------------------------------------------------------------------------- labels


@renders
@pytest.mark.parametrize("kind", ["egocentric", "facing"])
def test_labels_agree_with_the_pictures(kind):
    seen = hidden = 0
    for frame in (*frames_of(kind), *frames_of(kind, furnished=False)):
        assert frame.keypoints.shape == (34, 3) and frame.segmentation.max() <= RIGHT
        height, width = frame.segmentation.shape
        sides = np.repeat([LEFT, RIGHT], 17)
        for row, (x, y, state) in enumerate(frame.keypoints):
            hand = row // 17
            if not frame.present[hand]:
                assert state == UNKNOWN and np.isnan(frame.keypoints_mm[row]).all()
                continue
            fx, fy, cx, cy = frame.camera
            back = frame.keypoints_mm[row]
            np.testing.assert_allclose((x, y), (back[0] / back[2] * fx + cx, back[1] / back[2] * fy + cy), atol=0.01)
            inside = -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5
            assert state in ((HIDDEN, SEEN) if inside else (HIDDEN,))
            hidden += state == HIDDEN
            if state == SEEN:
                seen += 1
                column, line = round(float(x)), round(float(y))
                assert frame.segmentation[line, column] == sides[row]
                behind = abs(back[2] - frame.depth[line, column]) / 1000
                assert behind < BEHIND_M["wrist" if NAMES[row % 17] == "wrist" else "else"]
        for hand in (0, 1):
            assert frame.present[hand] or (frame.pose[hand] == frame.orientation[hand] == -1)
    assert seen > 300 and hidden > 200
    kinds = [f.present.sum() for f in frames_of(kind)]
    assert {1, 2} <= set(kinds)


@renders
def test_the_camera_sees_what_faces_it():
    """Keypoints of a hand seen from its back: nothing hides them; a thing before it hides them all."""
    recipe = HandRecipe(exact=True)
    from posezoo.synth.hand_scene import _drawn, _labelled
    from posezoo.synth.hand_things import add_arm
    from posezoo.synth.sensor import get_sensor

    intrinsics = get_sensor("tof").intrinsics.resized(recipe.width, recipe.height)
    arm = arm_of(LEFT, BACK_UP, wrist=(0, 0.06, 0.35))
    arm = replace(arm, elbow=np.array([0, 0.31, 0.35]), shoulder=np.array([0, 0.6, 0.4]))
    for hides in (False, True):
        things = Things()
        add_arm(np.random.default_rng(0), things, arm, 0.5, 0.5, "bare")
        if hides:
            wall = np.array([[-1, -1, 0.2], [1, -1, 0.2], [1, 1, 0.2], [-1, 1, 0.2]])
            things.add(wall, np.array([[0, 1, 2], [0, 2, 3]], np.int32), 0.5)
        exact, _, _, tags = _drawn(things, intrinsics, None)
        frame = _labelled([arm], exact, tags, intrinsics, (exact * 1000).astype(np.uint16), exact)
        states = frame.keypoints[:17, 2]
        assert (states == (UNKNOWN if hides else SEEN)).all()
        assert frame.present.tolist() == [not hides, False]
        if not hides:
            rows = np.flatnonzero((frame.segmentation == LEFT).any(1))
            wrist = frame.keypoints[NAMES.index("wrist"), 1]
            # The hand ends 12 mm below the wrist.
            assert abs(rows.max() - (wrist + 0.012 / 0.35 * intrinsics.fy)) < 2.5


@renders
def test_amplitude_and_depth_are_a_sensors():
    recipe = HandRecipe(empty_share=0)
    frame = make_frame(np.random.default_rng(3), hand_of, recipe, kind="egocentric", wide=view_of("egocentric"))
    clean = make_frame(
        np.random.default_rng(3), hand_of, replace(recipe, exact=True), kind="egocentric", wide=view_of("egocentric")
    )
    assert frame.depth.dtype == frame.amplitude.dtype == np.uint16
    hand = (clean.segmentation > 0) & (frame.depth > 0)
    error = frame.depth[hand].astype(float) - clean.depth[hand]
    assert 0.5 < np.median(np.abs(error)) < 6, "millimetres"
    assert np.array_equal(frame.segmentation, clean.segmentation)
    bright = clean.amplitude[clean.segmentation > 0]
    assert np.median(bright) > 1000
    assert np.median(bright) > 2 * np.median(clean.amplitude[clean.depth > 1500])


# ---------------------------------------------------------------------------------------------- data sets

SMALL = HandRecipe(width=112, height=84)


def same(one: HandFrame, other: HandFrame) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
        for a, b in zip(vars(one).values(), vars(other).values())
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    if not hasattr(cv2, "triangleRasterize"):
        pytest.skip("needs OpenCV 5 (posezoo[synth])")
    out = tmp_path_factory.mktemp("hands")
    assert write_dataset(out, HandJob(10, seed=3, recipe=SMALL, shard_size=4)) == 10
    return out


def test_what_is_written_is_read_back(dataset):
    frames, job = SynthHands(dataset), HandJob(10, seed=3, recipe=SMALL)
    assert len(frames) == 10 and frames.complete and frames.skeleton is HAND34 and frames.name == dataset.name
    for number in (0, 5, 9):
        assert same(frames[number], job.sample(number))
        assert same(pickle.loads(pickle.dumps(job)).sample(number), frames[number])
    assert not same(frames[1], HandJob(10, seed=4, recipe=SMALL).sample(1))
    with pytest.raises(IndexError):
        frames[10]
    some = pickle.loads(pickle.dumps(SynthHands(dataset, first=5, count=3)))
    assert len(some) == 3 and same(some[0], frames[5]) and not some.complete
    with pytest.raises(UserError, match="first frame 11 of 10"):
        SynthHands(dataset, first=11)


def test_one_frame_decodes_one_frames_pictures(dataset, monkeypatch):
    frames, decoded = SynthHands(dataset), []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decoded.append(len(data)) or decode(data, flags))
    assert frames[6].depth.shape == (84, 112)
    assert len(decoded) == 3


def test_runs_are_continued(dataset, tmp_path):
    job = HandJob(10, seed=3, recipe=SMALL, shard_size=4)
    assert write_dataset(tmp_path, replace(job, images=4)) == 4
    (tmp_path / "shard-00000.npz").write_bytes((tmp_path / "shard-00000.npz").read_bytes()[:500])
    (tmp_path / ".77.shard-00001.npz").write_bytes(b"half")
    assert write_dataset(tmp_path, job) == 10, "the damaged shard is made again"
    assert write_dataset(tmp_path, job) == 0
    assert all(same(a, b) for a, b in zip(SynthHands(dataset), SynthHands(tmp_path)))
    assert not list(tmp_path.glob(".*.npz"))
    with pytest.raises(DatasetError, match=r"recipe.split: \"all\" there, \"test\" here"):
        write_dataset(tmp_path, replace(job, recipe=replace(SMALL, split="test")))
    with pytest.raises(DatasetError, match="holds a data set of hands, expected one of people"):
        SynthShards(tmp_path)


@renders
def test_frames_are_small_and_their_steps_below_the_noise(tmp_path):
    job = HandJob(6, seed=1, shard_size=6)
    write_dataset(tmp_path, job)
    assert (tmp_path / "shard-00000.npz").stat().st_size / 6 < 45_000
    levels = depth_levels("tof").astype(int)
    near = np.diff(levels[(levels > 100) & (levels < 800)])
    assert near.max() <= 4 and (np.diff(levels) > 0).all() and levels[0] == 0


@renders
def test_exact_frames_are_kept_exactly(tmp_path):
    job = HandJob(2, recipe=replace(SMALL, exact=True), shard_size=2)
    write_dataset(tmp_path, job)
    assert same(SynthHands(tmp_path)[1], job.sample(1))


@renders
def test_the_demonstration_shows_both_hands():
    frame = demo_frame(0)
    assert frame.present.all() and (frame.keypoints[:, 2] == SEEN).sum() >= 20
    assert (frame.keypoints[:, :2].min(0) >= 0).all() and (frame.keypoints[:, :2].max(0) < (224, 168)).all()
    assert same(frame, demo_frame(0))
    sheet = contact_sheet([frame, frame, frame], tiles=hand_tiles, columns=2, tile_width=112)
    assert sheet.shape == (2 * 86, 2 * 3 * 114, 3) and sheet.std() > 10


@renders
def test_the_command_makes_hands(tmp_path, capsys):
    def run(line: str) -> int:
        return cli.main(["synth", *shlex.split(line)])

    out, sheet = tmp_path / "hands", tmp_path / "hands.png"
    assert run(f"'{out}' --hands --images 4 --shard-size 2 --size 112x84 --split train --preview '{sheet}'") == 0
    assert "4 picture(s) made, 4 in all" in capsys.readouterr().out
    assert len(SynthHands(out)) == 4 and SynthHands(out).about["recipe"]["split"] == "train"
    assert cv2.imread(str(sheet)).shape[1] == 2 * 3 * 322
    assert run(f"--hands --people 1-2 --preview '{sheet}'") == 2
    assert "--people is for people; leave it out with --hands" in capsys.readouterr().err
    assert run(f"--split test --preview '{sheet}'") == 2
    assert "--split is for hands; add --hands or leave it out" in capsys.readouterr().err
    assert run(f"--hands --bodies robots --preview '{sheet}'") == 2
    assert "expected builtin, or makehuman FOLDER" in capsys.readouterr().err
