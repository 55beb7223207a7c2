"""What the recipes of the depth pose machines share: settings, frames, networks, the training loop, evaluation."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import cv2
import keras
import numpy as np
from pose_machine_tables import report

import posezoo
from posezoo.cards import read_card
from posezoo.codecs import make_codec
from posezoo.data.depth_scenes import (
    DepthAugmentation,
    MixedScenes,
    RecordFrames,
    person_batch,
    scenes_for,
)
from posezoo.data.readers import read
from posezoo.data.scenes import scene_batch
from posezoo.evaluation.bottom_up import find_in_scenes
from posezoo.evaluation.pose_machines import find_in_crops, from_scenes, score_landmarks
from posezoo.files import replacing
from posezoo.inference.depth import coloured
from posezoo.inference.drawing import draw
from posezoo.inference.runners import normalise
from posezoo.models.pose_machines import start_from
from posezoo.skeletons import DEPTH17
from posezoo.synth.frames import NewBackgrounds, SynthFrames
from posezoo.training.backend import cosine, dataset, linear, on_devices, run_recipe, steps_down
from posezoo.training.config import RunConfig, input_size, option, parse
from posezoo.training.run import Checkpoint, Plateau, Run

#: Data sets whose background was cut away.
SEGMENTED = ("utd_mhad",)


@dataclass(frozen=True)
class DepthConfig(RunConfig):
    model: str = option("mpm_1s", "a name of this family from 'posezoo list'")
    input_px: str = option("", "side of the input, or HEIGHTxWIDTH; the model's own by default")
    data: Path = option(Path("data/synth"), "training frames")
    dataset: str = option("synth", "synth (a folder of 'posezoo synth'), utd_mhad, dih, panoptic_depth or itop")
    share: float = option(1.0, "share of the training frames that is used, such as 0.25 (the paper's table II)")
    val: Path | None = option(None, "validation frames of the same kind; by default the set's own split")
    extra: Path | None = option(None, "a folder of 'posezoo synth' to mix in")
    extra_share: float = option(0.5, "share of examples from --extra")
    backgrounds: Path | None = option(None, "depth frames without people, put behind the people of --data")

    out: Path = option(Path("runs/pose_machine"), "folder of the run")

    init: Path | None = option(None, "weights of an earlier run of this network to start from")
    start_from: str = option("", "NAME:WEIGHTS of a trained network of fewer stages, as the paper, or of more")
    epochs: int = option(13, "epochs (the paper: 13 on synthetic, 100 on real frames)")
    length: int = option(0, "examples per epoch; 0 takes as many as there are frames")
    batch: int = option(10, "frames per step")
    optimizer: str = option("sgd", "sgd (momentum 0.9, as the paper) or adamw")
    learning_rate: float = option(4e-7, "at the start (the paper draws it from 4e-10 to 4e-5)")
    schedule: str = option("plateau", "plateau (a tenth when the F-score stops rising), cosine, linear or constant")
    patience: int = option(2, "epochs without progress before the plateau schedule steps down")
    warm_up: int = option(100, "steps over which a cosine schedule's learning rate rises")
    weight_decay: float = option(5e-4, "of the kernels")
    ema: float = option(0.0, "momentum of the moving average of the weights; 0 for none")

    rotation: float = option(20.0, "largest rotation in degrees, with probability 0.8")
    crop: float = option(0.9, "probability of a random crop")
    min_side: float = option(0.6, "smallest side of a crop, times the frame's short side")
    max_side: float = option(1.3, "largest side of a crop, times the frame's short side")
    flip: float = option(0.5, "probability of mirroring")
    drop: float = option(
        0.0, "share of the pixels along silhouettes that are dropped, beside what 'posezoo synth' drops"
    )
    shift: float = option(0.0, "largest change of all distances in metres")

    val_frames: int = option(300, "validation frames; 0 takes all")
    pictures: int = option(6, "validation pictures drawn after every epoch, into the run's folder")
    table: str = option("", "instead of training, print a table like the paper's (I to V) of the validation frames")
    rows: str = option("", "with --table: LABEL=NAME:WEIGHTS;LABEL=NAME:WEIGHTS, see pose_machine_tables.py")


def frames(cfg: DepthConfig, split: str):
    """The labelled frames of a split."""
    if cfg.dataset == "synth":
        if split == "train":
            return some(cfg, SynthFrames(cfg.data))
        if cfg.val is None:
            raise SystemExit("synthetic data have no split; give --val, a folder made with another --seed")
        return SynthFrames(cfg.val, count=cfg.val_frames or None)
    folder = cfg.data if split == "train" or cfg.val is None else cfg.val
    people = read(cfg.dataset, folder, split)
    if people.problems:
        print(f"{people.name}: {len(people)} frames, left out: {dict(people.problems)}")
    if split == "train":
        people = some(cfg, people)
    return RecordFrames(people, segmented=cfg.dataset in SEGMENTED)


def some(cfg: DepthConfig, labelled):
    """`--share` of rendered frames or of a labelled set, evenly spread.

    Raises:
        SystemExit: A share that is none.
    """
    if not 0 < cfg.share <= 1:
        raise SystemExit(f"--share {cfg.share}: expected a share above 0, up to 1, such as 0.25")
    count = max(1, round(cfg.share * len(labelled)))
    kept = [i * len(labelled) // count for i in range(count)]
    if isinstance(labelled, SynthFrames):
        return labelled.chosen(kept)
    return replace(labelled, records=[labelled.records[i] for i in kept])


def staged(name: str, **size) -> keras.Model:
    """Build a depth network with every stage or stack as an output.

    Raises:
        SystemExit: A network that these recipes do not train.
    """
    if not trained_here(name):
        fitting = [n for n in posezoo.list_models() if trained_here(n)]
        own = read_card(name).recipe
        raise SystemExit(f"--model {name}: this recipe trains {', '.join(fitting)}; that of {name} is: {own}")
    return posezoo.build(name, **({"intermediate": True} if finds_everybody(name) else {}), **size)


def to_train(cfg: DepthConfig) -> keras.Model:
    """Build the network of a run, with every stage as an output and the weights that it starts from.

    Raises:
        SystemExit: `--start-from` names no weights, or `--model` has no stages.
    """
    network = staged(cfg.model, **input_size(cfg.input_px))
    if cfg.start_from:
        needs_fields(cfg.model, "--start-from with --model")
        start_from(network, trained(cfg, "--start-from", cfg.start_from))
    if cfg.init:
        network.load_weights(cfg.init)
    return network


def trained(cfg: DepthConfig, flag: str, told: str) -> keras.Model:
    """Build the pose machine that NAME:WEIGHTS tells, with every stage as an output, at the run's input size.

    Raises:
        SystemExit: No weights are told, or a network without stages.
    """
    name, _, weights = told.partition(":")
    if not name or not (weights or cfg.smoke):
        raise SystemExit(f"{flag} '{told}': expected NAME:WEIGHTS, such as mpm_4s:best.weights.h5")
    needs_fields(name, flag)
    network = staged(name, **input_size(cfg.input_px))
    if weights:
        network.load_weights(weights)
    return network


def trained_here(name: str) -> bool:
    """Whether a network looks at depth and gives the maps that these recipes know."""
    card = read_card(name)
    return card.input.depth and card.codec["type"] in ("part_affinity", "heatmap")


def finds_everybody(name: str) -> bool:
    """Whether a network has fields, and finds all people of a frame; else it looks at one person in a box."""
    return read_card(name).codec["type"] == "part_affinity"


def needs_fields(name: str, flag: str) -> None:
    """Refuse a network that looks at one person.

    Raises:
        SystemExit: The network has no fields.
    """
    if not finds_everybody(name):
        raise SystemExit(
            f"{flag} {name}: has no part affinity fields, which this recipe needs; train it by train_pose_machine.py, "
            "or choose a name of mpm_*, spm_*, rpm_* or cpm_*"
        )


def examples(cfg: DepthConfig, input_wh: tuple[int, int]):
    """Training examples, varied, and validation examples, as they are."""
    augmentation = DepthAugmentation(
        rotation_deg=cfg.rotation, crop=cfg.crop, side=(cfg.min_side, cfg.max_side), flip=cfg.flip, drop=cfg.drop,
        shift_m=cfg.shift,
    )  # fmt: skip
    looks_at = partial(scenes_for, read_card(cfg.model))
    behind = NewBackgrounds(cfg.backgrounds) if cfg.backgrounds else None
    options = {"augmentation": augmentation, "seed": cfg.seed}
    train = looks_at(frames(cfg, "train"), input_wh, background=behind, length=cfg.length or None, **options)
    if cfg.extra:
        extra = looks_at(SynthFrames(cfg.extra), input_wh, **options)
        train = MixedScenes(
            [train, extra], [1 - cfg.extra_share, cfg.extra_share], length=cfg.length or len(train), seed=cfg.seed
        )  # fmt: skip
    held_out = frames(cfg, "val")
    count = min(cfg.val_frames or len(held_out), len(held_out))
    return train, looks_at(held_out, input_wh, length=count)


def codec_of(cfg: DepthConfig, network):
    """The card's codec at the network's size."""
    height, width = network.input_shape[1:3]
    return make_codec(input_wh=(width, height), **read_card(cfg.model).codec)


def fit(
    cfg: DepthConfig,
    run: Run,
    network: keras.Model,
    trainer: keras.Model,
    train,
    checked,
    codec,
    *,
    encode=None,
    evaluate=None,
    more=(),
):
    """Train to the last epoch; evaluate, draw and save after each.

    Args:
        cfg: Settings.
        run: The run.
        network: What is saved.
        trainer: What is fitted: the network in one of `posezoo.training.pose_machines`' trainers.
        train: Training examples.
        checked: Validation examples.
        codec: Of targets and decoding.
        encode: Makes batches of scenes; by default `posezoo.data.scenes.scene_batch`, or that of single persons.
        evaluate: Returns scores, the one that counts first; by default the F-score of `checked`.
        more: More callbacks.
    """
    per_epoch = len(train) // cfg.batch
    if not per_epoch:
        raise SystemExit(f"{cfg.data}: {len(train)} frames do not fill one batch of {cfg.batch}; lower --batch")
    height, width = network.input_shape[1:3]
    on_devices(trainer, cfg.devices).build((None, height, width, 1))
    trainer.compile(optimizer(cfg), jit_compile=False)
    scale = scale_of(cfg)
    encode = encode or (scene_batch if codec.bottom_up else person_batch)
    evaluate = evaluate or partial(f_scores, cfg, run, trainer, checked, codec)
    plateau = Plateau(cfg.patience, factor=0.1) if cfg.schedule == "plateau" else None
    learning_rate = schedule(cfg, cfg.epochs * per_epoch)
    run.restore(trainer, plateau)
    callbacks = [Checkpoint(run, network, evaluate, learning_rate=learning_rate, plateau=plateau), *more]
    if cfg.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
    batches = partial(encode, codec=codec, scale=scale, skeleton=DEPTH17)
    data = dataset(train, batches, cfg.batch, epochs=range(run.epoch, cfg.epochs), workers=cfg.workers)
    trainer.fit(
        data, initial_epoch=run.epoch, epochs=cfg.epochs, steps_per_epoch=per_epoch, callbacks=callbacks,
        shuffle=False, verbose=1 if sys.stdout.isatty() else 2,
    )  # fmt: skip


def schedule(cfg: DepthConfig, steps: int) -> Callable[[int], float]:
    """Learning rate by step of a run of so many; what plateaus do comes on top.

    Raises:
        SystemExit: No such schedule.
    """
    peak = cfg.learning_rate
    known = {
        "plateau": steps_down(peak, at=()), "constant": steps_down(peak, at=()),
        "cosine": cosine(peak, first=0, last=steps, warm_up=cfg.warm_up), "linear": linear(peak, first=0, last=steps),
    }  # fmt: skip
    if cfg.schedule not in known:
        raise SystemExit(f"unknown --schedule {cfg.schedule}; expected {', '.join(known)}")
    return known[cfg.schedule]


def scale_of(cfg: DepthConfig):
    """Brings metres to the network's input."""
    return partial(normalise, spec=read_card(cfg.model).input)


