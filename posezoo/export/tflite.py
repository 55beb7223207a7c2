"""Keras networks to TFLite in every precision it has, gated before they are written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.errors import UserError
from posezoo.export.elsewhere import OtherRuntime
from posezoo.export.flatbuffer import add_signature, layer_names, layer_of, operators, with_float_kernels
from posezoo.export.frozen import control_flow, frozen_function, operations
from posezoo.export.gates import OutputReport, check, check_reacts, compare
from posezoo.export.metadata import facts, input_facts, with_metadata
from posezoo.export.pixels import where_it_counts
from posezoo.export.quantisation import quantisation_report
from posezoo.export.ranges import RANGES
from posezoo.export.rewrite import with_convolved_dense, with_plain_resizing
from posezoo.files import replacing_together
from posezoo.inference.runners import KerasRunner, Runner, TFLiteRunner, normalise
from posezoo.levels import PICTURES

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import Card, InputSpec

KERNELS = ("default", "builtin")


@dataclass(frozen=True)
class Flavour:
    """A precision of TFLite files.

    Attributes:
        io: Types that the file's input and outputs may have; the first is the usual one.
        min_psnr_db: What every output must reach against the network.
        calibrated: Whether conversion looks at pictures.
    """

    io: tuple[str, ...]
    min_psnr_db: float
    calibrated: bool = False


#: float16 and dynamic store small weights and compute in float32; int16x8 has tensors of 16 bits, weights of 8.
FLAVOURS = {
    "float32": Flavour(("float32",), 80.0),
    "float16": Flavour(("float32",), 50.0),
    "dynamic": Flavour(("float32",), 30.0),
    "int8": Flavour(("int8", "uint8", "float32"), 30.0, calibrated=True),
    "int16x8": Flavour(("int16", "float32"), 35.0, calibrated=True),
}


class ConversionError(UserError, RuntimeError):
    """A network that TFLite cannot take."""


def to_tflite(
    network: keras.Model,
    spec: InputSpec,
    calibration: Iterable[np.ndarray] | None = None,
    *,
    precision: str | None = None,
    io: str | None = None,
    trained_ranges: bool = False,
    keep_float: Iterable[str] = (),
    ranges: str = "mse",
) -> bytes:
    """Convert a network, batch 1, through a frozen function.

    Args:
        network: Keras network on the TensorFlow backend, with a dict of outputs.
        spec: Size and scaling of its input.
        calibration: Pictures `(height, width, channels)` of the kind the network will see, RGB uint8 or depth in
            metres; they pass through the card's own preprocessing. Needed for int8 and int16x8.
        precision: One of `FLAVOURS`; int8 by default where there is calibration, else float32.
        io: Type of input and outputs: of int8 files `int8` (default), `uint8` or `float32`, for runtimes that
            do not take int8, such as LiteRT in a browser; the interior stays int8. Of int16x8 files `int16` or
            `float32`. Without effect where float32 is the default precision.
        trained_ranges: The network is a quantisation-aware twin (`posezoo.compression.qat`), which knows its ranges:
            converts to int8 without calibration.
        keep_float: Names of layers of an int8 file that stay in float32.
        ranges: How calibration sets the ranges of an int8 file's tensors: `minmax`, what the pictures reach, or `mse`,
            what loses the least (`posezoo.export.ranges`).

    Returns:
        The file's content, with a signature that names the outputs, and tensors that are named after layers.

    Raises:
        ValueError: Unknown `precision`, `io` or `ranges`, calibration that is empty or missing, or `keep_float` that
            does not fit.
        ConversionError: A layer that TFLite has no operator for; the message names it.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    import tensorflow as tf

    pictures = None if calibration is None else list(calibration)
    if precision is None:
        precision = "int8" if pictures is not None or trained_ranges else "float32"
        io = io if precision == "int8" else None
    io = _checked(precision, io, pictures, trained_ranges)
    layers, keep_float = layer_names(network), list(keep_float)
    if keep_float and (precision != "int8" or trained_ranges):
        raise ValueError("keep_float is for int8 files that calibration makes")
    if ranges not in RANGES:
        raise ValueError(f"unknown ranges '{ranges}'; expected one of {', '.join(RANGES)}")
    if not trained_ranges:
        network = with_plain_resizing(network)
    if precision == "dynamic":
        network = with_convolved_dense(network)
    converter, names, nodes = frozen_converter(network, spec)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if FLAVOURS[precision].calibrated:
        converter.inference_input_type = converter.inference_output_type = getattr(tf, io)
    if FLAVOURS[precision].calibrated and not trained_ranges:
        sets = tf.lite.OpsSet
        shown = pictures or []
        converter.representative_dataset = lambda: ([normalise(p[None], spec)] for p in shown)
        converter.target_spec.supported_ops = [
            sets.TFLITE_BUILTINS_INT8
            if precision == "int8"
            else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    if FLAVOURS[precision].calibrated and (flow := control_flow(nodes, layers)):
        raise ConversionError(
            f"TFLite in {precision} has no ranges for what repeats or branches as it runs, layer {', '.join(flow)}; "
            "write a loop's rounds out and choose with tf.where, or convert to float16"
        )
    with _blamed(nodes, layers, precision):
        if precision == "int8" and not trained_ranges and (keep_float or ranges == "mse"):
            from posezoo.export.selective import convert_in_steps

            some = (normalise(p[None], spec) for p in shown[:PICTURES])
            content = convert_in_steps(
                converter, names=names, layers=layers, io=io, keep_float=keep_float,
                shown=some if ranges == "mse" else None,
            )  # fmt: skip
        else:
            content = converter.convert()
    if precision == "dynamic":
        content = with_float_kernels(content, "TRANSPOSE_CONV")
    return add_signature(content, spec.name, names, layers)


def _checked(precision: str, io: str | None, pictures: list | None, trained_ranges: bool) -> str:
    """The type of input and outputs, after everything asked for was found to fit."""
    if precision not in FLAVOURS:
        raise ValueError(f"unknown precision '{precision}'; expected one of {', '.join(FLAVOURS)}")
    flavour = FLAVOURS[precision]
    if io is not None and io not in flavour.io:
        raise ValueError(f"unknown io '{io}' of {precision} files; expected one of {', '.join(flavour.io)}")
    if trained_ranges and precision != "int8":
        raise ValueError(f"trained ranges make int8 files, not {precision}")
    if flavour.calibrated and not trained_ranges and not pictures:
        told = f"{precision} needs calibration" if pictures is None else "calibration holds no picture"
        raise ValueError(f"{told}; give at least one picture, better a hundred")
    return io or flavour.io[0]


def frozen_converter(network: Any, spec: InputSpec) -> tuple[Any, list[str], Mapping[str, str]]:
    """Freeze a network for conversion, batch 1.

    Args:
        network: Keras network on the TensorFlow backend, or a Keras 2 twin.
        spec: Size of its input.

    Returns:
        The `TFLiteConverter`, the names of the outputs in its order, and node of the frozen graph -> its operation.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    import tensorflow as tf

    frozen, names = frozen_function(network, spec)
    return tf.lite.TFLiteConverter.from_concrete_functions([frozen]), names, operations(frozen.graph)


@contextmanager
def _blamed(nodes: Mapping[str, str], layers: Sequence[str], precision: str) -> Iterator[None]:
    """Turn the converter's errors into one line that names layers.

    Raises:
        ConversionError: With the layers whose operations the message speaks of.
    """
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        yield
    except (ConverterError, RuntimeError, ValueError) as error:
        told = str(error)
        kinds = {_plain(kind) for kinds in re.findall(r"tf\.(\w+)|op: '(\w+)'", told) for kind in kinds if kind}
        kinds &= {_plain(kind) for kind in nodes.values()}
        if isinstance(error, UserError) or not (isinstance(error, ConverterError) or kinds):
            raise
        guilty = sorted({
            f"'{layer_of(node, layers) or node}' ({op})" for node, op in nodes.items() if _plain(op) in kinds
        })  # fmt: skip
        first = told.strip().splitlines()[0] if told.strip() else type(error).__name__
        raise ConversionError(
            f"TFLite in {precision} has no operator for layer {', '.join(guilty)}; write it with operations that "
            "TFLite has, or end the network before it and compute the rest after the file"
            if guilty
            else f"TFLite in {precision} refused the network: {first}"
        ) from error


def _plain(kind: str) -> str:
    """Name an operation alike for TensorFlow's `Conv3D` and TFLite's `CONV_3D`."""
    return kind.replace("_", "").lower()


def gate(
    content: bytes,
    network: keras.Model,
    spec: InputSpec,
    pictures: np.ndarray,
    *,
    min_psnr_db: float = 30.0,
    max_error: float | None = None,
    others: Mapping[str, Runner] | None = None,
) -> list[OutputReport]:
    """Run a file beside its network, on the default delegate and on built-in kernels.

    Args:
        content: The TFLite file.
        network: The Keras network it was made from.
        spec: Size and scaling of the input.
        pictures: RGB uint8 `(N, height, width, 3)`.
        min_psnr_db: Least PSNR of each output against the network's.
        max_error: Largest allowed difference as a share of the range, if given.
        others: Further runtimes that hold the file, by name, such as `posezoo.export.elsewhere.OtherRuntime`.

    Raises:
        GateError: The file does not agree.
    """
    reference = KerasRunner(network, spec)(pictures)
    return gate_outputs(content, reference, spec, pictures, min_psnr_db=min_psnr_db, max_error=max_error, others=others)


def gate_outputs(
    content: bytes,
    reference: dict[str, np.ndarray],
    spec: InputSpec,
    pictures: np.ndarray,
    *,
    min_psnr_db: float = 30.0,
    max_error: float | None = None,
    others: Mapping[str, Runner] | None = None,
    where: Mapping[str, np.ndarray] | None = None,
) -> list[OutputReport]:
    """Run a file beside outputs that are known to be right; arguments and errors as `gate` and `compare`."""
    rows, sizes = [], {name: value.size for name, value in reference.items()}
    runs: dict[str, Runner] = {k: TFLiteRunner(content, spec, kernels=k) for k in KERNELS}
    found = {kernels: run(pictures) for kernels, run in {**runs, **(others or {})}.items()}
    for kernels, got in found.items():
        rows += compare(reference, got, kernels=kernels, where=where)
    check(rows, min_psnr_db=min_psnr_db, max_error=max_error, sizes=sizes)
    for kernels, got in found.items():
        check_reacts(got, kernels=kernels)
    return rows


def export_tflite(
    network: keras.Model,
    spec: InputSpec,
    out: Path | str,
    *,
    card: Card | None = None,
    calibration: Iterable[np.ndarray] | None = None,
    check_pictures: np.ndarray | None = None,
    precision: str | None = None,
    io: str | None = None,
    trained_ranges: bool = False,
    keep_float: Iterable[str] = (),
    ranges: str = "mse",
    min_psnr_db: float | None = None,
    pythons: Mapping[str, Path] | None = None,
) -> dict:
    """Convert, gate, and only then write a file and its JSON sidecar.

    Args:
        network: Keras network on the TensorFlow backend.
        spec: Size and scaling of its input.
        out: The `.tflite` to write; the sidecar goes beside it with `.json` added.
        card: The network's card: its facts become the file's metadata, and the report tells errors in key-point
            pixels.
        calibration: Pictures for int8 and int16x8, see `to_tflite`.
        check_pictures: Pictures for the gate, `(N, height, width, 3)`; the first calibration pictures
            by default.
        precision: See `to_tflite`.
        io: Of the file, see `to_tflite`.
        trained_ranges: See `to_tflite`; the file is compared with what the quantisation-aware twin computes.
        keep_float: See `to_tflite`.
        ranges: See `to_tflite`.
        min_psnr_db: See `gate`; the flavour's by default.
        pythons: Further gates: name of a runtime -> interpreter of an environment that holds it
            (`posezoo.export.elsewhere`).

    Returns:
        The sidecar: hash, size, versions, operators, scales, the card's facts, the gates' report and the report on
        quantisation.

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
    if precision is None:
        precision = "int8" if pictures is not None or trained_ranges else "float32"
        io = io if precision == "int8" else None
    content = to_tflite(
        network, spec, pictures, precision=precision, io=io, trained_ranges=trained_ranges, keep_float=keep_float,
        ranges=ranges,
    )  # fmt: skip
    if card is not None:
        content = with_metadata(content, card)
    floor = FLAVOURS[precision].min_psnr_db if min_psnr_db is None else min_psnr_db
    sidecar = gated(
        content, KerasRunner(network, spec)(check_pictures), spec, pictures=check_pictures, card=card,
        min_psnr_db=floor, pythons=pythons,
    )  # fmt: skip
    used = len(pictures or ()) if FLAVOURS[precision].calibrated else 0
    made = {"precision": precision, "calibration_pictures": used}
    if precision == "int8":
        made["ranges"] = "trained" if trained_ranges else ranges
    return write_file(content, {**sidecar, **made}, out)


def gated(
    content: bytes,
    reference: dict[str, np.ndarray],
    spec: InputSpec,
    *,
    pictures: np.ndarray,
    min_psnr_db: float,
    max_error: float | None = None,
    card: Card | None = None,
    pythons: Mapping[str, Path] | None = None,
    where: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Gate a file; return what its sidecar tells.

    Args:
        content: The file.
        reference: What the network gives for `pictures`, by name.
        spec: Size and scaling of its input.
        pictures: Pictures for the gate.
        min_psnr_db: See `gate`.
        max_error: See `gate`.
        card: See `export_tflite`.
        pythons: See `export_tflite`.
        where: Which values count (`compare`); by default what the card says of a trained network.

    Raises:
        GateError: The file does not agree.
    """
    others = {name: OtherRuntime(content, spec, python) for name, python in (pythons or {}).items()}
    rows = gate_outputs(
        content, reference, spec, pictures, min_psnr_db=min_psnr_db, max_error=max_error, others=others,
        where=where_it_counts(card, reference) if where is None and card is not None else where,
    )  # fmt: skip
    runner = TFLiteRunner(content, spec)
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "io": runner.quantisation[spec.name][0],
        "input": input_facts(spec),
        **(facts(card) if card is not None else {}),
        "quantisation": {
            name: {"type": kind, "scale": scale, "zero_point": int(zero)}
            for name, (kind, scale, zero) in runner.quantisation.items()
        },
        "operators": operators(content),
        "gates": [dataclasses.asdict(row) for row in rows],
        "report": quantisation_report(runner, reference, pictures, card).as_dict(),
        "versions": {
            **{p: metadata.version(p) for p in ("tensorflow", "keras", "ai-edge-litert")},
            **{name: other.version for name, other in others.items()},
        },
    }


def write_file(content: bytes, sidecar: dict, out: Path, others: Mapping[str, bytes] | None = None) -> dict:
    """Write a gated file and its sidecar, `out` with `.json` added, all or nothing.

    Args:
        content: The file.
        sidecar: What stands beside it.
        out: The `.tflite` to write.
        others: Further files beside it, by name.

    Returns:
        The sidecar.
    """
    sidecar = {"file": out.name, **sidecar}
    with replacing_together(out) as folder:
        for name, held in {**(others or {}), out.name: content}.items():
            (folder / name).write_bytes(held)
        (folder / f"{out.name}.json").write_text(json.dumps(sidecar, indent=1))
    return sidecar
