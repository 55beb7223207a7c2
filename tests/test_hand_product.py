"""The hand models as users meet them: cards, pictures in, keypoints with depth out, commands, files, scores."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripts import script

import posezoo
from posezoo import cli
from posezoo.cards import read_card
from posezoo.codecs.hand import HandCodec
from posezoo.commands import common, export
from posezoo.data.drawn_hands import DrawnHands
from posezoo.data.hand_frames import HIDDEN, SEEN, UNKNOWN
from posezoo.data.hands import HandScenes
from posezoo.evaluation.hands import Found, find_hands, score_hands
from posezoo.inference.drawing import draw_depths
from posezoo.inference.estimator import PoseModel
from posezoo.inference.images import ImageError
from posezoo.inference.lifting import Pinhole, lift
from posezoo.inference.poses import Poses
from posezoo.inference.runners import normalise
from posezoo.skeletons import HAND16, HAND34
from posezoo.synth.hand_folders import HandFolderError, labelled_hands

ROOT = Path(__file__).parents[1]
COLUMNS = [HAND34.index(k) for k in HAND16.keypoints]


class Knows:
    """A runner that knows the answer: maps that peak at a frame's keypoints."""

    name = "keras"

    def __init__(self, frame, *, hands=(True, True), wh=(224, 168)):
        x, y = ((np.arange(side // 2) + 0.5) * 2 - 0.5 for side in wh)
        points = frame.keypoints[COLUMNS, :2]
        squared = (x[None, :, None] - points[:, 0]) ** 2 + (y[:, None, None] - points[:, 1]) ** 2
        self.maps = (-squared / 8).astype(np.float32)
        seen = np.where(frame.keypoints[COLUMNS, 2] == SEEN, 6.0, -6.0)
        self.visibility = np.concatenate([seen, np.where(hands, 6.0, -6.0)]).astype(np.float32)
        self.given = None

    def __call__(self, images):
        self.given = images
        return {
            "heatmaps": np.repeat(self.maps[None], len(images), axis=0),
            "visibility": np.repeat(self.visibility[None], len(images), axis=0),
        }


def two_hands():
    """A frame of two hands that show all their keypoints."""
    frames = map(DrawnHands(200).__getitem__, range(200))
    return next(f for f in frames if f.present.all() and (f.keypoints[COLUMNS, 2] == SEEN).all())


@pytest.fixture
def known(monkeypatch):
    """A frame of two hands, and models that know it."""
    frame = two_hands()
    runner = Knows(frame)

    def model(name: str, **kwargs) -> PoseModel:
        return PoseModel(read_card(name), runner)

    monkeypatch.setattr("posezoo.load", model)
    monkeypatch.setattr(common, "load", model)
    return frame, runner


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


# -------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name, colour", [("hand25d", "amplitude"), ("hand25d_depth", "depth")])
def test_cards_and_networks(name, colour):
    keras = pytest.importorskip("keras")
    card = read_card(name)
    assert (card.input.colour, card.input.shape, card.skeleton) == (colour, (168, 224, 1), HAND16)
    assert (card.size["params"], card.size["macs"]) == (41_682, 34_810_752)
    network = posezoo.build(name)
    assert isinstance(network, keras.Model)
    assert {k: v.shape for k, v in network.output.items()} == {
        "heatmaps": (None, 84, 112, 16), "visibility": (None, 18)
    }  # fmt: skip
    paper = posezoo.build(name, visibility=False, enlarge=True)
    assert sum(int(np.prod(v.shape)) for v in paper.trainable_variables) == 40_512
    assert paper.output["heatmaps"].shape == (None, 168, 224, 16)


def test_amplitude_in_keypoints_out(known):
    frame, runner = known
    hands = posezoo.load("hand25d")(frame.amplitude)
    assert len(hands) == 1
    np.testing.assert_allclose(hands.keypoints[0], frame.keypoints[COLUMNS, :2], atol=0.2)
    assert runner.given.dtype == np.uint8
    eight = np.rint(255 * np.sqrt(frame.amplitude / 65535)).astype(np.uint8)
    np.testing.assert_array_equal(runner.given[0, ..., 0], eight)
    posezoo.load("hand25d")(eight)
    np.testing.assert_array_equal(runner.given[0, ..., 0], eight, err_msg="pictures of 8 bits are taken as they are")
    posezoo.load("hand25d_depth")(frame.depth)
    assert runner.given.dtype == np.float32 and runner.given.max() <= 1.5


def test_no_hand_is_no_pose(known):
    frame, runner = known
    runner.visibility[16:] = -6
    assert len(posezoo.load("hand25d")(frame.amplitude)) == 0
    runner.visibility[17] = 6
    hands = posezoo.load("hand25d")(frame.amplitude)
    assert (hands.scores[0, :8] == 0).all() and hands.scores[0, 8:].max() > 0.9


def test_lifting_gives_millimetres(known):
    frame, _ = known
    hands = posezoo.load("hand25d")(frame.amplitude)
    points = lift(hands, frame.depth / np.float32(1000), Pinhole(*frame.camera))
    truth = frame.keypoints_mm[COLUMNS]
    seen = hands.scores[0] > 0.5
    assert seen.sum() >= 10
    lifted = seen & np.isfinite(points[0, :, 2])
    assert lifted.sum() >= 0.7 * seen.sum()
    assert np.median(np.linalg.norm(points[0, lifted] - truth[lifted], axis=1)) < 3
    np.testing.assert_array_equal(hands.depth[0], points[0, :, 2])
    assert np.isnan(hands.depth[0, ~seen]).all()
    assert lift(hands, frame.depth / np.float32(1000)) is None, "without a camera there is depth alone"
    np.testing.assert_allclose(hands.depth[0, lifted], truth[lifted, 2], atol=1)
    nobody = Poses.empty(HAND16)
    assert lift(nobody, frame.depth / np.float32(1000), Pinhole(*frame.camera)).shape == (0, 16, 3)


def test_depths_are_written_into_pictures():
    image = np.full((60, 80, 3), 90, np.uint8)
    keypoints = np.random.default_rng(0).uniform(10, 50, (1, 16, 2))
    poses = Poses(keypoints, np.full((1, 16), 0.9), HAND16, depth=np.full((1, 16), 512.0))
    told = draw_depths(image, poses)
    assert told.shape == (480, 640, 3)
    poses.depth = np.full((1, 16), np.nan)
    silent = draw_depths(image, poses)
    assert (told != silent).any(axis=-1).mean() > 0.005
    assert draw_depths(np.zeros((600, 700, 3), np.uint8), poses).shape == (600, 700, 3)


# -------------------------------------------------------------------------------------------- commands


@pytest.fixture
def files(tmp_path, known):
    frame, _ = known
    for kind in ("amplitude", "depth"):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "a.png"), getattr(frame, kind))
    return tmp_path


def test_predict_lifts(capsys, files, known):
    frame, _ = known
    camera = ",".join(map(str, frame.camera))
    code, told, err = run(
        capsys, "predict", files / "amplitude" / "a.png", "--model", "hand25d", "--depth", files / "depth" / "a.png",
        "--camera", camera, "-o", files / "out",
    )  # fmt: skip
    assert code == 0, err
    (result,) = json.loads((files / "out" / "results.json").read_text())
    assert len(result["keypoints"]) == 48 and len(result["depth_mm"]) == 16 and len(result["points_mm"]) == 48
    wrist = HAND16.index("left_wrist")
    truth = frame.keypoints_mm[HAND34.index("left_wrist")]
    if result["depth_mm"][wrist] is not None:
        np.testing.assert_allclose(result["points_mm"][3 * wrist : 3 * wrist + 3], truth, atol=8)
    assert cv2.imread(str(files / "out" / "a_poses.png")).shape == (504, 672, 3)
    code, *_ = run(
        capsys, "predict", files / "amplitude", "--model", "hand25d", "--depth", files / "depth", "-o", files / "out"
    )  # fmt: skip
    (result,) = json.loads((files / "out" / "results.json").read_text())
    assert code == 0 and "depth_mm" in result and "points_mm" not in result
    code, *_ = run(
        capsys, "predict", files / "depth", "--model", "hand25d_depth", "--camera", camera, "-o", files / "out"
    )  # fmt: skip
    (result,) = json.loads((files / "out" / "results.json").read_text())
    assert code == 0 and len(result["points_mm"]) == 48


def test_predict_refuses_what_does_not_fit(capsys, files):
    picture = files / "amplitude" / "a.png"
    common = ("predict", picture, "--model", "hand25d", "-o", files / "out")
    for flags, expected in (
        (("--camera", "1,2,3,4"), "give the frames with --depth"),
        (("--depth", picture, "--camera", "1,2"), "expected fx,fy,cx,cy in pixels"),
        (("--depth", files / "none.png"), "no such depth frame"),
    ):
        code, _, err = run(capsys, *common, *flags)
        assert code == 2 and expected in err, err
    small = files / "small.png"
    cv2.imwrite(str(small), np.full((20, 30), 500, np.uint16))
    code, _, err = run(capsys, *common, "--depth", small)
    assert code == 2 and "30x20, the picture 224x168" in err
    code, _, err = run(capsys, *common[:1], files / "amplitude", files / "depth", *common[2:], "--depth", small)
    assert code == 2 and "need a folder" in err


def test_demo_draws_a_rendered_frame(capsys, monkeypatch, tmp_path, known):
    frame, _ = known
    fake = types.ModuleType("posezoo.synth.hand_frames")
    fake.demo_frame = lambda seed=0: frame
    monkeypatch.setitem(sys.modules, "posezoo.synth.hand_frames", fake)
    for name in ("hand25d", "hand25d_depth"):
        code, told, err = run(capsys, "demo", "--model", name, "-o", tmp_path / name)
        assert code == 0, err
        assert "depth mm" in told and "left_index_tip" in told
        assert cv2.imread(str(tmp_path / name / "hands_poses.png")).shape == (504, 672, 3)


def test_eval_measures_hands(capsys, monkeypatch, tmp_path):
    frame = DrawnHands(1, seed=3)[0]
    monkeypatch.setattr(
        common, "load", lambda name, **kwargs: PoseModel(read_card(name), Knows(frame, hands=frame.present))
    )
    arguments = ("eval", "hand25d", "--dataset", "hands", "--data", "drawn:1:3", "--json", tmp_path / "scores.json")
    code, told, err = run(capsys, *arguments)
    assert code == 0, err
    assert "index_tip" in told
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["error_px"] < 0.3 and scores["pck"] == 1 and scores["hands"] == scores["seen"] == 1
    code, _, err = run(capsys, "eval", "hand25d", "--data", "x")
    assert code == 2 and "hand models take 'hands' alone" in err
    code, _, err = run(capsys, "eval", "hand25d", "--dataset", "hands", "--data", tmp_path)
    assert code == 2 and "no labelled hands" in err


def test_export_writes_c(capsys, monkeypatch, tmp_path, tiny_int8):
    (tmp_path / "tiny.tflite").write_bytes(tiny_int8)
    card = types.SimpleNamespace(weights={"int8": "spec"})
    monkeypatch.setattr(export, "info", lambda name: card)
    monkeypatch.setattr("posezoo.weights.fetch", lambda spec: tmp_path / "tiny.tflite")
    code, told, err = run(capsys, "export", "hand25d", "--to", "c", "-o", tmp_path / "hand25d.h")
    assert code == 0, err
    text = (tmp_path / "hand25d.h").read_text()
    assert "unsigned char hand25d_int8[]" in text and "#define HAND25D_INT8_ARENA_BYTES" in text
    assert "CONV_2D" in told and "arena about" in told
    code, _, err = run(capsys, "export", "hand25d", "--to", "c", "-o", tmp_path / "hand25d.c")
    assert code == 2 and "ends in .h" in err
    card.weights = {}
    code, _, err = run(capsys, "export", "hand25d", "--to", "c", "-o", tmp_path / "hand25d.h")
    assert code == 2 and "no int8 file is released" in err


# ----------------------------------------------------------------------------------------------- files


#: Untrained features differ little from picture to picture, so that int8's steps weigh much in the visibility head.
LOOSE = {"min_psnr_db": 5.0}


@pytest.fixture(scope="module")
def pictures():
    scenes = HandScenes(DrawnHands(12), (224, 168))
    light = np.linspace(0.3, 3, 12)
    return [np.clip(scenes.crop(i).image * light[i], 0, 255).astype(np.uint8) for i in range(12)]


@pytest.fixture(scope="module")
def network(pictures):
    """The released form, with weights of some size and a visibility head that tells pictures apart."""
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    keras.utils.set_random_seed(3)
    network = posezoo.build("hand25d")
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [gamma * rng.uniform(0.8, 1.4, gamma.shape), rng.uniform(0, 0.5, beta.shape), mean, variance]
            )
    kernel, bias = network.get_layer("visibility").get_weights()
    network.get_layer("visibility").set_weights([20 * kernel, bias])
    same = network(normalise(np.stack(pictures), read_card("hand25d").input))["visibility"]
    network.get_layer("visibility").set_weights([20 * kernel, -np.mean(same, axis=0)])
    return network


