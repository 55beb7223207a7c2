"""Coral's Edge TPU: int8 files that its compiler takes, and a prediction of what it maps.

The compiler (16.0, the last) is a program for x86 Debian in no package index, so most of what is known is checked
without it: it loads files in a TFLite of 2021 and refuses all of a file that holds an operator newer than that
(`posezoo.export.tf25_operators`), and it maps one contiguous region of operators within documented limits. The rules
here reproduce what it did to public pairs of files; thresholds for large tensors are fitted to those. What comes out is
a predicted mapping, with a low and a high figure: nothing here is compiled unless `edgetpu_compiler` is installed.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.errors import UserError
from posezoo.export.flatbuffer import constants_of, kinds_of, packed, schema, unpacked
from posezoo.export.foreign import MissingToolError
from posezoo.export.metadata import with_metadata
from posezoo.export.rewrite import with_convolved_dense, with_plain_resizing, without_groups
from posezoo.export.tf25_operators import NEWEST
from posezoo.export.tflite import FLAVOURS, gated, to_tflite, write_file
from posezoo.inference.runners import KerasRunner

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import Card

COMPILER = "edgetpu_compiler"
MIB = 1 << 20
#: On-chip memory for parameters: what surely fits, and all of it less the executable's own.
SURE_BYTES, ALL_BYTES = 6.5 * MIB, 8 * MIB
FREE_BYTES = 7.9 * MIB
#: Enlarging: mapped for sure, and surely not (factor, bytes of the result).
SMALL_FACTOR, SMALL_BYTES, LARGE_FACTOR, LARGE_BYTES = 2.0, 0.5 * MIB, 4.0, 4 * MIB
SOFTMAX_ELEMENTS = 16_000
#: Least share of operators that may map at best, before a file is refused.
MIN_MAPPED = 0.9

OK, UNCERTAIN, CPU = "ok", "uncertain", "cpu"

#: How the names of tensors begin that belong to no layer.
CONVERTERS_OWN = "tfl."
#: Kinds without limits of their own.
FREE = (
    "ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "L2_NORMALIZATION",
    "QUANTIZE", "RSQRT", "SQUARED_DIFFERENCE", "SLICE", "SPACE_TO_DEPTH", "EXPAND_DIMS",
)  # fmt: skip
#: Custom operators that the compiler leaves to the processor.
KNOWN_CUSTOM = ("CUSTOM TFLite_Detection_PostProcess",)
#: What to do about operators that never map, or that the compiler does not know.
WAYS_OUT = {
    "CONV_2D": "export the Keras layers (a .keras file) to edgetpu, which writes groups as one dense convolution",
    "TRANSPOSE_CONV": "export through posezoo.export.edgetpu, which takes the activation out",
    "TILE": "enlarge with UpSampling2D or Resizing, which become one operator",
    "HARD_SWISH": "use relu6 or swish",
    "LEAKY_RELU": "use relu, or PReLU with shared_axes=[1, 2]",
    "ELU": "use relu6 or swish",
    "GELU": "use relu6 or swish",
    "SOFTMAX": "end the network at the logits and compute the softmax on the host",
    "ARG_MAX": "end the network at the maps and find peaks on the host",
    "TOPK_V2": "end the network at the maps and find peaks on the host",
    "RESIZE_BILINEAR": "enlarge by two at a time, or on the host",
    "RESIZE_NEAREST_NEIGHBOR": "enlarge by two at a time, or on the host",
    "TRANSPOSE": "keep channels last throughout; no channel shuffle",
    "NEG": "LayerNormalization is made of it: use BatchNormalization, which becomes part of a convolution",
}


class EdgeTpuError(UserError, RuntimeError):
    """A network that Edge TPU cannot take; the message names the layer and the way out."""


# ------------------------------------------------------------------------------------------------ operators


@dataclass(frozen=True)
class Operator:
    """One operator of a file with what the rules ask of it."""

    index: int
    kind: str
    version: int
    layer: str
    options: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    graph: Any
    constants: frozenset[int]
    values: Callable[[int], np.ndarray]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(int(n) for n in self.graph.tensors[tensor].shape)

    def option(self, name: str, default: Any = 0) -> Any:
        """A field of the operator's options."""
        return getattr(self.options, name, default)

    @property
    def fused(self) -> bool:
        """Whether an activation is part of it."""
        return self.option("fusedActivationFunction") != schema().ActivationFunctionType.NONE

    @cached_property
    def given(self) -> tuple[int, ...]:
        """Inputs that are no constants."""
        return tuple(i for i in self.inputs if i not in self.constants)


