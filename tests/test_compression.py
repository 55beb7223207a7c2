"""The Keras 2 bridge and quantisation-aware twins."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripts import script

keras = pytest.importorskip("keras")
pytest.importorskip("tf_keras")
pytest.importorskip("tensorflow_model_optimization")

from keras import layers as L  # noqa: E402

from posezoo import heads  # noqa: E402
from posezoo.cards import read_card  # noqa: E402
from posezoo.compression import keras2  # noqa: E402
from posezoo.compression.keras2 import BridgeError, rebuild  # noqa: E402
from posezoo.compression.qat import QuantisedTwin, lonely, stored  # noqa: E402
from posezoo.export import edgetpu  # noqa: E402
from posezoo.export.flatbuffer import unpacked  # noqa: E402
from posezoo.export.gates import compare  # noqa: E402
from posezoo.export.seeded import seed_weights  # noqa: E402
from posezoo.export.tflite import operators, to_tflite  # noqa: E402
from posezoo.inference.runners import TFLiteRunner, normalise  # noqa: E402
from posezoo.models import efficienthrnet, efficientnet  # noqa: E402
from posezoo.models.hand import Heads, hand25d  # noqa: E402
from posezoo.models.hrnet import high_resolution_stage  # noqa: E402
from posezoo.models.mobilenet_split import mobilenet_split  # noqa: E402
from posezoo.training.hand import WEIGHTS, task_losses  # noqa: E402


def small_efficienthrnet(*, lite: bool):
    """EfficientHRNet's own blocks, as few of each as show every kind of layer that the whole network has."""
    backbone, style = (efficientnet.LITE, efficienthrnet.LITE) if lite else (efficientnet.SWISH, efficienthrnet.STYLE)
    image = keras.Input((64, 64, 3), name="image")
    x = backbone.conv_bn(image, 8, stride=2, name="stem")
    taps = []
    for block in (
        efficientnet.Block(1, 0, 1, 8, 2, 3),
        efficientnet.Block(1, 1, 4, 8, 1, 3),
        efficientnet.Block(2, 0, 4, 16, 2, 5),
    ):
        x = efficientnet.mbconv(x, block, backbone, with_squeeze_excite=not lite)
        taps = [*taps[: block.stage - 1], x]
    branches = [style.conv_bn(x, 8 * 2**i, bias=True, name=f"transition{i}") for i, x in enumerate(taps)]
    branches = high_resolution_stage(branches, style, modules=2, blocks=1, name="stage2", outputs=1)
    outputs = heads.associative_embedding(branches[0], 5, style, join="sum" if lite else "concat")
    return keras.Model(image, outputs, name="small")


NETWORKS = {
    "mobilenet_split": lambda: mobilenet_split(width=0.35, input_px=64),
    "squeeze-excite": lambda: small_efficienthrnet(lite=False),
    "lite": lambda: small_efficienthrnet(lite=True),
    "hand": lambda: hand25d(input_px=(64, 96), heads=Heads()),
}


@pytest.fixture(scope="module", params=NETWORKS)
def named(request):
    """A network of `NETWORKS`, which tests leave as it was."""
    return with_seed(NETWORKS[request.param])


