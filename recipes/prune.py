"""Pruning: from float weights to a sparse int8 file, with float, PTQ, QAT, pruned and pruned QAT side by side.

    python recipes/prune.py --model mobilenet_split_224 --data lspet --sparsity 0.5
    python recipes/prune.py --model mobilenet_split_224 --data lspet --schedule constant --structure 2:4
    python recipes/prune.py --smoke

Kernels lose their smallest weights while the network's Keras 2 twin trains on (posezoo.compression.pruning); then the
sparse network is trained quantisation-aware, zeros staying zero. Sizes are told as they are and after gzip, where zeros
count: a dense runtime is no faster for them. `--no-baseline` leaves out the QAT of the dense network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import keras
from compressing import CompressConfig, Prepared, SideBySide, copy_of, fit, names, prepare, shrunk, steps_of
from quantize_qat import train

from posezoo.compression.pruning import Plan, PrunedTwin, sparsity
from posezoo.export.metadata import with_metadata
from posezoo.export.tflite import export_tflite, to_tflite
from posezoo.files import replacing
from posezoo.inference.runners import KerasRunner, TFLiteRunner
from posezoo.training.config import option, parse


@dataclass(frozen=True)
class Config(CompressConfig):
    out: Path = option(Path("runs/pruned"), "folder for the int8 file, the weights and the report")
    sparsity: float = option(0.5, "share of each kernel that becomes zero (2:4 is always a half)")
    schedule: str = option("polynomial", "constant: all at the beginning; polynomial: little by little")
    structure: str = option("none", "none, or 2:4 for accelerators that have it")
    keep_dense: str = option("", "names of layers that are not pruned, separated by commas")
    keep_float: str = option("", "names of layers that are not rounded, separated by commas")
    prune_epochs: int = option(4, "epochs of pruning")
    epochs: int = option(2, "epochs of quantisation-aware training, of the sparse and of the dense network")
    steps: int = option(0, "steps per epoch; 0 for all examples")
    batch: int = option(16, "examples per step")
    learning_rate: float = option(1e-4, "highest while pruning; rises over 20 steps and falls as half a cosine")
    qat_learning_rate: float = option(2e-5, "highest of quantisation-aware training")
    baseline: bool = option(True, "also train the dense network quantisation-aware, to compare")


def main(argv=None) -> dict:
    cfg = shrunk(parse(Config, argv, description=__doc__), prune_epochs=1, epochs=1, steps=2, batch=2)
    ready = prepare(cfg)
    card, task = ready.card, ready.task
    scores = SideBySide(cfg, "prune.py", task)
    scores.add("float32", task.score(KerasRunner(ready.network, card.input)))
    add_int8(scores, ready, "int8")
    qat = replace(cfg, learning_rate=cfg.qat_learning_rate)
    if cfg.baseline:
        dense = replace(ready, network=copy_of(ready.network))
        twin, best = train(qat, dense)
        scores.add("int8-qat", best, with_metadata(to_tflite(twin.model, card.input, trained_ranges=True), card))

    form = "pruned" if cfg.structure == "none" else cfg.structure
    sparse = replace(ready, network=copy_of(ready.network))
    share = prune(cfg, sparse)
    scores.add(f"float32-{form}", task.score(KerasRunner(sparse.network, card.input)), sparsity=share)
    save(sparse.network, cfg.out / f"{cfg.model}_pruned.weights.h5")
    add_int8(scores, sparse, f"int8-{form}", sparsity=share)

    twin, best = train(qat, sparse, keep_zeros=True)
    file = cfg.out / f"{cfg.model}_pruned_int8.tflite"
    sidecar = export_tflite(
        twin.model, card.input, file, card=card, check_pictures=ready.check_pictures, trained_ranges=True
    )
    twin.bring_back()
    save(sparse.network, cfg.out / f"{cfg.model}_pruned_qat.weights.h5")
    scores.add(f"int8-{form}-qat", best, file.read_bytes(), sparsity=sparsity(sparse.network))
    report = scores.write(structure=cfg.structure, schedule=cfg.schedule, quantisation=sidecar["report"])
    print(f"written: {file}")
    return report


def add_int8(scores: SideBySide, ready: Prepared, row: str, **more) -> None:
    """Score the int8 file that calibration alone makes."""
    content = with_metadata(to_tflite(ready.network, ready.card.input, ready.pictures), ready.card)
    scores.add(row, ready.task.score(TFLiteRunner(content, ready.card.input)), content, **more)


def prune(cfg: Config, ready: Prepared) -> float:
    """Prune a network in place; return the share of zeros in its kernels."""
    steps = cfg.prune_epochs * steps_of(cfg, ready.task)
    twin = PrunedTwin(
        ready.network, Plan(cfg.sparsity, cfg.schedule, cfg.structure, steps), keep_dense=names(cfg.keep_dense)
    )

    def score() -> float:
        twin.bring_back()
        return ready.task.score(KerasRunner(ready.network, ready.card.input))

    # Sparsity grows to its end: the last weights are the ones.
    fit(twin.model, ready, cfg, epochs=cfg.prune_epochs, score=score, keep_best=False)
    twin.bring_back()
    share = sparsity(ready.network)
    print(f"  {share:.1%} of all kernels are zero, {sparsity(ready.network, twin.pruned):.1%} of the pruned ones")
    return share


def save(network: keras.Model, path: Path) -> None:
    """Write weights so that nobody sees half of them."""
    with replacing(path) as temporary:
        network.save_weights(temporary)


if __name__ == "__main__":
    main()
