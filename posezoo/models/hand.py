"""hand25d: two hands' keypoints in a depth camera's image, in 41 thousand parameters.

Encoder tiers of grouped convolutions, dilated ladders at 1/8, a channel-wise decoder; auxiliary heads that only
exist in training. The paper (Chidananda et al. 2019, arXiv:1909.05897) prints the structure and the totals, 41K
parameters and under 35 MFLOPs, but few widths: those here are derived from the totals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
from keras import layers as L

from posezoo.layers import ChannelShuffle, ConvStyle, GroupedConv2D, activation
from posezoo.skeletons import HAND16, HAND_AUXILIARY, HAND_ORIENTATIONS, HAND_POSES, Skeleton

#: TensorFlow's padding, so that no runtime needs an operator for it.
STYLE = ConvStyle(act="relu", symmetric=False)

SEGMENTS = ("background", "left_hand", "right_hand")
BACKBONES = ("ladder", "mobilenet_v2", "densenet121")


def conv_block(x, *, name: str, shuffle: bool = True):
    """131-ConvBlock of tier 2: 1x1, 3x3, 1x1 with 4 groups, 16 -> 32 -> 32 -> 16."""
    x = STYLE.conv_bn(x, 32, 1, groups=4, name=f"{name}_expand")
    if shuffle:
        x = ChannelShuffle(4, name=f"{name}_shuffle")(x)
    x = STYLE.conv_bn(x, 32, 3, groups=4, name=f"{name}_conv")
    return STYLE.conv_bn(x, 16, 1, groups=4, name=f"{name}_reduce")


def dilated_ladder(x, *, name: str, middle: int = 56, groups: int = 8, shuffle: bool = True):
    """Dilated-Ladder of tier 3: four bottlenecks with residuals, dilation 1, 2, 3, 4."""
    filters = x.shape[-1]
    for dilation in (1, 2, 3, 4):
        step = f"{name}_step{dilation}"
        y = STYLE.conv_bn(x, middle, 1, groups=groups, name=f"{step}_expand")
        if shuffle:
            y = ChannelShuffle(groups, name=f"{step}_shuffle")(y)
        y = STYLE.conv_bn(y, middle, 3, groups=groups, dilation=dilation, name=f"{step}_conv")
        y = STYLE.conv_bn(y, filters, 1, groups=groups, name=f"{step}_reduce", act=False)
        x = activation(L.Add(name=f"{step}_add")([x, y]), "relu", name=f"{step}_act")
    return x


def ladder_trunk(image, *, shuffle: bool = True) -> list:
    """The paper's encoder: the two units of tier 3, each `(batch, height / 8, width / 8, 32)`."""
    x = STYLE.conv_bn(image, 16, 3, stride=2, name="tier1")
    x = L.MaxPooling2D(3, 2, padding="same", name="tier1_pool")(x)
    first = conv_block(x, name="tier2_unit1", shuffle=shuffle)
    second = conv_block(first, name="tier2_unit2", shuffle=shuffle)
    x = L.Concatenate(name="tier2")([first, second])
    x = L.MaxPooling2D(2, name="tier2_pool")(x)
    first = dilated_ladder(x, name="tier3_unit1", shuffle=shuffle)
    return [first, dilated_ladder(first, name="tier3_unit2", shuffle=shuffle)]


def large_trunk(image, backbone: str) -> list:
    """The paper's table 2: a classifier's trunk, brought to the same 64 channels at 1/8.

    The paper does not say where it is cut; here its last features, at 1/32, are projected and enlarged fourfold.
    """
    rgb = L.Concatenate(name="rgb")([image, image, image])
    make = {"mobilenet_v2": keras.applications.MobileNetV2, "densenet121": keras.applications.DenseNet121}[backbone]
    trunk = make(include_top=False, weights=None, input_tensor=rgb)
    x = STYLE.conv_bn(trunk.output, 64, 1, name="project")
    x = L.UpSampling2D(4, interpolation="bilinear", name="project_up")(x)
    return [x]


