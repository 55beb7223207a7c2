"""The heads library: what turns features into named outputs.

Every output is its own tensor, named after its meaning, and its last layer carries that name, so that
int8 files give each output its own scale and its signature name.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras import layers as L

from posezoo.layers import SplitConv2D


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
