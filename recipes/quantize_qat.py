"""Quantisation-aware training: from float weights to an int8 file, with float, PTQ and QAT side by side.

    python recipes/quantize_qat.py --model mobilenet_split_224 --data lspet
    python recipes/quantize_qat.py --model efficienthrnet_h-2 --dataset lspet --data lspet --weights best.weights.h5
    python recipes/quantize_qat.py --smoke

The network's Keras 2 twin rounds as the int8 file will (posezoo.compression.qat) and is trained a little further with
the losses of its family; batch norms keep their statistics. The file passes the gates before it is written, and the
better of all epochs, the start included, is what is kept. `--keep-float a,b` leaves layers unrounded; `--also
edgetpu,tflite_uint8,tflite_float_io` writes the trained network in these forms too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressing import CompressConfig, Prepared, SideBySide, batches_of, fit, names, prepare, shrunk

from posezoo.compression.qat import QuantisedTwin
from posezoo.errors import UserError
from posezoo.export import edgetpu
from posezoo.export.metadata import with_metadata
from posezoo.export.targets import Target, get_target
from posezoo.export.tflite import export_tflite, to_tflite
from posezoo.files import replacing
from posezoo.inference.runners import KerasRunner, TFLiteRunner
from posezoo.training.config import option, parse

#: Export targets that a trained twin can become, beside the int8 file.
ALSO = ("tflite_uint8", "tflite_float_io", "edgetpu")


@dataclass(frozen=True)
class Config(CompressConfig):
    out: Path = option(Path("runs/qat"), "folder for the int8 file, the weights and the report")
    epochs: int = option(2, "epochs")
    steps: int = option(0, "steps per epoch; 0 for all examples")
    batch: int = option(16, "examples per step")
    learning_rate: float = option(2e-5, "highest; rises over 20 steps and falls as half a cosine")
    keep_float: str = option("", "names of layers that are not rounded, separated by commas")
    also: str = option("", f"further files of the trained network, separated by commas: {', '.join(ALSO)}")


def main(argv=None) -> dict:
    cfg = parse(Config, argv, description=__doc__)
    if unknown := sorted(set(names(cfg.also)) - set(ALSO)):
        raise SystemExit(f"--also {', '.join(unknown)}: expected {', '.join(ALSO)}")
    cfg = shrunk(cfg, epochs=1, steps=2, batch=2)
    ready = prepare(cfg)
    card, task = ready.card, ready.task
    scores = SideBySide(cfg, "quantize_qat.py", task)
    scores.add("float32", task.score(KerasRunner(ready.network, card.input)))
    content = with_metadata(to_tflite(ready.network, card.input, ready.pictures), card)
    scores.add("int8", task.score(TFLiteRunner(content, card.input)), content)

    twin, best = train(cfg, ready)
    file = cfg.out / f"{cfg.model}_int8.tflite"
    sidecar = export_tflite(
        twin.model, card.input, file, card=card, check_pictures=ready.check_pictures, trained_ranges=True
    )
    scores.add("int8-qat", best, file.read_bytes())
    twin.bring_back()
    with replacing(cfg.out / f"{cfg.model}_qat.weights.h5") as path:
        ready.network.save_weights(path)
    report = scores.write(operators=sidecar["operators"], quantisation=sidecar["report"])
    print(f"written: {file} ({sidecar['bytes'] / 1e6:.2f} MB)")
    for target in names(cfg.also):
        try:
            print(f"written: {write_as(get_target(target), twin, ready, cfg)}")
        except UserError as error:  # what is written stays
            print(f"{target}: {error}")
    return report


def write_as(target: Target, twin: QuantisedTwin, ready: Prepared, cfg: Config) -> Path:
    """Write the trained twin as another int8 target; return the file.

    Raises:
        GateError: The file does not agree with the twin.
        EdgeTpuError: The compiler would not take it, or too little of it would map.
    """
    card, pictures, out = ready.card, ready.check_pictures, target.path(cfg.out, cfg.model)
    if target.name == "edgetpu":
        content, report = edgetpu.ready(to_tflite(twin.model, card.input, trained_ranges=True))
        edgetpu.check_mapping(report)
        expected = KerasRunner(twin.model, card.input)(pictures)
        edgetpu.write_edgetpu(content, report, expected, card, out, pictures=pictures)
    else:
        io = target.options["io"]
        export_tflite(twin.model, card.input, out, card=card, check_pictures=pictures, io=io, trained_ranges=True)
    return out


def train(cfg, ready: Prepared, *, keep_zeros: bool = False) -> tuple[QuantisedTwin, float]:
    """Make the network's quantisation-aware twin and train it.

    Args:
        cfg: Has `epochs`, `steps`, `batch`, `learning_rate`, `workers` and `keep_float`.
        ready: The network and its data.
        keep_zeros: Of a pruned network.

    Returns:
        The twin as it was best by the int8 file's own score, and that score.
    """
    card, task = ready.card, ready.task
    batches = batches_of(ready.pictures, card)
    twin = QuantisedTwin(ready.network, batches, keep_float=names(cfg.keep_float), keep_zeros=keep_zeros)

    def score() -> float:
        return task.score(TFLiteRunner(to_tflite(twin.model, card.input, trained_ranges=True), card.input))

    return twin, fit(twin.model, ready, cfg, epochs=cfg.epochs, score=score)


if __name__ == "__main__":
    main()
