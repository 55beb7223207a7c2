"""The bridge to Keras 2: a network's twin with the same layers, names, weights and outputs."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.errors import UserError
from posezoo.layers import tensorflow_convolution

if TYPE_CHECKING:
    import keras

#: Function of (layer of the network, its twin): what is put into the twin network, usually the twin itself.
Wrap = Callable[[Any, Any], Callable]


class BridgeError(UserError, RuntimeError):
    """The bridge's packages are missing, or a network has a layer without a twin."""


def keras2() -> Any:
    """Return the module `tf_keras`.

    Raises:
        BridgeError: It is not installed or does not fit TensorFlow, or Keras runs on another backend.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise BridgeError("the Keras 2 bridge needs Keras on TensorFlow; unset KERAS_BACKEND and start again")
    try:
        import tf_keras
    except ImportError as error:
        raise BridgeError(
            f"the Keras 2 bridge needs tf_keras of TensorFlow's own version ({error}); install it with: "
            "pip install 'posezoo[compression]'"
        ) from error
    import tensorflow as tf

    ours, theirs = (".".join(v.split(".")[:2]) for v in (tf.__version__, tf_keras.__version__))
    if ours != theirs:
        raise BridgeError(
            f"tf_keras {theirs} does not fit TensorFlow {ours}; install it with: pip install tf_keras~={ours}.0"
        )
    return tf_keras


def model_optimization() -> Any:
    """Return the module `tensorflow_model_optimization`, and leave the environment as it was.

    Raises:
        BridgeError: It is not installed.
    """
    keras2()
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        import tensorflow_model_optimization as tfmot
    except ImportError as error:
        raise BridgeError(
            f"quantisation-aware training and pruning need tensorflow-model-optimization ({error}); install it with: "
            "pip install 'posezoo[compression]'"
        ) from error
    finally:
        # Importing it asks everything after it to use Keras 2.
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tfmot


@dataclass(frozen=True)
class Twin:
    """How a layer of ours becomes a Keras 2 layer, and its weights theirs and back.

    Attributes:
        make: Layer -> Keras 2 layer.
        there: Layer -> weights of the twin.
        back: Layer, weights of the twin -> weights of the layer.
    """

    make: Callable[[Any], Any]
    there: Callable[[Any], list] = lambda layer: layer.get_weights()
    back: Callable[[Any, list], list] = lambda layer, weights: weights


def _same(kind: str) -> Twin:
    return Twin(lambda layer: getattr(keras2().layers, kind)(**_config(layer, getattr(keras2().layers, kind))))


def _config(layer, kind) -> dict:
    """The layer's configuration, as far as the old class takes it. Initial values do not matter: weights are copied."""
    taken: set[str] = set()
    for base in inspect.getmro(kind):
        if "__init__" in vars(base):
            taken |= set(inspect.signature(vars(base)["__init__"]).parameters)
    left_out = {"self", "args", "kwargs", "dtype", "data_format", "shape", "batch_shape"}
    return {
        key: value
        for key, value in layer.get_config().items()
        if key in (taken | {"name", "trainable"}) - left_out
        and not key.endswith(("_initializer", "_regularizer", "_constraint"))
    }


def _convolution(layer):
    """Groups and dilation as one operation of TensorFlow, see `posezoo.layers.GroupedConv2D`."""
    twin = keras2().layers.Conv2D(**_config(layer, keras2().layers.Conv2D))
    return direct(twin)


def direct(twin):
    """Let a Keras 2 convolution compute as `posezoo.layers.GroupedConv2D`: Keras 2 compiles a function for groups."""

    def operation(inputs, kernel):
        return tensorflow_convolution(
            inputs, kernel, strides=twin.strides, padding=twin.padding, dilation=twin.dilation_rate
        )  # fmt: skip

    twin.convolution_op = twin._jit_compiled_convolution_op = operation
    return twin


def _stream_mask(layer) -> np.ndarray:
    return np.repeat(np.eye(len(layer.streams), dtype=np.float32), layer.streams, axis=0)


def _split_convolution(layer):
    """A dense convolution whose kernel stays zero outside the streams' blocks."""
    import tensorflow as tf

    mask = tf.constant(_stream_mask(layer))
    return keras2().layers.Conv2D(
        len(layer.streams), layer.kernel_size, padding="same", name=layer.name, kernel_constraint=lambda w: w * mask
    )


def _split_there(layer) -> list:
    return [np.asarray(layer.dense_kernel()), np.asarray(layer.bias)]


def _split_back(layer, weights: list) -> list:
    kernel, bias = weights
    return [(kernel * _stream_mask(layer)).sum(-1, keepdims=True), bias]