def runner_of(cfg: DepthConfig, trainer: keras.Model):
    """The network being trained, as evaluation calls it: metres to outputs by name."""
    scale = scale_of(cfg)

    def run_network(images):
        outputs = trainer.predict_on_batch(scale(images))
        return {name: np.asarray(value, np.float32) for name, value in outputs.items()}

    return run_network


def f_scores(cfg: DepthConfig, run: Run, trainer: keras.Model, checked, codec) -> dict[str, float]:
    """Precision, recall and F-score on the validation examples; draws a few."""
    find = find_in_scenes if codec.bottom_up else find_in_crops
    found = find(runner_of(cfg, trainer), checked, codec, DEPTH17, batch=cfg.batch, workers=cfg.workers)
    draw_predictions(run, found[: cfg.pictures])
    scores = score_landmarks(from_scenes(found)).summary(threshold=read_card(cfg.model).score_threshold)
    return {"val_f": scores.f_score, "val_precision": scores.precision, "val_recall": scores.recall}


def optimizer(cfg: DepthConfig) -> keras.optimizers.Optimizer:
    averaging = {"use_ema": True, "ema_momentum": cfg.ema} if cfg.ema else {}
    if cfg.optimizer == "sgd":
        made = keras.optimizers.SGD(cfg.learning_rate, momentum=0.9, weight_decay=cfg.weight_decay, **averaging)
    elif cfg.optimizer == "adamw":
        made = keras.optimizers.AdamW(cfg.learning_rate, weight_decay=cfg.weight_decay, **averaging)
    else:
        raise SystemExit(f"unknown --optimizer {cfg.optimizer}; expected sgd or adamw")
    made.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return made


