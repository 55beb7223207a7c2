"""The command, as a user types it."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from posezoo.cli import main
from posezoo.commands import export, training
from posezoo.commands.common import find_pictures
from posezoo.zoo import list_models

#: One person in a crop.
MODEL = next(iter(list_models("mobilenet*", runtime="tflite")), None)
FAST = ("--model", MODEL, "--runtime", "tflite")
released = pytest.mark.skipif(MODEL is None, reason="no released int8 file in the package")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "000000000042.jpg"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    return folder


def run(capsys, *argv) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@released
def test_predict_folder(capsys, photos, tmp_path):
    code, out, err = run(capsys, "predict", photos, *FAST, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "3 picture(s), 3 pose(s)" in out
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["000000000042_poses.jpg", "a_poses.jpg", "b_poses.png", "results.json"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {r["file_name"]: r["image_id"] for r in results} == {"000000000042.jpg": 42, "a.jpg": 2, "b.png": 3}
    assert all(len(r["keypoints"]) == 42 for r in results)


@released
def test_predict_glob_and_boxes(capsys, photos, tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.jpg": [[1, 2, 30, 40], [20, 2, 30, 50]]}))
    code, out, _ = run(capsys, "predict", photos / "*.jpg", "--boxes", boxes, *FAST, "-o", tmp_path / "out")
    assert code == 0
    assert "2 picture(s), 3 pose(s)" in out
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps([{"file_name": "a.jpg", "bbox": [1, 2, 30, 40]}]))
    assert run(capsys, "predict", photos / "a.jpg", "--boxes", listed, *FAST, "-o", tmp_path / "o")[0] == 0


@released
def test_predict_fills_holes_of_depth_alone(capsys, photos, tmp_path):
    code, _, err = run(capsys, "predict", photos, *FAST, "--inpaint", "-o", tmp_path / "out")
    assert code == 2
    assert "--inpaint fills holes of depth frames" in err


@released
def test_predict_strange_pictures(capsys, tmp_path):
    folder = tmp_path / "strange"
    folder.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "one.png"), np.zeros((1, 1, 3), np.uint8))
    cv2.imwrite(str(folder / "grey.png"), rng.integers(0, 255, (40, 30), dtype=np.uint8))
    cv2.imwrite(str(folder / "rgba.png"), rng.integers(0, 255, (40, 30, 4), dtype=np.uint8))
    cv2.imwrite(str(folder / "deep.png"), rng.integers(0, 65535, (40, 30, 3), dtype=np.uint16))
    cv2.imwrite(str(folder / "large.png"), np.zeros((20000, 20000), np.uint8))
    code, out, err = run(capsys, "predict", folder, *FAST, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "5 picture(s), 5 pose(s)" in out
    (folder / "large.png").unlink()
    (tmp_path / "out" / "large_poses.png").unlink()


@released
def test_one_bad_picture_does_not_lose_the_others(capsys, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"not a picture")
    code, out, err = run(capsys, "predict", photos, *FAST, "-o", tmp_path / "out")
    assert code == 1
    assert "broken.jpg: not a picture" in err
    assert err.count("\n") == 1
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 3


@released
@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0 truncated"])
def test_file_that_is_no_picture(capsys, tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    code, _, err = run(capsys, "predict", path, *FAST, "-o", tmp_path / "out")
    assert code == 2
    assert "text.jpg: not a picture" in err
    assert err.count("\n") == 1


def test_empty_folder(capsys, tmp_path):
    code, _, err = run(capsys, "predict", tmp_path)
    assert code == 2
    assert "the folder holds no picture" in err
    assert err.count("\n") == 1


def test_missing_file(capsys, tmp_path):
    code, _, err = run(capsys, "predict", tmp_path / "none.jpg")
    assert (code, err) == (2, f"posezoo: {tmp_path / 'none.jpg'}: no such file or folder\n")


def test_unknown_model_suggests_one(capsys, photos):
    code, _, err = run(capsys, "predict", photos, "--model", "mobilenet_splt_224")
    assert code == 2
    assert "did you mean 'mobilenet_split_224'" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[1]", '{"a.jpg": 3}', '{"a.jpg": [["x", 1, 2, 3]]}'])
def test_bad_boxes_file(capsys, photos, tmp_path, content):
    (tmp_path / "boxes.json").write_text(content)
    code, _, err = run(capsys, "predict", photos, "--boxes", tmp_path / "boxes.json")
    assert code == 2
    assert 'expected {"photo.jpg": [[x, y, width, height]]}' in err


def test_pictures_of_one_name_in_two_folders_stay_apart(tmp_path, photos):
    other = tmp_path / "other"
    other.mkdir()
    cv2.imwrite(str(other / "a.jpg"), np.zeros((9, 9, 3), np.uint8))
    assert len(find_pictures([str(photos), str(other), str(photos / "a.jpg")])) == 4


@released
def test_demo(capsys, tmp_path):
    pytest.importorskip("skimage")
    code, out, _ = run(capsys, "demo", "-o", tmp_path)
    assert code == 0
    assert "astronaut: person 1" in out
    assert "left_shoulder" in out
    for name in ("astronaut", "camera"):
        assert cv2.imread(str(tmp_path / f"{name}_poses.png")).shape == (512, 512, 3)


def test_list_shows_three_licences(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, "list", "mobilenet_split_224")
    assert code == 0
    assert "Apache-2.0" in out
    for column in ("code licence", "weights licence", "data licence"):
        assert column in out
    assert run(capsys, "list", "zebra*")[0] == 2


def test_info_shows_the_card(capsys):
    code, out, _ = run(capsys, "info", "mobilenet_split_224")
    assert code == 0
    for part in ("licence      data", "2,295,", "limits", "retrain"):
        assert part in out


@pytest.mark.parametrize("command", ["predict", "demo", "list", "info", "eval", "train", "export", "bench"])
def test_every_command_has_a_manual(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 8
    assert "(default:" in out or command in ("list", "info", "train")


@released
def test_eval_writes_numbers_and_plot(capsys, tmp_path, stick_figures):
    pytest.importorskip("matplotlib")
    code, out, _ = run(
        capsys, "eval", MODEL, "--data", stick_figures, "--plot", tmp_path / "pck.png", "--json", tmp_path / "pck.json"
    )
    assert code == 0
    assert "limb joints" in out
    assert json.loads((tmp_path / "pck.json").read_text())["people"] == 2
    assert cv2.imread(str(tmp_path / "pck.png")).shape[0] > 300


@released
def test_bench(capsys):
    code, out, _ = run(capsys, "bench", MODEL, "--runs", "3")
    assert code == 0
    assert "network ms" in out


def test_train_runs_the_recipe_with_the_card_settings(monkeypatch):
    seen = {}
    monkeypatch.setattr(training.runpy, "run_path", lambda path, run_name: seen.update(argv=list(sys.argv), path=path))
    monkeypatch.setattr(sys, "argv", ["posezoo"])
    assert main(["train", "mobilenet_split_050_192", "--data", "here", "--smoke"]) == 0
    assert Path(seen["path"]).name == "train_mobilenet_split.py"
    assert seen["argv"][1:3] == ["--model", "mobilenet_split_050_192"]
    assert seen["argv"][-3:] == ["--data", "here", "--smoke"]


def test_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["list", "--smoke"])
    assert caught.value.code == 2


def test_export_passes_the_gates(capsys, tmp_path, photos, monkeypatch, tiny_network, tiny_card):
    pytest.importorskip("tensorflow")

    class Loaded:
        network = tiny_network

    monkeypatch.setattr(export, "info", lambda name: tiny_card)
    monkeypatch.setattr(export, "load", lambda *args, **kwargs: Loaded)
    out = tmp_path / "tiny.tflite"
    code, told, err = run(capsys, "export", "mobilenet_split_224", "--calibration", photos, "-o", out)
    assert code == 0, err
    assert "gates passed" in told
    assert "of 256 levels used" in told
    assert out.exists()
    assert (tmp_path / "tiny.tflite.json").exists()
