"""Tables like those of the depth pose machines' paper, measured on whatever frames are given.

    python recipes/train_pose_machine.py --table I --dataset utd_mhad --data utd_mhad_depth
    python recipes/train_pose_machine.py --table II --data synth/train --val synth/val \\
        --rows "25 % before=mpm_1s:runs/quarter/best.weights.h5;100 % before=mpm_1s:runs/all/best.weights.h5"
    python recipes/distill_pose_machine.py --table V --rows "MPM-2S stagewise=mpm_2s:runs/distilled/best.weights.h5" ...

A row is a label of the paper's table and NAME:WEIGHTS; rows that nobody names take released weights where the model has
them (table I), or are "not trained". Table I also gives each network's cost: parameters and multiply-accumulates at the
card's input, and the latency of what is there to be run, in the light runtime where a file for it is released, else in
Keras. Table III's last columns count the frames in which two people's boxes overlap by 12 to 15 %, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import posezoo
from posezoo import counts
from posezoo.cards import read_card
from posezoo.codecs import make_codec
from posezoo.data.depth_scenes import scenes_for
from posezoo.errors import UserError
from posezoo.evaluation.bottom_up import find_in_scenes
from posezoo.evaluation.latency import Contender, measure
from posezoo.evaluation.pose_machines import UPPER_BODY, find_in_crops, from_scenes, overlapping, score_landmarks
from posezoo.inference.depth import fill_missing
from posezoo.inference.runners import TFLiteRunner, normalise
from posezoo.skeletons import DEPTH17
from posezoo.weights import fetch

if TYPE_CHECKING:
    import keras
    from depth_recipes import DepthConfig

SHARES = ("25 %", "50 %", "75 %", "100 %", "100 % without background fusion")
#: The paper's RPM-2S of 128 features.
WIDE = "rpm_2s, 128 features"
#: Rows of networks that are not built as their cards say: the builder's arguments.
BUILT: dict[str, dict] = {WIDE: {"features": 128}}
#: Table of the paper -> its rows: label and the model where the row says which.
TABLES: dict[str, dict[str, str]] = {
    "I": {name: name.split(",")[0] for name in (
        "rpm_1s", "rpm_2s", "rpm_3s", WIDE, "mpm_1s", "mpm_2s", "mpm_3s", "mpm_4s", "spm_1s", "spm_2s", "spm_3s",
        "spm_4s", "cpm_1s", "cpm_2s", "hourglass_2s",
    )},
    "II": {f"{share} {when}": "" for when in ("before", "after fine-tuning") for share in SHARES},
    "III": {f"{who} {when}": "" for who in ("one person", "two people") for when in ("before", "after fine-tuning")},
    "IV": dict.fromkeys(
        ("synthetic only", "in-painting", "adversarial, smallest loss", "adversarial, most confused", "fine-tuning"), ""
    ),
    "V": {
        "teacher": "", "MPM-1S alone": "mpm_1s", "MPM-1S stagewise": "mpm_1s", "MPM-1S stagewise + hints": "mpm_1s",
        "MPM-2S alone": "mpm_2s", "MPM-2S standard": "mpm_2s", "MPM-2S stagewise": "mpm_2s",
        "MPM-2S stagewise*": "mpm_2s", "MPM-2S stagewise + hints": "mpm_2s",
    },
}  # fmt: skip
#: Rows whose frames are filled in before the network sees them.
FILLED = ("in-painting",)
#: Measured runs of a latency.
RUNS = 10
LIGHT = "LiteRT"


@dataclass(frozen=True)
class Row:
    """One row of a table: a model with weights, or None where nobody trained it."""

    label: str
    model: str
    weights: str | None

    def network(self, **size) -> keras.Model:
        """Build the row's network."""
        return posezoo.build(self.model, **BUILT.get(self.label, {}), **size)


def rows_of(table: str, given: str) -> list[Row]:
    """Return a table's rows, filled by `LABEL=NAME:WEIGHTS;LABEL=NAME:WEIGHTS`.

    Raises:
        SystemExit: No such table, a label that it does not have, or an entry of another form.
    """
    if table not in TABLES:
        raise SystemExit(f"--table {table}: expected one of {', '.join(TABLES)}")
    filled: dict[str, tuple[str, str]] = {}
    for entry in filter(None, (part.strip() for part in given.split(";"))):
        label, equals, rest = entry.partition("=")
        name, colon, weights = rest.partition(":")
        if not (equals and colon and weights):
            raise SystemExit(f"--rows '{entry}': expected LABEL=NAME:WEIGHTS, such as mpm_1s=mpm_1s:best.weights.h5")
        if label.strip() not in TABLES[table]:
            raise SystemExit(f"--rows: table {table} has no row '{label.strip()}'; it has {', '.join(TABLES[table])}")
        filled[label.strip()] = name.strip(), weights.strip()
    rows = []
    for label, model in TABLES[table].items():
        name, weights = filled.get(label, (model, None))
        if weights is None and table == "I" and label not in BUILT and "float16" in read_card(name).weights:
            weights = str(fetch(read_card(name).weights["float16"]))
        rows.append(Row(label, name, weights))
    return rows


