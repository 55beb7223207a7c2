"""Pruned twins, sparse networks in quantisation-aware training, and the recipe."""

from __future__ import annotations

import json

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tf_keras")
pytest.importorskip("tensorflow_model_optimization")

from posezoo.compression.keras2 import keras2  # noqa: E402
from posezoo.compression.pruning import Plan, PrunedTwin, follows_two_of_four, gzip_bytes, sparsity  # noqa: E402
from posezoo.compression.qat import QuantisedTwin  # noqa: E402


@pytest.fixture
def examples(tiny_copy):
    """Inputs, and what the network should give for them."""
    x = np.random.default_rng(1).uniform(-0.5, 0.5, (8, 64, 64, 3)).astype("float32")
    return x, {k: 0.5 * np.asarray(v)[::-1] for k, v in tiny_copy(x, training=False).items()}


def trained(twin, examples, steps: int) -> list[float]:
    """Train and return the losses."""
    x, goal = examples
    twin.model.compile(keras2().optimizers.Adam(1e-3), loss=dict.fromkeys(goal, "mse"))
    return [twin.model.train_on_batch(x, goal, return_dict=True)["loss"] for _ in range(steps)]


@pytest.mark.parametrize(("schedule", "structure"), [("polynomial", "none"), ("constant", "2:4")])
def test_pruned_network_is_sparse_and_learns(tiny_copy, examples, schedule, structure):
    twin = PrunedTwin(tiny_copy, Plan(0.6, schedule, structure, 10))
    losses = trained(twin, examples, 10)
    assert losses[-1] < 0.8 * losses[0]
    twin.bring_back()
    assert sparsity(tiny_copy, twin.pruned) == pytest.approx(0.5 if structure == "2:4" else 0.6, abs=0.01)
    kernels = [np.asarray(tiny_copy.get_layer(name).kernel) for name in twin.pruned]
    assert all(follows_two_of_four(kernel) for kernel in kernels) == (structure == "2:4")
    # Neither the few weights of depthwise kernels nor the streams of the head.
    assert twin.pruned == ("quarter_pw", "eighth_pw")


def test_constant_schedule_prunes_at_once_and_polynomial_little_by_little():
    tf = pytest.importorskip("tensorflow")
    shares = {
        kind: [float(Plan(0.8, kind, "none", 100).schedule_of_tfmot()(tf.constant(step))[1]) for step in (2, 30, 70)]
        for kind in ("constant", "polynomial")
    }
    assert shares["constant"] == pytest.approx([0.8] * 3)
    assert 0.2 < shares["polynomial"][0] < shares["polynomial"][1] < shares["polynomial"][2] == pytest.approx(0.8)


@pytest.mark.parametrize("keep_zeros", [True, False])
def test_zeros_stay_in_quantisation_aware_training_where_that_is_asked(tiny_copy, examples, keep_zeros):
    layer = tiny_copy.get_layer("eighth_pw")
    kernel, *rest = layer.get_weights()
    kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
    layer.set_weights([kernel, *rest])
    twin = QuantisedTwin(tiny_copy, [examples[0]], keep_zeros=keep_zeros)
    trained(twin, examples, 3)
    twin.bring_back()
    after = np.asarray(layer.kernel)
    assert (after[kernel == 0] == 0).all() == keep_zeros
    assert (after[kernel != 0] != kernel[kernel != 0]).all()


def test_two_of_four_is_told_from_other_patterns():
    kernel = np.ones((1, 1, 8, 3))
    assert not follows_two_of_four(kernel)
    kernel[:, :, [0, 3, 5, 6]] = 0
    assert follows_two_of_four(kernel)
    kernel[0, 0, 3, 1] = 1
    assert not follows_two_of_four(kernel)


@pytest.mark.parametrize(("plan", "told"), [
    ((1.0, "constant", "none", 5), "sparsity 1.0: expected a share"),
    ((0.5, "linear", "none", 5), "unknown schedule 'linear'; expected one of constant, polynomial"),
    ((0.5, "constant", "4:8", 5), "unknown structure '4:8'; expected one of none, 2:4"),
    ((0.5, "constant", "none", 0), "0 steps: pruning happens while the network trains"),
])  # fmt: skip
def test_plans_that_make_no_sense_are_told(plan, told):
    with pytest.raises(ValueError, match=told):
        Plan(*plan)


def test_nothing_to_prune_is_told(tiny_copy):
    plan = Plan(0.5, "constant", "none", 1)
    with pytest.raises(ValueError, match="keep_dense names no layer of tiny: strange"):
        PrunedTwin(tiny_copy, plan, keep_dense=["strange"])
    with pytest.raises(ValueError, match="tiny has no kernel of 512 weights or more to prune"):
        PrunedTwin(tiny_copy, plan, keep_dense=[layer.name for layer in tiny_copy.layers])


def test_size_after_gzip_is_the_same_every_time():
    content = bytes(1000) + np.random.default_rng(0).bytes(100)
    assert gzip_bytes(content) == gzip_bytes(content) < 200


def test_pruning_gives_sparse_files_with_all_forms_side_by_side(tmp_path, compressing_recipe, tiny_copy):
    recipe = compressing_recipe("prune")
    recipe.main([
        "--smoke", "--model", "mobilenet_split_050_192", "--out", str(tmp_path), "--sparsity", "0.75", "--schedule",
        "constant",
    ])  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["precision"]: row for row in report["rows"]}
    assert list(rows) == ["float32", "int8", "int8-qat", "float32-pruned", "int8-pruned", "int8-pruned-qat"]
    assert 0.3 < rows["int8-pruned-qat"]["sparsity"] == pytest.approx(rows["float32-pruned"]["sparsity"], abs=0.01)
    assert rows["int8-pruned-qat"]["gzip_bytes"] < rows["int8-qat"]["gzip_bytes"]
    sparse = keras.models.clone_model(tiny_copy)
    sparse.load_weights(tmp_path / "mobilenet_split_050_192_pruned_qat.weights.h5")
    assert sparsity(sparse) == rows["int8-pruned-qat"]["sparsity"]


def test_two_of_four_stay_zero_to_the_int8_file(tmp_path, compressing_recipe, tiny_copy):
    from ai_edge_litert.interpreter import Interpreter

    recipe = compressing_recipe("prune")
    recipe.main([
        "--smoke", "--model", "mobilenet_split_050_192", "--out", str(tmp_path), "--schedule", "constant",
        "--structure", "2:4", "--no-baseline",
    ])  # fmt: skip
    rows = {row["precision"]: row for row in json.loads((tmp_path / "report.json").read_text())["rows"]}
    assert list(rows) == ["float32", "int8", "float32-2:4", "int8-2:4", "int8-2:4-qat"]
    assert rows["int8-2:4-qat"]["gzip_bytes"] < rows["int8"]["gzip_bytes"]
    file = Interpreter(str(tmp_path / "mobilenet_split_050_192_pruned_int8.tflite"))
    file.allocate_tensors()
    inputs = {detail["index"]: detail for detail in file.get_tensor_details()}
    kernels = [
        file.get_tensor(op["inputs"][1]) for op in file._get_ops_details()
        if op["op_name"] == "CONV_2D" and np.prod(inputs[op["inputs"][1]]["shape"]) >= 512
    ]  # fmt: skip
    fours = [kernel.reshape(-1, 4) for kernel in kernels if kernel.shape[-1] % 4 == 0]  # (out, height, width, in)
    pruned = [four for four in fours if (four == 0).mean() < 0.7]  # the split head is a kernel of blocks, left dense
    assert len(pruned) == 2
    assert all((four != 0).sum(axis=1).max() <= 2 for four in pruned)
