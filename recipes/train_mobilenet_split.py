"""Train the MobileNet split-stream network or one of its paper's baselines, by default as the paper does.

    python recipes/train_mobilenet_split.py --data lspet --backbone mobilenet_imagenet.npz
    python recipes/train_mobilenet_split.py --dataset flic --data FLIC --backbone mobilenet_1_0_224_tf.h5
    python recipes/train_mobilenet_split.py --smoke

Stage 1 trains the new layers on a frozen ImageNet backbone (50,000 steps at 1e-3), stage 2 everything
(150,000 steps at 1e-4, halved on plateaus); Adam, batch 16, moving average of the weights. A killed run
goes on where it stopped when the same command is given again.

A keypoint set of your own: a COCO-style JSON that names its keypoints, `--dataset coco --data FOLDER`, and
one `Skeleton` added to `posezoo.skeletons.SKELETONS`, `--skeleton NAME`.

On CPUs, try KERAS_BACKEND=torch, with `--precision bfloat16` on processors that have it;
`benchmarks/training_speed.py` compares the backends.
"""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

import posezoo
from posezoo.cards import read_card
from posezoo.codecs import CoordinateCodec, HeatmapCodec
from posezoo.data.augment import Augmentation
from posezoo.data.cached_crops import CachedCrops, Mix
from posezoo.data.pipeline import PADDING, PersonCrops, training_batch, weighted_batch
from posezoo.data.readers import read
from posezoo.data.stick_figures import write_stick_figures
from posezoo.evaluation.top_down import evaluate_pck
from posezoo.inference.runners import normalise
from posezoo.skeletons import SKELETONS
from posezoo.training.backend import cosine, dataset, native, on_devices, run_recipe, set_precision
from posezoo.training.config import RunConfig, option
from posezoo.training.distillation import Distiller
from posezoo.training.initialise import layers_of, load_backbone, read_layers
from posezoo.training.losses import LOSSES, keypoint_losses, spatial_cross_entropy
from posezoo.training.run import Checkpoint, Plateau, Run


@dataclass(frozen=True)
class Config(RunConfig):
    model: str = option("mobilenet_split_224", "a name of this family from 'posezoo list'")
    width: float = option(0.0, "width multiplier; 0 takes the model's")
    input_px: int = option(0, "side of the input; 0 takes the model's")
    data: Path = option(Path("data/lspet"), "folder of the data set")
    dataset: str = option("lsp", "its layout: lsp, flic or coco")
    crops: str = option("", "caches of recipes/cache_crops.py to learn from instead: FOLDER or FOLDER:SHARE, commas")
    epoch_crops: int = option(0, "crops of an epoch with --crops; 0 takes as many as the caches hold")
    skeleton: str = option("", "keypoints to learn, a name in posezoo.skeletons; empty takes the data set's")
    out: Path = option(Path("runs/mobilenet_split"), "folder of the run")

    backbone: Path | None = option(None, "ImageNet weights: an NPZ of layers or Keras's MobileNet .h5")
    init: Path | None = option(None, "weights of an earlier run to start from")
    narrow_from: Path | None = option(None, "weights of a width-1.0 run, whose most important channels are taken")
    teacher: Path | None = option(None, "weights of a width-1.0 network to distil from")
    teacher_share: float = option(0.5, "share of the teacher's maps in the loss")
    taught_share: float = option(0.0, "weight of the maps that a teacher left in the caches, beside a label's 1")

    frozen_steps: int = option(50_000, "steps of stage 1, backbone frozen (rounded up to epochs)")
    steps: int = option(200_000, "steps of both stages (rounded up to epochs)")
    batch: int = option(16, "pictures per step, over all devices")
    frozen_learning_rate: float = option(1e-3, "learning rate of stage 1")
    learning_rate: float = option(1e-4, "learning rate of stage 2")
    schedule: str = option(
        "plateau", "stage 2: plateau (halve when the validation PCK stops rising) or cosine (to zero)"
    )
    patience: int = option(10, "epochs without progress before halving")
    warm_up: int = option(200, "steps over which a cosine schedule's learning rate rises")
    weight_decay: float = option(0.0, "decoupled weight decay; 0 is plain Adam")
    ema: float = option(0.9, "momentum of the moving average of the weights; 0 for none")

    spatial: float = option(0.0, "weight of a spatial cross-entropy beside the squared error of heatmaps")
    sigma: float = option(1.5, "standard deviation of the target Gaussians in map pixels")
    box: str = option(
        "", "crop around: annotated (persons' boxes, where the set has them) or keypoints (labelled joints)"
    )
    enlarge: float = option(0.0, "crop: factor on the box; 0 takes 1.35 around joints, 1.25 around the person's box")
    rotation: float = option(30.0, "largest rotation in degrees")
    any_rotation: float = option(0.0, "probability of a rotation by any angle instead")
    scale: float = option(1.25, "largest magnification of the person")
    min_scale: float = option(0.75, "smallest magnification of the person")
    translate: float = option(0.0, "largest shift as a fraction of the crop")
    colour: float = option(0.0, "strength of colour changes, 0 to 1")
    grey: float = option(0.0, "probability of a grey picture")
    cutout: float = option(0.0, "probability of covering a rectangle")
    part: float = option(0.0, "probability of cropping around the bust, the upper body or the legs alone")


