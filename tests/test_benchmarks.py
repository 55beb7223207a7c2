"""The benchmarks' own code: decoding of other projects' outputs, the detector, tables, joins."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from scripts import script

import posezoo
from posezoo.cards import read_card
from posezoo.data import KeypointSet
from posezoo.evaluation.pck import PCK
from posezoo.inference.estimator import PoseModel
from posezoo.inference.runners import RunnerError
from posezoo.skeletons import COCO17

ROOT = Path(__file__).parents[1]


peers, report, accuracy, latency = (
    script(f"benchmarks/{name}.py") for name in ("peers", "report", "accuracy", "latency")
)


@pytest.fixture(scope="module")
def peer_folder(shared):
    folder = shared / "peers"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def present_peer(folder: Path, name: str) -> Path:
    path = peers.peer_path(folder, name)
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    return path


# ------------------------------------------------------------------------------------------------- decoding


def test_movenet_output_is_y_x_score():
    output = np.zeros((1, 1, 17, 3), np.float32)
    output[0, 0, 3] = 0.25, 0.75, 0.9
    xy, score = peers.decode_movenet([output])
    np.testing.assert_allclose(xy[3], (0.75 * 192 - 0.5, 0.25 * 192 - 0.5))
    assert score[3] == np.float32(0.9)


def test_posenet_decodes_cell_and_offset():
    maps = np.full((23, 31, 17), -8, np.float32)
    offsets = np.zeros((23, 31, 34), np.float32)
    for k in range(17):
        maps[k, 30 - k, k] = 2
        offsets[k, 30 - k, k], offsets[k, 30 - k, 17 + k] = 0.5 + k, -k
    xy, score = peers.decode_posenet(maps, offsets, left_px=64)
    k = np.arange(17)
    np.testing.assert_allclose(xy, np.stack([(30 - k) * 16 - k - 64, k * 16 + 0.5 + k], axis=-1))
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-2)), rtol=1e-6)


@pytest.mark.parametrize(("name", "stride"), [("cpm_mobile_192_float", 2), ("hourglass_mobile_192_float", 4)])
def test_heatmap_peers_find_the_peaks(name, stride):
    from posezoo.codecs import HeatmapCodec

    points = np.random.default_rng(4).uniform(20, 170, (14, 2))
    maps = HeatmapCodec((192, 192), stride=stride, sigma=2).encode(points, np.ones(14))
    xy, score = peers.PEERS[name].decode([maps[None]])
    assert np.abs(xy - points).max() <= stride / 2
    assert (score > 0.9).all()


def test_inputs_have_the_networks_shapes():
    crop = np.zeros((353, 353, 3), np.uint8)
    crop[..., 0] = 9
    wide = peers.PEERS["posenet_mbv1_075_353_481_quant_nodecoder"].prepare(crop)
    assert wide.shape == (1, 353, 481, 3)
    np.testing.assert_array_equal(wide[0, :, 64 : 64 + 353], crop)
    assert (wide[0, :, :64] == peers.GREY).all()
    blue_first = peers.PEERS["cpm_mobile_192_float"].prepare(crop)
    assert blue_first.dtype == np.float32
    assert blue_first[0, 5, 5].tolist() == [0, 0, 9]


def test_unknown_and_missing_peers_are_told(tmp_path, capsys):
    with pytest.raises(KeyError, match="unknown peer 'openpose'; expected one of movenet"):
        peers.Peer("openpose", tmp_path)
    with pytest.raises(RunnerError, match="no such file; expected a TFLite model"):
        peers.Peer(peers.YARDSTICK, tmp_path)
    (tmp_path / "a.tflite").write_bytes(b"no model")
    with pytest.raises(RunnerError, match="not a TFLite model that this runtime can load"):
        peers.TFLiteFile(tmp_path / "a.tflite")
    (tmp_path / "b.tflite").write_bytes(b"no model")
    assert peers.present(["a", "b", "c"], tmp_path) == ["a"]
    told = capsys.readouterr().out
    assert "b is the same file as a" in told
    assert f"left out: no {tmp_path / 'c.tflite'}" in told


# ------------------------------------------------------------------------------------------------- detector


def detections(*rows):
    """Detector outputs: rows of top, left, bottom, right, class, score, padded to ten with certain nonsense."""
    table = np.array([*rows, *[(0, 0, 1, 1, 0, 0.99)] * (10 - len(rows))], np.float32)
    return [table[None, :, :4], table[None, :, 4], table[None, :, 5], np.array([len(rows)], np.float32)]


def test_detector_keeps_sure_people_once():
    outputs = detections(
        (0.1, 0.2, 0.9, 0.6, 0, 0.8),
        (0.12, 0.2, 0.9, 0.62, 0, 0.7),  # the same person again
        (0.1, 0.7, 0.9, 0.95, 0, 0.6),
        (0.0, 0.0, 0.5, 0.5, 16, 0.9),  # a cat
        (0.3, 0.0, 0.5, 0.1, 0, 0.3),  # unsure
        (0.5, 0.5, 0.5, 0.5, 0, 0.9),  # no area
    )
    boxes, scores = peers.people_of(outputs, 200, 100)
    np.testing.assert_allclose(boxes, [[39.5, 9.5, 80, 80], [139.5, 9.5, 50, 80]], atol=1e-4)
    np.testing.assert_allclose(scores, [0.8, 0.6], atol=1e-6)
    assert len(peers.people_of(outputs, 200, 100, overlap=0.99)[0]) == 3
    assert len(peers.people_of(outputs, 200, 100, score_threshold=0.2)[0]) == 3


def test_detector_boxes_end_at_the_picture():
    boxes, _ = peers.people_of(detections((-0.2, -0.1, 1.3, 0.5, 0, 0.9)), 60, 40)
    np.testing.assert_allclose(boxes, [[-0.5, -0.5, 30, 40]])


def test_nobody_is_an_empty_answer():
    boxes, scores = peers.people_of(detections(), 60, 40)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


class MiddleRunner:
    """A "network" that finds every joint in the middle of its crop."""

    name = "middle"

    def __init__(self, codec):
        self.codec = codec

    def __call__(self, images):
        points = np.full((14, 2), (self.codec.input_wh[0] - 1) / 2)
        return {"heatmaps": np.stack([self.codec.encode(points, np.ones(14))] * len(images))}


@pytest.mark.shared
def test_detector_finds_the_astronaut_for_a_pose_model(peer_folder):
    photo = pytest.importorskip("skimage.data", reason="needs scikit-image").astronaut()
    detector = peers.PersonDetector(present_peer(peer_folder, peers.DETECTOR), threads=1)
    boxes, scores = detector(photo)
    assert len(boxes) == len(scores) == 1
    x, y, width, height = boxes[0]
    assert x < 220 < x + width
    assert y < 100 < y + height

    model = PoseModel(read_card("mobilenet_split_224"), None, detector=detector)
    model.runner = MiddleRunner(model.codec)
    poses = model(photo)
    np.testing.assert_allclose(poses.keypoints[0], np.tile([x + width / 2, y + height / 2], (14, 1)), atol=1)
    assert poses.person_scores[0] == pytest.approx(poses.scores.mean() * scores[0], rel=1e-5)
    assert len(model(np.full((200, 300, 3), 90, np.uint8))) == 0

    if "mobilenet_split_224" in posezoo.list_models(runtime="tflite"):
        pose = posezoo.load("mobilenet_split_224", runtime="tflite", threads=1, detector=detector)
        poses = pose(photo)
        np.testing.assert_array_equal(poses.boxes, boxes)
        head = poses.keypoints[0, pose.card.skeleton.index("head_top")]
        assert x - 20 < head[0] < x + width + 20
        assert y - 40 < head[1] < y + height / 2


@pytest.mark.shared
def test_a_pose_network_is_no_detector(peer_folder):
    with pytest.raises(RunnerError, match="has 1 outputs; expected boxes, classes, scores and count"):
        peers.PersonDetector(present_peer(peer_folder, peers.YARDSTICK), threads=1)


@pytest.mark.shared
def test_movenet_finds_the_astronauts_face(peer_folder):
    import cv2

    photo = pytest.importorskip("skimage.data", reason="needs scikit-image").astronaut()
    present_peer(peer_folder, peers.YARDSTICK)
    movenet = peers.Peer(peers.YARDSTICK, peer_folder, threads=1)
    output = movenet(cv2.resize(photo, (192, 192), interpolation=cv2.INTER_AREA)[None])
    xy, score = peers.Decoded.decode(output["keypoints"])
    assert xy.shape == (1, 17, 2)
    points = dict(zip(COCO17.keypoints, (xy[0] + 0.5) * 512 / 192 - 0.5, strict=True))
    np.testing.assert_allclose(points["nose"], (225, 120), atol=25)
    assert points["left_eye"][0] > points["right_eye"][0]  # the person's left is at the picture's right
    assert score[0, COCO17.index("nose")] > 0.5


@pytest.mark.shared
@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_tell_left_from_right(peer_folder, shared, name):
    """Reading a network's sides the wrong way round must lose many joints."""
    from posezoo.data.pipeline import PersonCrops
    from posezoo.evaluation.pck import pck, torso_size
    from posezoo.evaluation.top_down import by_name, labels_of, predict_crops

    if not (shared / "data" / "lspet").is_dir():
        pytest.skip("no lspet")
    present_peer(peer_folder, name)
    peer = peers.Peer(name, peer_folder, threads=1)
    people = accuracy.lspet(shared)
    people.records = people.records[:40]
    crops = PersonCrops(people, (peer.spec.crop_px,) * 2)
    skeleton = peer.spec.skeleton
    found, _ = predict_crops(peer, crops, peers.Decoded, skeleton=skeleton, workers=1)
    truth, _ = labels_of(crops)

    def share(keypoints):
        matched = by_name(keypoints, skeleton, people.skeleton)
        return pck(matched, truth, torso_size(truth, people.skeleton), people.skeleton).at(0.2)

    assert share(found) > 1.5 * share(found[:, list(skeleton.flip_indices)])


