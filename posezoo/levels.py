"""Ends of int8 ranges that lose the least, instead of the largest values that calibration shows.

A tensor's 256 levels lie between two ends. Where a few values reach 100 and nearly all stay below 5, ends at the
extremes leave ten levels to nearly all. Ends further in clip the few and round the many finer; the best ones have the
least mean squared error of both together (Nagel et al. 2021, arXiv:2106.08295, section 3.1).
"""

from __future__ import annotations

import math

import numpy as np

BINS = 1024
#: Shares of each extreme that are tried as ends.
SHARES = np.geomspace(0.08, 1.0, 24)
LEVELS = 255
#: So many calibration pictures tell which ranges lose the least; the extremes are those of all.
PICTURES = 8
#: Of larger tensors so many values of each picture are counted, evenly spread.
COUNTED = 1 << 15


def counts_between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Count how many of one picture's values, other than zero, lie in each of equal parts from `low` to `high`.

    Args:
        values: `(..., channels)`.
        low: Smallest value that any picture has.
        high: Largest value that any picture has.
    """
    if not high - low > np.finfo(np.float32).tiny:
        return np.zeros(BINS)
    step, channels = max(values.size // COUNTED, 1), values.shape[-1]
    # A step that shares a factor with the number of channels would never meet some of them.
    while math.gcd(step, channels) > 1:
        step += 1
    values = values.reshape(-1)[::step]
    # Not np.histogram, which refuses ranges of a few roundings' width.
    part = (values[values != 0].astype(float) - low) * (BINS / (high - low))
    inside = part[(part >= 0) & (part <= BINS)].astype(int)
    return np.bincount(np.minimum(inside, BINS - 1), minlength=BINS).astype(float)


def least_error(counts: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Return the ends, zero between them, of the least squared error.

    Args:
        counts: How many values other than zero, which is a level itself, lie in each of equal parts of low to high.
        low: Smallest value seen.
        high: Largest value seen.
    """
    if not counts.any() or not low < high:
        return low, high
    edges = np.linspace(low, high, len(counts) + 1)
    values = (edges[1:] + edges[:-1]) / 2
    below = min(low, 0.0) * (SHARES if low < 0 else np.ones(1))
    above = max(high, 0.0) * (SHARES if high > 0 else np.ones(1))
    # Clipping below and above do not meet: each end's loss is counted alone, rounding by both.
    under = (counts * np.maximum(below[:, None] - values, 0) ** 2).sum(axis=1)
    over = (counts * np.maximum(values - above[:, None], 0) ** 2).sum(axis=1)
    step = (above - below[:, None]) / LEVELS
    loss = under[:, None] + over + counts.sum() * step**2 / 12
    i, j = np.unravel_index(np.argmin(loss), loss.shape)
    return float(below[i]), float(above[j])
