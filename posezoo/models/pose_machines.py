"""Pose machines on depth images: CPM, RPM, MPM and SPM.

Martinez-Gonzalez et al., "Efficient convolutional neural networks for depth-based multi-person pose
estimation" (arXiv:1912.00711) and "Real-time convolutional networks for depth-based human pose estimation"
(arXiv:1910.13911). A feature extractor brings one depth channel to stride 8; a cascade of stages, each with a
branch for part affinity fields and one for confidence maps, refines what the stage before gave. The families
differ in what extractor and branches are made of: VGG-19's convolutions (CPM), residual modules (RPM),
depthwise-separable convolutions (MPM) or SqueezeNet's fire modules (SPM).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as L

from posezoo.layers import ConvStyle, activation
from posezoo.skeletons import DEPTH17, Skeleton

STYLE = ConvStyle("relu")

#: Input pixels per pixel of the maps.
STRIDE = 8
#: Smallest side of the input: a map of 2 pixels.
SMALLEST = 16

#: Branches of a stage in the order in which their maps are joined, before the features.
BRANCHES = ("pafs", "heatmaps")

#: SPM's extractors: per fire module squeeze channels and channels of each half of the output. The modules in
#: the second and third row have shortcuts at odd places, see `_spm_extractor`.
SPM_EXTRACTORS = {
    "flat": ((16, 32),) * 7,
    "expand": ((8, 32),) * 3 + ((16, 64),) * 4,
}
#: Which of them table I uses for how many stages.
SPM_ROWS = {1: "expand", 2: "flat", 3: "flat", 4: "expand"}
#: Width of the extra 1x1 convolution at the end of the `expand` extractor.
SPM_EXPANDED = 192

#: Output channels of the first ten convolutions of VGG-19; 0 is a pooling.
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512)


#: How a later stage may take in fields, confidence maps and features.
JOINS = ("concat", "sum")

# --------------------------------------------------------------------------------------------- blocks


def convolution(x, filters: int, kernel_size: int, *, name: str, bias: bool = True):
    """A convolution of features, or of several as if they were joined.

    The convolution of a concatenation is the sum of one convolution for each part: layers `name_of_pafs`,
    `name_of_heatmaps` and `name_of_features`, of which the last has the bias.

    Args:
        x: Features, or a dict of features by name.
        filters: Output channels.
        kernel_size: Side of the kernel.
        name: Of the layer.
        bias: Whether there is a bias.
    """
    if not isinstance(x, dict):
        return L.Conv2D(filters, kernel_size, padding="same", use_bias=bias, name=name)(x)
    parts = []
    for part, y in x.items():
        own = {"use_bias": bias and part == "features", "name": f"{name}_of_{part}"}
        parts.append(L.Conv2D(filters, kernel_size, padding="same", **own)(y))
    return L.Add(name=f"{name}_sum")(parts)


def depth_point(x, filters: int, *, name: str, stride: int = 1):
    """Depthwise 3x3, batch norm, ReLU, pointwise, batch norm, ReLU: MPM's module, without biases."""
    if isinstance(x, dict):  # channels do not meet before the pointwise convolution
        x = {part: _depthwise(y, stride, name=f"{name}_{{}}_of_{part}") for part, y in x.items()}
    else:
        x = _depthwise(x, stride, name=f"{name}_{{}}")
    x = convolution(x, filters, 1, bias=False, name=f"{name}_pointwise")
    return activation(STYLE.batch_norm(x, name=f"{name}_pointwise_bn"), "relu", name=f"{name}_act")


def _depthwise(x, stride: int, *, name: str):
    padding = "same"
    if stride > 1:
        x = L.ZeroPadding2D(1, name=name.format("pad"))(x)
        padding = "valid"
    x = L.DepthwiseConv2D(3, strides=stride, padding=padding, use_bias=False, name=name.format("depthwise"))(x)
    x = STYLE.batch_norm(x, name=name.format("depthwise_bn"))
    return activation(x, "relu", name=name.format("depthwise_act"))


