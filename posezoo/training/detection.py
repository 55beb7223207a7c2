"""Losses of centre-point detectors (Zhou et al. 2019, arXiv:1904.07850), each weighted cell by cell.

They return one value per cell, which Keras multiplies by the batch's weights (`posezoo.data.detection.detection_batch`)
and averages.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import ops


def center_loss(target, predicted):
    """Penalty-reduced focal loss of a centre map: of some thousand cells two or three hold a person.

    A squared error is smallest with low, wide bumps where the place is uncertain; this one asks for a choice, and
    leaves cells alone that are decided, so that logits stay within a range that int8 resolves.

    Args:
        target: `(batch, height, width, 1)`, 1 in cells that hold a centre, less around them.
        predicted: Logits of the same shape.

    Returns:
        `(batch, height, width)`.
    """
    found = ops.sigmoid(predicted)
    here = ops.cast(ops.equal(target, 1.0), predicted.dtype)
    missed = -here * ops.square(1 - found) * ops.log_sigmoid(predicted)
    false = -(1 - here) * (1 - target) ** 4 * ops.square(found) * ops.log_sigmoid(-predicted)
    return ops.sum(missed + false, axis=-1)


def box_loss(target, predicted):
    """Absolute error of sizes (logarithms) or offsets (cells), summed over both axes.

    Args:
        target: `(batch, height, width, 2)`.
        predicted: The same shape.

    Returns:
        `(batch, height, width)`.
    """
    return ops.sum(ops.abs(target - predicted), axis=-1)


def detection_losses() -> dict[str, Callable]:
    """Return the loss of each output of `posezoo.heads.centers`."""
    return {"centers": center_loss, "sizes": box_loss, "offsets": box_loss}
