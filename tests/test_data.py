"""Readers, augmentation and pipelines, on data made here."""

import gzip
import itertools
import json
import os
import re
import sys
from functools import partial

import numpy as np
import pytest

from posezoo.codecs import HeatmapCodec
from posezoo.codecs.heatmap import UNLABELLED
from posezoo.data.augment import Augmentation
from posezoo.data.coco import ignore_mask, read_coco
from posezoo.data.flic import COLUMNS, read_flic
from posezoo.data.lsp import read_lsp
from posezoo.data.pipeline import (
    PersonCrops,
    batch_indices,
    keras_dataset,
    load_all,
    scale_pixels,
    tf_dataset,
    training_batch,
)
from posezoo.data.readers import read, read_coco_pictures
from posezoo.data.sample import KeypointSet
from posezoo.evaluation.top_down import evaluate_pck
from posezoo.inference.images import ImageError
from posezoo.skeletons import COCO17, FLIC11, LSP14, Skeleton

cv2 = pytest.importorskip("cv2")
cv2.setNumThreads(1)
scipy_io = pytest.importorskip("scipy.io")

HEIGHT, WIDTH = 60, 80


def write_picture(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    return path


def random_person(seed, skeleton=LSP14):
    """Keypoints `(K, 3)` inside the picture, all visible."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((5, 5), (WIDTH - 5, HEIGHT - 5), (skeleton.num_keypoints, 2))
    return np.column_stack([xy, np.full(len(xy), 2)]).astype(np.float32)


def people_of(tmp_path, count, skeleton=LSP14):
    people = KeypointSet("made", skeleton)
    for i in range(count):
        people.add(write_picture(tmp_path / f"{i}.png", 10 * i), random_person(i, skeleton)[None], image_id=i)
    return people


# KeypointSet


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda p: p[:, :9], r"shape \(9, 3\) where \(14, 3\)"),
        (lambda p: p * np.nan, "not a number"),
        (lambda p: p * [1, 1, 0], "no labelled keypoint"),
        (lambda p: p * [0, 0, 1], "box without area"),
    ],
)
def test_impossible_annotations_are_counted(tmp_path, caplog, change, reason):
    people = KeypointSet("made", LSP14)
    people.add(tmp_path / "bad.jpg", change(random_person(0)[None]))
    people.add(str(tmp_path / "good.jpg"), random_person(1)[None])
    assert len(people) == 1 and sum(people.problems.values()) == 1
    assert people.records[0].path.name == "good.jpg"
    assert "bad.jpg" in caplog.text and re.search(reason, caplog.text)


@pytest.mark.parametrize("boxes", [[[0, 0, np.nan, 5]], [[0, 0, 5, 5], [0, 0, 5, 5]]])
def test_impossible_boxes_are_counted(tmp_path, boxes):
    people = KeypointSet("made", LSP14)
    people.add(tmp_path / "bad.jpg", random_person(0)[None], boxes=boxes)
    assert not len(people) and list(people.problems) == ["boxes that are not one of four numbers per person"]


# LSP


def test_lsp_mat_layouts(tmp_path):
    persons = np.stack([random_person(i) for i in range(5)])
    hidden = np.zeros((5, 14), bool)
    hidden[1, 3] = True
    small = np.concatenate([persons[..., :2], hidden[..., None]], axis=2)
    (tmp_path / "lsp").mkdir()
    scipy_io.savemat(tmp_path / "lsp" / "joints.mat", {"joints": small.transpose(2, 1, 0)})
    (tmp_path / "lspet").mkdir()
    scipy_io.savemat(
        tmp_path / "lspet" / "joints.mat",
        {"joints": np.concatenate([persons[..., :2], ~hidden[..., None]], axis=2).transpose(1, 2, 0)},
    )
    lsp, lspet = read_lsp(tmp_path / "lsp"), read_lsp(tmp_path / "lspet")
    for people, at_hidden in ((lsp, 1), (lspet, 0)):
        assert [r.path.name for r in people.records] == [f"im{i:04d}.jpg" for i in range(1, 6)]
        got = np.concatenate([r.keypoints for r in people.records])
        assert np.allclose(got[..., :2], persons[..., :2])
        assert (got[..., 2] == np.where(hidden, at_hidden, 2)).all()
    assert len(read_lsp(tmp_path / "lsp", "train", val_fraction=0.4)) == 3
    val = read_lsp(tmp_path / "lsp", "val", val_fraction=0.4)
    assert [r.path.name for r in val.records] == ["im0004.jpg", "im0005.jpg"]


def short(keypoint):
    return keypoint.replace("left_", "l_").replace("right_", "r_")


def write_lsp_json(root, persons, *, order=range(14), split=None):
    (root / "images").mkdir(parents=True, exist_ok=True)
    items = []
    for i, person in enumerate(persons):
        write_picture(root / "images" / f"{i}.png")
        joints = [[float(v) for v in person[k]] for k in order] if isinstance(person, np.ndarray) else person
        items.append({"file": f"{i}.png", "width": WIDTH, "height": HEIGHT, "joints": joints})
    content = {"joint_names": [short(LSP14.keypoints[k]) for k in order], "items": items}
    (root / "annotations.json").write_text(json.dumps(content))
    if split:
        (root / "split.json").write_text(json.dumps({"val": split}))
    return root


def test_lsp_json_in_any_joint_order(tmp_path):
    persons = [random_person(i) for i in range(4)]
    persons[2][5, 2] = 0
    root = write_lsp_json(tmp_path / "set", persons, order=list(reversed(range(14))), split=["1.png"])
    people = read("lsp", root, "all")
    assert np.allclose(np.concatenate([r.keypoints for r in people.records]), persons)
    assert [r.path.name for r in read("lsp", root, "val").records] == ["1.png"]
    assert len(read("lsp", root, "train")) == 3


def test_lsp_json_with_damaged_items(tmp_path):
    root = write_lsp_json(tmp_path / "set", [random_person(0), [[1, 2, 1]] * 5, [["a", 2, 1]] * 14, random_person(3)])
    people = read_lsp(root)
    assert [r.path.name for r in people.records] == ["0.png", "3.png"] and sum(people.problems.values()) == 2


def test_lsp_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no joints.mat and no annotations.json"):
        read_lsp(tmp_path)
    with pytest.raises(ValueError, match="unknown split 'test'.*train, val, all"):
        read_lsp(tmp_path, "test")
    (tmp_path / "annotations.json").write_text(json.dumps({"joint_names": ["neck"], "items": []}))
    with pytest.raises(ValueError, match="annotations.json has no keypoint right_ankle, .*it has neck"):
        read_lsp(tmp_path)


def test_lspet_subset(shared):
    root = shared / "data" / "lspet"
    if not root.is_dir():
        pytest.skip("no lspet in the shared data")
    train, val = read("lsp", root, "train"), read("lsp", root, "val")
    assert (len(train), len(val)) == (4500, 500) and not train.problems
    assert not {r.path for r in train.records} & {r.path for r in val.records}
    # Heads are above ankles in most pictures: the columns mean what they say.
    keypoints = np.concatenate([r.keypoints for r in val.records])
    head, ankle = keypoints[:, LSP14.index("head_top")], keypoints[:, LSP14.index("left_ankle")]
    both = (head[:, 2] > 0) & (ankle[:, 2] > 0)
    assert (head[both, 1] < ankle[both, 1]).mean() > 0.7


# FLIC

FLIC_TYPE = [(name, object) for name in ("filepath", "coords", "istrain", "istest", "torsobox", "imgdims")]


def write_flic(root, rows):
    """rows: (file, coords, is train)"""
    examples = np.zeros((1, len(rows)), FLIC_TYPE)
    for i, (file, coords, train) in enumerate(rows):
        torso, size = np.array([[10.0, 10, 30, 40]]), np.array([[HEIGHT, WIDTH, 3.0]])
        examples[0, i] = (file, coords, np.array([[train]]), np.array([[not train]]), torso, size)
    root.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(root / "examples.mat", {"examples": examples})
    return root


def flic_coords(person):
    """Keypoints `(11, 3)` as the file has them: `(2, 29)`, counted from 1, NaN where unlabelled."""
    coords = np.full((2, 29), np.nan)
    for k, keypoint in enumerate(FLIC11.keypoints):
        if person[k, 2]:
            coords[:, COLUMNS[keypoint]] = person[k, :2] + 1
    return coords


def test_flic(tmp_path):
    persons = [random_person(i, FLIC11) for i in range(4)]
    persons[1][[3, 8]] = 0
    rows = [(f"{i}.png", flic_coords(p), i < 3) for i, p in enumerate(persons)]
    root = write_flic(tmp_path / "flic", rows)
    people = read_flic(root)
    assert people.skeleton is FLIC11 and not people.problems
    assert np.allclose(np.concatenate([r.keypoints for r in people.records]), persons, atol=1e-5)
    assert people.records[0].path == root / "images" / "0.png"
    train, val, test = (read("flic", root, split) for split in ("train", "val", "test"))
    assert [r.path.name for r in train.records] == ["0.png", "1.png", "2.png"]
    assert [r.path.name for r in val.records] == [r.path.name for r in test.records] == ["3.png"]


def test_flic_columns_are_the_published_ones():
    assert [COLUMNS[k] for k in FLIC11.keypoints] == [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16]


def test_flic_with_damaged_examples(tmp_path):
    good = flic_coords(random_person(0, FLIC11))
    rows = [("short.png", good[:, :20], True), ("", good, True), ("nan.png", good * np.nan, True)]
    rows += [("inf.png", good * np.inf, True), ("good.png", good, True)]
    people = read_flic(write_flic(tmp_path, rows))
    assert [r.path.name for r in people.records] == ["good.png"] and sum(people.problems.values()) == 4


def test_flic_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no examples.mat"):
        read_flic(tmp_path)
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        read_flic(tmp_path, "valid")
    (tmp_path / "examples.mat").write_bytes(b"<html>not here</html>" * 20)
    with pytest.raises(ValueError, match="examples.mat: no struct array"):
        read_flic(tmp_path)
    scipy_io.savemat(tmp_path / "examples.mat", {"examples": np.zeros((1, 2), [("coords", object)])})
    with pytest.raises(ValueError, match="no field filepath, istrain, istest"):
        read_flic(tmp_path)


# COCO


def annotation(number, image_id, person=None, **more):
    person = random_person(number, COCO17) if person is None else person
    flat = [float(v) for v in person.reshape(-1)]
    visible = int((person[:, 2] > 0).sum())
    box = [5.0, 6.0, 30.0, 40.0]
    return {
        "id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "keypoints": flat,
        "num_keypoints": visible, "bbox": box, "area": 700.0, "segmentation": [[5, 6, 35, 6, 35, 46, 5, 46]], **more,
    }  # fmt: skip


def write_coco(path, annotations, *, images=3, names=COCO17.keypoints, pictures=None):
    pictures = path.parent / "images" if pictures is None else pictures
    entries = []
    for i in range(images):
        write_picture(pictures / f"{i}.png")
        entries.append({"id": 100 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
    category = {"id": 1, "name": "person"} | ({"keypoints": list(names)} if names else {})
    content = json.dumps({"images": entries, "annotations": annotations, "categories": [category]}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def rle(mask):
    """Uncompressed RLE of a mask."""
    runs, value, flat = [], 0, np.asarray(mask, int).T.reshape(-1)
    for bit, group in itertools.groupby(flat):
        if bit != value:
            runs.append(0)
            value = bit
        runs.append(len(list(group)))
        value = 1 - value
    return {"size": list(mask.shape), "counts": runs}


@pytest.mark.parametrize("name", ["labels.json", "labels.json.gz"])
def test_coco(tmp_path, name):
    path = write_coco(tmp_path / name, [annotation(1, 100), annotation(2, 102), annotation(3, 100, area=11.0)])
    people = read_coco(path, tmp_path / "images")
    assert [r.path.name for r in people.records] == ["0.png", "2.png"] and not people.problems
    first = people.records[0]
    assert first.image_id == 100 and first.annotation_ids == [1, 3] and first.ignore is None
    assert first.areas.tolist() == [700, 11] and first.boxes.tolist() == [[5, 6, 30, 40]] * 2
    assert np.allclose(first.keypoints, [random_person(1, COCO17), random_person(3, COCO17)])
    empty = read_coco(path, tmp_path / "images", keep_empty=True)
    assert [len(r.keypoints) for r in empty.records] == [2, 0, 1]
    assert empty.records[1].load().keypoints.shape == (0, 17, 3)


def test_coco_keypoints_are_matched_by_name(tmp_path):
    mine = Skeleton("mine", ("right_eye", "left_eye", "tail"))
    names = ("tail", "left_ear", "right_ear", "left_eye", "right_eye")
    person = np.column_stack([np.arange(5) + 10, np.arange(5) + 20, np.full(5, 2)])
    path = write_coco(tmp_path / "a.json", [annotation(1, 100, person)], names=names)
    people = read_coco(path, tmp_path / "images", skeleton=mine)
    assert people.records[0].keypoints[0, :, 0].tolist() == [14, 13, 10]
    with pytest.raises(ValueError, match="no keypoint nose, .*left_ankle, right_ankle of skeleton 'coco17'.*tail"):
        read_coco(path, tmp_path / "images")


def test_coco_without_names_takes_the_skeletons_order(tmp_path):
    path = write_coco(tmp_path / "a.json", [annotation(1, 100)], names=None)
    people = read_coco(path, tmp_path / "images")
    assert np.allclose(people.records[0].keypoints[0], random_person(1, COCO17))
    people = read_coco(path, tmp_path / "images", skeleton=FLIC11)
    assert len(people) == 0 and people.problems == {"keypoints that are no 11 times x, y, visibility": 1}


def masked(rows, columns):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return mask


def test_coco_ignores_crowds_and_unlabelled_people(tmp_path):
    crowd, unlabelled = masked(slice(3, 9), slice(50, 70)), masked(slice(30, 40), slice(10, 20))
    annotations = [
        annotation(1, 100),
        annotation(2, 100, iscrowd=1, segmentation=rle(crowd)),
        annotation(3, 100, np.zeros((17, 3)), segmentation=[[10, 30, 20, 30, 20, 40, 10, 40]]),
        annotation(4, 101, iscrowd=1, segmentation=rle(crowd)),
    ]
    people = read_coco(write_coco(tmp_path / "a.json", annotations), tmp_path / "images")
    assert len(people) == 1 and people.records[0].annotation_ids == [1] and not people.problems
    mask = people.records[0].load().ignore
    assert mask.dtype == bool and mask.shape == (HEIGHT, WIDTH)
    assert mask[crowd].all() and mask[31:39, 11:19].all()
    outside = ~crowd & ~cv2.dilate(unlabelled.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert not mask[outside].any()


def test_rle_both_ways_agrees_with_pycocotools():
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(2)
    for _ in range(20):
        mask = cv2.resize(rng.integers(0, 2, (6, 8), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST) > 0
        compressed = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        compressed["counts"] = compressed["counts"].decode()
        for region in (rle(mask), compressed):
            assert np.array_equal(ignore_mask((HEIGHT, WIDTH), [(region, None)]), mask)


def test_damaged_segmentations_become_boxes(tmp_path):
    pytest.importorskip("pycocotools")
    size = [HEIGHT, WIDTH]
    damaged = [
        {"size": size, "counts": [5, 10]}, {"size": [9, 9], "counts": [81]}, {"size": size, "counts": [-5, 10]},
        {"size": size, "counts": "zzzzzz`Q\\q~~~~"}, [[1, 2, 3]], [["a", "b"]], "what", {"counts": 5},
    ]  # fmt: skip
    annotations = [annotation(1, 100)]
    annotations += [annotation(i, 100, iscrowd=1, segmentation=s) for i, s in enumerate(damaged, start=2)]
    people = read_coco(write_coco(tmp_path / "a.json", annotations), tmp_path / "images")
    assert sum(people.problems.values()) == 7
    mask = people.records[0].load().ignore
    assert mask[7:45, 6:34].all() and not mask[48:].any() and not mask[:, 38:].any()


def test_missing_pycocotools_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r"pycocotools.*posezoo\[eval\]"):
        ignore_mask((4, 4), [({"size": [4, 4], "counts": "04"}, None)])


def test_impossible_coco_people_are_counted_and_ignored(tmp_path, caplog):
    inside = random_person(0, COCO17)
    nan, strange, outside = inside.copy(), inside.copy(), inside + [500, 0, 0]
    nan[3, 0], strange[2, 2] = np.nan, 7
    annotations = [
        annotation(1, 100, nan), annotation(2, 100, strange), annotation(3, 100, outside),
        annotation(4, 100, bbox=[0, 0, 0, 5]), annotation(5, 100, bbox=[1, 2]), annotation(6, 100, bbox=None),
        annotation(7, 100, keypoints=[1, 2, 2]), annotation(8, 100, keypoints="many"), annotation(9, 555),
        annotation(10, 100), "nonsense", annotation(11, 101, keypoints=[None] * 51),
    ]  # fmt: skip
    people = read_coco(write_coco(tmp_path / "a.json", annotations), tmp_path / "images")
    assert len(people) == 1 and people.records[0].annotation_ids == [10]
    assert sum(people.problems.values()) == 11
    assert "0.png: left out, every keypoint lies outside the picture" in caplog.text
    assert people.records[0].load().ignore[10:40, 10:30].all()


def test_coco_pictures_that_are_missing_or_impossible(tmp_path, caplog):
    path = write_coco(tmp_path / "a.json", [annotation(i, 100 + i) for i in range(3)])
    content = json.loads(path.read_text())
    content["images"] += [{"id": 7}, {"id": 100, "file_name": "again.png"}, "nonsense"]
    path.write_text(json.dumps(content))
    (tmp_path / "images" / "1.png").unlink()
    people = read_coco(path, tmp_path / "images")
    assert [r.path.name for r in people.records] == ["0.png", "2.png"]
    assert people.problems["no such picture"] == 1 and "1.png: left out, no such picture" in caplog.text
    assert people.problems["a picture without id or file_name"] == 2
    assert people.problems["a picture's id is used twice"] == 1


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "damaged or no JSON"),
        (b"<html></html>", "damaged or no JSON"),
        (b"[1, 2]", "no list 'images'"),
        (b'{"images": []}', "no list 'annotations'"),
        (gzip.compress(b'{"images": [], "annotations": []}', mtime=0)[:-12], "damaged or no JSON"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog", "keypoints": ["tail"]}, '
         b'{"id": 2, "name": "cat", "keypoints": ["tail"]}]}', "no category 'person'.*dog, cat"),
    ],
)  # fmt: skip
def test_coco_files_that_are_none(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_coco(tmp_path / "a.json", tmp_path)


def test_coco_files_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.json: no such file"):
        read_coco(tmp_path / "a.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="images: no such folder"):
        read_coco(tmp_path / "a.json", tmp_path / "images")


def test_coco_mini(shared):
    root = shared / "data" / "coco_mini"
    if not root.is_dir():
        pytest.skip("no coco_mini in the shared data")
    people = read("coco", root, "all")
    assert len(people) == 45 and not people.problems
    assert sum(len(r.keypoints) for r in people.records) == 127
    for record in people.records:
        sample = record.load()
        if sample.ignore is not None:
            assert sample.ignore.shape == sample.image.shape[:2] and sample.ignore.any()


# The table of readers


def test_read_official_coco_layout(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        annotations = [annotation(i, 100 + i) for i in range(count)]
        write_coco(
            tmp_path / "annotations" / f"person_keypoints_{split}2017.json", annotations,
            images=count, pictures=tmp_path / f"{split}2017",
        )  # fmt: skip
    assert len(read("coco", tmp_path, "train")) == 3
    val = read("coco", tmp_path, "val")
    assert len(val) == 2 and val.records[0].path == tmp_path / "val2017" / "0.png"
    (tmp_path / "annotations" / "person_keypoints_val2017.json").unlink()
    with pytest.raises(FileNotFoundError, match="has person_keypoints_train2017.json but not person_keypoints_val2017"):
        read("coco", tmp_path, "val")


def test_read_divides_a_single_coco_file(tmp_path):
    write_coco(tmp_path / "labels.json", [annotation(i, 100 + i) for i in range(10)], images=10)
    assert [r.path.name for r in read("coco", tmp_path, "val").records] == ["9.png"]
    assert len(read("coco", tmp_path, "train")) == 9 and len(read("coco", tmp_path, "all")) == 10
    (tmp_path / "split.json").write_text(json.dumps({"val": ["2.png", "4.png"]}))
    assert [r.path.name for r in read("coco", tmp_path, "val").records] == ["2.png", "4.png"]
    assert len(read("coco", tmp_path, "train")) == 8


def test_read_takes_some_of_a_sets_keypoints(tmp_path):
    root = write_lsp_json(tmp_path, [random_person(0)])
    knees = Skeleton("knees", ("left_knee", "right_knee"))
    people = read("lsp", root, "all", knees)
    assert people.skeleton is knees
    assert np.allclose(people.records[0].keypoints[0], random_person(0)[[LSP14.index(k) for k in knees.keypoints]])
    with pytest.raises(ValueError, match="no keypoint nose"):
        read("lsp", root, "all", COCO17)


def test_read_messages(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'mpii'.*lsp, flic, coco"):
        read("mpii", tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="found no .json"):
        read("coco", tmp_path, "train")
    with pytest.raises(ValueError, match="unknown split 'dev'; expected train, val, test or all"):
        read("coco", tmp_path, "dev")


def test_read_cocos_test_pictures_without_labels(tmp_path):
    write_coco(
        tmp_path / "annotations" / "person_keypoints_val2017.json", [annotation(1, 100)], pictures=tmp_path / "val2017"
    )
    with pytest.raises(FileNotFoundError, match=r"person_keypoints_val2017\.json; expected .*image_info_test-dev2017"):
        read_coco_pictures(tmp_path, "test")
    for i in (7, 8):
        write_picture(tmp_path / "test2017" / f"{i}.png")
    entries = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (7, 8)]
    listed = tmp_path / "annotations" / "image_info_test-dev2017.json"
    listed.write_text(json.dumps({"images": entries, "categories": [{"id": 1, "name": "person"}]}))
    people, annotations = read_coco_pictures(tmp_path, "test")
    assert annotations is None and [r.image_id for r in people.records] == [7, 8]
    assert all(len(record.keypoints) == 0 for record in people.records)
    people, annotations = read_coco_pictures(tmp_path, "val")
    assert annotations.name == "person_keypoints_val2017.json" and people.records[0].image_id == 100


# Crops and augmentation

COLOURS = np.array([c for c in itertools.product((0, 128, 255), repeat=3) if c.count(128) < 2])[:14]
STRONG = Augmentation(rotation_deg=40, scale=(0.7, 1.4), translate=0.1)


def marked_person(path, seed):
    """A picture with a dot of its own colour on every keypoint."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(20)[:14]
    xy = np.column_stack([cells % 5, cells // 5]) * 40 + 40 + rng.uniform(-8, 8, (14, 2))
    image = np.full((240, 240, 3), 127, np.uint8)
    for point, colour in zip(xy, COLOURS, strict=True):
        cv2.circle(image, tuple(int(v) for v in np.rint(point)), 9, [int(c) for c in colour[::-1]], -1)
    assert cv2.imwrite(str(path), image)
    return np.column_stack([xy, np.full(14, 2)])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_markers_stay_under_their_keypoints(tmp_path, flip):
    people = KeypointSet("made", LSP14)
    for i in range(4):
        people.add(tmp_path / f"{i}.png", marked_person(tmp_path / f"{i}.png", i)[None])
    augmentation = Augmentation(rotation_deg=60, scale=(0.7, 1.4), translate=0.1, flip=flip)
    crops = PersonCrops(people, (192, 160), augmentation=augmentation, seed=3)
    checked = 0
    for index, epoch in itertools.product(range(4), range(6)):
        crop = crops.crop(index, epoch)
        assert (np.linalg.det(crop.matrix[:, :2]) < 0) == (flip == 1)
        for k, (x, y) in enumerate(np.rint(crop.keypoints).astype(int)):
            if not (0 <= x < 192 and 0 <= y < 160):
                continue
            drawn = LSP14.flip_indices[k] if flip else k
            assert np.abs(crop.image[y, x].astype(int) - COLOURS[drawn]).max() < 40, (index, epoch, LSP14.keypoints[k])
            checked += 1
    assert checked > 200


def test_flip_swaps_visibility_too(tmp_path):
    person = random_person(0)
    person[LSP14.index("left_wrist"), 2] = 0
    people = KeypointSet("made", LSP14)
    people.add(write_picture(tmp_path / "a.png"), person[None])
    crop = PersonCrops(people, (64, 64), augmentation=Augmentation(flip=1.0)).crop(0)
    assert crop.visible[LSP14.index("right_wrist")] == 0 and (crop.visible == 0).sum() == 1


def test_randomness_depends_on_seed_epoch_and_index_only(tmp_path):
    people = people_of(tmp_path, 4)
    augmentation = Augmentation(colour=0.5, grey=0.2, cutout=0.5, translate=0.1)

    def crops(seed=1):
        return PersonCrops(people, (64, 64), augmentation=augmentation, seed=seed)

    forwards, backwards = crops(), crops()
    first = [forwards.crop(i, epoch) for epoch in range(2) for i in range(4)]
    second = [backwards.crop(i, epoch) for epoch in (1, 0) for i in (3, 2, 1, 0)][::-1]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.image, b.image) and np.array_equal(a.keypoints, b.keypoints)
    for other in (crops(seed=2).crop(0, 0), crops().crop(0, 1), crops().crop(1, 0)):
        assert not np.allclose(other.matrix, first[0].matrix)
    assert np.array_equal(crops().order(3), crops().order(3)) and sorted(crops().order(3)) == [0, 1, 2, 3]
    assert not all(np.array_equal(crops().order(0), crops().order(e)) for e in range(1, 6))
    assert np.array_equal(PersonCrops(people, (64, 64)).order(5), range(4))


def test_plain_crop_is_the_joints_box_enlarged(tmp_path):
    people = people_of(tmp_path, 1)
    crop = PersonCrops(people, (64, 64), enlarge=2.0).crop(0)
    spread = np.ptp(crop.keypoints, axis=0)
    assert np.isclose(spread.max(), 32, atol=0.1) and np.allclose(
        (crop.keypoints.max(axis=0) + crop.keypoints.min(axis=0)) / 2, 31.5, atol=0.05
    )
    people.records[0].boxes = np.array([[0, 0, 40, 20]], np.float32)
    crop = PersonCrops(people, (64, 64), box="annotated", enlarge=1.0).crop(0)
    assert np.allclose(crop.matrix, [[1.6, 0, -0.5], [0, 1.6, 15.5]], atol=1e-4)
    with pytest.raises(ValueError, match="'keypoints' or 'annotated'"):
        PersonCrops(people, (64, 64), box="torso")


@pytest.mark.parametrize("colour, grey, cutout", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_pixels_change_and_the_picture_on_disk_does_not(tmp_path, colour, grey, cutout):
    path = tmp_path / "a.png"
    people = KeypointSet("made", LSP14)
    people.add(path, marked_person(path, 0)[None])
    still = {"rotation_deg": 0, "scale": (1.0, 1.0), "flip": 0.0}
    plain = PersonCrops(people, (64, 64), augmentation=Augmentation(**still)).crop(0)
    crops = PersonCrops(people, (64, 64), augmentation=Augmentation(**still, colour=colour, grey=grey, cutout=cutout))
    changed = crops.crop(0)
    assert changed.image.dtype == np.uint8 and not np.array_equal(plain.image, changed.image)
    assert np.array_equal(plain.keypoints, changed.keypoints)
    assert np.array_equal(crops.crop(0).image, changed.image)  # the cached picture is not written to
    if grey:
        assert np.ptp(changed.image.astype(int), axis=2).max() <= 2


# A damaged picture in the middle of an epoch


def test_damaged_picture_is_counted_and_substituted(tmp_path, caplog):
    people = people_of(tmp_path, 5)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    crops = PersonCrops(people, (64, 64), augmentation=STRONG)
    found = [crops.crop(int(i), 0).index for batch in batch_indices(crops, 0, 5) for i in batch]
    assert sorted(found) == [0, 1, 3, 3, 4]
    assert crops.broken == {"2.png": 1}
    crops.crop(2, 1)
    assert crops.broken == {"2.png": 2} and caplog.text.count("2.png") == 1  # logged once


def test_no_readable_picture_is_an_error(tmp_path):
    people = people_of(tmp_path, 2)
    for record in people.records:
        record.path.write_bytes(b"")
    with pytest.raises(ImageError, match="none of its 2 pictures"):
        PersonCrops(people, (64, 64)).crop(0)


def test_unreadable_pictures_do_not_count_in_an_evaluation(tmp_path):
    """A substitute's prediction must never meet the unreadable picture's labels."""
    people = people_of(tmp_path, 3)
    codec = HeatmapCodec((64, 64), sigma=2.0)
    (tmp_path / "1.png").write_bytes(b"")
    crops = PersonCrops(people, (64, 64), enlarge=2.0)

    def oracle(images):
        by_value = {10 * i: crops.crop(i) for i in (0, 2)}
        found = [by_value[int(image[32, 32, 0])] for image in images]
        return {"heatmaps": codec.encode(np.stack([c.keypoints for c in found]), np.stack([c.visible for c in found]))}

    result = evaluate_pck(oracle, crops, codec, normaliser="box", batch=2)
    assert np.isnan(result.distances[1]).all() and np.isfinite(result.distances[[0, 2]]).all()
    assert result.at(0.05, joints=None) == 1


def test_load_all_keeps_the_order(tmp_path):
    crops = PersonCrops(people_of(tmp_path, 23), (32, 32))
    assert [c.index for c in load_all(crops, workers=2)] == list(range(23))


# Batches


def test_batches_mark_unlabelled_maps(tmp_path):
    people = people_of(tmp_path, 2)
    people.records[0].keypoints[0, 4, 2] = 0
    crops, codec = PersonCrops(people, (64, 64)), HeatmapCodec((64, 64))
    images, maps = training_batch([crops.crop(0), crops.crop(1)], codec)
    assert images.shape == (2, 64, 64, 3) and maps.shape == (2, 16, 16, 14) and maps.dtype == np.float32
    assert (maps[0, ..., 4] == UNLABELLED).all() and maps[1].min() >= 0 and maps[0, ..., 5].max() > 0.5
    assert scale_pixels(np.array([0, 255], np.uint8)).tolist() == [-1, 1]


def test_too_few_examples_for_a_batch(tmp_path):
    crops = PersonCrops(people_of(tmp_path, 2), (32, 32))
    with pytest.raises(ValueError, match="2 examples are too few for one batch of 4"):
        batch_indices(crops, 0, 4)


@pytest.fixture
def pipeline(tmp_path):
    crops = PersonCrops(people_of(tmp_path, 7), (64, 64), augmentation=Augmentation(colour=0.5, cutout=0.5), seed=4)
    return crops, HeatmapCodec((64, 64))


def expected_batches(crops, codec, epochs, batch=2):
    for epoch in epochs:
        for rows in batch_indices(crops, epoch, batch):
            yield training_batch([crops.crop(int(i), epoch) for i in rows], codec)


def test_keras_dataset_batch_for_batch(pipeline):
    pytest.importorskip("keras")
    crops, codec = pipeline
    data = keras_dataset(crops, partial(training_batch, codec=codec), 2, epoch=1)
    for step, (images, maps) in enumerate(expected_batches(crops, codec, range(1, 4))):
        got = data[step]
        assert np.array_equal(got[0], images) and np.array_equal(got[1], maps)
    assert step == 8


def test_tf_dataset_batch_for_batch(pipeline):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    crops, codec = pipeline
    data = list(tf_dataset(crops, partial(training_batch, codec=codec), 2, epochs=range(1, 3)))
    same = keras_dataset(crops, partial(training_batch, codec=codec), 2, epoch=1)
    assert len(data) == 6
    for step, (images, maps) in enumerate(data):
        assert images.shape == (2, 64, 64, 3) and maps.shape == (2, 16, 16, 14)
        assert np.array_equal(images.numpy(), same[step][0]) and np.array_equal(maps.numpy(), same[step][1])


def test_fit_sees_every_epoch_once_and_in_order(pipeline):
    """Keras must not shuffle, repeat or drop batches: a resumed run would differ from an unbroken one."""
    keras = pytest.importorskip("keras")
    crops, codec = pipeline
    expected = [float(images.mean()) for images, _ in expected_batches(crops, codec, range(3))]

    def seen(epoch, epochs):
        means = []

        class Spy(keras.Model):
            def train_step(self, *data):
                images = data[-1][0]
                means.append(float(keras.ops.convert_to_numpy(keras.ops.mean(images))))
                return {"loss": keras.ops.mean(images)}

        image = keras.Input((64, 64, 3))
        model = Spy(image, keras.layers.Conv2D(14, 4, 4)(image))
        model.compile("sgd", "mse", run_eagerly=True, jit_compile=False)
        data = keras_dataset(crops, partial(training_batch, codec=codec), 2, epoch=epoch)
        model.fit(data, initial_epoch=epoch, epochs=epochs, steps_per_epoch=3, verbose=0)
        return means

    if keras.backend.backend() == "jax":
        pytest.skip("Keras on JAX has another train_step")
    assert np.allclose(seen(0, 3), expected, atol=1e-6)
    assert np.allclose(seen(1, 3), expected[3:], atol=1e-6)


def test_part_crops_are_laid_around_a_part(stick_figures):
    from posezoo.data.augment import BODY_PARTS
    from posezoo.skeletons import joint_kind

    still = Augmentation(rotation_deg=0, scale=(1, 1), flip=0, part=1.0)
    people = read_lsp(stick_figures)
    crops = PersonCrops(people, (96, 96), augmentation=still, enlarge=1.0)
    seen = set()
    for epoch in range(12):
        crop = crops.crop(0, epoch)
        inside = {
            joint_kind(k)
            for k, (x, y) in zip(LSP14.keypoints, crop.keypoints, strict=True)
            if -0.51 <= x <= 95.51 and -0.51 <= y <= 95.51
        }
        seen |= {
            i for i, part in enumerate(BODY_PARTS) if set(part) & {joint_kind(k) for k in LSP14.keypoints} <= inside
        }
        assert inside, "no joint in the crop"
    assert seen == {0, 1, 2}
    whole = PersonCrops(people, (96, 96), augmentation=Augmentation(rotation_deg=0, scale=(1, 1), flip=0), enlarge=1.0)
    assert (whole.crop(0).keypoints > -0.51).all() and (whole.crop(0).keypoints < 95.51).all()
