"""Readers of depth people, on files that the tests make: landmarks, sides, splits, broken files."""

from __future__ import annotations

import json
import logging
import shutil

import cv2
import numpy as np
import pytest

from posezoo.codecs import PartAffinityCodec
from posezoo.codecs.part_affinity import UNKNOWN
from posezoo.data.depth import (
    ITOP15,
    KINECT,
    PANOPTIC19,
    people_mirrored,
    read_dih,
    read_itop,
    read_itop_frame,
    read_panoptic_depth,
    read_size,
    read_utd_mhad,
)
from posezoo.data.depth_scenes import DepthAugmentation, DepthScenes, RecordFrames
from posezoo.data.pipeline import tf_dataset
from posezoo.data.readers import READERS, read
from posezoo.data.scenes import moved_boxes, scene_batch
from posezoo.geometry import crop_matrix
from posezoo.inference.images import ImageError
from posezoo.inference.runners import normalise
from posezoo.skeletons import DEPTH17

#: A standing person who faces the camera, in metres from between the feet, y up; left is at the larger x.
FACING = {
    "head_top": (0, 1.75), "head": (0, 1.62), "left_eye": (0.03, 1.65), "right_eye": (-0.03, 1.65),
    "left_ear": (0.08, 1.62), "right_ear": (-0.08, 1.62), "nose": (0, 1.6), "neck": (0, 1.48),
    **{f"{side}_{joint}": (sign * x, y) for side, sign in (("left", 1), ("right", -1)) for joint, (x, y) in {
        "shoulder": (0.19, 1.42), "elbow": (0.3, 1.15), "wrist": (0.35, 0.92), "hand": (0.36, 0.85),
        "hip": (0.1, 0.92), "knee": (0.11, 0.5), "ankle": (0.12, 0.1), "foot": (0.13, 0.02)}.items()},
    "torso": (0, 1.15), "body_center": (0, 0.93),
}  # fmt: skip

WIDTH, HEIGHT, FOCAL = 320, 240, 285.0
CENTRE = (159.5, 119.5)
DISTANCE = 3.0


def place(name: str, x: float = 0.0) -> np.ndarray:
    """A landmark of the facing person in camera coordinates, metres: x right, y down, z forward."""
    return np.array([FACING[name][0] + x, 0.9 - FACING[name][1], DISTANCE])


def pixel(name: str, x: float = 0.0) -> list[float]:
    px, py, pz = place(name, x)
    return [CENTRE[0] + FOCAL * px / pz, CENTRE[1] + FOCAL * py / pz]


def frame() -> np.ndarray:
    """Something at the person's distance, uint16 mm; the left half holds a mark, to tell mirrored pictures."""
    depth = np.zeros((HEIGHT, WIDTH), np.uint16)
    depth[30:220, 120:200] = 3000
    depth[:20, :20] = 1500
    return depth


def expected(names=DEPTH17.keypoints) -> np.ndarray:
    """DEPTH17's landmarks of the facing person, those of other names unlabelled."""
    return np.array([[*pixel(k), 2] if k in names else [0, 0, 0] for k in DEPTH17.keypoints], np.float32)


# The data sets


@pytest.fixture
def utd(tmp_path):
    root = tmp_path / "utd"
    (root / "depth").mkdir(parents=True)
    kinect = {v: k for k, v in KINECT.items()} | {
        "spine": "torso", "hip_center": "body_center",
        **{f"{s[0]}_{j}": f"{s}_{j}" for s in ("left", "right") for j in ("hand", "foot")},
    }  # fmt: skip
    names = list(kinect)
    items = []
    for subject in range(1, 8):
        file = f"s{subject}.png"
        cv2.imwrite(str(root / "depth" / file), frame())
        on_body = [0 if name == "r_wrist" else 1 for name in names]
        points = [pixel(kinect[name]) for name in names]
        items.append({"file": file, "subject": subject, "joints_2d": points, "on_body": on_body})
    content = {"joint_names": names, "items": items, "unmirrored": True}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def dih(tmp_path):
    root = tmp_path / "dih"
    names = list(DEPTH17.keypoints[::-1])
    for split, count in (("train", 2), ("val", 1)):
        (root / split / "depth").mkdir(parents=True)
        items = []
        for i in range(count):
            file = f"{i}.png"
            cv2.imwrite(str(root / split / "depth" / file), frame())
            people = [{"points": [pixel(n, x) for n in names], "visible": [1 + (n != "neck") for n in names]}
                      for x in (0, 0.4)]  # fmt: skip
            people[1]["box"] = [150, 20, 90, 210]
            items.append({"file": file, "people": people})
        items.append({"file": "nobody.npy", "people": []})
        np.save(root / split / "depth" / "nobody.npy", frame().astype(np.float32) / 1000)
        (root / split / "annotations.json").write_text(json.dumps({"landmarks": names, "items": items}))
    return root


