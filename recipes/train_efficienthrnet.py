"""Train EfficientHRNet, by default as its paper does on COCO.

    python recipes/train_efficienthrnet.py --model efficienthrnet_h-2 --data coco --backbone b-2.weights.h5
    python recipes/train_efficienthrnet.py --model efficienthrnet_lite_h-4 --dataset lspet --data lspet \\
        --backbone efficientnet_lite0.npz --input-px 256 --no-freeze-backbone
    python recipes/train_efficienthrnet.py --smoke

The paper's schedule (section 4.2 and the authors' configs): Adam, 1e-3, tenfold down at epochs 200 and 260 of 300,
the ImageNet backbone frozen. `--dataset coco` takes COCO's layout. `--dataset lspet` pastes single people of
LSPet into canvases of several: see docs/efficienthrnet.md for what that can and cannot teach. A killed run goes on
where it stopped when the same command is given again.

On CPUs, try KERAS_BACKEND=torch, with `--precision bfloat16` on processors that have it.
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
from posezoo.codecs import make_codec
from posezoo.data.augment import Augmentation
from posezoo.data.canvases import Canvases, read_lspet_coco17, validation_canvases
from posezoo.data.pipeline import load_all
from posezoo.data.readers import read
from posezoo.data.scenes import Pictures, scene_batch, whole_scenes
from posezoo.data.stick_figures import write_stick_figures
from posezoo.evaluation.bottom_up import find_in_scenes, find_in_whole, limb_joints, score_scenes
from posezoo.files import replacing
from posezoo.inference.bottom_up import fit
from posezoo.inference.drawing import draw
from posezoo.inference.estimator import PoseModel
from posezoo.inference.images import crop
from posezoo.inference.runners import KerasRunner, normalise
from posezoo.models.efficienthrnet import backbone_layers
from posezoo.skeletons import COCO17
from posezoo.training.associative_embedding import losses
from posezoo.training.backend import (
    cosine,
    dataset,
    native,
    on_devices,
    run_recipe,
    set_precision,
    steps_down,
)  # fmt: skip
from posezoo.training.config import RunConfig, option
from posezoo.training.initialise import freeze, layers_of, load_backbone, read_efficientnet_lite, small_normal
from posezoo.training.run import Checkpoint, Run


@dataclass(frozen=True)
class Config(RunConfig):
    model: str = option("efficienthrnet_h-2", "a name of this family from 'posezoo list'")
    input_px: int = option(0, "side of the input; 0 takes the model's")
    data: Path = option(Path("data/coco"), "folder of the data set")
    dataset: str = option("coco", "coco (pictures of many people) or lspet (canvases of single people)")
    out: Path = option(Path("runs/efficienthrnet"), "folder of the run")

    backbone: Path | None = option(None, "ImageNet weights: EfficientNet-Lite0's NPZ, or a compact EfficientNet's run")
    init: Path | None = option(None, "weights of an earlier run of this network to start from")
    init_std: float = option(0.001, "standard deviation of the new convolutions; 0 keeps Keras's initialisation")
    freeze_backbone: bool = option(True, "keep the backbone's weights; its batch statistics still follow the data")

    epochs: int = option(300, "epochs")
    length: int = option(0, "examples per epoch; 0 takes as many as the data set has pictures")
    batch: int = option(16, "pictures per step, over all devices (the paper: 1 to 48 per GPU)")
    learning_rate: float = option(1e-3, "at the start")
    schedule: str = option("steps", "steps (tenfold down at --drops) or cosine (to zero)")
    drops: str = option("200,260", "epochs at which the learning rate drops")
    warm_up: int = option(200, "steps over which a cosine schedule's learning rate rises")
    weight_decay: float = option(0.0, "decoupled; the paper prints 1e-4, its code uses none")
    ema: float = option(0.0, "momentum of the moving average of the weights; 0 for none")
    low_weight: float = option(1.0, "weight of the heatmap loss at 1/4")
    adaptive: float = option(0.0, "exponent of weight-adaptive heatmap regression (0.01 is common); 0 for none")
    tag_weight: float = option(1e-3, "weight of the grouping loss, pull and push")

    sigma: float = option(2.0, "standard deviation of the target Gaussians in map pixels, at both sizes")
    rotation: float = option(30.0, "largest rotation in degrees")
    any_rotation: float = option(0.0, "canvases: probability of a rotation by any angle instead")
    min_scale: float = option(0.75, "coco: smallest side of a crop, times the picture's short side")
    scale: float = option(1.5, "coco: largest side of a crop, times the picture's short side")
    translate: float = option(0.2, "largest shift as a fraction of the short side")
    colour: float = option(0.0, "strength of colour changes, 0 to 1")
    grey: float = option(0.0, "probability of a grey picture")
    cutout: float = option(0.0, "probability of covering a rectangle")
    single: float = option(0.3, "canvases: share of whole pictures of one person")
    close: float = option(0.0, "canvases: share of those in which the person is larger than the picture")
    most_people: int = option(6, "canvases: largest number of people")

    val_scales: str = option("", "validate on whole pictures at these scales, as posezoo eval --scales: 1 or 0.5,1,1.5")
    val_flip: bool = option(False, "validate with the mirrored picture too, as posezoo eval --flip")
    val_canvases: int = option(200, "validation canvases (lspet)")
    pictures: int = option(8, "validation pictures drawn after every epoch, into the run's folder")


def main(argv=None) -> Run:
    return run_recipe(Config, train, argv, description=__doc__, shrink=smoke, score="AP")


def train(cfg: Config, run: Run) -> None:
    set_precision(cfg.precision)
    network = start(cfg)
    height, width = network.input_shape[1:3]
    card = read_card(cfg.model)
    codec = replace(make_codec(input_wh=(width, height), **card.codec), sigma=cfg.sigma)
    scenes, checked, joints = examples(cfg, codec.input_wh)
    scale = partial(normalise, spec=card.input)
    steps = len(scenes) // cfg.batch
    if not steps:
        raise SystemExit(f"{cfg.data}: {len(scenes)} examples do not fill one batch of {cfg.batch}; lower --batch")

    if cfg.freeze_backbone:
        freeze(backbone_layers(network))
    trainer = on_devices(native(network, precision=cfg.precision), cfg.devices)
    trainer.build((None, height, width, 3))
    averaging = {"use_ema": True, "ema_momentum": cfg.ema} if cfg.ema else {}
    optimizer = keras.optimizers.AdamW(cfg.learning_rate, weight_decay=cfg.weight_decay, **averaging)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    terms = losses(low_weight=cfg.low_weight, tag_weight=cfg.tag_weight, adaptive=cfg.adaptive)
    trainer.compile(optimizer, loss=terms, jit_compile=False)
    if cfg.schedule == "cosine":
        learning_rate = cosine(cfg.learning_rate, first=0, last=cfg.epochs * steps, warm_up=cfg.warm_up)
    else:
        learning_rate = steps_down(cfg.learning_rate, at=tuple(int(e) * steps for e in cfg.drops.split(",") if e))

    scales = validation_scales(cfg)

    def evaluate() -> dict[str, float]:
        def run_network(images):
            outputs = trainer.predict_on_batch(scale(images))
            return {name: np.asarray(value, np.float32)[: len(images)] for name, value in outputs.items()}

        if scales or cfg.val_flip:
            # Other input sizes run on copies of the weights, which are those of now in a new runner alone.
            spec = replace(card.input, shape=(height, width, 3))
            model = PoseModel(replace(card, input=spec), KerasRunner(network, spec))
            whole = whole_scenes(checked.people) if cfg.dataset == "coco" else load_all(checked, workers=cfg.workers)
            found = find_in_whole(partial(model, flip=cfg.val_flip, scales=scales), whole, images=cfg.pictures)
        else:
            found = find_in_scenes(run_network, checked, codec, COCO17, batch=cfg.batch, workers=cfg.workers)
        draw_predictions(run, found[: cfg.pictures], codec.input_wh, tensorboard=cfg.tensorboard)
        scores = score_scenes(found, joints=joints)
        return {"val_ap": scores.ap, "val_ap50": scores.ap50, "val_ar": scores.ar}

    run.restore(trainer)
    callbacks = [Checkpoint(run, network, evaluate, learning_rate=learning_rate)]
    if cfg.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
    encode = partial(scene_batch, codec=codec, scale=scale)
    data = dataset(scenes, encode, cfg.batch, epochs=range(run.epoch, cfg.epochs), workers=cfg.workers)
    trainer.fit(
        data, initial_epoch=run.epoch, epochs=cfg.epochs, steps_per_epoch=steps, callbacks=callbacks,
        shuffle=False, verbose=1 if sys.stdout.isatty() else 2,
    )  # fmt: skip


def validation_scales(cfg: Config) -> tuple[float, ...] | None:
    """Return the scales of `--val-scales`.

    Raises:
        SystemExit: They are no numbers, or there are several devices, on which single pictures do not run.
    """
    if (cfg.val_scales or cfg.val_flip) and cfg.devices > 1 and keras.backend.backend() == "tensorflow":
        raise SystemExit("--val-scales and --val-flip run on one device; leave --devices out")
    try:
        return tuple(float(s) for s in cfg.val_scales.split(",")) if cfg.val_scales else None
    except ValueError:
        raise SystemExit(f"--val-scales {cfg.val_scales}: expected numbers such as 1 or 0.5,1,1.5") from None


def start(cfg: Config) -> keras.Model:
    """Build the network and give it its first weights."""
    network = posezoo.build(cfg.model, **({"input_px": cfg.input_px} if cfg.input_px else {}))
    backbone = backbone_layers(network)
    if cfg.init_std:
        small_normal([layer for layer in network.layers if layer not in backbone], cfg.init_std, seed=cfg.seed)
    if cfg.backbone and cfg.backbone.suffix == ".npz":
        load_backbone(network, read_efficientnet_lite(cfg.backbone))
    elif cfg.backbone:
        build = read_card(cfg.model).build
        classifier = posezoo.build(f"compact_efficientnet_b{build['phi']}", lite=build.get("lite", False))
        classifier.load_weights(cfg.backbone)
        load_backbone(network, layers_of(classifier))
    if cfg.init:
        network.load_weights(cfg.init)
    return network


def examples(cfg: Config, input_wh: tuple[int, int]):
    """The training scenes, the validation scenes, and the joints that count in validation (None for all)."""
    augmentation = Augmentation(
        rotation_deg=cfg.rotation, any_rotation=cfg.any_rotation, scale=(1 / cfg.scale, 1 / cfg.min_scale),
        translate=cfg.translate, colour=cfg.colour, grey=cfg.grey, cutout=cfg.cutout,
    )  # fmt: skip
    if cfg.dataset == "lspet":
        people = {split: read_lspet_coco17(cfg.data, split) for split in ("train", "val")}
        scenes = Canvases(
            people["train"], input_wh, count=(2, cfg.most_people), length=cfg.length or None, single=cfg.single,
            close=cfg.close, augmentation=augmentation, seed=cfg.seed,
        )  # fmt: skip
        return scenes, validation_canvases(people["val"], input_wh, length=cfg.val_canvases), limb_joints(COCO17)
    if cfg.dataset != "coco":
        raise SystemExit(f"unknown --dataset {cfg.dataset}; expected coco or lspet")
    people = {split: read("coco", cfg.data, split) for split in ("train", "val")}
    for part in people.values():
        if part.problems:
            print(f"{part.name}: {len(part)} pictures, left out: {dict(part.problems)}")
    scenes = Pictures(people["train"], input_wh, augmentation=augmentation, seed=cfg.seed)
    return scenes, Pictures(people["val"], input_wh), None


def draw_predictions(run: Run, found, size_wh: tuple[int, int], *, tensorboard: bool) -> None:
    """Write what the network sees in a few validation scenes: a picture in the run's folder, and for TensorBoard."""
    if not found:
        return
    whole = [draw(scene.image, poses[poses.person_scores > 0.2]) for scene, poses in found]
    drawn = [crop(image, fit((image.shape[1], image.shape[0]), size_wh), size_wh) for image in whole]
    sheet = np.concatenate(drawn, axis=1)
    with replacing(run.folder / "pictures" / f"epoch_{run.epoch:03d}.png") as path:
        cv2.imwrite(str(path), sheet[..., ::-1])
    if tensorboard:
        import tensorflow as tf

        with tf.summary.create_file_writer(str(run.folder / "tensorboard" / "pictures")).as_default():
            tf.summary.image("predictions", np.stack(drawn), step=run.epoch, max_outputs=len(drawn))


def smoke(cfg: Config) -> Config:
    """Shrink a run to two short epochs; without --data, on stick figures."""
    data, layout = cfg.data, cfg.dataset
    if cfg.data == Config.data:
        data, layout = write_stick_figures(tempfile.mkdtemp()), "lspet"
    return replace(
        cfg, data=data, dataset=layout, input_px=cfg.input_px or 64, batch=2, epochs=2, length=4, val_canvases=4,
        pictures=2,
    )  # fmt: skip


if __name__ == "__main__":
    main()
