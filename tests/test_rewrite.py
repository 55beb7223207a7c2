"""Rewrites for targets without groups or dilation compute the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from keras import layers as L  # noqa: E402

from posezoo import counts  # noqa: E402
from posezoo.cards import read_card  # noqa: E402
from posezoo.export.rewrite import RewriteError, combed, with_convolved_dense, without_groups  # noqa: E402
from posezoo.export.simplify import flattened, simplified  # noqa: E402
from posezoo.export.tflite import operators, to_tflite  # noqa: E402
from posezoo.inference.runners import TFLiteRunner, normalise  # noqa: E402
from posezoo.layers import ChannelShuffle, GroupedConv2D  # noqa: E402
from posezoo.models.hand import hand25d  # noqa: E402

SPEC = replace(read_card("mpm_1s").input, shape=(40, 56, 1))


@pytest.fixture(scope="module")
def hand():
    keras.backend.clear_session()
    network = hand25d(input_px=(40, 56))
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).uniform(0.3, 8, (6, 40, 56, 1)).astype("float32")


@pytest.mark.parametrize("rewrite", [without_groups, combed, lambda n: combed(without_groups(n))])
def test_outputs_are_the_same(hand, frames, rewrite):
    x = normalise(frames, SPEC)
    expected, got = (np.asarray(n(x, training=False)["heatmaps"]) for n in (hand, rewrite(hand)))
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


def test_no_group_and_no_dilation_is_left(hand):
    plain = combed(without_groups(hand))
    assert all(getattr(layer, "groups", 1) == 1 for layer in plain.layers)
    assert all(max(getattr(layer, "dilation_rate", (1, 1))) == 1 for layer in plain.layers)
    assert counts.params(plain) > 4 * counts.params(hand)
    assert counts.params(combed(hand)) == counts.params(hand)


def test_int8_files_agree_and_hold_what_edge_tpu_takes(hand, frames):
    plain = to_tflite(without_groups(hand), SPEC, list(frames))
    assert "CONV_2D v6" in operators(to_tflite(hand, SPEC, list(frames)))
    assert "CONV_2D v6" not in operators(plain)
    assert not [name for name in operators(plain) if name.startswith("TRANSPOSE")], "shuffles go into the kernels"
    expected, got = (
        TFLiteRunner(content, SPEC, kernels="builtin")(frames)["heatmaps"]
        for content in (to_tflite(hand, SPEC, list(frames)), plain)
    )
    levels = np.abs(got - expected) / np.diff(np.unique(expected)).min()
    assert levels.max() < 6
    assert levels.mean() < 0.5


def test_other_layers_with_groups_are_no_convolutions():
    image = keras.Input((12, 12, 4), name="image")
    x = L.GroupNormalization(2, name="norm")(L.Conv2D(6, 3, groups=2, name="grouped")(image))
    network = keras.Model(image, {"y": L.Conv2D(2, 1, name="y")(x)})
    plain = without_groups(network)
    assert [plain.get_layer(name).groups for name in ("grouped", "norm")] == [1, 2]
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 4)).astype("float32")
    expected, got = (np.asarray(n(x)["y"]) for n in (network, plain))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert without_groups(plain) is plain


@pytest.mark.parametrize("rewrite", [simplified, without_groups])
def test_copies_know_the_mean_that_a_normalisation_learned(rewrite):
    rng = np.random.default_rng(0)
    norm = L.Normalization(name="norm")
    norm.adapt(rng.uniform(2, 5, (8, 12, 12, 4)))
    image = keras.Input((12, 12, 4), name="image")
    network = keras.Model(image, {"y": L.Conv2D(6, 3, groups=2, name="y")(norm(image))})
    x = rng.uniform(2, 5, (2, 12, 12, 4)).astype("float32")
    expected, got = (np.asarray(n(x)["y"]) for n in (network, rewrite(network)))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def backbone(name: str, *more: L.Layer) -> keras.Sequential:
    """Return a network that is used as a layer."""
    norm = L.Normalization(name="norm")
    norm.adapt(np.random.default_rng(0).uniform(2, 5, (8, 12, 12, 4)))
    grouped = L.Conv2D(4, 3, padding="same", groups=2, activation="relu", name="grouped")
    return keras.Sequential(
        [keras.Input((12, 12, 4)), norm, grouped, L.BatchNormalization(name="bn"), *more], name=name
    )


@pytest.mark.parametrize("rewrite", [flattened, without_groups])
def test_networks_inside_a_network_are_written_out(rewrite):
    """One that is called twice, one within another, and layers whose names meet."""
    image = keras.Input((12, 12, 4), name="image")
    once, deep = backbone("once"), keras.Sequential([backbone("inside"), L.ReLU(name="act")], name="deep")
    x = L.Add(name="once_bn")([once(once(image, training=False)), deep(image)])
    network = keras.Model(image, {"y": L.Conv2D(2, 1, name="y")(x)})
    flat = rewrite(network)
    assert [layer.name for layer in flat.layers if isinstance(layer, L.Conv2D)] == [
        "once_grouped", "deep_inside_grouped", "y",
    ]  # fmt: skip
    assert all(getattr(layer, "groups", 1) == 1 for layer in flat.layers) == (rewrite is without_groups)
    assert {"once_bn", "once_bn_inner", "deep_act"} < {layer.name for layer in flat.layers}
    x = np.random.default_rng(1).uniform(2, 5, (2, 12, 12, 4)).astype("float32")
    expected, got = (np.asarray(n(x, training=False)["y"]) for n in (network, flat))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert flattened(flat) is flat


def test_shuffles_that_others_read_stay():
    image = keras.Input((12, 12, 4), name="image")
    taken = ChannelShuffle(2, name="taken")(GroupedConv2D(8, 3, groups=2, name="a")(image))
    stays = ChannelShuffle(4, name="stays")(GroupedConv2D(8, 3, groups=2, name="b")(taken))
    read = GroupedConv2D(4, 3, groups=2, name="c")(stays)
    network = keras.Model(image, {"y": L.DepthwiseConv2D(3, name="y")(stays), "z": read})
    plain = without_groups(network)
    assert [layer.name for layer in plain.layers if isinstance(layer, ChannelShuffle)] == ["stays"]
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 4)).astype("float32")
    for name, expected in network(x).items():
        np.testing.assert_allclose(plain(x)[name], expected, atol=1e-5)


@pytest.mark.parametrize("height, width, dilation", [(12, 15, 2), (7, 9, 3), (16, 16, 4), (5, 3, 4)])
@pytest.mark.parametrize("groups", [1, 2])
def test_combs_of_any_size(height, width, dilation, groups):
    image = keras.Input((height, width, 4), name="image")
    y = GroupedConv2D(6, 3, padding="same", dilation_rate=dilation, groups=groups, name="y")(image)
    network = keras.Model(image, {"y": y})
    x = np.random.default_rng(0).normal(size=(2, height, width, 4)).astype("float32")
    expected, got = (np.asarray(n(x)["y"]) for n in (network, combed(network)))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_what_combs_cannot_stand_for_is_told():
    image = keras.Input((12, 12, 4), name="image")
    y = GroupedConv2D(6, 3, padding="valid", dilation_rate=2, name="y")(image)
    with pytest.raises(RewriteError, match="layer 'y': combs stand for one dilation.*; change the layer, or"):
        combed(keras.Model(image, {"y": y}))


def test_dense_layers_become_convolutions_of_one_pixel(frames):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((40, 56, 1), name="image")
    pooled = L.GlobalAveragePooling2D()(L.Conv2D(6, 3, strides=2, name="conv")(inputs))
    hidden = L.Dense(5, activation="relu", name="hidden")(pooled)
    network = keras.Model(inputs, {"scores": L.Dense(3, use_bias=False, name="scores")(hidden)})
    convolved = with_convolved_dense(network)
    x = normalise(frames, SPEC)
    expected, got = (np.asarray(n(x, training=False)["scores"]) for n in (network, convolved))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    content = to_tflite(network, SPEC, precision="dynamic")
    assert not any(told.startswith("FULLY_CONNECTED") for told in operators(content)), operators(content)
    assert any(told.startswith("FULLY_CONNECTED") for told in operators(to_tflite(network, SPEC)))