@pytest.fixture
def panoptic(tmp_path):
    root = tmp_path / "panoptic"
    # The world's y is down too, in centimetres; the camera is turned by 20 degrees and moved.
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    shift = np.array([10.0, -5.0, 30.0])
    for name in ("a_dance", "b_talk"):
        sequence = root / name
        (sequence / "depth" / "KINECTNODE1").mkdir(parents=True)
        (sequence / "hdPose3d_stage1_coco19").mkdir()
        calibration = {
            "K": [[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]], "R": rotation.tolist(), "t": shift.tolist()
        }  # fmt: skip
        (sequence / "depth_calibration.json").write_text(json.dumps({"KINECTNODE1": calibration}))
        for i in range(2):
            cv2.imwrite(str(sequence / "depth" / "KINECTNODE1" / f"{i:08d}.png"), frame())
            bodies = []
            for x, z in ((0, 0), (0, -1000), (50, 0)):  # the second is behind the camera, the third outside
                seen = np.array([place(n, x) for n in PANOPTIC19]) * 100 + (0, 0, z)
                confidence = np.array([-1 if n == "right_knee" else 0.9 for n in PANOPTIC19])
                world = (seen - shift) @ rotation  # the inverse of a rotation is its transpose
                bodies.append({"id": 0, "joints19": np.column_stack([world, confidence]).ravel().tolist()})
            path = sequence / "hdPose3d_stage1_coco19" / f"body3DScene_{i:08d}.json"
            path.write_text(json.dumps({"bodies": bodies}))
    return root


@pytest.fixture
def itop(tmp_path):
    h5py = pytest.importorskip("h5py")
    root = tmp_path / "itop"
    root.mkdir()
    for name, count in (("train", 3), ("test", 2)):
        points = np.array([[pixel(n) for n in ITOP15]] * count)
        visible = np.array([[n != "left_elbow" for n in ITOP15]] * count, np.int16)
        valid = np.ones(count, np.uint8)
        valid[0] = 0
        with h5py.File(root / f"ITOP_side_{name}_labels.h5", "w") as file:
            file["is_valid"], file["visible_joints"], file["image_coordinates"] = valid, visible, points.round()
        with h5py.File(root / f"ITOP_side_{name}_depth_map.h5", "w") as file:
            file["data"] = np.stack([frame().astype(np.float16) / 1000] * count)
    return root


# What they give


def test_utd_mhad_maps_the_kinect_skeleton(utd):
    people = read_utd_mhad(utd, "all")
    assert people.depth and people.skeleton == DEPTH17 and len(people) == 7
    want = expected([k for k in DEPTH17.keypoints if k not in ("head_top", "left_eye", "right_eye", "right_wrist")])
    np.testing.assert_allclose(people.records[0].keypoints[0], want, atol=1e-3)
    x, y, w, h = people.records[0].boxes[0]
    assert y == pytest.approx(pixel("head")[1]) and y + h == pytest.approx(pixel("left_foot")[1])
    assert [r.path.stem for r in read_utd_mhad(utd, "val").records] == ["s7"]
    assert [r.path.stem for r in read_utd_mhad(utd, "train").records] == [f"s{i}" for i in range(1, 7)]
    hidden = read_utd_mhad(utd, "val", off_body=1).records[0].keypoints[0]
    assert hidden[DEPTH17.index("right_wrist")] == pytest.approx([*pixel("right_wrist"), 1], abs=1e-3)
    sample = people.records[0].load()
    assert sample.image.dtype == np.float32 and sample.image.shape == (HEIGHT, WIDTH)
    assert sample.image[100, 150] == 3 and sample.image[230, 10] == 0


