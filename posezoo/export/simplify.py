"""The same function in fewer and plainer operations, before a network is converted.

Converters fold batch norms into dense convolutions but leave a multiplication behind depthwise and transposed ones, and
write enlarging to the nearest pixel as tiles and transpositions. Here both are done on the Keras network, for every
target alike; `tests/test_export_onnx.py` holds that the outputs stay.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as L


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
            return type(layer).from_config({**layer.get_config(), "use_bias": True})
        if isinstance(layer, L.UpSampling2D) and layer.interpolation == "nearest":
            height, width = layer.output.shape[1:3]
            return L.Resizing(height, width, interpolation="nearest", name=layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(network, clone_function=clone)
    for layer in network.layers:
        if layer.weights and layer.name not in norms:
            norm = folds.get(layer.name)
            give_weights(copy.get_layer(layer.name), _folded(layer, norm) if norm else layer.get_weights())
    return copy


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
