"""Ranges of a TFLite file's int8 tensors that lose the least (`posezoo.levels`), before it is rounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from posezoo.export.flatbuffer import constants_of, packed, unpacked
from posezoo.levels import BINS, counts_between, least_error

#: Ends of a range: the extremes that calibration shows, or those of the least squared error.
RANGES = ("minmax", "mse")


def with_least_error(calibrated: bytes, inputs: Iterable[np.ndarray]) -> bytes:
    """Move the ends of every inner tensor's range to where rounding and clipping lose the least.

    What goes in and comes out keeps its extremes: the tops of a heatmap's few peaks are what is looked for.

    Args:
        calibrated: A float TFLite file whose tensors hold the extremes that calibration saw.
        inputs: Network inputs `(1, height, width, channels)` on which values are counted.
    """
    model = unpacked(calibrated)
    graph = model.subgraphs[0]
    tensors = graph.tensors
    kept = {*constants_of(model), *graph.inputs, *graph.outputs}
    ranged = {
        i: (float(t.quantization.min[0]), float(t.quantization.max[0]))
        for i, t in enumerate(tensors)
        if i not in kept and t.quantization is not None and _one(t.quantization.min)
    }
    for i, counts in _counted(calibrated, ranged, inputs).items():
        low, high = least_error(counts, *ranged[i])
        tensors[i].quantization.min, tensors[i].quantization.max = [low], [high]
    return packed(model)


def _one(ends: Sequence[float] | None) -> bool:
    return ends is not None and len(ends) == 1


def _counted(
    calibrated: bytes, ranged: dict[int, tuple[float, float]], inputs: Iterable[np.ndarray]
) -> dict[int, np.ndarray]:
    """Tensor -> how many of its values other than zero lie in each of equal parts of its range."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    runner = Interpreter(
        model_content=calibrated,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    runner.allocate_tensors()
    entry = runner.get_input_details()[0]["index"]
    counts = {i: np.zeros(BINS) for i in ranged}
    for x in inputs:
        runner.set_tensor(entry, np.asarray(x, np.float32))
        runner.invoke()
        for i, (low, high) in ranged.items():
            counts[i] += counts_between(runner.get_tensor(i), low, high)
    return counts
