"""Train a depth pose machine on rendered or real frames, stage by stage.

    posezoo synth synth/train --images 20000 --seed 1
    posezoo synth synth/val --images 500 --seed 2
    python recipes/train_pose_machine.py --model mpm_1s --data synth/train --val synth/val
    python recipes/train_pose_machine.py --model mpm_2s --start-from mpm_1s:runs/mpm_1s/best.weights.h5 ...
    python recipes/train_pose_machine.py --model mpm_2s --init runs/mpm_2s/best.weights.h5 --dataset utd_mhad \\
        --data utd_mhad_depth --backgrounds rooms --epochs 100
    python recipes/train_pose_machine.py --smoke

The defaults are the paper's (Martínez-González et al., arXiv:1912.00711): SGD with momentum 0.9 and weight decay 5e-4,
batch 10, 13 epochs on synthetic and 100 on real frames, learning rate a tenth when the validation result settles, and
an s-stage network that starts from the trained one of s - 1 stages (`--start-from`). A killed run goes on where it
stopped when the same command is given again.

`--model hourglass_2s` learns from one person of each frame, cut out around its box, by the mean squared error of
both stacks' heatmaps (Newell et al. 2016, arXiv:1603.06937); add `--optimizer adamw --learning-rate 2.5e-4`.

On CPUs `--optimizer adamw --learning-rate 1e-3 --schedule cosine --input-px 184x224` gets there sooner; try
KERAS_BACKEND=torch, with `--precision bfloat16` on processors that have it.
"""

from __future__ import annotations

import math

from depth_recipes import (
    DepthConfig,
    codec_of,
    examples,
    fit,
    run_depth_recipe,
    smoke,
    to_train,
)

from posezoo.training.backend import native, set_precision
from posezoo.training.pose_machines import StageTrainer
from posezoo.training.run import Run


def main(argv=None) -> Run | None:
    return run_depth_recipe(DepthConfig, train, argv, description=__doc__, shrink=smoke, score="F-score")


def train(cfg: DepthConfig, run: Run) -> None:
    set_precision(cfg.precision)
    network = to_train(cfg)
    codec = codec_of(cfg, network)
    training, checked = examples(cfg, codec.input_wh)
    # The paper of the fields sums squared errors, that of the hourglass takes their mean.
    scale = 1.0 if codec.bottom_up else 1 / math.prod(network.output["heatmaps"].shape[1:])
    trainer = StageTrainer(native(network, precision=cfg.precision), scale=scale)
    fit(cfg, run, network, trainer, training, checked, codec)


if __name__ == "__main__":
    main()
