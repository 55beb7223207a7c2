"""The heads library: what turns features into named outputs.

Every output is its own tensor, named after its meaning, and its last layer carries that name, so that
int8 files give each output its own scale and its signature name.
"""

from __future__ import annotations

from collections.abc import Sequence

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
