"""The hand network: the paper's totals, its heads, and what its keypoints can see."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo import counts  # noqa: E402
from posezoo.layers import ChannelShuffle, GroupedConv2D  # noqa: E402
from posezoo.models.hand import BACKBONES, Heads, hand25d  # noqa: E402
from posezoo.skeletons import COCO17, HAND16, HAND34  # noqa: E402


@pytest.fixture(autouse=True)
def fresh_names():
    keras.backend.clear_session()


def test_counts_are_the_papers():
    network = hand25d()
    assert counts.params(network) == 40_512
    assert counts.macs(network) == 34_809_600
    assert network.input_shape == (None, 168, 224, 1)
    assert network.output["heatmaps"].shape == (None, 168, 224, 16)


def test_counts_by_part():
    by_part = dict.fromkeys(("tier1", "tier2_unit1", "tier2_unit2", "tier3_unit1", "tier3_unit2", "up1", "up2"), 0)
    for layer in hand25d().layers:
        part = next((p for p in by_part if layer.name.startswith(p)), None)
        if part:
            by_part[part] += sum(int(np.prod(w.shape)) for w in layer.weights if "moving" not in w.name)
    assert by_part == {
        "tier1": 176, "tier2_unit1": 2720, "tier2_unit2": 2720, "tier3_unit1": 17056, "tier3_unit2": 17056,
        "up1": 608, "up2": 176,
    }  # fmt: skip


@pytest.mark.parametrize("input_px, macs", [(192, 34_099_200), ((240, 320), 71_040_000)])
def test_other_sizes(input_px, macs):
    assert counts.macs(hand25d(input_px=input_px)) == macs


def test_visibility_costs_1170_parameters():
    assert counts.params(hand25d(visibility=True)) == 40_512 + 1_170


def test_heads():
    network = hand25d(input_px=(64, 96), heads=Heads())
    assert {name: tuple(t.shape[1:]) for name, t in network.output.items()} == {
        "heatmaps": (64, 96, 16), "heatmaps_aux": (64, 96, 18), "visibility": (18,), "orientation": (16,),
        "pose": (18,), "segmentation": (64, 96, 3), "heatmaps_8": (8, 12, 16), "heatmaps_4": (16, 24, 16),
        "heatmaps_2": (32, 48, 16),
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["auxiliary", "visibility", "orientation", "pose", "segmentation", "deep"])
def test_a_head_can_be_left_out(missing):
    all_heads = set(hand25d(input_px=64, heads=Heads()).output)
    network = hand25d(input_px=64, heads=Heads(**{missing: False}))
    prefix = {"auxiliary": ("heatmaps_aux",), "deep": ("heatmaps_8", "heatmaps_4", "heatmaps_2")}
    assert all_heads - set(network.output) == set(prefix.get(missing, (missing,)))


def test_deep_supervision_asks_for_what_the_maps_are_asked_for():
    # What starts below zero turns a map upside down, or leaves nothing of it above zero.
    network = hand25d(heads=Heads(), input_px=(56, 72))
    assert (np.asarray(network.get_layer("up2_conv").weights[0]) > 0).all()
    for level in ("heatmaps_4", "heatmaps_2"):
        factor, bias = (np.asarray(weight) for weight in network.get_layer(level).weights)
        assert (factor == 1).all() and (bias == 0).all()


def test_trained_layers_fit_the_deployed_network():
    trained, deployed = hand25d(input_px=64, heads=Heads()), hand25d(input_px=64, name="deployed")
    for layer in trained.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.random.default_rng(1).uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    for layer in deployed.layers:
        layer.set_weights(trained.get_layer(layer.name).get_weights())
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 64, 64, 1)).astype("float32")
    np.testing.assert_allclose(deployed(x)["heatmaps"], trained(x)["heatmaps"], atol=1e-5)


def test_every_keypoint_sees_both_units():
    """A change of one unit's features reaches every map: the channels are dealt out, not cut in halves."""
    network = hand25d(input_px=64)
    decoder = keras.Model(
        [network.get_layer(f"tier3_unit{i}_step4_act").output for i in (1, 2)], network.get_layer("up1").output
    )
    rng = np.random.default_rng(0)
    units = [rng.normal(size=(1, 8, 8, 32)).astype("float32") for _ in range(2)]
    before = np.asarray(decoder(units))
    for i in range(2):
        changed = [u + (i == j) for j, u in enumerate(units)]
        assert (np.abs(np.asarray(decoder(changed)) - before).max(axis=(0, 1, 2)) > 1e-6).all()


@pytest.mark.parametrize("shuffle", [True, False])
def test_shuffled_channels_meet(shuffle):
    """Without shuffles most of the first tier's channels have no path at all to a map."""
    network = hand25d(input_px=64, shuffle=shuffle)
    rest = keras.Model(network.get_layer("tier1_pool").output, network.get_layer("up1").output)
    rng = np.random.default_rng(0)
    for layer in rest.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    x = rng.uniform(0, 1, (1, 16, 16, 16)).astype("float32")  # the first tier's channels at 1/4
    before = np.asarray(rest(x))
    reached = np.zeros((16, 16), bool)
    for channel in range(16):
        changed = x.copy()
        changed[..., channel] += 1
        reached[channel] = np.abs(np.asarray(rest(changed)) - before).max(axis=(0, 1, 2)) > 1e-7
    assert (reached.mean() > 0.9) if shuffle else (reached.mean() < 0.3)


def test_shuffling_deals_channels_out():
    x = np.arange(6, dtype="float32").reshape(1, 1, 1, 6)
    assert np.asarray(ChannelShuffle(2)(x)).ravel().tolist() == [0, 3, 1, 4, 2, 5]
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        ChannelShuffle(4)(x)
    again = ChannelShuffle.from_config(ChannelShuffle(3).get_config())
    assert np.asarray(again(x)).ravel().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("backbone, params", zip(BACKBONES[1:], (2_306_704, 7_020_304)))
def test_other_backbones(backbone, params):
    network = hand25d(backbone=backbone, input_px=(64, 96))
    assert counts.params(network) == params
    assert network.output["heatmaps"].shape == (None, 64, 96, 16)


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="multiples of 8 for backbone ladder, got 100x224"):
        hand25d(input_px=(100, 224))
    with pytest.raises(ValueError, match="unknown backbone 'resnet'; expected one of ladder"):
        hand25d(backbone="resnet")
    with pytest.raises(ValueError, match="'coco17' has 17 keypoints; they share 32 features"):
        hand25d(skeleton=COCO17)


def test_labelled_keypoints_hold_the_primary_ones():
    assert set(HAND16.keypoints) < set(HAND34.keypoints)
    assert HAND34.num_keypoints == 34


@pytest.mark.parametrize("groups, dilation, stride", [(4, 1, 1), (1, 3, 1), (8, 2, 1), (2, 1, 2)])
def test_grouped_convolution_is_kerass(groups, dilation, stride):
    about = {"strides": stride, "dilation_rate": dilation, "groups": groups, "padding": "same"}
    ours, theirs = GroupedConv2D(16, 3, **about), keras.layers.Conv2D(16, 3, **about)
    x = np.random.default_rng(0).normal(size=(2, 12, 14, 8)).astype("float32")
    expected = theirs(x)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x), expected, atol=1e-5)
    again = GroupedConv2D.from_config(ours.get_config())
    assert (again.groups, again.dilation_rate) == (groups, (dilation, dilation))
