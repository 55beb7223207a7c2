"""The recipe: smoke runs, and a run that is killed and goes on as if nothing had happened."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scripts import script

pytest.importorskip("tensorflow")

from posezoo.training.run import Checkpoint, RunError  # noqa: E402

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "train_mobilenet_split.py"
BOTTOM_UP = ROOT / "recipes" / "train_efficienthrnet.py"
CLASSIFIER = ROOT / "recipes" / "train_compact_efficientnet.py"


def start(out: Path, *flags: str, backend: str = "tensorflow", recipe: Path = RECIPE) -> subprocess.Popen:
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(recipe), "--out", str(out), *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def trained(out: Path, *flags: str, recipe: Path = RECIPE) -> list[dict]:
    """The history of a run in this process, which has TensorFlow already."""
    script(str(recipe.relative_to(ROOT))).main(["--out", str(out), *flags])
    return history(out)


def history(out: Path) -> list[dict]:
    return json.loads((out / "run.json").read_text())["history"]


def test_smoke_run_writes_weights_and_record(tmp_path, eager, capsys):
    trained(tmp_path, "--smoke", "--tensorboard")
    assert "best validation PCK@0.2" in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["frozen_steps"] == 1
    assert record["versions"]["keras"]
    assert len(record["history"]) == 2
    assert all(np.isfinite(row["loss"]) for row in record["history"])
    assert (tmp_path / "best.weights.h5").exists()
    assert list((tmp_path / "tensorboard").rglob("events*"))


def test_smoke_run_mixed_precision_on_two_devices(tmp_path):
    finish(start(tmp_path, "--smoke", "--devices", "2", "--precision", "bfloat16"))
    assert len(history(tmp_path)) == 2


@pytest.mark.parametrize("model", ["mobilenet_regression_224", "mobilenet_split_regression_224"])
def test_smoke_run_of_a_regression_baseline(tmp_path, model, eager):
    assert len(trained(tmp_path, "--smoke", "--model", model, "--width", "0.35", "--input-px", "64")) == 2


SHORT = (
    "--batch", "2", "--frozen-steps", "3", "--steps", "15", "--width", "0.35", "--input-px", "64",
    "--patience", "1", "--ema", "0.9", "--colour", "0.5", "--cutout", "0.5", "--threads", "1",
)  # fmt: skip


def test_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, stick_figures):
    flags = (*SHORT, "--data", str(stick_figures))
    finish(start(tmp_path / "whole", *flags))
    killed = tmp_path / "killed"
    process = start(killed, *flags)
    deadline = time.monotonic() + 240
    while not (killed / "run.json").exists() or len(history(killed)) < 2:
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(history(killed))
    assert done < 5, "the run was over before it could be killed"
    finish(start(killed, *flags))
    whole, resumed = history(tmp_path / "whole"), history(killed)
    assert [row["epoch"] for row in resumed] == [0, 1, 2, 3, 4]
    for a, b in zip(whole, resumed, strict=True):
        for key in ("loss", "val_pck", "learning_rate"):
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-7), (a, b)
    with np.load(tmp_path / "whole" / "state.npz") as a, np.load(killed / "state.npz") as b:
        assert set(a.files) == set(b.files)
        assert json.loads(str(a["json"]))["plateau"] == json.loads(str(b["json"]))["plateau"]
        for key in set(a.files) - {"json"}:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-3, atol=1e-4, err_msg=key)


def test_run_with_other_settings_is_refused(tmp_path, stick_figures, eager):
    flags = ("--data", str(stick_figures), "--batch", "2", "--width", "0.35", "--input-px", "64", "--frozen-steps", "0")
    trained(tmp_path, *flags, "--steps", "1")
    with pytest.raises(RunError, match="sigma was 1.5, now 2.5"):
        trained(tmp_path, *flags, "--steps", "1", "--sigma", "2.5")


def test_distillation_and_narrow_start(tmp_path, stick_figures, eager):
    flags = ("--data", str(stick_figures), "--batch", "2", "--input-px", "64", "--frozen-steps", "0", "--steps", "2")
    trained(tmp_path / "wide", *flags, "--width", "1.0")
    wide = str(tmp_path / "wide" / "best.weights.h5")
    rows = trained(tmp_path / "narrow", *flags, "--width", "0.5", "--narrow-from", wide, "--teacher", wide)
    assert np.isfinite(rows[-1]["loss"])


def test_torch_path_trains_too(tmp_path):
    pytest.importorskip("torch")
    finish(start(tmp_path, "--smoke", backend="torch"))
    assert len(history(tmp_path)) == 2


def test_smoke_run_of_a_bottom_up_network_and_its_continuation(tmp_path, eager, shallow, monkeypatch):
    flags = ("--smoke", "--model", "efficienthrnet_lite_h-4", "--tensorboard", "--val-scales", "1", "--val-flip")
    rows = trained(tmp_path / "whole", *flags, recipe=BOTTOM_UP)
    assert len(rows) == 2
    for row in rows:
        assert row["loss"] == pytest.approx(row["heatmaps_loss"] + row["heatmaps_low_loss"] + row["tags_loss"], rel=0.2)
        assert all(np.isfinite(row[name]) for name in ("loss", "val_ap", "val_ar"))
    assert len(list((tmp_path / "whole" / "pictures").glob("epoch_*.png"))) == 2
    assert (tmp_path / "whole" / "best.weights.h5").exists()
    # Two pictures of 64 px after each epoch, with what the network sees in them.
    assert pictures_of(tmp_path / "whole" / "tensorboard") == {0: [(64, 64)] * 2, 1: [(64, 64)] * 2}
    with interrupted_after(1, monkeypatch):
        trained(tmp_path / "stopped", *flags, recipe=BOTTOM_UP)
    assert_goes_on_as(rows, tmp_path / "stopped", *flags, recipe=BOTTOM_UP)


def pictures_of(folder: Path) -> dict[int, list[tuple[int, int]]]:
    """Sizes of the pictures in TensorBoard's logs, by step."""
    import tensorflow as tf

    found = {}
    for file in folder.rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == "predictions":
                    _, _, *images = value.tensor.string_val
                    found[event.step] = [tf.io.decode_png(image).shape[:2] for image in images]
    return found