def residual_depth_point(x, *, name: str):
    """`depth_point` and the identity, batch norm and ReLU after the sum."""
    y = L.Add(name=f"{name}_add")([depth_point(x, x.shape[-1], name=name), x])
    return activation(STYLE.batch_norm(y, name=f"{name}_out_bn"), "relu", name=f"{name}_out_act")


def residual(x, filters: int, *, name: str):
    """RPM's module: two 3x3 convolutions and the identity or a projection, batch norm and ReLU after the sum."""
    y = STYLE.conv_bn(x, filters, 3, bias=True, name=f"{name}_conv1")
    y = STYLE.conv_bn(y, filters, 3, bias=True, act=False, name=f"{name}_conv2")
    if x.shape[-1] != filters:
        x = L.Conv2D(filters, 1, name=f"{name}_shortcut")(x)
    y = L.Add(name=f"{name}_add")([y, x])
    return activation(STYLE.batch_norm(y, name=f"{name}_out_bn"), "relu", name=f"{name}_out_act")


def fire(x, squeeze: int, half: int, *, name: str):
    """SqueezeNet's module with batch norms: 1x1 to few channels, then 1x1 and 3x3 side by side."""
    x = STYLE.batch_norm(convolution(x, squeeze, 1, name=f"{name}_squeeze"), name=f"{name}_squeeze_bn")
    x = activation(x, "relu", name=f"{name}_squeeze_act")
    point = STYLE.conv_bn(x, half, 1, bias=True, name=f"{name}_expand1x1")
    window = STYLE.conv_bn(x, half, 3, bias=True, name=f"{name}_expand3x3")
    return L.Concatenate(name=f"{name}_concat")([point, window])


def residual_fire(x, squeeze: int, half: int, *, name: str):
    """`fire` and the identity or a projection, batch norm and ReLU after the sum."""
    y = fire(x, squeeze, half, name=name)
    if x.shape[-1] != y.shape[-1]:
        x = L.Conv2D(y.shape[-1], 1, name=f"{name}_shortcut")(x)
    y = L.Add(name=f"{name}_add")([y, x])
    return activation(STYLE.batch_norm(y, name=f"{name}_out_bn"), "relu", name=f"{name}_out_act")


def _conv_relu(x, filters: int, kernel_size: int, *, name: str):
    return activation(convolution(x, filters, kernel_size, name=name), "relu", name=f"{name}_act")


def _halved(x, *, name: str):
    """2x2 average; an odd last row or column is left out, as in PyTorch."""
    return L.AveragePooling2D(2, name=name)(x)


# ------------------------------------------------------------------------------------------ extractors


def _mpm_extractor(x, features: int):
    x = STYLE.conv_bn(x, 32, 7, stride=2, name="extractor0")
    x = depth_point(x, 64, name="extractor1")
    x = residual_depth_point(x, name="extractor2")
    x = depth_point(x, 64, stride=2, name="extractor3")
    x = residual_depth_point(x, name="extractor4")
    x = depth_point(x, 64, name="extractor5")
    x = residual_depth_point(x, name="extractor6")
    x = depth_point(x, 64, stride=2, name="extractor7")
    return depth_point(x, features, name="features")


def _rpm_extractor(x, features: int):
    x = _halved(STYLE.conv_bn(x, 128, 7, bias=True, name="front"), name="front_pool")
    x = residual(x, features, name="res1")
    x = _halved(residual(x, features, name="res2"), name="res2_pool")
    x = _halved(residual(x, features, name="res3"), name="res3_pool")
    return L.Conv2D(features, 1, name="features")(x)


def _spm_extractor(x, features: int, extractor: str):
    x = _halved(STYLE.conv_bn(x, 64, 7, bias=True, name="front"), name="front_pool")
    for i, (squeeze, half) in enumerate(SPM_EXTRACTORS[extractor], start=1):
        x = (residual_fire if i % 2 == 0 else fire)(x, squeeze, half, name=f"fire{i}")
        if i in (3, 7):
            x = _halved(x, name=f"fire{i}_pool")
    if extractor == "expand":
        x = STYLE.conv_bn(x, SPM_EXPANDED, 1, bias=True, name="expanded")
    return STYLE.conv_bn(x, features, 1, bias=True, name="features")


