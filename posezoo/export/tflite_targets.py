"""TFLite and Edge TPU as the registry of targets calls them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posezoo.export import edgetpu as tpu
from posezoo.export.elsewhere import made_environments
from posezoo.export.gates import OutputReport
from posezoo.export.job import FLOAT32, Agreement, Job, Limits, Made
from posezoo.export.metadata import with_metadata
from posezoo.export.pixels import keypoint_error
from posezoo.export.quantisation import lines_of
from posezoo.export.tflite import gated, to_tflite, write_file
from posezoo.inference.runners import TFLiteRunner

#: Runtime -> environment: gates that run where the environment is made.
OLD_RUNTIME = {"tflite-runtime 2.14": "tflite_214"}
COMPILERS_AGE = {"tflite-runtime 2.7": "edgetpu"}


def limits_of(job: Job, precision: str) -> Limits:
    """What a file of a precision may differ by."""
    if precision == "float32":
        return FLOAT32
    return job.float16 if precision == "float16" else job.int8


def tflite(job: Job, out: Path, *, precision: str, io: str | None = None) -> Made:
    """A TFLite file of a precision of `posezoo.export.tflite.FLAVOURS`."""
    calibration = list(job.calibration) if precision in ("int8", "int16x8") else None
    content = to_tflite(job.network, job.card.input, calibration, precision=precision, io=io)
    record = {"precision": precision, "calibration_pictures": len(calibration or ())}
    return write(job, with_metadata(content, job.card), out, limits_of(job, precision), OLD_RUNTIME, record)


def edgetpu(job: Job, out: Path, *, io: str = "int8", min_mapped: float = tpu.MIN_MAPPED) -> Made:
    """An int8 file for Edge TPU with its predicted mapping, compiled where the compiler is installed."""
    content, report = tpu.to_edgetpu(job.network, job.card, job.calibration, io=io)
    tpu.check_mapping(report, min_mapped=min_mapped)
    content = with_metadata(content, job.card)
    record = {"precision": "int8", "calibration_pictures": len(job.calibration), "edgetpu": report.as_dict()}
    made = write(job, content, out, job.int8, COMPILERS_AGE, record, compiler=True)
    return Made(made.files, made.agreements, made.details, (*report.lines()[:2], *made.notes))


def edgetpu_check(job: Job, *, io: str = "int8", min_mapped: float = tpu.MIN_MAPPED) -> list[str]:
    """What Edge TPU would make of a network, and why it would be refused if it would.

    Raises:
        EdgeTpuError: The compiler would not load the file; the message names the layer and the way out.
    """
    _, report = tpu.to_edgetpu(job.network, job.card, job.calibration, io=io)
    try:
        tpu.check_mapping(report, min_mapped=min_mapped)
    except tpu.EdgeTpuError as error:
        return [*report.lines(), str(error)]
    return report.lines()


def write(
    job: Job,
    content: bytes,
    out: Path,
    limits: Limits,
    environments: Mapping[str, str],
    record: Mapping[str, Any],
    *,
    compiler: bool = False,
) -> Made:
    """Gate a file on the runtimes here and in environments that are made, and write it."""
    sidecar = gated(
        content, job.reference, job.card.input, pictures=job.pictures, card=job.card, min_psnr_db=limits.min_psnr_db,
        max_error=limits.max_error, pythons=made_environments(environments), where=job.where,
    )  # fmt: skip
    sidecar |= {"weights": job.told_weights, **record}
    compiled: dict[str, bytes] = {}
    if compiler:
        sidecar["edgetpu"]["compiled"], compiled = tpu.compiled_or_none(content, out)
    write_file(content, sidecar, out, compiled)
    files = [out.with_name(name) for name in (out.name, f"{out.name}.json", *compiled)]
    by_runtime: dict[str, list[OutputReport]] = {}
    for row in (OutputReport(**row) for row in sidecar["gates"]):
        by_runtime.setdefault(row.kernels, []).append(row)
    got = TFLiteRunner(content, job.card.input)(job.pictures) if job.trained else None
    moved = keypoint_error(job.card, job.reference, got) if got else None
    first, *others = (tuple(rows) for rows in by_runtime.values())
    agreements = (Agreement(first, moved), *(Agreement(rows, None) for rows in others))
    told = ("operators", "quantisation", "report", *record)
    notes = tuple(lines_of(sidecar["report"])) if sidecar["calibration_pictures"] else ()
    return Made(tuple(files), agreements, {key: sidecar[key] for key in told}, notes)
