"""The same function in other layers, for targets that lack grouped or dilated convolutions, or write one badly.

Edge TPU refuses grouped convolutions and some DSPs know neither dilation nor groups. Each rewrite returns another
network with equal outputs (`tests/test_rewrite.py`), which is exported like any other.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L
from keras import ops

from posezoo.errors import UserError
from posezoo.export.simplify import flattened, give_weights, saved_models
from posezoo.layers import ChannelShuffle, GroupedConv2D


class RewriteError(UserError, ValueError):
    """A network or a layer that a rewrite does not fit."""


def require_layers(network: keras.Model, *, wanted: str) -> None:
    """Refuse a network whose layers a rewrite cannot see, for users who ask for one.

    Args:
        network: Keras network.
        wanted: What was asked for, for the message.

    Raises:
        RewriteError: It holds a layer with a graph of its own, such as a SavedModel.
    """
    if closed := saved_models(network):
        raise RewriteError(
            f"{wanted} replaces layers of Keras, but layer '{closed[0]}' is a SavedModel, whose layers cannot be told "
            f"apart; expected a .keras file: give the network as one, or leave out {wanted}"
        )


def rewritten(network: keras.Model, replace: Callable[[L.Layer], L.Layer | None]) -> keras.Model:
    """Copy a functional network with its weights, some layers replaced.

    Args:
        network: Functional, with a dict of outputs.
        replace: Function from a layer to what takes its place, or None to copy it. A replacement that has weights
            says in `weights_from(layer)` what they are.
    """
    replaced: dict[str, L.Layer] = {}

    def clone(layer):
        other = replace(layer)
        if other is None:
            return type(layer).from_config(layer.get_config())
        replaced[layer.name] = other
        return other

    copy = keras.models.clone_model(network, clone_function=clone)
    for layer in network.layers:
        if layer.weights:
            other = replaced.get(layer.name)
            values = layer.get_weights() if other is None else other.weights_from(layer)
            give_weights(copy.get_layer(layer.name), values)
    return copy


def with_plain_resizing(network: keras.Model, *, by_two: bool = False) -> keras.Model:
    """Replace nearest-neighbour enlarging by a layer that converters write as one operator.

    `UpSampling2D` repeats rows and columns, which TFLite stores as RESHAPE and TILE; TILE has int8 since its version 3,
    which runtimes of 2021 and Edge TPU's compiler refuse. The numbers are the same.

    Args:
        network: Returned as it is where it enlarges nothing so, or is no functional network.
        by_two: Whether to enlarge 4 and 8 times in steps of 2, for targets that enlarge by little at a time.
    """
    return _where(_repeats, network, lambda layer: Enlarging.like(layer, by_two=by_two))


def _where(wanted: Callable[[L.Layer], bool], network: keras.Model, like: Callable[[L.Layer], L.Layer]) -> keras.Model:
    """Replace the layers that are wanted; the network itself where there are none, or where it is no functional one."""
    if not isinstance(network, keras.Sequential) and not hasattr(network, "operations"):
        return network
    flat = flattened(network)
    if saved_models(flat) or not any(wanted(layer) for layer in flat.layers):
        return network
    return rewritten(flat, lambda layer: like(layer) if wanted(layer) else None)


def _repeats(layer: L.Layer) -> bool:
    return isinstance(layer, L.UpSampling2D) and layer.interpolation == "nearest"


@keras.saving.register_keras_serializable(package="posezoo")
class Enlarging(L.Layer):
    """Enlarges to the nearest pixel.

    Args:
        factors: Rows' and columns' factors of each step.
    """

    def __init__(self, factors, **kwargs):
        super().__init__(**kwargs)
        self.factors = [tuple(factor) for factor in factors]

    @classmethod
    def like(cls, layer: L.UpSampling2D, *, by_two: bool) -> Enlarging:
        """Return the form of an `UpSampling2D`, in steps of two where its factors are powers of it."""
        rows, columns = layer.size
        steps = int(np.log2(rows))
        in_steps = by_two and rows == columns == 2**steps
        return cls([(2, 2)] * steps if in_steps else [(rows, columns)], name=layer.name)

    def call(self, inputs):
        x = inputs
        for rows, columns in self.factors:
            size = (x.shape[1] * rows, x.shape[2] * columns)
            x = ops.image.resize(x, size, interpolation="nearest", data_format="channels_last")
        return x

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        rows, columns = (int(np.prod([factor[i] for factor in self.factors])) for i in (0, 1))
        return (batch, height and height * rows, width and width * columns, channels)

    def get_config(self):
        return {**super().get_config(), "factors": self.factors}


def with_convolved_dense(network: keras.Model) -> keras.Model:
    """Replace every dense layer of one vector by a 1x1 convolution of one pixel.

    TFLite gives each row of a dense layer a scale of its own since FULLY_CONNECTED 12, which older runtimes refuse or,
    worse, read with one scale; of convolutions they know it. The numbers are the same.

    Args:
        network: Returned as it is where it holds no such layer, or is no functional network.
    """
    return _where(
        lambda layer: isinstance(layer, L.Dense) and len(layer.input.shape) == 2, network, ConvolvedDense.like
    )  # fmt: skip


@keras.saving.register_keras_serializable(package="posezoo")
class ConvolvedDense(L.Dense):
    """A dense layer of `(batch, channels)`, computed as a 1x1 convolution of one pixel."""

    @classmethod
    def like(cls, layer: L.Dense) -> ConvolvedDense:
        """Return the convolved form of a dense layer, without weights."""
        return cls.from_config(layer.get_config())

    @staticmethod
    def weights_from(layer: L.Dense) -> list[np.ndarray]:
        """Return the dense layer's own weights."""
        return layer.get_weights()

    def call(self, inputs):
        channels = inputs.shape[-1]
        pixel = ops.reshape(inputs, (-1, 1, 1, channels))
        x = ops.conv(pixel, ops.reshape(self.kernel, (1, 1, channels, self.units)), data_format="channels_last")
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return self.activation(ops.reshape(x, (-1, self.units)))


