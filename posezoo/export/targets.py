"""Everything a model can become. A new target is one entry of `TARGETS`."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posezoo.errors import UserError
from posezoo.export.job import Agreement, Job, Made, agree


class UnknownTargetError(UserError, KeyError):
    """A target that the registry does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: What `posezoo export --to` is given.
        title: One line about it.
        ending: What follows the model's name in the main file's; with a `/` at its end the target is a folder.
        function: Dotted name of a function of a `Job` and the main file's path that converts, gates and writes.
        options: Its keyword arguments.
        int8: Whether it needs calibration pictures.
        environment: What of `converters/environments/` it needs; exporting everything leaves the target out where that
            is not made.
    """

    name: str
    title: str
    ending: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    int8: bool = False
    environment: str = ""

    @property
    def suffix(self) -> str:
        """Suffix of the main file, empty for folders."""
        return Path(f"model{self.ending}").suffix

    def path(self, folder: Path, model: str) -> Path:
        """The main file of a model in a folder."""
        return folder / f"{model}{self.ending.rstrip('/')}"

    def make(self, job: Job, out: Path) -> Made:
        """Convert, gate, write.

        Raises:
            GateError: The file does not agree with its network; nothing is written.
            UserError: The target cannot take the network, or a tool is missing: the message says what to do.
            ImportError: A package is missing; the message says how to install it.
        """
        module, function = self.function.rsplit(".", 1)
        return getattr(importlib.import_module(module), function)(job, out, **self.options)


_HERE = "posezoo.export"
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("tflite", "TFLite int8", "_int8.tflite", f"{_HERE}.targets.tflite", {"int8": True}, int8=True),
        Target("tflite_float32", "TFLite float32", "_float32.tflite", f"{_HERE}.targets.tflite"),
        Target("onnx", "ONNX, opset 11", ".onnx", f"{_HERE}.onnx.export_onnx", {"opset": 11}),
        Target("onnx_opset17", "ONNX, opset 17", "_opset17.onnx", f"{_HERE}.onnx.export_onnx", {"opset": 17}),
        Target("onnx_int8", "ONNX int8 (QDQ)", "_int8.onnx", f"{_HERE}.onnx.export_onnx_int8", int8=True),
        Target("openvino", "OpenVINO IR, current", ".xml", f"{_HERE}.openvino.export_openvino"),
        Target("openvino_v10", "OpenVINO IR version 10", "_v10.xml", f"{_HERE}.openvino.export_openvino_v10"),
        Target("openvino_int8", "OpenVINO IR int8", "_int8.xml", f"{_HERE}.openvino.export_openvino_int8", int8=True),
        Target("myriad", "Myriad X blob", ".blob", f"{_HERE}.myriad.export_myriad", environment="myriad"),
        Target("saved_model", "SavedModel", "_saved_model/", f"{_HERE}.saved_model.export_saved_model"),
        Target(
            "tensorrt", "folder for TensorRT on a Jetson", "_tensorrt/", f"{_HERE}.tensorrt.export_tensorrt", int8=True
        ),
        Target("tftrt", "folder for TF-TRT", "_tftrt/", f"{_HERE}.tftrt.export_tftrt", int8=True),
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


def tflite(job: Job, out: Path, *, int8: bool = False) -> Made:
    """A TFLite file by `posezoo.export.tflite`, as the registry wants it."""
    from posezoo.export.job import FLOAT32
    from posezoo.export.tflite import export_tflite
    from posezoo.inference.runners import TFLiteRunner

    limits = job.int8 if int8 else FLOAT32
    export_tflite(
        job.network, job.card.input, out, calibration=job.calibration if int8 else None,
        check_pictures=job.pictures, min_psnr_db=limits.min_psnr_db,
    )  # fmt: skip
    sidecar = out.with_name(out.name + ".json")
    agreements: list[Agreement] = [
        agree(job, TFLiteRunner(out, job.card.input, kernels=kernels), limits, kernels=kernels)
        for kernels in ("default", "builtin")
    ]
    return Made((out, sidecar), tuple(agreements), {"operators": json.loads(sidecar.read_text())["operators"]})