def draw_predictions(run: Run, found) -> None:
    """Write what the network sees in a few validation frames into the run's folder."""
    if not found:
        return
    drawn = [draw(coloured(scene.image[..., 0]), poses) for scene, poses in found]
    with replacing(run.folder / "pictures" / f"epoch_{run.epoch:03d}.png") as path:
        cv2.imwrite(str(path), np.concatenate(drawn, axis=1)[..., ::-1])


def run_depth_recipe(config_class, train, argv=None, **told):
    """`run_recipe`, or a table where one is asked for."""
    cfg = parse(config_class, argv, description=told["description"])
    if not cfg.table:
        return run_recipe(config_class, train, argv, **told)
    print(report(cfg, frames(cfg, "val"), input_size(cfg.input_px)))
    return None


def smoke(cfg):
    """Shrink a run to two short epochs; without --data, on frames rendered for it."""
    data, val = cfg.data, cfg.val
    if cfg.data == DepthConfig.data:
        data, val = rendered(12, seed=1), rendered(4, seed=2)
    return replace(
        cfg,
        data=data,
        val=val,
        input_px=cfg.input_px or ("96x128" if finds_everybody(cfg.model) else "64"),
        batch=2,
        epochs=2,
        length=4,
        val_frames=4,
        pictures=2,
    )


