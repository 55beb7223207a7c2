"""GradNorm: weights of tasks by which all of them train at a like pace (Chen et al. 2018, arXiv:1711.02257)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops

from posezoo.training.backend import BackendError
from posezoo.training.hand import HandTrainer, task_losses

#: A weight never falls below this share of what it was at first.
LEAST = 1e-2


class GradNorm(keras.callbacks.Callback):
    """Moves the weights of a trainer's tasks every few steps.

    The gradient that each weighted loss has at the last layer that all tasks share should be as large as the others',
    larger where a task lags: task i lags by how much of its first loss is left, over the tasks' mean. The weights are
    taken relative to those that training began with, and their mean stays what it was.

    Args:
        trainer: The trainer.
        shared: Weights of the last shared layer.
        batches: Function from a step's number to a batch of inputs and targets.
        weights: Weight of each task that training begins with; tasks of weight 0 are left alone.
        alpha: How strongly tasks that lag are pulled; the paper's 1.5.
        rate: Step of the relative weights.
        every: How many training steps lie between two moves.

    Raises:
        BackendError: Keras runs on JAX.
    """

    def __init__(
        self,
        trainer: HandTrainer,
        shared: list,
        batches: Callable[[int], tuple[np.ndarray, Mapping]],
        *,
        weights: Mapping[str, float],
        alpha: float = 1.5,
        rate: float = 0.025,
        every: int = 20,
    ):
        super().__init__()
        if keras.backend.backend() not in ("torch", "tensorflow"):
            raise BackendError("GradNorm needs the gradient of each task; use KERAS_BACKEND=torch or tensorflow")
        self.trainer, self.shared, self.batches = trainer, shared, batches
        self.alpha, self.rate, self.every, self.step = alpha, rate, every, 0
        self.begun_with = dict(weights)

    def on_train_batch_begin(self, batch, logs=None):
        if self.step % self.every == 0:
            self.move(*self.batches(self.step // self.every))
        self.step += 1

    def move(self, images, targets: Mapping) -> dict[str, float]:
        """Move the weights once; return the relative ones."""
        losses, norms = task_gradients(self.trainer, self.shared, images, targets)
        tasks = [task for task in losses if self.begun_with[task] > 0]
        for task in tasks:
            if float(ops.convert_to_numpy(self.trainer.first_losses[task])) == 0:
                self.trainer.first_losses[task].assign(losses[task])
        first = np.array([float(ops.convert_to_numpy(self.trainer.first_losses[t])) for t in tasks])
        begun = np.array([self.begun_with[t] for t in tasks])
        relative = np.array([float(ops.convert_to_numpy(self.trainer.task_weights[t])) for t in tasks]) / begun
        slopes = begun * np.array([norms[t] for t in tasks])
        relative = balanced(
            relative, slopes, np.array([losses[t] for t in tasks]) / np.maximum(first, 1e-9), alpha=self.alpha,
            rate=self.rate,
        )  # fmt: skip
        for task, weight in zip(tasks, relative * begun, strict=True):
            self.trainer.task_weights[task].assign(weight)
        return dict(zip(tasks, relative.tolist(), strict=True))


def balanced(
    weights: np.ndarray, slopes: np.ndarray, left: np.ndarray, *, alpha: float, rate: float
) -> np.ndarray:  # fmt: skip
    """Return weights after one step of gradient descent on the paper's equation 2, whose targets are constants.

    Args:
        weights: Relative weights `(T,)`.
        slopes: Norms of the gradients of the losses at weight 1, `(T,)`.
        left: What is left of each task's first loss, `(T,)`.
        alpha: See `GradNorm`.
        rate: See `GradNorm`. Steps are in units of the mean norm, so that they do not depend on the losses' scale.
    """
    norms = weights * slopes
    pace = left / left.mean()
    target = norms.mean() * pace**alpha
    step = np.sign(norms - target) * slopes / max(slopes.mean(), 1e-12)
    moved = np.maximum(weights - rate * step, LEAST)
    return moved * weights.sum() / moved.sum()


def task_gradients(
    trainer: HandTrainer, shared: list, images, targets: Mapping
) -> tuple[dict[str, float], dict[str, float]]:  # fmt: skip
    """Return the loss of every task, and the norm of its gradient at some weights."""
    if keras.backend.backend() == "torch":
        return _with_torch(trainer, shared, images, targets)
    import tensorflow as tf

    values = [variable.value for variable in shared]
    with tf.GradientTape(persistent=True) as tape:
        outputs = trainer(ops.convert_to_tensor(images), training=True)
        means = {t: ops.mean(v) for t, v in task_losses(targets, outputs, input_height=trainer.input_height).items()}
    norms = {task: float(tf.linalg.global_norm(tape.gradient(loss, values))) for task, loss in means.items()}
    return {task: float(loss) for task, loss in means.items()}, norms


def _with_torch(trainer: HandTrainer, shared: list, images, targets: Mapping):
    import torch

    outputs = trainer(ops.convert_to_tensor(images), training=True)
    targets = {name: ops.convert_to_tensor(value) for name, value in targets.items()}
    means = {t: v.mean() for t, v in task_losses(targets, outputs, input_height=trainer.input_height).items()}
    values = [variable.value for variable in shared]
    norms = {}
    for task, loss in means.items():
        slopes = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
        norms[task] = float(torch.stack([s.float().norm() for s in slopes if s is not None]).norm())
    return {task: float(loss.detach()) for task, loss in means.items()}, norms
