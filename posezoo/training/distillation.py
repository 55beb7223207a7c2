"""Learn from labels and from a larger network at once (Hinton et al. 2015, arXiv:1503.02531, on heatmaps)."""

from __future__ import annotations

import keras
from keras import ops

from posezoo.training.losses import heatmap_loss


class Distiller(keras.Model):
    """A student that also learns its teacher's heatmaps; compile it with the label loss only.

    The total is `(1 - share) * label loss + share * teacher loss`; give `compile` the first factor as
    `loss_weights`. Joints that are not labelled are learnt from the teacher alone.

    Args:
        student: Network that is trained, or its `NativeTorch` form.
        teacher: Network with the same outputs; it is not trained.
        share: Weight of the teacher's maps.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model, *, share: float = 0.5):
        super().__init__(name=student.name)
        self.student, self.teacher, self.share = student, teacher, share
        teacher.trainable = False

    def call(self, images, training=False):
        outputs = self.student(images, training=training)
        if training:
            taught = ops.stop_gradient(self.teacher(images, training=False)["heatmaps"])
            # Above the marker of unlabelled maps, so that every joint counts.
            taught = ops.maximum(taught, 0.0)
            self.add_loss(self.share * ops.mean(heatmap_loss(taught, outputs["heatmaps"])))
        return outputs
