"""HRNet: high-resolution networks with parallel branches, and the stages that EfficientHRNet shares.

Pose form (v1): Sun et al. 2019, arXiv:1902.09212. V2, whose head sees all branches: Wang et al. 2020,
arXiv:1908.07919. Channels of the branches double from one to the next; each module runs residual blocks
on every branch and then sums every branch into every other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras
from keras import layers as L

from posezoo.layers import ConvStyle, activation, add, basic_block
from posezoo.skeletons import COCO17, Skeleton

#: Modules of stages 2, 3, 4.
MODULES = (1, 4, 3)
BLOCKS = 4

STYLE = ConvStyle("relu")
#: The V2 code's batch norm.
STYLE_V2 = ConvStyle("relu", momentum=0.99)


def bottleneck(x, planes: int, style: ConvStyle, *, name: str):
    """1x1, 3x3, 1x1 to four times the planes, and the identity or its projection."""
    y = style.conv_bn(x, planes, 1, name=f"{name}_conv1")
    y = style.conv_bn(y, planes, 3, name=f"{name}_conv2")
    y = style.conv_bn(y, 4 * planes, 1, name=f"{name}_conv3", act=False)
    if x.shape[-1] != 4 * planes:
        x = style.conv_bn(x, 4 * planes, 1, name=f"{name}_downsample", act=False)
    return activation(L.Add(name=f"{name}_add")([y, x]), style.act, name=f"{name}_act")


def _to_branch(x, source: int, target: int, widths: Sequence[int], style: ConvStyle, *, upsample: str, name: str):
    """Bring branch `source` to the size and channels of branch `target`."""
    if source == target:
        return x
    if source > target:
        x = style.conv_bn(x, widths[target], 1, name=f"{name}_up", act=False)
        return L.UpSampling2D(2 ** (source - target), interpolation=upsample, name=f"{name}_resize")(x)
    for step in range(source, target):
        last = step == target - 1
        filters = widths[target] if last else widths[source]
        x = style.conv_bn(x, filters, 3, stride=2, name=f"{name}_down{step - source}", act=not last)
    return x


def high_resolution_module(
    branches: list, style: ConvStyle, *, blocks: int, name: str, outputs: int | None = None, upsample: str = "nearest"
) -> list:
    """Residual blocks on each branch, then every output branch is the sum of all branches.

    Args:
        branches: Features, each at half the size of the one before.
        style: Of the convolutions.
        blocks: Residual blocks per branch.
        name: Prefix of the layers.
        outputs: How many branches to compute; all by default.
        upsample: `nearest` or `bilinear`.
    """
    widths = [x.shape[-1] for x in branches]
    run = []
    for i, x in enumerate(branches):
        for block in range(blocks):
            x = basic_block(x, style, name=f"{name}_branch{i}_block{block}")
        run.append(x)
    fused = []
    for target in range(outputs or len(run)):
        parts = [
            _to_branch(x, source, target, widths, style, upsample=upsample, name=f"{name}_fuse{target}_{source}")
            for source, x in enumerate(run)
        ]
        total = add(parts, name=f"{name}_fuse{target}")
        fused.append(activation(total, style.act, name=f"{name}_fuse{target}_act"))
    return fused


def high_resolution_stage(
    branches: list,
    style: ConvStyle,
    *,
    modules: int,
    blocks: int,
    name: str,
    outputs: int | None = None,
    upsample: str = "nearest",
) -> list:
    """Several modules; only the last one may compute fewer branches."""
    for i in range(modules):
        last = outputs if i == modules - 1 else None
        branches = high_resolution_module(
            branches, style, blocks=blocks, name=f"{name}_module{i}", outputs=last, upsample=upsample
        )
    return branches


def _stages(x, widths: Sequence[int], style: ConvStyle, *, outputs: int | None, upsample: str) -> list:
    """Stage 1 (bottlenecks) to stage 4 from features at stride 4."""
    for i in range(4):
        x = bottleneck(x, 64, style, name=f"layer1_block{i}")
    branches = [
        style.conv_bn(x, widths[0], name="transition1_0"),
        style.conv_bn(x, widths[1], stride=2, name="transition1_1"),
    ]
    for stage, modules in zip((2, 3, 4), MODULES, strict=True):
        if stage > 2:
            new = style.conv_bn(branches[-1], widths[stage - 1], stride=2, name=f"transition{stage - 1}_{stage - 1}")
            branches = [*branches, new]
        branches = high_resolution_stage(
            branches, style, modules=modules, blocks=BLOCKS, name=f"stage{stage}", upsample=upsample,
            outputs=outputs if stage == 4 else None,
        )  # fmt: skip
    return branches


def _widths(width: int) -> list[int]:
    return [width * 2**i for i in range(4)]


def _stem(image, style: ConvStyle):
    x = style.conv_bn(image, 64, stride=2, name="conv1")
    return style.conv_bn(x, 64, stride=2, name="conv2")


def _input(input_px, channels: int = 3, *, multiple: int = 32):
    height, width = (input_px, input_px) if isinstance(input_px, int) else input_px
    if height % multiple or width % multiple or min(height, width) < multiple:
        raise ValueError(f"input_px must be multiples of {multiple}, got {height}x{width}")
    return keras.Input((height, width, channels), name="image")


def hrnet(
    *,
    width: int = 32,
    skeleton: Skeleton = COCO17,
    input_px: int | Sequence[int] = (384, 288),
    num_keypoints: int | None = None,
    name: str = "hrnet",
) -> keras.Model:
    """HRNet for single-person pose; W32 by default.

    Args:
        width: Channels of the first branch.
        skeleton: Keypoints, one heatmap each.
        input_px: Side, or `(height, width)`; multiples of 32.
        num_keypoints: Number of heatmaps where it is not the skeleton's (ZoomNet's BodyNet has 38).
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, 3)` to a dict with `heatmaps`
        `(batch, height / 4, width / 4, K)`, linear.

    Raises:
        ValueError: `input_px` is no multiple of 32.
    """
    image = _input(input_px)
    x = _stages(_stem(image, STYLE), _widths(width), STYLE, outputs=1, upsample="nearest")[0]
    maps = L.Conv2D(num_keypoints or skeleton.num_keypoints, 1, name="heatmaps", dtype="float32")(x)
    return keras.Model(image, {"heatmaps": maps}, name=name)


def _v2_head(branches: list, outputs: int):
    """All branches at the size of the first, joined, mixed, and one map per output."""
    resized = [branches[0]]
    for i, x in enumerate(branches[1:], start=1):
        resized.append(L.UpSampling2D(2**i, interpolation="bilinear", name=f"head_resize{i}")(x))
    x = L.Concatenate(name="head_concat")(resized)
    x = STYLE_V2.conv_bn(x, x.shape[-1], 1, bias=True, name="head_mix")
    return L.Conv2D(outputs, 1, name="heatmaps", dtype="float32")(x)


def hrnetv2(
    *,
    width: int = 18,
    skeleton: Skeleton = COCO17,
    input_px: int | Sequence[int] = 256,
    num_keypoints: int | None = None,
    name: str = "hrnetv2",
) -> keras.Model:
    """HRNetV2 with a heatmap head over all branches; W18 at 256 px is the public face network.

    Args and errors: as `hrnet`.

    Returns:
        A model from images to a dict with `heatmaps` `(batch, height / 4, width / 4, K)`, linear.
    """
    image = _input(input_px)
    branches = _stages(_stem(image, STYLE_V2), _widths(width), STYLE_V2, outputs=None, upsample="bilinear")
    maps = _v2_head(branches, num_keypoints or skeleton.num_keypoints)
    return keras.Model(image, {"heatmaps": maps}, name=name)


def hrnetv2_head(
    *,
    width: int = 18,
    num_keypoints: int = 21,
    input_px: int | Sequence[int] = 64,
    channels: int = 64,
    projection: bool = True,
    name: str = "hrnetv2_head",
) -> keras.Model:
    """HRNetV2 without its stem, on features: ZoomNet's face and hand heads.

    Args:
        width: Channels of the first branch.
        num_keypoints: Number of heatmaps: 68 for the face, 21 for a hand.
        input_px: Side of the features, or `(height, width)`; multiples of 8.
        channels: Channels of the features.
        projection: Whether a 1x1 convolution comes first. The paper's cost asks for it; its text does not.
        name: Name of the model.

    Returns:
        A model from features `(batch, height, width, channels)` to a dict with `heatmaps` of their size.

    Raises:
        ValueError: `input_px` is no multiple of 8.
    """
    features = _input(input_px, channels, multiple=8)
    x = STYLE_V2.conv_bn(features, 64, 1, name="projection") if projection else features
    branches = _stages(x, _widths(width), STYLE_V2, outputs=None, upsample="bilinear")
    return keras.Model(features, {"heatmaps": _v2_head(branches, num_keypoints)}, name=name)


#: Layer names to modules of the public PyTorch code. `_bn` layers follow their convolution, see `bn_of`.
TORCH_STAGES = (
    (r"(stage\d)_module(\d)_branch(\d)_block(\d+)_conv(\d)", r"\1.\2.branches.\3.\4.conv\5"),
    (r"(stage\d)_module(\d)_fuse(\d)_(\d)_up", r"\1.\2.fuse_layers.\3.\4.0"),
    (r"(stage\d)_module(\d)_fuse(\d)_(\d)_down(\d)", r"\1.\2.fuse_layers.\3.\4.\5.0"),
)
TORCH_HRNET = (
    *TORCH_STAGES,
    (r"conv(\d)", r"conv\1"),
    (r"layer1_block(\d)_conv(\d)", r"layer1.\1.conv\2"),
    (r"layer1_block(\d)_downsample", r"layer1.\1.downsample.0"),
    (r"transition1_0", "transition1.0.0"),
    (r"transition(\d)_(\d)", r"transition\1.\2.0.0"),
    (r"head_mix", "head.0"),
)


def torch_module(layer: str, rules: Sequence[tuple[str, str]]) -> str | None:
    """Return the PyTorch module of a layer: the first rule that fits, batch norms by their convolution's rule."""
    convolution = layer.removesuffix("_bn")
    for pattern, template in rules:
        match = re.fullmatch(pattern, convolution)
        if match:
            path = match.expand(template)
            return path if convolution == layer else batch_norm_after(path)
    return None


def batch_norm_after(path: str) -> str:
    """The batch norm of a PyTorch convolution: `conv1` -> `bn1`, `0` -> `1`."""
    head, _, last = path.rpartition(".")
    name = last.replace("conv", "bn") if last.startswith("conv") else str(int(last) + 1)
    return f"{head}.{name}" if head else name


def torch_modules(network: keras.Model) -> dict[str, str | None]:
    """Name the PyTorch module of every layer with weights (HRNet's and HRNetV2's public code)."""
    final = "head.3" if any(layer.name == "head_mix" for layer in network.layers) else "final_layer"
    rules = (*TORCH_HRNET, (r"heatmaps", final))
    return {layer.name: torch_module(layer.name, rules) for layer in network.layers if layer.weights}
