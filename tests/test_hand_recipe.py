"""Training the hand network: the recipe, PyTorch's losses, GradNorm."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scripts import eagerly, script

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

import posezoo  # noqa: E402
from posezoo import counts  # noqa: E402
from posezoo.codecs.hand import HandCodec  # noqa: E402
from posezoo.data.drawn_hands import DrawnHands  # noqa: E402
from posezoo.data.hands import HandScenes, hand_batch  # noqa: E402
from posezoo.models.hand import Heads, hand25d  # noqa: E402
from posezoo.training.backend import linear  # noqa: E402
from posezoo.training.gradnorm import GradNorm, balanced, task_gradients  # noqa: E402
from posezoo.training.hand import WEIGHTS, HandTrainer, segmentation_loss, task_losses, visibility_loss  # noqa: E402
from posezoo.weights import save_float16  # noqa: E402

ROOT = Path(__file__).parents[1]
WH = (48, 32)


@pytest.fixture(scope="module")
def recipe():
    return script("recipes/train_hand25d.py")


def batch(count: int = 4) -> tuple[np.ndarray, dict]:
    scenes = HandScenes(DrawnHands(count, wh=WH), WH)
    return hand_batch(
        [scenes.crop(i) for i in range(count)], HandCodec(WH, 2), scale=lambda p: p / np.float32(255) - 0.5
    )


# --------------------------------------------------------------------------------------------- losses


def test_losses_enlarge_as_the_network_does():
    """Maps at 1/2 and 1/8 cost what the enlarged ones do."""
    x, y = batch()
    small, large = (hand25d(input_px=WH[::-1], heads=Heads(), enlarge=enlarge) for enlarge in (False, True))
    large.set_weights(small.get_weights())
    short, whole = (task_losses(y, network(x), input_height=WH[1]) for network in (small, large))
    assert set(short) == set(WEIGHTS)
    for task in short:
        np.testing.assert_allclose(short[task], whole[task], rtol=1e-4, err_msg=task)


def test_what_nobody_knows_costs_nothing():
    seen = np.array([[1.0, -1.0, 0.0]], "float32")
    logits = np.array([[0.3, 50.0, -0.2]], "float32")
    known = visibility_loss(seen[:, [0, 2]], logits[:, [0, 2]])
    np.testing.assert_allclose(visibility_loss(seen, logits), known, rtol=1e-6)
    labels = np.full((1, 4, 4), 255, np.uint8)
    maps = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype("float32")
    assert float(segmentation_loss(labels, maps)[0]) == 0
    labels[0, 1, 2] = 1
    expected = np.log(np.exp(maps[0, 1, 2]).sum()) - maps[0, 1, 2, 1]
    assert float(segmentation_loss(labels, maps)[0]) == pytest.approx(float(expected), rel=1e-5)


TORCH = """
import os, sys
import numpy as np, torch, torch.nn.functional as F
import keras
from posezoo.training.native_losses import class_entropy, pixel_entropy
from posezoo.training.hand import keypoint_loss

