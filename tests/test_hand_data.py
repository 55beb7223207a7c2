"""Hands as training examples: labels that follow the picture, readers, what the network sees of amplitude."""

from __future__ import annotations

import json
import time

import cv2
import numpy as np
import pytest

from posezoo.cards.card import CardError, InputSpec
from posezoo.codecs.hand import HandCodec
from posezoo.data.calibration import whole_pictures
from posezoo.data.drawn_hands import DrawnHands
from posezoo.data.hand_frames import HIDDEN, NO_CLASS, SEEN, UNKNOWN, HandFrame
from posezoo.data.hand_readers import (
    ONE_HAND,
    HandRecording,
    IcvlHands,
    LabelError,
    MsraHands,
    NyuHands,
    seen,
    write_recording,
)
from posezoo.data.hands import (
    HandAugmentation,
    HandScenes,
    auxiliary_skeleton,
    hand_batch,
    labels_of,
    shuffled,
    what_is_left,
)
from posezoo.inference.amplitude import as_amplitude, read_amplitude, shown, toned
from posezoo.inference.images import ImageError
from posezoo.inference.runners import normalise
from posezoo.skeletons import COCO17, HAND16, HAND34, HAND_AUXILIARY

WH = (224, 168)
CODEC = HandCodec(WH, stride=2)
SPEC = InputSpec((168, 224, 1), (127.5,), (255.0,), colour="amplitude")
STILL = HandAugmentation(
    rotation_deg=0, scale=(1, 1), translate=0, flip=0, gain=(1, 1), gamma=(1, 1), noise=0, cutout=0
)


class Frames:
    """A few frames by hand."""

    def __init__(self, *frames: HandFrame, skeleton=HAND34):
        self.frames, self.name, self.skeleton = frames, "by hand", skeleton

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index]


def spotted(*, wh=WH, orientation=(3, -1), pose=(4, -1)) -> HandFrame:
    """A left hand whose keypoints are bright spots, each in the middle of a square of its segmentation."""
    rng = np.random.default_rng(3)
    columns = np.linspace(30, wh[0] - 60, 17)
    keypoints = np.zeros((34, 3), np.float32)
    keypoints[:17] = np.column_stack([columns, rng.uniform(40, wh[1] - 40, 17), np.full(17, SEEN)])
    amplitude, segmentation = np.full(wh[::-1], 500, np.uint16), np.zeros(wh[::-1], np.uint8)
    for x, y, _ in np.rint(keypoints[:17]).astype(int):
        segmentation[y - 4 : y + 5, x - 4 : x + 5] = 1
        amplitude[y - 1 : y + 2, x - 1 : x + 2] = 60000
    depth = np.where(segmentation > 0, 400, 1200).astype(np.uint16)
    return HandFrame(
        keypoints, depth, amplitude, segmentation, None, np.array([True, False]), np.array(orientation), np.array(pose)
    )


def test_whole_frames_come_as_they_are():
    frame = spotted()
    scene = HandScenes(Frames(frame), WH).crop(0)
    np.testing.assert_array_equal(scene.image[..., 0], toned(frame.amplitude))
    np.testing.assert_array_equal(scene.segmentation, frame.segmentation)
    np.testing.assert_allclose(scene.keypoints, frame.keypoints, atol=1e-4)
    assert (scene.hands.tolist(), scene.orientation.tolist(), scene.pose.tolist()) == ([True, False], [3, -1], [4, -1])


