"""Train the 2.5D hand network on rendered frames or on recordings of your own.

    posezoo synth hands/train --hands --images 200000 --seed 1 --split train
    python recipes/train_hand25d.py --data hands/train --val hands/val
    python recipes/train_hand25d.py --data recordings --val recordings_val --out runs/mine \\
        --init runs/hand25d/best_with_heads.weights.h5
    python recipes/train_hand25d.py --data hands/train --val hands/val --ablate
    python recipes/train_hand25d.py --smoke

The defaults are the paper's (Magic Leap, 2.5D hand keypoints): Adam at 1e-3 falling in a straight line to zero over 20
epochs, and seven tasks with fixed weights; a task of weight 0 is left out with its head. `--ablate` trains the rows of
the paper's table 1 one after another, on 20,000 frames and for 5 epochs each unless told otherwise; `--rows 2,7` trains
some of them, and `--backbone mobilenet_v2` rows of its table 2, which join the table of the same `--out`. A killed run
goes on where it stopped when the same command is given again.

On processors KERAS_BACKEND=torch is several times faster, with `--precision bfloat16` where the processor has it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import h5py
import keras
import numpy as np

import posezoo
from posezoo.cards import read_card
from posezoo.codecs.hand import HandCodec
from posezoo.data.hand_frames import HandFrames
from posezoo.data.hands import HandAugmentation, HandScenes, hand_batch
from posezoo.evaluation.hands import HandScores, find_hands, score_hands
from posezoo.files import replacing
from posezoo.inference.drawing import draw
from posezoo.inference.inputs import looks_of
from posezoo.inference.poses import Poses
from posezoo.inference.runners import normalise
from posezoo.models.hand import BACKBONES, Heads
from posezoo.skeletons import HAND16, HAND_AUXILIARY, HAND_PRIMARY
from posezoo.synth.hand_folders import labelled_hands
from posezoo.training.backend import dataset, linear, native, on_devices, run_recipe, set_precision, set_threads
from posezoo.training.config import RunConfig, input_size, option, parse
from posezoo.training.gradnorm import GradNorm
from posezoo.training.hand import HEADS, WEIGHTS, HandTrainer
from posezoo.training.run import Checkpoint, Run


@dataclass(frozen=True)
class Config(RunConfig):
    data: Path = option(
        Path("data/hands"), "training frames: a folder of rendered hands, or of recordings (docs/hand.md)"
    )
    val: Path = option(Path("data/hands_val"), "validation frames of the same kind")
    out: Path = option(Path("runs/hand25d"), "folder of the run")

    input: str = option("amplitude", "amplitude or depth")
    input_px: str = option("", "side of the input, or HEIGHTxWIDTH; the model's own by default")
    backbone: str = option("ladder", f"one of {', '.join(BACKBONES)}")
    init: Path | None = option(
        None, "weights to start from: released ones, or best_with_heads.weights.h5 of a run with the same tasks"
    )

    auxiliary: str = option("rest", "rest (nine keypoints of each hand beside the eight) or all seventeen: all")

    epochs: int = option(20, "epochs")
    length: int = option(0, "frames per epoch; 0 takes all, fewer go on in the next epoch where the last one stopped")
    frames: int = option(0, "training frames to use; 0 takes all")
    batch: int = option(8, "frames per step; of the same number of frames small batches learn more")
    learning_rate: float = option(1e-3, "at the start")
    ema: float = option(0.0, "momentum of the moving average of the weights, such as 0.999; 0 for none")

    kp: float = option(WEIGHTS["kp"], "weight of the keypoints")
    akp: float = option(WEIGHTS["akp"], "weight of the auxiliary keypoints; 0 leaves a task out")
    kphv: float = option(WEIGHTS["kphv"], "weight of keypoint and hand visibility")
    cho: float = option(WEIGHTS["cho"], "weight of the categorical orientation")
    dhp: float = option(WEIGHTS["dhp"], "weight of the discrete pose")
    seg: float = option(WEIGHTS["seg"], "weight of the segmentation")
    ds: float = option(WEIGHTS["ds"], "weight of deep supervision")

    gradnorm: bool = option(False, "let GradNorm move the tasks' weights (torch or TensorFlow)")
    gradnorm_alpha: float = option(1.5, "how strongly GradNorm pulls tasks that lag")
    gradnorm_every: int = option(20, "steps between two moves of GradNorm")

    rotation: float = option(HandAugmentation.rotation_deg, "largest rotation in degrees")
    min_scale: float = option(HandAugmentation.scale[0], "smallest magnification")
    max_scale: float = option(HandAugmentation.scale[1], "largest magnification")
    translate: float = option(HandAugmentation.translate, "largest shift as a share of the picture")
    flip: float = option(HandAugmentation.flip, "probability of mirroring")
    noise: float = option(HandAugmentation.noise, "largest noise, in 255 steps of amplitude or in millimetres of depth")
    cutout: float = option(HandAugmentation.cutout, "probability of covering a rectangle")

    val_frames: int = option(1000, "validation frames; 0 takes all")
    pictures: int = option(6, "validation pictures drawn after every epoch, into the run's folder")

    ablate: bool = option(False, "train the rows of the paper's table 1 one after another, and write the table")
    rows: str | None = option(None, "rows of that table to train, such as 1,2; all by default")
    ablate_frames: int = option(20_000, "training frames of each row")
    ablate_epochs: int = option(5, "epochs of each row")


#: Rows of the ablation, each with the tasks that it trains: the paper's seven, joined one after another, and last the
#: whole without the keypoints' own maps at lower resolutions.
ROWS = {
    "kp": ("kp",),
    "kp, ds": ("kp", "ds"),
    "kp, ds, akp": ("kp", "ds", "akp"),
    "kp, ds, akp, kphv": ("kp", "ds", "akp", "kphv"),
    "kp, ds, akp, kphv, cho": ("kp", "ds", "akp", "kphv", "cho"),
    "kp, ds, akp, kphv, cho, dhp": ("kp", "ds", "akp", "kphv", "cho", "dhp"),
    "all": tuple(WEIGHTS),
    "all but ds": tuple(task for task in WEIGHTS if task != "ds"),
}


def main(argv=None) -> Run | None:
    cfg = parse(Config, argv, description=__doc__)
    if cfg.ablate:
        ablate(smoke(cfg) if cfg.smoke else cfg)
        return None
    return run_recipe(Config, train, argv, description=__doc__, shrink=smoke, score="minus error in pixels")


def ablate(cfg: Config) -> dict:
    """Train every row in a folder of its own, from where it stopped; print and write the table."""
    set_threads(cfg.threads)
    wanted, record = chosen_rows(cfg), table_of(cfg)
    for name in wanted:
        tasks = ROWS[name]
        weights = {task: getattr(cfg, task) if task in tasks else 0.0 for task in WEIGHTS}
        folder = cfg.out / "rows" / row_folder(name, cfg.backbone)
        row = replace(cfg, **weights, frames=cfg.ablate_frames, epochs=cfg.ablate_epochs, out=folder, rows=None)
        run = Run.start_or_resume(row, folder, resume=cfg.resume)
        if run.epoch < row.epochs:
            keras.backend.clear_session()
            keras.utils.set_random_seed(cfg.seed)
            train(row, run)
        best = max(run.history, key=lambda epoch: epoch["val_minus_error"])
        done = {
            "tasks": name, "backbone": cfg.backbone, "error_px": round(-best["val_minus_error"], 3),
            "pck": round(best["val_pck"], 4), "epoch": int(best["epoch"]) + 1,
            "minutes": round(sum(e["seconds"] for e in run.history) / 60, 1),
        }  # fmt: skip
        # Read again: another process may have written rows of its own.
        record = table_of(cfg)
        others = [r for r in record["rows"] if (r["tasks"], r["backbone"]) != (name, cfg.backbone)]
        record["rows"] = sorted([*others, done], key=_place)
        write_table(cfg.out, record)
    print(ablation_table(record))
    return record


def _place(row: dict) -> tuple[int, int]:
    """Where a row stands in the table: by its tasks, then by its backbone."""
    return list(ROWS).index(row["tasks"]), BACKBONES.index(row["backbone"])


def chosen_rows(cfg: Config) -> list[str]:
    """Names of the rows that `--rows` asks for.

    Raises:
        SystemExit: No such row.
    """
    names = list(ROWS)
    try:
        numbers = [int(number) for number in cfg.rows.split(",")] if cfg.rows else range(1, len(names) + 1)
        if not all(1 <= number <= len(names) for number in numbers):
            raise ValueError
    except ValueError:
        told = "; ".join(f"{i} {name}" for i, name in enumerate(names, 1))
        raise SystemExit(f"--rows {cfg.rows}: expected numbers such as 1,2 of these: {told}") from None
    return [names[number - 1] for number in numbers]


def row_folder(name: str, backbone: str) -> str:
    """Name of a row's folder."""
    folder = name.replace(", ", "_").replace(" ", "_")
    return folder if backbone == "ladder" else f"{backbone}_{folder}"


