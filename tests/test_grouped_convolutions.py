"""Grouped and dilated convolutions compute and train alike with and without oneDNN, and in files that leave.

TensorFlow reads the setting once, so each check runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")

CHECK = """
import sys
import keras, numpy as np, tensorflow as tf
from posezoo.layers import GroupedConv2D, convolutions_written, tensorflow_has_group_kernels

rng = np.random.default_rng(0)


def by_hand(x, kernel, groups, stride, dilation, padding):
    '''Convolution written out over pixels, groups apart.'''
    rows, columns, inside, filters = kernel.shape
    span = (rows - 1) * dilation + 1
    if padding == "same":
        total = max((-(-x.shape[1] // stride) - 1) * stride + span - x.shape[1], 0)
        before = total // 2
        x = np.pad(x, ((0, 0), (before, total - before), (before, total - before), (0, 0)))
    side = (x.shape[1] - span) // stride + 1
    y = np.zeros((len(x), side, side, filters), np.float64)
    each = filters // groups
    for g in range(groups):
        part, own = x[..., g * inside : (g + 1) * inside], kernel[..., g * each : (g + 1) * each]
        for r in range(rows):
            for c in range(columns):
                top, left = r * dilation, c * dilation
                seen = part[:, top : top + side * stride : stride, left : left + side * stride : stride]
                y[..., g * each : (g + 1) * each] += seen[:, :side, :side] @ own[r, c]
    return y


def layer_of(groups, filters, stride=1, dilation=1, padding="same"):
    conv = GroupedConv2D(
        filters, 3, strides=stride, dilation_rate=dilation, padding=padding, groups=groups, use_bias=True, name="conv"
    )
    image = keras.Input((12, 12, 8), name="image")
    norm = keras.layers.BatchNormalization(name="norm")
    return conv, keras.Model(image, keras.layers.ReLU()(norm(conv(image))))


CASES = [
    dict(groups=2, filters=4), dict(groups=4, filters=4), dict(groups=8, filters=8),
    dict(groups=4, filters=8, dilation=2),
    dict(groups=1, filters=4, dilation=2), dict(groups=2, filters=6, stride=2), dict(groups=4, filters=4, stride=2),
    dict(groups=2, filters=4, padding="valid"), dict(groups=4, filters=4, dilation=2, padding="valid"),
]
x = rng.normal(size=(2, 12, 12, 8)).astype("float32")
for case in CASES:
    conv, network = layer_of(**case)
    bias = rng.normal(size=conv.filters).astype("float32")
    conv.set_weights([conv.get_weights()[0], bias])
    kernel = conv.get_weights()[0].astype("float64")
    expected = by_hand(x.astype("float64"), kernel, case["groups"], case.get("stride", 1), case.get("dilation", 1),
                       case.get("padding", "same")) + bias
    # In a graph TensorFlow joins convolution, bias and activation into one operation.
    graph = tf.function(lambda image: network(image, training=False))
    got = graph(tf.constant(x)).numpy()
    np.testing.assert_allclose(got, np.maximum(expected / np.sqrt(1 + 1e-3), 0), atol=1e-4, err_msg=str(case))

    def slopes(how):
        with convolutions_written(how), tf.GradientTape() as tape:
            image = tf.constant(x)
            tape.watch(image)
            loss = tf.reduce_sum(tf.square(conv(image)))
        return [g.numpy() for g in tape.gradient(loss, [image, conv.kernel.value])]

    # The slope of a sum of squares, written out: 2 y times what each weight saw.
    step = 1e-2
    image_slope, kernel_slope = slopes("here")
    for _ in range(3):
        at = tuple(rng.integers(0, side) for side in kernel.shape)
        sums = []
        for sign in (1, -1):
            other = kernel.copy()
            other[at] += sign * step
            y = by_hand(x.astype("float64"), other, case["groups"], case.get("stride", 1), case.get("dilation", 1),
                        case.get("padding", "same")) + bias
            sums.append((y ** 2).sum())
        measured = (sums[0] - sums[1]) / (2 * step)
        np.testing.assert_allclose(kernel_slope[at], measured, rtol=1e-3, atol=1e-2, err_msg=str(case))
    assert np.isfinite(image_slope).all() and np.abs(image_slope).max() > 0

    with convolutions_written("apart"):
        apart = tf.function(lambda image: network(image, training=False)).get_concrete_function(tf.TensorSpec(x.shape))
    np.testing.assert_allclose(tf.nest.flatten(apart(tf.constant(x)))[0], got, atol=1e-4, err_msg=str(case))
    operations = [op for op in apart.graph.get_operations() if op.type == "Conv2D"]
    assert all(op.inputs[0].shape[-1] == op.inputs[1].shape[2] for op in operations), "a grouped operation is left"

    network.compile("sgd", "mse")
    before = conv.get_weights()[0].copy()
    network.fit(x, np.zeros_like(got), verbose=0)
    assert np.abs(conv.get_weights()[0] - before).max() > 0
print("kernels", tensorflow_has_group_kernels())
"""

TWIN = """
import keras, numpy as np
from posezoo.compression.keras2 import rebuild
from posezoo.layers import GroupedConv2D

image = keras.Input((12, 12, 8), name="image")
y = GroupedConv2D(8, 3, padding="same", groups=4, dilation_rate=2, name="grouped")(image)
y = GroupedConv2D(4, 3, padding="same", groups=4, name="single")(keras.layers.ReLU(name="relu")(y))
network = keras.Model(image, {"out": y})
x = np.random.default_rng(0).normal(size=(2, 12, 12, 8)).astype("float32")
twin = rebuild(network).model
np.testing.assert_allclose(twin.predict(x, verbose=0)["out"], network.predict(x, verbose=0)["out"], atol=1e-5)
twin.compile("sgd", "mse")
before = [w.copy() for w in twin.get_weights()]
twin.fit(x, {"out": np.zeros((2, 12, 12, 4), "float32")}, verbose=0)
assert any(np.abs(a - b).max() > 0 for a, b in zip(before, twin.get_weights()))
"""


def run(code: str, onednn: str, *arguments: str) -> str:
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_grouped_convolutions_compute_and_train(onednn):
    told = run(CHECK, onednn)
    if onednn == "0":  # with "1" TensorFlow decides: not every build has oneDNN
        assert "kernels False" in told


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_keras2_copies_compute_and_train(onednn):
    pytest.importorskip("tf_keras")
    run(TWIN, onednn)


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_saved_models_run_on_any_processor(mixed_job, tmp_path, onednn):
    from posezoo.export.saved_model import export_saved_model

    assert mixed_job.frozen.grouped()
    assert not mixed_job.frozen_for_tensorflow.grouped()
    made = export_saved_model(mixed_job, tmp_path / "mixed")
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "run = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "shape = run.structured_input_signature[1]['image'].shape\n"
        "print(sorted(run(image=tf.zeros(shape))))\n"
    )
    assert "heatmaps" in run(code, onednn, str(made.files[0]))