# ------------------------------------------------------------------------------------------ accuracy, tables


def test_given_boxes_score_one_where_every_keypoint_is_right(tmp_path):
    pytest.importorskip("pycocotools")
    people = KeypointSet("made", COCO17)
    keypoints = np.random.default_rng(0).uniform(10, 90, (3, 17, 3)).astype(np.float32)
    keypoints[..., 2] = 2
    keypoints[1, 3, 2] = 1  # hidden: counts for AP
    people.add(tmp_path / "a.jpg", keypoints[:2], boxes=[(10, 10, 80, 80)] * 2)
    people.add(tmp_path / "b.jpg", keypoints[2:], boxes=[(10, 10, 80, 80)])
    crops = accuracy.PersonCrops(people, (64, 64), box="annotated")
    right = accuracy.given_boxes_ap(crops, keypoints[..., :2], np.ones((3, 17)), COCO17)
    wrong = accuracy.given_boxes_ap(crops, keypoints[::-1, :, :2], np.ones((3, 17)), COCO17)
    assert right.ap == pytest.approx(1.0)
    assert wrong.ap < 0.7


def test_cards_say_how_each_set_was_measured():
    told = {name: about.protocol for name, about in accuracy.DATASETS.items()}
    assert told == {
        "coco_people": "person box x 1.25, visible keypoints, not trained on",
        "lspet": "keypoint box x 1.35, in-domain",
    }


