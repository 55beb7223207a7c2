"""Losses in `keras.ops`, for every Keras backend."""

from __future__ import annotations

from keras import ops


def heatmap_loss(target, predicted):
    """Squared error of heatmaps: summed over pixels, averaged over the labelled keypoints.

    The sum over pixels keeps gradients far above Adam's epsilon whatever the map size. Maps of
    unlabelled keypoints are negative (`posezoo.data.pipeline.UNLABELLED`) and do not count.

    Args:
        target: `(batch, height, width, K)`.
        predicted: The same shape.

    Returns:
        `(batch,)`.
    """
    labelled = ops.cast(ops.max(target, axis=(1, 2)) >= 0, predicted.dtype)
    squared = ops.sum(ops.square(target - predicted), axis=(1, 2))
    return ops.sum(squared * labelled, axis=-1) / ops.maximum(ops.sum(labelled, axis=-1), 1.0)
