"""Keras networks to TFLite, float32 or int8 after training, gated before they are written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.export.gates import OutputReport, check, compare
from posezoo.files import replacing
from posezoo.inference.runners import KerasRunner, TFLiteRunner, normalise

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import InputSpec

log = logging.getLogger(__name__)

KERNELS = ("default", "builtin")
IO_TYPES = ("int8", "uint8", "float32")
SIGNATURE = "serving_default"


def to_tflite(
    network: keras.Model,
    spec: InputSpec,
    calibration: Iterable[np.ndarray] | None = None,
    *,
    io: str = "int8",
    trained_ranges: bool = False,
) -> bytes:
    """Convert a network, batch 1, through a frozen function.

    Args:
        network: Keras network on the TensorFlow backend, with a dict of outputs.
        spec: Size and scaling of its input.
        calibration: Pictures `(height, width, channels)` of the kind the network will see, RGB uint8 or depth in
            metres; they pass
            through the card's own preprocessing. None converts to float32.
        io: Type of input and outputs of the int8 file: `int8`, or `uint8` / `float32` for runtimes that
            do not take int8, such as LiteRT in a browser. The interior stays int8.
        trained_ranges: The network is a quantisation-aware twin (`posezoo.compression.qat`), which knows its ranges:
            converts to int8 without calibration.

    Returns:
        The file's content, with a signature that names the outputs.

    Raises:
        ValueError: Unknown `io`, or an empty calibration.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError("conversion needs Keras on TensorFlow; unset KERAS_BACKEND and start again")
    if io not in IO_TYPES:
        raise ValueError(f"unknown io '{io}'; expected one of {', '.join(IO_TYPES)}")
    shape = (1, *spec.shape)
    function = tf.function(lambda image: network(image, training=False)).get_concrete_function(
        tf.TensorSpec(shape, tf.float32, name=spec.name)
    )
    names = sorted(function.structured_outputs)
    frozen = convert_variables_to_constants_v2(function)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if calibration is not None:
        pictures = list(calibration)
        if not pictures:
            raise ValueError("calibration holds no picture; give at least one, better a hundred")
        converter.representative_dataset = lambda: ([normalise(p[None], spec)] for p in pictures)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if calibration is not None or trained_ranges:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        kind = getattr(tf, io)
        converter.inference_input_type = converter.inference_output_type = kind
    return add_signature(converter.convert(), spec.name, names)


def add_signature(content: bytes, input_name: str, output_names: list[str]) -> bytes:
    """Name the input and the outputs of a TFLite file, which a frozen function loses, and its tensors by their layers.

    The converter's own names repeat the model's name and list every operation that was folded in: in a small network a
    seventh of the file.

    Args:
        content: The file.
        input_name: Name of its only input.
        output_names: Names of its outputs, in the subgraph's order.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        tensor.name = tensor.name.split(b";")[0].split(b"/", 1)[-1]

    def tensor_map(name, index):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        graph.tensors[index].name = name
        return entry

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [tensor_map(input_name, graph.inputs[0])]
    signature.outputs = [tensor_map(n, i) for n, i in zip(output_names, graph.outputs, strict=True)]
    model.signatureDefs = [signature]
    share_zero_points(graph.tensors)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def share_zero_points(tensors: list) -> None:
    """Let tensors whose zero points are alike point to the same ones in the file.

    Kernels and biases with a scale for each channel have as many zero points of eight bytes, all zero: in a small
    network a fifth of the file.

    Args:
        tensors: Tensors of the schema's object form; they are packed otherwise from now on.
    """
    from ai_edge_litert import schema_py_generated as schema

    written: dict[tuple, int] = {}

    class Shared(schema.QuantizationParametersT):
        def Pack(self, builder):  # noqa: N802  the schema's name
            def vector(values, start, prepend):
                start(builder, len(values))
                for value in reversed(values):
                    prepend(value)
                return builder.EndVector()

            scale = vector(list(self.scale), schema.QuantizationParametersStartScaleVector, builder.PrependFloat32)
            key = (id(builder), *self.zeroPoint)
            if key not in written:
                written[key] = vector(
                    list(self.zeroPoint), schema.QuantizationParametersStartZeroPointVector, builder.PrependInt64
                )
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, written[key])
            schema.QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
            return schema.QuantizationParametersEnd(builder)

    for tensor in tensors:
        about = tensor.quantization
        if about is None or about.scale is None or about.zeroPoint is None:
            continue
        if about.min is not None or about.max is not None or about.details is not None:
            continue
        shared = Shared()
        shared.scale, shared.zeroPoint = about.scale, about.zeroPoint
        shared.quantizedDimension = about.quantizedDimension
        tensor.quantization = shared


def operators(content: bytes) -> dict[str, int]:
    """Count a file's operators by name and version, such as `CONV_2D v3`."""
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    codes = [f"{names.get(code.builtinCode, code.builtinCode)} v{code.version}" for code in model.operatorCodes]
    return dict(sorted(Counter(codes[op.opcodeIndex] for op in model.subgraphs[0].operators).items()))