@pytest.mark.parametrize("looks_at", ["amplitude", "depth"])
def test_labels_follow_the_picture(looks_at):
    """Turned, scaled, moved and mirrored: spots, squares and keypoints stay together."""
    scenes = HandScenes(
        Frames(spotted()), WH, looks_at=looks_at, length=40,
        augmentation=HandAugmentation(noise=0, cutout=0, depth_shift_m=0, gain=(1, 1), gamma=(1, 1)),
    )  # fmt: skip
    sides, on_spot, on_hand, inside = [], 0, 0, 0
    for i in range(40):
        scene = scenes.crop(i)
        hand = int(np.flatnonzero(scene.hands)[0])
        sides.append(hand)
        for x, y, state in scene.keypoints[17 * hand : 17 * hand + 17]:
            if state == SEEN and 3 < x < WH[0] - 4 and 3 < y < WH[1] - 4:
                column, row = round(float(x)), round(float(y))
                inside += 1
                near = scene.image[row - 1 : row + 2, column - 1 : column + 2, 0]
                on_spot += near.max() > 150 if looks_at == "amplitude" else abs(near.min() - 0.4) < 0.02
                on_hand += scene.segmentation[row, column] == hand + 1
        assert (scene.keypoints[17 * (1 - hand) : 17 * (2 - hand), 2] == UNKNOWN).all()
        assert scene.orientation[hand] == (3 if hand == 0 else 5), "a mirrored palm turns the other way"
    assert 10 < sum(sides) < 30, "half of the pictures are mirrored"
    assert inside > 300
    assert on_spot / inside > 0.97
    assert on_hand / inside > 0.97


def test_what_leaves_the_picture_is_hidden_and_then_gone():
    frame = spotted()
    matrix_moves = HandScenes(Frames(frame), WH, augmentation=HandAugmentation(translate=0.9, cutout=0), length=60)
    states = [matrix_moves.crop(i) for i in range(60)]
    assert any(not scene.hands.any() for scene in states)
    for scene in states:
        labelled = scene.keypoints[scene.keypoints[:, 2] != UNKNOWN]
        outside = (labelled[:, :2] < -0.5).any(axis=1) | (labelled[:, :2] >= np.array(WH) - 0.5).any(axis=1)
        assert (labelled[outside, 2] == HIDDEN).all()
        if not scene.hands.any():
            assert (scene.keypoints[:, 2] == UNKNOWN).all() and (scene.pose == -1).all()


def test_a_hand_with_few_keypoints_left_has_no_pose():
    keypoints = np.zeros((34, 3), np.float32)
    keypoints[:17] = [500, 500, HIDDEN]
    keypoints[:5] = [50, 50, SEEN]
    segmentation = np.zeros((168, 224), np.uint8)
    segmentation[:20, :20] = 1
    hands, known = what_is_left(keypoints, np.array([True, False]), segmentation, WH)
    assert (hands.tolist(), known.tolist()) == ([True, False], [False, False])
    keypoints[:6] = [50, 50, SEEN]
    assert what_is_left(keypoints, np.array([True, False]), segmentation, WH)[1].tolist() == [True, False]
    nobody_knows = np.full((168, 224), NO_CLASS, np.uint8)
    assert what_is_left(keypoints, np.array([True, False]), nobody_knows, WH)[0].tolist() == [True, False]


def test_a_covered_keypoint_is_hidden():
    scenes = HandScenes(
        Frames(spotted()), WH, length=30, augmentation=HandAugmentation(**{**vars(STILL), "cutout": 1.0})
    )
    covered = 0
    for i in range(30):
        scene = scenes.crop(i)
        before = spotted()
        changed = scene.segmentation != before.segmentation
        assert (scene.segmentation[changed] == 0).all()
        hidden = scene.keypoints[:17, 2] == HIDDEN
        column, row = np.rint(scene.keypoints[:17, :2]).astype(int).T
        assert (scene.segmentation[row[hidden], column[hidden]] == 0).all()
        covered += hidden.sum()
    assert covered > 20


