"""A folder for the Jetson: ONNX files, golden outputs, and the script that builds and checks engines there.

Engines are built on the device for the device. What can be known before is known here: every operation and its form
against the table of the ONNX importer, and the numbers of the very same files on onnxruntime.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.export.foreign import converter
from posezoo.export.frozen import UnsupportedLayerError, blame
from posezoo.export.gates import PrecisionError
from posezoo.export.golden import write_golden
from posezoo.export.job import FLOAT32, Job, Made, sidecar
from posezoo.export.onnx import QDQ_OPSET, model_of, quantise, save_gated
from posezoo.files import replacing_folder, write_json

RESIZE_MODES = (b"nearest", b"linear")
RESIZE_COORDINATES = (b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric", b"align_corners")
NEAREST_MODES = (b"floor", b"ceil", b"round_prefer_floor", b"round_prefer_ceil")
#: TensorRT's limit on the number of values that TopK keeps.
MOST_TOP = 3840


@cache
def operator_table() -> dict[str, Any]:
    """The importer's operators, with the version and the source of the table."""
    return json.loads(Path(__file__).with_name("tensorrt_operators.json").read_text())


class Graph:
    """An ONNX graph with what the checks ask for.

    Args:
        model: The model; shapes are inferred.
    """

    def __init__(self, model: Any):
        import onnx

        self.model = onnx.shape_inference.infer_shapes(model)
        self.constants = {i.name: i for i in self.model.graph.initializer}
        self.constants |= {n.output[0]: n.attribute[0].t for n in self.model.graph.node if n.op_type == "Constant"}
        self.makers = {output: node for node in self.model.graph.node for output in node.output}

    def values(self, name: str) -> np.ndarray | None:
        """Return a constant's values, or None."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def is_weight(self, name: str) -> bool:
        """Whether a tensor is a constant, or one behind QuantizeLinear and DequantizeLinear."""
        maker = self.makers.get(name)
        if maker is not None and maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self.is_weight(maker.input[0])
        return name in self.constants


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _convolution(graph: Graph, node: Any) -> str:
    if not graph.is_weight(node.input[1]):
        return "its weights are no constant"
    rank = len(_attribute(node, "kernel_shape", [0, 0]))
    return "" if rank in (2, 3) else f"it has {rank} dimension(s); only 2 and 3 are taken"


def _clip(graph: Graph, node: Any) -> str:
    return "" if all(name in graph.constants for name in node.input[1:] if name) else "its bounds are no constants"


def _resize(graph: Graph, node: Any) -> str:
    mode, place = (
        _attribute(node, "mode", b"nearest"),
        _attribute(node, "coordinate_transformation_mode", b"half_pixel"),
    )
    if mode not in RESIZE_MODES:
        return f"mode {mode.decode()} is not taken"
    if place not in RESIZE_COORDINATES:
        return f"coordinates {place.decode()} are not taken"
    nearest = _attribute(node, "nearest_mode", b"round_prefer_floor")
    if mode == b"nearest" and nearest not in NEAREST_MODES:
        return f"nearest mode {nearest.decode()} is not taken"
    return "" if any(name in graph.constants for name in node.input[2:] if name) else "its size is no constant"


def _top(graph: Graph, node: Any) -> str:
    k = graph.values(node.input[1])
    if k is None:
        return "its k is no constant"
    return "" if int(k.reshape(-1)[0]) <= MOST_TOP else f"k is {int(k.reshape(-1)[0])}, at most {MOST_TOP} are taken"


def _quantisation(graph: Graph, node: Any) -> str:
    zero = graph.values(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.int8)
    if zero is None or zero.any():
        return "its zero point is not 0"
    if zero.dtype != np.int8:
        return f"it quantises to {zero.dtype}; only int8 is taken"
    integers = node.op_type == "DequantizeLinear" and node.input[0] in graph.constants
    return "it reads integer constants; weights must be float32 before their QuantizeLinear" if integers else ""


def _pool(graph: Graph, node: Any) -> str:
    return "its indices are read" if len(node.output) > 1 and node.output[1] else ""


def _constants_but_first(graph: Graph, node: Any) -> str:
    return "" if all(name in graph.constants for name in node.input[1:] if name) else "its parameters are no constants"


CHECKS: dict[str, Callable[[Graph, Any], str]] = {
    "Conv": _convolution, "ConvTranspose": _convolution, "Clip": _clip, "Resize": _resize, "TopK": _top,
    "QuantizeLinear": _quantisation, "DequantizeLinear": _quantisation, "MaxPool": _pool,
    **dict.fromkeys(("Slice", "Squeeze", "Unsqueeze", "Reshape", "Pad", "CumSum"), _constants_but_first),
}  # fmt: skip


def op_report(model: Any, layers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Hold every operation of an ONNX model against the importer's table and its restrictions.

    Args:
        model: The model.
        layers: Names of the network's layers, for blame.

    Returns:
        `operators`: kind -> how often; `refused`: what TensorRT does not take, by layer, with the reason; `table`:
        where that is known from.
    """
    graph, table = Graph(model), operator_table()
    known, refused = set(table["operators"]), []
    counts: dict[str, int] = {}
    for node in graph.model.graph.node:
        kind = node.op_type
        counts[kind] = counts.get(kind, 0) + 1
        why = CHECKS.get(kind, lambda *_: "")(graph, node) if kind in known else "TensorRT has no such layer"
        if why:
            refused.append({"layer": blame(node.name, layers), "operator": kind, "why": why})
    for value in (*graph.model.graph.input, *graph.model.graph.output, *graph.model.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if any(d.dim_value <= 0 for d in dims):
            refused.append({"layer": blame(value.name, layers), "operator": "tensor", "why": "its shape is not fixed"})
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset > table["opset"]:
        refused.append({"layer": "the whole file", "operator": f"opset {opset}", "why": f"at most {table['opset']}"})
    return {"operators": dict(sorted(counts.items())), "refused": refused, "opset": opset, "table": table["source"]}


def refuse(report: dict[str, Any], *, target: str, way_out: str) -> None:
    """Raise where a report names operations that the target does not take.

    Raises:
        UnsupportedLayerError: Names each layer, the reason, and the way out.
    """
    if report["refused"]:
        told = "; ".join(f"layer '{r['layer']}' ({r['operator']}): {r['why']}" for r in report["refused"][:5])
        more = f"; and {len(report['refused']) - 5} more" if len(report["refused"]) > 5 else ""
        raise UnsupportedLayerError(f"{target} does not take {told}{more}; {way_out}")


def export_tensorrt(job: Job, out: Path) -> Made:
    """Write the folder: float32 ONNX, int8 ONNX where there are calibration pictures, golden outputs, script, report.

    A network for which 8 bits are too few goes without the int8 file, and the notes and report.json say why.

    Raises:
        UnsupportedLayerError: TensorRT, or ONNX before it, has no layer for a layer of the network.
        GateError: A file does not agree with the network; nothing is written.
    """
    spec, layers = job.card.input, tuple(layer.name for layer in job.network.layers)
    way_out = "end the network before it and compute the rest on the host, or write the layer with other operations"
    models = {"model.onnx": (model_of(job, 11), FLOAT32)}
    if len(job.calibration):
        plain = model_of(job, QDQ_OPSET)
        models["model_int8.onnx"] = (quantise(plain, spec, job.calibration, for_tensorrt=True), job.int8)
    reports = {name: op_report(model, layers) for name, (model, _) in models.items()}
    for name, report in reports.items():
        refuse(report, target=f"TensorRT ({name})", way_out=way_out)
    with replacing_folder(out, ours="report.json") as folder:
        found, left_out = [], {}
        for name, (model, limits) in models.items():
            try:
                found.append(save_gated(model, job, folder / name, limits, kernels=f"onnxruntime, {name}"))
            except PrecisionError as error:
                if name == "model.onnx":
                    raise
                left_out[name] = str(error)
                del reports[name]
        agreements = tuple(found)
        write_golden(job, folder / "model.golden.npz")
        for script in ("to_tensorrt.py", "golden.py"):
            shutil.copyfile(converter(script), folder / script)
        command = "python3 to_tensorrt.py --precision fp16"
        details = {"reports": reports, "left out": left_out, "on the device": command}
        inside = Made(tuple(sorted(folder.iterdir())), agreements, details)
        packages = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime")
        write_json(folder / "report.json", sidecar(job, inside, target="tensorrt", packages=packages))
    table = operator_table()
    notes = (
        *(f"no {name}: {why}" for name, why in left_out.items()),
        f"every operation is one that TensorRT {table['tensorrt']} reads, by its table; parsing is the device's",
        f"on the Jetson, in this folder: {command}",
    )
    return Made((out,), agreements, {"reports": reports}, notes)
