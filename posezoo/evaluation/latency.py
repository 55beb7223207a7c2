"""Latency of several networks in one interleaved run, network and decode apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one network.

    Attributes:
        network_ms: Median of a run of the network alone, from its input tensor to its output tensors.
        decode_ms: Median of the decoding of its outputs to keypoints; None where nothing is decoded.
        spread_ms: Distance between the quartiles of the network's times.
        runs: Number of measured runs.
    """

    network_ms: float
    decode_ms: float | None
    spread_ms: float
    runs: int


@dataclass(frozen=True)
class Contender:
    """What is timed: `network()` runs once and returns outputs, `decode(outputs)` makes keypoints of them."""

    network: Callable[[], object]
    decode: Callable[[Any], object] | None = None


def measure(
    contenders: Mapping[str, Contender],
    *,
    runs: int = 100,
    warm_up: int = 10,
    progress: Callable[[range], Iterable[int]] | None = None,
) -> dict[str, Timing]:
    """Time networks in turns, so that a noisy moment of the machine touches all of them alike.

    Args:
        contenders: What to time, by name.
        runs: Measured rounds; every round runs each contender once.
        warm_up: Rounds before that.
        progress: Wraps the rounds' iterator, for a progress bar.

    Returns:
        Medians by name.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    decodes: dict[str, list[float]] = {name: [] for name in contenders}
    rounds = range(runs + warm_up)
    for i in progress(rounds) if progress else rounds:
        for name, contender in contenders.items():
            start = time.perf_counter()
            outputs = contender.network()
            middle = time.perf_counter()
            if contender.decode:
                contender.decode(outputs)
            end = time.perf_counter()
            if i >= warm_up:
                times[name].append(middle - start)
                decodes[name].append(end - middle)

    def timing(name):
        low, median, high = np.percentile(times[name], (25, 50, 75)) * 1e3
        decode = float(np.median(decodes[name]) * 1e3) if contenders[name].decode else None
        return Timing(float(median), decode, float(high - low), runs)

    return {name: timing(name) for name in contenders}
