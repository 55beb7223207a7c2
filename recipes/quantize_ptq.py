"""Quantisation after training: from float weights to int8 files, with what each layer's rounding costs.

    python recipes/quantize_ptq.py --model mobilenet_split_224 --data lspet
    python recipes/quantize_ptq.py --model mobilenet_split_224 --data lspet --keep-worst 3 --int16
    python recipes/quantize_ptq.py --smoke

Calibration pictures pass through the card's preprocessing. The report tells the error of every operator by itself, in
levels of its result, worst first (0.29 is what rounding alone costs), and by how many pixels key-points move.
`--ranges minmax` ends ranges at the extremes that calibration shows instead of where they lose the least. `--keep-float
a,b` or `--keep-worst 3` leaves layers in float32; `--int16` stores tensors in 16 bits and weights in 8. Every file
passes the gates before it is written.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressing import CompressConfig, Prepared, SideBySide, names, prepare, shrunk

from posezoo.export.quantisation import QuantisationReport, quantisation_report
from posezoo.export.selective import LayerError, layer_errors
from posezoo.export.tflite import export_tflite
from posezoo.inference.runners import KerasRunner, TFLiteRunner
from posezoo.training.config import option, parse

#: Layers that the terminal shows; the report has all.
SHOWN = 12


@dataclass(frozen=True)
class Config(CompressConfig):
    out: Path = option(Path("runs/ptq"), "folder for the files and the report")
    keep_float: str = option("", "names of layers that stay in float32, separated by commas")
    keep_worst: int = option(0, "how many of the worst layers stay in float32 as well")
    ranges: str = option("mse", "ends of int8 ranges: where they lose the least, or minmax, the extremes")
    int16: bool = option(False, "also make a file with tensors of 16 bits")
    measured: int = option(16, "calibration pictures on which layers' errors are measured")


def main(argv=None) -> dict:
    cfg = shrunk(parse(Config, argv, description=__doc__))
    ready = prepare(cfg)
    card, task, network = ready.card, ready.task, ready.network
    scores = SideBySide(cfg, "quantize_ptq.py", task)
    scores.add("float32", task.score(KerasRunner(network, card.input)))
    reports = {"int8": make(scores, ready, "int8", "", ranges=cfg.ranges)}

    errors = layer_errors(network, card.input, ready.pictures, ready.pictures[: cfg.measured])
    print("\n".join(lines_of(errors[:SHOWN])))
    keep = list(dict.fromkeys([*names(cfg.keep_float), *(row.layer for row in errors[: cfg.keep_worst])]))
    if keep:
        mixed = {"io": "float32", "keep_float": keep, "ranges": cfg.ranges}
        reports["int8-mixed"] = make(scores, ready, "int8-mixed", "_mixed", **mixed)
    if cfg.int16:
        reports["int16x8"] = make(scores, ready, "int16x8", "_int16x8", precision="int16x8")
    return scores.write(
        layers=[dataclasses.asdict(row) for row in errors], kept_float=keep,
        quantisation={name: report.as_dict() for name, report in reports.items()},
    )  # fmt: skip


def make(scores: SideBySide, ready: Prepared, row: str, ending: str, **options: Any) -> QuantisationReport:
    """Write a gated file, score it, print and return its report."""
    card, cfg = ready.card, scores.cfg
    stem = f"{cfg.model}_int8{ending}" if "precision" not in options else f"{cfg.model}{ending}"
    file = cfg.out / f"{stem}.tflite"
    sidecar = export_tflite(ready.network, card.input, file, card=card, calibration=ready.pictures, **options)
    print("\n".join(f"  {r['output']} on {r['kernels']} kernels: PSNR {r['psnr_db']:.1f} dB" for r in sidecar["gates"]))
    runner, pictures = TFLiteRunner(file, card.input), ready.check_pictures
    scores.add(row, ready.task.score(runner), file.read_bytes(), file=file.name)
    report = quantisation_report(runner, KerasRunner(ready.network, card.input)(pictures), pictures, card)
    print("\n".join(f"  {line}" for line in report.lines()))
    return report


def lines_of(errors: list[LayerError]) -> list[str]:
    """Layers' errors for a terminal."""
    width = max((len(row.layer) for row in errors), default=0)
    head = f"  {'layer':{width}}  {'operator':22} {'error, levels':>13} {'level':>10}"
    return [head, *(f"  {r.layer:{width}}  {r.operator:22} {r.steps:>13.2f} {r.scale:>10.3g}" for r in errors)]


if __name__ == "__main__":
    main()
