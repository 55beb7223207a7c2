"""Everything that a model can become, with one manifest of what was made, from what, and how well it agrees."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posezoo import __version__
from posezoo.cards import Card
from posezoo.errors import UserError
from posezoo.export.foreign import MissingToolError, environment
from posezoo.export.gates import GateError
from posezoo.export.job import Job, describe
from posezoo.export.targets import TARGETS, Target
from posezoo.files import replacing

log = logging.getLogger(__name__)

MANIFEST, TABLE = "manifest.json", "exports.md"
#: What may become of a target: a file; a file that was there; a layer that it does not take; a file that did not agree,
#: which was not written, or an error that nobody expected; a tool that is missing.
WRITTEN, KEPT, REFUSED, FAILED, LEFT_OUT = "written", "kept", "refused", "failed", "left out"
#: Packages whose version is part of what a file was made from.
PACKAGES = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "openvino", "ai-edge-litert")


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Attributes:
        target: Its name.
        status: One of the five words above.
        entry: The target's part of the manifest.
    """

    target: str
    status: str
    entry: dict[str, Any]


def export_everything(
    job: Job, folder: Path, *, targets: Iterable[Target] | None = None, say: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Write every target that takes a model, and the manifest after each.

    A target whose files are whole and were made from the same weights, pictures and versions is not made again; what
    was refused or failed so is not tried again either, unless for an error that nobody expected: that target failed,
    and the others are made all the same. Interrupted, the folder holds only whole files, and the manifest those that
    passed.

    Args:
        job: The network. Several models may share a folder.
        folder: Where to write.
        targets: Which; all by default.
        say: Called with every outcome as soon as it is known.

    Returns:
        One outcome per target.

    Raises:
        OSError: The folder cannot be written to.
    """
    begin = fingerprint(job)
    outcomes = []
    for target in TARGETS.values() if targets is None else targets:
        known = read_manifest(folder)["models"].get(job.card.name, {}).get("targets", {}).get(target.name)
        key = _key(target, begin)
        if known and known.get("key") == key and is_valid(known, folder):
            outcome = Outcome(target.name, KEPT if known["status"] == WRITTEN else known["status"], known)
        else:
            outcome = _make(target, job, folder, key)
            _remember(folder, job.card, begin, outcome)
        outcomes.append(outcome)
        say(outcome)
    return outcomes


def is_valid(entry: dict[str, Any], folder: Path) -> bool:
    """Whether what a manifest says of a target still holds: every file has its hash.

    What was left out, or ended in an error that nobody expected, is never valid: memory may have been short.
    """
    if entry["status"] == LEFT_OUT or entry.get("unexpected"):
        return False
    return all(
        (folder / name).exists() and describe(folder / name)["sha256"] == file["sha256"]
        for name, file in entry["files"].items()
    )


def fingerprint(job: Job) -> dict[str, Any]:
    """What a job's files are made from: weights and structure, pictures, versions.

    A SavedModel may hold its weights as constants of the graph, which no network of Keras tells of: a user's own file
    or folder counts with all it holds.
    """
    structure = hashlib.sha256(job.network.to_json().encode() if hasattr(job.network, "to_json") else b"")
    for value in job.network.get_weights():
        structure.update(np.ascontiguousarray(value).tobytes())
    if job.source is not None:
        structure.update(describe(job.source)["sha256"].encode())
    pictures = hashlib.sha256(np.ascontiguousarray(job.pictures).tobytes())
    for picture in job.calibration:
        pictures.update(np.ascontiguousarray(picture).tobytes())
    return {
        "weights": structure.hexdigest(), "trained": job.trained, "pictures": pictures.hexdigest(),
        "card": [repr(job.card.input), dict(job.card.codec), job.card.score_threshold],
        "versions": {"posezoo": __version__, **{p: _version(p) for p in PACKAGES}},
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _key(target: Target, begin: dict[str, Any]) -> str:
    told = json.dumps([target.function, dict(target.options), begin], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _make(target: Target, job: Job, folder: Path, key: str) -> Outcome:
    """Make one target and tell what became of it."""
    start = time.perf_counter()
    entry: dict[str, Any] = {"title": target.title, "key": key, "files": {}}
    try:
        if target.environment:
            environment(target.environment)
        if target.needs_calibration and not len(job.calibration):
            raise MissingToolError("no calibration pictures: give some with --calibration or --data")
        made = target.make(job, target.path(folder, job.card.name))
    except (MissingToolError, ImportError) as error:
        status, entry["reason"] = LEFT_OUT, str(error)
    except GateError as error:
        status, entry["reason"] = FAILED, str(error)
    except UserError as error:
        status, entry["reason"] = REFUSED, str(error)
    except OSError:
        # The folder cannot be written to, or the disk is full: no other target would fare better.
        raise
    except Exception as error:
        log.info("%s %s: an error that nobody expected", job.card.name, target.name, exc_info=error)
        status, entry["unexpected"] = FAILED, True
        entry["reason"] = f"{_first_line(error)}; --to {target.name} -v instead of --all shows where it came from"
    else:
        status = WRITTEN
        entry |= {
            "files": {path.relative_to(folder).as_posix(): describe(path) for path in made.files},
            "gates": [agreement.as_dict() for agreement in made.agreements],
            "notes": list(made.notes),
        }
    entry |= {"status": status, "seconds": round(time.perf_counter() - start, 1)}
    log.info("%s %s: %s", job.card.name, target.name, status)
    return Outcome(target.name, status, entry)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest; an empty one where there is none or it is broken."""
    try:
        content = json.loads((folder / MANIFEST).read_text())
        return content if isinstance(content.get("models"), dict) else {"models": {}}
    except (OSError, ValueError, AttributeError):
        return {"models": {}}


def _remember(folder: Path, card: Card, begin: dict[str, Any], outcome: Outcome) -> None:
    """Write the manifest with one more outcome, and the table of it."""
    manifest = read_manifest(folder)
    model = manifest["models"].setdefault(card.name, {"targets": {}})
    model |= {"licences": dict(card.licences), **begin}
    model["targets"][outcome.target] = outcome.entry
    for name, content in ((MANIFEST, json.dumps(manifest, indent=1)), (TABLE, table(manifest))):
        with replacing(folder / name) as path:
            path.write_text(content)


def table(manifest: dict[str, Any]) -> str:
    """A manifest as a Markdown table per model."""
    lines = ["# Exported files", "", f"Hashes, versions and every gate: `{MANIFEST}`.", ""]
    for model, content in sorted(manifest["models"].items()):
        note = "" if content["trained"] else " (structure only: weights that nobody trained)"
        lines += [f"## {model}{note}", "", "| target | file | size | gate | keypoints move by | |", "|" + "---|" * 6]
        for entry in content["targets"].values():
            lines.append(f"| {' | '.join(row(entry))} |")
        lines.append("")
    return "\n".join(lines)


def row(entry: dict[str, Any]) -> tuple[str, str, str, str, str, str]:
    """A target's entry in words: title, main file, size, gate, keypoints, notes or the reason why there is no file."""
    if entry["status"] != WRITTEN:
        return entry["title"], entry["status"], "", "", "", entry["reason"].replace("|", "/")
    size = sum(file["bytes"] for file in entry["files"].values())
    return (
        entry["title"], next(iter(entry["files"])), f"{size / 1e6:.2f} MB", worst_gate(entry), keypoints(entry),
        "; ".join(entry["notes"]),
    )  # fmt: skip


def worst_gate(entry: dict[str, Any]) -> str:
    """The worst output on the worst runtime, such as `76.3 dB on openvino`."""
    rows = [r for gate in entry["gates"] for r in gate["outputs"]]
    if not rows:
        return ""
    worst = min(rows, key=lambda r: r["psnr_db"])
    return f"{worst['psnr_db']:.1f} dB on {worst['kernels']}"


def keypoints(entry: dict[str, Any]) -> str:
    """How far keypoints move at worst over the runtimes: median and 95 of 100."""
    errors = [gate["keypoint_error"] for gate in entry["gates"] if gate["keypoint_error"]]
    if not errors:
        return ""
    worst = max(errors, key=lambda e: e["median_px"])
    return f"{worst['median_px']:.2f} px (95 %: {worst['p95_px']:.2f})"


def told(outcome: Outcome) -> str:
    """One line for a terminal."""
    words = row(outcome.entry)
    rest = " ".join(filter(None, (f"{words[1]} ({words[2]})", words[3], words[4])))
    return f"{outcome.status:9} {outcome.target:16} {rest if outcome.entry['status'] == WRITTEN else words[5]}"
