"""The heads library: what turns features into named outputs.

Every output is its own tensor, named after its meaning, and its last layer carries that name, so that
int8 files give each output its own scale and its signature name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras import initializers
from keras import layers as L

from posezoo.layers import ConvStyle, SplitConv2D, activation, add, basic_block


def split_heatmaps(x, streams: Sequence[int], *, kernel_size: int = 3) -> dict:
    """One heatmap per stream of channels (split-stream paper, fig. 2b).

    Args:
        x: Features `(batch, height, width, sum(streams))`.
        streams: Channels that belong to each keypoint.
        kernel_size: Side of each stream's convolution.

    Returns:
        `{"heatmaps": (batch, height, width, len(streams))}`, linear.
    """
    return {"heatmaps": SplitConv2D(streams, kernel_size, name="heatmaps", dtype="float32")(x)}


def coordinates(x, num_keypoints: int) -> dict:
    """Regress x and y of every keypoint from a feature vector.

    Args:
        x: Features `(batch, channels)`.
        num_keypoints: Number of keypoints.

    Returns:
        `{"coordinates": (batch, num_keypoints * 2)}`: x, y pairs as fractions of the input's sides.
    """
    return {"coordinates": L.Dense(num_keypoints * 2, name="coordinates", dtype="float32")(x)}


def associative_embedding(x, num_keypoints: int, style: ConvStyle, *, join: str = "concat") -> dict:
    """HigherHRNet's head: heatmaps and tags at the features' size, heatmaps at twice that.

    Args:
        x: Features `(batch, height, width, channels)`.
        num_keypoints: Number of keypoints.
        style: Of the convolutions.
        join: `concat` joins features, low heatmaps and tags before the transposed convolution, as the
            papers do. `sum` adds three transposed convolutions, which is the same function, but leaves
            every tensor its own int8 scale: joined, features of range 6 left the maps 16 levels.

    Returns:
        `heatmaps` `(batch, 2 height, 2 width, K)`, `heatmaps_low` and `tags` `(batch, height, width, K)`.

    Raises:
        ValueError: Unknown `join`.
    """
    filters = x.shape[-1]
    low = L.Conv2D(num_keypoints, 1, name="heatmaps_low", dtype="float32")(x)
    tags = L.Conv2D(num_keypoints, 1, name="tags", dtype="float32")(x)

    def up(y, name):
        return L.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False, name=name)(y)

    if join == "concat":
        y = up(L.Concatenate(name="head_concat")([x, low, tags]), "head_up")
    elif join == "sum":
        parts = [up(x, "head_up_features"), up(low, "head_up_heatmaps"), up(tags, "head_up_tags")]
        y = add(parts, name="head_up")
    else:
        raise ValueError(f"join must be 'concat' or 'sum', got {join!r}")
    y = activation(style.batch_norm(y, name="head_up_bn"), style.act, name="head_up_act")
    for i in range(2):
        y = basic_block(y, style, name=f"refine_block{i}")
    heatmaps = L.Conv2D(num_keypoints, 1, name="heatmaps", dtype="float32")(y)
    return {"heatmaps": heatmaps, "heatmaps_low": low, "tags": tags}


#: How sure of a person an untrained centre map is, in every cell: with 0.5 the many empty cells would drown the first
#: steps of training (Lin et al. 2017, arXiv:1708.02002, section 4.1).
CENTER_PRIOR = 0.1


def centers(x, *, boxes=None) -> dict:
    """Objects as centre points: where they are, how large they are, and where in its cell each centre lies.

    Zhou et al. 2019, arXiv:1904.07850. `posezoo.codecs.CenterCodec` says what the numbers mean.

    Args:
        x: Features `(batch, height, width, channels)` that the centre map is read from.
        boxes: Features of the same height and width for sizes and offsets; `x` by default.

    Returns:
        `centers` `(batch, height, width, 1)`, the logit of an object's centre in each cell; `sizes`
        `(batch, height, width, 2)`, logarithms of width and height; `offsets` `(batch, height, width, 2)`, x and y in
        cells. All linear.
    """
    boxes = x if boxes is None else boxes

    def linear(y, channels: int, name: str, bias: float = 0.0):
        # Small kernels: training starts from the prior, the reference size and the middle of the cell.
        return L.Conv2D(
            channels, 1, kernel_initializer=initializers.RandomNormal(stddev=0.01),
            bias_initializer=initializers.Constant(bias), name=name, dtype="float32",
        )(y)  # fmt: skip

    prior = math.log(CENTER_PRIOR / (1 - CENTER_PRIOR))
    return {
        "centers": linear(x, 1, "centers", prior),
        "sizes": linear(boxes, 2, "sizes"),
        "offsets": linear(boxes, 2, "offsets"),
    }
