"""Speed of all ten sizes of EfficientHRNet, each at its own input: latency in float and int8, and training.

    python benchmarks/efficienthrnet_speed.py
    python benchmarks/efficienthrnet_speed.py --models "efficienthrnet_lite_*" --runs 30 --no-training
    python benchmarks/efficienthrnet_speed.py --no-latency --training native_bfloat16

Weights do not matter here, so files are made from untrained networks. All files and two yardsticks run interleaved on
one thread. Decoding is timed on drawn maps of four people. Training: pictures per second of whole steps (forward,
loss, backward, AdamW) at 256 px, batch 8, each size in a process of its own, on TensorFlow and by PyTorch's kernels in
bfloat16 where it is installed; TensorFlow traces the larger sizes for minutes. Results are written after each part;
--no-latency and --no-training keep what the last run measured of that part.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from latency import peer_contender, sample_input
from multi_person import POSENET
from peers import YARDSTICK, present
from report import RESULTS, SHARED, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo.codecs import make_codec
from posezoo.commands.display import track
from posezoo.evaluation.latency import Contender, measure
from posezoo.inference.runners import TFLiteRunner
from posezoo.zoo import changed_card

PEOPLE = 4
TRAINING_PX, TRAINING_BATCH = 256, 8

#: Variant -> Keras backend.
TRAINING = {"tensorflow": "tensorflow", "native_bfloat16": "torch"}

STEP = """
import json, sys, time
import keras, numpy as np
import posezoo
from posezoo.training.associative_embedding import losses
from posezoo.training.backend import native, set_threads

