"""What a training step and a run of the hand network cost with grouped convolutions as one operation, and by groups.

    python benchmarks/grouped_convolutions.py

TensorFlow has kernels of grouped convolutions where oneDNN is on: on processors with AVX-512 VNNI, or where
TF_ENABLE_ONEDNN_OPTS is 1. Elsewhere posezoo computes them by groups. Three processes, which take turns: oneDNN with
one operation, oneDNN by groups, and TensorFlow's own kernels by groups.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from report import RESULTS, environment, machine_line, markdown_table, write_results

#: Name -> TF_ENABLE_ONEDNN_OPTS, and how convolutions are written.
VARIANTS = {
    "oneDNN, one operation": ("1", "whole"),
    "oneDNN, by groups": ("1", "here, without kernels"),
    "TensorFlow's own kernels, by groups": ("0", "here"),
}
BASE = next(iter(VARIANTS))
MODEL = "hand25d"


def serve(how: str, batch: int) -> None:
    """Time a step and a run at each line of standard input."""
    import keras
    import tensorflow as tf

    import posezoo
    from posezoo import layers

    tf.config.threading.set_intra_op_parallelism_threads(1)
    if how == "here, without kernels":
        layers.tensorflow_has_group_kernels = lambda: False
    keras.utils.set_random_seed(1)
    network = posezoo.build(MODEL)
    images = np.random.default_rng(0).normal(size=(batch, *network.input_shape[1:])).astype(np.float32)
    targets = {name: np.zeros((batch, *value.shape[1:]), np.float32) for name, value in network.output.items()}
    network.compile("adam", dict.fromkeys(targets, "mse"), jit_compile=False)
    run = tf.function(lambda x: network(x, training=False))
    network.train_on_batch(images, targets)
    run(images[:1])
    print("ready", flush=True)
    for _ in sys.stdin:
        times = []
        for call in (lambda: network.train_on_batch(images, targets), lambda: run(images[:1])):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


def measure(batch: int, turns: int) -> dict[str, np.ndarray]:
    """Return name of a variant -> seconds of step and run `(turns, 2)`, the variants taking turns."""
    processes = {}
    for name, (onednn, how) in VARIANTS.items():
        variables = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "KERAS_BACKEND": "tensorflow"}
        processes[name] = subprocess.Popen(
            [sys.executable, __file__, "--serve", how, "--batch", str(batch)], env=variables, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def line(name: str) -> str:
        while told := processes[name].stdout.readline():
            if told.startswith(("ready", "[")):
                return told
        raise SystemExit(f"the process of '{name}' ended; run it by hand: --serve")

    for name in processes:
        line(name)
    times: dict[str, list] = {name: [] for name in VARIANTS}
    for _ in range(turns):
        for name, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            times[name].append(json.loads(line(name)))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return {name: np.array(rows) for name, rows in times.items()}


def main(argv=None) -> dict | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="pictures of a step (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=15, help="turns of each variant (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for grouped_convolutions.json and .md")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        serve(arguments.serve, arguments.batch)
        return None
    times = measure(arguments.batch, arguments.turns)
    medians = {name: np.median(rows, axis=0) * 1000 for name, rows in times.items()}
    rows = [
        {
            "variant": name, "step_ms": round(step, 1), "run_ms": round(run, 2),
            "step_ratio": round(step / medians[BASE][0], 2), "run_ratio": round(run / medians[BASE][1], 2),
        }
        for name, (step, run) in medians.items()
    ]  # fmt: skip
    record = {
        "command": f"python benchmarks/grouped_convolutions.py --batch {arguments.batch} --turns {arguments.turns}",
        "model": MODEL, "batch": arguments.batch, "turns": arguments.turns,
        "environment": environment("keras", "tensorflow"), "rows": rows,
    }  # fmt: skip
    table = markdown_table(
        ("grouped convolutions", f"training step of {arguments.batch}, ms", "ratio", "run of one, ms", "ratio"),
        [
            (
                r["variant"],
                f"{r['step_ms']:.0f}",
                f"{r['step_ratio']:.2f}",
                f"{r['run_ms']:.1f}",
                f"{r['run_ratio']:.2f}",
            )
            for r in rows
        ],
    )
    text = (
        f"# Grouped convolutions of `{MODEL}`\n\nMedians of {arguments.turns} interleaved turns, one thread. Made by "
        f"`{record['command']}` on {machine_line(record['environment'])}.\n\n{table}"
    )
    print(text)
    write_results(arguments.out, "grouped_convolutions", record, text)
    return record


if __name__ == "__main__":
    main()
