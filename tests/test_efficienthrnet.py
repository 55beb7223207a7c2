"""EfficientHRNet, compact EfficientNet and HRNet: the papers' counts, shapes, and the two heads."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo import counts  # noqa: E402
from posezoo.models import efficienthrnet as ehr  # noqa: E402
from posezoo.models.efficientnet import SCALING, compact_efficientnet  # noqa: E402
from posezoo.models.hourglass import hourglass  # noqa: E402
from posezoo.models.hrnet import hrnet, hrnetv2, hrnetv2_head  # noqa: E402
from posezoo.skeletons import COCO17, LSP14  # noqa: E402

# phi: parameters, MACs, the paper's MACs, the paper's parameters, branch widths.
FAMILY = {
    0: (19_725_359, 23_958_286_848, 25_619_231_232, 23_319_819, [32, 64, 128, 256]),
    -1: (13_004_446, 13_130_000_048, 14_208_272_048, 16_054_270, [26, 52, 103, 206]),
    -2: (8_263_495, 7_029_956_920, 7_725_396_280, 10_388_653, [21, 42, 83, 166]),
    -3: (5_360_390, 3_758_983_969, 4_209_102_625, 6_962_372, [17, 34, 67, 133]),
    -4: (2_764_706, 1_807_480_224, 2_104_751_520, 3_757_196, [14, 27, 54, 107]),
}


@pytest.fixture(autouse=True)
def fresh_names():
    keras.backend.clear_session()


@pytest.mark.parametrize("phi", FAMILY)
def test_counts_are_the_papers(phi):
    params, macs, paper_macs, paper_params, widths = FAMILY[phi]
    network = ehr.efficienthrnet(phi)
    assert ehr.branch_widths(phi) == widths
    assert counts.params(network) == params
    assert counts.macs(network) == macs
    assert ehr.paper_macs(network) == paper_macs
    assert ehr.paper_params(network) == paper_params
    side = 512 + 32 * phi
    assert network.input_shape == (None, side, side, 3)


def test_counts_by_part():
    """Section by section, H-4: a wrong layer in one part cannot hide behind another."""
    network = ehr.efficienthrnet(-4)
    by_part = dict.fromkeys(("backbone", "transition1", "stage2", "transition2", "stage3", "transition3", "stage4"), 0)
    for layer in network.layers:
        part = "backbone" if layer.name.startswith("stem") else next((p for p in by_part if p in layer.name[:11]), None)
        if part:
            by_part[part] += sum(int(np.prod(w.shape)) for w in layer.weights if "moving" not in w.name)
    assert by_part == {
        "backbone": 993_186, "transition1": 2_058 + 7_857, "stage2": 37_490, "transition2": 1_806 + 6_642 + 39_042,
        "stage3": 167_128, "transition3": 1_806 + 6_642 + 26_406 + 208_329, "stage4": 1_247_601,
    }  # fmt: skip


# phi: parameters with 1000 and 100 classes, MACs.
CLASSIFIERS = {
    0: (5_288_548, 4.136e6, 0.386e9), -1: (4.548e6, 3.503e6, 0.302e9), -2: (3.464e6, 2.512e6, 0.177e9),
    -3: (2.796e6, 1.931e6, 0.106e9), -4: (2.056e6, 1.271e6, 0.046e9),
}  # fmt: skip


@pytest.mark.parametrize("phi", CLASSIFIERS)
def test_classifiers(phi):
    params, hundred, macs = CLASSIFIERS[phi]
    network = compact_efficientnet(phi)
    assert network.input_shape[1] == SCALING[phi][0]
    assert counts.params(network) == pytest.approx(params, rel=0 if phi == 0 else 1e-3)
    assert counts.macs(network) == pytest.approx(macs, rel=0.01)
    assert counts.params(compact_efficientnet(phi, classes=100)) == pytest.approx(hundred, rel=1e-3)


# phi: parameters and MACs at EfficientHRNet's input, channels of the four outputs.
FEATURES = {
    0: (3_595_388, 1.901e9, [24, 40, 112, 320]), -1: (3_050_752, 1.501e9, [24, 40, 104, 288]),
    -2: (2_125_854, 1.045e9, [24, 32, 96, 264]), -3: (1_602_678, 0.724e9, [24, 32, 88, 240]),
    -4: (993_186, 0.3816e9, [16, 32, 80, 216]),
}  # fmt: skip


@pytest.mark.parametrize("phi", FEATURES)
def test_features_without_a_classifier(phi):
    params, macs, channels = FEATURES[phi]
    side = ehr.default_px(phi)
    network = compact_efficientnet(phi, classes=None, input_px=side)
    assert counts.params(network) == params
    assert counts.macs(network) == pytest.approx(macs, rel=1e-3)
    shapes = {name: tensor.shape[1:] for name, tensor in network.output.items()}
    strides = (4, 8, 16, 32)
    assert shapes == {f"stride{s}": (side // s, side // s, c) for s, c in zip(strides, channels, strict=True)}


@pytest.mark.parametrize(
    ("build", "params", "macs"),
    [
        (hrnet, 28_536_113, 17_201_258_496),
        (lambda: hrnet(num_keypoints=38), 28_536_806, 17_205_903_360),
        (lambda: hrnet(num_keypoints=133), 28_539_941, 17_226_915_840),
        (lambda: hrnetv2(num_keypoints=68), 9_654_398, 4_660_472_832),
        (lambda: hrnetv2_head(num_keypoints=68), 9_619_774, 4_497_943_552),
        (lambda: hrnetv2_head(num_keypoints=21), 9_607_037, 4_445_965_312),
        (lambda: hourglass(num_maps=18), 12_897_252, 43_112_595_456),
    ],
    ids=["w32-17", "w32-38", "w32-133", "v2-w18-face", "face-head", "hand-head", "hourglass"],
)
def test_relatives(build, params, macs):
    network = build()
    assert (counts.params(network), counts.macs(network)) == (params, macs)


@pytest.mark.parametrize("lite", [False, True])
def test_any_size_and_skeleton(lite):
    network = ehr.efficienthrnet(-4, lite=lite, skeleton=LSP14, input_px=(96, 160))
    shapes = {name: tuple(t.shape) for name, t in network.output.items()}
    assert shapes == {
        "heatmaps": (None, 48, 80, 14), "heatmaps_low": (None, 24, 40, 14), "tags": (None, 24, 40, 14),
    }  # fmt: skip
    assert {layer.name for layer in network.layers} >= set(shapes), "signatures take their names from layers"
    with pytest.raises(ValueError, match="multiples of 32"):
        ehr.efficienthrnet(-4, lite=lite, input_px=100)


def test_unknown_scale_and_head():
    with pytest.raises(ValueError, match="phi must be one of 0, -1"):
        ehr.efficienthrnet(-5)
    with pytest.raises(ValueError, match="'concat' or 'sum'"):
        ehr.efficienthrnet(-4, input_px=64, head="mean")


def test_the_sum_head_is_the_concat_head():
    """deconv(concat(a, b, c)) = deconv(a) + deconv(b) + deconv(c), with the kernel cut by input channels."""
    joined = ehr.efficienthrnet(-4, input_px=64, head="concat")
    summed = ehr.efficienthrnet(-4, input_px=64, head="sum")
    width, joints = joined.get_layer("heatmaps_low").input.shape[-1], COCO17.num_keypoints
    for layer in summed.layers:
        if layer.weights and not layer.name.startswith("head_up_") or layer.name == "head_up_bn":
            layer.set_weights(joined.get_layer(layer.name).get_weights())
    kernel = joined.get_layer("head_up").get_weights()[0]
    cuts = np.split(kernel, [width, width + joints], axis=-1)
    for name, cut in zip(("features", "heatmaps", "tags"), cuts, strict=True):
        summed.get_layer(f"head_up_{name}").set_weights([cut])
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("f4")
    a, b = joined.predict_on_batch(x), summed.predict_on_batch(x)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5 * np.abs(a[name]).max())
    assert counts.params(joined) == counts.params(summed)


def test_lite_has_nothing_that_int8_dislikes():
    kinds = {type(layer).__name__ for layer in ehr.efficienthrnet(-4, lite=True, input_px=64).layers}
    assert not kinds & {"Multiply", "GlobalAveragePooling2D", "Concatenate", "ZeroPadding2D", "Activation"}


def test_drop_connect_leaves_whole_branches_out():
    network = compact_efficientnet(-4, input_px=32)
    drop = next(layer for layer in network.layers if layer.name.endswith("_drop"))
    x = np.ones((64, 2, 2, drop.input.shape[-1]), "f4")
    y = np.asarray(drop(x, training=True))
    per_picture = y.reshape(64, -1)
    assert (per_picture.min(axis=1) == per_picture.max(axis=1)).all()
    assert set(np.unique(per_picture.round(4))) == {0.0, 1.25}
    assert (np.asarray(drop(x, training=False)) == x).all()