def test_standard_error_counts_people_not_joints():
    distances = np.full((40, 17), np.nan)
    distances[:20, 5:] = 0.1
    distances[20:, 5:] = 0.9
    scores = PCK(distances, COCO17)
    assert scores.at(0.2) == 0.5
    # Twelve joints that stand and fall together are one draw: a coin thrown 40 times.
    assert accuracy.standard_error(scores) == pytest.approx(0.5 / np.sqrt(40))


def test_markdown_table():
    table = report.markdown_table(("name", "ms"), [("a|b", "1.5"), ("c", None)])
    assert table.splitlines() == ["| name | ms |", "|---|---:|", "| a\\|b | 1.5 |", "| c | not measured |"]
    with pytest.raises(ValueError, match=r"expected 2 cells \(name, ms\), got 1"):
        report.markdown_table(("name", "ms"), [("a",)])
    assert report.markdown_table(("name",), []).splitlines() == ["| name |", "|---|"]


def test_results_are_written_as_json_and_markdown(tmp_path, capsys):
    record = {"environment": report.environment("numpy", "no-such-package")}
    report.write_results(tmp_path / "new", "speed", record, "# Speed\n")
    read = json.loads((tmp_path / "new" / "speed.json").read_text())["environment"]
    assert read["versions"]["numpy"] == np.__version__
    assert read["versions"]["no-such-package"] is None
    assert read["cpu"]
    assert "no-such-package" not in report.machine_line(read)
    assert (tmp_path / "new" / "speed.md").read_text() == "# Speed\n"


