"""int8 files made in steps: with better ranges, with layers in float32; and what each layer's rounding costs."""

from __future__ import annotations

import contextlib
import csv
import io as io_module
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.export.flatbuffer import layer_names, layer_of, schema, unpacked
from posezoo.export.ranges import with_least_error
from posezoo.inference.runners import normalise

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import InputSpec


@dataclass(frozen=True)
class LayerError:
    """What rounding does in one operator of an int8 file, given inputs that are rounded already.

    Attributes:
        layer: The layer whose result it stores.
        operator: Kind of the operator.
        scale: Value of one level of the result.
        steps: Root mean square of the error in levels; 0.29, that of plain rounding, is as good as can be.
        share: Root mean square of the error as a share of the 255 levels' range.
    """

    layer: str
    operator: str
    scale: float
    steps: float
    share: float


def convert_in_steps(
    converter: Any,
    *,
    names: Sequence[str],
    layers: Sequence[str],
    io: str,
    keep_float: Sequence[str] = (),
    shown: Iterable[np.ndarray] | None = None,
) -> bytes:
    """Convert to int8: calibrate, choose ranges, then round all layers but some.

    Args:
        converter: A `tf.lite.TFLiteConverter` that is ready for int8.
        names: Names of the network's outputs, in the converter's order.
        layers: Names of the network's layers.
        io: Type of input and outputs.
        keep_float: Names of the layers that stay in float32.
        shown: Network inputs on which the ranges of the least squared error are found; None for the extremes.

    Raises:
        ValueError: No operator belongs to a layer, or the input's or an output's own layer is kept and `io` is not
            float32.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.util import modify_model_io_type

    # The converter stops after calibration: what it returns is a float file whose tensors know their extremes.
    converter._experimental_calibrate_only = True
    calibrated = converter.convert()
    owned = _operators_of(calibrated, names, layers)
    if unknown := sorted(set(keep_float) - {layer for own in owned.values() for layer in own}):
        close = sorted({own[0] for own in owned.values()})
        raise ValueError(
            f"keep_float names layers that no operator stores: {', '.join(unknown)}; expected some of "
            f"{', '.join(close)}"
        )
    if shown is not None:
        calibrated = with_least_error(calibrated, shown)
    nodes = [node for node, own in owned.items() if set(own) & set(keep_float)]
    with _silent():
        content = mlir_quantize(calibrated, denylisted_nodes=nodes)
    if io == "float32":
        return content
    content = modify_model_io_type(content, getattr(tf, io), getattr(tf, io))
    graph = unpacked(content).subgraphs[0]
    wanted = getattr(schema().TensorType, io.upper())
    if any(graph.tensors[i].type != wanted for i in (*graph.inputs, *graph.outputs)):
        raise ValueError(
            f"keep_float holds a layer at the input or an output, which io='{io}' rounds; use io='float32'"
        )
    return content


def layer_errors(
    network: keras.Model, spec: InputSpec, calibration: Sequence[np.ndarray], pictures: Iterable[np.ndarray]
) -> list[LayerError]:
    """Measure each operator's own rounding error; the worst come first.

    Ranges end at the extremes here: what stands out is what the file's own ranges, those of the least error, may mend.

    Args:
        network: Keras network on the TensorFlow backend.
        spec: Size and scaling of its input.
        calibration: Pictures `(height, width, channels)` that set the ranges.
        pictures: Pictures on which errors are measured.
    """
    import tensorflow as tf

    from posezoo.export.rewrite import with_plain_resizing
    from posezoo.export.tflite import frozen_converter

    converter, names, _ = frozen_converter(with_plain_resizing(network), spec)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([normalise(p[None], spec)] for p in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    layers = layer_names(network)
    shown = [normalise(p[None], spec) for p in pictures]
    debugger = _debugger(converter, lambda: ([x] for x in shown))
    table = io_module.StringIO()
    with _silent():
        debugger.run()
        debugger.layer_statistics_dump(table)
    owned = _operators_of(debugger.calibrated_model, names, layers)
    rows = []
    for values in csv.DictReader(io_module.StringIO(table.getvalue())):
        tensor, scale = values["tensor_name"], float(values["scale"])
        steps = float(np.sqrt(float(values["mean_squared_error"]))) / scale if scale else 0.0
        # The debugger numbers tensors that it copies.
        layer = layer_of(tensor, layers) or (owned.get(tensor) or owned.get(tensor[:-1]) or [tensor])[0]
        rows.append(LayerError(layer, values["op_name"], scale, steps, steps / 255))
    return sorted(rows, key=lambda row: -row.steps)


def _debugger(converter: Any, inputs: Callable | None = None) -> Any:
    """TensorFlow's quantisation debugger, which can keep operators in float and run both side by side."""
    import tensorflow as tf

    with _silent():
        return tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=inputs)


def _operators_of(calibrated: bytes, names: Sequence[str], layers: Sequence[str]) -> dict[str, list[str]]:
    """Name of an operator's result in a calibrated file -> the layers that became it, the last first."""
    graph = unpacked(calibrated).subgraphs[0]
    ends = dict(zip((int(i) for i in graph.outputs), names, strict=True))
    results = {int(i): graph.tensors[i].name.decode() for operator in graph.operators for i in operator.outputs}
    found = {}
    for i, result in results.items():
        own = [ends[i]] if i in ends else []
        found[result] = own + [layer for part in result.split(";") if (layer := layer_of(part, layers))]
    return {result: own for result, own in found.items() if own}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep TensorFlow's warnings about its own parts to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