@cache
def rendered(count: int, *, seed: int) -> Path:
    """Render a few small frames into a temporary folder, once in a process."""
    from posezoo.synth.crowd import body_source
    from posezoo.synth.scene import Recipe
    from posezoo.synth.write import Job, write_dataset

    folder = Path(tempfile.mkdtemp())
    job = Job(body_source(["builtin"], [], []), count, seed=seed, recipe=Recipe(width=160, height=120))
    write_dataset(folder, job)
    return folder


def rendered_as_dih(count: int, *, seed: int) -> Path:
    """Render frames and write them as a DIH-style folder: what users have who label their own."""
    frames_of = SynthFrames(rendered(2 * count, seed=seed))
    root = Path(tempfile.mkdtemp())
    for split, first in (("train", 0), ("val", count)):
        folder = root / split
        (folder / "depth").mkdir(parents=True)
        items = []
        for i in range(first, first + count):
            frame, file = frames_of[i], f"{i:06d}.png"
            cv2.imwrite(str(folder / "depth" / file), (frame.depth * 1000).astype(np.uint16))
            people = [
                {"points": k[:, :2].tolist(), "visible": k[:, 2].astype(int).tolist(), "box": box.tolist()}
                for k, box in zip(frame.keypoints, frame.boxes, strict=True)
            ]
            items.append({"file": file, "people": people})
        content = {"landmarks": list(DEPTH17.keypoints), "items": items}
        (folder / "annotations.json").write_text(json.dumps(content))
    return root