def channelwise_decoder(units: list, keypoints: int, *, enlarge: bool = True) -> tuple:
    """Every keypoint's map from its own features: x2 and 3x3, x2 and 3x3, x2.

    The features of the units are dealt out evenly, so that every keypoint sees some of each: a convolution of the
    joined units in `keypoints` groups, written as a sum of one per unit. (Joined one after the other, the first
    half of the keypoints would see the first unit alone; the paper reports keypoints that do not train.)

    Returns:
        Features at 1/4 and at 1/2, and the maps at full size (at 1/2 without `enlarge`), `keypoints` channels each.
    """
    parts = []
    for i, unit in enumerate(units, start=1):
        up = L.UpSampling2D(2, interpolation="bilinear", name=f"up1_unit{i}")(unit)
        conv = GroupedConv2D(
            keypoints, 3, padding="same", groups=keypoints, use_bias=False, name=f"up1_unit{i}_conv"
        )  # fmt: skip
        parts.append(conv(up))
    x = L.Add(name="up1")(parts) if len(parts) > 1 else parts[0]
    quarter = activation(STYLE.batch_norm(x, name="up1_bn"), "relu", name="up1_act")
    x = L.UpSampling2D(2, interpolation="bilinear", name="up2")(quarter)
    # Starts as a blur: with a kernel that starts negative, a map at 1/4 turns upside down and its activation is wasted.
    blur = keras.initializers.Constant(1 / 9)
    x = L.DepthwiseConv2D(3, padding="same", use_bias=False, depthwise_initializer=blur, name="up2_conv")(x)
    half = activation(STYLE.batch_norm(x, name="up2_bn"), "relu", name="up2_act")
    return quarter, half, _enlarged(half, 2 if enlarge else 1, name="heatmaps")


def _enlarged(x, times: int, *, name: str):
    """The last layer of a head of maps: `times` as large, in float32 whatever the precision."""
    if times == 1:
        return L.Activation("linear", name=name, dtype="float32")(x)
    return L.UpSampling2D(times, interpolation="bilinear", name=name, dtype="float32")(x)


@dataclass(frozen=True)
class Heads:
    """Which auxiliary heads are trained. The names are those of the paper's table 1.

    Attributes:
        auxiliary: Maps of more keypoints, by a decoder of their own (akp).
        visibility: Whether each keypoint and each hand is seen (kphv).
        orientation: 8 directions of each hand (cho).
        pose: 9 discrete poses of each hand (dhp).
        segmentation: Left hand, right hand or neither at every pixel (seg).
        deep: Maps at 1/8, 1/4 and 1/2 (ds).
    """

    auxiliary: bool = True
    visibility: bool = True
    orientation: bool = True
    pose: bool = True
    segmentation: bool = True
    deep: bool = True


def hand25d(
    *,
    input_px: int | Sequence[int] = (168, 224),
    skeleton: Skeleton = HAND16,
    backbone: str = "ladder",
    heads: Heads | None = None,
    visibility: bool = False,
    auxiliary: Sequence[str] = HAND_AUXILIARY,
    enlarge: bool = True,
    shuffle: bool = True,
    name: str = "hand25d",
) -> keras.Model:
    """The network that is deployed, or with `heads` the one that is trained.

    Args:
        input_px: Side of the square input, or `(height, width)`; multiples of 8 (32 for other backbones).
        skeleton: Keypoints of both hands, one map each; their number must divide 32 for the paper's encoder.
        backbone: `ladder` (the paper's), or `mobilenet_v2` or `densenet121`, which it compares with.
        heads: Auxiliary heads to train with. Layers that both networks have are named alike.
        visibility: Deploy the visibility head too: where it sees no hand, nothing needs decoding.
        auxiliary: Names of one hand's auxiliary keypoints.
        enlarge: Whether the maps are brought to the input's size, by layers without parameters. Without, the
            keypoints' stay at 1/2 and the segmentation at 1/8: the codec reads the former as well, and the losses
            enlarge by themselves, faster.
        shuffle: Whether channels change groups before each 3x3 convolution of the paper's encoder, which costs neither
            parameters nor multiplications. Without, every group of channels is a network of its own up to the maps,
            and each map sees one or two of them; in our trainings the error was a third larger.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, 1)` in [-0.5, 0.5] to a dict of logits: `heatmaps`
        `(batch, height, width, K)`; with the heads, `heatmaps_aux` `(…, 2 * len(auxiliary))`, `visibility`
        `(batch, K + 2)` with left and right hand last, `orientation` `(batch, 2 * 8)`, `pose` `(batch, 2 * 9)`,
        `segmentation` `(batch, height, width, 3)`, and `heatmaps_8`, `heatmaps_4`, `heatmaps_2`.

    Raises:
        ValueError: An input size, backbone or number of keypoints that does not fit.
    """
    height, width = (input_px, input_px) if isinstance(input_px, int) else input_px
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone {backbone!r}; expected one of {', '.join(BACKBONES)}")
    stride = 8 if backbone == "ladder" else 32
    if height % stride or width % stride:
        raise ValueError(f"input_px must be multiples of {stride} for backbone {backbone}, got {height}x{width}")
    keypoints = skeleton.num_keypoints
    image = keras.Input((height, width, 1), name="image")
    units = ladder_trunk(image, shuffle=shuffle) if backbone == "ladder" else large_trunk(image, backbone)
    if units[0].shape[-1] % keypoints:
        raise ValueError(
            f"skeleton '{skeleton.name}' has {keypoints} keypoints; they share {units[0].shape[-1]} features and must "
            "divide them"
        )
    quarter, half, heatmaps = channelwise_decoder(units, keypoints, enlarge=enlarge)
    outputs = {"heatmaps": heatmaps}
    wanted = heads or Heads(False, visibility, False, False, False, False)
    if any(vars(wanted).values()):
        outputs |= _heads(wanted, image, units, quarter, half, keypoints, 2 * len(auxiliary), enlarge)
    return keras.Model(image, outputs, name=name)


