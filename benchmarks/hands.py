"""Accuracy of the released hand networks on labelled frames that nothing was trained on: amplitude and depth, float
and int8.

    posezoo synth hands/test --hands --images 5000 --seed 3 --split test
    python benchmarks/hands.py --data hands/test
    python benchmarks/hands.py --data hands/test --weights hand25d=runs/hand25d/best.weights.h5

Mean error in input pixels, and PCK@0.1 of the longer side of the hand's box, over keypoints that are seen; hidden ones
apart. The frames may be rendered or recorded (docs/hand.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import shlex
from pathlib import Path

import cv2
import numpy as np
from report import RESULTS, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo.commands.display import track
from posezoo.data.hand_frames import HandFrame, HandFrames
from posezoo.data.hands import HandScenes
from posezoo.evaluation.hands import Found, find_hands, score_hands
from posezoo.synth.hand_folders import labelled_hands

#: Parts of the frames that are told apart.
PARTS = ("all", "one hand", "two hands")


def measure(model, frames: HandFrames, count: int, title: str) -> dict[str, dict]:
    """Scores on all frames and on those with one and two hands."""
    scenes = HandScenes.for_input(frames, model.card.input, length=min(count or len(frames), len(frames)))
    found = find_hands(
        model.runner, scenes, model.codec, model.card.skeleton,
        progress=lambda rows: track(rows, title, total=len(scenes)),
    )  # fmt: skip
    hands = np.array([f.hands.sum() for f in found])
    parts: dict[str, list[Found]] = {
        "all": found,
        "one hand": [f for f, n in zip(found, hands, strict=True) if n == 1],
        "two hands": [f for f, n in zip(found, hands, strict=True) if n == 2],
    }
    return {name: rounded(score_hands(part, model.card.skeleton)) for name, part in parts.items() if part}


def rounded(scores) -> dict:
    def short(value):
        if isinstance(value, dict):
            return {k: short(v) for k, v in value.items()}
        return None if value != value else round(value, 4)

    return {k: short(v) for k, v in dataclasses.asdict(scores).items()}


def markdown(record: dict) -> str:
    rows = [
        (
            f"`{r['model']}`", r["precision"], part, s["frames"], *(
                None if s[k] is None else f"{s[k]:.{digits}f}"
                for k, digits in (("error_px", 2), ("pck", 3), ("hidden_px", 2), ("hands", 3), ("seen", 3))
            ),
        )
        for r in record["rows"] for part, s in r["parts"].items()
    ]  # fmt: skip
    columns = (
        "model",
        "precision",
        "frames",
        "number",
        "error px",
        "PCK@0.1",
        "hidden px",
        "hands right",
        "seen right",
    )
    joints = list(record["rows"][0]["parts"]["all"]["error_of"])
    each = [
        (f"`{r['model']}`", r["precision"], *(f"{r['parts']['all']['error_of'][k] or np.nan:.2f}" for k in joints))
        for r in record["rows"]
    ]
    about = (
        f"{record['protocol']} Made by `{record['command']}` on {machine_line(record['environment'])}.\n"
    )  # fmt: skip
    return "\n".join([
        "# Hands: accuracy\n", about, markdown_table(columns, rows),
        "\nError in pixels of each keypoint, both hands:\n", markdown_table(("model", "precision", *joints), each),
    ])  # fmt: skip


def weights_of(given: list[str]) -> dict[str, str]:
    """`NAME=FILE` as a dict."""
    pairs = dict(text.partition("=")[::2] for text in given)
    for name, file in pairs.items():
        if not Path(file).is_file():
            raise SystemExit(f"--weights {name}={file}: no such file; expected NAME=FILE")
    return pairs


def has(frame: HandFrame, colour: str) -> bool:
    return getattr(frame, colour) is not None


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of labelled frames")
    parser.add_argument("--models", default="hand25d*", help="name with * and ? (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=0, help="take only so many frames; 0 for all")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NAME=FILE",
        help="your own .weights.h5 or .tflite instead of the released files; may be given several times",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="threads of the TFLite runtime")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for hands.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    frames, own = labelled_hands(arguments.data), weights_of(arguments.weights)
    command = ["python", "benchmarks/hands.py", "--data", Path(arguments.data).name]
    command += ["--frames", str(arguments.frames)] if arguments.frames else []
    record: dict = {
        "protocol": f"{min(arguments.frames or len(frames), len(frames)):,} of the {len(frames):,} frames of "
        f"'{frames.name}', fitted into the input; a keypoint's map is decoded whatever the visibility head says.",
        "command": shlex.join(command),
        "environment": environment("ai-edge-litert", "keras", "tensorflow"),
        "rows": [],
    }  # fmt: skip
    float_runs = importlib.util.find_spec("keras") is not None
    if not float_runs:
        print("left out: the float networks; they need Keras: pip install 'posezoo[keras]'")
    for name in posezoo.list_models(arguments.models):
        card = posezoo.info(name)
        if card.family != "hand" or not has(frames[0], card.input.colour):
            continue
        if name in own:
            chosen = [("tflite" if own[name].endswith(".tflite") else "keras", own[name])]
        else:
            chosen = [(runtime, "default") for runtime in card.runtimes if runtime != "keras" or float_runs]
        for runtime, weights in chosen:
            model = posezoo.load(name, runtime=runtime, weights=weights, threads=arguments.threads)
            precision = {"keras": "float32", "tflite": "int8"}[runtime]
            parts = measure(model, frames, arguments.frames, f"{name} {precision}")
            record["rows"].append({"model": name, "precision": precision, "parts": parts})
            told = parts["all"]
            print(f"{name} {precision}: error {told['error_px']} px, PCK@0.1 {told['pck']}", flush=True)
    if not record["rows"]:
        raise SystemExit(
            f"nothing to measure: no released hand model is called '{arguments.models}' and sees what {arguments.data} "
            "holds; give --weights NAME=FILE"
        )
    write_results(arguments.out, "hands", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