def _cpm_extractor(x, features: int):
    x = L.Concatenate(name="three_channels")([x, x, x])
    number = 0
    for filters in VGG:
        if filters:
            x = _conv_relu(x, filters, 3, name=f"vgg{number}")
            number += 1
        else:
            x = L.MaxPooling2D(2, name=f"vgg{number}_pool")(x)
    return _conv_relu(_conv_relu(x, 256, 3, name="reduce"), features, 3, name="features")


# -------------------------------------------------------------------------------------------- branches


def _mpm_branch(x, stage: int, features: int, name: str):
    for i in range(1, 6):
        x = depth_point(x, features, name=f"{name}_dp{i}")
    return _conv_relu(x, features, 1, name=f"{name}_conv1")


def _rpm_branch(x, stage: int, features: int, name: str, last: int | None = None):
    """Also CPM's, which widens to `last` channels in the first stage."""
    kernels = (3, 3, 3) if stage == 1 else (7, 7, 7, 7, 7)
    for i, kernel_size in enumerate(kernels, start=1):
        x = _conv_relu(x, features, kernel_size, name=f"{name}_conv{i}")
    return _conv_relu(x, last or features, 1, name=f"{name}_conv{len(kernels) + 1}")


def _cpm_branch(x, stage: int, features: int, name: str):
    return _rpm_branch(x, stage, features, name, last=512 if stage == 1 else None)


def _spm_branch(x, stage: int, features: int, name: str):
    for i in range(1, 6):
        x = fire(x, 48, 32, name=f"{name}_fire{i}")
    return _conv_relu(x, features, 1, name=f"{name}_conv1")


#: Family -> extractor, branch and width `Nw`.
FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Any], int]] = {
    "cpm": (_cpm_extractor, _cpm_branch, 128),
    "rpm": (_rpm_extractor, _rpm_branch, 64),
    "mpm": (_mpm_extractor, _mpm_branch, 64),
    "spm": (_spm_extractor, _spm_branch, 64),
}


# --------------------------------------------------------------------------------------------- builder


