"""Start a network from another one's weights: ImageNet backbones, wider networks, earlier runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from posezoo.models.efficientnet import blocks_of

log = logging.getLogger(__name__)

#: Batch norm's epsilon in TensorFlow's ImageNet networks.
IMAGENET_EPSILON = 1e-3

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
        root = file.get("model_weights", file)

        def visit(key, item):
            if isinstance(item, h5py.Dataset):
                layer, weight = key.split("/")[-2], key.split("/")[-1].split(":")[0]
                layers.setdefault(layer, {})[renamed.get(weight, weight)] = np.asarray(item, np.float32)

        root.visititems(visit)
    return layers


def read_efficientnet_lite(path: Path | str) -> dict[str, dict[str, np.ndarray]]:
    """Read EfficientNet-Lite0 by the layer names of `posezoo.models.efficientnet`.

    Args:
        path: An NPZ as for `read_layers`, whose convolutions, sorted by name, are in forward order.

    Raises:
        ValueError: The file holds another number of convolutions.
    """
    layers = read_layers(path)
    names = ["stem"]
    for block in blocks_of(width=1.0, depth=1.0):
        parts = ("expand", "depthwise", "project") if block.expansion != 1 else ("depthwise", "project")
        names += [f"{block.name}_{part}" for part in parts]
    names.append("top")
    found = sorted(name for name, weights in layers.items() if "kernel" in weights)
    if len(found) != len(names):
        raise ValueError(f"{path}: {len(found)} convolutions, EfficientNet-Lite0 has {len(names)}")
    renamed = dict(zip(found, names, strict=True))
    return {
        new + suffix: layers[old + suffix]
        for old, new in renamed.items() for suffix in ("", "_bn") if old + suffix in layers
    }  # fmt: skip


def layers_of(network: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Return a network's weights in the form of `read_layers`; split layers also tell their `streams`."""
    layers = {}
    for layer in network.layers:
        if type(layer).__name__ in LAYER_WEIGHTS:
            layers[layer.name] = dict(zip(LAYER_WEIGHTS[type(layer).__name__], layer.get_weights(), strict=False))
            if hasattr(layer, "epsilon"):
                layers[layer.name]["epsilon"] = np.float32(layer.epsilon)
            if hasattr(layer, "streams"):
                layers[layer.name]["streams"] = np.array(layer.streams)
    return layers


