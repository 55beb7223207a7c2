"""Keras networks to SavedModel, batch 1: for TensorFlow itself and for what reads its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.export.frozen import Frozen
from posezoo.export.golden import golden_path, write_golden
from posezoo.export.job import FLOAT32, Job, Made, agree, write_sidecar
from posezoo.files import replacing_together
from posezoo.inference.runners import RunnerError, normalise

if TYPE_CHECKING:
    from posezoo.cards.card import InputSpec

SIGNATURE = "serving_default"


class SavedModelRunner:
    """A SavedModel on TensorFlow, batch 1.

    Args:
        folder: The SavedModel.
        spec: Size and scaling of the network's input.

    Raises:
        RunnerError: The folder holds no SavedModel with the signature `serving_default`, or it takes another input.
    """

    name = "saved_model"

    def __init__(self, folder: Path | str, spec: InputSpec):
        import tensorflow as tf

        try:
            self._model = tf.saved_model.load(str(folder))
            self._run = self._model.signatures[SIGNATURE]
        except (OSError, KeyError) as error:
            raise RunnerError(f"{folder}: no SavedModel with the signature {SIGNATURE} ({error})") from error
        ((self._input, tensor),) = self._run.structured_input_signature[1].items()
        if tuple(tensor.shape) != (1, *spec.shape):
            raise RunnerError(f"{folder}: takes {tuple(tensor.shape)}, the card says {(1, *spec.shape)}")
        self.spec = spec

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import tensorflow as tf

        each = [self._run(**{self._input: tf.constant(image[None])}) for image in normalise(images, self.spec)]
        return {name: np.concatenate([outputs[name].numpy() for outputs in each]) for name in each[0]}


def save(frozen: Frozen, spec: InputSpec, folder: Path) -> None:
    """Write a frozen graph as a SavedModel with one signature, whose input and outputs have the network's names.

    Weights are constants of the graph: nothing of Keras is needed to read it, and nothing is stored twice.
    """
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, *spec.shape), tf.float32, name=spec.name)])
    def serve(image):
        tensors = tf.graph_util.import_graph_def(
            frozen.graph, input_map={frozen.input: image}, return_elements=list(frozen.outputs.values()), name=""
        )
        return {name: tf.identity(tensor) for name, tensor in zip(frozen.outputs, tensors, strict=True)}

    tf.saved_model.save(tf.Module(), str(folder), signatures={SIGNATURE: serve.get_concrete_function()})


def export_saved_model(job: Job, out: Path) -> Made:
    """Write a SavedModel, golden outputs and a sidecar, after it was read back and agreed.

    Raises:
        GateError: It does not agree with the network; nothing is written.
    """
    with replacing_together(out, ours="saved_model.pb") as together:
        folder = together / out.name
        save(job.frozen_for_tensorflow, job.card.input, folder)
        agreement = agree(job, SavedModelRunner(folder, job.card.input), FLOAT32, kernels="tensorflow")
        made = Made((folder, write_golden(job, golden_path(folder))), (agreement,))
        made = write_sidecar(job, made, target="saved_model", packages=("tensorflow", "keras"))
    return made.beside(out)
