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
    squared = squared_errors(target, predicted)
    return ops.sum(squared * labelled, axis=-1) / ops.maximum(ops.sum(labelled, axis=-1), 1.0)


def spatial_cross_entropy(target, predicted, *, sharpness: float = 8.0):
    """Cross-entropy between heatmaps read as distributions over the pixels, averaged over the labelled keypoints.

    The prediction's distribution is the softmax of its map times `sharpness`, the target's is its map
    divided by its sum. Where squared error is content with a low wide bump between two candidates, this asks
    for a choice. Unlabelled keypoints do not count, as in `heatmap_loss`; neither do empty targets.

    Args:
        target: `(batch, height, width, K)`, Gaussians.
        predicted: The same shape, on the scale of the target (peaks near 1).
        sharpness: Inverse temperature of the softmax.

    Returns:
        `(batch,)` in nats.
    """
    entropy, labelled = spatial_entropies(target, predicted, sharpness=sharpness)
    return ops.sum(entropy * labelled, axis=-1) / ops.maximum(ops.sum(labelled, axis=-1), 1.0)


def squared_errors(target, predicted):
    """Squared error of each heatmap, summed over its pixels, `(batch, K)`."""
    return ops.sum(ops.square(target - predicted), axis=(1, 2))


def spatial_entropies(target, predicted, *, sharpness: float = 8.0):
    """Cross-entropy of each heatmap, see `spatial_cross_entropy`, and whether its target is not empty: `(batch, K)`."""
    _, height, width, joints = predicted.shape
    flat = ops.reshape(target, (-1, height * width, joints))
    labelled = ops.cast(ops.max(flat, axis=1) > 1e-3, predicted.dtype)
    share = ops.maximum(flat, 0.0)
    share = share / ops.maximum(ops.sum(share, axis=1, keepdims=True), 1e-6)
    logits = ops.log_softmax(sharpness * ops.reshape(predicted, (-1, height * width, joints)), axis=1)
    return -ops.sum(share * logits, axis=1), labelled


def keypoint_losses(target, predicted, *, spatial: float = 0.0):
    """Squared error, and cross-entropy where asked, of each heatmap: what `sample_weight` `(batch, K)` weights.

    The cross-entropy is multiplied by the target's peak, so that a teacher's faint map asks for no choice.

    Args:
        target: `(batch, height, width, K)`, peaks of at most 1.
        predicted: The same shape.
        spatial: Weight of the cross-entropy.

    Returns:
        `(batch, K)`.
    """
    losses = squared_errors(target, predicted)
    if not spatial:
        return losses
    entropy, _ = spatial_entropies(target, predicted)
    return losses + spatial * ops.max(target, axis=(1, 2)) * entropy


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
