"""Train a compact EfficientNet as an image classifier: the backbones of EfficientHRNet.

    python recipes/train_compact_efficientnet.py --model compact_efficientnet_b-2 --data imagenet
    python recipes/train_compact_efficientnet.py --dataset cifar100 --data cifar-100-binary
    python recipes/train_compact_efficientnet.py --smoke

The paper's schedule (EfficientHRNet, section 4.1): SGD, weight decay 1e-4, Xavier initialisation, the learning
rate rises from 1e-4 to 0.05 over 5 epochs and then falls tenfold every 30 epochs of 195. ImageNet's layout is
`train/CLASS/picture` and `val/CLASS/picture`. A killed run goes on where it stopped.

`train_efficienthrnet.py --backbone runs/…/best.weights.h5` starts the pose network from the result.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import keras
import numpy as np

import posezoo
from posezoo.cards import read_card
from posezoo.data.classes import READERS, ClassCrops, class_batch
from posezoo.data.pipeline import batches, load_all
from posezoo.inference.runners import normalise
from posezoo.training.backend import dataset, native, on_devices, run_recipe, set_precision, steps_down
from posezoo.training.config import RunConfig, option
from posezoo.training.run import Checkpoint, Run


@dataclass(frozen=True)
class Config(RunConfig):
    model: str = option("compact_efficientnet_b-4", "a compact_efficientnet name from 'posezoo list'")
    lite: bool = option(False, "ReLU6 and no squeeze-excite: the backbone of the lite networks")
    input_px: int = option(0, "side of the input; 0 takes the model's")
    data: Path = option(Path("data/imagenet"), "folder of the data set")
    dataset: str = option("folders", f"its layout: {' or '.join(READERS)}")
    out: Path = option(Path("runs/compact_efficientnet"), "folder of the run")

    epochs: int = option(200, "epochs, warm-up included")
    batch: int = option(64, "pictures per step, over all devices")
    learning_rate: float = option(0.05, "after the warm-up")
    warm_up_epochs: int = option(5, "epochs over which the learning rate rises")
    warm_up_from: float = option(1e-4, "learning rate at the start")
    drop_every: int = option(30, "epochs between tenfold drops")
    momentum: float = option(0.9, "of SGD (the paper does not print one)")
    weight_decay: float = option(1e-4, "of kernels")

    rotation: float = option(10.0, "largest rotation in degrees")
    area: float = option(0.08, "smallest share of the picture that a crop covers")


def main(argv=None) -> Run:
    return run_recipe(Config, train, argv, description=__doc__, shrink=smoke, score="accuracy")


def train(cfg: Config, run: Run) -> None:
    pictures = {split: READERS[cfg.dataset](cfg.data, split) for split in ("train", "val")}
    set_precision(cfg.precision)
    changes = {"input_px": cfg.input_px} if cfg.input_px else {}
    network = posezoo.build(cfg.model, classes=len(pictures["train"].classes), lite=cfg.lite, **changes)
    side = network.input_shape[1]
    crops = ClassCrops(
        pictures["train"], side, augment=True, rotation_deg=cfg.rotation, area=cfg.area, seed=cfg.seed
    )  # fmt: skip
    checked = ClassCrops(pictures["val"], side, augment=False)
    scale = partial(normalise, spec=read_card(cfg.model).input)

    trainer = on_devices(native(network, precision=cfg.precision), cfg.devices)
    trainer.build((None, side, side, 3))
    optimizer = keras.optimizers.SGD(cfg.learning_rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    trainer.compile(
        optimizer, loss={"classes": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}, jit_compile=False
    )  # fmt: skip
    steps = len(crops) // cfg.batch
    if not steps:
        raise SystemExit(f"{cfg.data}: {len(crops)} pictures do not fill one batch of {cfg.batch}; lower --batch")

    warm_up = cfg.warm_up_epochs * steps
    drops = tuple(warm_up + n * steps for n in range(cfg.drop_every, cfg.epochs, cfg.drop_every))
    falling = steps_down(cfg.learning_rate, at=drops)

    def learning_rate(step: int) -> float:
        if step >= warm_up:
            return falling(step)
        return cfg.warm_up_from + (cfg.learning_rate - cfg.warm_up_from) * step / warm_up

    def evaluate() -> dict[str, float]:
        right = 0
        for loaded in batches(load_all(checked, workers=cfg.workers), cfg.batch):
            images, labels = class_batch(loaded, scale=scale)
            scores = np.asarray(trainer.predict_on_batch(images)["classes"])[: len(images)]
            right += int((scores.argmax(axis=1) == labels).sum())
        return {"val_accuracy": right / len(checked)}

    run.restore(trainer)
    callbacks = [Checkpoint(run, network, evaluate, learning_rate=learning_rate)]
    if cfg.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
    encode = partial(class_batch, scale=scale)
    data = dataset(crops, encode, cfg.batch, epochs=range(run.epoch, cfg.epochs), workers=cfg.workers)
    trainer.fit(
        data, initial_epoch=run.epoch, epochs=cfg.epochs, steps_per_epoch=steps, callbacks=callbacks,
        shuffle=False, verbose=1 if sys.stdout.isatty() else 2,
    )  # fmt: skip


def smoke(cfg: Config) -> Config:
    """Shrink a run to two short epochs; without --data, on coloured squares."""
    data = cfg.data if cfg.data != Config.data else write_squares(Path(tempfile.mkdtemp()))
    return replace(cfg, data=data, input_px=cfg.input_px or 32, batch=4, epochs=2, warm_up_epochs=1)


def write_squares(root: Path) -> Path:
    """Write two classes of pictures, red and blue squares on noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for channel, name in ((0, "blue"), (2, "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 100, (40, 48, 3), dtype=np.uint8)
                picture[10:30, 12:36, channel] = 250
                cv2.imwrite(str(folder / f"{i}.png"), picture)
    return root


if __name__ == "__main__":
    main()
