"""A compiled .blob for Myriad X (NCS2, OAK), made and gated without a device.

What only the device can say stays open: latency, and float16 numerics of its processors. What float16 cannot hold is
found here.
"""

from __future__ import annotations

import dataclasses
import errno
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.export.foreign import MissingToolError, converter, run_json
from posezoo.export.frozen import UnsupportedLayerError, blame
from posezoo.export.gates import GateError
from posezoo.export.golden import golden_path, write_golden
from posezoo.export.job import Job, Made, agree, write_sidecar
from posezoo.export.onnx import model_of
from posezoo.export.openvino import PACKAGES, check_opsets, compressed, downgrade, layer_names, require_openvino, to_ir
from posezoo.export.simplify import is_graph_of_layers
from posezoo.files import replacing_together, telling_full_disk
from posezoo.inference.runners import OpenVinoRunner, normalise

if TYPE_CHECKING:
    import keras

    from posezoo.cards.card import InputSpec

#: The largest number of float16.
LARGEST = 65504.0


def export_myriad(job: Job, out: Path, *, shaves: int = 8) -> Made:
    """Compile a blob; networks take bytes 0 to 255, colours as planes one after another, and scale them themselves.

    Networks that look at depth take float16, scaled as the network takes it.

    Args:
        job: The network.
        out: The `.blob` to write; golden outputs and the sidecar go beside it.
        shaves: Vector processors and memory slices that the blob may use.

    Raises:
        MissingToolError: The compiler's environment is not there and cannot be made.
        UnsupportedLayerError: The compiler does not take a layer; its own message names it.
        GateError: The model does not agree with the network, or a layer exceeds float16; nothing is written.
        OSError: The disk is full, that of `out` or of temporary files; nothing is written.
    """
    spec = job.card.input
    if is_graph_of_layers(job.network):
        check_float16(largest_activations(job.network, spec, job.pictures[:1]))
    layers = layer_names(job)
    model = to_ir(model_of(job, 11), layers)
    raw = dataclasses.replace(spec, mean=(0.0,) * spec.shape[2], std=(1.0,) * spec.shape[2])
    if not spec.depth:
        model = with_scaling(model, spec)
    downgrade(model, layers)
    compressed(model)
    with tempfile.TemporaryDirectory() as folder, telling_full_disk(Path(folder)), replacing_together(out) as together:
        xml = Path(folder) / "model.xml"
        require_openvino().serialize(model, xml, xml.with_suffix(".bin"), version="IR_V10")
        check_opsets(xml, layers)
        takes = spec if spec.depth else raw
        agreement = agree(job, OpenVinoRunner(xml, takes), job.float16, kernels="openvino")
        golden = write_golden(job, xml.with_name("model.golden.npz"), takes=takes)
        blob = xml.with_suffix(".blob")
        command = [sys.executable, str(converter("to_myriad.py")), str(xml), "-o", str(blob), "--json"]
        command += ["--golden", str(golden), "--input", "FP16" if spec.depth else "U8", "--shaves", str(shaves)]
        answer = run_json(command, wrong=MissingToolError, told="compiling for Myriad X")
        _refuse(answer, layers)
        main = together / out.name
        details = {
            "myriad": answer,
            "takes": "scaled float16" if spec.depth else f"{spec.colour} bytes, planes one after another",
        }
        files = (Path(shutil.copyfile(blob, main)), Path(shutil.copyfile(golden, golden_path(main))))
        made = Made(files, (agreement,), details, _told(answer))
        made = write_sidecar(job, made, target="myriad", packages=PACKAGES)
    return made.beside(out)


def _told(answer: dict[str, Any]) -> tuple[str, ...]:
    """What the script found, in short."""
    stages = answer["stages"]
    share, programs = stages["hardware_share"], ", ".join(f"{kind} {n}" for kind, n in stages["programs"].items())
    worst = min(row["psnr_db"] for row in answer["numerics"]["rows"])
    return (
        f"OpenVINO 2021.3 runs the model on the processor and agrees ({worst:.1f} dB)",
        f"{stages['hardware']} hardware stages, {share:.0%} of all that work; on SHAVEs: {programs or 'nothing'}",
    )


def _refuse(answer: dict[str, Any], layers: tuple[str, ...]) -> None:
    """Raise what the script said, with the layers' own names."""
    if "full" in answer:
        raise OSError(errno.ENOSPC, answer["full"])
    if "missing" in answer:
        raise MissingToolError(f"the Myriad X compiler: {answer['missing']}")
    if "refused" in answer:
        told = re.sub(r'"([^"]+/[^"]+)"', lambda found: f"'{blame(found[1], layers)}'", answer["refused"])
        raise UnsupportedLayerError(f"{told}; write the layer with operations of 2021, or end the network before it")


def with_scaling(model: Any, spec: InputSpec) -> Any:
    """Return an OpenVINO model that takes pixels and scales them as its first step."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    steps.input().tensor().set_layout(Layout("NCHW"))
    steps.input().model().set_layout(Layout("NCHW"))
    steps.input().preprocess().mean(list(spec.mean)).scale(list(spec.std))
    return steps.build()


def largest_activations(network: keras.Model, spec: InputSpec, pictures: np.ndarray) -> dict[str, float]:
    """Return the largest absolute value that every layer puts out for some pictures."""
    import keras

    ops = keras.ops
    largest = {layer.name: ops.max(ops.abs(layer.output)) for layer in network.layers if hasattr(layer.output, "shape")}
    values = keras.Model(network.inputs[0], largest)(normalise(pictures, spec), training=False)
    return {name: float(value) for name, value in values.items()}


def check_float16(largest: dict[str, float]) -> None:
    """Refuse a network whose values float16 cannot hold.

    Raises:
        GateError: Names the layers and how far they go.
    """
    too_large = {name: value for name, value in largest.items() if not value < LARGEST}
    if too_large:
        told = ", ".join(f"layer '{name}' ({value:.3g})" for name, value in list(too_large.items())[:5])
        raise GateError(f"float16 holds numbers up to {LARGEST:.0f}; beyond go {told}; scale the weights before them")