def operators_of(model: Any) -> list[Operator]:
    """Return the operators of a model's first graph, each with the layer that its result is named after."""
    graph, kinds, constants = model.subgraphs[0], kinds_of(model), frozenset(constants_of(model))
    types = {schema().TensorType.INT8: np.int8, schema().TensorType.UINT8: np.uint8}
    types |= {schema().TensorType.INT32: np.int32, schema().TensorType.INT64: np.int64}
    types |= {schema().TensorType.FLOAT32: np.float32}

    def values(tensor: int) -> np.ndarray:
        held = np.asarray(model.buffers[graph.tensors[tensor].buffer].data, np.uint8)
        return held.view(types.get(graph.tensors[tensor].type, np.uint8))

    found = []
    for i, op in enumerate(graph.operators):
        kind, version = kinds[op.opcodeIndex]
        inputs, outputs = tuple(int(t) for t in op.inputs if t >= 0), tuple(int(t) for t in op.outputs)
        layer = _name(graph.tensors[outputs[0]])
        found.append(Operator(i, kind, version, layer, op.builtinOptions, inputs, outputs, graph, constants, values))
    return _with_owners(found)


def _with_owners(operators: Sequence[Operator]) -> list[Operator]:
    """Give conversions to floats the layer that takes the floats, and those back the layer that made them.

    The converter puts them around operators without an int8 form, under names of its own.
    """
    takers = {i: op for op in reversed(operators) for i in op.inputs}
    makers = {i: op for op in operators for i in op.outputs}
    owners = {"DEQUANTIZE": lambda op: takers.get(op.outputs[0]), "QUANTIZE": lambda op: makers.get(op.inputs[0])}
    named = []
    for op in operators:
        owner = owners[op.kind](op) if op.kind in owners and op.layer.startswith(CONVERTERS_OWN) else None
        named.append(dataclasses.replace(op, layer=owner.layer) if owner else op)
    return named


def _name(tensor: Any) -> str:
    """The layer that a tensor is named after; of several tensors of a layer all but the first are numbered."""
    name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name or ""
    return re.sub(r":\d+$", "", name.split(";")[0])


def refuse_new_operators(content: bytes) -> None:
    """Refuse a file that the compiler would not even load.

    Raises:
        EdgeTpuError: Names the layers, their operators and what to do.
    """
    told: dict[tuple[str, str, str], list[str]] = {}
    operators = operators_of(unpacked(content))
    needing = {op.kind for op in operators if _needs_version(op)}
    for operator in operators:
        if operator.kind in needing and not _needs_version(operator):
            continue
        if operator.kind not in KNOWN_CUSTOM and operator.version > NEWEST.get(operator.kind, 0):
            way = WAYS_OUT.get(operator.kind, "write the layer with operations of 2021, or end the network before it")
            what = f"{operator.kind} version {operator.version}"
            newest = NEWEST.get(operator.kind)
            known = f"it knows {operator.kind} up to version {newest}" if newest else f"it knows no {operator.kind}"
            told.setdefault((what, known, way), []).append(operator.layer)
    if told:
        parts = [
            f"{what} of layer {', '.join(repr(layer) for layer in layers)} ({known}): {way}"
            for (what, known, way), layers in told.items()
        ]
        raise EdgeTpuError("the Edge TPU compiler refuses the whole file for " + "; ".join(parts))


def _needs_version(op: Operator) -> bool:
    """Whether an operator is the reason for its code's version, which all of a kind share."""
    return (op.kind == "CONV_2D" and _has_groups(op)) or (op.kind == "TRANSPOSE_CONV" and op.fused)


