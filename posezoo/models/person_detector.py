"""Person detector: MobileNetV1, a light decoder to stride 8, and people as centre points.

==================  ======  =========  ===========  ======
card                width   input_px   parameters   MMACs
==================  ======  =========  ===========  ======
`person_050_256`    0.5     256        947,525      250.7
`person_050_320`    0.5     320        947,525      391.6
==================  ======  =========  ===========  ======

Backbone: MobileNetV1 (Howard et al. 2017, arXiv:1704.04861), all 13 layers under the names of
`keras.applications.MobileNet`, so that ImageNet weights load by name. Head: Zhou et al. 2019, arXiv:1904.07850,
"Objects as Points". The decoder adds; nothing is concatenated, so that every tensor keeps its own int8 scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers as L

from posezoo.heads import centers
from posezoo.layers import activation
from posezoo.models.mobilenet_split import _input, depthwise_separable, mobilenet_trunk

#: Input pixels per cell of the maps.
STRIDE = 8


def pointwise(x, filters: int, *, name: str):
    """Convolution 1x1, batch norm, ReLU6: layers `name`, `name_bn`, `name_relu`."""
    x = L.Conv2D(filters, 1, use_bias=False, name=name)(x)
    return activation(L.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x), "relu6", name=f"{name}_relu")


def person_detector(
    *,
    width: float = 0.5,
    input_px: int | Sequence[int] = 256,
    channels: int = 96,
    name: str = "person_detector",
) -> keras.Model:
    """Build the detector.

    Args:
        width: Width multiplier of MobileNet's layers.
        input_px: Side of the square input, or `(height, width)`; multiples of 32.
        channels: Of the decoder and the head's features.
        name: Name of the model.

    Returns:
        A model from images `(batch, height, width, 3)` in [-1, 1] to a dict with `centers`
        `(batch, height / 8, width / 8, 1)`, `sizes` and `offsets` `(batch, height / 8, width / 8, 2)`; see
        `posezoo.heads.centers`.

    Raises:
        ValueError: `input_px` is no multiple of 32.
    """
    image = _input(input_px)
    trunk = mobilenet_trunk(image, width=width)
    x = pointwise(trunk[13], channels, name="lateral32")
    for stride, features in ((16, trunk[11]), (8, trunk[5])):
        x = L.UpSampling2D(2, interpolation="bilinear", name=f"up{stride}")(x)
        skip = pointwise(features, channels, name=f"lateral{stride}")
        x = L.Add(name=f"add{stride}")([x, skip])
        x = depthwise_separable(x, channels, name=f"fuse{stride}_{{}}")
    where = depthwise_separable(x, channels, name="head_centers_{}")
    extent = depthwise_separable(x, channels, name="head_boxes_{}")
    return keras.Model(image, centers(where, boxes=extent), name=name)
