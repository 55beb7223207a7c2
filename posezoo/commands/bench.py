"""`posezoo bench`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from posezoo.commands.common import DONE, Command
from posezoo.commands.display import print_table, track
from posezoo.zoo import list_models, load

if TYPE_CHECKING:
    from posezoo.inference.estimator import PoseModel
    from posezoo.inference.runners import TFLiteRunner


def bench(arguments: argparse.Namespace) -> int:
    """Latency of packaged files on this machine, interleaved."""
    from posezoo.evaluation.latency import Contender, measure

    contenders = {}
    for name in arguments.models or list_models(runtime="tflite"):
        model = load(name, runtime="tflite", threads=arguments.threads)
        runner = cast("TFLiteRunner", model.runner)
        tensor = runner.prepare(np.zeros(model.card.input.shape, np.uint8))
        contenders[name] = Contender(partial(runner.invoke, tensor), partial(_decode, model, runner))
    timings = measure(contenders, runs=arguments.runs, progress=lambda rounds: track(rounds, "measuring"))
    first = next(iter(timings.values())).network_ms
    rows = [
        (name, f"{t.network_ms:.2f}", f"{t.spread_ms:.2f}", f"{t.decode_ms:.2f}", f"{t.network_ms / first:.2f}")
        for name, t in timings.items()
    ]
    columns = ("model", "network ms", "quartile spread", "decode ms", "ratio to first")
    print_table(f"medians of {arguments.runs} interleaved runs, {arguments.threads} thread(s)", columns, rows)
    return DONE


def _decode(model: PoseModel, runner: TFLiteRunner, outputs: dict[str, np.ndarray]) -> object:
    """Decode a file's outputs as it holds them, the step after the network that `bench` times."""
    return model.decode(runner.finish(outputs))


def add_to(command: Command) -> None:
    """Add `posezoo bench`."""
    parser = command("bench", bench, "latency on this machine", """
        Time packaged int8 files in one interleaved run: medians, network and decode apart.
    """)  # fmt: skip
    parser.add_argument("models", nargs="*", help="names (default: every packaged file)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="(default: %(default)s)")