def report(cfg: DepthConfig, frames, size: dict) -> str:
    """Measure a table's rows on labelled frames; return it as Markdown.

    Args:
        cfg: Settings, with `table` and `rows`.
        frames: The labelled frames, see `posezoo.data.depth_scenes`.
        size: The builder's arguments for the input's size.
    """
    subset, costs = cfg.table == "III", cfg.table == "I"
    columns = ["AP", "AR", "F", "upper AP", "upper AR", "upper F"]
    columns += ["overlapping AP", "overlapping AR", "overlapping F"] if subset else []
    first = ["", "network", "parameters"] + (["GMACs", "int8 ms", "float ms"] if costs else [])
    lines = ["| " + " | ".join(first + columns) + " |", "|" + "---|" * len(first + columns)]
    for row in rows_of(cfg.table, cfg.rows):
        cells, network = ["not trained"] + [""] * (len(columns) - 1), None
        if row.weights:
            network = row.network(**size)
            try:
                network.load_weights(row.weights)
            except (OSError, ValueError, UserError) as error:
                raise SystemExit(f"--rows: {row.weights} cannot be loaded into {row.model}: {error}") from error
            pictures = measured(cfg, row, network, frames)
            parts = [(pictures, None), (pictures, UPPER_BODY)] + ([(overlapping(pictures), None)] if subset else [])
            threshold = read_card(row.model).score_threshold
            cells = []
            for chosen, kinds in parts:
                scores = score_landmarks(chosen).summary(kinds=kinds, threshold=threshold) if chosen else None
                values = (scores.precision, scores.recall, scores.f_score) if scores else (float("nan"),) * 3
                cells += [f"{value:.3f}" if np.isfinite(value) else "no frames" for value in values]
            print(f"{row.label}: F {cells[2]}", flush=True)
        params, macs = cost(row) if row.model else ("", "")
        told = [macs, *latencies(row, network)] if costs else []
        lines.append("| " + " | ".join([row.label, row.model, params, *told, *cells]) + " |")
    if costs:
        lines += ["", f"Latency: medians of {RUNS} runs of the network alone, one picture; {LIGHT}: one thread."]
    return "\n".join(lines)


def cost(row: Row) -> tuple[str, str]:
    """Parameters, and multiply-accumulates in GMACs at the card's input."""
    size = read_card(row.model).size
    if row.label in BUILT:
        network = row.network()
        size = {"params": counts.params(network), "macs": counts.macs(network)}
    return f"{size['params']:,}", f"{size['macs'] / 1e9:.2f}"


def latencies(row: Row, network: keras.Model | None) -> tuple[str, str]:
    """Milliseconds of the released int8 file and of the network in float, each with its runtime."""
    card = read_card(row.model)
    files = {} if row.label in BUILT else {k: w for k, w in card.weights.items() if w.file.endswith(".tflite")}
    told = {"int8": "not measured", "float": "not measured"}
    if network is not None:
        picture = np.zeros((1, *network.input_shape[1:]), np.float32)
        told["float"] = f"{median_ms(partial(network.predict_on_batch, picture)):.1f} (Keras)"
    for kind in told:
        file = next((w for precision, w in files.items() if precision.startswith(kind)), None)
        if file:
            runner = TFLiteRunner(fetch(file), card.input, threads=1)
            picture = runner.prepare(np.ones(card.input.shape, np.float32))
            told[kind] = f"{median_ms(partial(runner.invoke, picture)):.1f} ({LIGHT})"
    return told["int8"], told["float"]


def median_ms(run: Callable[[], object]) -> float:
    """Median milliseconds of a call."""
    return measure({"": Contender(run)}, runs=RUNS, warm_up=2)[""].network_ms


def measured(cfg: DepthConfig, row: Row, network, frames) -> list:
    """What a network finds in the frames."""
    height, width = network.input_shape[1:3]
    card = read_card(row.model)
    codec = make_codec(input_wh=(width, height), **card.codec)
    scale = partial(normalise, spec=card.input)

    def run(images):
        if row.label in FILLED:
            images = np.stack([fill_missing(image[..., 0])[..., None] for image in images])
        outputs = network.predict_on_batch(scale(images))
        return {name: np.asarray(value, np.float32) for name, value in outputs.items()}

    count = min(cfg.val_frames or len(frames), len(frames))
    scenes = scenes_for(card, frames, codec.input_wh, length=count)
    find = find_in_scenes if codec.bottom_up else find_in_crops
    return from_scenes(find(run, scenes, codec, DEPTH17, batch=cfg.batch, workers=cfg.workers))