def test_int8_file_is_small_and_whole(network, pictures, tmp_path):
    """Under 100 kB, one type throughout, and on Edge TPU's list without groups and dilation."""
    from posezoo.export.c_array import arena_bytes
    from posezoo.export.rewrite import combed, without_groups
    from posezoo.export.tflite import export_tflite, operators

    spec, out = read_card("hand25d").input, tmp_path / "hand25d_int8.tflite"
    sidecar = export_tflite(network, spec, out, calibration=pictures, check_pictures=np.stack(pictures), **LOOSE)
    assert sidecar["bytes"] < 90_000
    assert min(row["psnr_db"] for row in sidecar["gates"] if row["output"] == "heatmaps") > 30
    kinds = {name.split(" ")[0] for name in sidecar["operators"]}
    assert kinds <= {
        "ADD", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "MEAN", "MUL",
        "RESHAPE", "RESIZE_BILINEAR", "TRANSPOSE",
    }, "no DEQUANTIZE: the visibility head must not force float islands into the decoder"  # fmt: skip
    assert arena_bytes(out.read_bytes()) < 400_000
    model = PoseModel(read_card("hand25d"), posezoo.load("hand25d", weights=str(out)).runner)
    assert model(np.zeros((168, 224), np.uint16)).keypoints.shape[1:] == (16, 2)
    plain = export_tflite(
        combed(without_groups(network)), spec, tmp_path / "x.tflite", calibration=pictures,
        check_pictures=np.stack(pictures), **LOOSE,
    )  # fmt: skip
    assert plain["bytes"] > sidecar["bytes"]
    float_bytes = export_tflite(network, spec, tmp_path / "f.tflite", check_pictures=np.stack(pictures), **LOOSE)[
        "bytes"
    ]
    assert float_bytes < 300_000
    assert operators((tmp_path / "f.tflite").read_bytes())


