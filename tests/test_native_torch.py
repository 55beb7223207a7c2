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
