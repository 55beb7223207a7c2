"""What the recipes that compress networks share: settings, the training of twins, and scores side by side."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tasks import Task, generated, task_of

import posezoo
from posezoo.cards import Card, read_card
from posezoo.compression.pruning import gzip_bytes
from posezoo.export.pixels import where_it_counts
from posezoo.files import write_json
from posezoo.training.backend import cosine, dataset, set_threads
from posezoo.training.config import RunConfig, option
from posezoo.weights import fetch
from posezoo.zoo import changed_card, changes_of


@dataclass(frozen=True)
class CompressConfig(RunConfig):
    """Settings of every recipe that compresses."""

    model: str = option("mobilenet_split_224", "a name from 'posezoo list'")
    weights: Path | None = option(None, "float weights; the released ones by default")
    input_px: int = option(0, "side of the square input; 0 for the card's")
    data: Path = option(Path("data/lspet"), "labelled data set")
    dataset: str = option("lsp", "its layout, see recipes/tasks.py")
    out: Path = option(Path("runs/compressed"), "folder for the files, the weights and report.json")
    record: Path | None = option(None, "also write the scores into this JSON file, from which cards are made")
    calibration: int = option(200, "pictures that set int8 ranges")
    val_examples: int = option(0, "validation examples; 0 for all")
    distill: bool = option(False, "learn the float network's outputs instead of labels")


@dataclass(frozen=True)
class Prepared:
    """A network on its way through a recipe.

    Attributes:
        card: Its card.
        network: The float network with its weights.
        task: Its examples, losses and score.
        pictures: Pictures for calibration.
        teacher: What training's targets come from instead of labels.
    """

    card: Card
    network: Any
    task: Task
    pictures: list[np.ndarray]
    teacher: Teacher | None = None

    @property
    def check_pictures(self) -> np.ndarray:
        """The first pictures, for gates."""
        return np.stack(self.pictures[:8])


class Teacher:
    """The float network as it was, whose outputs its twin learns again: self-distillation.

    Labels pull a network that is trained for a short while to wherever the data of these steps lie; its own outputs
    keep it where it was, but for what rounding or zeros took. Tags are learned where a keypoint may be: elsewhere they
    are free, and so much of them would outweigh everything.

    Args:
        network: The float network; later changes of it do not matter.
        card: Says how outputs are decoded.
        batches: Network inputs, from which each output's variance is taken.

    Attributes:
        losses: For each output the squared error where it counts, as a share of the output's variance there.
    """

    def __init__(self, network: Any, card: Card, batches: Sequence[np.ndarray]):
        self._network, self._card = copy_of(network), card
        found = [self(batch) for batch in batches]
        self.losses = {name: _relative_error(np.concatenate([f[name] for f in found])) for name in found[0]}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs for a batch of network inputs, by name; NaN where they do not count."""
        found = self._network.predict_on_batch(images)
        named = found if isinstance(found, dict) else {self._network.output_names[0]: found}
        outputs = {name: np.asarray(value) for name, value in named.items()}
        for name, mask in where_it_counts(self._card, outputs).items():
            outputs[name] = np.where(mask, outputs[name], np.nan)
        return outputs


def _relative_error(examples: np.ndarray) -> Callable[[Any, Any], Any]:
    """A loss of the squared error as a share of the variance that examples of the target have."""
    counting = 1 - float(np.isnan(examples).mean())
    scale = max(float(np.nanvar(examples)) * counting, 1e-12)

    def loss(target: Any, predicted: Any) -> Any:
        import tensorflow as tf

        return tf.where(tf.math.is_nan(target), 0.0, target - predicted) ** 2 / scale

    return loss


def copy_of(network: Any) -> Any:
    """A network with the same layers and weights."""
    import keras

    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def shrunk(cfg: CompressConfig, **changes: Any) -> Any:
    """Settings of a smoke run: generated pictures and two steps."""
    if not cfg.smoke:
        return cfg
    generating = cfg.data == CompressConfig.data
    layout, folder = generated(read_card(cfg.model)) if generating else (cfg.dataset, cfg.data)
    few = {"data": folder, "dataset": layout, "calibration": 4, "val_examples": cfg.val_examples or 4}
    return replace(cfg, **few, **changes)


def prepare(cfg: CompressConfig) -> Prepared:
    """Open the network and its data.

    Raises:
        SystemExit: No weights.
    """
    card = read_card(cfg.model)
    set_threads(cfg.threads)
    size = {"input_px": cfg.input_px} if cfg.input_px else {}
    changes = changes_of(cfg.model, size, own_weights=cfg.weights is not None)
    card, network = changed_card(card, changes, {}), posezoo.build(cfg.model, **changes)
    if cfg.weights or "float16" in card.weights:
        network.load_weights(cfg.weights or fetch(card.weights["float16"]))
    elif not cfg.smoke:
        raise SystemExit(f"{cfg.model} has no released weights; give --weights, from: {card.recipe}")
    task = task_of(card, cfg.dataset, cfg.data, limit=cfg.val_examples, workers=cfg.workers, seed=cfg.seed)
    pictures = task.calibration(cfg.calibration)
    teacher = Teacher(network, card, batches_of(pictures[:64], card)) if cfg.distill else None
    return Prepared(card, network, task, pictures, teacher)