def _has_groups(op: Operator) -> bool:
    return op.shape(op.inputs[1])[-1] != op.shape(op.inputs[0])[-1]


def without_fused_transposed(content: bytes) -> bytes:
    """Take activations out of transposed convolutions, whose version 4 the compiler does not know.

    The result is the same: an int8 tensor that starts at zero clips at zero, and one that ends at six clips at six.

    Raises:
        EdgeTpuError: A tensor's range is not its activation's, so that the numbers would change.
    """
    model = unpacked(content)
    graph, kinds, activation = model.subgraphs[0], kinds_of(model), schema().ActivationFunctionType
    codes = {i for i, (kind, version) in enumerate(kinds) if kind == "TRANSPOSE_CONV" and version == 4}
    for operator in graph.operators:
        if operator.opcodeIndex not in codes:
            continue
        tensor, fused = graph.tensors[operator.outputs[0]], operator.builtinOptions.fusedActivationFunction
        scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
        top = (127 - zero) * scale
        exact = {activation.NONE: True, activation.RELU: zero == -128}
        exact[activation.RELU6] = zero == -128 and top <= 6 + scale
        if not exact.get(fused, False):
            raise EdgeTpuError(
                f"layer '{_name(tensor)}': the activation of its transposed convolution cannot be taken out without "
                f"changing numbers (zero point {zero}, largest value {top:.3f}); give the activation a layer of its own"
            )
        operator.builtinOptions.fusedActivationFunction = activation.NONE
    for code in codes:
        model.operatorCodes[code].version = 3
    return packed(model) if codes else content


# -------------------------------------------------------------------------------------------------- rules

Judgement = tuple[str, str]
FINE: Judgement = (OK, "")


def _only_last(shape: Sequence[int]) -> bool:
    return all(n == 1 for n in shape[:-1])


def _convolution(op: Operator) -> Judgement:
    if op.option("dilationWFactor", 1) != op.option("dilationHFactor", 1):
        return CPU, "its dilations differ"
    if op.kind == "CONV_2D" and _has_groups(op):
        return CPU, "it has groups"
    return FINE


def _transposed(op: Operator) -> Judgement:
    if op.version > 3 or op.fused:
        return CPU, "an activation is fused into it"
    large = np.prod(op.shape(op.outputs[0])) > LARGE_BYTES
    return (UNCERTAIN, "its result is large") if large else FINE


def _unfused(op: Operator) -> Judgement:
    return (CPU, "an activation is fused into it") if op.fused else FINE


def _concatenation(op: Operator) -> Judgement:
    if op.fused:
        return CPU, "an activation is fused into it"
    held = [i for i in op.inputs if i in op.constants]
    if held and (len(op.inputs) != 2 or any(op.values(i).any() for i in held)):
        return CPU, "it joins a constant that is not all zero, or more than two parts with a constant"
    return FINE


def _fully_connected(op: Operator) -> Judgement:
    if op.option("weightsFormat"):
        return CPU, "its weights are shuffled"
    return FINE if _only_last(op.shape(op.outputs[0])) else (CPU, "its result has more than one dimension")


def _reduction(op: Operator) -> Judgement:
    shape = op.shape(op.inputs[0])
    axes = {int(axis) % len(shape) for axis in op.values(op.inputs[1]).reshape(-1)}
    if 0 in axes:
        return CPU, "it reduces the batch"
    if op.kind == "MEAN" and len(shape) - 1 in axes and shape[-1] % 4:
        return CPU, "its mean over channels is not over a multiple of 4"
    return FINE


def _padding(op: Operator) -> Judgement:
    return (CPU, "it pads the batch") if op.values(op.inputs[1]).reshape(-1, 2)[0].any() else FINE


def _split(op: Operator) -> Judgement:
    rank = len(op.shape(op.outputs[0]))
    held = [i for i in op.inputs if i in op.constants]
    axis = op.option("axis") if op.kind == "PACK" else int(op.values(held[0]).reshape(-1)[0]) if held else 0
    return (CPU, "it splits the batch") if axis % rank == 0 and rank > 1 else FINE


