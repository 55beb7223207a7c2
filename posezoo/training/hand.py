"""Losses of the 2.5D hand network: keypoints as one pixel of a distribution, and five auxiliary tasks.

The weights are the paper's (training section); each task can be left out, as in its table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import keras
from keras import ops

from posezoo.data.hand_frames import NO_CLASS

#: Weight of each task: keypoints, auxiliary keypoints, visibility, orientation, pose, segmentation, deep supervision.
WEIGHTS = {"kp": 1.0, "akp": 1.0, "kphv": 20.0, "cho": 20.0, "dhp": 10.0, "seg": 50.0, "ds": 1.0}

#: Task -> the network's outputs that it trains.
OUTPUTS = {
    "kp": ("heatmaps",), "akp": ("heatmaps_aux",), "kphv": ("visibility",), "cho": ("orientation",), "dhp": ("pose",),
    "seg": ("segmentation",), "ds": ("heatmaps_8", "heatmaps_4", "heatmaps_2"),
}  # fmt: skip


#: Task -> the field of `posezoo.models.hand.Heads` that it needs, but for `kp`, which always is.
HEADS = {
    "akp": "auxiliary", "kphv": "visibility", "cho": "orientation", "dhp": "pose", "seg": "segmentation", "ds": "deep",
}  # fmt: skip


def keypoint_loss(points, logits, *, input_height: int, enlarge: bool = False):
    """Cross-entropy between the softmax over a map's pixels and the keypoint's pixel, summed by weight.

    A sum, not a mean: every keypoint that is seen counts alike, whether its picture shows three or sixteen, and the
    paper's weights, 20 and more for tasks of one number each, leave the keypoints most of the total.

    Args:
        points: `(batch, K, 3)`: x, y in input pixels and weight; 0 for hidden keypoints and missing hands.
        logits: `(batch, height, width, K)`, at any resolution.
        input_height: Height of the network's input.
        enlarge: Whether maps of half the input's size are enlarged first, as the network itself would.

    Returns:
        `(batch,)` in nats; 0 where no keypoint counts.
    """
    _, height, width, _ = logits.shape
    enlarge = enlarge and 2 * height == input_height
    times = 2 if enlarge else 1
    stride = input_height / (times * height)
    column = ops.cast(ops.clip(ops.floor((points[..., 0] + 0.5) / stride), 0, times * width - 1), "int32")
    row = ops.cast(ops.clip(ops.floor((points[..., 1] + 0.5) / stride), 0, times * height - 1), "int32")
    weight = points[..., 2]
    if keras.backend.backend() == "torch":
        from posezoo.training.native_losses import pixel_entropy

        return pixel_entropy(logits, row, column, weight, enlarge=enlarge)
    if enlarge:
        logits = ops.image.resize(logits, (2 * height, 2 * width), data_format="channels_last")
    flat = ops.reshape(logits, (-1, times**2 * height * width, logits.shape[-1]))
    at = ops.take_along_axis(flat, (row * times * width + column)[:, None, :], axis=1)[:, 0]
    return ops.sum((ops.logsumexp(flat, axis=1) - at) * weight, axis=-1)


def visibility_loss(seen, logits):
    """Binary cross-entropy, averaged over the keypoints and hands of which it is known, `(batch,)`.

    Args:
        seen: `(batch, K + 2)`: 1, 0, or -1 where nobody knows.
        logits: Alike.
    """
    known = ops.cast(seen >= 0, logits.dtype)
    entropy = ops.binary_crossentropy(ops.maximum(seen, 0.0), logits, from_logits=True)
    return ops.sum(entropy * known, axis=-1) / ops.maximum(ops.sum(known, axis=-1), 1.0)


def class_loss(labels, logits, *, softened: float = 0.0, circular: bool = False):
    """Cross-entropy of each hand's class, averaged over the hands that have one.

    Args:
        labels: `(batch, 2)` class numbers; negative where there is no hand.
        logits: `(batch, 2 * classes)`, the left hand's first.
        softened: Share of each label that goes to its two neighbours.
        circular: Whether the last class is the first one's neighbour, as with directions; else the ends give their
            share to the one neighbour that they have.

    Returns:
        `(batch,)`.
    """
    classes = logits.shape[-1] // 2
    logits = ops.reshape(logits, (-1, 2, classes))
    there = ops.cast(labels >= 0, logits.dtype)
    hot = ops.one_hot(ops.cast(ops.maximum(labels, 0), "int32"), classes, dtype=logits.dtype)
    if softened:
        if circular:
            spread = (ops.roll(hot, 1, axis=-1) + ops.roll(hot, -1, axis=-1)) / 2
        else:
            right = ops.pad(hot[..., :-1], ((0, 0), (0, 0), (1, 0)))
            left = ops.pad(hot[..., 1:], ((0, 0), (0, 0), (0, 1)))
            spread = (right + left) / ops.maximum(ops.sum(right + left, axis=-1, keepdims=True), 1.0)
        hot = (1 - softened) * hot + softened * spread
    entropy = -ops.sum(hot * ops.log_softmax(logits, axis=-1), axis=-1)
    return ops.sum(entropy * there, axis=-1) / ops.maximum(ops.sum(there, axis=-1), 1.0)


def segmentation_loss(labels, logits):
    """Cross-entropy of the class of every pixel that has one, `(batch,)`.

    Args:
        labels: `(batch, height, width)`; `NO_CLASS` where nobody knows.
        logits: `(batch, height, width, classes)`, or smaller.
    """
    if keras.backend.backend() == "torch":
        from posezoo.training.native_losses import class_entropy

        return class_entropy(logits, labels, unknown=NO_CLASS)
    if labels.shape[1:3] != logits.shape[1:3]:
        logits = ops.image.resize(logits, labels.shape[1:3], data_format="channels_last")
    known = labels != NO_CLASS
    entropy = ops.sparse_categorical_crossentropy(ops.where(known, labels, 0), logits, from_logits=True)
    known = ops.cast(known, logits.dtype)
    return ops.sum(entropy * known, axis=(1, 2)) / ops.maximum(ops.sum(known, axis=(1, 2)), 1.0)


def task_losses(targets: Mapping, outputs: Mapping, *, input_height: int) -> dict:
    """Return the loss `(batch,)` of every task whose outputs the network has.

    Args:
        targets: `points` `(batch, K, 3)`, `points_aux`, `visibility`, `orientation` and `pose` `(batch, 2)`,
            `segmentation` `(batch, height, width)`, as far as they are needed.
        outputs: The network's; keypoint maps at 1/2 and segmentation at 1/8 are enlarged here.
        input_height: Height of the network's input.
    """
    makers = {
        "heatmaps": lambda y: keypoint_loss(targets["points"], y, input_height=input_height, enlarge=True),
        "heatmaps_aux": lambda y: keypoint_loss(targets["points_aux"], y, input_height=input_height, enlarge=True),
        "visibility": lambda y: visibility_loss(targets["visibility"], y),
        "orientation": lambda y: class_loss(targets["orientation"], y, softened=0.1, circular=True),
        "pose": lambda y: class_loss(targets["pose"], y),
        "segmentation": lambda y: segmentation_loss(targets["segmentation"], y),
    }

    def deep(y):
        return keypoint_loss(targets["points"], y, input_height=input_height)

    losses = {}
    for task, names in OUTPUTS.items():
        there = [name for name in names if name in outputs]
        if there:
            losses[task] = sum(makers.get(name, deep)(outputs[name]) for name in there)
    return losses


def released_losses(*, input_height: int, weights: Mapping[str, float] = WEIGHTS) -> dict[str, Callable]:
    """Return the loss of each output of the released network, weighted as in training.

    For trainers that take a loss `(targets, outputs)` per output, Keras 2's among them.

    Args:
        input_height: Height of the network's input.
        weights: Weight of each task; the paper's by default.

    Returns:
        `heatmaps`, of targets `points` `(batch, K, 3)`, and `visibility`, `(batch,)` each.
    """
    keypoints = partial(keypoint_loss, input_height=input_height, enlarge=True)
    return {
        "heatmaps": lambda points, logits: weights["kp"] * keypoints(points, logits),
        "visibility": lambda seen, logits: weights["kphv"] * visibility_loss(seen, logits),
    }


class HandTrainer(keras.Model):
    """The hand network with its auxiliary heads; compile it without a loss.

    Args:
        network: See `posezoo.models.hand.hand25d`, or its `NativeTorch` form.
        input_height: Height of its input.
        weights: Weight of each task; the paper's by default.

    Attributes:
        task_weights: A variable for each task, saved with the run's state.
        first_losses: Loss of each task at the start of training, 0 until `posezoo.training.gradnorm` needs it.
    """

    def __init__(self, network: keras.Model, *, input_height: int, weights: Mapping[str, float] = WEIGHTS):
        super().__init__(name=network.name)
        self.network, self.input_height = network, input_height
        self.task_weights = {task: self._scalar(f"weight_{task}", weights[task]) for task in WEIGHTS}
        self.first_losses = {task: self._scalar(f"first_{task}", 0.0) for task in WEIGHTS}
        self.trackers = {task: keras.metrics.Mean(name=task) for task in WEIGHTS}

    def _scalar(self, name: str, value: float):
        return self.add_weight(name=name, initializer=keras.initializers.Constant(value), trainable=False)

    def call(self, images, training=False):
        return self.network(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = 0.0
        for task, each in task_losses(y, y_pred, input_height=self.input_height).items():
            loss = ops.mean(each)
            self.trackers[task].update_state(loss)
            total = total + self.task_weights[task] * loss
        return total