# ---------------------------------------------------------------------------------------------- scores


def found_of(frame, moved: np.ndarray, *, visibility=None, **classes) -> Found:
    return Found(frame.keypoints, frame.present, frame.keypoints[COLUMNS, :2] + moved, visibility, **classes)


def test_scores_by_hand():
    frame = two_hands()
    frame.keypoints[:, 2] = SEEN
    moved = np.zeros((16, 2))
    moved[HAND16.index("left_index_tip")] = [30, 40]
    scores = score_hands([found_of(frame, moved)])
    assert scores.error_px == pytest.approx(50 / 16, abs=1e-3)
    assert scores.error_of["index_tip"] == pytest.approx(25, abs=1e-3)
    assert scores.error_of["wrist"] == pytest.approx(0, abs=1e-3)
    assert scores.pck == pytest.approx(15 / 16)
    assert scores.pck_of["index_tip"] == 0.5
    assert (scores.frames, scores.counted) == (1, 16)
    assert np.isnan(scores.hands) and np.isnan(scores.pose)
    labelled = frame.keypoints[:17]
    side = np.ptp(labelled[:, :2], axis=0).max()
    moved[HAND16.index("left_index_tip")] = [0.099 * side, 0]
    assert score_hands([found_of(frame, moved)]).pck == 1
    moved[HAND16.index("left_index_tip")] = [0.101 * side, 0]
    assert score_hands([found_of(frame, moved)]).pck == pytest.approx(15 / 16)