def table_of(cfg: Config) -> dict:
    """The table as it stands in `--out`, or one without rows.

    Raises:
        SystemExit: Its rows had other frames, so that they cannot be compared with ours.
    """
    empty = {
        "frames": cfg.ablate_frames, "epochs": cfg.ablate_epochs, "input": cfg.input, "data": cfg.data.name,
        "val": cfg.val.name, "val_frames": cfg.val_frames, "rows": [],
    }  # fmt: skip
    path = cfg.out / "ablation.json"
    if not path.exists():
        return empty
    record = json.loads(path.read_text())
    changed = [key for key in empty if key != "rows" and record.get(key) != empty[key]]
    if changed:
        told = ", ".join(f"{key} was {record.get(key)!r}, now {empty[key]!r}" for key in changed)
        raise SystemExit(f"{path} holds rows of other settings ({told}); choose another --out")
    return record


def ablation_table(record: dict) -> str:
    """The rows as Markdown."""
    lines = ["| tasks | backbone | error px | PCK@0.1 | best epoch |", "|---|---|---:|---:|---:|"]
    lines += [
        f"| {r['tasks']} | {r['backbone']} | {r['error_px']:.2f} | {r['pck']:.3f} | {r['epoch']} |"
        for r in record["rows"]
    ]
    about = f"{record['frames']:,} frames x {record['epochs']} epochs for each row, {record['input']} input."
    return "\n".join([*lines, "", about])