def _channel_shuffle(layer):
    """The same transposition, as a layer without weights."""
    import tensorflow as tf

    layers: Any = keras2().layers

    class ChannelShuffle(layers.Layer):
        def call(self, inputs):
            _, height, width, channels = inputs.shape
            x = tf.reshape(inputs, (-1, height, width, layer.groups, channels // layer.groups))
            return tf.reshape(tf.transpose(x, (0, 1, 2, 4, 3)), (-1, height, width, channels))

    return ChannelShuffle(name=layer.name)


def _scale(layer) -> tuple[np.ndarray, np.ndarray]:
    """A batch norm's factor and shift with its moving statistics."""
    gamma, beta, mean, variance = (np.asarray(w) for w in layer.get_weights())
    factor = gamma / np.sqrt(variance + layer.epsilon)
    return factor, beta - mean * factor


def _affine_back(layer, weights: list) -> list:
    kernel, bias = weights
    _, _, mean, variance = (np.asarray(w) for w in layer.get_weights())
    factor = kernel.reshape(-1)
    return [factor * np.sqrt(variance + layer.epsilon), bias + mean * factor, mean, variance]


#: A batch norm with fixed statistics as a convolution of one pixel: for those that no convolution can take in.
AFFINE = Twin(
    lambda layer: keras2().layers.DepthwiseConv2D(1, name=layer.name),
    lambda layer: [_scale(layer)[0].reshape(1, 1, -1, 1), _scale(layer)[1]],
    _affine_back,
)

#: Class of a layer -> its twin.
TWINS = {
    **{
        kind: _same(kind)
        for kind in (
            "Activation", "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2DTranspose", "Dense",
            "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling2D", "MaxPooling2D", "Multiply", "ReLU",
            "Reshape", "Softmax", "UpSampling2D", "ZeroPadding2D",
        )
    },
    "Conv2D": Twin(_convolution),
    "ChannelShuffle": Twin(_channel_shuffle),
    "GroupedConv2D": Twin(_convolution),
    "SplitConv2D": Twin(_split_convolution, _split_there, _split_back),
}  # fmt: skip


def twin_of(layer) -> Twin:
    """Return how a layer becomes a Keras 2 layer.

    Raises:
        BridgeError: No twin is known for its class.
    """
    kind = type(layer).__name__
    if kind not in TWINS:
        raise BridgeError(
            f"layer '{layer.name}' is a {kind}, which has no Keras 2 twin; known are {', '.join(sorted(TWINS))}"
        )
    return TWINS[kind]


@dataclass(frozen=True)
class Rebuilt:
    """A network's Keras 2 twin.

    Attributes:
        model: The `tf_keras.Model`, with the same names of layers and outputs.
        variables: Name of a layer -> its twin's variables, in the order of `get_weights`.
        twins: Name of a layer -> how it was made.
    """

    model: Any
    variables: dict[str, list]
    twins: dict[str, Twin]

    def bring_back(self, network: keras.Model) -> None:
        """Copy the twin's weights into a network.

        Args:
            network: The one that the twin was made from, or another with the same layers.

        Raises:
            BridgeError: A layer with weights has no twin.
        """
        for layer in network.layers:
            if not layer.weights:
                continue
            if layer.name not in self.variables:
                raise BridgeError(f"no twin brings weights for layer '{layer.name}'")
            values = [np.asarray(v) for v in self.variables[layer.name]]
            layer.set_weights(self.twins[layer.name].back(layer, values))


def rebuild(
    network: keras.Model,
    wrap: Wrap | None = None,
    *,
    begin: Callable | None = None,
    special: Mapping[str, Twin] | None = None,
) -> Rebuilt:
    """Build the Keras 2 twin of a functional network, layer by layer, with its weights.

    Args:
        network: One input, every layer used once, a dict of outputs.
        wrap: What to put in the place of each twin, such as a wrapper around it. The twin it is given is built.
        begin: Applied to the input first.
        special: Name of a layer -> how to make its twin, where it differs from `TWINS`.

    Raises:
        BridgeError: A layer without a twin, or one that is used twice.
    """
    old = keras2()
    image = old.Input(tuple(network.inputs[0].shape[1:]), name=network.inputs[0].name)
    values: dict[int, Any] = {id(network.inputs[0]): begin(image) if begin else image}
    variables: dict[str, list] = {}
    made: dict[str, Twin] = {}
    for layer in network.layers[1:]:
        if len(layer._inbound_nodes) != 1:
            raise BridgeError(
                f"layer '{layer.name}' is used {len(layer._inbound_nodes)} times; the bridge takes layers used once"
            )
        given = layer.input
        inputs = [values[id(t)] for t in given] if isinstance(given, list) else values[id(given)]
        made[layer.name] = (special or {}).get(layer.name) or twin_of(layer)
        twin = made[layer.name].make(layer)
        with old.backend.name_scope(layer.name):
            twin.build([t.shape for t in inputs] if isinstance(inputs, list) else inputs.shape)
        twin.set_weights(made[layer.name].there(layer))
        variables[layer.name] = list(twin.weights)
        values[id(layer.output)] = (wrap(layer, twin) if wrap else twin)(inputs)
    outputs = {name: values[id(t)] for name, t in network.output.items()}
    return Rebuilt(old.Model(image, outputs, name=network.name), variables, made)