def without_groups(network: keras.Model) -> keras.Model:
    """Replace every grouped convolution by a dense one whose kernel is zero outside the groups' blocks.

    More multiplications, the same numbers: what Edge TPU and old Myriad compilers take. Depthwise convolutions stay.
    The channels' shuffles go into the kernels that follow them, where nothing else reads them.

    Args:
        network: Returned as it is where it holds no such layer, or is no functional network.
    """
    shuffles = _shuffles_before_groups(flattened(network))

    def dense(layer):
        if isinstance(layer, ChannelShuffle):
            return L.Activation("linear", name=layer.name)
        before = layer.input._keras_history.operation
        return DenseOfGroups.like(layer, shuffle=before if before.name in shuffles else None)

    return _where(lambda layer: layer.name in shuffles or _is_grouped(layer), network, dense)


def _shuffles_before_groups(network: keras.Model) -> set[str]:
    """Names of the channels' shuffles that grouped convolutions alone read, which read nothing else."""
    shuffles = {layer.name for layer in network.layers if isinstance(layer, ChannelShuffle)}
    if not shuffles:
        return set()
    read_otherwise = {tensor._keras_history.operation.name for tensor in network.outputs}
    for operation in getattr(network, "operations", network.layers):
        if not _is_grouped(operation) or len(operation._inbound_nodes) > 1:
            inputs = (tensor for node in operation._inbound_nodes for tensor in node.input_tensors)
            read_otherwise |= {tensor._keras_history.operation.name for tensor in inputs}
    return shuffles - read_otherwise


def _is_grouped(layer: L.Layer) -> bool:
    # Layers that are no convolutions have groups too, such as GroupNormalization.
    return isinstance(layer, L.Conv2D) and layer.groups > 1


