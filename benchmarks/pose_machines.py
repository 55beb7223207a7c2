"""Precision, recall and F-score of every released depth pose machine, float and int8, in one run.

    python benchmarks/pose_machines.py
    python benchmarks/pose_machines.py --models "mpm_*" --frames 50

Two sets: real Kinect frames of one person (UTD-MHAD's subject 7, who is in no training set; looked for in
POSEZOO_SHARED/data), and rendered frames of one to four people with bodies, rooms and motions that were not trained on.
The rendered ones are made on the first run, from CMU's motion files in POSEZOO_SHARED/data that recipes leave out.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import cv2
import numpy as np
from released import released
from report import RESULTS, ROOT, SHARED, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo.commands.display import track
from posezoo.data.depth_scenes import DepthFrame, RecordFrames
from posezoo.data.readers import read
from posezoo.evaluation.pose_machines import UPPER_BODY, Labelled, score_landmarks
from posezoo.synth.crowd import body_source
from posezoo.synth.frames import SynthFrames
from posezoo.synth.write import Job, write_dataset

#: Rendered frames: number, seed, and the clips of CMU's motion files that training uses.
RENDERED, SEED = 400, 99
TRAINED_ON = ("001_*", "003_*", "005_*", "006_*")
SETS = {
    "utd_mhad": "real Kinect 1 frames of UTD-MHAD's subject 7, one person, background cut away, tracker's labels of 14 "
    "landmarks",
    "synth": f"{RENDERED} rendered frames of 1 to 4 people, bodies, rooms and motions not trained on",
}


def is_pose_machine(card) -> bool:
    return card.family == "pose_machines"


def real(shared: Path):
    return RecordFrames(read("utd_mhad", shared / "data" / "utd_mhad_depth", "val"), segmented=True)


def rendered(shared: Path):
    folder = ROOT / "runs" / "benchmark_synth"
    motion = [str(shared / "data" / "mocap_cmu_bvh")]
    job = Job(
        body_source(["builtin"], motion, TRAINED_ON), RENDERED, seed=SEED,
        told={"motion": "mocap_cmu_bvh", "leave_out": list(TRAINED_ON)},
    )  # fmt: skip
    write_dataset(folder, job, progress=lambda shards, count: track(shards, "rendering", total=count))
    return SynthFrames(folder)


def evenly(frames, count: int) -> list[DepthFrame]:
    count = min(count or len(frames), len(frames))
    return [frames[i * len(frames) // count] for i in range(count)]


def measure(model, frames: list[DepthFrame], title: str) -> dict:
    found = [Labelled(model(frame.depth), frame.keypoints, frame.boxes) for frame in track(frames, title)]
    scores = score_landmarks(found)
    row: dict = {"frames": len(frames)}
    for part, kinds in (("all", None), ("upper", UPPER_BODY)):
        mean = scores.summary(kinds=kinds, threshold=model.card.score_threshold)
        values = {"precision": mean.precision, "recall": mean.recall, "f": mean.f_score}
        row |= {f"{part}_{k}": round(float(v), 4) for k, v in values.items()}
    return row


def markdown(record: dict) -> str:
    parts = [f"{part}_{k}" for part in ("all", "upper") for k in ("precision", "recall", "f")]
    rows = [
        (
            f"`{r['model']}`",
            r["precision"],
            r["dataset"],
            *(f"{r[p]:.3f}" if np.isfinite(r[p]) else None for p in parts),
        )
        for r in record["rows"]
    ]
    told = " ".join(f"{name}: {text}." for name, text in record["protocol"].items())
    columns = ("model", "precision", "frames", "AP", "AR", "F", "upper AP", "upper AR", "upper F")
    about = f"{told} Made by `{record['command']}` on {machine_line(record['environment'])}."
    return "\n".join(["# Pose machines on depth frames\n", about, "", markdown_table(columns, rows)])


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: every released depth model)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of data/ (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=0, help="take only so many frames of each set; 0 for all")
    parser.add_argument("--threads", type=int, help="threads of the TFLite runtime")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for pose_machines.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    needs = {"utd_mhad": (real, "utd_mhad_depth"), "synth": (rendered, "mocap_cmu_bvh")}
    sets = {}
    for name, (make, folder) in needs.items():
        if (arguments.shared / "data" / folder).is_dir():
            sets[name] = evenly(make(arguments.shared), arguments.frames)
        else:
            print(f"left out: no {arguments.shared / 'data' / folder}")
    names = [n for n in posezoo.list_models(arguments.models, released=True) if is_pose_machine(posezoo.info(n))]
    if not sets or not names:
        raise SystemExit(f"nothing to measure: no frames, or no released depth model is called '{arguments.models}'")
    command = ["python", "benchmarks/pose_machines.py"]
    command += ["--models", arguments.models] if arguments.models != "*" else []
    command += ["--frames", str(arguments.frames)] if arguments.frames else []
    record = {
        "protocol": {name: SETS[name] for name in sets},
        "command": shlex.join(command),
        "environment": environment("ai-edge-litert", "keras", "tensorflow"),
        "rows": [],
    }
    for name, precision, model in released(arguments.models, threads=arguments.threads, wanted=is_pose_machine):
        for dataset, frames in sets.items():
            row = {"model": name, "precision": precision, "dataset": dataset}
            row |= measure(model, frames, f"{name} {precision} {dataset}")
            record["rows"].append(row)
            print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    write_results(arguments.out, "pose_machines", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
