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


def seed_weights(network: keras.Model, card: Card) -> None:
    """Give every weight values that depend on nothing but its layer's name, its kind and its shape.

    Kernels are normal with variance one over the inputs of a sum; shifts and means are normal with deviation 0.1;
    factors and variances lie evenly in 0.5 to 1.5: the rule that made the reference outputs of the authors' networks.
    By that rule alone the signal dies out on the way: a deep network answers every picture alike, and a file that
    ignores its input would pass every gate. So batch norms then measure their means and variances on smooth pictures,
    and shift by `ON` more, so that most units stay on: with half of them off, each layer amplifies what rounding did
    before it, and a deep network loses float16 altogether.
    """
    import keras

    for layer in network.layers:
        if layer.weights:
            layer.set_weights([_seeded(layer.name, variable) for variable in layer.weights])
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    network(normalise(smooth_pictures(card, 4), card.input), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


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