def _prelu(op: Operator) -> Judgement:
    return FINE if _only_last(op.shape(op.inputs[1])) else (CPU, "its slopes differ from place to place")


def _reshape(op: Operator) -> Judgement:
    before, after = ([n for n in op.shape(i) if n != 1] for i in (op.inputs[0], op.outputs[0]))
    return FINE if before == after else (UNCERTAIN, "it changes the layout")


def _resize(op: Operator) -> Judgement:
    before, after = op.shape(op.inputs[0]), op.shape(op.outputs[0])
    factor, size = max(after[1] / before[1], after[2] / before[2]), float(np.prod(after))
    if factor <= SMALL_FACTOR and size <= SMALL_BYTES:
        return FINE
    told = f"it enlarges {factor:.3g} times to {size / MIB:.2f} MiB"
    return (CPU if factor > LARGE_FACTOR or size > LARGE_BYTES else UNCERTAIN), told


def _softmax(op: Operator) -> Judgement:
    shape = op.shape(op.inputs[0])
    if not _only_last(shape):
        return CPU, "it is computed at every pixel"
    return FINE if shape[-1] <= SOFTMAX_ELEMENTS else (CPU, f"it is over more than {SOFTMAX_ELEMENTS} values")


def _squeeze(op: Operator) -> Judgement:
    before, after = op.shape(op.inputs[0]), op.shape(op.outputs[0])
    removed = before[: len(before) - len(after)]
    fine = before[len(removed) :] == after and all(n == 1 for n in removed)
    return FINE if fine else (CPU, "it removes dimensions that do not lead")


def _strided_slice(op: Operator) -> Judgement:
    if (op.values(op.inputs[3]) != 1).any():
        return CPU, "its strides are not all 1"
    return (CPU, "it adds axes") if op.option("ellipsisMask") or op.option("newAxisMask") else FINE


#: Kind -> its limits; kinds that are neither here nor in `FREE` never map.
RULES: dict[str, Callable[[Operator], Judgement]] = {
    "CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _convolution, "TRANSPOSE_CONV": _transposed,
    "AVERAGE_POOL_2D": _unfused, "MAX_POOL_2D": _unfused, "CONCATENATION": _concatenation,
    "FULLY_CONNECTED": _fully_connected, "MEAN": _reduction, "SUM": _reduction, "REDUCE_MAX": _reduction,
    "REDUCE_MIN": _reduction, "PAD": _padding, "PACK": _split, "SPLIT": _split, "PRELU": _prelu, "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize, "RESIZE_NEAREST_NEIGHBOR": _resize, "SOFTMAX": _softmax, "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE": lambda op: (UNCERTAIN, "transpositions of four dimensions are often refused"),
    "TILE": lambda op: (UNCERTAIN, "it is undocumented"),
    **dict.fromkeys(FREE, lambda op: FINE),
}  # fmt: skip


def judge(op: Operator) -> Judgement:
    """Return what the compiler makes of one operator by itself, and why."""
    if op.kind not in RULES:
        return CPU, "it never maps"
    kinds, integer = schema().TensorType, (schema().TensorType.INT8, schema().TensorType.UINT8)
    for tensor in (*op.given, *op.outputs):
        held = op.graph.tensors[tensor]
        if held.type not in integer or held.quantization is None or held.quantization.scale is None:
            return CPU, "it takes or gives values that are not int8"
        shape = op.shape(tensor)
        signature = held.shapeSignature
        if any(n <= 0 for n in shape) or (signature is not None and (np.array(signature) < 0).any()):
            return CPU, "its shape is not fixed"
        if any(n > 1 for n in shape[:-3]):
            return CPU, f"its shape {shape} has more than three dimensions besides a batch of 1"
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        if any(i not in op.constants for i in op.inputs[1:]):
            return CPU, "its weights are not constant"
        if len(op.inputs) > 2 and op.graph.tensors[op.inputs[2]].type != kinds.INT32:
            return CPU, "its bias is not int32"
    return RULES[op.kind](op)


