"""MobileNet split-stream: single-person pose with MobileNetV1 and one stream of filters per joint.

The split-stream paper starts from MobileNetV1 with a regression head and improves it in three steps;
each step is a builder here:

====================================  =====================================  ====================
variant                               head                                   trainable, 11 joints
====================================  =====================================  ====================
`mobilenet_regression`                global average pool, dense             3,229,526
`mobilenet_regression_nogap`          flatten, dense                         4,310,870
`mobilenet_split_regression`          last layer split, dense per joint      3,307,350
`mobilenet_split`                     heatmaps from split streams            2,295,883
====================================  =====================================  ====================

Backbone: MobileNetV1 (Howard et al. 2017, arXiv:1704.04861), layer names as in
`keras.applications.MobileNet`, batch-norm epsilon 1e-3. Images are scaled to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers as L

from posezoo.heads import coordinates, split_heatmaps
from posezoo.layers import activation, divisible
from posezoo.skeletons import FLIC11, LSP14, Skeleton, joint_kind

WIDTHS = (0.35, 0.5, 0.75, 1.0)
INPUTS_PX = (160, 192, 224, 256)

# MobileNetV1, table 1: output channels and stride of the 13 depthwise-separable layers.
BACKBONE = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

# Share of the filters by joint kind. Joints that move most get most; for FLIC's eleven joints the
# shares are the filters themselves (they sum to 256).
STREAM_SHARES = {
    "wrist": 36, "ankle": 36, "elbow": 32, "knee": 32, "shoulder": 22, "hip": 20,
    "neck": 16, "head_top": 16, "nose": 12, "eye": 12, "ear": 12,
}  # fmt: skip
DEFAULT_SHARE = 22


def allocate_streams(skeleton: Skeleton, filters: int) -> tuple[int, ...]:
    """Divide `filters` among the joints in proportion to `STREAM_SHARES`, at least one each.

    Exact shares are rounded down and the filters left over go to the largest remainders, earlier
    joints first. FLIC11 with 256 filters gives 22, 32, 36, 22, 32, 36, 20, 20, 12, 12, 12.

    Raises:
        ValueError: There are fewer filters than joints.
    """
    if filters < skeleton.num_keypoints:
        raise ValueError(f"{filters} filters cannot serve {skeleton.num_keypoints} joints; give at least one each")
    shares = [STREAM_SHARES.get(joint_kind(k), DEFAULT_SHARE) for k in skeleton.keypoints]
    exact = [filters * share / sum(shares) for share in shares]
    streams = [max(1, int(e)) for e in exact]
    while sum(streams) != filters:
        furthest = [e - n for e, n in zip(exact, streams, strict=True)]
        if sum(streams) < filters:
            streams[furthest.index(max(furthest))] += 1
        else:
            streams[furthest.index(min(furthest))] -= 1
    return tuple(streams)


def depthwise_separable(x, filters: int, *, stride: int = 1, name: str):
    """Depthwise 3x3, batch norm, ReLU6, pointwise 1x1, batch norm, ReLU6 (MobileNetV1, fig. 3).

    `name` holds one `{}`, filled with `dw` and `pw`.
    """
    dw, pw = name.format("dw"), name.format("pw")
    x = L.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=dw)(x)
    x = activation(L.BatchNormalization(epsilon=1e-3, name=f"{dw}_bn")(x), "relu6", name=f"{dw}_relu")
    x = L.Conv2D(filters, 1, use_bias=False, name=pw)(x)
    return activation(L.BatchNormalization(epsilon=1e-3, name=f"{pw}_bn")(x), "relu6", name=f"{pw}_relu")


def mobilenet_trunk(image, *, width: float, depth: int = len(BACKBONE)) -> list:
    """MobileNetV1 up to layer `depth`; returns the output of the stem and of every layer."""
    x = L.Conv2D(divisible(32 * width), 3, strides=2, padding="same", use_bias=False, name="conv1")(image)
    x = activation(L.BatchNormalization(epsilon=1e-3, name="conv1_bn")(x), "relu6", name="conv1_relu")
    outputs = [x]
    for i, (filters, stride) in enumerate(BACKBONE[:depth], start=1):
        x = depthwise_separable(x, divisible(filters * width), stride=stride, name=f"conv_{{}}_{i}")
        outputs.append(x)
    return outputs


def _input(input_px: int | Sequence[int]):
    height, width = (input_px, input_px) if isinstance(input_px, int) else input_px
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ValueError(
            f"input_px must be multiples of 32, got {height}x{width}; MobileNet halves the picture 5 times"
        )
    return keras.Input((height, width, 3), name="image")


def _merge(x, skip, how: str, *, name: str):
    if how not in ("concat", "add"):
        raise ValueError(f"{name} must be 'concat' or 'add', got {how!r}")
    return (L.Concatenate if how == "concat" else L.Add)(name=name)([x, skip])


def mobilenet_split(
    *,
    width: float = 1.0,
    input_px: int | Sequence[int] = 224,
    skeleton: Skeleton = LSP14,
    merge14: str = "concat",
    merge28: str = "add",
    shared_depthwise: bool = True,
    name: str = "mobilenet_split",
) -> keras.Model:
    """The final network of the paper: an hourglass on MobileNet whose last layers split by joint.

    Args:
        width: Width multiplier of every layer, as in MobileNet.
        input_px: Side of the square input, or `(height, width)`; multiples of 32.
        skeleton: Keypoints to predict, one heatmap each.
        merge14: How the skip connection at 1/16 joins: `concat` (the paper's 2.3m) or `add`.
        merge28: How the skip connection at 1/8 joins: `add` (the paper's 2.3m) or `concat`.
        shared_depthwise: Whether the streams share the depthwise convolution of layer 13; with
            False each stream has its own copy.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, 3)` in [-1, 1] to a dict with `heatmaps`
        `(batch, height / 4, width / 4, keypoints)`, linear.

    Raises:
        ValueError: `input_px` is no multiple of 32, or a merge is neither `concat` nor `add`.
    """
    image = _input(input_px)
    trunk = mobilenet_trunk(image, width=width, depth=11)
    at28, at14, deepest = trunk[5], trunk[6], trunk[11]

    skip = depthwise_separable(at14, divisible(512 * width), name="skip14_{}")
    x = _merge(deepest, skip, merge14, name="merge14")
    x = L.UpSampling2D(2, interpolation="bilinear", name="up28")(x)
    x = depthwise_separable(x, divisible(256 * width), name="head12_{}")
    skip = depthwise_separable(at28, divisible(256 * width), name="skip28_{}")
    x = _merge(x, skip, merge28, name="merge28")
    x = L.UpSampling2D(2, interpolation="bilinear", name="up56")(x)

    streams = allocate_streams(skeleton, divisible(256 * width))
    if shared_depthwise:
        x = depthwise_separable(x, sum(streams), name="head13_{}")
    else:
        each = [
            depthwise_separable(x, n, name=f"head13_{{}}_{joint}")
            for n, joint in zip(streams, skeleton.keypoints, strict=True)
        ]
        x = L.Concatenate(name="head13")(each)
    return keras.Model(image, split_heatmaps(x, streams), name=name)


def mobilenet_regression(
    *,
    width: float = 1.0,
    input_px: int | Sequence[int] = 224,
    skeleton: Skeleton = FLIC11,
    name: str = "mobilenet_regression",
) -> keras.Model:
    """The baseline: MobileNet whose classifier regresses `x, y` of every joint.

    Returns:
        A model from images `(batch, height, width, 3)` in [-1, 1] to a dict with `coordinates`
        `(batch, keypoints * 2)`: x and y of each joint, as fractions of the input.
    """
    image = _input(input_px)
    x = mobilenet_trunk(image, width=width)[-1]
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, coordinates(x, skeleton.num_keypoints), name=name)


def mobilenet_regression_nogap(
    *,
    width: float = 1.0,
    input_px: int | Sequence[int] = 224,
    skeleton: Skeleton = FLIC11,
    name: str = "mobilenet_regression_nogap",
) -> keras.Model:
    """The baseline without global average pooling, which throws away where things are.

    Returns:
        As `mobilenet_regression`.
    """
    image = _input(input_px)
    x = mobilenet_trunk(image, width=width)[-1]
    x = L.Flatten(name="flatten")(x)
    return keras.Model(image, coordinates(x, skeleton.num_keypoints), name=name)


def mobilenet_split_regression(
    *,
    width: float = 1.0,
    input_px: int | Sequence[int] = 224,
    skeleton: Skeleton = FLIC11,
    name: str = "mobilenet_split_regression",
) -> keras.Model:
    """Regression with layer 13 split: every joint regresses from its own filters.

    Returns:
        As `mobilenet_regression`.
    """
    image = _input(input_px)
    x = mobilenet_trunk(image, width=width, depth=12)[-1]
    streams = allocate_streams(skeleton, divisible(1024 * width))
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, name="conv_dw_13")(x)
    x = activation(L.BatchNormalization(epsilon=1e-3, name="conv_dw_13_bn")(x), "relu6", name="conv_dw_13_relu")
    points = []
    for n, joint in zip(streams, skeleton.keypoints, strict=True):
        stream = L.Conv2D(n, 1, use_bias=False, name=f"conv_pw_13_{joint}")(x)
        stream = L.BatchNormalization(epsilon=1e-3, name=f"conv_pw_13_{joint}_bn")(stream)
        stream = activation(stream, "relu6", name=f"conv_pw_13_{joint}_relu")
        points.append(L.Dense(2, name=f"coordinates_{joint}")(L.Flatten(name=f"flatten_{joint}")(stream)))
    return keras.Model(image, {"coordinates": L.Concatenate(name="coordinates")(points)}, name=name)
