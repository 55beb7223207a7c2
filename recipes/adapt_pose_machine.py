"""Bring a depth pose machine that was trained on rendered frames to real ones without labels.

    python recipes/adapt_pose_machine.py --model mpm_1s --init runs/mpm_1s/best.weights.h5 --data synth/train \\
        --val synth/val --real utd_mhad_depth --real-dataset utd_mhad
    python recipes/adapt_pose_machine.py --smoke

Adversarial domain adaptation (Martínez-González et al., arXiv:1912.00711, section VI; Ganin & Lempitsky 2015,
arXiv:1409.7495): a classifier learns from the features whether a frame is real, and the features learn to give it
nothing to go by. The reversed gradient's strength rises as the paper prints it, to --largest. Two files of weights are
kept, by the paper's two criteria, since without labels no one knows which epoch is best: `best.weights.h5`, the
smallest loss on the synthetic validation frames, and `confused.weights.h5`, the classifier most often wrong.

The other ways of its table IV need no recipe of their own: fine-tuning on labelled real frames is train_pose_machine.py
with --init and --dataset; in-painting fills the holes of the frames, at rendering (`posezoo synth --inpaint`) and
before prediction (`posezoo predict --inpaint`). `--table` measures all of them on the real validation frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
from depth_recipes import (
    DepthConfig,
    codec_of,
    examples,
    fit,
    frames,
    needs_fields,
    rendered_as_dih,
    run_depth_recipe,
    smoke,
    to_train,
)

from posezoo.cards import read_card
from posezoo.codecs.part_affinity import UNKNOWN
from posezoo.data.depth_scenes import DepthScenes, MixedScenes
from posezoo.data.pipeline import batches, load_all
from posezoo.data.scenes import scene_batch
from posezoo.files import replacing
from posezoo.inference.runners import normalise
from posezoo.models.pose_machines import with_features
from posezoo.skeletons import DEPTH17
from posezoo.synth.frames import NewBackgrounds
from posezoo.training.backend import native, set_precision
from posezoo.training.config import option
from posezoo.training.pose_machines import (
    AdversarialTrainer,
    confusion,
    domain_classifier,
    labels_loss,
    reversal_strength,
)
from posezoo.training.run import Run


@dataclass(frozen=True)
class Config(DepthConfig):
    out: Path = option(Path("runs/adapted"), "folder of the run")
    real: Path = option(Path("data/utd_mhad_depth"), "real frames, whose labels are not used")
    real_dataset: str = option("utd_mhad", "layout of --real: utd_mhad, dih, panoptic_depth or itop")
    largest: float = option(100.0, "largest strength of the reversed gradient (the paper's Lambda)")


def main(argv=None) -> Run | None:
    return run_depth_recipe(Config, train, argv, description=__doc__, shrink=small, score="negative pose loss")


def train(cfg: Config, run: Run) -> None:
    set_precision(cfg.precision)
    needs_fields(cfg.model, "--model")
    network = to_train(cfg)
    seen = with_features(network)
    codec = codec_of(cfg, network)
    synthetic, checked = examples(replace(cfg, backgrounds=None), codec.input_wh)
    real_cfg = replace(cfg, dataset=cfg.real_dataset, data=cfg.real, val=None)
    behind = NewBackgrounds(cfg.backgrounds) if cfg.backgrounds else None
    options = {"augmentation": synthetic.augmentation, "seed": cfg.seed}
    real = DepthScenes(frames(real_cfg, "train"), codec.input_wh, background=behind, **options)
    real_checked = DepthScenes(frames(real_cfg, "val"), codec.input_wh, length=min(len(checked), 200))
    both = MixedScenes([synthetic, real], [0.5, 0.5], length=cfg.length or 2 * len(synthetic), seed=cfg.seed)
    classifier = domain_classifier(seen.output["features"].shape[-1])
    trainer = AdversarialTrainer(native(seen, precision=cfg.precision), classifier)
    steps = len(both) // cfg.batch * cfg.epochs
    judge = Judge(cfg, run, network, trainer, checked, real_checked, codec)
    fit(
        cfg, run, network, trainer, both, checked, codec, encode=with_domains, evaluate=judge,
        more=[Strength(trainer, run, steps, cfg.largest)],
    )  # fmt: skip


def with_domains(scenes, *, codec, scale, skeleton):
    """A batch with targets of the synthetic frames alone, and where each frame comes from."""
    images, targets = scene_batch(scenes, codec, scale=scale, skeleton=skeleton)
    real = np.array([scene.index for scene in scenes], np.float32)
    for maps in targets.values():
        maps[real > 0] = UNKNOWN
    return images, {**targets, "domain": real[:, None]}


class Strength(keras.callbacks.Callback):
    """Raises the strength of the reversed gradient over the run, by the paper's schedule."""

    def __init__(self, trainer: AdversarialTrainer, run: Run, steps: int, largest: float):
        super().__init__()
        self.trainer, self.run, self.steps, self.largest = trainer, run, steps, largest

    def on_train_batch_begin(self, batch, logs=None):
        step = self.run.epoch * self.params["steps"] + batch
        self.trainer.strength.assign(reversal_strength(step / self.steps, self.largest))


class Judge:
    """Both criteria of the paper, without labels of real frames; keeps the weights that confuse most."""

    def __init__(self, cfg: Config, run: Run, network, trainer, synthetic, real, codec):
        self.cfg, self.run, self.network, self.trainer = cfg, run, network, trainer
        self.sets, self.codec = (synthetic, real), codec
        self.most = max((row["val_confusion"] for row in run.history), default=-1.0)
        self.file = run.folder / "confused.weights.h5"

    def more_confused(self, wrong: float) -> bool:
        """Whether the classifier was never so often wrong before, in this run or before it was stopped."""
        wrong = round(wrong, 6)  # as the history keeps it
        most, self.most = self.most, max(wrong, self.most)
        return wrong > most

    def __call__(self) -> dict[str, float]:
        losses, domains, logits = [], [], []
        scale = partial(normalise, spec=read_card(self.cfg.model).input)
        for real, scenes in enumerate(self.sets):
            for batch in batches(load_all(scenes, workers=self.cfg.workers), self.cfg.batch):
                images, targets = scene_batch(batch, self.codec, scale=scale, skeleton=DEPTH17)
                outputs = self.trainer.predict_on_batch(images)
                maps = {k: v for k, v in outputs.items() if k not in ("domain", "features")}
                if not real:
                    losses.extend(keras.ops.convert_to_numpy(labels_loss(targets, maps)))
                logits.extend(np.asarray(outputs["domain"], np.float32).reshape(-1))
                domains.extend([real] * len(batch))
        wrong = confusion(domains, logits)
        if self.more_confused(wrong):
            with replacing(self.file) as path:
                self.network.save_weights(path)
        return {"val_negative_loss": -float(np.mean(losses)), "val_confusion": wrong}


def small(cfg: Config) -> Config:
    """Shrink a run; without --real, on more rendered frames in the place of real ones."""
    cfg = smoke(cfg)
    if cfg.real == Config.real:
        cfg = replace(cfg, real=rendered_as_dih(8, seed=3), real_dataset="dih")
    return cfg


if __name__ == "__main__":
    main()
