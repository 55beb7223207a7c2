"""Weights that nobody trained: to show that a network's structure can be exported before it has weights."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from posezoo.cards import Card
from posezoo.inference.runners import normalise

if TYPE_CHECKING:
    import keras


#: Shift of batch norms, in deviations of what they normalise.
ON = 2.0

#: Binary digits of a measured moment.
DIGITS = 8


def seed_weights(network: keras.Model, card: Card) -> None:
    """Give every weight values that depend on nothing but its layer's name, its kind and its shape.

    Kernels are normal with variance one over the inputs of a sum; shifts and means are normal with deviation 0.1;
    factors and variances lie evenly in 0.5 to 1.5: the rule that made the reference outputs of the authors' networks.
    By that rule alone the signal dies out on the way: a deep network answers every picture alike, and a file that
    ignores its input would pass every gate. So batch norms then measure their means and variances on smooth pictures,
    and shift by `ON` more, so that most units stay on: with half of them off, each layer amplifies what rounding did
    before it, and a deep network loses float16 altogether.
    """
    for layer in network.layers:
        if layer.weights:
            layer.set_weights([_seeded(layer.name, variable) for variable in layer.weights])
    _measure_moments(network, normalise(smooth_pictures(card, 4), card.input))


def _measure_moments(network: keras.Model, x: np.ndarray) -> None:
    """Give batch norms the means and variances of what they normalise, the same ones on every machine.

    Sums differ in their last digits with the order of their terms. So the moments are measured in float64, with nothing
    dropped out, and keep as many digits as no such difference reaches.
    """
    import keras
    import tensorflow as tf

    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return

    def exact(layer: keras.Layer) -> keras.Layer:
        config = {**layer.get_config(), "dtype": "float64"}
        if isinstance(layer, keras.layers.Dropout):
            config["rate"] = 0.0
        if isinstance(layer, keras.layers.BatchNormalization):
            config["momentum"] = 0.0
        return type(layer).from_config(config)

    twin = keras.models.clone_model(network, clone_function=exact)
    twin.set_weights(network.get_weights())
    tf.function(twin)(x.astype(np.float64), training=True)  # a graph frees what nothing reads any more
    for norm in norms:
        measured = twin.get_layer(norm.name)
        norm.moving_mean.assign(_short(measured.moving_mean))
        norm.moving_variance.assign(_short(measured.moving_variance))


def _short(variable: keras.Variable) -> np.ndarray:
    """Round to `DIGITS` binary digits."""
    fractions, exponents = np.frexp(np.asarray(variable, np.float64))
    return np.ldexp(np.round(np.ldexp(fractions, DIGITS)), exponents - DIGITS).astype(np.float32)


def _seeded(layer: str, variable: keras.Variable) -> np.ndarray:
    kind, shape = variable.name, tuple(variable.shape)
    rng = np.random.default_rng(zlib.crc32(f"{layer}.{kind}".encode()))
    if kind in ("bias", "beta", "moving_mean"):
        return rng.normal(ON if kind == "beta" else 0.0, 0.1, shape).astype(np.float32)
    if kind in ("gamma", "moving_variance") or len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, _inputs(kind, shape) ** -0.5, shape).astype(np.float32)


def _inputs(kind: str, shape: tuple[int, ...]) -> int:
    """How many products a kernel sums up for one output."""
    if "depthwise" in kind or kind == "kernel" and shape[-2:-1] and len(shape) == 4 and shape[-1] == 1:
        return int(np.prod(shape[:2]))
    return int(np.prod(shape[:-1]))


def smooth_pictures(card: Card, count: int, *, seed: int = 5) -> np.ndarray:
    """Smooth random pictures as a network takes them; white noise would excite nothing in it.

    Returns:
        `(count, height, width, channels)` uint8, or metres for networks that look at depth.
    """
    import cv2

    rng = np.random.default_rng(seed)
    height, width, channels = card.input.shape
    if card.input.depth:
        coarse = rng.uniform(0.05, 0.95, (count, 8, 8, 1)).astype(np.float32) * np.float32(card.input.farthest_m)
    else:
        coarse = rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    large = [cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) for c in coarse]
    return np.stack(large).reshape(count, height, width, channels)
