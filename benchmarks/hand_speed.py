"""Latency of the 2.5D hand network beside MediaPipe's hand landmarks, and what the paper's other backbones cost.

    python benchmarks/hand_speed.py
    python benchmarks/hand_speed.py --runs 200

Weights do not matter here, so files are made from untrained networks. All run interleaved on one thread; decoding
is timed apart, on maps with a hand drawn in each half: in turn with the networks, whose work empties the caches, and
alone. The forms: as released (maps at 1/2, visibility head), the paper's (maps at the input's size, no other head), and
rewritten for targets without grouped, or grouped and dilated, convolutions. The comparison backbones take multiples of
32 and see 192x224; all have the same decoder.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from latency import peer_contender, sample_input
from peers import present
from report import RESULTS, SHARED, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo import counts
from posezoo.codecs.hand import HandCodec
from posezoo.commands.display import track
from posezoo.evaluation.latency import Contender, measure
from posezoo.inference.runners import TFLiteRunner
from posezoo.skeletons import HAND16

YARDSTICK = "mediapipe_hand_landmark_3d_256_intquant"


@dataclass(frozen=True)
class Form:
    """One network to be timed: what the builder is given, and how the network is rewritten."""

    told: str
    build: dict
    rewrite: Callable | None = None


def forms() -> dict[str, Form]:
    from posezoo.export.rewrite import combed, without_groups

    large = {"input_px": (192, 224)}
    return {
        "hand25d": Form("as released: visibility, maps at 1/2", {}),
        "hand25d, the paper's": Form(
            "maps at the input's size, groups that never meet", {"visibility": False, "enlarge": True, "shuffle": False}
        ),
        "hand25d, no groups": Form("for Edge TPU", {}, without_groups),
        "hand25d, no groups, no dilation": Form("for old compilers", {}, lambda n: combed(without_groups(n))),
        "mobilenet_v2": Form("the same decoder", {"backbone": "mobilenet_v2", "visibility": False, **large}),
        "densenet121": Form("the same decoder", {"backbone": "densenet121", "visibility": False, **large}),
    }


def drawn_outputs(codec: HandCodec) -> dict[str, np.ndarray]:
    """What a perfect network would give for two hands."""
    rng = np.random.default_rng(0)
    (width, height), stride = codec.map_wh, codec.stride
    x, y = np.arange(width), np.arange(height)
    points = rng.uniform(0.1, 0.45, (16, 2)) * (width, height)
    points[8:, 0] += width / 2
    squared = (x[None, :, None] - points[:, 0]) ** 2 + (y[:, None, None] - points[:, 1]) ** 2
    maps = np.maximum(12 * np.exp(-squared * stride**2 / 32) - 0.05, 0)
    return {"heatmaps": maps[None].astype(np.float32), "visibility": np.full((1, 18), 4, np.float32)}


def decoder(codec: HandCodec, runner: TFLiteRunner) -> Callable[[dict], object]:
    """What follows the network: its outputs to floats, and two hands' keypoints."""
    drawn = drawn_outputs(codec)

    def decode(raw: dict) -> object:
        floats = runner.finish(raw)
        return codec.decode(codec.merge({name: drawn[name][0] for name in floats}), HAND16)

    return decode


def contenders(threads: int, precisions: tuple[str, ...]) -> tuple[dict[str, Contender], dict[str, dict]]:
    """Files of untrained networks, made here."""
    from posezoo.export.tflite import to_tflite

    spec = posezoo.info("hand25d").input
    made, about = {}, {}
    for name, form in track(list(forms().items()), "converting"):
        network = posezoo.build("hand25d", **form.build)
        size = {"params": counts.params(network), "macs": counts.macs(network)}
        height, width = network.input_shape[1:3]
        own = replace(spec, shape=(height, width, 1))
        rewritten = form.rewrite(network) if form.rewrite else network
        picture = sample_input(own)
        codec = HandCodec((width, height), stride=width // network.output["heatmaps"].shape[2])
        for precision in precisions:
            content = to_tflite(rewritten, own, [picture] if precision == "int8" else None)
            runner = TFLiteRunner(content, own, threads=threads)
            key = f"{name} {precision}"
            made[key] = Contender(partial(runner.invoke, runner.prepare(picture)), decoder(codec, runner))
            about[key] = {
                "model": name, "told": form.told, "precision": precision, "input": f"{height}x{width}", **size,
                "bytes": len(content),
            }  # fmt: skip
    return made, about


def decoding_alone(contender: Contender, runs: int) -> float | None:
    """Median of decoding one picture's outputs again and again, in milliseconds: the network's work is not between."""
    if contender.decode is None:
        return None
    raw, times = contender.network(), []
    for _ in range(runs):
        start = time.perf_counter()
        contender.decode(raw)
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e3, 3)


