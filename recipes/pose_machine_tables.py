"""Tables like those of the depth pose machines' paper, measured on whatever frames are given.

    python recipes/train_pose_machine.py --table I --dataset utd_mhad --data utd_mhad_depth
    python recipes/train_pose_machine.py --table II --data synth/train --val synth/val \\
        --rows "25 % before=mpm_1s:runs/quarter/best.weights.h5;100 % before=mpm_1s:runs/all/best.weights.h5"
    python recipes/distill_pose_machine.py --table V --rows "MPM-2S stagewise=mpm_2s:runs/distilled/best.weights.h5" ...

A row is a label of the paper's table and NAME:WEIGHTS; rows that nobody names take released weights where the model has
them (table I), or are "not trained".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import posezoo
from posezoo.cards import read_card
from posezoo.codecs import make_codec
from posezoo.data.depth_scenes import DepthScenes
from posezoo.errors import UserError
from posezoo.evaluation.bottom_up import find_in_scenes
from posezoo.evaluation.pose_machines import UPPER_BODY, from_scenes, overlapping, score_landmarks
from posezoo.inference.depth import fill_missing
from posezoo.inference.runners import normalise
from posezoo.skeletons import DEPTH17
from posezoo.weights import fetch

if TYPE_CHECKING:
    from depth_recipes import DepthConfig

SHARES = ("25 %", "50 %", "75 %", "100 %", "100 % without background fusion")
#: Table of the paper -> its rows: label and the model where the row says which.
TABLES: dict[str, dict[str, str]] = {
    "I": {name: name for name in (
        "rpm_1s", "rpm_2s", "rpm_3s", "mpm_1s", "mpm_2s", "mpm_3s", "mpm_4s", "spm_1s", "spm_2s", "spm_3s", "spm_4s",
        "cpm_1s", "cpm_2s", "hourglass_2s",
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


@dataclass(frozen=True)
class Row:
    """One row of a table: a model with weights, or None where nobody trained it."""

    label: str
    model: str
    weights: str | None


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
        if weights is None and name and table == "I" and "float16" in read_card(name).weights:
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
    subset = cfg.table == "III"
    columns = ["", "network", "parameters", "AP", "AR", "F", "upper AP", "upper AR", "upper F"]
    columns += ["overlapping AP", "overlapping AR", "overlapping F"] if subset else []
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows_of(cfg.table, cfg.rows):
        cells = ["not trained"] + [""] * (len(columns) - 4)
        params = f"{read_card(row.model).size['params']:,}" if row.model else ""
        if row.weights:
            network = posezoo.build(row.model, **size)
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
        lines.append("| " + " | ".join([row.label, row.model, params, *cells]) + " |")
    return "\n".join(lines)


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
    scenes = DepthScenes(frames, codec.input_wh, length=count)
    return from_scenes(find_in_scenes(run, scenes, codec, DEPTH17, batch=cfg.batch, workers=cfg.workers))
