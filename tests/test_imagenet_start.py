"""Starting from ImageNet: the features are there, and the first training step does not destroy them."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo.data.lsp import read_lsp  # noqa: E402
from posezoo.data.pipeline import PersonCrops, scale_pixels  # noqa: E402
from posezoo.models.mobilenet_split import mobilenet_split  # noqa: E402
from posezoo.training.initialise import load_backbone, read_layers  # noqa: E402
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
