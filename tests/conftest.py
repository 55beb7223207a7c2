"""Fixtures that every test may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

# Tests run side by side, one process per core: libraries that take all cores would only wait for each other.
for _threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_threads, "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference outputs that is not part of the repository."""
    folder = Path(os.environ.get("POSEZOO_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip("no shared data; set POSEZOO_SHARED to its folder")
    return folder


@pytest.fixture
def eager():
    """TensorFlow without graphs, see `scripts.eagerly`."""
    pytest.importorskip("tensorflow")
    from scripts import eagerly

    with eagerly():
        yield


@contextlib.contextmanager
def shallow_networks():
    """EfficientHRNet and its backbone with one block wherever there are several: every kind of layer, fewer steps."""
    from posezoo.models import efficienthrnet, efficientnet

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(efficienthrnet, "BLOCKS", 1)
        for phi in efficienthrnet.MODULES:
            patched.setitem(efficienthrnet.MODULES, phi, (1, 1, 1))
        patched.setitem(efficientnet.SCALING, -4, (128, 0.5, 0.1))
        yield


@pytest.fixture
def shallow():
    """The networks of `shallow_networks`."""
    with shallow_networks():
        yield


TINY_PX = 64


@pytest.fixture(scope="session")
def tiny_spec():
    """Input of the tiny network: 64 px, pixels to [-1, 1]."""
    from posezoo.cards.card import InputSpec

    return InputSpec((TINY_PX, TINY_PX, 3), (127.5,) * 3, (127.5,) * 3)


@pytest.fixture(scope="session")
def tiny_pictures():
    """Smooth random RGB pictures `(12, 64, 64, 3)`; white noise would excite nothing in the network."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return np.stack([cv2.resize(c, (TINY_PX, TINY_PX), interpolation=cv2.INTER_CUBIC) for c in coarse])


@pytest.fixture(scope="session")
def tiny_network(tiny_spec, tiny_pictures):
    """A small hourglass of the family's own blocks; batch norms hold the pictures' statistics.

    It is shallow because a deep network of random weights amplifies every rounding: no trained one does.
    """
    keras = pytest.importorskip("keras")
    from posezoo.heads import split_heatmaps
    from posezoo.inference.runners import normalise
    from posezoo.models.mobilenet_split import allocate_streams, depthwise_separable
    from posezoo.skeletons import LSP14

    keras.utils.set_random_seed(7)
    image = keras.Input((*tiny_spec.shape,), name="image")
    half = depthwise_separable(image, 16, stride=2, name="half_{}")
    quarter = depthwise_separable(half, 32, stride=2, name="quarter_{}")
    x = depthwise_separable(quarter, 32, stride=2, name="eighth_{}")
    x = keras.layers.UpSampling2D(2, interpolation="bilinear", name="up")(x)
    x = keras.layers.Add(name="add")([x, quarter])
    x = keras.layers.Concatenate(name="concat")([x, quarter])
    network = keras.Model(image, split_heatmaps(x, allocate_streams(LSP14, 64)), name="tiny")
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(normalise(tiny_pictures, tiny_spec), training=True)
    head = network.get_layer("heatmaps")
    kernel, bias = head.get_weights()
    head.set_weights([kernel * 20, bias])
    return network


@pytest.fixture(scope="session")
def tiny_card(tiny_spec):
    """The tiny network's card."""
    from posezoo.cards.card import parse_card

    values = {
        "name": "tiny", "family": "tests", "title": "tiny", "paper": "none", "build": {}, "skeleton": "lsp14",
        "input": {"shape": tiny_spec.shape, "mean": tiny_spec.mean, "std": tiny_spec.std},
        "codec": {"type": "heatmap", "stride": 4}, "size": {}, "recipe": "none", "score_threshold": 0.0,
        "licences": {"code": "Apache-2.0", "weights": "none", "data": "none"},
    }  # fmt: skip
    return parse_card(values, "tiny")


@pytest.fixture(scope="session")
def tiny_job(tiny_network, tiny_card, tiny_pictures):
    """What exporters are given for the tiny network."""
    from posezoo.export.job import Job

    return Job(tiny_network, tiny_card, tiny_pictures[:4], list(tiny_pictures))


@pytest.fixture(scope="session")
def mixed_job(tiny_card, tiny_pictures):
    """A network of every kind of layer that the families use, and some that users bring, with two outputs."""
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    from posezoo.export.job import Job
    from posezoo.export.seeded import seed_weights
    from posezoo.layers import GroupedConv2D, SplitConv2D

    layers = keras.layers
    keras.utils.set_random_seed(3)
    image = keras.Input(tiny_card.input.shape, name="image")
    x = layers.ZeroPadding2D(1, name="stem_pad")(image)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.Activation("swish", name="stem_act")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="se_pool")(x)
    gate = layers.Conv2D(16, 1, activation="sigmoid", name="se_gate")(gate)
    x = layers.Multiply(name="se_scale")([x, gate])
    x = layers.MaxPooling2D(2, name="pool")(x)
    y = GroupedConv2D(16, 3, padding="same", groups=4, dilation_rate=2, use_bias=False, name="grouped")(x)
    y = layers.BatchNormalization(name="grouped_bn")(y)
    y = layers.Conv2D(16, 3, padding="same", groups=2, name="keras_groups")(y)
    x = layers.Add(name="add")([x, y])
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, name="depthwise")(x)
    y = layers.BatchNormalization(name="depthwise_bn")(y)
    y = layers.ReLU(max_value=6.0, name="depthwise_act")(y)
    near = layers.UpSampling2D(2, interpolation="nearest", name="near")(y)
    smooth = layers.UpSampling2D(2, interpolation="bilinear", name="smooth")(y)
    x = layers.Concatenate(name="concat")([x, near, smooth])
    x = layers.BatchNormalization(name="concat_bn")(x)
    up = layers.Conv2DTranspose(8, 4, strides=2, padding="same", use_bias=False, name="up")(x)
    up = layers.ReLU(name="up_act")(layers.BatchNormalization(name="up_bn")(up))
    low = layers.AveragePooling2D(2, name="low_pool")(up)
    outputs = {
        "heatmaps": SplitConv2D([1] * 6 + [2], name="heatmaps")(low),
        "tags": layers.Conv2D(3, 1, name="tags")(up),
    }
    network = keras.Model(image, outputs, name="mixed")
    seed_weights(network, tiny_card)
    return Job(network, tiny_card, tiny_pictures[:4], list(tiny_pictures), trained=False)


