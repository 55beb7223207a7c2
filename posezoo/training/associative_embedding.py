"""Losses of associative embedding (Newell et al. 2017, arXiv:1611.05424) as in HigherHRNet and EfficientHRNet."""

from __future__ import annotations

from functools import partial

from keras import ops

from posezoo.codecs.heatmap import UNLABELLED

#: Smallest target of a pixel that belongs to a Gaussian: three standard deviations from its centre.
FOREGROUND = 0.011


def masked_heatmap_loss(target, predicted, *, adaptive: float = 0.0):
    """Squared error, averaged over keypoints and pixels; pixels that are left out count as no error.

    Args:
        target: `(batch, height, width, K)`; `UNLABELLED` where nothing is known.
        predicted: The same shape.
        adaptive: Exponent of weight-adaptive regression (Luo et al. 2021, arXiv:2012.15175; 0.01 there);
            0 for none. Pixels of Gaussians weigh by what they lack of 1, others by what they hold: nearly all
            pixels are background, and on easy ones nothing is left to learn.

    Returns:
        `(batch,)`.
    """
    known = ops.cast(target > UNLABELLED / 2, predicted.dtype)
    weight = known
    if adaptive:
        foreground = ops.power(ops.clip(target, 1e-6, 1.0), adaptive) * ops.cast(target > FOREGROUND, predicted.dtype)
        held = ops.abs(ops.stop_gradient(predicted))
        lacking = ops.abs(1.0 - ops.stop_gradient(predicted))
        weight = known * (foreground * lacking + (1.0 - foreground) * held)
    return ops.mean(ops.square(target - predicted) * weight, axis=(1, 2, 3))


def tag_loss(target, predicted, *, pull: float = 1e-3, push: float = 1e-3):
    """Pull the tags of one person together, push those of different people apart.

    With `m_i` the mean tag of person i: pull is the mean over people of the mean of `(tag - m_i)^2`;
    push is half the mean over ordered pairs of people of `exp(-(m_i - m_j)^2)`, none with fewer than two.

    Args:
        target: `(batch, people, K, 3)`: column, row, and 1 where the keypoint is labelled.
        predicted: `(batch, height, width, K)`.
        pull: Weight of the first term.
        push: Weight of the second.

    Returns:
        `(batch,)`.
    """
    _, height, width, joints = predicted.shape
    people = target.shape[1]
    labelled = ops.cast(target[..., 2] > 0, predicted.dtype)
    place = ops.cast(target[..., 1] * width + target[..., 0], "int32")
    # One column per keypoint: tags at the labelled places, (batch, people, K).
    flat = ops.reshape(predicted, (-1, height * width, joints))
    tags = ops.take_along_axis(flat, place, axis=1)
    each = ops.sum(labelled, axis=-1)
    present = ops.cast(each > 0, predicted.dtype)
    mean = ops.sum(tags * labelled, axis=-1) / ops.maximum(each, 1.0)
    count = ops.sum(present, axis=-1)

    spread = ops.sum(ops.square(tags - mean[..., None]) * labelled, axis=-1) / ops.maximum(each, 1.0)
    pulled = ops.sum(spread * present, axis=-1) / ops.maximum(count, 1.0)

    difference = mean[:, :, None] - mean[:, None, :]
    pairs = present[:, :, None] * present[:, None, :] * (1.0 - ops.eye(people, dtype=predicted.dtype))
    near = ops.sum(ops.exp(-ops.square(difference)) * pairs, axis=(1, 2))
    pushed = 0.5 * near / ops.maximum(count * (count - 1.0), 1.0)
    return pull * pulled + push * pushed


#: All terms times this: only their ratios matter to Adam, but its epsilon must stay far below the gradients.
SCALE = 1000.0


def losses(*, low_weight: float = 1.0, tag_weight: float = 1e-3, adaptive: float = 0.0) -> dict:
    """The loss of each network output, for `compile`, each times `SCALE`.

    Args:
        low_weight: Weight of the heatmaps at the lower resolution.
        tag_weight: Weight of pull and push.
        adaptive: See `masked_heatmap_loss`.
    """
    heatmap_loss = partial(masked_heatmap_loss, adaptive=adaptive)
    return {
        "heatmaps": lambda target, predicted: SCALE * heatmap_loss(target, predicted),
        "heatmaps_low": lambda target, predicted: SCALE * low_weight * heatmap_loss(target, predicted),
        "tags": lambda target, predicted: SCALE * tag_loss(target, predicted, pull=tag_weight, push=tag_weight),
    }