def _heads(wanted: Heads, image, units, quarter, half, keypoints: int, auxiliary: int, enlarge: bool) -> dict:
    outputs = {}
    encoded = _joined(units, name="tier3")
    if wanted.auxiliary:
        # Not the decoder's enlarged units joined: int8 would give them one scale, and take the decoder out of int8.
        x = encoded
        for i in (1, 2):
            x = L.UpSampling2D(2, interpolation="bilinear", name=f"aux_up{i}")(x)
            x = STYLE.conv_bn(x, auxiliary, 3, name=f"aux_conv{i}")
        outputs["heatmaps_aux"] = _enlarged(x, 2 if enlarge else 1, name="heatmaps_aux")
    if wanted.visibility or wanted.orientation or wanted.pose:
        # Each unit by itself: joined before, they would share one scale in int8, and the decoder with them.
        pooled = _joined(
            [L.GlobalAveragePooling2D(name=f"pool_unit{i}")(x) for i, x in enumerate(units, 1)], name="pool"
        )
        sizes = {"visibility": keypoints + 2, "orientation": 2 * HAND_ORIENTATIONS, "pose": 2 * len(HAND_POSES)}
        outputs |= {
            head: L.Dense(size, name=head, dtype="float32")(pooled)
            for head, size in sizes.items()
            if getattr(wanted, head)
        }
    if wanted.segmentation:
        outputs["segmentation"] = bilateral_segmentation(image, encoded, enlarge=enlarge)
    if wanted.deep:
        outputs["heatmaps_8"] = GroupedConv2D(keypoints, 1, groups=keypoints, name="heatmaps_8", dtype="float32")(
            encoded
        )
        # A factor per map that must not start negative: it would ask for the opposite of what the map itself is asked
        # for, until its activation is never above zero again.
        for level, x in (("heatmaps_4", quarter), ("heatmaps_2", half)):
            outputs[level] = L.DepthwiseConv2D(1, depthwise_initializer="ones", name=level, dtype="float32")(x)
    return outputs


def _joined(parts: list, *, name: str):
    return L.Concatenate(name=name)(parts) if len(parts) > 1 else parts[0]


def bilateral_segmentation(image, context, *, classes: int = len(SEGMENTS), enlarge: bool = True):
    """BiSeNet's head (Yu et al. 2018, arXiv:1808.00897): a spatial path from the image, fused with the encoder's.

    Args:
        image: `(batch, height, width, 1)`.
        context: `(batch, height / 8, width / 8, 64)`.
        classes: Number of classes.
        enlarge: Whether the logits are brought from 1/8 to the image's size.

    Returns:
        Logits `(batch, height, width, classes)`.
    """
    x = image
    for i, filters in enumerate((16, 32, 64), start=1):
        x = STYLE.conv_bn(x, filters, 3, stride=2, name=f"spatial{i}")
    x = L.Concatenate(name="fuse_concat")([x, context])
    x = STYLE.conv_bn(x, 64, 1, name="fuse")
    attention = L.GlobalAveragePooling2D(keepdims=True, name="fuse_pool")(x)
    attention = activation(L.Conv2D(64, 1, name="fuse_squeeze")(attention), "relu", name="fuse_squeeze_act")
    attention = L.Activation("sigmoid", name="fuse_gate")(L.Conv2D(64, 1, name="fuse_excite")(attention))
    x = L.Add(name="fuse_add")([x, L.Multiply(name="fuse_multiply")([x, attention])])
    x = L.Conv2D(classes, 1, name="segmentation_logits")(x)
    return _enlarged(x, 8 if enlarge else 1, name="segmentation")
