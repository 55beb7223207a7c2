"""Export every registered model to every target and write what came of it to docs/export-matrix.md.

    python tools/export_matrix.py                                # all of them: hours; goes on where it stopped
    python tools/export_matrix.py --models "mpm*" --targets onnx,myriad
    python tools/export_matrix.py --table                        # only write the page from what was measured

Models with released weights are calibrated and compared on real pictures (`POSEZOO_SHARED`); the others are exported
with weights that nobody trained, and marked "structure only". Every model runs in a process of its own; its files are
deleted when their gates are done (`--keep` keeps them in `--out`), and what was measured is kept beside the other
measurements (`--results`), so that a later run, on another machine too, measures what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.cards import Card
from posezoo.commands.export import LARGE_MACS
from posezoo.export.everything import (
    FAILED,
    LEFT_OUT,
    MANIFEST,
    REFUSED,
    WRITTEN,
    export_everything,
    fingerprint,
    keypoints,
    told,
)
from posezoo.export.job import Job
from posezoo.export.seeded import seed_weights, smooth_pictures
from posezoo.export.targets import TARGETS, get_target
from posezoo.files import replacing, write_json
from posezoo.zoo import build, info, list_models, load, released_card

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "export-matrix.md"
RESULTS = ROOT / "benchmarks" / "results" / "export_matrix"


def make_job(name: str, shared: Path) -> Job:
    """The network with pictures: released weights and real pictures, or seeded weights and smooth ones."""
    card = released_card(name)
    if not card.weights:
        network = build(name)
        seed_weights(network, card)
        pictures = smooth_pictures(card, 4 if card.size["macs"] > LARGE_MACS else 8)
        return Job(network, card, pictures[:3], list(pictures), trained=False)
    pictures = real_pictures(card, shared / "data")
    return Job(load(name, runtime="keras").network, card, np.stack(pictures[::25][:8]), pictures)


def real_pictures(card: Card, data: Path, *, count: int = 200) -> list[np.ndarray]:
    """Pictures of people as the network takes them.

    Raises:
        FileNotFoundError: The data are not there.
    """
    from posezoo.data.calibration import person_crops, whole_pictures
    from posezoo.data.pipeline import PersonCrops
    from posezoo.data.readers import read

    if card.family == "hand":
        return rendered_hands(card, count=32)
    if card.input.depth:
        frames = sorted((data / "utd_mhad_depth" / "depth").rglob("*.png"))
        if not frames:
            raise FileNotFoundError(f"{data / 'utd_mhad_depth'}: no depth frames; set POSEZOO_SHARED")
        return whole_pictures(frames, card.input, limit=count)
    people = read("lsp", data / "lspet", "train")
    if card.codec["type"] in ("heatmap", "coordinate"):
        return person_crops(PersonCrops(people, card.input.wh), limit=count)
    return whole_pictures([record.path for record in people.records], card.input, limit=count)


def rendered_hands(card: Card, *, count: int) -> list[np.ndarray]:
    """Frames of two rendered hands, as a depth camera would store them."""
    import cv2

    from posezoo.data.calibration import whole_pictures
    from posezoo.synth.hand_frames import demo_frame

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{seed:03d}.png" for seed in range(count)]
        for seed, path in enumerate(paths):
            frame = demo_frame(seed)
            cv2.imwrite(str(path), frame.depth if card.input.depth else frame.amplitude)
        return whole_pictures(paths, card.input, limit=count)


def measure(name: str, results: Path, targets: list[str], *, out: Path, keep: bool, shared: Path) -> None:
    """Export one model; write what was not measured, or was of other weights or pictures, as `NAME.json` of `results`.

    Files go to `out`, and stay there with `keep`.
    """
    folder, results = out / name, results / f"{name}.json"
    known = json.loads(results.read_text()) if results.exists() else {"targets": {}}
    job = make_job(name, shared)
    now = json.loads(json.dumps(fingerprint(job)))
    if any(known.get(key) != now[key] for key in ("weights", "pictures", "card")):
        known = {"targets": {}}
    chosen = [get_target(target) for target in targets if target not in known["targets"]]
    if not chosen:
        return
    export_everything(job, folder, targets=chosen, say=lambda o: print(f"{name:32} {told(o)}", flush=True))
    content = json.loads((folder / MANIFEST).read_text())["models"][name]
    done = {t: entry for t, entry in content["targets"].items() if entry["status"] != LEFT_OUT}
    missing = {t: entry for t, entry in content["targets"].items() if entry["status"] == LEFT_OUT}
    merged = {**content, "targets": {**known["targets"], **done}, "left_out": missing}
    write_json(results, merged)
    if not keep:
        shutil.rmtree(folder)


def forget(results: Path, models: list[str], targets: list[str]) -> None:
    """Drop what was measured of some targets."""
    for path in results.glob("*.json"):
        content = json.loads(path.read_text())
        if path.stem in models:
            content["targets"] = {name: e for name, e in content["targets"].items() if name not in targets}
            write_json(path, content)


def page(results: dict[str, dict], missing: Sequence[str] = ()) -> str:
    """The page: one row per model, one column per target, then the reasons, and what the compilers said.

    Args:
        results: What was measured, by model.
        missing: Models that were not measured yet, which the page says.
    """
    names = [t for t in TARGETS if any(t in r["targets"] for r in results.values())]
    versions = next(iter(results.values()))["versions"] if results else {}
    lines = [
        "# What every model becomes",
        "",
        "Written by `python tools/export_matrix.py`; every cell is a file that was read back and compared with its "
        "network, or the reason why there is none.",
        "",
        "A number in dB is the worst output's PSNR against the Keras network. For released weights the median distance "
        "of keypoints in pixels of the input stands below it. Models marked * have no released weights: they are "
        "exported with weights that nobody trained, which shows that the structure is taken, and no more; their int8 "
        "and float16 files lose more than trained ones, since random layers amplify rounding.",
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items() if v) + ".",
        "",
        "| model | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    reasons: list[Reason] = []
    for model, content in sorted(results.items()):
        star = "" if content["trained"] else " *"
        cells = [cell(content["targets"].get(name), model, name, reasons) for name in names]
        lines.append(f"| `{model}`{star} | {' | '.join(cells)} |")
    gaps = missing_lines(results, missing)
    lines += ["", *gaps, *reason_lines(reasons, complete=bool(results) and not gaps), *compiler_lines(results)]
    return "\n".join(lines).rstrip() + "\n"


@dataclass(frozen=True)
class Reason:
    """Why a model has no file for a target: its status, what was found, and the way out."""

    model: str
    target: str
    status: str
    found: str
    way_out: str


def cell(entry: dict | None, model: str, target: str, reasons: list[Reason]) -> str:
    """One cell; why there is no file is collected."""
    if entry is None:
        return ""
    if entry["status"] != WRITTEN:
        why = entry["reason"].replace(str(Path.home()), "~")
        found, _, way_out = why.rpartition("; ") if "; " in why else (why, "", "")
        reasons.append(Reason(model, target, entry["status"], found, way_out))
        return f"**{entry['status']}**"
    worst = min(row["psnr_db"] for gate in entry["gates"] for row in gate["outputs"])
    moved = keypoints(entry).split(" (")[0]
    return f"{worst:.0f} dB" + (f"<br>{moved}" if moved else "")


def missing_lines(results: dict[str, dict], missing: Sequence[str]) -> list[str]:
    """Models, and targets of the others, that were not measured yet."""
    lines = ["Not measured yet: " + ", ".join(f"`{name}`" for name in missing) + ".", ""] if missing else []
    models: dict[str, list[str]] = {}
    for model, content in sorted(results.items()):
        for target in TARGETS:
            if target not in content["targets"]:
                models.setdefault(target, []).append(f"`{model}`")
    whole = [t for t, names in models.items() if len(names) == len(results)]
    if whole:
        lines += [f"Not measured yet for any model: {', '.join(whole)}.", ""]
    for target, names in models.items():
        if target not in whole:
            lines += [f"Not measured yet for {target}: {', '.join(names)}.", ""]
    return lines


def reason_lines(reasons: list[Reason], *, complete: bool) -> list[str]:
    """Why there is no file, each reason and way out once; that there is every file only where all were measured."""
    if not reasons:
        return ["No target refuses a model, and no gate failed.", ""] if complete else []
    lines = ["## Why there is no file", ""]
    for (status, way_out), alike in grouped(reasons, lambda r: (r.status, r.way_out)):
        lines.append(f"- {status}" + (f"; the way out: {way_out}" if way_out else ""))
        for found, same in grouped(alike, lambda r: r.found):
            each = grouped(same, lambda r: r.model)
            told = "; ".join(f"`{model}` for {', '.join(r.target for r in own)}" for model, own in each)
            lines.append(f"  - {told}: {found}")
    return [*lines, ""]


def grouped(reasons: list[Reason], key: Callable[[Reason], Any]) -> list[tuple[Any, list[Reason]]]:
    """Return the values of a key in their order, each with its reasons."""
    groups: dict[Any, list[Reason]] = {}
    for reason in reasons:
        groups.setdefault(key(reason), []).append(reason)
    return list(groups.items())


def compiler_lines(results: dict[str, dict]) -> list[str]:
    """What the Myriad compiler made of each model."""
    rows = [(m, r["targets"]["myriad"]) for m, r in sorted(results.items()) if "myriad" in r["targets"]]
    rows = [(model, entry) for model, entry in rows if entry["status"] == WRITTEN]
    if not rows:
        return coverage_lines(results)
    lines = [
        "## Myriad X: what runs where",
        "",
        "From the compiler itself (OpenVINO 2021.3, 8 SHAVEs), which needs no device. Latency is the device's to say.",
        "",
        "| model | blob | stages |",
        "|---|---|---|",
    ]
    for model, entry in rows:
        blob = next(iter(entry["files"].values()))
        stages = next(note for note in entry["notes"] if "hardware stages" in note)
        lines.append(f"| `{model}` | {blob['bytes'] / 1e6:.2f} MB | {stages} |")
    return [*lines, "", *coverage_lines(results)]


def coverage_lines(results: dict[str, dict]) -> list[str]:
    """Networks of which TF-TRT has not every operation."""
    rows = [(m, r["targets"]["tftrt"]) for m, r in sorted(results.items()) if "tftrt" in r["targets"]]
    notes = [(model, entry["notes"][0]) for model, entry in rows if entry["status"] == WRITTEN]
    left = [f"- `{model}`: {note}" for model, note in notes if "left to TensorFlow" in note]
    rest = f"TF-TRT has a converter for every operation of {'the others' if left else 'every network'}."
    return ["## TF-TRT: what stays with TensorFlow", "", *left, *([""] if left else []), rest, ""] if notes else []


def read_results(folder: Path) -> dict[str, dict]:
    """What was measured, by model; targets that were left out for want of a tool count as not measured."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def main(argv: list[str] | None = None) -> int:
    """Measure what was not, write the page; 1 where a gate failed or a process died."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: all)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="names with commas (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=cache / "posezoo" / "export-matrix", help="(default: %(default)s)")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("POSEZOO_SHARED", "../shared")))
    parser.add_argument("--page", type=Path, default=PAGE, help="(default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="measure the targets named, measured or not")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    targets = [get_target(name).name for name in arguments.targets.split(",")]
    if arguments.one:
        measure(
            arguments.one, arguments.results, targets, out=arguments.out, keep=arguments.keep, shared=arguments.shared
        )  # fmt: skip
        return 0
    if arguments.again:
        forget(arguments.results, list_models(arguments.models), targets)
    died = []
    for name in [] if arguments.table else sorted(list_models(arguments.models), key=_order):
        command = [sys.executable, __file__, "--one", name, "--targets", arguments.targets]
        for folder in ("results", "out", "shared"):
            command += [f"--{folder}", str(getattr(arguments, folder))]
        command += ["--keep"] if arguments.keep else []
        if subprocess.run(command, check=False).returncode:
            died.append(name)
    results = read_results(arguments.results)
    with replacing(arguments.page) as path:
        path.write_text(page(results, [name for name in list_models() if name not in results]))
    entries = [entry for r in results.values() for entry in r["targets"].values()]
    counts = {status: sum(e["status"] == status for e in entries) for status in (WRITTEN, REFUSED, FAILED)}
    print(f"{len(results)} models: {counts}; written: {arguments.page}")
    if died:
        print(f"ended early, start again to go on: {', '.join(died)}", file=sys.stderr)
    return int(bool(died) or counts[FAILED] > 0)


def _order(name: str) -> tuple[bool, int]:
    """Released ones first, then small ones."""
    card = info(name)
    return not card.weights, card.size["macs"]


if __name__ == "__main__":
    sys.exit(main())