def pose_machine(
    family: str,
    *,
    stages: int = 1,
    features: int | None = None,
    extractor: str | None = None,
    skeleton: Skeleton = DEPTH17,
    input_px: int | Sequence[int] = 368,
    intermediate: bool = False,
    join: str = "concat",
    name: str = "pose_machine",
) -> keras.Model:
    """Build a pose machine.

    Args:
        family: `cpm`, `rpm`, `mpm` or `spm`.
        stages: Stages of the cascade, 1 or more.
        features: Width `Nw` of features and branches; 64 by default, 128 for `cpm`.
        extractor: `spm` only: `flat` or `expand`; by default what table I uses for that many stages.
        skeleton: Keypoints, one confidence map each and one for the background, and limbs, two field maps each.
        input_px: Side, or `(height, width)`. Sides that are no multiples of 8 are taken as the paper takes
            444: poolings drop what is left over (55 columns), strided convolutions keep it (`mpm`, 56).
        intermediate: Whether the maps of earlier stages are outputs too, as training needs; the layers, and
            files of weights, are the same either way.
        join: How stages after the first take in fields, maps and features: `concat` as in the papers, or `sum`, the
            same function and parameters, but every tensor keeps its own int8 scale (`copy_weights` fills one from
            the other). Joined, fields of range 1 get few levels beside features of larger range.
        name: Name of the model.

    Returns:
        A model from depth `(batch, height, width, 1)`, metres / 8 - 0.5, to a dict, all linear:
        `heatmaps` `(batch, height / 8, width / 8, K + 1)`, the background last, and `pafs`
        `(batch, height / 8, width / 8, 2 * limbs)`, x and y of limb k at 2k and 2k + 1. With
        `intermediate` also `heatmaps_s1`, `pafs_s1`, ... of the stages before the last.

    Raises:
        ValueError: Unknown family or extractor, a skeleton without limbs, no stage, or an input that is too small.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family '{family}'; expected one of {', '.join(FAMILIES)}")
    if stages < 1:
        raise ValueError(f"a pose machine has at least one stage, got stages={stages}")
    if join not in JOINS:
        raise ValueError(f"unknown join '{join}'; expected one of {', '.join(JOINS)}")
    if not skeleton.limbs:
        raise ValueError(f"skeleton '{skeleton.name}' has no limbs; part affinity fields need some")
    height, width = (input_px, input_px) if isinstance(input_px, int) else input_px
    if min(height, width) < SMALLEST:
        raise ValueError(f"input_px must be at least {SMALLEST} on each side, got {height}x{width}")
    extract, branch, default = FAMILIES[family]
    if extractor is not None and family != "spm":
        raise ValueError(f"extractor= is for the spm family; {family} has one extractor")
    changes = {}
    if family == "spm":
        changes["extractor"] = extractor or SPM_ROWS.get(stages, "flat")
        if changes["extractor"] not in SPM_EXTRACTORS:
            raise ValueError(f"unknown extractor '{extractor}'; expected one of {', '.join(SPM_EXTRACTORS)}")
    nw = features or default
    maps = {"pafs": 2 * len(skeleton.limbs), "heatmaps": skeleton.num_keypoints + 1}
    image = keras.Input((height, width, 1), name="image")
    seen = extract(image, nw, **changes)
    found: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    for stage in range(1, stages + 1):
        x = seen
        if found:
            parts = {**found, "features": seen}
            x = parts if join == "sum" else L.Concatenate(name=f"stage{stage}_input")(list(parts.values()))
        suffix = "" if stage == stages else f"_s{stage}"
        found = {
            kind: _maps(branch(x, stage, nw, f"stage{stage}_{kind}"), maps[kind], f"{kind}{suffix}")
            for kind in BRANCHES
        }
        if intermediate or stage == stages:
            outputs |= {f"{kind}{suffix}": found[kind] for kind in BRANCHES}
    return keras.Model(image, outputs, name=name)


def _maps(x, channels: int, name: str):
    """The last convolution of a branch; small, so that training starts from empty maps."""
    start = keras.initializers.RandomNormal(stddev=0.01)
    return L.Conv2D(channels, 1, kernel_initializer=start, name=name, dtype="float32")(x)


def with_features(network: keras.Model) -> keras.Model:
    """Return the same network with the extractor's output as output `features`, for hints in distillation.

    The layers are shared: training one trains the other.
    """
    names = {layer.name for layer in network.layers}
    features = network.get_layer("features_act" if "features_act" in names else "features").output
    return keras.Model(network.inputs, {**network.output, "features": features}, name=network.name)


def copy_weights(network: keras.Model, trained: keras.Model) -> None:
    """Fill a network from its twin with the other `join`, or the same, in place.

    Raises:
        ValueError: The networks differ in more than `join` and input size.
    """
    parts = _parts(network)
    values: dict[str, list] = {}
    for layer in trained.layers:
        if layer.weights:
            values.setdefault(re.sub(r"_of_\w+", "", layer.name), []).append((layer, layer.get_weights()))
    wanted = {re.sub(r"_of_\w+", "", layer.name) for layer in network.layers if layer.weights}
    strange = sorted(wanted ^ set(values))
    if strange:
        raise ValueError(
            f"{trained.name} and {network.name} differ in {len(strange)} layers, such as {strange[0]}; both need the "
            "same family, stages, width, extractor and skeleton"
        )
    for layer in network.layers:
        if not layer.weights:
            continue
        base, _, part = layer.name.partition("_of_")
        weights = _whole(values[base])
        if part:
            weights = _sliced(layer, weights, parts[part])
        if [w.shape for w in weights] != [tuple(w.shape) for w in layer.weights]:
            raise ValueError(f"{layer.name} of {trained.name} has another shape; both need the same width and skeleton")
        layer.set_weights(weights)


def _parts(network: keras.Model) -> dict[str, slice]:
    """Channels of fields, maps and features in a stage's input."""
    pafs, heatmaps = (network.get_layer(name).output.shape[-1] for name in BRANCHES)
    return {"pafs": slice(0, pafs), "heatmaps": slice(pafs, pafs + heatmaps), "features": slice(pafs + heatmaps, None)}


