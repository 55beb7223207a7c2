"""Quantisation-aware training: from float weights to an int8 file, with float, PTQ and QAT side by side.

    python recipes/quantize_qat.py --model mobilenet_split_224 --data lspet
    python recipes/quantize_qat.py --model efficienthrnet_h-2 --dataset lspet --data lspet --weights best.weights.h5
    python recipes/quantize_qat.py --smoke

The network's Keras 2 twin rounds as the int8 file will (posezoo.compression.qat) and is trained a little further with
the losses of its family; batch norms keep their statistics. The file passes the gates before it is written, and the
better of all epochs, the start included, is what is kept. `--keep-float a,b` leaves layers unrounded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tasks import generated, task_of

import posezoo
from posezoo.cards import read_card
from posezoo.compression.keras2 import keras2
from posezoo.compression.qat import QuantisedTwin
from posezoo.export.tflite import export_tflite, to_tflite
from posezoo.files import replacing
from posezoo.inference.runners import KerasRunner, TFLiteRunner, normalise
from posezoo.training.backend import cosine, dataset, set_threads
from posezoo.training.config import RunConfig, option, parse
from posezoo.weights import fetch


@dataclass(frozen=True)
class Config(RunConfig):
    model: str = option("mobilenet_split_224", "a name from 'posezoo list'")
    weights: Path | None = option(None, "float weights; the released ones by default")
    data: Path = option(Path("data/lspet"), "labelled data set")
    dataset: str = option("lsp", "its layout, see recipes/tasks.py")
    out: Path = option(Path("runs/qat"), "folder for the int8 file, the weights and the report")

    epochs: int = option(2, "epochs")
    steps: int = option(0, "steps per epoch; 0 for all examples")
    batch: int = option(16, "examples per step")
    learning_rate: float = option(2e-5, "highest; rises over 20 steps and falls as half a cosine")
    calibration: int = option(200, "pictures that set the first ranges, and PTQ's")
    keep_float: str = option("", "names of layers that are not rounded, separated by commas")
    val_examples: int = option(0, "validation examples; 0 for all")


def main(argv=None) -> dict:
    cfg = parse(Config, argv, description=__doc__)
    card = read_card(cfg.model)
    if cfg.smoke:
        layout, folder = generated(card) if cfg.data == Config.data else (cfg.dataset, cfg.data)
        cfg = replace(
            cfg,
            data=folder,
            dataset=layout,
            epochs=1,
            steps=2,
            batch=2,
            calibration=4,
            val_examples=cfg.val_examples or 4,
        )
    set_threads(cfg.threads)
    network = posezoo.build(cfg.model)
    if cfg.weights or "float16" in card.weights:
        network.load_weights(cfg.weights or fetch(card.weights["float16"]))
    elif not cfg.smoke:
        raise SystemExit(f"{cfg.model} has no released weights; give --weights, from: {card.recipe}")
    task = task_of(
        card, cfg.dataset, cfg.data, limit=cfg.val_examples, workers=cfg.workers, seed=cfg.seed
    )  # fmt: skip
    pictures = task.calibration(cfg.calibration)

    scores = {"float32": task.score(KerasRunner(network, card.input))}
    print(f"float32: {task.metric} {scores['float32']:.4f}", flush=True)
    scores["int8"] = task.score(TFLiteRunner(to_tflite(network, card.input, pictures), card.input))
    print(f"int8 after training (PTQ): {task.metric} {scores['int8']:.4f}", flush=True)

    batches = [normalise(np.stack(pictures[i : i + 8]), card.input) for i in range(0, len(pictures), 8)]
    twin = QuantisedTwin(network, batches, keep_float=[n for n in cfg.keep_float.split(",") if n])
    best = train(cfg, card, task, twin)
    scores["int8-qat"] = best
    print(f"int8 of the trained twin (QAT): {task.metric} {best:.4f}", flush=True)

    cfg.out.mkdir(parents=True, exist_ok=True)
    check = np.stack(pictures[:8])
    file = cfg.out / f"{cfg.model}_int8.tflite"
    sidecar = export_tflite(twin.model, card.input, file, check_pictures=check, trained_ranges=True)
    twin.bring_back()
    with replacing(cfg.out / f"{cfg.model}_qat.weights.h5") as path:
        network.save_weights(path)
    record = {
        "model": cfg.model, "metric": task.metric, "dataset": cfg.dataset, "scores": scores,
        "operators": sidecar["operators"],
    }  # fmt: skip
    with replacing(cfg.out / "report.json") as path:
        path.write_text(json.dumps(record, indent=1))
    print(f"written: {file} ({sidecar['bytes'] / 1e6:.2f} MB)")
    return record


def train(cfg: Config, card, task, twin: QuantisedTwin) -> float:
    """Train the twin; leave it as it was best, by the int8 file's own score."""

    def score() -> float:
        return task.score(TFLiteRunner(to_tflite(twin.model, card.input, trained_ranges=True), card.input))

    steps = cfg.steps or len(task.train) // cfg.batch
    optimizer = keras2().optimizers.Adam(cfg.learning_rate)
    twin.model.compile(optimizer, loss=task.losses)
    falling = cosine(cfg.learning_rate, first=0, last=max(cfg.epochs * steps, 1), warm_up=20)
    best, kept = score(), twin.model.get_weights()
    print(f"twin before training: {task.metric} {best:.4f}", flush=True)
    data = iter(dataset(task.train, task.encode, cfg.batch, epochs=range(cfg.epochs), workers=cfg.workers))
    for epoch in range(cfg.epochs):
        total = 0.0
        for step in range(steps):
            optimizer.learning_rate.assign(falling(epoch * steps + step))
            images, targets = next(data)
            targets = targets if isinstance(targets, dict) else {next(iter(task.losses)): targets}
            total += float(twin.model.train_on_batch(images, targets, return_dict=True)["loss"])
        found = score()
        print(f"epoch {epoch + 1}/{cfg.epochs}: loss {total / steps:.4f}, {task.metric} {found:.4f}", flush=True)
        if found > best:
            best, kept = found, twin.model.get_weights()
    twin.model.set_weights(kept)
    return best


if __name__ == "__main__":
    main()
