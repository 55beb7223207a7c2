"""Losses of pose machines: every stage learns, from labels, from a teacher, or against telling domains apart.

Martínez-González et al., "Efficient convolutional neural networks for depth-based multi-person pose estimation",
arXiv:1912.00711: equations 3 to 5 (stages), section V (distillation), section VI (domain adaptation).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import keras
from keras import layers as L
from keras import ops

from posezoo.codecs.part_affinity import UNKNOWN

BRANCHES = ("heatmaps", "pafs")
PROTOCOLS = ("standard", "stagewise", "stagewise*")


def squared_error(target, predicted):
    """Squared error summed over pixels and channels, without what is `UNKNOWN` in the target.

    Args:
        target: `(batch, height, width, channels)`.
        predicted: The same shape.

    Returns:
        `(batch,)`.
    """
    known = ops.cast(target > UNKNOWN / 2, predicted.dtype)
    return ops.sum(ops.square(target - predicted) * known, axis=(1, 2, 3))


def stage_names(outputs: Mapping) -> list[dict[str, str]]:
    """Return the output names of each stage by branch, first stage first.

    Stages are `heatmaps_s1`, a stacked hourglass's `heatmaps_1`; it has no fields.
    """
    branches = [b for b in BRANCHES if b in outputs]
    found = (re.fullmatch(rf"{branches[0]}(_s?(\d+))", name) for name in outputs)
    endings = sorted((int(stage[2]), stage[1]) for stage in found if stage)
    return [{b: b + ending for b in branches} for _, ending in endings] + [{b: b for b in branches}]


def labels_loss(target: Mapping, predicted: Mapping):
    """Squared error to the labels at every stage and branch, `(batch,)`."""
    total = 0.0
    for stage in stage_names(predicted):
        for branch, name in stage.items():
            total = total + squared_error(target[branch], predicted[name])
    return total


def teacher_loss(taught: Mapping, predicted: Mapping, *, protocol: str, last: int = 1):
    """Squared error to a teacher's maps, both branches, `(batch,)`.

    Args:
        taught: The teacher's outputs.
        predicted: The student's outputs.
        protocol: `standard`: last stage to last stage; `stagewise`: the last stages of both, one to one;
            `stagewise*`: every stage of the student to the teacher's last.
        last: How many stages `stagewise` matches (the paper's tau).

    Raises:
        ValueError: Unknown protocol, or fewer stages than `last`.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol '{protocol}'; expected one of {', '.join(PROTOCOLS)}")
    theirs, ours = stage_names(taught), stage_names(predicted)
    if protocol == "stagewise*":
        pairs = [(theirs[-1], stage) for stage in ours]
    else:
        count = last if protocol == "stagewise" else 1
        if not 1 <= count <= min(len(theirs), len(ours)):
            raise ValueError(
                f"stagewise distillation of the last {count} stages needs as many in both networks; the teacher has "
                f"{len(theirs)}, the student {len(ours)} (are their stages outputs? build with intermediate=True)"
            )
        pairs = list(zip(theirs[-count:], ours[-count:]))
    total = 0.0
    for source, stage in pairs:
        for branch in BRANCHES:
            total = total + squared_error(ops.stop_gradient(taught[source[branch]]), predicted[stage[branch]])
    return total


class StageTrainer(keras.Model):
    """A pose machine that learns at every stage; compile it without a loss.

    Its loss is the paper's: `alpha * labels + (1 - alpha) * teacher + gamma * hints`; without a teacher, the labels.

    Args:
        network: Network with its stages as outputs, or its `NativeTorch` form; with hints, its features too.
        teacher: A network with the same branches; it is not trained.
        protocol: See `teacher_loss`.
        last: See `teacher_loss`.
        alpha: Share of the labels.
        gamma: Weight of the hints: squared error between both networks' output `features`; 0 for none.
        scale: Factor on the loss, such as one over the number of map pixels.

    Raises:
        ValueError: Hints are asked for and a network has no output `features`.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        teacher: keras.Model | None = None,
        protocol: str = "standard",
        last: int = 1,
        alpha: float = 0.5,
        gamma: float = 0.0,
        scale: float = 1.0,
    ):
        super().__init__(name=network.name)
        self.network, self.teacher = network, teacher
        self.protocol, self.last, self.alpha, self.gamma, self.scale = protocol, last, alpha, gamma, scale
        if teacher is not None:
            teacher.trainable = False

    def call(self, images, training=False):
        return self.network(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = ops.mean(labels_loss(y, y_pred))
        if self.teacher is not None:
            taught = self.teacher(x, training=False)
            loss = self.alpha * loss + (1 - self.alpha) * ops.mean(
                teacher_loss(taught, y_pred, protocol=self.protocol, last=self.last)
            )
            if self.gamma:
                missing = [who for who, maps in (("teacher", taught), ("student", y_pred)) if "features" not in maps]
                if missing:
                    raise ValueError(
                        f"hints need the output 'features' of the {' and the '.join(missing)}; "
                        "see posezoo.models.pose_machines.with_features"
                    )
                hints = squared_error(ops.stop_gradient(taught["features"]), y_pred["features"])
                loss = loss + self.gamma * ops.mean(hints)
        return self.scale * loss


def reverse_gradient(x, strength):
    """Return `x` itself; its gradient is multiplied by `-strength` (Ganin & Lempitsky 2015, arXiv:1409.7495)."""
    return ops.stop_gradient((1.0 + strength) * x) - strength * x


def reversal_strength(progress: float, largest: float = 100.0) -> float:
    """The paper's schedule: `2 L / (1 + exp(-10 p)) - L` at progress p of 0 to 1, with L the largest."""
    return 2 * largest / (1 + math.exp(-10 * progress)) - largest


def domain_classifier(features: int, *, width: int = 32, name: str = "domain") -> keras.Model:
    """Average pool, 1x1 convolution, average pool, two dense layers: from features to the logit of "real".

    The paper does not print the widths.
    """
    x = given = keras.Input((None, None, features), name="features")
    x = L.AveragePooling2D(2, name="pool")(x)
    x = L.ReLU(name="conv_act")(L.Conv2D(width, 1, name="conv")(x))
    x = L.GlobalAveragePooling2D(name="pool_all")(x)
    x = L.ReLU(name="hidden_act")(L.Dense(width, name="hidden")(x))
    return keras.Model(given, L.Dense(1, name="logit")(x), name=name)


class AdversarialTrainer(keras.Model):
    """A pose machine whose features also learn not to tell synthetic from real pictures; compile without a loss.

    Targets hold `domain` `(batch, 1)`, 1 for real pictures, whose maps may be `UNKNOWN` throughout. The loss is that
    of the labels plus the classifier's cross-entropy, whose gradient is reversed times `strength` where it enters the
    features.

    Args:
        network: Network with its stages and `features` as outputs, or its `NativeTorch` form.
        classifier: See `domain_classifier`.
        scale: Factor on the labels' loss.
    """

    def __init__(self, network: keras.Model, classifier: keras.Model, *, scale: float = 1.0):
        super().__init__(name=network.name)
        self.network, self.classifier, self.scale = network, classifier, scale
        self.strength = self.add_weight(name="strength", shape=(), initializer="zeros", trainable=False)

    def call(self, images, training=False):
        outputs = self.network(images, training=training)
        seen = reverse_gradient(outputs["features"], ops.convert_to_tensor(self.strength))
        return {**outputs, "domain": self.classifier(seen, training=training)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        labelled = ops.reshape(1.0 - y["domain"], (-1,))
        each = labels_loss(y, {name: value for name, value in y_pred.items() if name not in ("domain", "features")})
        pose = ops.sum(each) / ops.maximum(ops.sum(labelled), 1.0)
        guess = ops.binary_crossentropy(y["domain"], y_pred["domain"], from_logits=True)
        return self.scale * pose + ops.mean(guess)


def confusion(domains, logits) -> float:
    """Share of pictures whose domain the classifier gets wrong, false positives and false negatives.

    Args:
        domains: `(N,)`, 1 for real pictures.
        logits: `(N,)` of the classifier.
    """
    import numpy as np

    return float(np.mean((np.asarray(logits).reshape(-1) > 0) != (np.asarray(domains).reshape(-1) > 0.5)))
