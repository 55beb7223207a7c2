"""The network's graph run with PyTorch's own layers, for training on CPUs.

On the torch backend Keras builds batch normalisation from elementary operations and copies between
layouts; PyTorch's fused kernels on channels-last memory, in bfloat16 where the processor has it, avoid
both (`benchmarks/training_speed.py` measures how much that is worth on a machine).
The variables stay Keras's own: optimiser, averages, checkpoints and losses do not notice.
"""

from __future__ import annotations

from collections.abc import Callable

import keras


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's `same` padding of one axis: the odd pixel goes to the end."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _convolve(x, kernel, layer, *, groups: int, bias=None):
    import torch
    import torch.nn.functional as F

    stride, dilation = layer.strides, layer.dilation_rate
    padding = (0, 0)
    if layer.padding == "same":
        top, bottom = same_padding(x.shape[2], kernel.shape[2], stride[0], dilation[0])
        left, right = same_padding(x.shape[3], kernel.shape[3], stride[1], dilation[1])
        if (top, left) == (bottom, right):
            padding = (top, left)
        else:
            x = F.pad(x, (left, right, top, bottom))
    if groups == x.shape[1] and x.dtype == torch.bfloat16 and (max(stride) > 1 or max(kernel.shape[2:]) > 3):
        # oneDNN's gradient of strided and large depthwise convolutions in bfloat16 is slow: in float32 it takes a third
        # to a fifth of the time, where that of the others takes twice to five times as long.
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.float(), kernel, bias, stride, padding, dilation, groups).bfloat16()
    return F.conv2d(x, kernel, bias, stride, padding, dilation, groups)


def _value(variable):
    return None if variable is None else variable.value


def _conv2d(layer, x, training):
    kernel, channels = layer.kernel.value.permute(3, 2, 0, 1), x.shape[1]
    if layer.filters == layer.groups < channels:
        return _one_output_per_group(kernel, layer, x)
    return _convolve(x, kernel, layer, groups=layer.groups, bias=_value(layer.bias))


def _one_output_per_group(kernel, layer, x):
    """Every channel by itself, then the sums of the groups: several times faster than oneDNN's own."""
    import torch
    import torch.nn.functional as F

    groups, share = kernel.shape[:2]
    mine = torch.eye(groups).repeat_interleave(share, dim=1)
    if kernel.shape[2:] == (1, 1):
        whole = kernel.flatten(1).repeat(1, groups) * mine
        return F.conv2d(x, whole[..., None, None], _value(layer.bias), layer.strides)
    x = _convolve(x, kernel.flatten(0, 1).unsqueeze(1), layer, groups=x.shape[1])
    return F.conv2d(x, mine[..., None, None], _value(layer.bias))


def _depthwise(layer, x, training):
    import torch
    import torch.nn.functional as F

    if layer.kernel_size == layer.strides == (1, 1) and layer.depth_multiplier == 1 and layer.bias is not None:
        # A scale and an offset for each channel, which batch normalisation has the fastest kernel for.
        zeros, ones = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
        return F.batch_norm(x, zeros, ones, layer.kernel.value.flatten(), layer.bias.value, eps=0.0)
    kernel = layer.kernel.value.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1)
    return _convolve(x, kernel, layer, groups=x.shape[1], bias=_value(layer.bias))


def _batch_norm(layer, x, training):
    import torch.nn.functional as F

    return F.batch_norm(
        x, layer.moving_mean.value, layer.moving_variance.value, layer.gamma.value, layer.beta.value,
        training and layer.trainable, 1 - layer.momentum, layer.epsilon,
    )  # fmt: skip


def _relu(layer, x, training):
    import torch.nn.functional as F

    return F.relu(x) if layer.max_value is None else F.hardtanh(x, 0.0, float(layer.max_value))


def _upsample(layer, x, training):
    import torch
    import torch.nn.functional as F

    half_pixel = {"align_corners": False} if layer.interpolation == "bilinear" else {}
    with torch.autocast("cpu", enabled=False):  # which would have it in float32
        return F.interpolate(x, scale_factor=tuple(map(float, layer.size)), mode=layer.interpolation, **half_pixel)


def _concatenate(layer, x, training):
    import torch

    return torch.cat(x, 1)


