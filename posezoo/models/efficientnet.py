"""Compact EfficientNet: EfficientNet scaled down by the rule that scales it up.

EfficientNet: Tan & Le 2019, arXiv:1905.11946. Scaling below B0: EfficientHRNet, Neff et al. 2020,
arXiv:2007.08090, section 3.1 and table 2. Parameters of the classifiers with 1000 classes:

=====  =========  ==========  ==========  =========
model  input px   width       depth       params
=====  =========  ==========  ==========  =========
B0     224        1.0         1.0         5,288,548
B-1    195        0.909       0.833       4.55 M
B-2    170        0.826       0.694       3.46 M
B-3    148        0.751       0.578       2.80 M
B-4    128        0.684       0.483       2.06 M
=====  =========  ==========  ==========  =========

The paper prints 1.3M for B-4 on ImageNet, which is its count with 100 classes.
The lite form (EfficientNet-Lite0 at B0) has ReLU6 and no squeeze-excite, for int8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
from keras import layers as L

from posezoo.layers import ConvStyle, activation, divisible

#: B0, table 1 of EfficientNet: expansion, channels, blocks, stride, kernel of the seven stages.
STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip

#: phi: (classifier's input px, width multiplier, depth multiplier).
SCALING = {
    0: (224, 1.0, 1.0), -1: (195, 0.909, 0.833), -2: (170, 0.826, 0.694), -3: (148, 0.751, 0.578),
    -4: (128, 0.684, 0.483),
}  # fmt: skip

#: Stages whose outputs are the last at strides 4, 8, 16, 32.
TAPS = (2, 3, 5, 7)

DROP_CONNECT = 0.2

#: The paper's blocks: batch norm as in its PyTorch code, stride 2 padded as in TensorFlow.
SWISH = ConvStyle("swish", symmetric=False)
#: EfficientNet-Lite: ReLU6, TensorFlow's batch norm.
LITE = ConvStyle("relu6", epsilon=1e-3, momentum=0.99, symmetric=False)


@dataclass(frozen=True)
class Block:
    """One MBConv block: where it stands and its sizes."""

    stage: int
    index: int
    expansion: int
    filters: int
    stride: int
    kernel: int

    @property
    def name(self) -> str:
        return f"backbone{self.stage}_{self.index}"


def blocks_of(width: float, depth: float, *, lite: bool = False) -> list[Block]:
    """Scale the seven stages: channels to multiples of 8, repeats rounded up."""
    blocks = []
    for stage, (expansion, channels, repeats, stride, kernel) in enumerate(STAGES, start=1):
        for i in range(math.ceil(repeats * depth)):
            blocks.append(Block(stage, i, expansion, divisible(channels * width), stride if i == 0 else 1, kernel))
    return blocks


def squeeze_excite(x, squeezed: int, *, name: str):
    """Scale channels by what is in the whole picture (Hu et al. 2018, arXiv:1709.01507)."""
    s = L.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    s = activation(L.Conv2D(squeezed, 1, name=f"{name}_reduce")(s), "swish", name=f"{name}_act")
    s = L.Conv2D(x.shape[-1], 1, name=f"{name}_expand")(s)
    s = L.Activation("sigmoid", name=f"{name}_gate")(s)
    return L.Multiply(name=f"{name}_scale")([x, s])


def mbconv(x, block: Block, style: ConvStyle, *, with_squeeze_excite: bool):
    """Inverted bottleneck: expand, depthwise, squeeze-excite, project (EfficientNet; MobileNetV2)."""
    name, given = block.name, x
    if block.expansion != 1:
        x = style.conv_bn(x, x.shape[-1] * block.expansion, 1, name=f"{name}_expand")
    x = L.DepthwiseConv2D(
        block.kernel, strides=block.stride, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(x)  # fmt: skip
    x = activation(style.batch_norm(x, name=f"{name}_depthwise_bn"), style.act, name=f"{name}_depthwise_act")
    if with_squeeze_excite:
        x = squeeze_excite(x, max(1, given.shape[-1] // 4), name=f"{name}_se")
    x = style.conv_bn(x, block.filters, 1, name=f"{name}_project", act=False)
    if block.stride == 1 and given.shape[-1] == block.filters:
        # Drop-connect: the whole branch of a picture is left out.
        x = L.Dropout(DROP_CONNECT, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
        x = L.Add(name=f"{name}_add")([x, given])
    return x


def efficientnet_trunk(image, *, width: float, depth: float, lite: bool = False) -> list:
    """Stem and seven stages; returns the last features at strides 4, 8, 16 and 32."""
    style = LITE if lite else SWISH
    x = style.conv_bn(image, divisible(32 * width), 3, stride=2, name="stem")
    outputs = {}
    for block in blocks_of(width, depth):
        x = mbconv(x, block, style, with_squeeze_excite=not lite)
        outputs[block.stage] = x
    return [outputs[stage] for stage in TAPS]


def compact_efficientnet(
    phi: int,
    *,
    classes: int | None = 1000,
    input_px: int | None = None,
    lite: bool = False,
    name: str = "compact_efficientnet",
) -> keras.Model:
    """Image classifier, with which the backbones are trained.

    Args:
        phi: 0 for B0 down to -4 for B-4.
        classes: Number of classes; None for the features alone, without the classifier.
        input_px: Side of the square input; the table's by default.
        lite: ReLU6 and no squeeze-excite.
        name: Name of the model.

    Returns:
        A model from images `(batch, side, side, 3)` to a dict with `classes` `(batch, classes)`, logits; of features
        alone with `stride4`, `stride8`, `stride16` and `stride32`, what EfficientHRNet's branches are made from.

    Raises:
        ValueError: `phi` is not between -4 and 0.
    """
    px, width, depth = scaling(phi, SCALING)
    side = input_px or px
    image = keras.Input((side, side, 3), name="image")
    style = LITE if lite else SWISH
    taps = efficientnet_trunk(image, width=width, depth=depth, lite=lite)
    if classes is None:
        names = [f"stride{4 << i}" for i in range(len(taps))]
        features = {n: L.Activation("linear", name=n, dtype="float32")(x) for n, x in zip(names, taps, strict=True)}
        return keras.Model(image, features, name=name)
    x = taps[-1]
    x = style.conv_bn(x, divisible(1280 * width), 1, name="top")
    x = L.GlobalAveragePooling2D(name="pool")(x)
    x = L.Dropout(0.2, name="dropout")(x)
    return keras.Model(image, {"classes": L.Dense(classes, name="classes", dtype="float32")(x)}, name=name)


def scaling(phi: int, table: dict):
    """Look up a row of a scaling table.

    Raises:
        ValueError: The table has no such row.
    """
    if phi not in table:
        raise ValueError(f"phi must be one of {', '.join(map(str, table))}, got {phi!r}")
    return table[phi]