def combed(network: keras.Model) -> keras.Model:
    """Replace every dilated convolution by plain ones on the combs of its input (space to batch).

    With dilation d, pixels d apart never meet others: the d x d interleaved small pictures are convolved one by one
    and woven together again. Exactly the same sums, for targets without native dilation.

    Args:
        network: Returned as it is where it holds no such layer, or is no functional network.

    Raises:
        RewriteError: A dilated convolution has a stride, another padding, or dilations that differ.
    """
    return _where(
        lambda layer: isinstance(layer, L.Conv2D) and max(layer.dilation_rate) > 1, network, CombConv2D.like
    )  # fmt: skip


@keras.saving.register_keras_serializable(package="posezoo")
class DenseOfGroups(GroupedConv2D):
    """A dense convolution that computes what a grouped one does; a dilated one stays one operation."""

    #: Groups of the shuffle whose work its kernel does too.
    shuffle_groups = 1

    @classmethod
    def like(cls, layer: L.Conv2D, *, shuffle: ChannelShuffle | None = None) -> DenseOfGroups:
        """Return the dense form of a grouped convolution, and of the shuffle before it if given, without weights."""
        dense = cls.from_config({**layer.get_config(), "groups": 1})
        if shuffle is not None:
            dense.shuffle_groups = shuffle.groups
        return dense

    def weights_from(self, layer: L.Conv2D) -> list[np.ndarray]:
        """Return the grouped convolution's weights, zeros put in where groups do not meet."""
        kernel, *rest = layer.get_weights()
        height, width, inside, filters = kernel.shape
        dense = np.zeros((height, width, inside * layer.groups, filters), kernel.dtype)
        per_group = filters // layer.groups
        for g in range(layer.groups):
            out = slice(g * per_group, (g + 1) * per_group)
            dense[:, :, g * inside : (g + 1) * inside, out] = kernel[..., out]
        order = np.arange(dense.shape[2]).reshape(self.shuffle_groups, -1).T.ravel()
        return [dense[:, :, np.argsort(order)], *rest]


@keras.saving.register_keras_serializable(package="posezoo")
class CombConv2D(GroupedConv2D):
    """A convolution of dilation `comb`, stride 1 and `same` padding, computed on the combs of its input.

    Args:
        comb: The dilation that it stands for.
    """

    def __init__(self, *args, comb: int = 1, **kwargs):
        super().__init__(*args, **kwargs)
        self.comb = comb

    @classmethod
    def like(cls, layer: L.Conv2D) -> CombConv2D:
        """Return the combed form of a dilated convolution, without weights.

        Raises:
            RewriteError: It has a stride, another padding, or dilations that differ.
        """
        rows, columns = layer.dilation_rate
        if rows != columns or max(layer.strides) > 1 or layer.padding != "same":
            raise RewriteError(
                f"layer '{layer.name}': combs stand for one dilation, stride 1 and same padding; it has dilation "
                f"{layer.dilation_rate}, strides {layer.strides}, padding '{layer.padding}'; change the layer, or "
                "export the network with its dilation"
            )
        return cls.from_config({**layer.get_config(), "dilation_rate": 1, "comb": rows})

    @staticmethod
    def weights_from(layer: L.Conv2D) -> list[np.ndarray]:
        """Return the dilated convolution's own weights."""
        return layer.get_weights()

    def call(self, inputs):
        d = self.comb
        _, height, width, channels = inputs.shape
        rows, columns = -(-height // d), -(-width // d)
        x = ops.pad(inputs, ((0, 0), (0, rows * d - height), (0, columns * d - width), (0, 0)))
        x = ops.transpose(ops.reshape(x, (-1, rows, d, columns, d, channels)), (0, 2, 4, 1, 3, 5))
        x = super().call(ops.reshape(x, (-1, rows, columns, channels)))
        x = ops.transpose(ops.reshape(x, (-1, d, d, rows, columns, self.filters)), (0, 3, 1, 4, 2, 5))
        return ops.reshape(x, (-1, rows * d, columns * d, self.filters))[:, :height, :width]

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "comb": self.comb}
