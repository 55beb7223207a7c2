"""Keras networks to ONNX: channels first, batch 1, float32 or int8 between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.export.frozen import Frozen, UnsupportedLayerError, blame, freeze
from posezoo.export.gates import GateError
from posezoo.export.golden import golden_path, write_golden
from posezoo.export.job import FLOAT32, Agreement, Job, Limits, Made, agree, facts, write_sidecar
from posezoo.export.simplify import simplified
from posezoo.files import replacing, replacing_together
from posezoo.inference.runners import OnnxRunner, normalise

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import InputSpec

#: Opsets of float files: 11 is what importers since 2020 read, 17 what current tools like best.
OPSETS = (11, 17)
#: The first opset with a scale per channel; TensorRT 8.2 reads it.
QDQ_OPSET = 13
#: Calibration pictures that are used, evenly chosen: every tensor of the network is measured on each, which takes long.
CALIBRATION = 100
#: Kinds of operation that were moved into the graph by no layer's wish, with the way out.
WAY_OUT = (
    "write the layer with operations that ONNX has, or end the network before it and compute the rest after the file"
)


def to_onnx(network: keras.Model, spec: InputSpec, *, opset: int = 11) -> Any:
    """Convert a network.

    Args:
        network: Keras network on the TensorFlow backend, with a dict of outputs.
        spec: Size of its input.
        opset: Version of the operations.

    Returns:
        A `ModelProto` with input `(1, channels, height, width)`; maps have channels first too, and the outputs have
        the network's names.

    Raises:
        ImportError: tf2onnx or onnx is not installed.
        UnsupportedLayerError: Names the layer and the operation that ONNX lacks.
    """
    return from_frozen(freeze(simplified(network), spec), spec, opset=opset, name=network.name)


def model_of(job: Job, opset: int) -> Any:
    """Return a job's network as an ONNX model, converted once per opset."""
    import onnx

    key = ("onnx", opset)
    if key not in job.kept:
        model = from_frozen(job.frozen, job.card.input, opset=opset, name=job.network.name)
        job.kept[key] = model.SerializeToString()
    return onnx.load_from_string(job.kept[key])


def int8_model_of(job: Job) -> Any:
    """Return a job's network in the compact int8 form, quantised once.

    Raises:
        ValueError: No calibration pictures.
    """
    import onnx

    if "int8" not in job.kept:
        model = quantise(model_of(job, QDQ_OPSET), job.card.input, job.calibration)
        job.kept["int8"] = model.SerializeToString()
    return onnx.load_from_string(job.kept["int8"])


def from_frozen(frozen: Frozen, spec: InputSpec, *, opset: int, name: str) -> Any:
    """Convert a frozen graph; see `to_onnx`."""
    converter = tf2onnx()
    borders = [frozen.outputs[name] for name, rank in frozen.ranks.items() if rank == 4]
    with _quiet():
        model, _ = converter.convert.from_graph_def(
            frozen.graph, name=name, input_names=[frozen.input], output_names=list(frozen.outputs.values()),
            opset=opset, inputs_as_nchw=[frozen.input], outputs_as_nchw=borders,
        )  # fmt: skip
    _refuse_unknown(model, frozen.layers, opset)
    _rename(model, {frozen.input: spec.name} | {tensor: name for name, tensor in frozen.outputs.items()})
    _repeat_pixels(model)
    return _without_idle_reshapes(model)


def tf2onnx() -> Any:
    """Return the module `tf2onnx`.

    Raises:
        ImportError: It or onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        import tf2onnx
    except ImportError as error:
        raise ImportError(f"ONNX files need tf2onnx and onnx ({error}): pip install 'posezoo[export]'") from None
    return tf2onnx


@contextmanager
def _quiet(*others: str) -> Iterator[None]:
    """Keep the logs of tf2onnx and of TensorFlow below it to themselves: what matters is raised."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "tf2onnx"]
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tensorflow", *names, *others)]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    # Most of tf2onnx is imported when it is first used: its other loggers hand what they have to this one.
    top, silent = loggers[0], logging.NullHandler()
    passed_on, top.propagate = top.propagate, False
    top.addHandler(silent)
    try:
        yield
    finally:
        top.removeHandler(silent)
        top.propagate = passed_on
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _refuse_unknown(model: Any, layers: Sequence[str], opset: int) -> None:
    """Raise for nodes that are no operations of any opset, with the layers that they come from."""
    import onnx

    unknown = {}
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            unknown[blame(node.name, tuple(layers))] = node.op_type
    if unknown:
        told = ", ".join(f"layer '{layer}' ({kind})" for layer, kind in unknown.items())
        raise UnsupportedLayerError(f"ONNX opset {opset} has no operation for {told}; {WAY_OUT}")