def _whole(layers: list) -> list:
    """The weights of a layer, or of the parts that make one."""
    if len(layers) == 1:
        return layers[0][1]
    order = {part: i for i, part in enumerate((*BRANCHES, "features"))}
    layers = sorted(layers, key=lambda pair: order[pair[0].name.rpartition("_of_")[2]])
    kernels = [weights for _, weights in layers]
    if isinstance(layers[0][0], L.BatchNormalization):
        return [np.concatenate(column) for column in zip(*kernels, strict=True)]
    return [np.concatenate([weights[0] for weights in kernels], axis=2), *kernels[-1][1:]]


def _sliced(layer, weights: list, channels: slice) -> list:
    """One part of a layer's weights; of convolutions only the last part has the bias."""
    if isinstance(layer, L.BatchNormalization):
        return [w[channels] for w in weights]
    return [weights[0][:, :, channels], *weights[1 : len(layer.weights)]]


def stages_of(network: keras.Model) -> int:
    """Return the number of stages of a pose machine, whatever its outputs."""
    return 1 + sum(re.fullmatch(r"pafs_s\d+", layer.name) is not None for layer in network.layers)


def start_from(network: keras.Model, trained: keras.Model) -> list[str]:
    """Start an s-stage network from a trained one of fewer stages (progressive training, section 2.7), or of more.

    Extractor and the stages that both have are copied; what a stage gave, the stage of the same number gives, be it the
    last or not.

    Args:
        network: To be filled, in place.
        trained: Of the same family and width; of one with more stages the first are taken.

    Returns:
        Names of the layers that keep their random start.

    Raises:
        ValueError: The networks differ in family, width, skeleton or extractor.
    """
    have, own = stages_of(trained), stages_of(network)

    def common(layer, stages: int) -> str:
        return f"{layer.name}_s{stages}" if layer.name in BRANCHES else layer.name

    def stage(name: str) -> int:
        told = re.match(r"stage(\d+)_", name) or re.search(r"_s(\d+)$", name)
        return int(told[1]) if told else 0

    source = {common(layer, have): layer for layer in trained.layers if layer.weights}
    source = {name: layer for name, layer in source.items() if stage(name) <= own}
    target = {common(layer, own): layer for layer in network.layers if layer.weights}
    strange = sorted(
        name for name, layer in source.items()
        if name not in target or [w.shape for w in target[name].weights] != [w.shape for w in layer.weights]
    )  # fmt: skip
    if strange:
        raise ValueError(
            f"{trained.name} cannot start {network.name}: {len(strange)} of its layers are missing there or of another "
            f"shape, such as {strange[0]}; both need the same family, width, extractor and skeleton"
        )
    for name, layer in source.items():
        target[name].set_weights(layer.get_weights())
    return [layer.name for name, layer in target.items() if name not in source]


# ------------------------------------------------------------------------------------- PyTorch's names

_TORCH_BRANCH = {"pafs": "L1", "heatmaps": "L2"}
_TORCH_DEPTH_POINT = {
    "depthwise": "mod.0", "depthwise_bn": "mod.1", "pointwise": "mod.3", "pointwise_bn": "mod.4",
}  # fmt: skip
_TORCH_RESIDUAL = {"conv1_bn": "bn1", "conv2_bn": "bn2", "out_bn": "bn3"}

#: A fire module's layers are stored twice in the public code, alone and inside a sequence. Both names hold one
#: tensor; where they differ the sequence's is the later and wins, as in PyTorch.
TORCH_ALIASES = (
    (r"(.*\.)(squeeze|expand1x1|expand3x3)Seq\.0\.(.*)", r"\1\2.\3"),
    (r"(.*\.)(squeeze|expand1x1|expand3x3)Seq\.1\.(.*)", r"\1\2_batchnorm.\3"),
)
TORCH_UNUSED = (r".*\.(squeeze|expand1x1|expand3x3)(_batchnorm)?\.[a-z_]+",)

#: Fire modules of SPM's extractor.
_TORCH_FIRES = {1: "midLayers.0", 2: "midLayers.1", 3: "midLayers.2", 4: "backLayers.0", 5: "backLayers.1",
                6: "backLayers.2", 7: "backLayers.3"}  # fmt: skip