def main(argv=None) -> Run:
    return run_recipe(Config, train, argv, description=__doc__, shrink=smoke, score="PCK@0.2")


def train(cfg: Config, run: Run) -> None:
    skeleton = SKELETONS[cfg.skeleton] if cfg.skeleton else None
    splits = ("val",) if cfg.crops else ("train", "val")
    people = {split: read(cfg.dataset, cfg.data, split, skeleton) for split in splits}
    for part in people.values():
        if part.problems:
            print(f"{part.name}: {len(part)} pictures, left out: {dict(part.problems)}")
    network, teacher = networks(cfg, people["val"].skeleton)
    height, width = network.input_shape[1:3]
    codec = make_codec(cfg, network, (width, height))
    augmentation = Augmentation(
        rotation_deg=cfg.rotation, any_rotation=cfg.any_rotation,
        scale=(cfg.min_scale, cfg.scale), translate=cfg.translate,
        colour=cfg.colour, grey=cfg.grey, cutout=cfg.cutout, part=cfg.part,
    )  # fmt: skip
    laid = {"box": cfg.box or None, "enlarge": cfg.enlarge or None}
    if cfg.crops:
        crops = cached_mix(cfg, codec.input_wh, people["val"].skeleton, augmentation)
    else:
        crops = PersonCrops(people["train"], codec.input_wh, **laid, augmentation=augmentation, seed=cfg.seed)
    checked = PersonCrops(people["val"], codec.input_wh, **laid)
    backbone = [layer for layer in network.layers if layer.name.startswith("conv")]

    steps = len(crops) // cfg.batch
    if not steps:
        raise SystemExit(f"{cfg.data}: {len(crops)} people do not fill one batch of {cfg.batch}; lower --batch")
    frozen_epochs, epochs = math.ceil(cfg.frozen_steps / steps), math.ceil(cfg.steps / steps)
    for first, last, frozen in ((0, frozen_epochs, True), (frozen_epochs, epochs, False)):
        if run.epoch >= last or first == last:
            continue
        for layer in backbone:
            layer.trainable = not frozen
        fit(cfg, run, network, teacher, codec, crops, checked, first=first, last=last, frozen=frozen)


def cached_mix(cfg: Config, input_wh, skeleton, augmentation: Augmentation) -> Mix:
    """The caches of `--crops`, each with its share; by default its number of crops."""
    parts = []
    for i, told in enumerate(cfg.crops.split(",")):
        folder, _, share = told.rpartition(":") if ":" in told else (told, "", "")
        cache = CachedCrops(
            Path(folder), input_wh, skeleton=skeleton, augmentation=augmentation, seed=cfg.seed + i,
            enlarge=cfg.enlarge or PADDING["annotated"],
        )  # fmt: skip
        try:
            parts.append((cache, float(share) if share else float(len(cache))))
        except ValueError:
            raise SystemExit(f"--crops {told}: expected FOLDER or FOLDER:SHARE, a share such as 0.5") from None
    return Mix(parts, length=cfg.epoch_crops or None, seed=cfg.seed)


def networks(cfg: Config, skeleton):
    """Build the network, started as asked, and the teacher if there is one."""
    changes = {"width": cfg.width} if cfg.width else {}
    changes |= {"input_px": cfg.input_px} if cfg.input_px else {}
    set_precision(cfg.precision)
    network = posezoo.build(cfg.model, skeleton=skeleton, **changes)
    if cfg.backbone:
        load_backbone(network, read_layers(cfg.backbone))
    wide = {**changes, "width": 1.0, "skeleton": skeleton}
    if cfg.narrow_from:
        source = posezoo.build(cfg.model, **wide)
        source.load_weights(cfg.narrow_from)
        load_backbone(network, layers_of(source))
    if cfg.init:
        network.load_weights(cfg.init)
    teacher = None
    if cfg.teacher:
        teacher = posezoo.build(cfg.model, **wide)
        teacher.load_weights(cfg.teacher)
    return network, teacher