def test_labels_of_utd_mhad_are_those_of_the_moment_that_the_frame_shows(utd):
    path = utd / "annotations.json"
    content = json.loads(path.read_text())
    names = content["joint_names"]
    annotated = np.array(content["items"][6]["joints_2d"], float)
    # A sequence that moves 8 px to the right in every frame, at 2 m: its frame 3 is where the annotation is.
    metres = np.full((6, len(names), 3), 2000.0)
    for t in range(6):
        metres[t, :, 0] = (annotated[:, 0] + 8 * (t - 3) - 160) * 2000 / 280
        metres[t, :, 1] = -(annotated[:, 1] - 120) * 2000 / 280
    np.savez(utd / "skeleton_sequences_mm.npz", a01_s7_t2=metres)
    content["items"][6] |= {"action": 1, "trial": 2, "frame": 3}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no intrinsics"):
        read_utd_mhad(utd, "val")

    content["intrinsics"] = {"fx": 280.0, "fy": 280.0, "cx": 160.0, "cy": 120.0}
    path.write_text(json.dumps(content))
    plain = read_utd_mhad(utd, "val", lag=0).records[0].keypoints[0]
    shown = read_utd_mhad(utd, "val", lag=1.75).records[0].keypoints[0]
    both = (plain[:, 2] > 0) & (shown[:, 2] > 0)
    assert both.sum() > 5
    np.testing.assert_allclose(shown[both, :2] - plain[both, :2], [(-14, 0)] * both.sum(), atol=0.05)
    earliest = read_utd_mhad(utd, "val", lag=9).records[0].keypoints[0]  # before the first frame: the first
    both = (plain[:, 2] > 0) & (earliest[:, 2] > 0)
    np.testing.assert_allclose((earliest - plain)[both, 0], -24, atol=0.05)
    # Subject 1's item names no sequence.
    assert read_utd_mhad(utd, "train").problems.total() == 6


def test_dih_folders_hold_several_people(dih):
    people = read_dih(dih, "all")
    assert len(people) == 5 and [len(r.keypoints) for r in people.records] == [2, 2, 0, 2, 0]
    want = expected()
    want[DEPTH17.index("neck"), 2] = 1
    np.testing.assert_allclose(people.records[0].keypoints[0], want, atol=1e-3)
    assert people.records[0].boxes[1].tolist() == [150, 20, 90, 210]
    assert people.records[0].boxes[0][3] == pytest.approx(pixel("left_ankle")[1] - pixel("head_top")[1], abs=1e-3)
    np.testing.assert_allclose(people.records[2].load().image, people.records[0].load().image, atol=1e-6)
    assert len(read_dih(dih, "val")) == 2
    shutil.rmtree(dih / "val")
    assert len(read_dih(dih, "all")) == 3


def test_panoptic_people_are_projected(panoptic):
    people = read_panoptic_depth(panoptic, "all")
    assert len(people) == 4 and all(len(r.keypoints) == 1 for r in people.records)
    want = expected([k for k in DEPTH17.keypoints if k not in ("head_top", "right_knee")])
    want[DEPTH17.index("head"), :2] = pixel("left_ear")[0] / 2 + pixel("right_ear")[0] / 2, pixel("left_ear")[1]
    np.testing.assert_allclose(people.records[0].keypoints[0], want, atol=1e-2)
    without = read_panoptic_depth(panoptic, "all", head_from_ears=False).records[0].keypoints[0]
    assert without[DEPTH17.index("head"), 2] == 0
    assert {r.path.parents[2].name for r in read_panoptic_depth(panoptic, "train").records} == {"a_dance"}
    assert {r.path.parents[2].name for r in read_panoptic_depth(panoptic, "val").records} == {"b_talk"}
    (panoptic / "split.json").write_text('{"val": ["a_dance"]}')
    assert {r.path.parents[2].name for r in read_panoptic_depth(panoptic, "val").records} == {"a_dance"}
    (panoptic / "a_dance" / "depth" / "KINECTNODE1" / "00000009.png").write_bytes(b"")
    assert read_panoptic_depth(panoptic, "val").problems["no body3DScene of its number"] == 1
    assert read_size(panoptic / "a_dance" / "depth" / "KINECTNODE1" / "00000000.png") == (WIDTH, HEIGHT)