def torch_modules(network: keras.Model) -> dict[str, str | tuple[str, slice, slice] | None]:
    """Name the module of the public code (idiap/fast_pose_machines) for every layer with weights.

    RPM, MPM and SPM of any number of stages; CPM has no public code, its layers get None.
    """
    stages, parts, everything = stages_of(network), _parts(network), slice(None)
    names = {layer.name.partition("_of_")[0] for layer in network.layers}
    modules: dict[str, str | tuple[str, slice, slice] | None] = {}
    for layer in network.layers:
        if layer.weights:
            base, _, part = layer.name.partition("_of_")
            module = _torch_module(base, stages, names)
            modules[layer.name] = module
            if part and module:
                own = isinstance(layer, (L.DepthwiseConv2D, L.BatchNormalization))
                channels = parts[part]
                modules[layer.name] = (module, channels, everything) if own else (module, everything, channels)
    return modules


def _torch_module(layer: str, stages: int, names: set[str]) -> str | None:
    if "vgg0" in names:
        return None
    head = re.fullmatch(r"(pafs|heatmaps)(?:_s(\d+))?", layer)
    if head:
        kind, stage = head[1], int(head[2] or stages)
        own = {n for n in names if re.fullmatch(rf"stage{stage}_{kind}_conv\d", n)}
        return _torch_stage(stage, kind, f"Conv{len(own) + 1}")
    match = re.fullmatch(r"stage(\d+)_(pafs|heatmaps)_(conv|dp|fire)(\d)_?(\w*)", layer)
    if match:
        stage, kind, block, number, inside = int(match[1]), match[2], match[3], match[4], match[5]
        if block == "conv":
            return _torch_stage(stage, kind, f"Conv{number}")
        if block == "dp":
            return f"{_torch_stage(stage, kind, f'MobMod{number}')}.{_TORCH_DEPTH_POINT[inside]}"
        return f"{_torch_stage(stage, kind, f'SqMod{number}')}.{_torch_fire(inside)}"
    inside = _torch_extractor(layer, names)
    return f"featExtractor.{inside}" if inside else None


def _torch_stage(stage: int, kind: str, block: str) -> str:
    branch = _TORCH_BRANCH[kind]
    return f"stages{branch}.{stage - 1}.{block}_S{stage}_{branch}"


def _torch_fire(inside: str) -> str:
    return f"{inside.removesuffix('_bn')}Seq.{int(inside.endswith('_bn'))}"


def _torch_extractor(layer: str, names: set[str]) -> str | None:
    """The part of a name after `featExtractor.`."""
    number = int(layer.endswith("_bn"))
    if match := re.fullmatch(r"(?:extractor(\d)|features)_(\w*(?:depthwise|pointwise|out)\w*)", layer):
        index, inside = match[1] or "8", match[2]
        if inside == "out_bn":
            return f"model.{index}.bn1"
        main = "main." if f"extractor{index}_out_bn" in names else ""
        return f"model.{index}.{main}{_TORCH_DEPTH_POINT[inside]}"
    if re.fullmatch(r"extractor0(_bn)?", layer):
        return f"model.0.mod.{number}"
    if match := re.fullmatch(r"res(\d)_(\w+)", layer):
        return f"res{match[1]}.{_TORCH_RESIDUAL.get(match[2], match[2])}"
    if match := re.fullmatch(r"fire(\d)_(\w+)", layer):
        parent, inside = _TORCH_FIRES[int(match[1])], match[2]
        if inside == "out_bn":
            return f"{parent}.bn1"
        if inside == "shortcut":
            return f"{parent}.shortcut"
        shell = "fire." if f"fire{match[1]}_out_bn" in names else ""
        return f"{parent}.{shell}{_torch_fire(inside)}"
    squeeze = "fire1_squeeze" in names
    if re.fullmatch(r"front(_bn)?", layer):
        return f"{'frontLayers' if squeeze else 'front'}.{number}"
    if re.fullmatch(r"expanded(_bn)?", layer):
        return f"backLayers.{5 + number}"
    if re.fullmatch(r"features(_bn)?", layer):
        first = 8 if "expanded" in names else 5
        return f"backLayers.{first + number}" if squeeze else "back.1"
    return None