# ------------------------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class Placed:
    """Where one operator is expected to run.

    Attributes:
        index: Its place in the file.
        operator: Its kind.
        layer: The layer whose result it stores.
        verdict: `ok`, `uncertain` or `cpu`, by itself.
        reason: Why not `ok`; empty otherwise.
    """

    index: int
    operator: str
    layer: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class MappingReport:
    """The predicted mapping of a file: never more than a prediction.

    Attributes:
        operators: Every operator of the file.
        low: Operators that map if all uncertain ones do not.
        high: Operators that map if all uncertain ones do.
        parameter_bytes: Weights and biases of what maps at best.
    """

    operators: tuple[Placed, ...]
    low: int
    high: int
    parameter_bytes: int

    @property
    def shares(self) -> tuple[float, float]:
        """Low and high share of operators that map, 0 to 1."""
        count = max(len(self.operators), 1)
        return self.low / count, self.high / count

    @property
    def memory(self) -> str:
        """Whether the parameters fit into the chip's own memory."""
        told = f"{self.parameter_bytes / MIB:.2f} MiB of parameters"
        if self.parameter_bytes <= SURE_BYTES:
            return f"{told}: cached on the chip"
        if self.parameter_bytes <= ALL_BYTES:
            return f"{told}: borderline, the chip has about {FREE_BYTES / MIB:.1f} MiB for them"
        return f"{told}: about {(self.parameter_bytes - FREE_BYTES) / MIB:.1f} MiB are streamed at every inference"

    @property
    def blamed(self) -> Placed | None:
        """The first operator that does not surely map; those for the processor come before uncertain ones.

        A conversion to floats comes after them: it is there for the operator that takes the floats.
        """
        doubtful = [row for row in self.operators if row.verdict != OK]
        return min(
            doubtful, key=lambda row: (row.verdict != CPU, row.operator == "DEQUANTIZE", row.index), default=None
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "predicted_mapping": {"low": self.low, "high": self.high, "operators": len(self.operators)},
            "parameter_bytes": self.parameter_bytes,
            "memory": self.memory,
            "not_ok": [dataclasses.asdict(row) for row in self.operators if row.verdict != OK],
        }

    def lines(self) -> list[str]:
        """The report for a terminal."""
        low, high = self.shares
        counts = Counter((row.operator, row.verdict) for row in self.operators)
        kinds = sorted({row.operator for row in self.operators})
        width = max(map(len, kinds), default=0)
        rows = [
            f"  {kind:{width}}  " + ", ".join(f"{counts[kind, v]} {v}" for v in (OK, UNCERTAIN, CPU) if counts[kind, v])
            for kind in kinds
        ]
        told = [f"  {row.operator} of layer '{row.layer}': {row.verdict}, {row.reason}" for row in self.operators
                if row.verdict != OK]  # fmt: skip
        return [
            f"predicted mapping (not compiled): {self.low} to {self.high} of {len(self.operators)} operators, "
            f"{low:.0%} to {high:.0%}",
            self.memory,
            *rows,
            *told[:12],
            *([f"  … and {len(told) - 12} more"] if len(told) > 12 else []),
        ]


def mapping_report(content: bytes) -> MappingReport:
    """Predict what the compiler maps.

    It walks the operators in order. Once one that follows mapped ones stays on the processor, everything that depends
    on it does: there is one region.

    Args:
        content: An int8 TFLite file.
    """
    operators = operators_of(unpacked(content))
    verdicts = [judge(op) for op in operators]
    high = _mapped(operators, [verdict != CPU for verdict, _ in verdicts])
    low = _mapped(operators, [verdict == OK for verdict, _ in verdicts])
    placed = []
    for op, (verdict, reason) in zip(operators, verdicts, strict=True):
        if verdict != CPU and op.index not in high:
            verdict, reason = CPU, "it comes after an operator on the processor: more than one subgraph"
        elif verdict == OK and op.index not in low:
            verdict, reason = UNCERTAIN, "it comes after an operator that may stay on the processor"
        placed.append(Placed(op.index, op.kind, op.layer, verdict, reason))
    weighted = [op for op in operators if op.index in high and ("CONV" in op.kind or op.kind == "FULLY_CONNECTED")]
    held = {i for op in weighted for i in op.inputs[1:] if i in op.constants}
    size = sum(operators[0].values(i).nbytes for i in held) if operators else 0
    return MappingReport(tuple(placed), len(low), len(high), int(size))


