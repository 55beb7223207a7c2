"""Networks run by PyTorch's own kernels give Keras's outputs. A process has one backend, so this starts one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("keras")

COMPARE = """
import keras, numpy as np
from posezoo.models.efficienthrnet import efficienthrnet
from posezoo.models.hand import Heads, hand25d
from posezoo.models.hourglass import hourglass
from posezoo.models.mobilenet_split import mobilenet_split
from posezoo.training.native_torch import NativeTorch

keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
for network in (
    mobilenet_split(width=0.35, input_px=64), efficienthrnet(-4, input_px=64),
    efficienthrnet(-4, input_px=64, lite=True), hourglass(input_px=64, stacks=1),
    hand25d(input_px=(64, 96), heads=Heads()),
):
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    x = rng.normal(size=(2, *network.input_shape[1:])).astype("float32")
    expected = network(x, training=False)
    got = NativeTorch(network)(keras.ops.convert_to_tensor(x), training=False)
    for name in expected:
        a, b = (keras.ops.convert_to_numpy(v[name]) for v in (expected, got))
        error = np.abs(a - b).max() / np.abs(a).max()
        print(network.name, name, error)
        assert error < 1e-4, (network.name, name, error)
"""


@pytest.mark.slow
def test_native_outputs_are_keras_outputs():
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("\n") == 17


DIVIDE = """
import keras, numpy as np, torch
from posezoo.models.hand import hand25d
from posezoo.training.divided_torch import divide_steps
from posezoo.training.native_torch import NativeTorch

rng = np.random.default_rng(0)
batches = [(rng.normal(size=(5, 32, 40, 1)), rng.normal(size=(5, 32, 40, 16))) for _ in range(3)]
reached = []
torch.set_num_threads(2)
for parts in (1, 2, 8):
    keras.utils.set_random_seed(1)
    network = hand25d(input_px=(32, 40))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # Each share has statistics of its own.
    trainer = NativeTorch(network)
    if parts > 1:
        divide_steps(trainer, parts)
        assert torch.get_num_threads() == 1
    trainer.compile(keras.optimizers.Adam(1e-3), loss={"heatmaps": "mse"}, jit_compile=False)
    losses = []
    for x, y in batches:
        x, y = x.astype("float32"), {"heatmaps": y.astype("float32")}
        losses.append(trainer.train_on_batch(x, y, return_dict=True)["loss"])
    reached.append((losses, network.get_weights()))
for losses, weights in reached[1:]:
    np.testing.assert_allclose(losses, reached[0][0], rtol=1e-4)
    for got, expected in zip(weights, reached[0][1]):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_divided_steps_train_as_whole_ones_do():
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run([sys.executable, "-c", DIVIDE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("same")
