"""Stacked hourglass, the teacher of the depth pose machines.

Newell et al. 2016, arXiv:1603.06937, in the layout of the residual-pose code (Martinez-Gonzalez et al.
2020, arXiv:2007.05354): one depth channel in, heatmaps of every stack out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras
from keras import layers as L

from posezoo.layers import ConvStyle, activation, add
from posezoo.models.hrnet import _input, batch_norm_after
from posezoo.skeletons import COCO17, Skeleton

STYLE = ConvStyle("relu")
LEVELS = 4
FEATURES = 256
BLOCKS = 3
STACK_INPUT = 128


def residual(x, filters: int, *, name: str):
    """1x1, 3x3, 1x1, added to the identity or its 1x1 projection, normalised and activated after the sum."""
    half = x.shape[-1] // 2
    y = STYLE.conv_bn(x, half, 1, bias=True, name=f"{name}_conv1")
    y = STYLE.conv_bn(y, half, 3, bias=True, name=f"{name}_conv2")
    y = STYLE.conv_bn(y, filters, 1, bias=True, act=False, name=f"{name}_conv3")
    if x.shape[-1] != filters:
        x = L.Conv2D(filters, 1, name=f"{name}_shortcut")(x)
    y = STYLE.batch_norm(L.Add(name=f"{name}_add")([y, x]), name=f"{name}_out_bn")
    return activation(y, "relu", name=f"{name}_act")


def _residuals(x, filters: int, *, name: str):
    for i in range(BLOCKS):
        x = residual(x, filters, name=f"{name}_{i}")
    return x


def _hourglass(x, *, name: str):
    """Down four levels and up again; at each level a skip branch of its own."""
    skips = []
    for level in range(LEVELS):
        x = _residuals(x, FEATURES, name=f"{name}_front{level}")
        skips.append(_residuals(x, FEATURES, name=f"{name}_skip{level}"))
        x = L.MaxPooling2D(2, name=f"{name}_pool{level}")(x)
    x = _residuals(x, FEATURES, name=f"{name}_latent")
    for level in reversed(range(LEVELS)):
        x = L.UpSampling2D(2, interpolation="nearest", name=f"{name}_resize{level}")(x)
        x = L.Add(name=f"{name}_add{level}")([x, skips[level]])
    return x


def hourglass(
    *,
    stacks: int = 2,
    skeleton: Skeleton = COCO17,
    input_px: int | Sequence[int] = 384,
    channels: int = 1,
    num_maps: int | None = None,
    name: str = "hourglass",
) -> keras.Model:
    """Build the stacked hourglass.

    Args:
        stacks: Number of hourglasses.
        skeleton: Keypoints, one heatmap each.
        input_px: Side, or `(height, width)`; multiples of 64.
        channels: Channels of the picture: 1 for depth.
        num_maps: Number of heatmaps where it is not the skeleton's, such as one more for the background.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, channels)` to a dict with `heatmaps` of the last
        stack `(batch, height / 4, width / 4, maps)`, and `heatmaps_1`, ... of those before.

    Raises:
        ValueError: `input_px` is no multiple of 64.
    """
    maps = num_maps or skeleton.num_keypoints
    image = _input(input_px, channels, multiple=64)
    x = L.ZeroPadding2D(3, name="front_pad")(image)
    x = L.Conv2D(64, 7, strides=2, name="front_conv")(x)
    x = activation(STYLE.batch_norm(x, name="front_conv_bn"), "relu", name="front_act")
    x = L.MaxPooling2D(2, name="front_pool")(x)
    for i, filters in enumerate((64, 64, STACK_INPUT)):
        x = residual(x, filters, name=f"front_{i}")
    outputs = {}
    for stack in range(stacks):
        last = stack == stacks - 1
        y = _hourglass(x, name=f"stack{stack}")
        y = _residuals(y, FEATURES, name=f"stack{stack}_refine")
        y = STYLE.conv_bn(y, FEATURES, 1, bias=True, name=f"stack{stack}_features")
        output = "heatmaps" if last else f"heatmaps_{stack + 1}"
        outputs[output] = L.Conv2D(maps, 1, name=output, dtype="float32")(y)
        if not last:
            back = L.Conv2D(STACK_INPUT, 1, name=f"stack{stack}_from_heatmaps")(outputs[output])
            features = L.Conv2D(STACK_INPUT, 1, name=f"stack{stack}_from_features")(y)
            x = add([x, back, features], name=f"stack{stack}_add")
    return keras.Model(image, outputs, name=name)


_TORCH = (
    (r"front_conv", "front.0"),
    (r"front_conv_bn", "front.1"),
    (r"stack(\d)_front(\d)_(\d)_(\w+)", r"hg.\1.front.\2.\3"),
    (r"stack(\d)_skip(\d)_(\d)_(\w+)", r"hg.\1.skip_connections.\2.\3"),
    (r"stack(\d)_latent_(\d)_(\w+)", r"hg.\1.latent.\2"),
    (r"stack(\d)_refine_(\d)_(\w+)", r"refinement.\1.\2"),
    (r"stack(\d)_features", r"refinement.\1.3"),
    (r"stack(\d)_features_bn", r"refinement.\1.4"),
    (r"stack(\d)_from_heatmaps", r"scores_.\1"),
    (r"stack(\d)_from_features", r"refinement_.\1"),
)
_TORCH_RESIDUAL = {"conv1": "body.0", "conv2": "body.3", "conv3": "body.6", "shortcut": "shortcut", "out_bn": "bn"}

#: Modules of the last stack that the public code computes and uses nowhere.
TORCH_UNUSED = (r"scores_\.\d+\..*", r"refinement_\.\d+\..*")


def torch_modules(network: keras.Model) -> dict[str, str | None]:
    """Name the module of the residual-pose code for every layer with weights."""
    stacks = len(network.output)

    def module(layer: str) -> str | None:
        if layer.startswith("heatmaps"):
            number = layer.removeprefix("heatmaps").removeprefix("_")
            return f"scores.{int(number) - 1 if number else stacks - 1}"
        front = re.fullmatch(r"front_(\d)_(\w+)", layer)
        if front:
            return f"front.{int(front[1]) + 4}.{_in_residual(front[2])}"
        for pattern, template in _TORCH:
            match = re.fullmatch(pattern, layer)
            if match:
                inside = "" if "w+" not in pattern else f".{_in_residual(match.groups()[-1])}"
                return match.expand(template) + inside
        return None

    return {layer.name: module(layer.name) for layer in network.layers if layer.weights}


def _in_residual(name: str) -> str:
    if name in _TORCH_RESIDUAL:
        return _TORCH_RESIDUAL[name]
    return batch_norm_after(_TORCH_RESIDUAL[name.removesuffix("_bn")])