def _mapped(operators: Sequence[Operator], supported: Sequence[bool]) -> set[int]:
    """Indices of the operators in the one region, given which are supported by themselves."""
    after: set[int] = set()
    inside: set[int] = set()
    chosen = set()
    for op, fine in zip(operators, supported, strict=True):
        if after.intersection(op.inputs):
            after.update(op.outputs)
        elif fine:
            chosen.add(op.index)
            inside.update(op.outputs)
        elif inside.intersection(op.inputs):
            after.update(op.outputs)
    return chosen


# ------------------------------------------------------------------------------------------------- export


def to_edgetpu(
    network: keras.Model, card: Card, calibration: Iterable[np.ndarray], *, io: str = "int8"
) -> tuple[bytes, MappingReport]:
    """Convert a network to an int8 file that the compiler loads, and predict its mapping.

    Args:
        network: Keras network on the TensorFlow backend. Grouped convolutions become dense ones and nearest-neighbour
            enlarging goes by two at a time, with the same numbers.
        card: Its card.
        calibration: Pictures that set the ranges.
        io: `int8` or `uint8`: type of input and outputs.

    Raises:
        EdgeTpuError: An operator that the compiler does not load; the message names the layer and the way out.
        ConversionError: A layer that TFLite has no operator for.
    """
    if io not in ("int8", "uint8"):
        raise ValueError(f"unknown io '{io}' of Edge TPU files; expected int8 or uint8")
    return ready(to_tflite(for_edgetpu(network), card.input, calibration, precision="int8", io=io))


def for_edgetpu(network: keras.Model) -> keras.Model:
    """Return the network without what Edge TPU refuses and other layers can say."""
    return with_plain_resizing(with_convolved_dense(without_groups(network)), by_two=True)


def ready(content: bytes) -> tuple[bytes, MappingReport]:
    """Bring an int8 file's operators to the compiler's age, and predict its mapping.

    Args:
        content: An int8 file, made of a network or of its quantisation-aware twin.

    Raises:
        EdgeTpuError: See `to_edgetpu`.
    """
    content = without_fused_transposed(content)
    refuse_new_operators(content)
    return content, mapping_report(content)


def check_mapping(report: MappingReport, *, min_mapped: float = MIN_MAPPED) -> None:
    """Refuse a file of which too little can map.

    Raises:
        EdgeTpuError: Names the layer that ends the region and the way out.
    """
    row = report.blamed
    if report.shares[1] >= min_mapped or row is None:
        return
    way = WAYS_OUT.get(row.operator, "write the layer with operators that map, or end the network before it")
    raise EdgeTpuError(
        f"Edge TPU: at most {report.high} of {len(report.operators)} operators would map, because of {row.operator} of "
        f"layer '{row.layer}' ({row.reason}): {way}; or ask for less with --min-mapped SHARE "
        "(min_mapped in Python)"
    )