def with_seed(build):
    """Build a network on a fixed seed, with batch norms whose statistics are not those of a new network."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    network, rng = build(), np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network


def inputs(network, count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (count, *network.input_shape[1:])).astype("float32")


def kinds_of_layers(network) -> set:
    return {
        (type(layer).__name__, getattr(layer, "interpolation", None), getattr(layer, "groups", 1) > 1)
        for layer in network.layers
    }


def test_small_network_stands_for_the_papers():
    assert kinds_of_layers(small_efficienthrnet(lite=False)) == kinds_of_layers(
        efficienthrnet.efficienthrnet(-4, input_px=64)
    )


def test_twin_gives_the_networks_outputs_and_its_weights_come_back(named):
    network = named
    rebuilt = rebuild(network)
    x = inputs(network)
    expected, got = network(x, training=False), rebuilt.model(x, training=False)
    assert set(expected) == set(got)
    for key in expected:
        np.testing.assert_allclose(got[key], expected[key], atol=1e-4 * float(np.abs(expected[key]).max()))
    before = network.get_weights()
    for weight in rebuilt.model.weights:
        weight.assign(weight + 0.5)
    rebuilt.bring_back(network)
    came_back = network.get_weights()
    network.set_weights(before)
    for old, new in zip(before, came_back):
        np.testing.assert_allclose(new, old + 0.5, rtol=1e-6)


def test_int8_file_of_a_twin_is_pure_and_computes_what_the_twin_computes(named):
    network = named
    card = read_card("mobilenet_split_035_160")
    channels = network.input_shape[-1]
    spec = replace(card.input, shape=network.input_shape[1:], mean=(127.5,) * channels, std=(255.0,) * channels)
    pictures = np.random.default_rng(2).integers(0, 256, (8, *spec.shape), np.uint8)
    twin = QuantisedTwin(network, [normalise(pictures, spec)])
    simulated = {k: np.asarray(v) for k, v in twin.model(normalise(pictures, spec), training=False).items()}
    content = to_tflite(twin.model, spec, trained_ranges=True)
    assert not [op for op in operators(content) if op.startswith("DEQUANTIZE")]
    tensors = [tensor.name.decode() for tensor in unpacked(content).subgraphs[0].tensors]
    assert not [name for name in tensors if "quant_" in name or ";" in name]
    for row in compare(simulated, TFLiteRunner(content, spec, kernels="builtin")(pictures), kernels="builtin"):
        assert row.psnr_db > 35, row
    for row in compare(
        {k: np.asarray(v) for k, v in network(normalise(pictures, spec)).items()}, simulated, kernels=""
    ):
        assert row.psnr_db > 30, row


def test_training_a_twin_lowers_its_loss_and_the_network_learns_the_same(tiny_copy):
    keras.utils.set_random_seed(0)
    network, x = tiny_copy, inputs(tiny_copy, 8)
    untrained = {k: np.asarray(v) for k, v in network(x, training=False).items()}
    goal = {k: 0.5 * v[::-1] for k, v in untrained.items()}
    twin = QuantisedTwin(network, [x])
    twin.model.compile(keras2.keras2().optimizers.Adam(1e-3), loss=dict.fromkeys(goal, "mse"))
    losses = [twin.model.train_on_batch(x, goal, return_dict=True)["loss"] for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    trained = {k: np.asarray(v) for k, v in twin.model(x, training=False).items()}
    twin.bring_back()
    brought = {k: np.asarray(v) for k, v in network(x, training=False).items()}
    # What came back gives the trained twin's outputs, up to their rounding; the network before it does not.
    (after,), (before,) = compare(trained, brought, kernels=""), compare(trained, untrained, kernels="")
    assert after.psnr_db > 35
    assert before.psnr_db < 25


def test_what_is_stored():
    image = keras.Input((8, 8, 4), name="image")
    x = L.Conv2D(4, 3, padding="same", name="conv")(image)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU(name="act")(x)
    y = L.Conv2D(4, 1, name="linear")(x)
    z = L.Add(name="sum")([x, y])
    z = L.BatchNormalization(name="alone")(z)
    z = L.ReLU(name="end")(L.MaxPooling2D(name="pool")(z))
    network = keras.Model(image, {"end": z})
    assert stored(network) == {"act", "linear", "sum", "alone", "end"}
    assert [norm.name for norm in lonely(network)] == ["alone"]


@pytest.mark.parametrize("passed_on", [False, True])
def test_what_comes_out_keeps_its_peaks(passed_on):
    image = keras.Input((128, 128, 1), name="image")
    result = L.Conv2D(1, 1, kernel_initializer="ones", name="conv")(image)
    result = L.Activation("linear", name="heatmaps")(result) if passed_on else result
    inside = L.Conv2D(1, 1, kernel_initializer="ones", name="next")(result)
    x = np.random.default_rng(2).normal(size=(8, 128, 128, 1)).astype(np.float32)
    x[0, 0, 0] = 20.0
    twin = QuantisedTwin(keras.Model(image, {"inside": inside}), [x])
    assert np.max(twin.model(x)["inside"]) < 18.5  # a peak is not worth the levels of all the rest ...
    twin = QuantisedTwin(keras.Model(image, {"heatmaps": result}), [x])
    assert np.max(twin.model(x)["heatmaps"]) == pytest.approx(20.0, abs=0.1)  # ... but where it is looked for


def test_layers_can_stay_float(tiny_network):
    network, x = tiny_network, inputs(tiny_network)
    expected = np.asarray(network(x, training=False)["heatmaps"])

    def error(**options):
        got = np.asarray(QuantisedTwin(network, [x], **options).model(x, training=False)["heatmaps"])
        return np.abs(got - expected).mean()

    assert error(keep_float=["heatmaps"]) < error()
    with pytest.raises(ValueError, match="keep_float names no layer of tiny: haetmaps"):
        QuantisedTwin(network, [x], keep_float=["haetmaps"])


def test_no_calibration_is_told(tiny_network):
    with pytest.raises(ValueError, match="calibration holds no batch"):
        QuantisedTwin(tiny_network, [])


def test_layer_without_a_twin_is_told():
    image = keras.Input((8, 8, 3), name="image")
    network = keras.Model(image, {"out": L.LayerNormalization(name="strange")(image)})
    with pytest.raises(BridgeError, match="layer 'strange' is a LayerNormalization, which has no Keras 2 twin"):
        rebuild(network)


def test_layer_used_twice_is_told():
    image = keras.Input((8, 8, 3), name="image")
    conv = L.Conv2D(3, 1, name="shared")
    network = keras.Model(image, {"out": conv(conv(image))})
    with pytest.raises(BridgeError, match="'shared' is used 2 times"):
        rebuild(network)


def test_the_environment_stays_as_it_was(monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    keras2.model_optimization()
    assert "TF_USE_LEGACY_KERAS" not in os.environ


def test_versions_that_do_not_fit_are_told(monkeypatch):
    import tf_keras

    monkeypatch.setattr(tf_keras, "__version__", "2.15.1")
    with pytest.raises(BridgeError, match="tf_keras 2.15 does not fit TensorFlow"):
        keras2.keras2()


def test_qat_gives_an_int8_file_and_weights_with_float_ptq_and_qat_side_by_side(
    tmp_path, compressing_recipe, tiny_copy, capsys
):
    recipe = compressing_recipe("quantize_qat")
    also = "edgetpu,tflite_uint8,tflite_float_io"
    recipe.main(["--smoke", "--model", "mobilenet_split_050_192", "--out", str(tmp_path), "--also", also])
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["scores"]) == ["float32", "int8", "int8-qat"]
    assert not [op for op in report["operators"] if op.startswith("DEQUANTIZE")]
    row = report["rows"][-1]
    assert row["bytes"] == (tmp_path / "mobilenet_split_050_192_int8.tflite").stat().st_size > row["gzip_bytes"]
    assert "to float" in capsys.readouterr().out
    keras.models.clone_model(tiny_copy).load_weights(tmp_path / "mobilenet_split_050_192_qat.weights.h5")
    for ending, types in {"uint8": "uint8", "float_io": "float32", "edgetpu_ready": "int8"}.items():
        file = tmp_path / f"mobilenet_split_050_192_{ending}.tflite"
        assert json.loads((tmp_path / f"{file.name}.json").read_text())["quantisation"]["image"]["type"] == types


def test_refused_form_of_a_trained_network_loses_no_other(tmp_path, compressing_recipe, monkeypatch, capsys):
    recipe = compressing_recipe("quantize_qat")

    def refuse(report, **options):
        raise edgetpu.EdgeTpuError("too little maps")

    monkeypatch.setattr(edgetpu, "check_mapping", refuse)
    words = ["--smoke", "--model", "mobilenet_split_050_192", "--out", str(tmp_path)]
    recipe.main([*words, "--also", "edgetpu,tflite_uint8"])
    assert "edgetpu: too little maps" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.glob("*.tflite")) == [
        "mobilenet_split_050_192_int8.tflite", "mobilenet_split_050_192_uint8.tflite",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="--also onnx: expected tflite_uint8, tflite_float_io, edgetpu"):
        recipe.main([*words, "--also", "onnx"])


@pytest.fixture
def small_hand(monkeypatch, compressing_recipe):
    """Function from the name of a recipe to its module, whose network is a hand network of 32x48 pixels."""
    import posezoo

    card = read_card("hand25d")
    card = replace(card, input=replace(card.input, shape=(32, 48, 1)), weights={})
    monkeypatch.setattr(sys.modules["compressing"], "read_card", lambda name: card)
    network = hand25d(input_px=(32, 48), visibility=True, enlarge=False)
    seed_weights(network, card)
    monkeypatch.setattr(posezoo, "build", lambda name: network)
    return compressing_recipe


def test_hand_networks_are_compressed_by_what_they_were_trained_for(small_hand):
    compressing = small_hand("compressing")
    cfg = compressing.shrunk(compressing.CompressConfig(smoke=True, model="hand25d"))
    assert (cfg.dataset, cfg.data) == ("hands", Path("drawn:8:1"))
    ready = compressing.prepare(cfg)
    task = ready.task
    assert (task.metric, task.examples, len(task.train)) == ("PCK@0.1", 4, 8)
    assert [p.shape for p in ready.pictures] == [(32, 48, 1)] * 4
    x, y = task.encode([task.train.crop(i) for i in range(2)])
    outputs = ready.network(x)
    expected = task_losses({"points": y["heatmaps"], "visibility": y["visibility"]}, outputs, input_height=32)
    for output, name in (("heatmaps", "kp"), ("visibility", "kphv")):
        np.testing.assert_allclose(
            task.losses[output](y[output], outputs[output]), WEIGHTS[name] * expected[name], rtol=1e-5
        )  # fmt: skip


def test_a_hand_networks_twin_trains_and_is_scored(small_hand, eager):
    compressing, recipe = small_hand("compressing"), small_hand("quantize_qat")
    cfg = compressing.shrunk(recipe.Config(smoke=True, model="hand25d"), steps=6, batch=2)
    ready = compressing.prepare(cfg)
    assert cfg.steps * cfg.batch > len(ready.task.train)  # epochs that the data fill more than once
    twin, seen = rebuild(ready.network), []

    def score() -> float:
        seen.append(ready.task.score(lambda images: dict(twin.model(normalise(images, ready.card.input)))))
        return seen[-1]

    before = twin.model.get_weights()
    best = compressing.fit(twin.model, ready, cfg, epochs=1, score=score, keep_best=False)
    assert len(seen) == 2 and best == seen[-1] and all(0 <= value <= 1 for value in seen)
    assert any((a != b).any() for a, b in zip(before, twin.model.get_weights(), strict=True))


def test_a_twin_learns_the_float_networks_outputs_instead_of_labels(small_hand, eager):
    compressing, recipe = small_hand("compressing"), small_hand("quantize_qat")
    cfg = compressing.shrunk(recipe.Config(smoke=True, model="hand25d", distill=True, learning_rate=1e-3), batch=4)
    ready = compressing.prepare(replace(cfg, calibration=8))
    x = compressing.batches_of(ready.pictures, ready.card)[0]
    taught = ready.teacher(x)
    assert sorted(ready.teacher.losses) == sorted(taught) == sorted(ready.network.output_names)
    for output, value in taught.items():
        np.testing.assert_allclose(value, ready.network.predict_on_batch(x)[output], rtol=1e-4, atol=1e-4)
        guess = np.full_like(value, value.mean())
        assert np.mean(ready.teacher.losses[output](value, guess)) == pytest.approx(1, rel=1e-3)  # the variance is one

    twin = rebuild(ready.network)
    ready.network.set_weights([np.zeros_like(w) for w in ready.network.get_weights()])
    np.testing.assert_array_equal(ready.teacher(x)["heatmaps"], taught["heatmaps"])  # the teacher stays as it was
    rng = np.random.default_rng(0)
    twin.model.set_weights([w * rng.uniform(0.9, 1.1, w.shape) for w in twin.model.get_weights()])

    def off() -> float:
        found = twin.model(x, training=False)
        return float(sum(np.mean(ready.teacher.losses[name](taught[name], found[name])) for name in taught))

    before = off()
    useless = replace(ready.task, losses={})
    compressing.fit(
        twin.model, replace(ready, task=useless), replace(cfg, steps=30), epochs=1, score=lambda: 0.0, keep_best=False
    )
    assert off() < 0.5 * before


def test_a_teacher_tells_tags_only_where_a_keypoint_may_be(compressing_recipe):
    compressing = compressing_recipe("compressing")
    card = read_card("efficienthrnet_lite_h-4")
    image = keras.Input((8, 8, 3))
    network = keras.Model(
        image, {name: L.Conv2D(17, 1, use_bias=False, name=name)(image) for name in ("heatmaps_low", "tags")}
    )
    first, second = (np.repeat(np.eye(3, dtype="float32")[:, i : i + 1], 17, 1)[None, None] for i in (0, 1))
    network.get_layer("heatmaps_low").set_weights([first])
    network.get_layer("tags").set_weights([second])
    rng = np.random.default_rng(0)
    x = rng.normal(0, 9, (4, 8, 8, 3)).astype("float32")
    x[..., 0] = 0
    x[:, 2, 3:5, 0], x[:, 2, 3:5, 1] = 1, rng.normal(size=(4, 2))
    teacher = compressing.Teacher(network, card, [x])
    taught = teacher(x)
    assert np.argwhere(~np.isnan(taught["tags"][0, ..., 0])).tolist() == [[2, 3], [2, 4]]
    counting = np.nan_to_num(taught["tags"], nan=77.0)
    assert np.mean(teacher.losses["tags"](taught["tags"], counting)) == 0
    off = counting + np.std(x[:, 2, 3:5, 1])
    assert np.mean(teacher.losses["tags"](taught["tags"], off)) == pytest.approx(1, rel=1e-4)
    np.testing.assert_array_equal(taught["heatmaps_low"], x[..., :1].repeat(17, -1))


def test_a_hand_network_becomes_an_int8_file_with_its_score(small_hand, tmp_path):
    small_hand("quantize_ptq").main(["--smoke", "--model", "hand25d", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["metric"], list(report["scores"])) == ("PCK@0.1", ["float32", "int8"])
    assert report["dataset"] == "drawn:8:1"
    assert (tmp_path / "hand25d_int8.tflite").exists()


@pytest.mark.parametrize(
    "name, dataset, told",
    [
        ("hand25d", "lsp", "--dataset lsp: hand25d looks at two hands; expected hands"),
        ("compact_efficientnet_b-1", "lsp", "compact_efficientnet_b-1 classifies pictures.*such as efficienthrnet_h-1"),
    ],
)
def test_data_that_do_not_fit_a_network_are_told(name, dataset, told):
    with pytest.raises(SystemExit, match=told):
        script("recipes/tasks.py").task_of(read_card(name), dataset, Path("nowhere"))