def test_gain_noise_and_gamma_change_light_alone():
    frame = spotted()
    varied = HandAugmentation(**{**vars(STILL), "gain": (0.25, 0.25)})
    scene = HandScenes(Frames(frame), WH, augmentation=varied).crop(0)
    plain = toned(frame.amplitude).astype(float)
    assert np.abs(scene.image[..., 0] - plain / 2).max() <= 1, "a quarter of the light is half of its root"
    noisy = HandScenes(Frames(frame), WH, augmentation=HandAugmentation(**{**vars(STILL), "noise": 20.0}), length=20)
    spread = [np.std(noisy.crop(i).image[..., 0].astype(float) - plain) for i in range(20)]
    assert 1 < np.median(spread) < 20


def test_depth_moves_as_a_whole_and_holes_stay():
    frame = spotted()
    frame.depth[:20] = 0
    varied = HandAugmentation(**{**vars(STILL), "depth_shift_m": 0.1})
    scenes = HandScenes(Frames(frame), WH, looks_at="depth", augmentation=varied, length=10)
    shifts = []
    for i in range(10):
        image = scenes.crop(i).image[..., 0]
        assert (image[:18] == 0).all()
        shifts.append(image[22:].max() - 1.2)
    assert max(np.abs(shifts)) <= 0.1 + 1e-4 and np.ptp(shifts) > 0.05
    far = HandScenes(Frames(frame), WH, looks_at="depth", farthest_m=1.0).crop(0).image
    assert far.max() == pytest.approx(1.0)


def test_frames_that_lack_the_picture_are_left_out():
    without = spotted()
    without.amplitude = None
    scenes = HandScenes(Frames(without, spotted()), WH)
    assert scenes.crop(0).index == 1
    with pytest.raises(ImageError, match="none of its 1 pictures"):
        HandScenes(Frames(without), WH).crop(0)


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="unknown input 'colour'; expected amplitude or depth"):
        HandScenes(Frames(spotted()), WH, looks_at="colour")
    with pytest.raises(ValueError, match="skeleton 'coco17'; expected 'hand34'"):
        HandScenes(Frames(spotted(), skeleton=COCO17), WH)


def test_an_interrupted_epoch_sees_the_same_examples():
    one, other = (
        HandScenes(DrawnHands(6), WH, augmentation=HandAugmentation(), length=4, seed=5) for _ in range(2)
    )  # fmt: skip
    for index in one.order(3):
        a, b = one.crop(int(index), 3), other.crop(int(index), 3)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
    assert not np.array_equal(one.crop(0, 0).image, one.crop(0, 1).image)