def fit(
    model: Any,
    ready: Prepared,
    cfg: Any,
    *,
    epochs: int,
    score: Callable[[], float],
    keep_best: bool = True,
) -> float:
    """Train a Keras 2 twin on a network's task.

    Args:
        model: The twin, changed in place.
        ready: The network's data and losses, or its teacher.
        cfg: Has `steps`, `batch`, `learning_rate` and `workers`.
        epochs: How many.
        score: What the twin reaches now.
        keep_best: Whether to leave the twin as it was best, the start included; else as it is at last.

    Returns:
        The score of what is left.
    """
    from posezoo.compression.keras2 import keras2

    task, teacher, steps = ready.task, ready.teacher, steps_of(cfg, ready.task)
    losses = teacher.losses if teacher else task.losses
    optimizer = keras2().optimizers.Adam(cfg.learning_rate)
    model.compile(optimizer, loss=losses)
    falling = cosine(cfg.learning_rate, first=0, last=max(epochs * steps, 1), warm_up=20)
    best, kept = score(), model.get_weights()
    print(f"  before training: {task.metric} {best:.4f}", flush=True)
    # Rounds of the data, made as they are needed; an epoch may take several, each has at least one batch.
    data = iter(dataset(task.train, task.encode, cfg.batch, epochs=range(epochs * steps), workers=cfg.workers))
    for epoch in range(epochs):
        total = 0.0
        for step in range(steps):
            optimizer.learning_rate.assign(falling(epoch * steps + step))
            images, targets = next(data)
            if teacher:
                targets = teacher(images)
            elif not isinstance(targets, dict):
                targets = {next(iter(losses)): targets}
            total += float(model.train_on_batch(images, targets, return_dict=True)["loss"])
        found = score()
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {task.metric} {found:.4f}", flush=True)
        if found > best or not keep_best:
            best, kept = found, model.get_weights()
    model.set_weights(kept)
    return best


def steps_of(cfg: Any, task: Task) -> int:
    """Training steps of an epoch."""
    return cfg.steps or max(len(task.train) // cfg.batch, 1)


def names(listed: str) -> list[str]:
    """`a,b` -> `[a, b]`."""
    return [name for name in listed.split(",") if name]


@dataclass
class SideBySide:
    """Scores of one network's forms on the same examples, with their sizes.

    Attributes:
        cfg: The recipe's settings.
        recipe: Its script.
        task: What is scored.
        rows: One per form.
    """

    cfg: CompressConfig
    recipe: str
    task: Task
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, precision: str, score: float, content: bytes | None = None, **more: Any) -> float:
        """Take a score in and print it; return it."""
        size = {} if content is None else {"bytes": len(content), "gzip_bytes": gzip_bytes(content)}
        self.rows.append({"precision": precision, "value": round(score, 4), **size, **more})
        print(f"{precision}: {self.task.metric} {score:.4f}", flush=True)
        return score

    def table(self) -> str:
        """The scores for a terminal, each with its distance to the first, which is float32."""
        first = self.rows[0]["value"]
        lines = [f"{'':18} {self.task.metric:>10} {'to float':>9} {'MB':>7} {'MB gzip':>8} {'zeros':>6}"]
        for row in self.rows:
            sizes = [f"{row[key] / 1e6:.3f}" if key in row else "" for key in ("bytes", "gzip_bytes")]
            zeros = f"{row['sparsity']:.0%}" if "sparsity" in row else ""
            change = f"{100 * (row['value'] - first):+.2f}"
            lines.append(
                f"{row['precision']:18} {row['value']:>10.4f} {change:>9} {sizes[0]:>7} {sizes[1]:>8} {zeros:>6}"
            )
        return "\n".join(lines)

    def write(self, **more: Any) -> dict[str, Any]:
        """Print the table, write `report.json` into --out and merge the rows into --record; return the report."""
        print(self.table(), flush=True)
        report = {
            "model": self.cfg.model, "metric": self.task.metric, "dataset": self.task.dataset,
            "people": self.task.examples, "protocol": self.task.protocol, "command": command_of(self.cfg, self.recipe),
            "date": datetime.date.today().isoformat(), "scores": {row["precision"]: row["value"] for row in self.rows},
            "rows": self.rows, **more,
        }  # fmt: skip
        write_json(self.cfg.out / "report.json", report)
        if self.cfg.record and not self.cfg.smoke:
            record(self.cfg.record, report)
        return report


def record(path: Path, report: dict[str, Any]) -> None:
    """Put a report's rows into a file of many networks' rows, in the place of older ones of the same form."""
    held = json.loads(path.read_text())["rows"] if path.exists() else []
    common = {k: report[k] for k in ("model", "dataset", "metric", "people", "protocol", "command", "date")}
    new = [{**common, **row, "float32": report["rows"][0]["value"]} for row in report["rows"]]

    def form(row: dict[str, Any]) -> tuple:
        return row["model"], row["dataset"], row["precision"]

    replaced = {form(row) for row in new}
    rows = sorted([row for row in held if form(row) not in replaced] + new, key=form)
    write_json(path, {"what": "scores of compressed networks, by recipes/", "rows": rows})


def command_of(cfg: CompressConfig, recipe: str) -> str:
    """The command that a report tells: every setting that is not its default, folders by their last name."""
    silent = {"out", "record", "threads", "workers", "resume", "tensorboard"}
    flags = []
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if f.name in silent or value == f.default:
            continue
        flag = f.name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags.append(f"--{flag} {value.name if isinstance(value, Path) else value}")
    return " ".join(["python", f"recipes/{recipe}", *flags])


def batches_of(pictures: Sequence[np.ndarray], card: Card, *, size: int = 8) -> list[np.ndarray]:
    """Pictures as batches of network inputs."""
    from posezoo.inference.runners import normalise

    return [normalise(np.stack(pictures[i : i + size]), card.input) for i in range(0, len(pictures), size)]
