"""EfficientHRNet: bottom-up pose with one compound scale. Neff et al. 2020, arXiv:2007.08090.

A compact EfficientNet feeds a small HRNet from four scales; a HigherHRNet head (Cheng et al. 2020,
arXiv:1908.10357) predicts heatmaps at 1/4 and 1/2 and grouping tags at 1/4.

======  =====  ============================  ===========  ==============
model   input  branch widths                 parameters   MACs
======  =====  ============================  ===========  ==============
H0      512    32, 64, 128, 256              19,725,359   23,958,286,848
H-1     480    26, 52, 103, 206              13,004,446   13,130,000,048
H-2     448    21, 42, 83, 166                8,263,495    7,029,956,920
H-3     416    17, 34, 67, 133                5,360,390    3,758,983,969
H-4     384    14, 27, 54, 107                2,764,706    1,807,480,224
======  =====  ============================  ===========  ==============

The paper's parameter column counts the MBConv blocks twice and its FLOPs count the transposed
convolution at output positions (`paper_params`, `paper_macs`). Its eq. 5 does not give its table 1;
the table, which the code follows, is ceil(32 * 2**(n-1) * 1.2455**phi).
The lite form has ReLU6, no squeeze-excite and a head in which every output keeps its own scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import keras

from posezoo import counts
from posezoo.heads import associative_embedding
from posezoo.layers import ConvStyle
from posezoo.models import efficientnet
from posezoo.models.hrnet import TORCH_STAGES, _input, batch_norm_after, high_resolution_stage, torch_module
from posezoo.skeletons import COCO17, Skeleton

#: phi: modules in stages 2, 3, 4 (table 1).
MODULES = {0: (1, 4, 3), -1: (1, 3, 3), -2: (1, 2, 3), -3: (1, 1, 3), -4: (1, 1, 2)}
BLOCKS = 2

STYLE = ConvStyle("relu")
LITE = ConvStyle("relu6", epsilon=1e-3, symmetric=False)


def branch_widths(phi: int) -> list[int]:
    """Channels of the four branches."""
    return [math.ceil(32 * 2**n * 1.2455**phi) for n in range(4)]


def default_px(phi: int) -> int:
    """Side of the paper's input."""
    return 512 + 32 * phi


def efficienthrnet(
    phi: int,
    *,
    skeleton: Skeleton = COCO17,
    input_px: int | Sequence[int] | None = None,
    lite: bool = False,
    head: str | None = None,
    name: str = "efficienthrnet",
) -> keras.Model:
    """Build the network for one value of `phi`.

    Args:
        phi: 0 for H0 down to -4 for H-4.
        skeleton: Keypoints: one heatmap and one tag map each.
        input_px: Side, or `(height, width)`; multiples of 32. The paper's by default.
        lite: ReLU6, no squeeze-excite, TensorFlow's padding: the form for int8.
        head: `concat` as in the paper, or `sum`: the same function with one int8 scale per tensor
            (deconv of a concatenation is the sum of deconvs). By default `sum` for lite, else `concat`.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, 3)` to a dict with `heatmaps` at 1/2 of the input,
        `heatmaps_low` and `tags` at 1/4, each with one channel per keypoint, linear.

    Raises:
        ValueError: Unknown `phi` or `head`, or `input_px` is no multiple of 32.
    """
    _, width, depth = efficientnet.scaling(phi, efficientnet.SCALING)
    image = _input(input_px or default_px(phi))
    taps = efficientnet.efficientnet_trunk(image, width=width, depth=depth, lite=lite)
    style, widths, modules = LITE if lite else STYLE, branch_widths(phi), MODULES[phi]

    branches: list = []
    for stage in (2, 3, 4):
        # Every branch passes a 3x3 convolution; new ones come from the backbone, not from a branch.
        sources = taps[:2] if stage == 2 else [*branches, taps[stage - 1]]
        branches = [
            style.conv_bn(x, widths[i], bias=True, name=f"transition{stage - 1}_branch{i + 1}")
            for i, x in enumerate(sources)
        ]
        branches = high_resolution_stage(
            branches, style, modules=modules[stage - 2], blocks=BLOCKS, name=f"stage{stage}",
            outputs=1 if stage == 4 else None,
        )  # fmt: skip
    outputs = associative_embedding(
        branches[0], skeleton.num_keypoints, style, join=head or ("sum" if lite else "concat")
    )
    return keras.Model(image, outputs, name=name)