def test_hidden_keypoints_are_told_apart_and_missing_hands_do_not_count():
    frame = two_hands()
    frame.keypoints[:, 2] = SEEN
    frame.keypoints[17:, 2], frame.present = UNKNOWN, np.array([True, False])
    frame.keypoints[HAND34.index("left_wrist"), 2] = HIDDEN
    moved = np.full((16, 2), [3.0, 4.0])
    moved[8:] = 900
    visibility = np.array([1.0] * 7 + [0.0] + [0.0] * 8 + [0.9, 0.8])
    answer = (np.array([3, -1]), np.array([3, 5])), (np.array([1, -1]), np.array([2, 2]))
    scores = score_hands([found_of(frame, moved, visibility=visibility, orientation=answer[0], pose=answer[1])])
    assert scores.error_px == pytest.approx(5, abs=1e-3) and scores.hidden_px == pytest.approx(5, abs=1e-3)
    assert scores.counted == 7
    assert (scores.hands, scores.seen) == (0.5, 1.0)
    assert (scores.orientation, scores.pose) == (1.0, 0.0)


def test_find_hands_reads_every_head():
    scenes = HandScenes(DrawnHands(3), (224, 168))
    frame = two_hands()

    def knows(images):
        classes = {"orientation": np.zeros((len(images), 16)), "pose": np.eye(18)[[10] * len(images)]}
        return {**Knows(frame, hands=(False, False))(images), **classes}

    found = find_hands(knows, scenes, HandCodec((224, 168), 2), batch=2)
    assert len(found) == 3
    np.testing.assert_allclose(found[0].keypoints, frame.keypoints[COLUMNS, :2], atol=0.3)
    assert found[0].pose[1].tolist() == [0, 1]
    assert found[0].visibility.shape == (18,) and found[0].visibility[16:].max() < 0.01


