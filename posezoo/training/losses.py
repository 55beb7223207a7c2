"""Losses in `keras.ops`, for every Keras backend."""

from __future__ import annotations

from keras import ops

from posezoo.codecs import coordinate, heatmap


def heatmap_loss(target, predicted):
    """Squared error of heatmaps: summed over pixels, averaged over the labelled keypoints.

    The sum over pixels keeps gradients far above Adam's epsilon whatever the map size. Maps of
    unlabelled keypoints are negative (`posezoo.codecs.heatmap.UNLABELLED`) and do not count.

    Args:
        target: `(batch, height, width, K)`.
        predicted: The same shape.

    Returns:
        `(batch,)`.
    """
    labelled = ops.cast(ops.max(target, axis=(1, 2)) > heatmap.UNLABELLED / 2, predicted.dtype)
    squared = ops.sum(ops.square(target - predicted), axis=(1, 2))
    return ops.sum(squared * labelled, axis=-1) / ops.maximum(ops.sum(labelled, axis=-1), 1.0)


def coordinate_loss(target, predicted):
    """Squared error of regressed coordinates, averaged over the labelled ones.

    Args:
        target: `(batch, K * 2)` fractions; unlabelled ones are `posezoo.codecs.coordinate.UNLABELLED`.
        predicted: The same shape.

    Returns:
        `(batch,)`.
    """
    labelled = ops.cast(target > coordinate.UNLABELLED / 2, predicted.dtype)
    return ops.sum(ops.square(target - predicted) * labelled, axis=-1) / ops.maximum(ops.sum(labelled, axis=-1), 1.0)


#: The loss of each network output.
LOSSES = {"heatmaps": heatmap_loss, "coordinates": coordinate_loss}