def write_table(folder: Path, record: dict) -> None:
    """Write `ablation.json` and `ablation.md`, of the rows that are done."""
    for suffix, text in ((".json", json.dumps(record, indent=1)), (".md", ablation_table(record))):
        with replacing(folder / f"ablation{suffix}") as path:
            path.write_text(text + "\n")


def train(cfg: Config, run: Run) -> None:
    fit(cfg, run, labelled_hands(cfg.data, count=cfg.frames or None), labelled_hands(cfg.val))


def model_name(cfg: Config) -> str:
    """The card that says how the input is scaled."""
    names = {"amplitude": "hand25d", "depth": "hand25d_depth"}
    if cfg.input not in names:
        raise SystemExit(f"--input {cfg.input}: expected amplitude or depth")
    return names[cfg.input]


def training_network(cfg: Config) -> keras.Model:
    """The network with the heads of all tasks that have a weight, maps at half size."""
    heads = Heads(**{head: getattr(cfg, task) > 0 for task, head in HEADS.items()})
    # Large backbones take multiples of 32: the same picture with a little room around it.
    size = input_size(cfg.input_px or ("" if cfg.backbone == "ladder" else "192x224"))
    return posezoo.build(
        model_name(cfg), heads=heads, backbone=cfg.backbone, auxiliary=auxiliary_of(cfg), enlarge=False, **size
    )


