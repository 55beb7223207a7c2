"""F-score of pose machines that were trained the same way several times: mean and spread over seeds.

    python benchmarks/distillation.py --model mpm_2s --input-px 184x224 \\
        --row alone runs/alone_*/best.weights.h5 --row taught runs/taught_*/best.weights.h5

Every --row is a way of training and the weights of its seeds, such as those that `recipes/train_pose_machine.py` and
`recipes/distill_pose_machine.py` leave with --seed 1, 2 and 3. Measured on the rendered frames of
`benchmarks/pose_machines.py`: bodies, rooms and motions that nobody trained on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
from pose_machines import SETS, evenly, measure, rendered
from report import RESULTS, SHARED, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo.training.config import input_size

SCORES = ("all_precision", "all_recall", "all_f", "upper_f")


def spread(rows: list[dict]) -> dict:
    """Mean and standard deviation (of the seeds seen) of every score."""
    values = {name: np.array([row[name] for row in rows]) for name in SCORES}
    return {
        name: {"mean": round(float(v.mean()), 4), "spread": round(float(v.std(ddof=min(len(v) - 1, 1))), 4)}
        for name, v in values.items()
    }


def markdown(record: dict) -> str:
    """The results as a page."""
    rows = [
        (row["label"], len(row["seeds"]), *(f"{row[s]['mean']:.3f} ± {row[s]['spread']:.3f}" for s in SCORES))
        for row in record["rows"]
    ]
    about = (
        f"`{record['model']}` at {record['input_px']} px, {record['frames']} frames: {record['protocol']}. Mean and "
        f"standard deviation over seeds. Made by `{record['command']}` on {machine_line(record['environment'])}."
    )
    table = markdown_table(("trained", "seeds", "AP", "AR", "F", "upper F"), rows)
    return "\n".join(["# Distillation\n", about, "", table])


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mpm_2s", help="the student (default: %(default)s)")
    parser.add_argument("--input-px", default="", help="side, or HEIGHTxWIDTH, of its input (default: the card's)")
    parser.add_argument(
        "--row", nargs="+", action="append", required=True, metavar=("LABEL", "WEIGHTS"), help="a way of training"
    )
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of data/ (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=0, help="take only so many frames; 0 for all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for distillation.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    if any(len(row) < 2 for row in arguments.row):
        raise SystemExit("--row: expected a label and at least one file of weights")
    size = arguments.input_px or "x".join(map(str, posezoo.info(arguments.model).input.shape[:2]))
    frames = evenly(rendered(arguments.shared), arguments.frames)
    record: dict = {
        "model": arguments.model, "input_px": size, "frames": len(frames), "protocol": SETS["synth"],
        "command": f"python benchmarks/distillation.py {shlex.join(sys.argv[1:] if argv is None else argv)}",
        "environment": environment("keras", "tensorflow", "torch"), "rows": [],
    }  # fmt: skip
    build = input_size(size)
    for label, *files in arguments.row:
        seeds = []
        for number, file in enumerate(files, 1):
            model = posezoo.load(arguments.model, weights=file, build=build)
            seeds.append({"weights": Path(file).name, **measure(model, frames, f"{label} {number}")})
            print(f"{label} {number}: F {seeds[-1]['all_f']}", flush=True)
        record["rows"].append({"label": label, "seeds": seeds, **spread(seeds)})
    write_results(arguments.out, "distillation", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