name, precision, threads, px, batch, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
set_threads(threads)
network = posezoo.build(name, input_px=px)
trainer = native(network, precision=precision)
trainer.build((None, px, px, 3))
trainer.compile(keras.optimizers.AdamW(1e-3), loss=losses(), jit_compile=False)
rng = np.random.default_rng(0)
images = rng.normal(size=(batch, px, px, 3)).astype("float32")
sides = {"heatmaps": px // 2, "heatmaps_low": px // 4}
maps = {name: rng.random((batch, side, side, 17)).astype("float32") for name, side in sides.items()}
targets = {**maps, "tags": np.zeros((batch, 30, 17, 3), "float32")}
for _ in range(2):
    trainer.train_on_batch(images, targets)
times = []
for _ in range(steps):
    start = time.perf_counter()
    trainer.train_on_batch(images, targets)
    times.append(time.perf_counter() - start)
print("RESULT", json.dumps(batch / float(np.median(times))))
"""


def drawn_outputs(card, codec, seed: int = 0) -> dict[str, np.ndarray] | None:
    """Outputs of a perfect network for a few people who stand side by side; None where one person is looked for."""
    rng = np.random.default_rng(seed)
    width, height = codec.input_wh
    joints = card.skeleton.num_keypoints
    people = np.full((PEOPLE, joints, 3), 2.0, np.float32)
    people[..., 0] = (np.arange(PEOPLE)[:, None] + rng.uniform(0.2, 0.8, (PEOPLE, joints))) * width / PEOPLE
    people[..., 1] = rng.uniform(0.1, 0.9, (PEOPLE, joints)) * height
    if not codec.bottom_up:
        return None
    if card.codec["type"] == "part_affinity":
        return codec.targets(people, skeleton=card.skeleton)
    targets = codec.targets(people)
    columns = np.arange(targets["heatmaps_low"].shape[1]) * PEOPLE // targets["heatmaps_low"].shape[1]
    tags = np.broadcast_to(2.0 * columns[None, :, None], targets["heatmaps_low"].shape).astype(np.float32)
    return {"heatmaps": targets["heatmaps"], "heatmaps_low": targets["heatmaps_low"], "tags": tags}


def sizes_of(name: str) -> list[dict]:
    """What differs from the card's network in each form that is measured."""
    released = posezoo.info(name).released
    return [{}, dict(released)] if released else [{}]


def contenders(names: list[str], threads: int) -> tuple[dict[str, Contender], dict[str, dict]]:
    """Float and int8 files of untrained networks, made here, with the decoding of a few people.

    Each at the paper's input size, and at that of its released weights where it is another.
    """
    from posezoo.export.tflite import to_tflite

    made, about = {}, {}
    forms = [(name, changes) for name in names for changes in sizes_of(name)]
    for name, changes in track(forms, "converting"):
        card, network = changed_card(posezoo.info(name), changes, {}), posezoo.build(name, **changes)
        codec = make_codec(input_wh=card.input.wh, **card.codec)
        outputs = drawn_outputs(card, codec)
        picture = sample_input(card.input)

        def decode(_, codec=codec, outputs=outputs, skeleton=card.skeleton):
            return codec.decode(codec.merge(outputs), skeleton)

        for precision, calibration in (("float32", None), ("int8", [picture])):
            content = to_tflite(network, card.input, calibration)
            runner = TFLiteRunner(content, card.input, threads=threads)
            key = f"{name} {card.input.shape[0]}x{card.input.shape[1]} {precision}"
            made[key] = Contender(partial(runner.invoke, runner.prepare(picture)), decode if outputs else None)
            about[key] = {
                "model": name, "precision": precision, "input": f"{card.input.shape[0]}x{card.input.shape[1]}",
                "bytes": len(content),
            }  # fmt: skip
    return made, about


def latency_rows(made: dict[str, Contender], about: dict[str, dict], *, runs: int) -> list[dict]:
    """Time all in turns; one row each, fastest first, with the ratio to the yardstick where that ran."""
    timings = measure(made, runs=runs, progress=lambda rounds: track(rounds, "measuring"))
    base = timings[YARDSTICK].network_ms if YARDSTICK in timings else None
    return [
        {
            **about[key], "network_ms": round(timing.network_ms, 2),
            "decode_ms": None if timing.decode_ms is None else round(timing.decode_ms, 2),
            "ratio": None if base is None else round(timing.network_ms / base, 2),
        }
        for key, timing in sorted(timings.items(), key=lambda item: item[1].network_ms)
    ]  # fmt: skip


def latency_table(record: dict) -> str:
    """The rows as Markdown."""
    rows = [
        (
            f"`{r['model']}`", r["precision"], r["input"], f"{r['bytes'] / 1e6:.2f}", f"{r['network_ms']:.1f}",
            "none" if r["decode_ms"] is None else f"{r['decode_ms']:.1f}",
            None if r["ratio"] is None else f"{r['ratio']:.2f}",
        )
        for r in record["latency"]
    ]  # fmt: skip
    return markdown_table(("network", "precision", "input", "file MB", "network ms", "decode ms", "ratio"), rows)


def latency_section(record: dict) -> list[str]:
    """How latencies were measured, and their table."""
    about = (
        f"Medians of {record['runs']} interleaved runs on {record['threads']} thread(s); ratio of the network's time "
        f"to that of `{YARDSTICK}`. Decoding: {PEOPLE} people. Made by `{record['command']}` on "
        f"{machine_line(record['environment'])}.\n"
    )
    return [about, latency_table(record)]


def training_speed(name: str, variant: str, threads: int, steps: int) -> float | None:
    """Pictures per second of one size, measured in a process of its own; None where the backend is missing."""
    backend = TRAINING[variant]
    if importlib.util.find_spec(backend) is None:
        return None
    precision = "bfloat16" if variant.endswith("bfloat16") else "float32"
    command = [sys.executable, "-c", STEP, name, precision, *map(str, (threads, TRAINING_PX, TRAINING_BATCH, steps))]
    environment_of = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment_of, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{name} on {variant} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return round(json.loads(lines[-1].removeprefix("RESULT ")), 2)


def markdown(record: dict) -> str:
    text = ["# EfficientHRNet: speed\n"]
    if record["latency"]:
        text += latency_section(record)
    if record["training"]:
        told = [(f"`{r['model']}`", *(r.get(v) for v in TRAINING)) for r in record["training"]]
        text += [
            f"\n## Training\n\nPictures per second at {TRAINING_PX} px, batch {TRAINING_BATCH}, "
            f"{record['training_threads']} threads. Made by `{record['training_command']}` on "
            f"{machine_line(record['training_environment'])}.\n",
            markdown_table(("network", *TRAINING), told),
        ]
    return "\n".join(text)


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: all ten sizes)")
    parser.add_argument("--runs", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the latencies (default: %(default)s)")
    parser.add_argument("--latency", action=argparse.BooleanOptionalAction, default=True, help="measure latency")
    parser.add_argument(
        "--training", nargs="*", choices=TRAINING, default=list(TRAINING), help="measure training so (default: both)"
    )
    parser.add_argument("--no-training", dest="training", action="store_const", const=[], help="measure none")
    parser.add_argument("--training-threads", type=int, default=os.cpu_count(), help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="timed training steps (default: %(default)s)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of peers/ (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for efficienthrnet_speed.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    names = [n for n in posezoo.list_models("efficienthrnet*") if fnmatch.fnmatch(n, arguments.models)]
    if not names:
        raise SystemExit(
            f"no size of EfficientHRNet is called '{arguments.models}'; try: posezoo list 'efficienthrnet*'"
        )
    told = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python benchmarks/efficienthrnet_speed.py {told}".strip()
    packages = ("ai-edge-litert", "keras", "tensorflow", "torch")
    last = arguments.out / "efficienthrnet_speed.json"
    record: dict = {"latency": [], "training": []}
    if not (arguments.latency and arguments.training) and last.exists():
        record |= json.loads(last.read_text())
    if arguments.latency:
        record |= {"command": command, "threads": arguments.threads, "runs": arguments.runs}
        record["environment"] = environment(*packages)
        made, about = contenders(names, arguments.threads)
        for peer in present((YARDSTICK, POSENET), arguments.shared / "peers"):
            made[peer], of_peer = peer_contender(peer, arguments.shared / "peers", arguments.threads)
            about[peer] = {"model": peer, **{k: of_peer[k] for k in ("precision", "input", "bytes")}}
        record["latency"] = latency_rows(made, about, runs=arguments.runs)
        write_results(arguments.out, "efficienthrnet_speed", record, markdown(record))
    if arguments.training:
        record |= {"training_command": command, "training_threads": arguments.training_threads, "training": []}
        record["training_environment"] = environment(*packages)
        for name in track(names, "training"):
            row: dict = {"model": name}
            for variant in arguments.training:
                row[variant] = training_speed(name, variant, arguments.training_threads, arguments.steps)
            record["training"].append(row)
            print(row, flush=True)
            write_results(arguments.out, "efficienthrnet_speed", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
