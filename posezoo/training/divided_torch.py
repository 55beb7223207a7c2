"""Training steps on torch divided between threads: each computes the gradients of its share of the batch.

PyTorch divides single operations between threads. The small ones of mobile networks gain little from that; whole
shares of a batch do not wait for one another (`benchmarks/training_speed.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import keras


def divide_steps(trainer: keras.Model, parts: int) -> keras.Model:
    """Divide a model's training steps between threads, which share the threads that PyTorch has.

    Gradients are the mean of the shares', weighted by their sizes. Batch norms normalise each share by itself, as on
    several devices, and see to their averages in no fixed order: runs repeat to rounding alone.

    Args:
        trainer: Model with Keras's own training step; its `train_step` is replaced.
        parts: How many shares; a batch of fewer examples has one for each.

    Returns:
        The model.
    """
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // parts))
    pool, losses = ThreadPoolExecutor(parts), Lock()

    def train_step(data):
        x, y, weight = _each(keras.ops.convert_to_tensor, keras.utils.unpack_x_y_sample_weight(data))
        total = len(keras.tree.flatten(x)[0])
        count = min(parts, total)
        shares = [tuple(_part(values, i, count) for values in (x, y, weight)) for i in range(count)]
        variables = trainer.trainable_weights

        def gradients(share):
            images, labels, weights = share
            outputs = trainer(images, training=True)
            with losses:  # which also counts in metrics
                loss = trainer.compute_loss(x=images, y=labels, y_pred=outputs, sample_weight=weights, training=True)
            size = len(keras.tree.flatten(images)[0]) / total
            scaled = trainer.optimizer.scale_loss(loss) * size
            slopes = torch.autograd.grad(scaled, [variable.value for variable in variables], allow_unused=True)
            return loss.detach() * size, slopes, _each(lambda output: output.detach(), outputs)

        parted = list(pool.map(gradients, shares))
        mean_loss = sum(loss for loss, _, _ in parted)
        next(metric for metric in trainer.metrics if metric.name == "loss").update_state(mean_loss, sample_weight=total)
        with torch.no_grad():
            trainer.optimizer.apply([_sum(slopes) for slopes in zip(*(part[1] for part in parted))], variables)
        outputs = keras.tree.map_structure(lambda *of_parts: torch.cat(of_parts), *(part[2] for part in parted))
        return trainer.compute_metrics(x, y, outputs, weight)

    trainer.train_step = train_step
    return trainer


def _part(values: Any, index: int, parts: int) -> Any:
    return _each(lambda value: value.tensor_split(parts)[index], values)


def _each(change: Callable, values: Any) -> Any:
    """Change every tensor of a structure; None, which stands for weights that were not given, stays."""
    return keras.tree.map_structure(lambda value: None if value is None else change(value), values)


def _sum(slopes):
    """The sum of what there is; None where no share has any."""
    there = [slope for slope in slopes if slope is not None]
    return sum(there[1:], there[0]) if there else None
