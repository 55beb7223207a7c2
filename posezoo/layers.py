"""Blocks shared by the families. Only `keras.layers` and `keras.ops`: they run on every Keras backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import keras
import numpy as np
from keras import layers as L
from keras import ops

ACTIVATIONS = {
    "relu": L.ReLU,
    "relu6": lambda **kw: L.ReLU(max_value=6.0, **kw),
    "swish": lambda **kw: L.Activation("swish", **kw),
}


def activation(x, kind: str, *, name: str):
    """Apply an activation as a layer of its own, so that quantisers see it."""
    return ACTIVATIONS[kind](name=name)(x)


@dataclass(frozen=True)
class ConvStyle:
    """How a family's convolutions are padded, normalised and activated.

    Attributes:
        act: A key of `ACTIVATIONS`.
        epsilon: Batch norm's.
        momentum: Batch norm's, Keras's way: PyTorch's 0.1 is 0.9 here.
        symmetric: Whether a convolution of stride 2 pads all four sides alike, as PyTorch code does;
            otherwise the odd pixel goes to the end, as in TensorFlow.
    """

    act: str = "relu"
    epsilon: float = 1e-5
    momentum: float = 0.9
    symmetric: bool = True

    def batch_norm(self, x, *, name: str):
        """Normalise over the batch."""
        return L.BatchNormalization(epsilon=self.epsilon, momentum=self.momentum, name=name)(x)

    def conv_bn(
        self,
        x,
        filters: int,
        kernel_size: int = 3,
        *,
        name: str,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        act: bool = True,
    ):
        """Convolution, batch norm, activation: layers `name`, `name_bn`, `name_act`.

        Args:
            x: Features.
            filters: Output channels.
            kernel_size: Side of the kernel.
            name: Name of the convolution.
            stride: Its stride.
            dilation: Its dilation.
            groups: Its groups.
            bias: Whether the convolution has a bias.
            act: Whether an activation follows.
        """
        padding = "same"
        if stride > 1 and self.symmetric and kernel_size > 1:
            x = L.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
            padding = "valid"
        if groups > 1 or dilation > 1:
            conv = GroupedConv2D(
                filters, kernel_size, strides=stride, padding=padding, dilation_rate=dilation, groups=groups,
                use_bias=bias, name=name,
            )  # fmt: skip
        else:
            conv = L.Conv2D(filters, kernel_size, strides=stride, padding=padding, use_bias=bias, name=name)
        x = self.batch_norm(conv(x), name=f"{name}_bn")
        return activation(x, self.act, name=f"{name}_act") if act else x


def add(parts: Sequence, *, name: str):
    """Add two or more tensors, two at a time, as every runtime does: so that quantisers see each sum.

    The last sum is layer `name`, those before it are `name_sum1`, `name_sum2`…
    """
    x = parts[0]
    for i, part in enumerate(parts[1:], start=1):
        x = L.Add(name=name if i == len(parts) - 1 else f"{name}_sum{i}")([x, part])
    return x


def basic_block(x, style: ConvStyle, *, name: str):
    """Two 3x3 convolutions and the identity (He et al. 2016, arXiv:1512.03385)."""
    filters = x.shape[-1]
    y = style.conv_bn(x, filters, name=f"{name}_conv1")
    y = style.conv_bn(y, filters, name=f"{name}_conv2", act=False)
    return activation(L.Add(name=f"{name}_add")([y, x]), style.act, name=f"{name}_act")


def divisible(channels: float, *, by: int = 8) -> int:
    """Round a channel count to a multiple of `by`, never losing more than 10 %.

    The rule of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) and EfficientNet.
    """
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


@cache
def tensorflow_has_group_kernels() -> bool:
    """Whether TensorFlow can train a grouped convolution as one operation on this machine.

    It can on GPUs, and on CPUs with oneDNN. Where the processor has no AVX-512 VNNI, or `TF_ENABLE_ONEDNN_OPTS` is 0,
    TensorFlow's own kernels have no gradient of grouped or dilated convolutions, and none that joins a grouped one with
    the bias or activation after it, which its optimiser nevertheless makes of them.
    """
    import tensorflow as tf

    with tf.init_scope():
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=(1, 4, 4, 4), filter=tf.ones((3, 3, 2, 4)), out_backprop=tf.ones((1, 4, 4, 4)),
                strides=[1, 1, 1, 1], padding="SAME",
            )  # fmt: skip
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


#: How convolutions are written on TensorFlow: `here` as this machine can train them, `whole` as one operation whatever
#: this machine can, for converters; `apart` each group by itself, for files that TensorFlow runs on other machines.
_WRITTEN: ContextVar[str] = ContextVar("posezoo_convolutions", default="here")


@contextmanager
def convolutions_written(how: str) -> Iterator[None]:
    """Inside the block TensorFlow's grouped and dilated convolutions are traced as `here`, `whole` or `apart`."""
    token = _WRITTEN.set(how)
    try:
        yield
    finally:
        _WRITTEN.reset(token)