def test_itop_reads_hdf5(itop):
    people = read_itop(itop, "all")
    assert len(people) == 3 and people.problems["labels that ITOP calls not valid"] == 2
    kept = [k for k in DEPTH17.keypoints if k in ITOP15]
    assert len(kept) == 10
    want = expected(kept)
    want[DEPTH17.index("left_elbow"), 2] = 1
    np.testing.assert_allclose(people.records[0].keypoints[0], want, atol=0.51)
    assert people.records[0].boxes[0, 3] == pytest.approx(pixel("left_foot")[1] - pixel("head")[1], abs=1)
    image = people.records[0].load().image
    assert image.shape == (HEIGHT, WIDTH) and image[100, 150] == 3 and image[5, 5] == 1.5
    assert len(read_itop(itop, "val")) == 1
    turned = read_itop(itop, "val", mirrored=True)
    assert turned.records[0].load().image[5, WIDTH - 6] == 1.5
    np.testing.assert_allclose(
        turned.records[0].keypoints[0, :, 0] + read_itop(itop, "val").records[0].keypoints[0, :, 0],
        np.where(want[:, 2] > 0, WIDTH - 1, 0),
    )


# What they have in common


@pytest.mark.parametrize("name", ["utd_mhad", "dih", "panoptic_depth", "itop"])
def test_every_reader_agrees_on_sides(name, request):
    """The left shoulder of somebody who faces the camera is at the larger x, and shoulders lie above hips."""
    root = request.getfixturevalue(name.split("_")[0])
    people = READERS[name](root, "all", None)
    assert people_mirrored(people) == 0
    for record in people.records:
        for person in record.keypoints:
            at = dict(zip(DEPTH17.keypoints, person, strict=True))
            for joint in ("shoulder", "elbow", "hip"):
                assert at[f"left_{joint}"][0] > at[f"right_{joint}"][0]
            assert at["left_shoulder"][1] < at["left_hip"][1]
    limbs = DEPTH17.keypoints[6:9]
    arm = read(name, root, "all", type(DEPTH17)("arm", (*limbs, *[k.replace("left", "right") for k in limbs])))
    assert arm.records[0].keypoints.shape[1:] == (6, 3) and arm.skeleton.name == "arm"


def test_mirrored_frames_are_told(utd, caplog):
    path = utd / "annotations.json"
    content = json.loads(path.read_text())
    for item in content["items"]:
        item["joints_2d"] = [[WIDTH - 1 - x, y] for x, y in item["joints_2d"]]
    content["items"] *= 3
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert people_mirrored(read_utd_mhad(utd)) == 1
    assert "100 % of the people have the left shoulder at the smaller x" in caplog.text
    del content["unmirrored"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="frames as Kinect 1 gives them, mirrored"):
        read_utd_mhad(utd)


@pytest.mark.parametrize("reader", [read_utd_mhad, read_dih, read_panoptic_depth, read_itop])
def test_missing_files_and_splits_are_named(reader, tmp_path):
    if reader is read_itop:
        pytest.importorskip("h5py")
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        reader(tmp_path)
    with pytest.raises(ValueError, match="unknown split 'test'; expected one of train, val, all"):
        reader(tmp_path, "test")


