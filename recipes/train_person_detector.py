"""Train a person detector: people as centre points, on whole images in which everybody's box is labelled.

    python recipes/train_person_detector.py --data coco --backbone mobilenet_imagenet.npz
    python recipes/train_person_detector.py --model person_050_320 --data train_folder --val validation_folder
    python recipes/train_person_detector.py --smoke

The data have COCO's layout; crowds are ignored regions, and images that say "persons_complete": false are left out.
AdamW with a rising, then falling cosine learning rate, moving average of the weights. Images are magnified 0.5 to 2
times, shifted, mirrored and recoloured. After every epoch: recall of the people of at least --min-person-px at the
threshold that leaves --false-boxes per image, which chooses the best weights, and average precision at an intersection
over union of 0.5. The threshold belongs on the card (`codec: score_threshold`).

On CPUs, try KERAS_BACKEND=torch, with `--precision bfloat16 --devices 2`. A killed run goes on where it stopped when
the same command is given again.
"""

from __future__ import annotations

import json
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
from posezoo.codecs import CenterCodec, make_codec
from posezoo.data.augment import Augmentation
from posezoo.data.detection import DetectionImages, detection_batch, read_person_boxes
from posezoo.data.stick_figures import STANDING
from posezoo.evaluation.detection import detect_in_examples, detection_ap, recall_at_false_boxes
from posezoo.inference.runners import normalise
from posezoo.skeletons import LSP14
from posezoo.training.backend import cosine, dataset, native, on_devices, run_recipe, set_precision
from posezoo.training.config import RunConfig, input_size, option
from posezoo.training.detection import detection_losses
from posezoo.training.initialise import load_backbone, read_layers
from posezoo.training.run import Checkpoint, Run

#: Lowest score of a box in validation: average precision looks at unlikely ones too.
LOWEST_SCORE = 0.02


@dataclass(frozen=True)
class Config(RunConfig):
    model: str = option("person_050_256", "a name of this family from 'posezoo list'")
    width: float = option(0.0, "width multiplier; 0 takes the model's")
    input_px: str = option("", "side of the input, or HEIGHTxWIDTH, multiples of 32; empty takes the model's")
    data: Path = option(Path("data/coco"), "folder of the training images, in COCO's layout")
    val: Path | None = option(None, "folder of the validation images; that of the training images by default")
    out: Path = option(Path("runs/person_detector"), "folder of the run")

    backbone: Path | None = option(None, "ImageNet weights: an NPZ of layers or Keras's MobileNet .h5")
    init: Path | None = option(None, "weights of an earlier run to start from")

    epochs: int = option(120, "epochs")
    batch: int = option(32, "images per step, over all devices")
    learning_rate: float = option(3e-3, "highest learning rate")
    warm_up: int = option(200, "steps over which the learning rate rises")
    weight_decay: float = option(0.02, "decoupled weight decay; 0 is plain Adam")
    ema: float = option(0.995, "momentum of the moving average of the weights; 0 for none")
    size_weight: float = option(1.0, "weight of the error of the sizes' logarithms beside the centres' loss")
    offset_weight: float = option(0.5, "weight of the error of the offsets in cells")

    min_scale: float = option(0.5, "smallest magnification of the fitted image")
    scale: float = option(2.0, "largest magnification of the fitted image")
    translate: float = option(1.0, "largest shift, as a share of the room that the view has")
    colour: float = option(0.5, "strength of colour changes, 0 to 1")
    grey: float = option(0.05, "probability of a grey image")
    cutout: float = option(0.1, "probability of covering a rectangle")
    min_px: float = option(12.0, "people who are smaller in the input are not learnt, nor is background there")

    cache_px: int = option(416, "training images are kept with at most this longer side; 0 keeps them as they are")
    cache_mb: int = option(3000, "memory for decoded images of either set; 0 decodes anew each time")

    false_boxes: float = option(0.15, "validation: false boxes per image that recall is told at")
    min_person_px: float = option(96.0, "validation: people whose box is smaller in the image's file do not count")


def main(argv=None) -> Run:
    return run_recipe(Config, train, argv, description=__doc__, shrink=smoke, score="recall")


def train(cfg: Config, run: Run) -> None:
    set_precision(cfg.precision)
    network = start(cfg)
    height, width = network.input_shape[1:3]
    card = read_card(cfg.model)
    codec = make_codec(input_wh=(width, height), **card.codec)
    images, checked = examples(cfg, codec.input_wh)
    steps = len(images) // cfg.batch
    if not steps:
        raise SystemExit(f"{cfg.data}: {len(images)} images do not fill one batch of {cfg.batch}; lower --batch")

    trainer = on_devices(native(network, precision=cfg.precision), cfg.devices)
    trainer.build((None, height, width, 3))
    averaging = {"use_ema": True, "ema_momentum": cfg.ema} if cfg.ema else {}
    optimizer = keras.optimizers.AdamW(cfg.learning_rate, weight_decay=cfg.weight_decay, **averaging)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    trainer.compile(
        optimizer, loss=detection_losses(),
        loss_weights={"centers": 1.0, "sizes": cfg.size_weight, "offsets": cfg.offset_weight}, jit_compile=False,
    )  # fmt: skip
    scale = partial(normalise, spec=card.input)
    run.restore(trainer)
    callbacks = [
        Checkpoint(
            run, network, lambda: evaluate(cfg, trainer, checked, codec, scale),
            learning_rate=cosine(cfg.learning_rate, first=0, last=cfg.epochs * steps, warm_up=cfg.warm_up),
        )
    ]  # fmt: skip
    if cfg.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
    encode = partial(detection_batch, codec=codec, scale=scale)
    data = dataset(images, encode, cfg.batch, epochs=range(run.epoch, cfg.epochs), workers=cfg.workers)
    trainer.fit(
        data, initial_epoch=run.epoch, epochs=cfg.epochs, steps_per_epoch=steps, callbacks=callbacks,
        shuffle=False, verbose=1 if sys.stdout.isatty() else 2,
    )  # fmt: skip