def _transposed(layer, x, training):
    import torch.nn.functional as F

    kernel, stride = layer.kernel.value.permute(3, 2, 0, 1), layer.strides
    total = [size - step for size, step in zip(kernel.shape[2:], stride, strict=True)]
    if layer.padding != "same" or any(t % 2 for t in total):
        raise ValueError(f"layer '{layer.name}': only `same` padding that is alike on both sides has a native form")
    return F.conv_transpose2d(x, kernel, _value(layer.bias), stride, [t // 2 for t in total])


def _zero_padding(layer, x, training):
    import torch.nn.functional as F

    (top, bottom), (left, right) = layer.padding
    return F.pad(x, (left, right, top, bottom))


def _activation(layer, x, training):
    import torch

    functions: dict[str, Callable] = {
        "silu": torch.nn.functional.silu,
        "swish": torch.nn.functional.silu,
        "sigmoid": torch.sigmoid,
        "linear": lambda x: x,
    }
    return functions[layer.activation.__name__](x)


def _dropout(layer, x, training):
    import torch

    if not training:
        return x
    if layer.noise_shape is None:
        return torch.nn.functional.dropout(x, layer.rate)
    if tuple(layer.noise_shape[1:]) != (1, 1, 1):
        raise ValueError(f"layer '{layer.name}': only dropout per element or per picture has a native form")
    kept = torch.rand(len(x), 1, 1, 1) >= layer.rate
    return x * kept.to(x.dtype) / (1 - layer.rate)


def _multiply(layer, x, training):
    return x[0] * x[1]


def _pool(layer, x, training):
    return x.mean((2, 3), keepdim=layer.keepdims)


def _max_pool(layer, x, training):
    import torch.nn.functional as F

    if layer.padding == "same":
        sides = [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], layer.pool_size, layer.strides, strict=True)]
        x = F.pad(x, (*sides[1], *sides[0]), value=float("-inf"))
    return F.max_pool2d(x, layer.pool_size, layer.strides)


def _split_conv(layer, x, training):
    import torch.nn.functional as F

    kernel = layer.dense_kernel().permute(3, 2, 0, 1)
    return F.conv2d(x, kernel, layer.bias.value, padding=layer.kernel_size // 2)


def _channel_shuffle(layer, x, training):
    import torch

    return torch.channel_shuffle(x, layer.groups)


def _flatten(layer, x, training):
    return x.permute(0, 2, 3, 1).flatten(1)  # Keras flattens channels last


def _dense(layer, x, training):
    import torch.nn.functional as F

    return F.linear(x, layer.kernel.value.T, _value(layer.bias))


#: Layer class -> function of (layer, input in NCHW, training).
NATIVE = {
    "Conv2D": _conv2d,
    "GroupedConv2D": _conv2d,
    "DepthwiseConv2D": _depthwise,
    "BatchNormalization": _batch_norm,
    "ReLU": _relu,
    "UpSampling2D": _upsample,
    "Concatenate": _concatenate,
    "Add": lambda layer, x, training: sum(x[1:], x[0]),
    "SplitConv2D": _split_conv,
    "ChannelShuffle": _channel_shuffle,
    "Flatten": _flatten,
    "Multiply": _multiply,
    "Activation": _activation,
    "Conv2DTranspose": _transposed,
    "ZeroPadding2D": _zero_padding,
    "Dropout": _dropout,
    "GlobalAveragePooling2D": _pool,
    "MaxPooling2D": _max_pool,
    "Dense": _dense,
}


class NativeTorch(keras.Model):
    """A functional network, evaluated by PyTorch's own kernels.

    Args:
        network: The Keras network; its variables are shared, not copied.
        bfloat16: Whether convolutions run in bfloat16 (variables stay float32).

    Raises:
        RuntimeError: Keras does not run on the torch backend.
        ValueError: The network has a layer that is not in `NATIVE`.
    """

    def __init__(self, network: keras.Model, *, bfloat16: bool = False):
        super().__init__(name=network.name)
        if keras.backend.backend() != "torch":
            raise RuntimeError("NativeTorch needs Keras on torch; set KERAS_BACKEND=torch before starting Python")
        unknown = {type(layer).__name__ for layer in network.layers[1:]} - set(NATIVE)
        if unknown:
            raise ValueError(f"no native form of {', '.join(sorted(unknown))}; add it to NATIVE or train with Keras")
        self.network, self.bfloat16 = network, bfloat16

    def call(self, images, training=False):
        import torch

        values = {id(self.network.inputs[0]): images.permute(0, 3, 1, 2)}
        # Every weight is used once; the cache of rounded ones would be shared between threads.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
            for layer in self.network.layers[1:]:
                given = layer.input
                x = [values[id(t)] for t in given] if isinstance(given, list) else values[id(given)]
                values[id(layer.output)] = NATIVE[type(layer).__name__](layer, x, training)
        outputs = {name: values[id(t)].float() for name, t in self.network.output.items()}
        return {name: y.permute(0, 2, 3, 1) if y.ndim == 4 else y for name, y in outputs.items()}
