"""Everything a model can become. A new target is one entry of `TARGETS`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posezoo.cards import Card
from posezoo.errors import UserError
from posezoo.export.gates import PrecisionError
from posezoo.export.job import Job, Made
from posezoo.files import remove_leftovers


class UnknownTargetError(UserError, KeyError):
    """A target that the registry does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class NoReportError(UserError, ValueError):
    """A target that cannot be asked without a file."""


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: What `posezoo export --to` is given.
        title: One line about it.
        ending: What follows the model's name in the main file's; with a `/` at its end the target is a folder.
        function: Dotted name of a function of a `Job` and the main file's path that converts, gates and writes.
        options: Its keyword arguments, and `check`'s.
        int8: Whether its file computes in 8 bits, for which it needs calibration pictures.
        calibrated: Whether it needs them for something else.
        environment: What of `converters/environments/` it needs; exporting everything leaves the target out where that
            is not made.
        check: Dotted name of a function of a `Job` that only tells what the target would make of it, in lines.
    """

    name: str
    title: str
    ending: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    int8: bool = False
    calibrated: bool = False
    environment: str = ""
    check: str = ""

    @property
    def needs_calibration(self) -> bool:
        """Whether it needs calibration pictures."""
        return self.int8 or self.calibrated

    @property
    def suffix(self) -> str:
        """Suffix of the main file, empty for folders."""
        return Path(f"model{self.ending}").suffix

    def path(self, folder: Path, model: str) -> Path:
        """The main file of a model in a folder."""
        return folder / f"{model}{self.ending.rstrip('/')}"

    def make(self, job: Job, out: Path) -> Made:
        """Convert, gate, write; what a killed process left of the same target is removed first.

        Raises:
            GateError: The file does not agree with its network; nothing is written. Where 8 bits are too few for an
                output, the message says what to do.
            UserError: The target cannot take the network, or a tool is missing: the message says what to do.
            ImportError: A package is missing; the message says how to install it.
            OSError: It cannot be written, as when the disk is full; everything stays as it was.
        """
        remove_leftovers(out)
        try:
            return _function(self.function)(job, out, **self.options)
        except PrecisionError as error:
            if not self.int8 or not job.trained:
                raise
            raise PrecisionError(f"{error}; {_way_out(job.card)}") from error

    def told(self, job: Job) -> list[str]:
        """Tell what the target would make of a network, and write nothing.

        Raises:
            UserError: The target has no such report, or cannot take the network: the message says what to do.
        """
        if not self.check:
            able = ", ".join(target.name for target in TARGETS.values() if target.check)
            raise NoReportError(f"--check is for {able}; leave it out and --to {self.name} writes a gated file")
        return _function(self.check)(job, **self.options)


def _function(dotted: str) -> Callable[..., Any]:
    module, function = dotted.rsplit(".", 1)
    return getattr(importlib.import_module(module), function)


def _way_out(card: Card) -> str:
    """What to do about a trained network that rounding by calibration costs too much."""
    released = f"take the released {card.weights['int8'].file}, " if "int8" in card.weights else ""
    return (
        f"calibration with other pictures may do, else {released}train the network to rounding "
        "(recipes/quantize_qat.py) or take a target of 16 bits, such as tflite_int16x8 or tflite_float16"
    )


_HERE = "posezoo.export"
_LITE = f"{_HERE}.tflite_targets"
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("tflite", "TFLite int8", "_int8.tflite", f"{_LITE}.tflite", {"precision": "int8"}, int8=True),
        Target(
            "tflite_uint8",
            "TFLite int8, uint8 in and out",
            "_uint8.tflite",
            f"{_LITE}.tflite",
            {"precision": "int8", "io": "uint8"},
            int8=True,
        ),
        Target(
            "tflite_float_io",
            "TFLite int8, float32 in and out",
            "_float_io.tflite",
            f"{_LITE}.tflite",
            {"precision": "int8", "io": "float32"},
            int8=True,
        ),
        Target(
            "tflite_int16x8",
            "TFLite, tensors of 16 bits, weights of 8",
            "_int16x8.tflite",
            f"{_LITE}.tflite",
            {"precision": "int16x8"},
            calibrated=True,
        ),
        Target(
            "tflite_dynamic",
            "TFLite, weights of 8 bits",
            "_dynamic.tflite",
            f"{_LITE}.tflite",
            {"precision": "dynamic"},
        ),
        Target(
            "tflite_float16",
            "TFLite, weights of 16 bits",
            "_float16.tflite",
            f"{_LITE}.tflite",
            {"precision": "float16"},
        ),
        Target("tflite_float32", "TFLite float32", "_float32.tflite", f"{_LITE}.tflite", {"precision": "float32"}),
        Target(
            "edgetpu",
            "Edge TPU (Coral), predicted mapping",
            "_edgetpu_ready.tflite",
            f"{_LITE}.edgetpu",
            int8=True,
            check=f"{_LITE}.edgetpu_check",
        ),
        Target("onnx", "ONNX, opset 11", ".onnx", f"{_HERE}.onnx.export_onnx", {"opset": 11}),
        Target("onnx_opset17", "ONNX, opset 17", "_opset17.onnx", f"{_HERE}.onnx.export_onnx", {"opset": 17}),
        Target("onnx_int8", "ONNX int8 (QDQ)", "_int8.onnx", f"{_HERE}.onnx.export_onnx_int8", int8=True),
        Target("openvino", "OpenVINO IR, current", ".xml", f"{_HERE}.openvino.export_openvino"),
        Target("openvino_v10", "OpenVINO IR version 10", "_v10.xml", f"{_HERE}.openvino.export_openvino_v10"),
        Target("openvino_int8", "OpenVINO IR int8", "_int8.xml", f"{_HERE}.openvino.export_openvino_int8", int8=True),
        Target("myriad", "Myriad X blob", ".blob", f"{_HERE}.myriad.export_myriad", environment="myriad"),
        Target("saved_model", "SavedModel", "_saved_model/", f"{_HERE}.saved_model.export_saved_model"),
        Target(
            "tensorrt",
            "folder for TensorRT on a Jetson",
            "_tensorrt/",
            f"{_HERE}.tensorrt.export_tensorrt",
            calibrated=True,
        ),
        Target("tftrt", "folder for TF-TRT", "_tftrt/", f"{_HERE}.tftrt.export_tftrt", calibrated=True),
    )
}


def get_target(name: str) -> Target:
    """Return a target by its name.

    Raises:
        UnknownTargetError: There is none; the message suggests near ones.
    """
    if name not in TARGETS:
        close = difflib.get_close_matches(name, TARGETS, n=2)
        hint = " or ".join(f"'{c}'" for c in close) or f"one of {', '.join(TARGETS)}"
        raise UnknownTargetError(f"unknown target '{name}'; did you mean {hint}?")
    return TARGETS[name]
