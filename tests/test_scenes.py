"""Scenes of many people: pictures with crowds, and canvases of pasted people."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from posezoo.codecs import AssociativeEmbeddingCodec
from posezoo.codecs.heatmap import UNLABELLED
from posezoo.data.augment import Augmentation
from posezoo.data.canvases import KNOWN, Canvases, hide, read_lspet_coco17, validation_canvases
from posezoo.data.sample import KeypointSet
from posezoo.data.scenes import Pictures, moved_keypoints, scene_batch
from posezoo.inference.images import ImageError
from posezoo.skeletons import COCO17, LSP14

SIZE = (96, 96)


@pytest.fixture
def lspet(tmp_path):
    """Six pictures of one person each, every joint a dot of its own colour; two with unlabelled joints."""
    rng = np.random.default_rng(0)
    items, faces = [], {}
    (tmp_path / "images").mkdir()
    for i in range(6):
        image = np.full((120, 100, 3), 60, np.uint8)
        joints = []
        for k in range(14):
            x, y = rng.uniform(15, 85), rng.uniform(15, 105)
            cv2.circle(image, (round(x), round(y)), 3, (10 * k + 80, 255 - 10 * k, 10 * i), -1)
            joints.append([x, y, int(not (i < 2 and k == 0))])
        name = f"{i}.png"
        cv2.imwrite(str(tmp_path / "images" / name), image)
        items.append({"file": name, "width": 100, "height": 120, "joints": joints})
        faces[name] = [[50 + j, 50, 0.9, int(j < 3)] for j in range(5)]
    names = [n.replace("left_", "l_").replace("right_", "r_") for n in LSP14.keypoints]
    (tmp_path / "annotations.json").write_text(json.dumps({"joint_names": names, "items": items}))
    (tmp_path / "split.json").write_text(json.dumps({"val": ["4.png", "5.png"]}))
    face = {"keypoint_names": ["nose", "l_eye", "r_eye", "l_ear", "r_ear"], "items": faces}
    (tmp_path / "face5_pseudo.json").write_text(json.dumps(face))
    return tmp_path


def test_lspet_gets_cocos_keypoints(lspet):
    people = read_lspet_coco17(lspet, "train")
    assert len(people) == 4 and people.skeleton == COCO17
    source = json.loads((lspet / "annotations.json").read_text())["items"][2]["joints"]
    person = people.records[2].keypoints[0]
    assert person[COCO17.index("left_wrist"), :2] == pytest.approx(source[LSP14.index("left_wrist")][:2])
    face = [COCO17.index(k) for k in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")]
    assert (person[face, 2] > 0).tolist() == [True, True, True, False, False]
    # The box is that of all of LSP's joints, neck and head top too.
    low = np.min([j[:2] for j in source if j[2]], axis=0)
    assert people.records[2].boxes[0, :2] == pytest.approx(low)


def test_pseudo_labels_never_reach_validation(lspet):
    for record in read_lspet_coco17(lspet, "val").records:
        assert (record.keypoints[0, :5, 2] == 0).all()


def test_canvases_depend_on_seed_epoch_and_index_alone(lspet):
    people = read_lspet_coco17(lspet, "train")
    varied = Augmentation(colour=0.5, cutout=0.5, any_rotation=0.5)
    a, b = (Canvases(people, SIZE, augmentation=varied, seed=3, single=0.2) for _ in range(2))
    first = [a.crop(i, 1) for i in range(4)]
    again = [b.crop(i, 1) for i in reversed(range(4))][::-1]
    for x, y in zip(first, again, strict=True):
        assert (x.image == y.image).all() and (x.keypoints == y.keypoints).all() and (x.ignored == y.ignored).all()
    assert (a.crop(0, 2).image != first[0].image).any()


def test_validation_canvases_are_fixed(lspet):
    people = read_lspet_coco17(lspet, "val")
    canvases = validation_canvases(people, SIZE, length=5)
    assert len(canvases) == 5 and canvases.order(3).tolist() == list(range(5))
    assert (canvases.crop(2, 0).image == canvases.crop(2, 7).image).all()
    assert all(1 <= len(canvases.crop(i).keypoints) <= 4 for i in range(5))


def test_what_is_ignored_on_a_canvas(lspet):
    people = read_lspet_coco17(lspet, "train")
    people.records = people.records[:1]  # its right ankle, LSP's first joint, is unlabelled
    scene = Canvases(people, (200, 200), count=(1, 1), seed=2, augmentation=Augmentation(rotation_deg=0, flip=0)).crop(
        0
    )
    assert scene.ignored.shape == (200, 200, 17)
    low = scene.keypoints[0, 5:][scene.keypoints[0, 5:, 2] > 0, :2].min(axis=0)
    high = scene.keypoints[0, 5:][scene.keypoints[0, 5:, 2] > 0, :2].max(axis=0)
    centre = ((low + high) / 2).round().astype(int)
    ankle, wrist = COCO17.index("right_ankle"), COCO17.index("left_wrist")
    assert scene.ignored[centre[1], centre[0], ankle] and not scene.ignored[centre[1], centre[0], wrist]
    assert scene.ignore.any(), "beyond 1.2 times the joint box somebody may be unlabelled"
    assert not scene.ignore[0, 0] or not scene.ignore[-1, -1], "the bare canvas holds nobody, and is learnt"
    assert KNOWN == 1.2


def test_a_person_pasted_over_is_hidden():
    covered = np.zeros((20, 20), bool)
    covered[:, 10:] = True
    keypoints = np.array([[5, 5, 2], [15, 5, 2], [9.4, 3, 1]], np.float32)
    hide(keypoints, covered)
    assert keypoints[:, 2].tolist() == [2, 0, 1]


def test_unreadable_pictures_are_replaced(lspet):
    people = read_lspet_coco17(lspet, "train")
    (lspet / "images" / "1.png").write_bytes(b"")
    canvases = Canvases(people, SIZE, seed=1)
    assert all(len(canvases.crop(i).image) == 96 for i in range(4))
    assert canvases.broken["1.png"] >= 1
    for i in range(4):
        (lspet / "images" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ImageError, match="none of its 4"):
        Canvases(people, SIZE).crop(0)


def picture_set(tmp_path, **record):
    image = np.zeros((60, 120, 3), np.uint8)
    image[20, 30] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    people = KeypointSet("made", COCO17)
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, 0] = (30, 20, 2)
    keypoints[0, 1] = (118, 58, 2)
    people.add(tmp_path / "a.png", keypoints, **record)
    return people


def test_whole_pictures_are_fitted(tmp_path):
    mask = np.zeros((60, 120), bool)
    mask[:, 60:] = True
    scene = Pictures(picture_set(tmp_path, ignore=lambda: mask), (240, 240)).crop(0)
    # Twice the size, in the middle: y starts at 60.
    assert scene.keypoints[0, 0, :2] == pytest.approx([60.5, 100.5])
    assert scene.ignore[120, 200] and not scene.ignore[120, 100] and not scene.ignore[10, 200]
    assert scene.areas[0] == pytest.approx(4 * 88 * 38)


def test_augmented_pictures_keep_labels_in_place(tmp_path):
    people = picture_set(tmp_path)
    pictures = Pictures(
        people, (240, 240), augmentation=Augmentation(rotation_deg=30, scale=(0.75, 1.5), translate=0.2)
    )
    seen = 0
    for epoch in range(40):
        scene = pictures.crop(0, epoch)
        x, y, visible = scene.keypoints[0, 0]
        if visible:
            seen += 1
            around = scene.image[max(0, round(y) - 3) : round(y) + 4, max(0, round(x) - 3) : round(x) + 4]
            assert around.max() > 100
    assert seen > 10


def test_keypoints_that_leave_are_unlabelled():
    matrix = np.array([[1.0, 0, -10], [0, 1, 0]])
    moved = moved_keypoints(np.array([[[5, 5, 2], [15, 5, 1], [200, 5, 2]]], np.float32), matrix, (64, 64))
    assert moved[0, :, 2].tolist() == [0, 1, 0] and moved[0, 1, :2].tolist() == [5, 5]


def test_scene_batches_have_all_targets(lspet):
    people = read_lspet_coco17(lspet, "train")
    canvases, codec = Canvases(people, SIZE, seed=1), AssociativeEmbeddingCodec(SIZE)
    images, targets = scene_batch([canvases.crop(0), canvases.crop(1)], codec, scale=lambda x: x / np.float32(255))
    assert images.shape == (2, 96, 96, 3) and images.dtype == np.float32
    assert {k: v.shape for k, v in targets.items()} == {
        "heatmaps": (2, 48, 48, 17), "heatmaps_low": (2, 24, 24, 17), "tags": (2, 30, 17, 3),
    }  # fmt: skip
    assert (targets["heatmaps"] == UNLABELLED).any()


@pytest.mark.shared
def test_real_canvases(shared):
    folder = shared / "data" / "lspet"
    if not folder.is_dir():
        pytest.skip("no lspet in the shared data")
    people = read_lspet_coco17(folder, "val")
    canvases = validation_canvases(people, (256, 256))
    scenes = [canvases.crop(i) for i in range(8)]
    assert len(people) == 500 and len(canvases) == 200
    assert sum(len(s.keypoints) for s in scenes) > 12
    assert all((s.areas > 0).all() for s in scenes)