def auxiliary_of(cfg: Config) -> tuple[str, ...]:
    """Names of one hand's auxiliary keypoints."""
    names = {"rest": HAND_AUXILIARY, "all": HAND_PRIMARY + HAND_AUXILIARY}
    if cfg.auxiliary not in names:
        raise SystemExit(f"--auxiliary {cfg.auxiliary}: expected rest or all")
    return names[cfg.auxiliary]


def deployed(cfg: Config, network: keras.Model) -> keras.Model:
    """The part of a trained network that is released, with its very layers: keypoints, and visibility where trained."""
    wanted = [name for name in ("heatmaps", "visibility") if name in network.output]
    return keras.Model(network.input, {name: network.output[name] for name in wanted}, name=network.name)


def start(cfg: Config, network: keras.Model) -> None:
    """Fill a network from `--init`: all of it, or its released part, beside which the other heads start anew.

    Raises:
        SystemExit: The file holds neither.
    """
    with h5py.File(cfg.init) as file:
        held: list[str] = []
        file["layers"].visititems(lambda name, item: held.append(name) if isinstance(item, h5py.Dataset) else None)
    for part in (network, deployed(cfg, network)):
        if len(part.variables) == len(held):
            part.load_weights(cfg.init)
            return
    raise SystemExit(
        f"--init {cfg.init}: holds neither this network with its heads nor its released part ({len(held)} arrays); "
        "give released weights, or best_with_heads.weights.h5 of a run with the same tasks"
    )


def fit(cfg: Config, run: Run, training_frames: HandFrames, checked_frames: HandFrames) -> None:
    """Train to the last epoch; evaluate, draw and save after each."""
    set_precision(cfg.precision)
    network = training_network(cfg)
    if cfg.init:
        start(cfg, network)
    height, width = network.input_shape[1:3]
    spec, codec = read_card(model_name(cfg)).input, HandCodec((width, height), stride=2)
    augmentation = HandAugmentation(
        rotation_deg=cfg.rotation, scale=(cfg.min_scale, cfg.max_scale), translate=cfg.translate, flip=cfg.flip,
        noise=cfg.noise, cutout=cfg.cutout,
    )  # fmt: skip
    common = {"looks_at": cfg.input, "farthest_m": spec.farthest_m, "seed": cfg.seed}
    train_set = HandScenes(
        training_frames, codec.input_wh, augmentation=augmentation, length=cfg.length or None, **common
    )  # fmt: skip
    count = min(cfg.val_frames or len(checked_frames), len(checked_frames))
    checked = HandScenes(checked_frames, codec.input_wh, length=count, **common)
    per_epoch = len(train_set) // cfg.batch
    if not per_epoch:
        raise SystemExit(f"{cfg.data}: {len(train_set)} frames do not fill one batch of {cfg.batch}; lower --batch")
    weights = {task: getattr(cfg, task) for task in WEIGHTS}
    trainer = HandTrainer(native(network, precision=cfg.precision), input_height=height, weights=weights)
    trainer.build((None, height, width, 1))
    averaging = {"use_ema": True, "ema_momentum": cfg.ema} if cfg.ema else {}
    on_devices(trainer, cfg.devices).compile(keras.optimizers.Adam(cfg.learning_rate, **averaging), jit_compile=False)
    scale = partial(normalise, spec=spec)
    released = deployed(cfg, network)
    runner = runner_of(native(network, precision=cfg.precision), scale)
    run.restore(trainer)
    falling = linear(cfg.learning_rate, first=0, last=cfg.epochs * per_epoch)
    evaluate = partial(evaluated, cfg, run, network, runner, checked, codec)
    callbacks = [Checkpoint(run, released, evaluate, learning_rate=falling)]
    encode = partial(hand_batch, codec=codec, scale=scale, auxiliary=auxiliary_of(cfg))
    if cfg.gradnorm:
        moved = gradnorm(cfg, trainer, network, train_set, encode)
        moved.step = run.epoch * per_epoch
        callbacks.append(moved)
    if cfg.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
    data = dataset(train_set, encode, cfg.batch, epochs=range(run.epoch, cfg.epochs), workers=cfg.workers)
    trainer.fit(
        data, initial_epoch=run.epoch, epochs=cfg.epochs, steps_per_epoch=per_epoch, callbacks=callbacks,
        shuffle=False, verbose=1 if sys.stdout.isatty() else 2,
    )  # fmt: skip


