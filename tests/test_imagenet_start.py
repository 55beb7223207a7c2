"""Starting from ImageNet: the features are there, and the first training step does not destroy them."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo.data.lsp import read_lsp  # noqa: E402
from posezoo.data.pipeline import PersonCrops, scale_pixels  # noqa: E402
from posezoo.models.efficienthrnet import backbone_layers, efficienthrnet  # noqa: E402
from posezoo.models.efficientnet import compact_efficientnet  # noqa: E402
from posezoo.models.mobilenet_split import mobilenet_split  # noqa: E402
from posezoo.training.initialise import layers_of, load_backbone, read_efficientnet_lite, read_layers  # noqa: E402
from posezoo.training.losses import heatmap_loss  # noqa: E402


@pytest.fixture(scope="module")
def backbone(shared):
    path = shared / "data" / "init_weights" / "mobilenet_v1_1.0_224_imagenet_bn.npz"
    if not path.exists():
        pytest.skip("no ImageNet backbone in the shared data")
    return read_layers(path)


@pytest.fixture(scope="module")
def photos(shared):
    folder = shared / "data" / "lspet"
    if not folder.is_dir():
        pytest.skip("no lspet in the shared data")
    crops = PersonCrops(read_lsp(folder, "val"), (192, 192))
    return scale_pixels(np.stack([crops.crop(i).image for i in range(16)]))


def features_of(network, photos, *, training=False):
    trunk = keras.Model(network.input, network.get_layer("conv_pw_11_relu").output)
    return keras.ops.convert_to_numpy(trunk(photos, training=training))


def cosine(a, b) -> float:
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def test_statistics_are_those_of_photographs(backbone, photos):
    """Batch statistics of real photographs agree with the stored ones: training mode sees what inference sees."""
    network = mobilenet_split(input_px=192)
    load_backbone(network, backbone)
    assert cosine(features_of(network, photos), features_of(network, photos, training=True)) > 0.95


def test_first_step_keeps_the_features(backbone, photos):
    network = mobilenet_split(input_px=192)
    filled = load_backbone(network, backbone)
    assert {"conv1", "conv_pw_11", "conv_pw_11_bn"} <= set(filled)
    before = features_of(network, photos)
    network.compile(keras.optimizers.Adam(1e-4), loss={"heatmaps": heatmap_loss}, jit_compile=False)
    network.train_on_batch(photos, {"heatmaps": np.zeros((16, 48, 48, 14), "float32")})
    assert cosine(before, features_of(network, photos)) > 0.98


def test_untold_statistics_would_be_caught(backbone, photos):
    """The check can fail: the same weights with the statistics that a folded file leaves do not agree."""
    network = mobilenet_split(input_px=192)
    folded = {name: dict(weights) for name, weights in backbone.items()}
    for weights in folded.values():
        if "gamma" in weights:
            weights.update(
                gamma=np.ones_like(weights["gamma"]), mean=weights["mean"] * 0, variance=weights["variance"] * 0 + 1
            )
    load_backbone(network, folded)
    assert cosine(features_of(network, photos), features_of(network, photos, training=True)) < 0.9


def test_narrow_start_keeps_the_most_important_channels(backbone):
    network = mobilenet_split(width=0.5, input_px=96)
    load_backbone(network, backbone)
    kept = network.get_layer("conv1_bn").get_weights()[0]
    gammas = np.abs(backbone["conv1_bn"]["gamma"])
    assert np.abs(kept).min() >= np.sort(gammas)[-16]


# EfficientNet-Lite0


def random_start(network, seed=0):
    """Random weights and statistics, so that no two channels are alike."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if layer.weights:
            layer.set_weights([
                rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else rng.normal(0, np.prod(w.shape[:-1]) ** -0.5, w.shape)
                for w in layer.get_weights()
            ])  # fmt: skip
    return network


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """A made EfficientNet-Lite0, and a file of its convolutions as the public weights come: numbered, in order."""
    network = random_start(compact_efficientnet(0, lite=True, classes=3, input_px=32))
    layers, held, number = layers_of(network), {}, 0
    for name, weights in layers.items():
        if f"{name}_bn" not in layers:
            continue
        norm = layers[f"{name}_bn"]
        held[f"{number:03d}/kernel"] = weights["kernel"]
        held |= {f"{number:03d}/{part}": norm[part] for part in ("gamma", "beta", "mean", "variance")}
        number += 1
    path = tmp_path_factory.mktemp("lite0") / "lite0.npz"
    np.savez(path, **held)
    return network, path


def test_lite_h0_starts_from_exactly_that_network(lite0, shallow):
    source, path = lite0
    network = random_start(efficienthrnet(0, lite=True, input_px=32), seed=1)
    filled = load_backbone(network, read_efficientnet_lite(path))
    own = {layer.name for layer in backbone_layers(network) if layer.weights}
    assert set(filled) == own
    x = np.random.default_rng(2).normal(size=(1, 32, 32, 3)).astype("f4")
    for last in ("backbone2_1_project_bn", "backbone7_0_project_bn"):
        got, expected = (keras.Model(n.input, n.get_layer(last).output)(x) for n in (network, source))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_smaller_lite_networks_take_the_most_important_channels(lite0):
    source, path = lite0
    network = compact_efficientnet(-4, lite=True, classes=None, input_px=32)
    load_backbone(network, read_efficientnet_lite(path))

    def weights(name):
        return network.get_layer(name).get_weights(), source.get_layer(name).get_weights()

    norm, whole = weights("stem_bn")
    stem = np.sort(np.argsort(-np.abs(whole[0]))[: len(norm[0])])
    assert len(norm[0]) == 24 and len(whole[0]) == 32
    for small, large in zip(norm, whole, strict=True):
        np.testing.assert_allclose(small, large[stem], rtol=1e-6)
    (small,), (large,) = weights("stem")
    np.testing.assert_array_equal(small, large[..., stem])
    (small,), (large,) = weights("backbone1_0_depthwise")  # each channel its own
    np.testing.assert_array_equal(small, large[:, :, stem])
    kept, every = weights("backbone1_0_project_bn")
    project = np.sort(np.argsort(-np.abs(every[0]))[: len(kept[0])])
    (small,), (large,) = weights("backbone1_0_project")
    np.testing.assert_array_equal(small, large[:, :, stem][..., project])


def test_a_file_of_another_network_is_told(lite0, tmp_path):
    with np.load(lite0[1]) as data:
        np.savez(tmp_path / "cut.npz", **{key: data[key] for key in data.files if not key.startswith("048/")})
    with pytest.raises(ValueError, match="48 convolutions, EfficientNet-Lite0 has 49"):
        read_efficientnet_lite(tmp_path / "cut.npz")


@pytest.mark.parametrize("phi", [0, -4])
def test_public_lite0_weights_see_photographs_as_they_were_trained(shared, photos, phi):
    path = shared / "data" / "init_weights" / "efficientnet_lite0_imagenet_bn.npz"
    if not path.exists():
        pytest.skip("no EfficientNet-Lite0 in the shared data")
    network = compact_efficientnet(phi, lite=True, classes=None, input_px=192)
    filled = load_backbone(network, read_efficientnet_lite(path))
    assert set(filled) == {layer.name for layer in network.layers if layer.weights}
    if phi:
        return
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    trunk = keras.Model(network.input, network.output["stride16"])
    inference, training = (keras.ops.convert_to_numpy(trunk(photos, training=mode)) for mode in (False, True))
    assert cosine(inference, training) > 0.95
