"""Latency of every depth pose machine in float and int8, at its own input, as in table I of its paper.

    python benchmarks/pose_machines_speed.py
    python benchmarks/pose_machines_speed.py --models "mpm_*" --runs 50

Weights do not matter here, so files are made from untrained networks. All files and a yardstick run interleaved on one
thread; decoding is timed on drawn maps of four people.
"""

from __future__ import annotations

import argparse
import fnmatch
import shlex
from pathlib import Path

import cv2
from efficienthrnet_speed import contenders, latency_rows, latency_section
from latency import peer_contender
from peers import YARDSTICK, present
from report import RESULTS, SHARED, environment, write_results

import posezoo


def markdown(record: dict) -> str:
    return "\n".join(["# Pose machines: latency\n", *latency_section(record)])


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: all)")
    parser.add_argument("--runs", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of peers/ (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for pose_machines_speed.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    names = [
        n
        for n in posezoo.list_models()
        if posezoo.info(n).family == "pose_machines" and fnmatch.fnmatch(n, arguments.models)
    ]
    if not names:
        raise SystemExit(f"no depth model is called '{arguments.models}'; try: posezoo list '*pm_*'")
    command = ["python", "benchmarks/pose_machines_speed.py"]
    command += ["--models", arguments.models] if arguments.models != "*" else []
    made, about = contenders(names, arguments.threads)
    for peer in present((YARDSTICK,), arguments.shared / "peers"):
        made[peer], told = peer_contender(peer, arguments.shared / "peers", arguments.threads)
        about[peer] = {"model": peer, **{k: told[k] for k in ("precision", "input", "bytes")}}
    record = {
        "command": shlex.join(command), "threads": arguments.threads, "runs": arguments.runs,
        "environment": environment("ai-edge-litert", "keras", "tensorflow"),
        "latency": latency_rows(made, about, runs=arguments.runs),
    }  # fmt: skip
    write_results(arguments.out, "pose_machines_speed", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
