"""How long `posezoo export MODEL --to tflite` takes, from typing it to a gated int8 file, and how much memory.

    python benchmarks/conversion_speed.py --models mpm_1s efficienthrnet_lite_h-2
    python benchmarks/conversion_speed.py --models mpm_1s --calibration frames/

Each run is a process of its own, so that starting Python and importing TensorFlow count as they do for a user. Models
without released weights are exported with --structure-only. Pictures are real ones of the shared data set, or a
folder's; how many of them is left to the command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import RESULTS, SHARED, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo.cards import Card
from posezoo.zoo import released_card

POSEZOO = (sys.executable, "-c", "import sys; from posezoo.cli import main; sys.exit(main())")
#: A process starts with the peak of the one that started it: a small one in between tells its child's own.
SMALL = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=sys.stderr)
seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"seconds": seconds, "peak_gb": peak / 1e6, "status": status}))
"""


#: One of each family that has released weights for photos or depth frames, and the two largest below 10 GMACs.
MODELS = ("mpm_1s", "mobilenet_split_224", "efficienthrnet_lite_h-4", "efficienthrnet_lite_h-2", "rpm_1s")


def pictures_of(card: Card) -> Path:
    """The folder of real pictures for a model: depth frames, or photos.

    Raises:
        SystemExit: The model looks at hands, of which there are no pictures.
    """
    if card.family == "hand":
        raise SystemExit(f"{card.name}: give frames of hands with --calibration, such as posezoo synth --hands makes")
    return SHARED / "data" / ("utd_mhad_depth/depth" if card.input.depth else "lspet/images")


def words_of(card: Card, calibration: Path) -> list[str]:
    """The command's words but for its output file."""
    words = ["export", card.name, "--to", "tflite", "--calibration", str(calibration)]
    return words if card.weights else [*words, "--structure-only"]


def timed(words: list[str]) -> dict[str, Any]:
    """Run the command once in a process of its own.

    Returns:
        Its seconds, the most memory that it or one of its children took, in GB, and its last line when it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SMALL, *POSEZOO, *words, "--out", str(Path(folder) / "model.tflite")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    if status := row.pop("status"):
        row["reason"] = (done.stderr.strip().splitlines() or [f"exit status {status}"])[-1]
    return row


def measured(name: str, calibration: Path | None, runs: int) -> dict[str, Any]:
    """The row of one model."""
    card = released_card(name)
    words = words_of(card, calibration or pictures_of(card))
    taken = []
    for _ in range(runs):
        taken.append(timed(words))
        print(f"{name:28} {taken[-1]['seconds']:.1f} s, {taken[-1]['peak_gb']:.1f} GB", flush=True)
    row = {
        "model": name, "macs": card.size["macs"], "seconds": [round(t["seconds"], 1) for t in taken],
        "peak_gb": round(max(t["peak_gb"] for t in taken), 2),
    }  # fmt: skip
    reasons = [t["reason"] for t in taken if "reason" in t]
    return row | ({"reason": reasons[0]} if reasons else {})


def markdown(record: dict[str, Any]) -> str:
    """The results as a page."""
    rows = [
        (
            r["model"], f"{r['macs'] / 1e9:.2f}", f"{statistics.median(r['seconds']):.0f}",
            ", ".join(f"{s:.1f}" for s in r["seconds"]), f"{r['peak_gb']:.1f}", r.get("reason", "written"),
        )
        for r in record["rows"]
    ]  # fmt: skip
    about = (
        "Seconds of `posezoo export MODEL --to tflite --calibration PICTURES`, a process each time: start, calibration "
        "on as many pictures as it takes by itself (100, or 8 above 10 GMACs), conversion, all gates. "
        f"Made by `{record['command']}` on {machine_line(record['environment'])}.\n"
    )
    columns = ("model", "GMACs", "median s", "every run", "most GB", "file")
    return "\n".join(["# Converting to an int8 file\n", about, markdown_table(columns, rows)])


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help=f"names (default: {', '.join(MODELS)})")
    parser.add_argument("--calibration", type=Path, help="folder of pictures (default: of the shared data set)")
    parser.add_argument("--runs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for conversion_speed.json and .md")
    arguments = parser.parse_args(argv)
    names = arguments.models or MODELS
    if unknown := sorted(set(names) - set(posezoo.list_models())):
        raise SystemExit(f"no model is called {', '.join(unknown)}; try: posezoo list")
    for folder in {arguments.calibration or pictures_of(released_card(name)) for name in names}:
        if not folder.is_dir():
            raise SystemExit(f"{folder}: no such folder; give one with --calibration, or set POSEZOO_SHARED")
    command = ["python", "benchmarks/conversion_speed.py"]
    command += ["--models", *arguments.models] if arguments.models else []
    begin = environment("tensorflow", "keras", "ai-edge-litert")
    rows = [measured(name, arguments.calibration, arguments.runs) for name in names]
    record = {"command": shlex.join(command), "environment": begin, "rows": rows}
    write_results(arguments.out, "conversion_speed", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
