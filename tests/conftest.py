"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference outputs that is not part of the repository."""
    folder = Path(os.environ.get("POSEZOO_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip("no shared data; set POSEZOO_SHARED to its folder")
    return folder


@pytest.fixture
def eager():
    """TensorFlow without graphs: where a recipe takes a few steps only, tracing them is most of the work."""
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


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
