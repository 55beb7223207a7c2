"""The same function in fewer and plainer operations, before a network is converted.

Converters fold batch norms into dense convolutions but leave a multiplication behind depthwise and transposed ones, and
write enlarging to the nearest pixel as tiles and transpositions. Here both are done on the Keras network, for every
target alike; `tests/test_export_onnx.py` holds that the outputs stay.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as L

from posezoo.layers import GroupedConv2D


def simplified(network: keras.Model) -> keras.Model:
    """Fold batch norms into convolutions and enlarge by one operation.

    Args:
        network: Its weights are copied. Networks that are not functional graphs of layers, such as those read from a
            SavedModel, come back as they are.
    """
    if not is_graph_of_layers(network):
        return network
    folds = batch_norms_to_fold(network)
    norms = {norm.name for norm in folds.values()}

    def clone(layer: L.Layer) -> L.Layer:
        if layer.name in norms:
            return Passed(name=layer.name)
        if layer.name in folds:
            return as_one_operation(layer).from_config({**layer.get_config(), "use_bias": True})
        if isinstance(layer, L.UpSampling2D) and layer.interpolation == "nearest":
            height, width = layer.output.shape[1:3]
            return L.Resizing(height, width, interpolation="nearest", name=layer.name)
        return as_one_operation(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(network, clone_function=clone)
    for layer in network.layers:
        if layer.weights and layer.name not in norms:
            norm = folds.get(layer.name)
            give_weights(copy.get_layer(layer.name), _folded(layer, norm) if norm else layer.get_weights())
    return copy


def as_one_operation(layer: L.Layer) -> type[L.Layer]:
    """Return the class that computes what a layer does, with groups as one operation: Keras sends them elsewhere."""
    return GroupedConv2D if type(layer) is L.Conv2D and layer.groups > 1 else type(layer)


def give_weights(layer: L.Layer, values: list[np.ndarray]) -> None:
    """Set a copied layer's weights.

    A `Normalization` computes with numbers that it makes of its weights once they are whole, and must be asked to.
    """
    layer.set_weights(values)
    if isinstance(layer, L.Normalization):
        layer.finalize_state()


class Passed(L.Layer):
    """Stands where a batch norm stood, and takes the arguments that one is called with."""

    def call(self, inputs, training=None, mask=None):
        return inputs


def flattened(network: keras.Model) -> keras.Model:
    """Put the layers of networks that are layers of another, such as a backbone, into that one's own graph.

    Otherwise nothing that looks at layers sees them: neither rewrites nor messages that name a layer.

    Args:
        network: Its weights are copied; layer `conv` of the inner network `backbone` becomes `backbone_conv`. It comes
            back as it is where it holds no such network, holds a SavedModel, or is no functional network.
    """
    if not hasattr(network, "operations") or saved_models(network):
        return network
    while any(_is_inner(layer) for layer in network.layers):
        network = _one_level_flattened(network)
    return network


def _is_inner(layer: L.Layer) -> bool:
    return isinstance(layer, keras.Sequential) or (isinstance(layer, keras.Model) and hasattr(layer, "operations"))


def saved_models(network: keras.Model) -> list[str]:
    """Names of the layers, also of networks inside, that are SavedModels: no copy of them can be made."""
    return [layer.name for layer in network._flatten_layers() if isinstance(layer, L.TFSMLayer)]


def _one_level_flattened(network: keras.Model) -> keras.Model:
    originals: dict[str, L.Layer] = {}
    taken = {layer.name for layer in network.layers}

    def renamed(layer: L.Layer, name: str) -> L.Layer:
        while name in taken:
            name += "_inner"
        taken.add(name)
        originals[name] = layer
        return type(layer).from_config({**layer.get_config(), "name": name})

    def clone(layer: L.Layer) -> L.Layer:
        if _is_inner(layer):
            return keras.models.clone_model(
                layer, clone_function=lambda inner: renamed(inner, f"{layer.name}_{inner.name}")
            )  # fmt: skip
        originals[layer.name] = layer
        return type(layer).from_config(layer.get_config())

    def call(layer: L.Layer, *args, **kwargs):
        # `call` runs through an inner network's layers one by one; calling the network would make it one node.
        return layer.call(*args, **kwargs) if _is_inner(layer) else layer(*args, **kwargs)

    woven = keras.models.clone_model(network, clone_function=clone, call_function=call)
    # Inner layers now stand in two graphs, the inner network's copy and this one; copied once more, in one alone.
    copy = keras.models.clone_model(woven)
    for layer in copy.layers:
        if layer.weights:
            give_weights(layer, originals[layer.name].get_weights())
    return copy


def is_graph_of_layers(network: keras.Model) -> bool:
    """Whether a network is a functional graph whose layers are no networks themselves and all know their shape."""
    return hasattr(network, "operations") and not any(
        isinstance(layer, keras.Model) or type(layer).__name__ == "TFSMLayer" or len(layer._inbound_nodes) != 1
        for layer in network.layers
    )


def batch_norms_to_fold(network: keras.Model) -> dict[str, L.BatchNormalization]:
    """Return name of a convolution -> the batch norm that alone reads its output."""
    readers: dict[int, list[L.Layer]] = {}
    for layer in network.layers:
        for tensor in layer.input if isinstance(layer.input, list) else [layer.input]:
            readers.setdefault(id(tensor), []).append(layer)
    outputs = {id(tensor) for tensor in keras.tree.flatten(network.output)}
    kinds = (L.Conv2D, L.DepthwiseConv2D, L.Conv2DTranspose)
    return {
        layer.name: readers[id(layer.output)][0]
        for layer in network.layers
        if isinstance(layer, kinds)
        and layer.activation is keras.activations.linear
        and id(layer.output) not in outputs
        and [type(reader) for reader in readers.get(id(layer.output), [])] == [L.BatchNormalization]
    }


def _folded(layer: L.Layer, norm: L.BatchNormalization) -> list[np.ndarray]:
    """A convolution's kernel and bias with its batch norm's factor and shift, computed in float64."""
    kernel, *bias = (np.asarray(w, np.float64) for w in layer.get_weights())
    mean, variance = (np.asarray(v, np.float64) for v in (norm.moving_mean, norm.moving_variance))
    factor = 1 / np.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        factor = factor * np.asarray(norm.gamma, np.float64)
    shift = (bias[0] if bias else 0.0) * factor - mean * factor
    if norm.beta is not None:
        shift = shift + np.asarray(norm.beta, np.float64)
    if isinstance(layer, L.DepthwiseConv2D):
        kernel = kernel * factor.reshape(kernel.shape[2:])
    elif isinstance(layer, L.Conv2DTranspose):
        kernel = kernel * factor[:, None]
    else:
        kernel = kernel * factor
    return [kernel.astype(np.float32), shift.astype(np.float32)]