torch.manual_seed(0)
x = (3 * torch.randn(3, 10, 14, 4)).requires_grad_()
row, column, weight = torch.randint(0, 20, (3, 4)), torch.randint(0, 28, (3, 4)), torch.rand(3, 4)
row[0], column[0], row[1], column[1] = 0, 0, 19, 27
weight[0, 2], weight[2] = 0, 0  # a hidden keypoint, and a picture without any
upstream = torch.rand(3)
for enlarge in (True, False):
    r, c = (row, column) if enlarge else (row // 2, column // 2)
    loss = pixel_entropy(x, r, c, weight, enlarge=enlarge)
    slope, = torch.autograd.grad((loss * upstream).sum(), x)
    maps = x.permute(0, 3, 1, 2)
    if enlarge:
        maps = F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
    flat = maps.flatten(2)
    at = flat.gather(2, (r * maps.shape[3] + c)[..., None])[..., 0]
    expected = ((flat.logsumexp(2) - at) * weight).sum(1)
    expected_slope, = torch.autograd.grad((expected * upstream).sum(), x)
    assert torch.allclose(loss, expected, atol=1e-5), (loss, expected)
    assert torch.allclose(slope, expected_slope, atol=1e-6), (slope - expected_slope).abs().max()
    assert torch.allclose(pixel_entropy(x.bfloat16(), r, c, weight, enlarge=enlarge), expected, rtol=2e-2)

labels = torch.randint(0, 3, (2, 16, 24)).to(torch.uint8)
labels[0, :4] = 255
logits = torch.randn(2, 4, 6, 3, requires_grad=True)
fine = F.interpolate(logits.permute(0, 3, 1, 2), (16, 24), mode="bilinear", align_corners=False)
each = [F.cross_entropy(f[None], l[None].long(), ignore_index=255) for f, l in zip(fine, labels)]
found = class_entropy(logits, labels, unknown=255)
assert torch.allclose(found, torch.stack(each), atol=1e-5)
a, b = (torch.autograd.grad((v * torch.tensor([1.0, 3.0])).sum(), logits)[0] for v in (found, torch.stack(each)))
assert torch.allclose(a, b, atol=1e-6)
assert float(class_entropy(logits, torch.full_like(labels, 255), unknown=255).sum()) == 0

# training by PyTorch's kernels, in bfloat16, learns every task; GradNorm moves weights
sys.path.insert(0, "recipes")
import train_hand25d
flags = ["--smoke", "--gradnorm", "--precision", "bfloat16", "--threads", "1", "--out", sys.argv[1]]
run = train_hand25d.main(flags)
assert len(run.history) == 2 and all(np.isfinite(list(row.values())).all() for row in run.history)
"""


@pytest.mark.slow
def test_native_losses_and_training(tmp_path):
    """A process has one backend, so this starts one."""
    pytest.importorskip("torch")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", TORCH, str(tmp_path / "run")], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]


# -------------------------------------------------------------------------------------------- GradNorm


def test_gradnorm_pulls_tasks_that_lag():
    weights, slopes = np.ones(3), np.array([1.0, 1.0, 1.0])
    moved = balanced(weights, slopes, np.array([1.0, 0.5, 0.25]), alpha=1.5, rate=0.05)
    assert moved[0] > 1 > moved[2], "who has learnt least counts more"
    assert moved.sum() == pytest.approx(3)
    moved = balanced(weights, np.array([10.0, 1.0, 1.0]), np.ones(3), alpha=1.5, rate=0.05)
    assert moved[0] < 1 < moved[1], "who pulls hardest counts less"
    for _ in range(400):
        weights = balanced(weights, np.array([10.0, 1.0, 1.0]), np.ones(3), alpha=1.5, rate=0.01)
    np.testing.assert_allclose(weights * [10, 1, 1], (weights * [10, 1, 1]).mean(), rtol=0.15)
    assert (balanced(np.array([0.011, 2.989]), np.array([9.0, 1.0]), np.ones(2), alpha=0, rate=0.5) > 0).all()


def test_gradnorm_moves_the_trainers_weights():
    keras.utils.set_random_seed(0)
    x, y = batch()
    network = hand25d(input_px=WH[::-1], heads=Heads(), enlarge=False)
    trainer = HandTrainer(network, input_height=WH[1])
    trainer.build((None, *WH[::-1], 1))
    shared = network.get_layer("tier3_unit2_step4_reduce").trainable_variables
    losses, norms = task_gradients(trainer, shared, x, y)
    assert set(losses) == set(norms) == set(WEIGHTS)
    assert all(norm > 0 for norm in norms.values())
    moves = GradNorm(trainer, shared, lambda step: (x, y), weights=WEIGHTS, every=1)
    relative = moves.move(x, y)
    assert sum(relative.values()) == pytest.approx(len(WEIGHTS), rel=1e-4)
    assert max(relative.values()) > 1 > min(relative.values())
    for task, weight in WEIGHTS.items():
        assert float(trainer.task_weights[task]) == pytest.approx(relative[task] * weight, rel=1e-4)
        assert float(trainer.first_losses[task]) == pytest.approx(losses[task], rel=0.3)
    without = GradNorm(trainer, shared, lambda step: (x, y), weights={**WEIGHTS, "seg": 0.0})
    assert "seg" not in without.move(x, y)


def test_the_learning_rate_falls_in_a_line():
    rate = linear(1e-3, first=10, last=30)
    assert [rate(step) for step in (10, 20, 30, 31)] == pytest.approx([1e-3, 5e-4, 0, 0])


# ---------------------------------------------------------------------------------------------- recipe


#: Run in a process of its own, on PyTorch where it is installed: TensorFlow takes ten times longer to begin.
def process(script: str, *arguments: str) -> subprocess.Popen:
    backend = "torch" if importlib.util.find_spec("torch") else "tensorflow"
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "recipes")]),
    }  # fmt: skip
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def started(script: str, *arguments: str) -> str:
    """Run to the end; return what was printed."""
    running = process(script, *arguments)
    printed, told = running.communicate()
    assert running.returncode == 0, told[-3000:]
    return printed


MAIN = "import sys, train_hand25d; train_hand25d.main(sys.argv[1:])"
#: Keypoints alone, on few small frames.
FEW = (
    "--data", "drawn:8:1", "--val", "drawn:2:2", "--input-px", "32x48", "--batch", "2", "--epochs", "3",
    "--threads", "1", "--akp", "0", "--cho", "0", "--dhp", "0", "--seg", "0", "--ds", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, recipe):
    """A folder with three short runs, and what they printed."""
    folder, printed = tmp_path_factory.mktemp("runs"), io.StringIO()
    smoke = ["--smoke", "--out"]
    with contextlib.redirect_stdout(printed), eagerly():
        recipe.main([*smoke, str(folder / "all"), "--ema", "0.9"])
        depth = ("--kphv", "0", "--seg", "0", "--input", "depth", "--auxiliary", "all")
        recipe.main([*smoke, str(folder / "some"), *depth])
        for _ in range(2):
            recipe.main([*smoke, str(folder / "table"), "--ablate", "--rows", "2,1"])
            print("SEEN", (folder / "table" / "rows" / "kp" / "state.npz").stat().st_mtime_ns)
    return folder, printed.getvalue()


@pytest.mark.slow
def test_the_released_part_of_a_run_loads(runs):
    folder = runs[0] / "all"
    history = json.loads((folder / "run.json").read_text())["history"]
    assert len(history) == 2 and {"val_minus_error", "val_pck", "val_hands", "val_seen"} <= set(history[-1])
    assert (folder / "pictures" / "epoch_001.png").exists()
    whole = posezoo.build("hand25d", input_px=(56, 72), heads=Heads(), enlarge=False)
    whole.load_weights(folder / "best_with_heads.weights.h5")
    part = posezoo.build("hand25d", input_px=(56, 72))
    part.load_weights(folder / "best.weights.h5")
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 56, 72, 1)).astype("float32")
    for name, value in part(x).items():
        np.testing.assert_allclose(value, whole(x)[name], atol=1e-5, err_msg=name)
    assert counts.params(part) == 41_682


@pytest.mark.slow
def test_a_run_starts_from_another_or_from_its_released_part(recipe, runs, tmp_path):
    folder = runs[0] / "all"
    trained = posezoo.build("hand25d", input_px=(56, 72))
    trained.load_weights(folder / "best.weights.h5")
    save_float16(trained, tmp_path / "released.weights.h5")
    for file, heads_too in ((folder / "best_with_heads.weights.h5", True), (tmp_path / "released.weights.h5", False)):
        config = recipe.Config(input_px="56x72", init=file)
        network = recipe.training_network(config)
        before = {layer.name: layer.get_weights() for layer in network.layers}
        recipe.start(config, network)
        for layer in trained.layers:
            for got, expected in zip(network.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
                np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-6)
        moved = np.abs(network.get_layer("pose").get_weights()[0] - before["pose"][0]).max() > 0
        assert moved == heads_too
    with pytest.raises(SystemExit, match="neither this network with its heads nor its released part"):
        recipe.start(recipe.Config(init=folder / "best.weights.h5"), recipe.training_network(recipe.Config(kphv=0)))


@pytest.mark.slow
def test_tasks_without_weight_have_no_head(recipe, runs):
    network = posezoo.build("hand25d_depth", input_px=(56, 72), visibility=False)
    network.load_weights(runs[0] / "some" / "best.weights.h5")
    history = json.loads((runs[0] / "some" / "run.json").read_text())["history"]
    assert len(history) == 2 and "val_hands" not in history[-1]
    assert set(recipe.training_network(recipe.Config(kphv=0, seg=0)).output) == {
        "heatmaps", "heatmaps_aux", "orientation", "pose", "heatmaps_8", "heatmaps_4", "heatmaps_2"
    }  # fmt: skip
    whole = recipe.training_network(recipe.Config(auxiliary="all"))
    assert whole.output["heatmaps_aux"].shape[-1] == 34
    with pytest.raises(SystemExit, match="--auxiliary some: expected rest or all"):
        recipe.auxiliary_of(recipe.Config(auxiliary="some"))
    large = recipe.training_network(recipe.Config(backbone="mobilenet_v2", **dict.fromkeys(recipe.HEADS, 0)))
    assert large.input_shape[1:3] == (192, 224)


@pytest.mark.slow
def test_the_ablation_is_a_table_and_goes_on(recipe, runs):
    folder, printed = runs
    seen = [line for line in printed.splitlines() if line.startswith("SEEN")]
    assert len(seen) == 2 and seen[0] == seen[1], "a row that is done is not trained again"
    record = json.loads((folder / "table" / "ablation.json").read_text())
    assert [(row["tasks"], row["backbone"]) for row in record["rows"]] == [("kp", "ladder"), ("kp, ds", "ladder")]
    table = (folder / "table" / "ablation.md").read_text()
    assert "| kp, ds |" in table and "4 frames x 1 epochs" in table
    assert "| kp |" in printed
    assert set(recipe.ROWS["all"]) == set(WEIGHTS)


def test_rows_of_the_ablation_are_chosen_and_join_one_table(recipe, tmp_path):
    assert recipe.chosen_rows(recipe.Config()) == list(recipe.ROWS)
    assert recipe.chosen_rows(recipe.Config(rows="2, 1")) == ["kp, ds", "kp"]
    for rows in ("0", "9", "kp", "1,"):
        with pytest.raises(SystemExit, match=f"--rows {rows}: expected numbers such as 1,2 of these: 1 kp; 2 kp, ds;"):
            recipe.chosen_rows(recipe.Config(rows=rows))
    assert recipe.row_folder("kp, ds", "ladder") == "kp_ds"
    assert recipe.row_folder("all but ds", "mobilenet_v2") == "mobilenet_v2_all_but_ds"
    cfg = recipe.Config(out=tmp_path)
    record = recipe.table_of(cfg)
    row = {"tasks": "kp", "backbone": "ladder", "error_px": 9.0, "pck": 0.5, "epoch": 1}
    recipe.write_table(tmp_path, {**record, "rows": [row]})
    assert recipe.table_of(cfg)["rows"] == [row]
    with pytest.raises(SystemExit, match="other settings .frames was 20000, now 7.; choose another --out"):
        recipe.table_of(recipe.Config(out=tmp_path, ablate_frames=7))
    places = [recipe._place({"tasks": t, "backbone": b}) for t in ("kp", "all") for b in ("ladder", "mobilenet_v2")]
    assert places == sorted(places)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    """Killed by force after its first epoch, a run ends with the numbers of an unbroken one."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started(MAIN, *FEW, "--out", str(whole))
    running = process(MAIN, *FEW, "--out", str(broken))
    deadline = time.time() + 120
    while not (broken / "state.npz").exists() and time.time() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    started(MAIN, *FEW, "--out", str(broken))
    one, other = (json.loads((folder / "run.json").read_text())["history"] for folder in (whole, broken))
    assert [row["epoch"] for row in other] == [0, 1, 2]
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["val_minus_error"] == pytest.approx(b["val_minus_error"], rel=1e-5)


def test_an_unknown_input_is_told(recipe, tmp_path):
    with pytest.raises(SystemExit, match="--input colour: expected amplitude or depth"):
        recipe.main(["--smoke", "--input", "colour", "--out", str(tmp_path)])