def gradnorm(cfg: Config, trainer: HandTrainer, network: keras.Model, examples: HandScenes, encode) -> GradNorm:
    """GradNorm on batches of its own, at the last layer that all heads share."""
    layer = network.get_layer("tier3_unit2_step4_reduce" if cfg.backbone == "ladder" else "project")

    def batch(number: int):
        order = examples.order(number)[: cfg.batch]
        return encode([examples.crop(int(i), number) for i in order])

    weights = {task: getattr(cfg, task) for task in WEIGHTS}
    return GradNorm(
        trainer, layer.trainable_variables, batch, weights=weights, alpha=cfg.gradnorm_alpha, every=cfg.gradnorm_every
    )


def runner_of(network: keras.Model, scale):
    """The network as evaluation calls it: pixels or metres to outputs by name."""

    def run_network(images):
        outputs = network.predict_on_batch(scale(images))
        return {name: np.asarray(value, np.float32) for name, value in outputs.items()}

    return run_network


def evaluated(cfg: Config, run: Run, network: keras.Model, runner, checked: HandScenes, codec: HandCodec) -> dict:
    """Scores on the validation frames, the one that counts first; draws a few, keeps the heads of the best."""
    measured = measure(cfg, runner, checked, codec)
    draw_predictions(run, runner, checked, codec, count=cfg.pictures)
    scores = {"val_minus_error": -measured.error_px, "val_pck": measured.pck, "val_hidden_px": measured.hidden_px}
    scores |= {f"val_{name}": value for name in ("hands", "seen") if not np.isnan(value := getattr(measured, name))}
    if scores["val_minus_error"] > run.best:
        with replacing(run.folder / "best_with_heads.weights.h5") as path:
            network.save_weights(path)
    return scores


def measure(cfg: Config, runner, checked: HandScenes, codec: HandCodec) -> HandScores:
    """Run the network on the validation frames."""
    return score_hands(find_hands(runner, checked, codec, batch=cfg.batch, workers=cfg.workers))


def draw_predictions(run: Run, runner, checked: HandScenes, codec: HandCodec, *, count: int) -> None:
    """Write what the network sees in the first validation frames into the run's folder."""
    if not count:
        return
    drawn = []
    for i in np.linspace(0, len(checked) - 1, min(count, len(checked))).astype(int):
        image = checked.crop(int(i)).image
        maps = codec.merge({name: value[0] for name, value in runner(image[None]).items()})
        keypoints, found, people = codec.decode(maps, HAND16)
        picture = looks_of(read_card(model_name(run.config)).input).show(image[..., 0])
        drawn.append(draw(picture, Poses(keypoints, found, HAND16, people)))
    with replacing(run.folder / "pictures" / f"epoch_{run.epoch:03d}.png") as path:
        cv2.imwrite(str(path), np.concatenate(drawn, axis=1)[..., ::-1])


def smoke(cfg: Config) -> Config:
    """Shrink a run to two short epochs; without --data, on drawn frames."""
    drawn = {} if cfg.data != Config.data else {"data": Path("drawn:12:1"), "val": Path("drawn:4:2")}
    return replace(
        cfg, **drawn, input_px=cfg.input_px or "56x72", batch=2, epochs=2, length=4, val_frames=4, pictures=2,
        gradnorm_every=1, ablate_frames=4, ablate_epochs=1,
    )  # fmt: skip


if __name__ == "__main__":
    main()