@pytest.fixture(scope="session")
def tiny_int8(tiny_network, tiny_spec, tiny_pictures):
    """The tiny network as an int8 file's content."""
    pytest.importorskip("tensorflow")
    from posezoo.export.tflite import to_tflite

    return to_tflite(tiny_network, tiny_spec, tiny_pictures)


@pytest.fixture(scope="session")
def stick_figures(tmp_path_factory) -> Path:
    """An LSP-like data set of eight stick people, two for validation."""
    from posezoo.data.stick_figures import write_stick_figures

    return write_stick_figures(tmp_path_factory.mktemp("stick_figures"))


@pytest.fixture
def tiny_copy(tiny_network):
    """The tiny network, to be trained."""
    import keras

    network = keras.models.clone_model(tiny_network)
    network.set_weights(tiny_network.get_weights())
    return network


@pytest.fixture
def compressing_recipe(monkeypatch, tiny_copy, tiny_spec):
    """Function from the name of a recipe that compresses to its module, whose network is the tiny one."""
    import importlib
    from dataclasses import replace

    import posezoo
    from posezoo.cards import read_card

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "recipes"))
    codec = {"type": "heatmap", "stride": 4, "sigma": 2.0}
    card = replace(read_card("mobilenet_split_050_192"), input=tiny_spec, weights={}, codec=codec)
    monkeypatch.setattr(importlib.import_module("compressing"), "read_card", lambda name: card)
    monkeypatch.setattr(posezoo, "build", lambda name: tiny_copy)
    return importlib.import_module