def tensorflow_convolution(x, kernel, *, strides, padding: str, dilation):
    """Convolve in groups, with dilation, on TensorFlow: one operation where it has kernels, see `convolutions_written`.

    Without them each group is convolved by itself; where every group has one output, all are one depthwise convolution
    whose channels are summed.

    Args:
        x: `(batch, height, width, channels)`.
        kernel: `(rows, columns, channels / groups, filters)`.
        strides: Of rows and columns.
        padding: `same` or `valid`.
        dilation: Of rows and columns.
    """
    import tensorflow as tf

    how = _WRITTEN.get()
    if how == "here" and tensorflow_has_group_kernels():
        how = "whole"
    strides, dilation, padding = list(strides), list(dilation), padding.upper()
    groups, filters = x.shape[-1] // kernel.shape[2], kernel.shape[3]

    def convolved(x, kernel):
        if how == "here":
            # Written as space-to-batch, a plain convolution, and back: only plain ones have a gradient then.
            return tf.nn.convolution(x, kernel, strides=strides, padding=padding, dilations=dilation)
        return tf.nn.conv2d(x, kernel, strides=strides, padding=padding, dilations=dilation)

    if groups == 1 or how == "whole":
        return convolved(x, kernel)
    if filters == groups and strides[0] == strides[1] and 1 in (strides[0], max(dilation)):
        each = tf.reshape(tf.transpose(kernel, (0, 1, 3, 2)), (*kernel.shape[:2], x.shape[-1], 1))
        y = tf.nn.depthwise_conv2d(x, each, strides=[1, *strides, 1], padding=padding, dilations=dilation)
        return tf.reduce_sum(tf.reshape(y, (-1, *y.shape[1:3], groups, kernel.shape[2])), axis=-1)
    parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
    return tf.concat([convolved(part, own) for part, own in parts], axis=-1)


@keras.saving.register_keras_serializable(package="posezoo")
class GroupedConv2D(L.Conv2D):
    """Keras's convolution, with groups and dilation that stay one fast operation where TensorFlow has the kernels.

    There, Keras sends a grouped convolution through a compiled function (some hundred times slower to train on
    processors, and refused by tf2onnx) and writes a dilated one as space-to-batch, which TF-TRT cannot take.
    See `tensorflow_convolution`. On other backends this is Keras's own layer.
    """

    def convolution_op(self, inputs, kernel):
        if keras.backend.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        return tensorflow_convolution(
            inputs, kernel, strides=self.strides, padding=self.padding, dilation=self.dilation_rate
        )  # fmt: skip


@keras.saving.register_keras_serializable(package="posezoo")
class ChannelShuffle(L.Layer):
    """Deals the channels of each group out to all groups of the next convolution (Zhang et al. 2018, ShuffleNet).

    Without it, the groups of one grouped convolution after another are networks of their own that never meet.

    Args:
        groups: Groups of the convolution before.

    Raises:
        ValueError: The channels cannot be divided by the groups.
    """

    def __init__(self, groups: int, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def build(self, input_shape):
        if input_shape[-1] % self.groups:
            raise ValueError(f"layer '{self.name}': {input_shape[-1]} channels do not divide into {self.groups} groups")

    def call(self, x):
        height, width, channels = x.shape[1:]
        x = ops.reshape(x, (-1, height, width, self.groups, channels // self.groups))
        return ops.reshape(ops.swapaxes(x, 3, 4), (-1, height, width, channels))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "groups": self.groups}


@keras.saving.register_keras_serializable(package="posezoo")
class SplitConv2D(L.Layer):
    """One convolution per stream: output `k` sees only the input channels of stream `k`.

    The paper draws one small convolution per joint. They are evaluated as one convolution with a
    block-diagonal kernel, because eleven one-channel convolutions are slower than one dense one on
    every runtime we measured. Only the blocks are parameters: `kernel_size**2 * sum(streams)`
    weights and one bias per stream.

    Args:
        streams: Input channels of each stream, in order; they sum to the input's channels.
        kernel_size: Side of the square kernel.

    Input `(batch, height, width, sum(streams))`, output `(batch, height, width, len(streams))`.

    Raises:
        ValueError: The streams do not sum to the input's channels.
    """

    def __init__(self, streams: Sequence[int], kernel_size: int = 3, **layer):
        super().__init__(**layer)
        self.streams = tuple(int(n) for n in streams)
        self.kernel_size = kernel_size

    def build(self, input_shape):
        channels = input_shape[-1]
        if sum(self.streams) != channels:
            raise ValueError(
                f"layer '{self.name}': streams {self.streams} sum to {sum(self.streams)}, "
                f"but the input has {channels} channels"
            )
        # Small, so that training starts from empty maps.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, channels, 1),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        self.bias = self.add_weight(name="bias", shape=(len(self.streams),), initializer="zeros")

    def dense_kernel(self):
        """Return the block-diagonal kernel `(kernel_size, kernel_size, channels, streams)`."""
        blocks = np.repeat(np.eye(len(self.streams), dtype="float32"), self.streams, axis=0)
        return self.kernel * ops.cast(blocks, self.kernel.dtype)

    def call(self, x):
        kernel = ops.cast(self.dense_kernel(), x.dtype)
        return ops.conv(x, kernel, padding="same") + ops.cast(self.bias, x.dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], len(self.streams))

    def macs(self, output_shape) -> int:
        """Multiply-accumulates of the streams' own convolutions; the blocks' zeros are not counted."""
        return int(output_shape[1] * output_shape[2] * self.kernel_size**2 * sum(self.streams))

    def get_config(self):
        return {**super().get_config(), "streams": list(self.streams), "kernel_size": self.kernel_size}