def make_codec(cfg: Config, network, input_wh):
    """The codec of the network's output."""
    if "coordinates" in network.output:
        return CoordinateCodec(input_wh)
    return HeatmapCodec(input_wh, sigma=cfg.sigma)


def fit(cfg, run, network, teacher, codec, crops, checked, *, first, last, frozen):
    """Train from epoch `first` to `last` with one optimiser."""
    steps = len(crops) // cfg.batch
    trainer = native(network, precision=cfg.precision)
    if teacher is not None:
        trainer = Distiller(trainer, native(teacher, precision=cfg.precision), share=cfg.teacher_share)
    on_devices(trainer, cfg.devices).build((None, *network.input_shape[1:]))
    peak = cfg.frozen_learning_rate if frozen else cfg.learning_rate
    averaging = {"use_ema": True, "ema_momentum": cfg.ema} if cfg.ema else {}
    optimizer = keras.optimizers.AdamW(peak, weight_decay=cfg.weight_decay, **averaging)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    label_share = 1 - cfg.teacher_share if teacher is not None else 1.0
    weighted = bool(cfg.crops)
    trainer.compile(
        optimizer, loss={codec.output: loss_of(codec, cfg, weighted=weighted)},
        loss_weights={codec.output: label_share}, jit_compile=False,
    )  # fmt: skip

    constant = frozen or cfg.schedule == "plateau"
    falling = cosine(peak, first=first * steps, last=last * steps, warm_up=cfg.warm_up)
    learning_rate = (lambda step: peak) if constant else falling

    scale = partial(normalise, spec=read_card(cfg.model).input)

    def evaluate():
        def on_crops(images):
            outputs = trainer.predict_on_batch(scale(images))
            # Several devices each return the whole batch.
            return {name: np.asarray(value, np.float32)[: len(images)] for name, value in outputs.items()}

        scores = evaluate_pck(on_crops, checked, codec, workers=cfg.workers)
        return {"val_pck": scores.at(0.2), "val_pck_0.1": scores.at(0.1)}

    plateau = Plateau(cfg.patience) if cfg.schedule == "plateau" and not frozen else None
    if run.epoch > first:
        run.restore(trainer, plateau)
    else:
        run.restore_averages(trainer)
    callbacks = [Checkpoint(run, network, evaluate, learning_rate=learning_rate, plateau=plateau)]
    if cfg.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
    if weighted:
        encode = partial(weighted_batch, codec=codec, scale=scale, teacher_share=cfg.taught_share)
    else:
        encode = partial(training_batch, codec=codec, scale=scale)
    data = dataset(crops, encode, cfg.batch, epochs=range(run.epoch, last), workers=cfg.workers)
    trainer.fit(
        data, initial_epoch=run.epoch, epochs=last, steps_per_epoch=steps, callbacks=callbacks,
        shuffle=False, verbose=1 if sys.stdout.isatty() else 2,
    )  # fmt: skip


def loss_of(codec, cfg: Config, *, weighted: bool = False):
    """The loss of the network's output; of each keypoint where the batch weights them."""
    if (cfg.spatial or weighted) and codec.output != "heatmaps":
        raise SystemExit(f"--spatial and --crops are for heatmaps; {cfg.model} outputs {codec.output}")
    if weighted:
        return partial(keypoint_losses, spatial=cfg.spatial)
    base = LOSSES[codec.output]
    if not cfg.spatial:
        return base
    return lambda target, predicted: base(target, predicted) + cfg.spatial * spatial_cross_entropy(target, predicted)


def smoke(cfg: Config) -> Config:
    """Shrink a run to two steps, one per stage, on pictures made for it."""
    data = cfg.data if cfg.dataset != "lsp" or cfg.data != Config.data else write_stick_figures(tempfile.mkdtemp())
    small = {"width": 0.35, "input_px": 64} if read_card(cfg.model).family == "mobilenet_split" else {}
    return replace(cfg, data=data, **small, batch=4, frozen_steps=1, steps=2)


if __name__ == "__main__":
    main()