@contextlib.contextmanager
def interrupted_after(epochs: int, monkeypatch):
    """A run inside the block is killed when so many epochs are saved."""
    ends = Checkpoint.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        ends(self, epoch, logs)
        if epoch + 1 == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoint, "on_epoch_end", on_epoch_end)
        yield


def assert_goes_on_as(whole: list[dict], stopped: Path, *flags: str, recipe: Path) -> None:
    """An interrupted run that goes on gives the numbers of one that was not interrupted."""
    assert len(history(stopped)) < len(whole)
    resumed = trained(stopped, *flags, recipe=recipe)
    assert [row["epoch"] for row in resumed] == [row["epoch"] for row in whole]
    for a, b in zip(whole, resumed, strict=True):
        for key in set(a) - {"seconds"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-6), (key, a, b)


def test_smoke_run_of_a_classifier_goes_on_where_it_was_interrupted(tmp_path, eager, shallow, monkeypatch):
    whole = trained(tmp_path / "whole", "--smoke", recipe=CLASSIFIER)
    assert whole[0]["learning_rate"] < whole[1]["learning_rate"] == pytest.approx(0.05)
    assert all(np.isfinite(row["loss"]) and 0 <= row["val_accuracy"] <= 1 for row in whole)
    assert (tmp_path / "whole" / "best.weights.h5").exists()
    with interrupted_after(1, monkeypatch):
        trained(tmp_path / "stopped", "--smoke", recipe=CLASSIFIER)
    assert_goes_on_as(whole, tmp_path / "stopped", "--smoke", recipe=CLASSIFIER)


def test_classifier_learns_from_cifar100s_files(tmp_path, eager, shallow):
    rng = np.random.default_rng(0)
    for name, count in (("train", 8), ("test", 4)):
        rows = rng.integers(0, 256, (count, 2 + 3 * 32 * 32), dtype=np.uint8)
        rows[:, 1] %= 100
        rows.tofile(tmp_path / f"{name}.bin")
    flags = ("--dataset", "cifar100", "--data", str(tmp_path), "--epochs", "1", "--batch", "4", "--input-px", "32")
    (row,) = trained(tmp_path / "run", *flags, recipe=CLASSIFIER)
    assert np.isfinite(row["loss"]) and 0 <= row["val_accuracy"] <= 1