def refuse_newer(model: Any, job: Job) -> None:
    """Raise for operations that ONNX has, but not yet in the model's opset, with the layers that they come from.

    OpenVINO reads them nevertheless, ONNX's checker and other importers do not.

    Raises:
        UnsupportedLayerError: Names the layers, the opset and the way out.
    """
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    newer = [node for node in model.graph.node if node.domain in ("", "ai.onnx") and not _has(node.op_type, opset)]
    if not newer:
        return
    told = ", ".join(dict.fromkeys(f"layer '{blame(n.name, job.frozen.layers)}' ({n.op_type})" for n in newer))
    later = opset < OPSETS[-1] and all(_has(node.op_type, OPSETS[-1]) for node in newer)
    way_out = f"export a later one (--to onnx_opset{OPSETS[-1]}), or {WAY_OUT}" if later else WAY_OUT
    raise UnsupportedLayerError(f"ONNX opset {opset} has no operation for {told}; {way_out}")


def _has(kind: str, opset: int) -> bool:
    """Whether an opset has an operation."""
    import onnx

    try:
        onnx.defs.get_schema(kind, opset)
    except onnx.defs.SchemaError:
        return False
    return True


def _rename(model: Any, names: dict[str, str]) -> None:
    """Rename tensors; others that bear a new name get a longer one."""
    taken = {name: f"{name}__inside" for name in names.values() if name not in names}
    change = {**taken, **names}
    graph = model.graph
    for node in graph.node:
        node.input[:] = [change.get(name, name) for name in node.input]
        node.output[:] = [change.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = change.get(value.name, value.name)


def _repeat_pixels(model: Any) -> None:
    """Write enlarging to the nearest pixel by whole factors the way that every importer reads it.

    TensorFlow's pixel centres have a mode of their own, which later opsets gave up; by whole factors it is the same as
    counting from the corner.
    """
    for node in model.graph.node:
        attributes = {a.name: a for a in node.attribute}
        if node.op_type != "Resize" or attributes["coordinate_transformation_mode"].s != b"tf_half_pixel_for_nn":
            continue
        scales = _constant(model, node.input[2])
        if scales is not None and scales.size and (scales == np.rint(scales)).all():
            attributes["coordinate_transformation_mode"].s = b"asymmetric"
            attributes["nearest_mode"].s = b"floor"


def _constant(model: Any, name: str) -> np.ndarray | None:
    """Return an initializer's values, or None."""
    from onnx import numpy_helper

    return next((numpy_helper.to_array(i) for i in model.graph.initializer if i.name == name), None)


def _without_idle_reshapes(model: Any) -> Any:
    """Drop reshapes to the shape that a tensor has: what is left of transposing one channel."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    results = {value.name for value in model.graph.output}
    for node in list(model.graph.node):
        source, result = node.input[0] if node.input else "", node.output[0]
        idle = node.op_type == "Reshape" and result not in results and shapes.get(source) == shapes.get(result)
        if idle and shapes.get(source) and 0 not in shapes[source]:
            for reader in model.graph.node:
                reader.input[:] = [source if name == result else name for name in reader.input]
            model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for initializer in list(model.graph.initializer):
        if initializer.name not in used:
            model.graph.initializer.remove(initializer)
    return model


def quantise(model: Any, spec: InputSpec, calibration: Sequence[np.ndarray], *, for_tensorrt: bool = False) -> Any:
    """Return an int8 form of a float ONNX model: QuantizeLinear and DequantizeLinear around every operation.

    Weights have a scale per channel. Ranges are the smallest and largest values on the calibration pictures.

    Args:
        model: Of opset 13 or later.
        spec: Scaling of the input.
        calibration: Pictures `(height, width, channels)`.
        for_tensorrt: The form that TensorRT reads: signed activations with zero points 0, a pair of its own for every
            reader, weights in float32 before their pair, biases in float32. Otherwise activations are unsigned and use
            all 256 levels, and weights and biases are stored as integers, which makes a quarter of the file. Of signed
            activations onnxruntime would compute convolutions beside sums in float32 on x86, at twice the time.

    Raises:
        ValueError: No pictures.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not len(calibration):
        raise ValueError("calibration holds no picture; give at least one, better a hundred")

    class Pictures(CalibrationDataReader):
        """The pictures as the file takes them, one by one."""

        def __init__(self):
            chosen = np.linspace(0, len(calibration) - 1, min(CALIBRATION, len(calibration))).round().astype(int)
            self.rest = (calibration[i] for i in chosen)

        def get_next(self):
            picture = next(self.rest, None)
            return picture if picture is None else {spec.name: channels_first(normalise(picture[None], spec))}

    options = {"ActivationSymmetric": for_tensorrt, "WeightSymmetric": True}
    activations = QuantType.QInt8 if for_tensorrt else QuantType.QUInt8
    if for_tensorrt:
        options |= {"AddQDQPairToWeight": True, "DedicatedQDQPair": True, "QuantizeBias": False}
    with tempfile.TemporaryDirectory() as folder:
        float_file, plain, int8_file = (Path(folder) / f"{name}.onnx" for name in ("float", "plain", "int8"))
        onnx.save(model, float_file)
        quant_pre_process(str(float_file), str(plain), skip_symbolic_shape=True)
        with _quiet("root"):
            quantize_static(
                str(plain), str(int8_file), Pictures(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=activations, weight_type=QuantType.QInt8, extra_options=options,
            )  # fmt: skip
        return onnx.load(int8_file)


def channels_first(images: np.ndarray) -> np.ndarray:
    """`(batch, height, width, channels)` to `(batch, channels, height, width)`."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def check_structure(model: Any, job: Job) -> None:
    """Check a model by ONNX's own rules, its borders' names and its shapes.

    Raises:
        UnsupportedLayerError: An operation is newer than the model's opset.
        GateError: What is wrong.
    """
    import onnx

    refuse_newer(model, job)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"ONNX's checker refuses the file: {error}") from error
    height, width, channels = job.card.input.shape
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.output)
    }
    expected = {job.card.input.name: (1, channels, height, width)}
    for name, value in job.reference.items():
        sides = value.shape[1:]
        expected[name] = (1, sides[2], sides[0], sides[1]) if len(sides) == 3 else (1, *sides)
    if shapes != expected:
        raise GateError(f"the file's borders are {shapes}, expected {expected}")


def export_onnx(job: Job, out: Path, *, opset: int = 11) -> Made:
    """Convert, check, run on onnxruntime, and only then write a file, golden outputs and its JSON sidecar.

    Raises:
        UnsupportedLayerError: ONNX lacks an operation of a layer.
        GateError: The file does not agree with the network; nothing is written.
    """
    return _written(job, out, model_of(job, opset), FLOAT32, target=f"onnx, opset {opset}")


def export_onnx_int8(job: Job, out: Path) -> Made:
    """Convert, quantise, check, run on onnxruntime, and only then write as `export_onnx` does.

    Raises:
        ValueError: No calibration pictures.
        UnsupportedLayerError: ONNX lacks an operation of a layer.
        GateError: The file does not agree with the network; nothing is written.
    """
    return _written(job, out, int8_model_of(job), job.int8, target=f"onnx int8 (QDQ), opset {QDQ_OPSET}")


def save_gated(model: Any, job: Job, out: Path, limits: Limits, *, kernels: str = "onnxruntime") -> Agreement:
    """Save a model, read it back under its temporary name, and give the file its own when it agrees.

    Raises:
        UnsupportedLayerError: An operation is newer than the model's opset; nothing is written.
        GateError: It does not agree with the network; nothing is written.
    """
    import onnx

    entry = model.metadata_props.add()
    entry.key, entry.value = "posezoo", json.dumps(facts(job.card))
    model.producer_name = "posezoo"
    with replacing(out) as path:
        onnx.save(model, path)
        check_structure(onnx.load(path), job)
        return agree(job, OnnxRunner(path, job.card.input), limits, kernels=kernels)


def _written(job: Job, out: Path, model: Any, limits: Limits, *, target: str) -> Made:
    """Save a gated model, golden outputs and the sidecar, all or nothing."""
    packages = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime")
    with replacing_together(out) as folder:
        main = folder / out.name
        agreement = save_gated(model, job, main, limits)
        details = {"opset": model.opset_import[0].version, "operators": operators(model)}
        made = Made((main, write_golden(job, golden_path(main))), (agreement,), details)
        made = write_sidecar(job, made, target=target, packages=packages)
    return made.beside(out)


def operators(model: Any) -> dict[str, int]:
    """Count a model's operations by kind."""
    kinds = [node.op_type for node in model.graph.node]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
