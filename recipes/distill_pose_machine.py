"""Distil a depth pose machine: a student learns from labels and from a teacher's stages.

    python recipes/distill_pose_machine.py --model mpm_2s --teacher mpm_4s:runs/mpm_4s/best.weights.h5 \\
        --data synth/train --val synth/val
    python recipes/distill_pose_machine.py --model mpm_2s --teacher cpm_2s:cpm_2s.weights.h5 --protocol "stagewise*"
    python recipes/distill_pose_machine.py --smoke

Martínez-González et al., arXiv:1912.00711, section V: the loss is (1 - alpha) x teacher + alpha x labels + gamma x
hints. `--protocol standard` matches the last stages, `stagewise` the last --last stages one to one, `stagewise*` the
teacher's last maps with every stage of the student; --gamma adds the squared error between both networks' features,
which must be equally wide. Any pair of pose machines with DEPTH17's branches will do. The paper's students start from
scratch: 10 epochs of synthetic frames, then 100 of real ones (again with this recipe, from --init), with a learning
rate that falls linearly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from depth_recipes import (
    DepthConfig,
    codec_of,
    examples,
    fit,
    needs_fields,
    run_depth_recipe,
    smoke,
    to_train,
    trained,
)

from posezoo.models.pose_machines import with_features
from posezoo.training.backend import native, set_precision
from posezoo.training.config import option
from posezoo.training.pose_machines import PROTOCOLS, StageTrainer
from posezoo.training.run import Run


@dataclass(frozen=True)
class Config(DepthConfig):
    model: str = option("mpm_2s", "the student, a name of this family from 'posezoo list'")
    out: Path = option(Path("runs/distilled"), "folder of the run")
    epochs: int = option(10, "epochs (the paper: 10 on synthetic, 100 on real frames)")
    teacher: str = option("", "NAME:WEIGHTS of a trained network, such as mpm_4s:best.weights.h5")
    schedule: str = option("linear", "linear (the paper's students), plateau, cosine or constant")
    protocol: str = option("stagewise", f"one of {', '.join(PROTOCOLS)}")
    last: int = option(2, "stages that stagewise matches (the paper's tau)")
    alpha: float = option(0.5, "share of the labels in the loss; the rest is the teacher's")
    gamma: float = option(0.0, "weight of the hints (the paper: 1); 0 for none")


def main(argv=None) -> Run | None:
    return run_depth_recipe(Config, train, argv, description=__doc__, shrink=small, score="F-score")


def train(cfg: Config, run: Run) -> None:
    set_precision(cfg.precision)
    needs_fields(cfg.model, "--model")
    student = to_train(cfg)
    codec = codec_of(cfg, student)
    training, checked = examples(cfg, codec.input_wh)
    networks = [student, trained(cfg, "--teacher", cfg.teacher)]
    if cfg.gamma:
        networks = [with_features(network) for network in networks]
        widths = [network.output["features"].shape[-1] for network in networks]
        if widths[0] != widths[1]:
            raise SystemExit(f"hints need equally wide features; the student has {widths[0]}, the teacher {widths[1]}")
    learner, teacher = (native(network, precision=cfg.precision) for network in networks)
    trainer = StageTrainer(
        learner, teacher=teacher, protocol=cfg.protocol, last=cfg.last, alpha=cfg.alpha, gamma=cfg.gamma
    )
    fit(cfg, run, student, trainer, training, checked, codec)


def small(cfg: Config) -> Config:
    """Shrink a run; without --teacher, an untrained one."""
    return replace(smoke(cfg), teacher=cfg.teacher or "mpm_4s")


if __name__ == "__main__":
    main()
