"""Start a network from another one's weights: ImageNet backbones, wider networks, earlier runs."""

from __future__ import annotations

import logging
from pathlib import Path

import keras
import numpy as np

log = logging.getLogger(__name__)

#: Weight names of a layer, in Keras's own order.
LAYER_WEIGHTS = {
    "Conv2D": ("kernel", "bias"),
    "DepthwiseConv2D": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "mean", "variance"),
    "SplitConv2D": ("kernel", "bias"),
}


def read_layers(path: Path | str) -> dict[str, dict[str, np.ndarray]]:
    """Read MobileNet weights by layer name.

    Args:
        path: An NPZ with keys `layer/kernel`, `layer/gamma`, `/beta`, `/mean`, `/variance` (batch norm
            under its convolution's name), or the `.h5` that `keras.applications.MobileNet` loads.

    Returns:
        `{layer name: {weight name: array}}`, batch norms under `<convolution>_bn`.

    Raises:
        ValueError: The file is neither.
    """
    path = Path(path)
    layers: dict[str, dict[str, np.ndarray]] = {}
    if path.suffix == ".npz":
        with np.load(path) as data:
            for key in data.files:
                layer, weight = key.rsplit("/", 1)
                name = layer if weight in ("kernel", "bias") else f"{layer}_bn"
                layers.setdefault(name, {})[weight] = data[key].astype(np.float32)
        return layers
    if path.suffix != ".h5":
        raise ValueError(f"{path}: expected an .npz of layers or Keras's MobileNet .h5")
    import h5py

    renamed = {"moving_mean": "mean", "moving_variance": "variance", "depthwise_kernel": "kernel"}
    with h5py.File(path) as file:
        root = file["model_weights"] if "model_weights" in file else file

        def visit(key, item):
            if isinstance(item, h5py.Dataset):
                layer, weight = key.split("/")[-2], key.split("/")[-1].split(":")[0]
                layers.setdefault(layer, {})[renamed.get(weight, weight)] = np.asarray(item, np.float32)

        root.visititems(visit)
    return layers


def layers_of(network: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Return a network's weights in the form of `read_layers`."""
    return {
        layer.name: dict(zip(LAYER_WEIGHTS[type(layer).__name__], layer.get_weights(), strict=False))
        for layer in network.layers
        if type(layer).__name__ in LAYER_WEIGHTS
    }


def load_backbone(network: keras.Model, source: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Copy the layers that `source` names into a network, the most important channels if it is narrower.

    A channel's importance is the size of its batch norm's gamma: with ReLU6 after it, that is how
    far the channel's activation varies over images. The choice made for a layer's output is followed
    by every later layer's input.

    Args:
        network: The network to fill, in place.
        source: Wider (or equally wide) layers, see `read_layers`.

    Returns:
        Names of the layers that were filled.

    Raises:
        ValueError: No layer fits.
    """
    kept: dict[int, np.ndarray] = {}  # id of tensor -> the source channels that it carries
    filled = []
    for layer in network.layers:
        kind, given = type(layer).__name__, layer.input if layer is not network.layers[0] else None
        if isinstance(given, list):
            known = [kept.get(id(t)) for t in given]
            if kind == "Add" and known[0] is not None:
                kept[id(layer.output)] = known[0]
            continue
        channels = kept.get(id(given))
        weights = source.get(layer.name)
        if kind in LAYER_WEIGHTS and weights is not None:
            channels = _fill(layer, kind, weights, channels, source.get(f"{layer.name}_bn"))
            filled.append(layer.name)
        elif kind in LAYER_WEIGHTS and kind != "DepthwiseConv2D" and kind != "BatchNormalization":
            channels = None
        if channels is not None:
            kept[id(layer.output)] = channels
    if not filled:
        raise ValueError("no layer of the source has the name of a layer of the network")
    log.info("%s: filled %d layers", network.name, len(filled))
    return filled


def _fill(layer, kind, weights, channels, batch_norm):
    """Copy one layer; return the source channels that its output carries."""
    if kind == "BatchNormalization":
        chosen = np.arange(len(weights["gamma"])) if channels is None else channels
        layer.set_weights([weights[name][chosen] for name in LAYER_WEIGHTS[kind]])
        return channels
    kernel = weights["kernel"]
    if channels is not None:
        kernel = kernel[:, :, channels]
    if kind == "DepthwiseConv2D":
        layer.set_weights([kernel])
        return channels
    outputs = layer.filters
    chosen = np.arange(kernel.shape[-1])
    if outputs < kernel.shape[-1]:
        importance = np.abs(batch_norm["gamma"])
        chosen = np.sort(np.argsort(-importance, kind="stable")[:outputs])
    layer.set_weights([kernel[..., chosen]])
    return chosen