def table(record: dict) -> str:
    rows = [
        (
            f"`{r['model']}`", r["told"], r["precision"], r["input"],
            "" if r["params"] is None else f"{r['params']:,}",
            "" if r["macs"] is None else f"{r['macs'] / 1e6:.2f}", f"{r['bytes'] / 1e3:.0f}", f"{r['network_ms']:.2f}",
            "none" if r["decode_ms"] is None else f"{r['decode_ms']:.2f}",
            "none" if r["decode_alone_ms"] is None else f"{r['decode_alone_ms']:.2f}",
            None if r["ratio"] is None else f"{r['ratio']:.2f}",
        )
        for r in record["rows"]
    ]  # fmt: skip
    columns = (
        "network", "", "precision", "input", "parameters", "MMACs", "file kB", "network ms", "decode ms", "alone ms",
        "ratio",
    )  # fmt: skip
    return markdown_table(columns, rows)


def markdown(record: dict) -> str:
    about = (
        f"Medians of {record['runs']} interleaved runs on {record['threads']} thread(s); ratio of the network's time "
        f"to that of `{YARDSTICK}`, which sees one hand in a crop where hand25d sees two in the whole frame. "
        "Decoding is timed in turn with the networks, and alone. Made by "
        f"`{record['command']}` on {machine_line(record['environment'])}.\n"
    )
    return "\n".join(["# Hands: size and latency\n", about, table(record)])


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--precisions", default="int8,float32", help="(default: %(default)s)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of peers/ (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for hand_speed.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    made, about = contenders(arguments.threads, tuple(arguments.precisions.split(",")))
    for peer in present((YARDSTICK,), arguments.shared / "peers"):
        made[peer], told = peer_contender(peer, arguments.shared / "peers", arguments.threads)
        about[peer] = {"model": peer, "told": "one hand in a crop", "params": None, "macs": None} | {
            k: told[k] for k in ("precision", "input", "bytes")
        }
    timings = measure(made, runs=arguments.runs, progress=lambda rounds: track(rounds, "measuring"))
    base = timings[YARDSTICK].network_ms if YARDSTICK in timings else None
    rows = [
        {
            **about[key], "network_ms": round(t.network_ms, 3), "quartile_spread_ms": round(t.spread_ms, 3),
            "decode_ms": None if t.decode_ms is None else round(t.decode_ms, 3),
            "decode_alone_ms": decoding_alone(made[key], arguments.runs),
            "ratio": None if base is None else round(t.network_ms / base, 3),
        }
        for key, t in sorted(timings.items(), key=lambda item: item[1].network_ms)
    ]  # fmt: skip
    command = ["python", "benchmarks/hand_speed.py"]
    command += ["--runs", str(arguments.runs)] if arguments.runs != 100 else []
    command += ["--threads", str(arguments.threads)] if arguments.threads != 1 else []
    command += ["--precisions", arguments.precisions] if arguments.precisions != "int8,float32" else []
    record = {
        "command": shlex.join(command), "yardstick": "MediaPipe's hand landmarks", "threads": arguments.threads,
        "runs": arguments.runs,
        "environment": environment("ai-edge-litert", "keras", "tensorflow"), "rows": rows,
    }  # fmt: skip
    write_results(arguments.out, "hand_speed", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
