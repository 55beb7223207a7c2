"""Train the MobileNet split-stream network, by default as its paper does.

    python recipes/train_mobilenet_split.py --data path/to/lspet --backbone mobilenet_imagenet.npz

Stage 1 trains the new layers on a frozen ImageNet backbone (50,000 steps at 1e-3), stage 2 everything
(150,000 steps at 1e-4, halved on plateaus); Adam, batch 16, moving average of the weights.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import keras
import numpy as np

from posezoo.codecs import HeatmapCodec
from posezoo.data.augment import Augmentation
from posezoo.data.lsp import read_lsp
from posezoo.data.pipeline import PersonCrops, keras_dataset, scale_pixels, tf_dataset
from posezoo.evaluation.top_down import evaluate_pck
from posezoo.models.mobilenet_split import mobilenet_split
from posezoo.training.config import option, parse
from posezoo.training.initialise import load_backbone, read_layers
from posezoo.training.losses import heatmap_loss
from posezoo.training.run import Checkpoint, Plateau, Run


@dataclass
class Config:
    data: Path = option(Path("data/lspet"), "folder of the data set")
    out: Path = option(Path("runs/mobilenet_split"), "folder of the run")
    width: float = option(1.0, "width multiplier")
    input_px: int = option(224, "side of the input")
    backbone: Path | None = option(None, "ImageNet weights: the NPZ or Keras's MobileNet .h5")
    init: Path | None = option(None, "weights.h5 of an earlier run of this recipe to start from")
    teacher: Path | None = option(None, "weights.h5 of a width-1.0 network to distil from")
    teacher_share: float = option(0.5, "share of the teacher's maps in the loss")
    frozen_steps: int = option(50_000, "steps of stage 1, backbone frozen (rounded up to epochs)")
    steps: int = option(200_000, "steps in all (rounded up to epochs)")
    batch: int = option(16, "pictures per step, over all devices")
    frozen_learning_rate: float = option(1e-3, "learning rate of stage 1")
    learning_rate: float = option(1e-4, "learning rate of stage 2")
    schedule: str = option("plateau", "plateau: halve when the validation PCK stops rising; cosine: to zero")
    patience: int = option(10, "epochs without progress before halving")
    weight_decay: float = option(0.0, "decoupled weight decay; 0 is plain Adam")
    ema: float = option(0.9, "momentum of the moving average of the weights; 0 for none")
    sigma: float = option(1.5, "standard deviation of the target Gaussians in map pixels")
    rotation: float = option(30.0, "largest rotation in degrees")
    scale: float = option(1.25, "largest magnification of the person")
    min_scale: float = option(0.75, "smallest magnification of the person")
    translate: float = option(0.0, "largest shift as a fraction of the crop")
    colour: float = option(0.0, "strength of colour changes, 0 to 1")
    grey: float = option(0.0, "probability of a grey picture")
    cutout: float = option(0.0, "probability of covering a rectangle")
    seed: int = option(1, "seed of every random number")
    workers: int = option(2, "loader threads")
    threads: int = option(0, "compute threads; 0 leaves the framework's choice")
    bfloat16: bool = option(False, "mixed precision")
    resume: bool = option(True, "go on with the run in --out if there is one")


def set_threads(threads: int) -> None:
    cv2.setNumThreads(1)  # the loader has its own threads
    if threads and keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
    elif threads and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)


def main(argv=None) -> Run:
    cfg = parse(Config, argv, description=__doc__)
    keras.utils.set_random_seed(cfg.seed)
    set_threads(cfg.threads)
    run = Run.start_or_resume(cfg, cfg.out, resume=cfg.resume)

    codec = HeatmapCodec((cfg.input_px, cfg.input_px), sigma=cfg.sigma)
    augmentation = Augmentation(
        rotation_deg=cfg.rotation, scale=(cfg.min_scale, cfg.scale), translate=cfg.translate,
        colour=cfg.colour, grey=cfg.grey, cutout=cfg.cutout,
    )  # fmt: skip
    training, validation = read_lsp(cfg.data, "train"), read_lsp(cfg.data, "val")
    train = PersonCrops(training, codec.input_wh, augmentation=augmentation, seed=cfg.seed)
    val = PersonCrops(validation, codec.input_wh)

    network = mobilenet_split(width=cfg.width, input_px=cfg.input_px, skeleton=training.skeleton)
    backbone = load_backbone(network, read_layers(cfg.backbone)) if cfg.backbone else []
    if cfg.init:
        network.load_weights(cfg.init)

    steps = len(train) // cfg.batch
    frozen_epochs, epochs = math.ceil(cfg.frozen_steps / steps), math.ceil(cfg.steps / steps)
    for phase, (first, last) in enumerate([(0, frozen_epochs), (frozen_epochs, epochs)]):
        if run.epoch >= last or first == last:
            continue
        for name in backbone:
            network.get_layer(name).trainable = phase == 1
        fit(cfg, run, network, codec, train, val, first=first, last=last, frozen=phase == 0)
    print(f"best validation PCK@0.2 {run.best:.4f}, weights in {run.best_weights}")
    return run


def fit(cfg, run, network, codec, train, val, *, first, last, frozen):
    """Train from epoch `first` to `last` with one optimiser."""
    steps = len(train) // cfg.batch
    trainer = network
    if keras.backend.backend() == "torch":
        from posezoo.training.native_torch import NativeTorch

        trainer = NativeTorch(network, bfloat16=cfg.bfloat16)
        trainer.build((None, cfg.input_px, cfg.input_px, 3))
    peak = cfg.frozen_learning_rate if frozen else cfg.learning_rate
    averaging = {"use_ema": True, "ema_momentum": cfg.ema} if cfg.ema else {}
    optimizer = keras.optimizers.AdamW(peak, weight_decay=cfg.weight_decay, **averaging)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    trainer.compile(optimizer, loss={"heatmaps": heatmap_loss}, jit_compile=False)

    def learning_rate(step):
        if frozen or cfg.schedule == "plateau":
            return peak
        done = (step - first * steps) / ((last - first) * steps)
        warm_up = min(1.0, (step - first * steps + 1) / 200)
        return peak * warm_up * 0.5 * (1 + math.cos(math.pi * done))

    def evaluate():
        def on_crops(images):
            return {k: np.asarray(v) for k, v in trainer.predict_on_batch(scale_pixels(images)).items()}

        score = evaluate_pck(on_crops, val, codec, workers=cfg.workers)
        return {"val_pck": score.at(0.2), "val_pck01": score.at(0.1)}

    plateau = Plateau(cfg.patience) if cfg.schedule == "plateau" and not frozen else None
    if run.epoch > first:
        run.restore(trainer, plateau)
    checkpoint = Checkpoint(run, network, evaluate, learning_rate=learning_rate, plateau=plateau)
    if keras.backend.backend() == "tensorflow":
        data = tf_dataset(train, codec, cfg.batch, epochs=range(run.epoch, last), workers=cfg.workers)
    else:
        data = keras_dataset(train, codec, cfg.batch, epoch=run.epoch, workers=cfg.workers)
    trainer.fit(
        data, initial_epoch=run.epoch, epochs=last, steps_per_epoch=steps, callbacks=[checkpoint],
        verbose=2 if os.environ.get("CI") else "auto",
    )  # fmt: skip


if __name__ == "__main__":
    main()
