"""What the recipes share that depends on the backend: threads, precision, devices, data, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import keras

from posezoo.data.pipeline import Encode, Examples, keras_dataset, tf_dataset
from posezoo.errors import UserError
from posezoo.training.config import parse
from posezoo.training.run import Run


class BackendError(UserError, RuntimeError):
    """A setting that the backend in use cannot follow."""


def set_threads(threads: int) -> None:
    """Limit compute threads; 0 leaves the framework's choice. OpenCV gets one: the loader has threads of its own."""
    import cv2

    cv2.setNumThreads(1)
    backend = keras.backend.backend()
    if threads and backend == "torch":
        import torch

        torch.set_num_threads(threads)
    elif threads and backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)


def set_precision(precision: str) -> None:
    """Set Keras's mixed policy: `float32`, `bfloat16` or `float16`; on torch the native path casts by itself."""
    if precision != "float32" and keras.backend.backend() != "torch":
        keras.mixed_precision.set_global_policy(f"mixed_{precision}")


def native(network: keras.Model, *, precision: str = "float32") -> keras.Model:
    """On torch, run the network by PyTorch's own kernels; elsewhere return it as it is."""
    if keras.backend.backend() != "torch":
        return network
    from posezoo.training.native_torch import NativeTorch

    return NativeTorch(network, bfloat16=precision == "bfloat16")


def on_devices(trainer: keras.Model, devices: int) -> keras.Model:
    """On torch, divide the steps of a trainer between threads; elsewhere return it as it is."""
    if devices == 1 or keras.backend.backend() != "torch":
        return trainer
    from posezoo.training.divided_torch import divide_steps

    return divide_steps(trainer, devices)


def mirrored_strategy(devices: int):
    """Inside the block networks are mirrored on several GPUs, or on parts of the CPU; on torch see `on_devices`.

    Raises:
        BackendError: Several devices on JAX.
    """
    if devices == 1 or keras.backend.backend() == "torch":
        return nullcontext()
    if keras.backend.backend() != "tensorflow":
        raise BackendError("several devices need the TensorFlow or torch backend; set KERAS_BACKEND or use --devices 1")
    import tensorflow as tf

    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(devices)]).scope()


def dataset(examples: Examples, encode: Encode, batch: int, *, epochs: range, workers: int):
    """Return training batches in the form that suits the backend: tf.data, or `PyDataset`."""
    if keras.backend.backend() == "tensorflow":
        return tf_dataset(examples, encode, batch, epochs=epochs, workers=workers)
    return keras_dataset(examples, encode, batch, epoch=epochs.start, workers=workers)


def run_recipe(config_class, train: Callable, argv=None, *, description: str, shrink: Callable, score: str) -> Run:
    """What a recipe's `main` does: settings, seed, threads, a run that resumes, devices, training.

    Args:
        config_class: A dataclass that derives from `RunConfig`, with `out`.
        train: Function of (settings, run).
        argv: Command line; the process's own by default.
        description: Text of `--help`.
        shrink: Function from settings to those of a `--smoke` run.
        score: What the run's best score is, for the last line.
    """
    cfg = parse(config_class, argv, description=description)
    if cfg.smoke:
        cfg = shrink(cfg)
    keras.utils.set_random_seed(cfg.seed)
    set_threads(cfg.threads)
    run = Run.start_or_resume(cfg, cfg.out, resume=cfg.resume)
    with mirrored_strategy(cfg.devices):
        train(cfg, run)
    print(f"best validation {score} {run.best:.4f}, weights in {run.best_weights}")
    return run


def cosine(peak: float, *, first: int, last: int, warm_up: int) -> Callable[[int], float]:
    """Learning rate over steps `first` to `last`: a linear rise of `warm_up` steps within half a cosine to zero.

    Loshchilov & Hutter 2017, arXiv:1608.03983.
    """

    def learning_rate(step: int) -> float:
        rising = min(1.0, (step - first + 1) / max(warm_up, 1))
        return peak * rising * 0.5 * (1 + math.cos(math.pi * (step - first) / (last - first)))

    return learning_rate


def linear(peak: float, *, first: int, last: int) -> Callable[[int], float]:
    """Learning rate that falls from `peak` at step `first` in a straight line to zero at `last`."""
    return lambda step: peak * max(0.0, 1 - (step - first) / (last - first))


def steps_down(peak: float, *, at: tuple[int, ...], factor: float = 0.1) -> Callable[[int], float]:
    """Learning rate that is multiplied by `factor` at each of the steps `at`."""
    return lambda step: peak * factor ** sum(step >= edge for edge in at)
