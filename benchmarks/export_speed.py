"""Size and latency of a model's files in float and int8 on LiteRT, onnxruntime and OpenVINO, and how long they take.

    python benchmarks/export_speed.py --models mpm_1s mobilenet_split_224
    python benchmarks/export_speed.py --folder exported                 # keeps the files there

Files are made by the registry of export targets, gated, and kept in --folder: a second run makes only what is missing.
Every network has seeded weights and smooth pictures, whose times and sizes are those of trained ones: nothing need be
downloaded, and no range costs a file its gate. What is timed is a picture in and named float maps out, all files of a
model interleaved, one picture at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from report import RESULTS, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo.cards import Card
from posezoo.evaluation.latency import Contender, measure
from posezoo.export.everything import LEFT_OUT, MANIFEST, WRITTEN, export_everything
from posezoo.export.job import Job
from posezoo.export.seeded import seed_weights, smooth_pictures
from posezoo.export.targets import TARGETS, get_target
from posezoo.inference.runners import OnnxRunner, OpenVinoRunner, TFLiteRunner
from posezoo.zoo import build_released, released_card

#: Suffix of a main file -> its runtime's name and class.
RUNTIMES = {
    ".tflite": ("LiteRT", TFLiteRunner),
    ".onnx": ("onnxruntime", OnnxRunner),
    ".xml": ("OpenVINO", OpenVinoRunner),
}
#: Runtime -> its targets in float32 and int8, whose ratio is told.
PAIRS = {
    "LiteRT": ["tflite_float32", "tflite"],
    "onnxruntime": ["onnx", "onnx_int8"],
    "OpenVINO": ["openvino", "openvino_int8"],
}
#: Calibration pictures; ranges do not change the time.
PICTURES = 8


def job_of(name: str) -> Job:
    """A network as its released weights were made, with seeded ones, and pictures."""
    card, network = released_card(name), build_released(name)
    seed_weights(network, card)
    pictures = smooth_pictures(card, PICTURES)
    return Job(network, card, pictures[:2], list(pictures), trained=False)


def files_of(name: str, folder: Path, targets: list[str]) -> dict[str, dict[str, Any]]:
    """Make what is missing of a model; return target -> its entry in the manifest."""
    wanted = [get_target(target) for target in targets]
    for outcome in export_everything(job_of(name), folder, targets=wanted):
        print(f"  {outcome.status:9} {outcome.target:16} {outcome.entry['seconds']:.1f} s", flush=True)
    made = json.loads((folder / MANIFEST).read_text())["models"][name]["targets"]
    return {target: made[target] for target in targets if target in made}


def peak_gb() -> float:
    """The most memory that this process, or one that it started, took so far."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(one).ru_maxrss for one in who) / 1e6


def main_file(entry: dict[str, Any], folder: Path) -> Path:
    """A target's main file."""
    return folder / next(iter(entry["files"]))


def contenders(card: Card, entries: dict[str, Any], folder: Path, threads: int) -> dict[str, Contender]:
    """What is timed: each file that was written, on its runtime, with a picture."""
    (picture,) = smooth_pictures(card, 1)
    found = {}
    for target, entry in entries.items():
        if entry["status"] == WRITTEN and (path := main_file(entry, folder)).suffix in RUNTIMES:
            runner = RUNTIMES[path.suffix][1](path, card.input, threads=threads)
            found[target] = Contender(partial(runner, picture[None]))
    return found


def measured(name: str, folder: Path, targets: list[str], *, runs: int, threads: int) -> list[dict[str, Any]]:
    """Rows of one model."""
    print(name, flush=True)
    entries = files_of(name, folder, targets)
    card = released_card(name)
    times = measure(contenders(card, entries, folder, threads), runs=runs, warm_up=min(runs, 5))
    float_of = {int8: full for full, int8 in PAIRS.values()}
    rows = []
    for target, entry in entries.items():
        row = {"model": name, "target": target, "status": entry["status"], "made_in_s": entry["seconds"]}
        if target in times:
            path = main_file(entry, folder)
            weights = path.with_suffix(".bin") if path.suffix == ".xml" else None
            size = path.stat().st_size + (weights.stat().st_size if weights else 0)
            runtime, ms = RUNTIMES[path.suffix][0], times[target].network_ms
            full = times.get(float_of.get(target, ""))
            row |= {
                "runtime": runtime, "bytes": size, "ms": round(ms, 3), "spread_ms": round(times[target].spread_ms, 3),
                "of_float": round(ms / full.network_ms, 3) if full else None,
            }  # fmt: skip
        else:
            row["reason"] = entry.get("reason", "")
        rows.append(row)
    return rows


def markdown(record: dict[str, Any]) -> str:
    """The results as a page."""
    columns = ("model", "file", "runtime", "MB", "ms", "of float", "made in s")
    rows = [
        (
            r["model"], TARGETS[r["target"]].title, r["runtime"], f"{r['bytes'] / 1e6:.2f}", f"{r['ms']:.2f}",
            "" if r["of_float"] is None else f"{r['of_float']:.2f}", f"{r['made_in_s']:.1f}",
        )
        for r in record["rows"] if "ms" in r
    ]  # fmt: skip
    missing = [f"- {r['model']}, {r['target']}: {r['status']}, {r['reason']}" for r in record["rows"] if "ms" not in r]
    about = (
        f"Medians of {record['runs']} interleaved runs on {record['threads']} thread(s), from picture to float maps; "
        f"'made in' is conversion with all gates, for which {record['peak_gb']:.1f} GB were enough. "
        f"Made by `{record['command']}` on {machine_line(record['environment'])}.\n"
    )
    page = ["# Exported files: size and latency\n", about, markdown_table(columns, rows)]
    return "\n".join([*page, *(["\nNot timed:\n", *missing] if missing else [])])


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="names (default: every model with released weights)")
    parser.add_argument(
        "--targets", nargs="+", default=[t for pair in PAIRS.values() for t in pair], metavar="TARGET",
        help="see 'posezoo export --to list' (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="where files are kept (default: nowhere)")
    parser.add_argument("--runs", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for export_speed.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    names = arguments.models or posezoo.list_models(released=True)
    if unknown := sorted(set(names) - set(posezoo.list_models())):
        raise SystemExit(f"no model is called {', '.join(unknown)}; try: posezoo list")
    command = ["python", "benchmarks/export_speed.py"]
    command += ["--models", *arguments.models] if arguments.models else []
    begin = environment("tensorflow", "keras", "ai-edge-litert", "onnxruntime", "openvino")
    with tempfile.TemporaryDirectory() as nowhere:
        folder = arguments.folder or Path(nowhere)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            row
            for name in names
            for row in measured(name, folder, arguments.targets, runs=arguments.runs, threads=arguments.threads)
        ]
    record = {
        "command": shlex.join(command), "threads": arguments.threads, "runs": arguments.runs, "environment": begin,
        "peak_gb": round(peak_gb(), 2), "pairs": PAIRS, "rows": rows,
    }  # fmt: skip
    write_results(arguments.out, "export_speed", record, markdown(record))
    left_out = sum(row["status"] == LEFT_OUT for row in rows)
    if left_out:
        print(f"{left_out} file(s) were left out: a tool is missing, see export_speed.md")
    return record


if __name__ == "__main__":
    main()