def backbone_layers(network: keras.Model) -> list:
    """The layers of the compact EfficientNet."""
    return [layer for layer in network.layers if layer.name.startswith(("stem", "backbone"))]


def paper_params(network: keras.Model) -> int:
    """The parameters as the paper prints them: the backbone's blocks count twice."""
    blocks = [layer for layer in backbone_layers(network) if layer.name.startswith("backbone")]
    moving = ("moving_mean", "moving_variance")
    twice = sum(math.prod(v.shape) for layer in blocks for v in layer.weights if v.name not in moving and v.shape)
    return counts.params(network) + twice


def paper_macs(network: keras.Model) -> int:
    """The MACs as the paper prints them: transposed convolutions at output positions."""
    transposed = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2DTranspose)]
    extra = sum((math.prod(layer.strides) - 1) * counts.layer_macs(layer) for layer in transposed)
    return counts.macs(network) + extra


# Names in the authors' PyTorch code.
_TORCH_HEAD = (
    (r"transition(\d)_branch(\d)", r"trans\1_branch\2.0"),
    (r"refine_block(\d)_conv(\d)", lambda m: f"deconv_layers.0.{int(m[1]) + 1}.0.conv{m[2]}"),
)


def torch_modules(network: keras.Model) -> dict[str, object]:
    """Name the module of the authors' PyTorch code for every layer with weights.

    Returns:
        Layer name to module path, or to `(path, output slice, input slice)` where a layer here is a
        part of one there: their first head convolution makes heatmaps and tags together.
    """
    joints = network.output["heatmaps"].shape[-1]
    width = network.get_layer("heatmaps_low").input.shape[-1]
    modules: dict[str, object] = dict(_backbone_modules(network))
    parts = {
        "heatmaps_low": ("final_layers.0", slice(0, joints), slice(None)),
        "tags": ("final_layers.0", slice(joints, 2 * joints), slice(None)),
        "heatmaps": "final_layers.1",
        "head_up": "deconv_layers.0.0.0",
        "head_up_features": ("deconv_layers.0.0.0", slice(None), slice(0, width)),
        "head_up_heatmaps": ("deconv_layers.0.0.0", slice(None), slice(width, width + joints)),
        "head_up_tags": ("deconv_layers.0.0.0", slice(None), slice(width + joints, width + 2 * joints)),
        "head_up_bn": "deconv_layers.0.0.1",
    }
    for layer in network.layers:
        if layer.weights and layer.name not in modules:
            modules[layer.name] = parts.get(layer.name) or _torch_module(layer.name)
    return modules


def _torch_module(layer: str) -> str | None:
    found = torch_module(layer, (*TORCH_STAGES, _TORCH_HEAD[0]))
    if found:
        return found
    match = re.fullmatch(_TORCH_HEAD[1][0], layer.removesuffix("_bn"))
    if not match:
        return None
    path = _TORCH_HEAD[1][1](match)
    return batch_norm_after(path) if layer.endswith("_bn") else path


def _backbone_modules(network: keras.Model) -> dict[str, str]:
    """`features.0` is the stem; then one module per block, numbered through the stages."""
    modules = {"stem": "features.0.1", "stem_bn": "features.0.2"}
    names = [layer.name for layer in network.layers if layer.weights]
    blocks = list(dict.fromkeys(m[0] for m in (re.match(r"backbone\d+_\d+", name) for name in names) if m))
    for number, block in enumerate(blocks, start=1):
        path = f"features.{number}.conv"
        expands = f"{block}_expand" in names
        at = 1 if expands else 0  # the expansion, where there is one, shifts the rest by one
        if expands:
            modules |= {f"{block}_expand": f"{path}.0.1", f"{block}_expand_bn": f"{path}.0.2"}
        modules |= {
            f"{block}_depthwise": f"{path}.{at}.1", f"{block}_depthwise_bn": f"{path}.{at}.2",
            f"{block}_se_reduce": f"{path}.{at + 1}.se.1", f"{block}_se_expand": f"{path}.{at + 1}.se.3",
            f"{block}_project": f"{path}.{at + 2}", f"{block}_project_bn": f"{path}.{at + 3}",
        }  # fmt: skip
    return {name: path for name, path in modules.items() if name in names}