def timing(network_ms):
    from posezoo.evaluation.latency import Timing

    return Timing(network_ms, 0.5, 0.1, 10)


def test_latency_rows_are_relative_to_the_yardstick():
    about = {"kind": "posezoo", "precision": "int8", "input": "192x192", "bytes": 10}
    rows = latency.rows_of({"ours": timing(8.0), peers.YARDSTICK: timing(4.0)}, {"ours": about, peers.YARDSTICK: about})
    assert [(r["model"], r["ratio"]) for r in rows] == [(peers.YARDSTICK, 1.0), ("ours", 2.0)]
    assert latency.rows_of({"ours": timing(8.0)}, {"ours": about})[0]["ratio"] is None


def test_points_join_the_same_precision_without_flip():
    measured = [
        {"model": "a", "precision": "float32", "flip": False, "dataset": "coco_people", "value": 0.9},
        {"model": "a", "precision": "int8", "flip": True, "dataset": "coco_people", "value": 0.8},
        {"model": "a", "precision": "int8", "flip": False, "dataset": "lspet", "value": 0.7},
        {"model": "a", "precision": "int8", "flip": False, "dataset": "coco_people", "value": 0.6},
    ]
    timed = [
        {"model": "a", "precision": "int8", "kind": "posezoo", "network_ms": 2.0, "decode_ms": 0.5},
        {"model": "b", "precision": "int8", "kind": "peer", "network_ms": 2.0, "decode_ms": None},
    ]
    assert latency.points(timed, measured) == [{"model": "a", "kind": "posezoo", "total_ms": 2.5, "pck": 0.6}]


def test_scatter_plot_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    joined = [
        {"model": f"network_{i}", "kind": ("posezoo", "peer")[i % 2], "total_ms": 2 + i / 9, "pck": 0.5 + i / 99}
        for i in range(9)
    ]
    latency.plot(joined, tmp_path / "new" / "a.png", threads=1, where="a phone")
    latency.plot(joined[:1], tmp_path / "new" / "b.png", threads=2, where="a phone")
    assert (tmp_path / "new" / "a.png").stat().st_size > 5000


def test_files_of_ones_own_are_checked(tmp_path):
    (tmp_path / "mine.tflite").touch()
    assert latency.parse_file(f"some_model={tmp_path}/mine.tflite") == ("some_model", f"{tmp_path}/mine.tflite")
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=PATH"):
        latency.parse_file("mine.tflite")
    with pytest.raises(argparse.ArgumentTypeError, match="no such file; expected a TFLite file of model 'a'"):
        latency.parse_file("a=nowhere.tflite")


def test_speed_rows_compare_training_with_tensorflow_and_the_pipeline_with_training():
    speed = script("benchmarks/training_speed.py")
    measured = {
        variant: {"pictures_per_s": rate, "quartile_spread": 0.0}
        for variant, rate in (("tensorflow", 10.0), ("native_bfloat16", 30.0), ("pipeline_decoding", 60.0))
    }
    rows = speed.rows_of({"small": measured})
    assert [r["ratio"] for r in rows] == [1.0, 3.0, 2.0]
    record = {
        "rows": rows, "command": "x", "environment": report.environment(),
        "settings": {"threads": 0, "batch": 4, "turns": 2, "steps": 1, "workers": 2},
    }  # fmt: skip
    assert "| `small` | NativeTorch, bfloat16 | 30.0 | 0.0 | 3.00 |" in speed.markdown(record)


def test_a_worker_that_dies_says_why(tmp_path):
    speed = script("benchmarks/training_speed.py")
    settings = {"model": "mobilenet_split_035_160", "dataset": "lsp", "data": str(tmp_path / "nowhere"), "batch": 2}
    with pytest.raises(RuntimeError, match=r"pipeline_decoding: the process ended with code 1:[\s\S]*nowhere"):
        speed.Worker("pipeline_decoding", {**settings, "workers": 1, "turns": 1, "pipeline_steps": 1, "threads": 0})