def test_broken_annotations_are_named(utd, dih, panoptic, itop):
    with pytest.raises(ValueError, match="unknown view 'front'"):
        read_itop(itop, view="front")
    with pytest.raises(ImageError, match="cannot be read"):
        read_itop_frame(itop / "ITOP_side_test_depth_map.h5" / "99")
    path = utd / "annotations.json"
    content = json.loads(path.read_text())
    content["items"][0]["joints_2d"] = [[1, 2]]
    path.write_text(json.dumps(content))
    people = read_utd_mhad(utd)
    assert len(people) == 6 and people.problems["joints that are not two numbers each"] == 1
    content["joint_names"][0] = "nose"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no joint shoulder_center"):
        read_utd_mhad(utd)
    path.write_text("{")
    with pytest.raises(ValueError, match="annotations.json: not JSON"):
        read_utd_mhad(utd)
    path.write_text("{}")
    with pytest.raises(ValueError, match="has no joint_names, items"):
        read_utd_mhad(utd)
    path = dih / "val" / "annotations.json"
    content = json.loads(path.read_text())
    content["items"][0]["people"][0]["points"].pop()
    path.write_text(json.dumps(content))
    assert len(read_dih(dih, "val")) == 1
    content["landmarks"][0] = "tail"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="names landmarks tail"):
        read_dih(dih, "val")
    (panoptic / "a_dance" / "depth_calibration.json").write_text('{"KINECTNODE1": {"K": [1]}}')
    with pytest.raises(ValueError, match="KINECTNODE1: expected K and R"):
        read_panoptic_depth(panoptic)
    shutil.rmtree(panoptic / "a_dance")
    with pytest.raises(ValueError, match="one sequence cannot be divided"):
        read_panoptic_depth(panoptic, "val")


# Training examples


def test_scenes_of_depth_are_what_the_network_sees(utd):
    people = read_utd_mhad(utd, "train")
    scenes = DepthScenes(RecordFrames(people), (224, 184))
    scene = scenes.crop(0)
    assert scene.image.shape == (184, 224, 1) and scene.image.dtype == np.float32
    assert scene.image.max() == 3 and (scene.image == 0).mean() > 0.3
    eye, knee = DEPTH17.index("left_eye"), DEPTH17.index("left_knee")
    assert scene.unlabelled[..., eye].any() and not scene.unlabelled[..., knee].any()
    neck = scene.keypoints[0, 0, :2].round().astype(int)
    assert scene.unlabelled[neck[1], neck[0], eye] and not scene.unlabelled[5, 5, eye]
    codec = PartAffinityCodec((224, 184))
    inputs, targets = scene_batch([scene, scenes.crop(1)], codec, scale=lambda x: x / 8 - 0.5, skeleton=DEPTH17)
    assert inputs.shape == (2, 184, 224, 1) and inputs.min() == -0.5
    assert targets["heatmaps"].shape == (2, 23, 28, 18) and targets["pafs"].shape == (2, 23, 28, 32)
    assert (targets["heatmaps"][..., eye] == UNKNOWN).any() and targets["heatmaps"][..., knee].min() >= 0
    assert targets["heatmaps"][..., knee].max() > 0.7


def test_augmented_scenes_move_landmarks_with_the_pixels(utd):
    people = read_utd_mhad(utd, "train")
    scenes = DepthScenes(RecordFrames(people), (224, 184), augmentation=DepthAugmentation(side=(1.2, 1.4)), seed=1)
    sides = set()
    for epoch in range(12):
        scene = scenes.crop(0, epoch)
        known = scene.keypoints[0][scene.keypoints[0, :, 2] > 0]
        x, y = known[:, :2].round().astype(int).T
        at = scene.image[np.clip(y, 0, 183), np.clip(x, 0, 223), 0]
        assert (at[:6] > 0).all() and set(np.unique(scene.image.round(3))) <= {0.0, 1.5, 3.0}
        left, right = (scene.keypoints[0, DEPTH17.index(f"{s}_shoulder")] for s in ("left", "right"))
        assert left[0] > right[0], "a mirrored person's sides change names"
        sides.add(bool(scene.image[:, :112].sum() > scene.image[:, 112:].sum()))
    assert sides == {True, False}