@pytest.mark.parametrize("length, count", [(4, 10), (10, 10), (25, 10)])
def test_epochs_pass_through_all_frames_before_any_comes_again(length, count):
    scenes = HandScenes(DrawnHands(count), WH, augmentation=HandAugmentation(), length=length)
    orders = [scenes.order(epoch) for epoch in range(10)]
    assert {len(order) for order in orders} == {length}
    assert all(len(set(order)) == length for order in orders), "frames that come twice have another number"
    stream = np.concatenate(orders)[: 10 * length // count * count].reshape(-1, count) % count
    assert (np.sort(stream, axis=1) == np.arange(count)).all()


def test_shuffling_stays_within_a_few_blocks():
    order = shuffled(np.random.default_rng(0), 1000, block=50, mixed=4)
    assert sorted(order) == list(range(1000))
    assert all(len(set(order[i : i + 200] // 50)) == 4 for i in range(0, 1000, 200))
    assert (np.diff(order) == 1).mean() < 0.05


# --------------------------------------------------------------------------------------------- batches


def test_batches_hold_the_targets_of_every_task():
    scenes = HandScenes(DrawnHands(8, seed=2), WH, augmentation=HandAugmentation())
    images, targets = hand_batch(
        [scenes.crop(i) for i in range(8)], CODEC, scale=lambda pixels: normalise(pixels, SPEC)
    )  # fmt: skip
    assert images.shape == (8, 168, 224, 1) and images.dtype == np.float32
    assert -0.5 <= images.min() < images.max() <= 0.5
    shapes = {name: value.shape for name, value in targets.items()}
    assert shapes == {
        "points": (8, 16, 3), "points_aux": (8, 18, 3), "visibility": (8, 18), "orientation": (8, 2), "pose": (8, 2),
        "segmentation": (8, 168, 224),
    }  # fmt: skip
    scene = scenes.crop(0)
    tip, helper = HAND34.index("right_ring_tip"), HAND34.index("right_ring_pip")
    if scene.hands[1]:
        assert targets["points"][0, HAND16.index("right_ring_tip"), 2] == 2 * (scene.keypoints[tip, 2] == SEEN)
        column = auxiliary_skeleton(HAND_AUXILIARY).index("right_ring_pip")
        assert targets["points_aux"][0, column, 2] == (scene.keypoints[helper, 2] == SEEN)
    many = CODEC.targets(np.stack([s.keypoints[: len(HAND16.keypoints)] for s in [scene] * 2]), np.ones((2, 2), bool),
                         skeleton=HAND16)  # fmt: skip
    one = CODEC.targets(scene.keypoints[: len(HAND16.keypoints)], np.ones(2, bool), skeleton=HAND16)
    for name in one:
        np.testing.assert_array_equal(many[name][1], one[name])


def test_nobody_knows_is_no_target():
    keypoints = np.zeros((16, 3), np.float32)
    keypoints[:8] = [50, 60, SEEN]
    keypoints[0, 2], keypoints[1, 2] = UNKNOWN, HIDDEN
    visibility = CODEC.targets(keypoints, np.array([True, False]), skeleton=HAND16)["visibility"]
    assert visibility[:3].tolist() == [-1, 0, 1]
    assert visibility[8:].tolist() == [0] * 8 + [1, 0], "no right hand: its keypoints are not seen"


def test_examples_come_fast_enough():
    """300 frames a second on one core is the aim; a busy machine may be four times slower."""
    frames = Frames(*(DrawnHands(8)[i] for i in range(8)))
    scenes = HandScenes(frames, WH, augmentation=HandAugmentation(), length=64)
    times = []
    for epoch in range(3):
        start = time.process_time()
        hand_batch([scenes.crop(int(i), epoch) for i in scenes.order(epoch)], CODEC, scale=lambda p: normalise(p, SPEC))
        times.append(time.process_time() - start)
    assert 64 / min(times) > 75


def test_mirrored_labels_change_sides():
    frame = spotted(orientation=(2, -1))
    keypoints, hands, orientation, pose = labels_of(frame, flip=True)
    np.testing.assert_array_equal(keypoints[17:], frame.keypoints[:17])
    assert (hands.tolist(), orientation.tolist(), pose.tolist()) == ([False, True], [-1, 6], [-1, 4])
    frame.present = None
    assert labels_of(frame)[1].tolist() == [True, False], "who is labelled is there"


# ------------------------------------------------------------------------------------------- amplitude


def test_the_curve_of_amplitude():
    assert toned(np.array([0, 65535, 16384, 655], np.uint16)).tolist() == [0, 255, 128, 25]


def test_amplitude_from_files_and_arrays(tmp_path):
    amplitude = np.arange(0, 60000, 100, dtype=np.uint16).reshape(20, 30)
    cv2.imwrite(str(tmp_path / "a.png"), amplitude)
    np.testing.assert_array_equal(read_amplitude(tmp_path / "a.png"), toned(amplitude))
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(as_amplitude(grey), grey)
    np.testing.assert_array_equal(as_amplitude(np.repeat(grey[..., None], 3, axis=2)), grey)
    np.save(tmp_path / "a.npy", amplitude[..., None])
    np.testing.assert_array_equal(read_amplitude(tmp_path / "a.npy"), toned(amplitude))
    (picture,) = whole_pictures([tmp_path / "a.png"], InputSpec((40, 60, 1), (127.5,), (255.0,), colour="amplitude"))
    assert picture.shape == (40, 60, 1) and picture.dtype == np.uint8


def test_dark_amplitude_is_shown_bright():
    dark = np.tile(np.arange(0, 50, dtype=np.uint8), (20, 1))
    picture = shown(dark)
    assert picture.shape == (20, 50, 3) and picture.max() == 255 and picture[0, 25, 0] in range(126, 134)
    assert shown(np.zeros((4, 4), np.uint8)).max() == 0


def test_what_is_no_amplitude_is_told(tmp_path):
    with pytest.raises(ImageError, match="looks at infrared amplitude, got a colour picture"):
        as_amplitude(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    with pytest.raises(ImageError, match="got float64"):
        as_amplitude(np.zeros((8, 8)))
    with pytest.raises(ImageError, match="no such file"):
        read_amplitude(tmp_path / "none.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ImageError, match="not a picture; expected uint16 amplitude"):
        read_amplitude(tmp_path / "empty.png")
    with pytest.raises(CardError, match="expected RGB, depth or amplitude"):
        InputSpec((8, 8, 1), (0.0,), (1.0,), colour="infrared")
    with pytest.raises(CardError, match="one channel of depth or amplitude"):
        InputSpec((8, 8, 3), (0.0,) * 3, (1.0,) * 3, colour="amplitude")


# --------------------------------------------------------------------------------------------- readers


def test_recordings_come_back_as_they_were_written(tmp_path):
    drawn = DrawnHands(3, wh=(80, 60), seed=4)
    write_recording(tmp_path, {f"{i:06d}": drawn[i] for i in range(3)})
    frames = HandRecording(tmp_path)
    assert len(frames) == 3
    for i in range(3):
        for name in ("depth", "amplitude", "segmentation", "present", "orientation", "pose"):
            np.testing.assert_array_equal(getattr(frames[i], name), getattr(drawn[i], name), err_msg=name)
        np.testing.assert_allclose(frames[i].keypoints, drawn[i].keypoints, atol=1e-4)
        assert frames[i].camera == pytest.approx(drawn[i].camera)
    assert len(HandRecording(tmp_path, count=2)) == 2


def test_recordings_by_hand(tmp_path):
    for kind in ("labels", "amplitude"):
        (tmp_path / kind).mkdir()
    cv2.imwrite(str(tmp_path / "amplitude" / "a.png"), np.full((6, 8), 128, np.uint8))
    label = {"left": None, "right": {"keypoints": {"wrist": [1, 2, "hidden"]}, "pose": "fist"}}
    (tmp_path / "labels" / "a.json").write_text(json.dumps(label))
    frame = HandRecording(tmp_path)[0]
    assert frame.keypoints[HAND34.index("right_wrist")].tolist() == [1, 2, HIDDEN]
    assert (frame.keypoints[:, 2] != UNKNOWN).sum() == 1
    assert (frame.pose.tolist(), frame.orientation.tolist(), frame.present.tolist()) == (
        [-1, 4],
        [-1, -1],
        [False, True],
    )
    assert frame.depth is None and frame.camera is None
    assert np.abs(toned(frame.amplitude).astype(int) - 128).max() <= 1, "8 bits are seen as they are"


@pytest.mark.parametrize("content, told", [
    ("{", "damaged or no label"), ("[]", "damaged or no label"),
    ('{"left": {"keypoints": {"elbow": [1, 2, "seen"]}}}', "left: .*keypoints are thumb_tip"),
    ('{"left": {"keypoints": {"wrist": [1, 2, "maybe"]}}}', "left: 'maybe'"),
    ('{"left": {"keypoints": {}, "pose": "wave"}}', "poses ok, open_hand"),
    ('{"left": {"keypoints": {}, "orientation": 9}}', "expected 0 to 7"),
])  # fmt: skip
def test_damaged_labels_are_told(tmp_path, content, told):
    write_recording(tmp_path, {"a": DrawnHands(1, wh=(40, 30))[0]})
    (tmp_path / "labels" / "a.json").write_text(content)
    with pytest.raises(LabelError, match=told):
        HandRecording(tmp_path)[0]


def test_recordings_without_pictures_or_labels_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no labels"):
        HandRecording(tmp_path)
    write_recording(tmp_path, {"a": DrawnHands(1, wh=(40, 30))[0]})
    (tmp_path / "camera.json").write_text('{"fx": 1}')
    with pytest.raises(LabelError, match="expected fx, fy, cx and cy"):
        HandRecording(tmp_path)
    (tmp_path / "camera.json").unlink()
    for kind in ("amplitude", "depth"):
        (tmp_path / kind / "a.png").unlink()
    with pytest.raises(ImageError, match="neither amplitude/a.png nor depth/a.png"):
        HandRecording(tmp_path)[0]


def joints_of(labels, distance=400.0) -> np.ndarray:
    """Places of a set's joints `(J, 3)` in pixels and millimetres, some of them behind the surface."""
    rng = np.random.default_rng(1)
    joints = np.column_stack([rng.uniform([100, 60], [220, 180], (len(labels), 2)), np.full(len(labels), distance)])
    return joints.astype(np.float32)


def check(frame: HandFrame, labels, pixels: np.ndarray, *, side: str) -> None:
    first = 0 if side == "left" else 17
    for name, xy in zip(labels, pixels, strict=True):
        if name is not None:
            found = frame.keypoints[HAND34.index(f"{side}_{name}")]
            np.testing.assert_allclose(found[:2], xy, atol=1e-2, err_msg=name)
            assert found[2] == SEEN
    others = {name for name in labels if name in ONE_HAND}
    assert (frame.keypoints[first : first + 17, 2] != UNKNOWN).sum() == len(others)
    assert (frame.keypoints[17 - first : 34 - first, 2] == UNKNOWN).all()
    assert frame.present.tolist() == [side == "left", side == "right"]
    fx, fy, cx, cy = frame.camera
    known = ~np.isnan(frame.keypoints_mm[:, 0])
    u = cx + fx * frame.keypoints_mm[known, 0] / frame.keypoints_mm[known, 2]
    np.testing.assert_allclose(u, frame.keypoints[known, 0], atol=1e-2)


def test_msra(tmp_path):
    folder = tmp_path / "P0" / "5"
    folder.mkdir(parents=True)
    joints = joints_of(MsraHands.JOINTS)
    fx, fy, cx, cy = MsraHands.CAMERA
    world = np.column_stack(
        [(joints[:, 0] - cx) * joints[:, 2] / fx, -(joints[:, 1] - cy) * joints[:, 2] / fy, -joints[:, 2]]
    )
    (folder / "joint.txt").write_text("1\n" + " ".join(f"{v:.4f}" for v in world.ravel()) + "\n")
    box = np.array([320, 240, 90, 50, 230, 190], np.int32)
    depth = np.full((140, 140), 390.4, np.float32)
    (folder / "000000_depth.bin").write_bytes(box.tobytes() + depth.tobytes())
    frames = MsraHands(tmp_path)
    frame = frames[0]
    check(frame, MsraHands.JOINTS, joints[:, :2], side="right")
    assert frame.depth.shape == (240, 320) and frame.depth[100, 100] == 390 and frame.depth[0, 0] == 0
    with pytest.raises(FileNotFoundError, match="MSRA"):
        MsraHands(tmp_path, subjects=("P7",))
    (folder / "000000_depth.bin").write_bytes(b"short")
    with pytest.raises(ImageError, match="expected MSRA's depth"):
        frames[0]


def test_nyu(tmp_path):
    from scipy.io import savemat

    names = [None] * 36
    for i, finger in enumerate(("pinky", "ring", "middle", "index")):
        for joint, offset in (("tip", 0), ("dip", 1), ("pip", 3), ("mcp", 5)):
            names[6 * i + offset] = f"{finger}_{joint}" if f"{finger}_{joint}" in ONE_HAND else None
    names[24], names[25], names[27] = "thumb_tip", "thumb_ip", "thumb_mcp"
    joints = joints_of(names)
    savemat(tmp_path / "joint_data.mat", {"joint_uvd": np.stack([np.zeros((2, 36, 3)), np.stack([joints] * 2)])})
    depth = np.full((240, 320), 395, np.uint16)
    coded = np.stack([depth & 255, depth >> 8, np.zeros_like(depth)], axis=-1).astype(np.uint8)  # blue, green, red
    cv2.imwrite(str(tmp_path / "depth_2_0000002.png"), coded)
    frames = NyuHands(tmp_path, camera=2)
    wrist = joints[30:32, :2].mean(axis=0)
    check(frames[1], [*names, "wrist"], np.concatenate([joints[:, :2], wrist[None]]), side="right")
    assert (frames[1].depth == 395).all()
    with pytest.raises(ImageError, match="missing or no picture"):
        frames[0]
    with pytest.raises(LabelError, match="cameras from 3"):
        NyuHands(tmp_path, camera=3)
    with pytest.raises(FileNotFoundError, match=r"joint_data\.mat"):
        NyuHands(tmp_path / "nowhere")


def test_icvl(tmp_path):
    joints = joints_of(IcvlHands.JOINTS)
    (tmp_path / "Depth" / "201403121135").mkdir(parents=True)
    line = "201403121135/image_0000.png " + " ".join(f"{v:.3f}" for v in joints.ravel())
    (tmp_path / "labels.txt").write_text(line + "\n\n")
    cv2.imwrite(str(tmp_path / "Depth" / "201403121135" / "image_0000.png"), np.full((240, 320), 380, np.uint16))
    frames = IcvlHands(tmp_path / "labels.txt")
    check(frames[0], IcvlHands.JOINTS, joints[:, :2], side="left")
    assert frames[0].keypoints[HAND34.index("left_wrist"), 2] == UNKNOWN
    (tmp_path / "labels.txt").write_text("a.png 1 2 3\n")
    with pytest.raises(LabelError, match="line 1: .*expected a path and 48 numbers"):
        IcvlHands(tmp_path / "labels.txt")


def test_depth_tells_what_is_hidden():
    depth = np.full((10, 10), 400, np.uint16)
    depth[:, 5:] = 300
    depth[:, 9] = 0
    points = np.array([[2, 2], [6, 2], [9, 2], [20, 2]], float)
    assert seen(depth, points, np.full(4, 410.0)).tolist() == [True, False, True, False]


@pytest.mark.shared
@pytest.mark.parametrize("name, labels, hand", [
    ("icvl", IcvlHands.JOINTS, "left"),
    ("nyu", ("pinky_tip", None, "ring_tip", None, "middle_tip", None, "index_tip", None, "thumb_tip", "thumb_ip",
             "thumb_mcp", None, None, None), "right"),
])  # fmt: skip
def test_sides_of_public_sets(shared, name, labels, hand):
    """With the fingers up and the palm to the camera, a left hand's thumb is on the left of the picture."""
    path = shared / "data" / "hand_joint_labels" / f"{name}_test_uvd.npz"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    uvd = np.load(path)["uvd"].astype(float)
    thumb, index, pinky, middle = (uvd[:, labels.index(f"{k}_tip")] for k in ("thumb", "index", "pinky", "middle"))
    centre = uvd[:, 0] if name == "icvl" else uvd[:, 13]
    upright = (centre[:, 1] - middle[:, 1]) > 60
    curled_forward = middle[:, 2] < centre[:, 2]
    chosen = upright & curled_forward
    thumb_left = (thumb[:, 0] < pinky[:, 0])[chosen].mean()
    assert chosen.sum() > 100
    assert thumb_left > 0.8 if hand == "left" else thumb_left < 0.2