def load_backbone(network: keras.Model, source: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Copy the layers that `source` names into a network, the most important channels if it is narrower.

    A channel's importance is the size of its batch norm's gamma: with ReLU6 after it, that is how
    far the channel's activation varies over images. The choice made for a layer's output is followed
    by every later layer's input. Convolutions whose outputs are added choose together; one that feeds
    streams chooses within each stream.

    Args:
        network: The network to fill, in place.
        source: Wider (or equally wide) layers, see `read_layers` and `layers_of`.

    Returns:
        Names of the layers that were filled.

    Raises:
        ValueError: No layer fits.
    """
    together, streams = _shared_choices(network)
    kept: dict[int, tuple[np.ndarray, int]] = {}  # id of tensor -> its source channels, of how many
    chosen_by: dict[frozenset, np.ndarray] = {}
    filled = []
    for layer in network.layers[1:]:
        kind, weights = type(layer).__name__, source.get(layer.name)
        given = [kept.get(id(t)) for t in _inputs(layer)]
        carried = given[0]
        if kind == "Concatenate":
            carried = _joined(given)
        elif kind in LAYER_WEIGHTS and weights is not None:
            rows = slice(None) if carried is None else carried[0]
            if kind == "Conv2D":
                kernel, group = weights["kernel"][:, :, rows], together[layer.name]
                if group not in chosen_by:
                    chosen_by[group] = _choose(group, layer.filters, source, streams.get(layer.name))
                carried = chosen_by[group], kernel.shape[-1]
                layer.set_weights([kernel[..., carried[0]]])
            elif kind == "BatchNormalization":
                layer.set_weights(_batch_norm(layer, weights, rows))
            else:
                bias = [weights["bias"]] if "bias" in weights else []
                layer.set_weights([weights["kernel"][:, :, rows], *bias])
            filled.append(layer.name)
        if kind == "SplitConv2D" or (kind == "Conv2D" and weights is None):
            carried = None
        if carried is not None:
            kept[id(layer.output)] = carried
    if not filled:
        raise ValueError("no layer of the source has the name of a layer of the network")
    log.info("%s: filled %d layers", network.name, len(filled))
    return filled


def _batch_norm(layer, weights: Mapping[str, np.ndarray], rows) -> list[np.ndarray]:
    """A batch norm's weights; gamma makes up for another epsilon, which matters where variances are small."""
    gamma, beta, mean, variance = (weights[name][rows] for name in LAYER_WEIGHTS["BatchNormalization"])
    epsilon = weights.get("epsilon", IMAGENET_EPSILON)
    return [gamma * np.sqrt((variance + layer.epsilon) / (variance + epsilon)), beta, mean, variance]


def freeze(layers: Iterable[keras.layers.Layer]) -> None:
    """Keep the weights of layers as they are; batch norms' statistics still follow the data.

    `layer.trainable = False` would also fix the statistics, which EfficientHRNet's training does not.
    """
    for layer in layers:
        for variable in layer.trainable_variables:
            variable.trainable = False


def small_normal(layers: Iterable[keras.layers.Layer], std: float, *, seed: int) -> None:
    """Draw the kernels of convolutions from N(0, std), as HRNet's code does; biases start at 0."""
    rng = np.random.default_rng(seed)
    for layer in layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
            layer.kernel.assign(rng.normal(0, std, layer.kernel.shape).astype(np.float32))


def _inputs(layer) -> list:
    return layer.input if isinstance(layer.input, list) else [layer.input]


def _joined(given: list) -> tuple[np.ndarray, int] | None:
    """The source channels of concatenated tensors, if all are known."""
    if any(g is None for g in given):
        return None
    starts = np.cumsum([0] + [total for _, total in given])
    return np.concatenate([chosen + start for (chosen, _), start in zip(given, starts, strict=False)]), int(starts[-1])


def _shared_choices(network: keras.Model) -> tuple[dict[str, frozenset], dict[str, keras.layers.Layer]]:
    """Find which convolutions choose their outputs together.

    Returns:
        For each convolution the names in its group (itself at least), and the split layer that its
        output feeds, if one does.
    """
    together: dict[str, frozenset] = {}
    streams: dict[str, keras.layers.Layer] = {}
    makers: dict[int, frozenset] = {}  # id of tensor -> the convolutions whose channels it carries
    for layer in network.layers[1:]:
        kind, given = type(layer).__name__, [makers.get(id(t), frozenset()) for t in _inputs(layer)]
        made = frozenset() if kind in ("Concatenate", "SplitConv2D") else given[0]
        if kind == "Conv2D":
            made = together[layer.name] = frozenset([layer.name])
        elif kind == "Add":
            made = frozenset().union(*given)
            made = made.union(*(together[name] for name in made))
            together.update(dict.fromkeys(made, made))
        elif kind == "SplitConv2D":
            streams |= {name: layer for group in given for name in group}
        makers[id(layer.output)] = made
    return together, streams


def _choose(group: frozenset, outputs: int, source, split) -> np.ndarray:
    """Return the source channels that a group of convolutions keeps, in order."""
    names = [name for name in sorted(group) if name in source]
    total = source[names[0]]["kernel"].shape[-1]
    if outputs >= total:
        return np.arange(total)
    importance = sum(np.abs(source[f"{name}_bn"]["gamma"]) for name in names)
    if split is None or "streams" not in source.get(split.name, {}):
        return _largest(importance, outputs)
    starts = np.cumsum([0, *source[split.name]["streams"]])
    blocks = zip(starts, starts[1:], split.streams, strict=False)
    return np.concatenate([first + _largest(importance[first:last], count) for first, last, count in blocks])


def _largest(importance: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(-importance, kind="stable")[:count])
