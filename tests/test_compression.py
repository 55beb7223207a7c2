"""The Keras 2 bridge and quantisation-aware twins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tf_keras")
pytest.importorskip("tensorflow_model_optimization")

from keras import layers as L  # noqa: E402

import posezoo  # noqa: E402
from posezoo.cards import read_card  # noqa: E402
from posezoo.compression import keras2  # noqa: E402
from posezoo.compression.keras2 import BridgeError, rebuild  # noqa: E402
from posezoo.compression.qat import QuantisedTwin, lonely, stored  # noqa: E402
from posezoo.export.gates import compare  # noqa: E402
from posezoo.export.tflite import operators, to_tflite  # noqa: E402
from posezoo.inference.runners import TFLiteRunner, normalise  # noqa: E402
from posezoo.models.efficienthrnet import efficienthrnet  # noqa: E402
from posezoo.models.hand import Heads, hand25d  # noqa: E402
from posezoo.models.mobilenet_split import mobilenet_split  # noqa: E402

NETWORKS = {
    "mobilenet_split": lambda: mobilenet_split(width=0.35, input_px=64),
    "squeeze-excite": lambda: efficienthrnet(-4, input_px=64),
    "lite": lambda: efficienthrnet(-4, input_px=64, lite=True),
    "hand": lambda: hand25d(input_px=(64, 96), heads=Heads()),
}


@pytest.fixture(autouse=True)
def fresh_names():
    keras.backend.clear_session()


def lively(network, seed: int = 0):
    """Give batch norms statistics that are not those of a new network."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network


def inputs(network, count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (count, *network.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("name", NETWORKS)
def test_twin_gives_the_networks_outputs_and_its_weights_come_back(name):
    network = lively(NETWORKS[name]())
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
    for old, new in zip(before, network.get_weights()):
        np.testing.assert_allclose(new, old + 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_file_of_a_twin_is_pure_and_computes_what_the_twin_computes(name):
    network = lively(NETWORKS[name]())
    card = read_card("mobilenet_split_035_160")
    channels = network.input_shape[-1]
    spec = replace(card.input, shape=network.input_shape[1:], mean=(127.5,) * channels, std=(255.0,) * channels)
    pictures = np.random.default_rng(2).integers(0, 256, (8, *spec.shape), np.uint8)
    twin = QuantisedTwin(network, [normalise(pictures, spec)])
    simulated = {k: np.asarray(v) for k, v in twin.model(normalise(pictures, spec), training=False).items()}
    content = to_tflite(twin.model, spec, trained_ranges=True)
    assert not [op for op in operators(content) if op.startswith("DEQUANTIZE")]
    for row in compare(simulated, TFLiteRunner(content, spec, kernels="builtin")(pictures), kernels="builtin"):
        assert row.psnr_db > 35, row
    for row in compare(
        {k: np.asarray(v) for k, v in network(normalise(pictures, spec)).items()}, simulated, kernels=""
    ):
        assert row.psnr_db > 30, row


def test_training_a_twin_lowers_its_loss_and_changes_the_network():
    keras.utils.set_random_seed(0)
    network = lively(NETWORKS["hand"]())
    x = inputs(network, 8)
    goal = {k: np.zeros(v.shape[1:], "float32")[None].repeat(8, 0) for k, v in network(x).items()}
    twin = QuantisedTwin(network, [x])
    twin.model.compile(keras2.keras2().optimizers.Adam(1e-3), loss=dict.fromkeys(goal, "mse"))
    losses = [twin.model.train_on_batch(x, goal, return_dict=True)["loss"] for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    before = [w.copy() for w in network.get_weights()]
    twin.bring_back()
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(before, network.get_weights()))


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


def test_layers_can_stay_float():
    network = lively(mobilenet_split(width=0.35, input_px=64))
    x = inputs(network)
    expected = np.asarray(network(x, training=False)["heatmaps"])

    def error(**options):
        got = np.asarray(QuantisedTwin(network, [x], **options).model(x, training=False)["heatmaps"])
        return np.abs(got - expected).mean()

    assert error(keep_float=["heatmaps"]) < error()
    with pytest.raises(ValueError, match="keep_float names no layer of mobilenet_split: haetmaps"):
        QuantisedTwin(network, [x], keep_float=["haetmaps"])


def test_no_calibration_is_told():
    with pytest.raises(ValueError, match="calibration holds no batch"):
        QuantisedTwin(mobilenet_split(width=0.35, input_px=64), [])


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


@pytest.mark.slow
def test_recipe_gives_an_int8_file_and_weights_with_float_ptq_and_qat_side_by_side(tmp_path):
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "recipes" / "quantize_qat.py"), "--smoke", "--out", str(tmp_path)]
    command += ["--model", "mobilenet_split_050_192"]
    environment = {**os.environ, "PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["scores"]) == {"float32", "int8", "int8-qat"}
    assert report["scores"]["int8-qat"] >= 0
    assert not [op for op in report["operators"] if op.startswith("DEQUANTIZE")]
    assert (tmp_path / "mobilenet_split_050_192_int8.tflite.json").exists()
    network = posezoo.build("mobilenet_split_050_192")
    network.load_weights(tmp_path / "mobilenet_split_050_192_qat.weights.h5")
