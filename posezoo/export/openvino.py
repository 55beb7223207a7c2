"""Keras networks to OpenVINO's IR: today's, or version 10, which everything from 2021 on reads and Myriad X needs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.export.foreign import converter, environment, run_json
from posezoo.export.frozen import UnsupportedLayerError, blame
from posezoo.export.gates import GateError
from posezoo.export.golden import write_golden
from posezoo.export.job import Job, Limits, Made, agree, write_sidecar
from posezoo.export.onnx import int8_model_of, model_of
from posezoo.files import replacing_together
from posezoo.inference.runners import OpenVinoRunner

#: The newest set of operations that OpenVINO 2021.3 knows.
NEWEST_FOR_V10 = 7
#: The set of operations in which 2021.3 has an operation whose newest form it does not know.
OLD_FORMS = {"MaxPool": 1, "AvgPool": 1, "Pad": 1, "Interpolate": 4, "Softmax": 1, "Gather": 1, "GroupNormalization": 0}
PACKAGES = ("tensorflow", "keras", "tf2onnx", "openvino")


def layer_names(job: Job) -> tuple[str, ...]:
    """Names of a network's layers, for blame."""
    return tuple(layer.name for layer in job.network.layers)


def require_openvino() -> Any:
    """Return the module `openvino`.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise ImportError("OpenVINO files need openvino: pip install 'posezoo[openvino]'") from None
    return openvino


def to_ir(onnx_model: Any, layers: tuple[str, ...] = ()) -> Any:
    """Return OpenVINO's model of an ONNX model, its graph simplified.

    Args:
        onnx_model: The model.
        layers: Names of the network's layers, for blame.

    Raises:
        UnsupportedLayerError: Names the layers whose operations OpenVINO has no rule for.
    """
    import onnx

    openvino = require_openvino()
    from openvino.frontend import OpConversionFailure

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(onnx_model, path)
        try:
            return openvino.convert_model(path)
        except OpConversionFailure as error:
            kinds = set(re.findall(r"(\w+)-\d+", str(error)))
            nodes = [node for node in onnx_model.graph.node if node.op_type in kinds]
            told = ", ".join(dict.fromkeys(f"layer '{blame(n.name, layers)}' ({n.op_type})" for n in nodes))
            raise UnsupportedLayerError(
                f"OpenVINO has no operation for {told or str(error).splitlines()[-1]}; write the layer with other "
                "operations, or end the network before it"
            ) from error


def downgrade(model: Any, layers: tuple[str, ...]) -> None:
    """Replace operations in newer forms than OpenVINO 2021.3 knows by their old forms.

    Raises:
        UnsupportedLayerError: Names the layer whose operation has no old form.
    """
    unknown = []
    for node in model.get_ordered_ops():
        kind, opset = node.get_type_info().name, _opset(node)
        if opset <= OLD_FORMS.get(kind, NEWEST_FOR_V10):
            continue
        old = OLD.get(kind, lambda _: None)(node)
        if old is None:
            unknown.append(f"layer '{blame(node.get_friendly_name(), layers)}' ({kind} of opset {opset})")
            continue
        old.set_friendly_name(node.get_friendly_name())
        names = node.output(0).get_names()
        node.output(0).replace(old.output(0))
        old.output(0).set_names(names)
    if unknown:
        raise UnsupportedLayerError(
            f"IR version 10 has no form of {', '.join(unknown)}; write the layer with older operations, or export "
            "the current IR (--to openvino)"
        )


def _opset(node: Any) -> int:
    return int(re.sub(r"\D", "", node.get_type_info().version_id or "") or 0)


def _create(opset: int, kind: str, node: Any, inputs: list, attributes: dict) -> Any:
    from openvino.utils.node_factory import NodeFactory

    return NodeFactory(f"opset{opset}").create(kind, inputs, attributes)


def _sources(node: Any) -> list:
    return [port.get_source_output() for port in node.inputs()]


def _old_pool(node: Any) -> Any:
    """A pooling without dilation, whose second output nobody reads."""
    a = node.get_attributes()
    if max(a.get("dilations") or [1]) > 1 or any(o.get_target_inputs() for o in node.outputs()[1:]):
        return None
    keys = ("strides", "pads_begin", "pads_end", "kernel", "rounding_type", "auto_pad", "exclude-pad", "exclude_pad")
    return _create(1, node.get_type_info().name, node, _sources(node), {k: a[k] for k in keys if k in a})


def _old_pad(node: Any) -> Any:
    if min(np.min(port.get_node().get_data()) for port in _sources(node)[1:3]) < 0:
        return None
    return _create(1, "Pad", node, _sources(node), {"pad_mode": node.get_attributes()["pad_mode"]})


def _old_interpolate(node: Any) -> Any:
    """Enlarging by sizes, with the scales that they are of the input."""
    from openvino import opset1

    before, after = node.get_input_shape(0), node.get_output_shape(0)
    axes = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] or [2, 3]
    attributes = node.get_attributes()
    if attributes["mode"] not in ("nearest", "linear", "linear_onnx", "cubic"):
        return None
    constants = (
        np.array([after[i] for i in axes], np.int64),
        np.array([after[i] / before[i] for i in axes], np.float32),
        np.array(axes, np.int64),
    )
    inputs = [_sources(node)[0], *(opset1.constant(value).output(0) for value in constants)]
    return _create(4, "Interpolate", node, inputs, {**attributes, "shape_calculation_mode": "sizes"})


def _old_softmax(node: Any) -> Any:
    axis = node.get_attributes()["axis"]
    return _create(1, "Softmax", node, _sources(node), {"axis": axis % len(node.get_output_shape(0))})


def _old_gather(node: Any) -> Any:
    if node.get_attributes().get("batch_dims"):
        return None
    return _create(1, "Gather", node, _sources(node), {})


OLD: dict[str, Callable[[Any], Any]] = {
    "MaxPool": _old_pool, "AvgPool": _old_pool, "Pad": _old_pad, "Interpolate": _old_interpolate,
    "Softmax": _old_softmax, "Gather": _old_gather,
}  # fmt: skip


def check_opsets(xml: Path, layers: tuple[str, ...] = ()) -> dict[str, int]:
    """Check that an IR is version 10 and holds only operations that OpenVINO 2021.3 knows.

    Returns:
        Kind of operation -> how often.

    Raises:
        GateError: What is too new, and in which layer.
    """
    text = xml.read_text()
    version = re.search(r'<net [^>]*version="(\d+)"', text)
    if not version or version[1] != "10":
        raise GateError(f"{xml.name} is IR version {version and version[1]}, expected 10")
    found: dict[str, int] = {}
    for name, kind, opset in re.findall(r'<layer id="\d+" name="([^"]*)" type="(\w+)" version="opset(\d+)"', text):
        found[kind] = found.get(kind, 0) + 1
        if int(opset) > NEWEST_FOR_V10:
            raise GateError(f"layer '{blame(name, layers)}' is {kind} of opset {opset}; 2021.3 knows {NEWEST_FOR_V10}")
    if not found:
        raise GateError(f"{xml.name} holds no layer with an opset")
    return dict(sorted(found.items()))


def export_openvino(job: Job, out: Path) -> Made:
    """Write today's IR with float16 weights, after OpenVINO ran it in float32 and agreed.

    Returns:
        The `.xml`, its `.bin` and the sidecar.

    Raises:
        UnsupportedLayerError: A layer without an operation.
        GateError: The file does not agree with the network; nothing is written.
    """
    model = to_ir(model_of(job, 17), layer_names(job))

    def save(xml: Path) -> None:
        require_openvino().save_model(model, xml, compress_to_fp16=True)

    return _written(job, out, save, target="openvino, current IR, float16 weights")


def export_openvino_int8(job: Job, out: Path) -> Made:
    """Write today's IR with int8 weights and activations, from the ONNX model quantised on the calibration pictures.

    Raises:
        ValueError: No calibration pictures.
        UnsupportedLayerError, GateError: As `export_openvino`.
    """
    model = to_ir(int8_model_of(job), layer_names(job))

    def save(xml: Path) -> None:
        require_openvino().save_model(model, xml, compress_to_fp16=True)

    return _written(job, out, save, target="openvino, current IR, int8", limits=job.int8)


def export_openvino_v10(job: Job, out: Path) -> Made:
    """Write an IR of version 10 with float16 weights, which OpenVINO 2021.3 and everything since reads.

    The reader gate, OpenVINO 2022.3.2, runs the file too where its environment is made.

    Raises:
        UnsupportedLayerError, GateError: As `export_openvino`.
    """
    openvino = require_openvino()
    layers = layer_names(job)
    model = to_ir(model_of(job, 11), layers)
    downgrade(model, layers)
    compressed(model)

    def save(xml: Path) -> None:
        openvino.serialize(model, xml, xml.with_suffix(".bin"), version="IR_V10")
        check_opsets(xml, layers)

    return _written(job, out, save, target="openvino, IR version 10, float16 weights", reader="openvino_2022")


def compressed(model: Any) -> None:
    """Store weights as float16, computed with as float32."""
    from openvino._offline_transformations import compress_model_transformation

    compress_model_transformation(model)
    model.validate_nodes_and_infer_types()


def _written(
    job: Job,
    out: Path,
    save: Callable[[Path], None],
    *,
    target: str,
    limits: Limits | None = None,
    reader: str | None = None,
) -> Made:
    """Save into a folder of its own, gate, and only then move both files and the sidecar, all or nothing."""
    xml = out.with_suffix(".xml")
    with replacing_together(xml) as folder:
        inside = folder / xml.name
        save(inside)
        agreement = agree(job, OpenVinoRunner(inside, job.card.input), limits or job.float16, kernels="openvino")
        details: dict[str, Any] = {"reader": read_by(inside, job, reader)} if reader else {}
        notes = tuple(f"reader gate: {_told(answer)}" for answer in details.values())
        made = Made((inside, inside.with_suffix(".bin")), (agreement,), details, notes)
        made = write_sidecar(job, made, target=target, packages=PACKAGES)
    return made.beside(xml)


def _told(answer: dict[str, Any]) -> str:
    """A reader's answer in one line."""
    if "not run" in answer:
        return f"not run: {answer['not run']}"
    worst = min(row["psnr_db"] for row in answer["outputs"])
    return f"OpenVINO {answer['openvino'].split('-')[0]} reads it and agrees ({worst:.1f} dB)"


def read_by(xml: Path, job: Job, name: str) -> dict[str, Any]:
    """Let an old OpenVINO in its own environment read a file and compare it with golden outputs.

    Returns:
        Its version and what it measured; why it did not run where its environment is not made.

    Raises:
        GateError: It refuses the file, or an output does not agree.
    """
    from posezoo.export.foreign import MissingToolError

    try:
        python = environment(name)
    except MissingToolError as error:
        return {"not run": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        golden = write_golden(job, Path(folder) / "reader.golden.npz")
        command = [str(python), str(converter("read_ir.py")), str(xml), str(golden), "--precision", "float16"]
        answer = run_json(command, wrong=GateError, told=f"reading with the environment '{name}'")
    if "refused" in answer:
        raise GateError(f"OpenVINO of the environment '{name}' refuses the file: {answer['refused']}")
    wrong = [f"output '{row['output']}' {row['wrong']}" for row in answer["rows"] if row["wrong"]]
    if wrong:
        raise GateError(f"OpenVINO {answer['openvino']}: {'; '.join(wrong)}")
    return {"openvino": answer["openvino"], "outputs": answer["rows"]}