def gate(
    content: bytes,
    network: keras.Model,
    spec: InputSpec,
    pictures: np.ndarray,
    *,
    min_psnr_db: float = 30.0,
    max_error: float | None = None,
) -> list[OutputReport]:
    """Run a file beside its network, on the default delegate and on built-in kernels.

    Args:
        content: The TFLite file.
        network: The Keras network it was made from.
        spec: Size and scaling of the input.
        pictures: RGB uint8 `(N, height, width, 3)`.
        min_psnr_db: Least PSNR of each output against the network's.
        max_error: Largest allowed difference as a share of the range, if given.

    Raises:
        GateError: The file does not agree.
    """
    reference = KerasRunner(network, spec)(pictures)
    rows = []
    for kernels in KERNELS:
        rows += compare(reference, TFLiteRunner(content, spec, kernels=kernels)(pictures), kernels=kernels)
    check(rows, min_psnr_db=min_psnr_db, max_error=max_error)
    return rows


def export_tflite(
    network: keras.Model,
    spec: InputSpec,
    out: Path | str,
    *,
    calibration: Iterable[np.ndarray] | None = None,
    check_pictures: np.ndarray | None = None,
    io: str = "int8",
    trained_ranges: bool = False,
    min_psnr_db: float | None = None,
) -> dict:
    """Convert, gate, and only then write a file and its JSON sidecar.

    Args:
        network: Keras network on the TensorFlow backend.
        spec: Size and scaling of its input.
        out: The `.tflite` to write; the sidecar goes beside it with `.json` added.
        calibration: Pictures for int8, see `to_tflite`; None writes float32.
        check_pictures: Pictures for the gate, `(N, height, width, 3)`; the first calibration pictures
            by default.
        io: See `to_tflite`.
        trained_ranges: See `to_tflite`; the file is compared with what the quantisation-aware twin computes.
        min_psnr_db: See `gate`; 30 dB for int8 and 80 dB for float32 by default.

    Returns:
        The sidecar: hash, size, versions, operators, scales and the gate's report.

    Raises:
        GateError: The file does not agree with the network; nothing is written.
        ValueError: No pictures to check with.
    """
    out = Path(out)
    pictures = None if calibration is None else list(calibration)
    if check_pictures is None:
        if not pictures:
            raise ValueError("export without calibration needs check_pictures: the gate runs the file on them")
        check_pictures = np.stack(pictures[:8])
    content = to_tflite(network, spec, pictures, io=io, trained_ranges=trained_ranges)
    is_float = pictures is None and not trained_ranges
    floor = min_psnr_db if min_psnr_db is not None else (80.0 if is_float else 30.0)
    rows = gate(content, network, spec, check_pictures, min_psnr_db=floor)
    sidecar = {
        "file": out.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "io": "float32" if is_float else io,
        "calibration_pictures": len(pictures or ()),
        "input": {"name": spec.name, "shape": [1, *spec.shape], "mean": list(spec.mean), "std": list(spec.std)},
        "quantisation": {
            name: {"type": kind, "scale": scale, "zero_point": int(zero)}
            for name, (kind, scale, zero) in TFLiteRunner(content, spec).quantisation.items()
        },
        "operators": operators(content),
        "gates": [dataclasses.asdict(row) for row in rows],
        "versions": {p: metadata.version(p) for p in ("tensorflow", "keras", "ai-edge-litert")},
    }
    with replacing(out) as path:
        path.write_bytes(content)
    with replacing(out.with_name(out.name + ".json")) as path:
        path.write_text(json.dumps(sidecar, indent=1))
    return sidecar