def export_edgetpu(
    network: keras.Model,
    card: Card,
    out: Path | str,
    *,
    calibration: Iterable[np.ndarray],
    check_pictures: np.ndarray | None = None,
    io: str = "int8",
    min_mapped: float = MIN_MAPPED,
    min_psnr_db: float | None = None,
    pythons: Mapping[str, Path] | None = None,
) -> dict:
    """Convert, predict, gate and write; compile where `edgetpu_compiler` is installed.

    Args:
        network: Keras network on the TensorFlow backend.
        card: Its card.
        out: The `.tflite` to write, with its sidecar beside it; the compiled file is `out` with `_edgetpu` at its end.
        calibration: Pictures that set the ranges.
        check_pictures: Pictures for the gates; the first of the calibration by default.
        io: `int8` or `uint8`.
        min_mapped: See `check_mapping`.
        min_psnr_db: See `posezoo.export.tflite.gate`; int8's by default.
        pythons: Further gates: name -> interpreter of an environment with a runtime of the compiler's age, TensorFlow
            2.5.3 or tflite-runtime 2.7.0 (`converters/environments/edgetpu.txt`).

    Returns:
        The sidecar, with the prediction as `edgetpu`, there `compiled` with the compiler's words, or None.

    Raises:
        EdgeTpuError: The compiler would not load the file, or too little maps; nothing is written.
        GateError: The file does not agree with the network; nothing is written.
    """
    out, pictures = Path(out), list(calibration)
    if check_pictures is None:
        check_pictures = np.stack(pictures[:8])
    content, report = to_edgetpu(network, card, pictures, io=io)
    check_mapping(report, min_mapped=min_mapped)
    return write_edgetpu(
        content, report, KerasRunner(network, card.input)(check_pictures), card, out, pictures=check_pictures,
        calibration_pictures=len(pictures), min_psnr_db=min_psnr_db, pythons=pythons,
    )  # fmt: skip


def write_edgetpu(
    content: bytes,
    report: MappingReport,
    reference: dict[str, np.ndarray],
    card: Card,
    out: Path,
    *,
    pictures: np.ndarray,
    calibration_pictures: int = 0,
    min_psnr_db: float | None = None,
    pythons: Mapping[str, Path] | None = None,
) -> dict:
    """Gate a file that `ready` made, compile it where that is possible, and write it; see `export_edgetpu`.

    Args:
        content: The file.
        report: Its predicted mapping.
        reference: What the network, or its quantisation-aware twin, gives for `pictures`, by name.
        card: The network's card.
        out: The `.tflite` to write.
        pictures: Pictures for the gates.
        calibration_pictures: How many set the ranges, for the sidecar.
        min_psnr_db: See `export_edgetpu`.
        pythons: See `export_edgetpu`.
    """
    content = with_metadata(content, card)
    floor = FLAVOURS["int8"].min_psnr_db if min_psnr_db is None else min_psnr_db
    sidecar = gated(content, reference, card.input, pictures=pictures, card=card, min_psnr_db=floor, pythons=pythons)
    sidecar |= {"precision": "int8", "calibration_pictures": calibration_pictures, "edgetpu": report.as_dict()}
    sidecar["edgetpu"]["compiled"], others = compiled_or_none(content, out)
    return write_file(content, sidecar, out, others)


def compiled_or_none(content: bytes, out: Path) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """Compile a file as `compiled` does where the compiler is installed.

    Returns:
        What is known of the compiled file, or None, and the file itself by its name.
    """
    if not shutil.which(COMPILER):
        return None, {}
    told, made = compiled(content, out)
    return told, {told["file"]: made}


def compiled(content: bytes, out: Path) -> tuple[dict[str, Any], bytes]:
    """Compile a file with `edgetpu_compiler`; nothing is written.

    Args:
        content: An int8 file.
        out: Where the file itself goes; the compiled one is to be `out` with `_edgetpu` before its ending.

    Returns:
        `file`, `bytes` and the compiler's own `words`, and the compiled file.

    Raises:
        MissingToolError: The compiler is not installed.
        EdgeTpuError: It refuses the file; with its words.
    """
    if not shutil.which(COMPILER):
        raise MissingToolError(
            f"{COMPILER} is not installed; get it from Coral's package source for Debian "
            "(https://coral.ai/docs/edgetpu/compiler), or compile the file on a machine that has it"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / out.name).write_bytes(content)
        command = [COMPILER, "--show_operations", "--out_dir", str(folder), str(folder / out.name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        words = (done.stdout + done.stderr).strip()
        made = folder / f"{out.stem}_edgetpu.tflite"
        if done.returncode or not made.exists():
            last = " ".join(words.splitlines()[-3:]) or f"exit code {done.returncode}"
            raise EdgeTpuError(f"{COMPILER} refuses {out.name}: {last}")
        return {"file": made.name, "bytes": made.stat().st_size, "words": words}, made.read_bytes()