def test_folders_that_hold_no_hands_are_told(tmp_path):
    assert len(labelled_hands("drawn:5:1")) == 5
    with pytest.raises(HandFolderError, match="no labelled hands; expected what 'posezoo synth --hands' writes"):
        labelled_hands(tmp_path)


# ------------------------------------------------------------------------------------------ benchmarks


@pytest.fixture(scope="module")
def benchmarks():
    return {name: script(f"benchmarks/{name}.py") for name in ("hands", "hand_speed")}


def test_accuracy_benchmark(benchmarks, network, tmp_path):
    weights = tmp_path / "mine.weights.h5"
    network.save_weights(weights)
    benchmarks["hands"].main(
        ["--data", "drawn:4:2", "--weights", f"hand25d={weights}", "--models", "hand25d", "--out", str(tmp_path)]
    )
    record = json.loads((tmp_path / "hands.json").read_text())
    (row,) = [r for r in record["rows"] if r["model"] == "hand25d"]
    assert row["precision"] == "float32" and row["parts"]["all"]["frames"] == 4
    assert row["parts"]["all"]["error_px"] > 5
    assert "| `hand25d` | float32 | all | 4 |" in (tmp_path / "hands.md").read_text()
    with pytest.raises(SystemExit, match="no such file; expected NAME=FILE"):
        benchmarks["hands"].main(["--data", "drawn:4:2", "--weights", "hand25d=nowhere.h5", "--out", str(tmp_path)])


@pytest.mark.slow
def test_speed_benchmark(benchmarks, monkeypatch, tmp_path):
    pytest.importorskip("tensorflow")
    forms = benchmarks["hand_speed"].forms()
    monkeypatch.setattr(benchmarks["hand_speed"], "forms", lambda: {"hand25d": forms["hand25d"]})
    flags = ["--runs", "3", "--precisions", "int8", "--shared", str(tmp_path), "--out", str(tmp_path)]
    record = benchmarks["hand_speed"].main(flags)
    (row,) = record["rows"]
    assert row["params"] == 41_682 and row["bytes"] < 100_000
    assert 0 < row["decode_ms"] < 5 and 0 < row["decode_alone_ms"] < 5
    assert row["ratio"] is None
    assert "MMACs" in (tmp_path / "hand_speed.md").read_text()


def test_drawn_maps_decode_to_hands(benchmarks):
    codec = HandCodec((224, 168), 2)
    maps = codec.merge({k: v[0] for k, v in benchmarks["hand_speed"].drawn_outputs(codec).items()})
    keypoints, scores, people = codec.decode(maps, HAND16)
    assert len(people) == 1 and scores.min() > 0.9
    assert (keypoints[0, 8:, 0] > keypoints[0, :8, 0].min()).all()


def test_depth_of_another_size_is_told():
    from posezoo.inference.lifting import same_view

    with pytest.raises(ImageError, match="expected the same view"):
        same_view((10, 20), np.zeros((10, 21)))