def test_boxes_move_with_the_frame():
    matrix = crop_matrix((50, 50), (100, 100), (200, 200), rotation_deg=90)
    assert moved_boxes(np.array([[40, 20, 20, 60]], float), matrix)[0, 2:] == pytest.approx([120, 40])


def test_depth_goes_through_the_training_pipeline(utd):
    pytest.importorskip("tensorflow")
    scenes = DepthScenes(RecordFrames(read_utd_mhad(utd, "train")), (112, 96))
    codec = PartAffinityCodec((112, 96))

    def encode(batch):
        return scene_batch(batch, codec, scale=lambda x: x / 8 - 0.5, skeleton=DEPTH17)

    batches = list(tf_dataset(scenes, encode, 3))
    assert len(batches) == 2
    inputs, targets = batches[0]
    assert inputs.shape == (3, 96, 112, 1) and targets["pafs"].shape == (3, 12, 14, 32)


# Real frames


@pytest.mark.shared
def test_real_kinect_people(shared):
    root = shared / "data" / "utd_mhad_depth"
    if not root.is_dir():
        pytest.skip("no data/utd_mhad_depth in the shared data")
    train, val = read_utd_mhad(root, "train"), read_utd_mhad(root, "val")
    assert (len(train), len(val)) == (1938, 324) and not train.problems
    assert people_mirrored(train) < 0.05 and people_mirrored(val) < 0.05
    lacking = [DEPTH17.index(k) for k in ("head_top", "left_eye", "right_eye")]
    labelled = np.concatenate([r.keypoints for r in train.records])[..., 2] > 0
    assert not labelled[:, lacking].any() and np.delete(labelled, lacking, axis=1).mean() > 0.97
    for record in val.records[::40]:
        depth = record.load().image
        assert depth.shape == (240, 320)
        x, y, v = record.keypoints[0].T
        seen = depth[np.rint(y).astype(int).clip(0, 239), np.rint(x).astype(int).clip(0, 319)]
        assert (seen[v > 0] > 0).mean() > 0.7
        assert 1 < np.median(seen[seen > 0]) < 5
        assert normalise(depth, _spec()).max() <= 0.5


def _spec():
    from posezoo.cards import read_card

    return read_card("mpm_1s").input


# The command


def test_the_command_measures_depth_networks(utd, tmp_path, monkeypatch, capsys):
    from types import SimpleNamespace

    from posezoo import cli
    from posezoo.cards import read_card
    from posezoo.inference.poses import Poses

    def model(image, flip=False):
        assert image.shape == (HEIGHT, WIDTH) and image.dtype == np.float32
        found = expected()[None]
        found[0, DEPTH17.index("neck"), 0] += 30
        return Poses(found[..., :2], found[..., 2] / 2, DEPTH17)

    class Model:
        card, runner = read_card("mpm_1s"), SimpleNamespace(name="oracle")
        codec = SimpleNamespace(bottom_up=True)
        __call__ = staticmethod(model)
        __repr__ = lambda self: "model"  # noqa: E731

    monkeypatch.setattr("posezoo.commands.common.load", lambda *_, **__: Model())
    out = tmp_path / "out.json"
    command = ["eval", "mpm_1s", "--dataset", "utd_mhad", "--data", str(utd)]
    assert cli.main([*command, "--json", str(out)]) == 0
    landmarks = json.loads(out.read_text())["landmarks"]
    assert landmarks["neck"]["f_score"] == 0 and landmarks["left_knee"]["f_score"] == 1
    assert "head_top" not in landmarks and landmarks["all body"]["recall"] == pytest.approx(12 / 13)
    assert "F-score" in capsys.readouterr().out
    assert cli.main([*command, "--split", "val", "--matching", "person"]) == 0
    assert cli.main(["eval", "mpm_1s", "--dataset", "lsp", "--data", str(utd)]) == 2
    assert "mpm_1s looks at depth; --dataset lsp does not hold that" in capsys.readouterr().err
    shutil.rmtree(utd / "depth")
    assert cli.main(command) == 2
    assert "none of 1 frames can be read, such as s7.png" in capsys.readouterr().err