def start(cfg: Config) -> keras.Model:
    """Build the network and give it its first weights."""
    changes = {"width": cfg.width} if cfg.width else {}
    network = posezoo.build(cfg.model, **changes, **input_size(cfg.input_px))
    if cfg.backbone:
        load_backbone(network, read_layers(cfg.backbone))
    if cfg.init:
        network.load_weights(cfg.init)
    return network


def examples(cfg: Config, input_wh: tuple[int, int]) -> tuple[DetectionImages, DetectionImages]:
    """The training images, varied, and the validation images as they are."""
    augmentation = Augmentation(
        rotation_deg=0, scale=(cfg.min_scale, cfg.scale), translate=cfg.translate,
        colour=cfg.colour, grey=cfg.grey, cutout=cfg.cutout,
    )  # fmt: skip
    people = {"train": read_person_boxes(cfg.data, "train"), "val": read_person_boxes(cfg.val or cfg.data, "val")}
    for part in people.values():
        if part.problems:
            print(f"{part.name}: {len(part)} images, left out: {dict(part.problems)}")
    sides = [record.boxes[:, 2:].max(axis=1, initial=0) for record in people["val"].records]
    if not any((side >= cfg.min_person_px).any() for side in sides):
        raise SystemExit(
            f"{cfg.val or cfg.data}: nobody in the validation images is {cfg.min_person_px:g} px large, so that there "
            "is no recall to measure; lower --min-person-px"
        )
    room = cfg.cache_mb << 20
    return (
        DetectionImages(
            people["train"], input_wh, augmentation=augmentation, seed=cfg.seed, cache_bytes=room,
            cache_px=cfg.cache_px or None, min_px=cfg.min_px,
        ),
        DetectionImages(people["val"], input_wh, cache_bytes=room),
    )  # fmt: skip


def evaluate(
    cfg: Config, trainer: keras.Model, checked: DetectionImages, codec: CenterCodec, scale
) -> dict[str, float]:
    """Scores of the validation images; the first one counts."""

    def run_network(images):
        outputs = trainer.predict_on_batch(scale(images))
        # Several devices each return the whole batch.
        return {name: np.asarray(value, np.float32)[: len(images)] for name, value in outputs.items()}

    anything = replace(codec, score_threshold=LOWEST_SCORE)
    results = detect_in_examples(run_network, checked, anything, batch=cfg.batch, workers=cfg.workers)
    point = recall_at_false_boxes(results, per_image=cfg.false_boxes, min_px=cfg.min_person_px)
    return {
        "val_recall": point.recall,
        "val_ap50": detection_ap(results),
        "val_ap50_large": detection_ap(results, min_px=cfg.min_person_px),
        "val_threshold": min(point.threshold, 1.0),
        "val_false_boxes": point.false_per_image,
    }


def smoke(cfg: Config) -> Config:
    """Shrink a run to two short epochs; without --data, on stick people."""
    data = cfg.data if cfg.data != Config.data else write_stick_people(Path(tempfile.mkdtemp()))
    return replace(
        cfg, data=data, width=cfg.width or 0.35, input_px=cfg.input_px or "64", batch=4, epochs=2, warm_up=1
    )  # fmt: skip


def write_stick_people(root: Path, *, count: int = 12, validation: int = 4, seed: int = 0) -> Path:
    """Write images of one or two stick people in COCO's layout, one of them with a crowd's box.

    Args:
        root: Where to write.
        count: Number of images.
        validation: How many of them are for validation.
        seed: Seed of the variation.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for i in range(count):
        width, height = 240, 200
        image = np.full((height, width, 3), rng.integers(0, 120, 3), np.uint8)
        for place in range(int(rng.integers(1, 3))):
            side = rng.uniform(110, 190)
            corner = (place * width / 2 + rng.uniform(-0.3, 0.1) * side, (height - side) * rng.random())
            points = np.array([STANDING[k] for k in LSP14.keypoints]) * side + corner
            for a, b in LSP14.limb_indices:
                start, end = (tuple(int(v) for v in points[k]) for k in (a, b))
                cv2.line(image, start, end, tuple(int(v) for v in rng.integers(130, 256, 3)), 6, cv2.LINE_AA)
            low, high = points.min(axis=0).clip(0, (width, height)), points.max(axis=0).clip(0, (width, height))
            annotations.append({"bbox": [*low.tolist(), *(high - low).tolist()], "iscrowd": 0, "image_id": i})
        if not i:
            annotations.append({"bbox": [200, 0, 40, 60], "iscrowd": 1, "image_id": i})
        name = f"{i:05d}.png"
        cv2.imwrite(str(root / "images" / name), image)
        entries.append({"id": i, "file_name": name, "width": width, "height": height, "persons_complete": True})
    for i, annotation in enumerate(annotations):
        annotation |= {"id": i, "category_id": 1}
    (root / "people.json").write_text(
        json.dumps({"images": entries, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]})
    )
    (root / "split.json").write_text(json.dumps({"val": [e["file_name"] for e in entries[-validation:]]}))
    return root


if __name__ == "__main__":
    main()
