"""Counts, shapes and shared rules of the MobileNet family."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo import counts  # noqa: E402
from posezoo.layers import SplitConv2D, divisible  # noqa: E402
from posezoo.models import mobilenet_split as family  # noqa: E402
from posezoo.skeletons import COCO17, FLIC11, LSP14, Skeleton  # noqa: E402

# Merge at 1/16, merge at 1/8, shared depthwise -> trainable parameters, MMACs (FLIC's eleven joints).
SWITCHES = {
    ("add", "add", True): (2_159_179, 921.8),
    ("add", "concat", True): (2_227_531, 1_134.5),
    ("concat", "add", True): (2_295_883, 1_028.2),
    ("concat", "concat", True): (2_364_235, 1_240.9),
    ("add", "add", False): (2_187_339, 994.0),
    ("add", "concat", False): (2_283_851, 1_279.0),
    ("concat", "add", False): (2_324_043, 1_100.4),
    ("concat", "concat", False): (2_420_555, 1_385.4),
}


@pytest.mark.parametrize(("switches", "expected"), SWITCHES.items())
def test_final_network_has_the_counts_of_every_switch(switches, expected):
    merge14, merge28, shared = switches
    network = family.mobilenet_split(skeleton=FLIC11, merge14=merge14, merge28=merge28, shared_depthwise=shared)
    assert counts.params(network) == expected[0]
    assert counts.macs(network) / 1e6 == pytest.approx(expected[1], abs=0.05)


def test_final_network_counts_with_batch_norm_statistics():
    assert family.mobilenet_split(skeleton=FLIC11).count_params() == 2_317_259


@pytest.mark.parametrize(
    ("builder", "params", "mmacs"),
    [
        (family.mobilenet_regression, 3_229_526, 567.7),
        (family.mobilenet_regression_nogap, 4_310_870, 568.8),
        (family.mobilenet_split_regression, 3_307_350, 567.8),
    ],
)
def test_baselines_have_the_paper_counts(builder, params, mmacs):
    network = builder()
    assert counts.params(network) == params
    assert counts.macs(network) / 1e6 == pytest.approx(mmacs, abs=0.05)
    assert network.output["coordinates"].shape == (None, 22)


def test_trainable_count_ignores_freezing():
    network = family.mobilenet_split(width=0.35, input_px=64)
    before = counts.params(network)
    network.trainable = False
    assert counts.params(network) == before


@pytest.mark.parametrize("width", family.WIDTHS)
@pytest.mark.parametrize("input_px", family.INPUTS_PX)
def test_every_width_and_size_builds(width, input_px):
    network = family.mobilenet_split(width=width, input_px=input_px)
    assert network.output["heatmaps"].shape == (None, input_px // 4, input_px // 4, 14)


def test_narrow_widths_are_keras_own_where_keras_has_them():
    for width in (0.25, 0.5, 0.75, 1.0):
        assert all(divisible(c * width) == int(c * width) for c in (32, 64, 128, 256, 512, 1024))


def test_input_may_be_non_square():
    network = family.mobilenet_split(width=0.35, input_px=(96, 64))
    assert network.output["heatmaps"].shape == (None, 24, 16, 14)


@pytest.mark.parametrize("input_px", [100, 16, (96, 50)])
def test_input_must_be_a_multiple_of_32(input_px):
    with pytest.raises(ValueError, match="multiples of 32"):
        family.mobilenet_split(input_px=input_px)


def test_unknown_merge_is_refused_by_name():
    with pytest.raises(ValueError, match="merge14 must be 'concat' or 'add', got 'sum'"):
        family.mobilenet_split(merge14="sum")


def test_streams_of_flic_are_the_paper_allocation():
    assert family.allocate_streams(FLIC11, 256) == (22, 32, 36, 22, 32, 36, 20, 20, 12, 12, 12)
    assert family.allocate_streams(FLIC11, 1024) == (88, 128, 144, 88, 128, 144, 80, 80, 48, 48, 48)


@pytest.mark.parametrize("skeleton", [FLIC11, LSP14, COCO17])
@pytest.mark.parametrize("filters", [17, 18, 40, 88, 128, 192, 255, 256])
def test_streams_sum_to_the_filters_and_serve_every_joint(skeleton, filters):
    streams = family.allocate_streams(skeleton, filters)
    assert sum(streams) == filters
    assert min(streams) >= 1
    by_joint = dict(zip(skeleton.keypoints, streams))
    assert by_joint["left_wrist"] >= by_joint["left_shoulder"]


def test_streams_need_a_filter_per_joint():
    with pytest.raises(ValueError, match="10 filters cannot serve 11 joints"):
        family.allocate_streams(FLIC11, 10)


def test_a_keypoint_set_of_ones_own_builds():
    dog = Skeleton("dog", ("nose", "tail", "left_paw", "right_paw"))
    network = family.mobilenet_split(width=0.35, input_px=64, skeleton=dog)
    assert network.output["heatmaps"].shape[-1] == 4


def test_split_convolution_equals_one_convolution_per_stream():
    rng = np.random.default_rng(3)
    streams = (3, 1, 4)
    layer = SplitConv2D(streams)
    x = rng.normal(size=(2, 6, 5, 8)).astype("float32")
    layer.build(x.shape)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    kernel, bias = layer.get_weights()
    got = keras.ops.convert_to_numpy(layer(x))
    start = 0
    for k, n in enumerate(streams):
        block = slice(start, start + n)
        alone = keras.ops.conv(x[..., block], kernel[:, :, block], padding="same")
        np.testing.assert_allclose(got[..., k], keras.ops.convert_to_numpy(alone)[..., 0] + bias[k], atol=1e-5)
        start += n


def test_split_convolution_refuses_wrong_streams():
    with pytest.raises(ValueError, match=r"sum to 7, but the input has 8"):
        SplitConv2D((3, 4)).build((None, 4, 4, 8))


def test_network_survives_saving(tmp_path):
    network = family.mobilenet_split(width=0.35, input_px=64)
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(again.predict(x, verbose=0)["heatmaps"], network.predict(x, verbose=0)["heatmaps"])
