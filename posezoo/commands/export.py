"""`posezoo export`."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.cards import Card
from posezoo.commands.calibration import ALL_LAYOUTS, LAYOUTS, training_examples
from posezoo.commands.common import (
    DONE,
    SOME_FAILED,
    Command,
    CommandError,
    blaming_settings,
    builder_changes,
    find_pictures,
    set_argument,
)
from posezoo.commands.display import print_table
from posezoo.zoo import changes_of, info, load

if TYPE_CHECKING:
    import keras

    from posezoo.export.job import Job

#: Networks with more multiplications are calibrated on fewer pictures by default.
LARGE_MACS = 10e9


def export_command(arguments: argparse.Namespace) -> int:
    """Gated files for other runtimes."""
    from posezoo.export.gates import GateError
    from posezoo.export.targets import TARGETS, get_target

    if arguments.to == "list":
        known = {t.name: t.title for t in TARGETS.values()} | {"c": "C header of the TFLite file, for microcontrollers"}
        print_table(f"{len(known)} target(s)", ("--to", "what"), list(known.items()))
        return DONE
    if arguments.check:
        print("\n".join(get_target(arguments.to).told(export_job(arguments))))
        return DONE
    if not arguments.out:
        raise CommandError("say where to write: -o FILE")
    out = Path(arguments.out)
    if arguments.all:
        return export_all(export_job(arguments), out)
    if arguments.to == "c":
        return export_header(arguments, out)
    target = get_target(arguments.to)
    if target.suffix not in ("", out.suffix):
        raise CommandError(f"{out}: --to {target.name} writes a {target.suffix} file; name it so")
    if target.environment:
        make_environment(target.environment)
    job = export_job(arguments)
    try:
        if target.name == "tflite":
            sidecar = export_tflite_file(job, arguments, out)
            print(f"written: {out} ({sidecar['bytes'] / 1e6:.2f} MB), {out}.json")
            return DONE
        made = target.make(job, out)
    except GateError as error:
        raise CommandError(f"nothing written: {error}") from error
    except OSError as error:
        raise CommandError(f"{out}: cannot be written ({error.strerror or error}); nothing is left behind") from error
    rows = [
        (r.output, r.kernels, f"{r.psnr_db:.1f}", f"{r.max_error:.2g}", r.levels)
        for agreement in made.agreements
        for r in agreement.rows
    ]
    print_table("gates passed", ("output", "runtime", "PSNR dB", "largest error", "levels"), rows)
    for moved in (agreement.keypoints for agreement in made.agreements if agreement.keypoints):
        told = f"{moved.median_px:.2f} px (median of {moved.keypoints}), 95 of 100 by at most {moved.p95_px:.2f} px"
        print(f"keypoints move by {told}, the worst by {moved.max_px:.2f} px")
    print("\n".join(made.notes), end="\n" if made.notes else "")
    size = sum(p.stat().st_size for f in made.files for p in ([f] if f.is_file() else f.rglob("*")) if p.is_file())
    print(f"written: {', '.join(str(f) for f in made.files)} ({size / 1e6:.2f} MB)")
    return DONE


def make_environment(name: str) -> None:
    """Make the environment of a target's tools, and say so, for it takes a download."""
    from posezoo.export.foreign import MissingToolError, environment

    try:
        environment(name)
    except MissingToolError:
        print(f"making the environment '{name}', once; this downloads packages", file=sys.stderr, flush=True)
        environment(name, make=True)


def export_header(arguments: argparse.Namespace, out: Path) -> int:
    """A TFLite file as a C header: a new one where there are pictures to calibrate on, else the released one."""
    from posezoo.export.gates import GateError

    if out.suffix != ".h":
        raise CommandError(f"{out}: a C header's name ends in .h")
    if not arguments.data and not arguments.calibration:
        return released_header(arguments.model, out)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        try:
            export_tflite_file(export_job(arguments), arguments, file)
        except GateError as error:
            raise CommandError(f"nothing written: {error}") from error
        return write_header(file.read_bytes(), out, f"{arguments.model}_{arguments.precision}")


def released_header(name: str, out: Path) -> int:
    """Write a model's released int8 file as a C header."""
    from posezoo.weights import fetch

    card = info(name)
    if "int8" not in card.weights:
        raise CommandError(f"no int8 file is released for '{name}'; make one with --calibration FOLDER --weights FILE")
    return write_header(Path(fetch(card.weights["int8"])).read_bytes(), out, f"{name}_int8")


def write_header(content: bytes, out: Path, name: str) -> int:
    """Write a file as a C header, and tell what its interpreter needs."""
    from posezoo.export.c_array import write_c_array

    told = write_c_array(content, out, name=re.sub(r"\W", "_", name))
    print_table("operators to register", ("operator",), [(operator,) for operator in told["operators"]])
    print(f"written: {out} ({told['bytes'] / 1e3:.1f} kB of model, arena about {told['arena_bytes'] / 1e3:.0f} kB)")
    return DONE


def export_all(job: Job, folder: Path) -> int:
    """Everything that a model can become."""
    from posezoo.export import everything

    try:
        outcomes = everything.export_everything(
            job, folder, say=lambda outcome: print(everything.told(outcome), flush=True)
        )
    except OSError as error:
        why = error.strerror or error
        raise CommandError(
            f"{folder}: cannot be written to ({why}); what stands there is whole, start again"
        ) from error
    there = sum(outcome.entry["status"] == everything.WRITTEN for outcome in outcomes)
    print(f"{there} of {len(outcomes)} targets: {folder / everything.MANIFEST}, {folder / everything.TABLE}")
    return SOME_FAILED if any(outcome.status == everything.FAILED for outcome in outcomes) else DONE


def export_job(arguments: argparse.Namespace) -> Job:
    """The network to export, from the zoo or a file of the user's own, with pictures for calibration and gates."""
    from posezoo.export.job import Job
    from posezoo.export.rewrite import combed, without_groups
    from posezoo.export.seeded import smooth_pictures

    if arguments.check and not (arguments.data or arguments.calibration):
        # What a target makes of a network depends on its layers alone.
        arguments.structure_only = True
    trained = not arguments.structure_only
    if trained and not (arguments.data or arguments.calibration):
        raise CommandError("give --calibration FOLDER or --data FOLDER: the gates, and int8's ranges, need pictures")
    own = bool(arguments.card)
    if not own and (Path(arguments.model).suffix == ".keras" or Path(arguments.model).is_dir()):
        raise CommandError(f"{arguments.model} is a network of your own; describe it with --card FILE.yaml")
    if own and arguments.set:
        raise CommandError("--set changes how a model of the zoo is built; a network of your own is exported as it is")
    changes = {} if own else builder_changes(arguments.model, arguments.set)
    if not own:
        changes = changes_of(arguments.model, changes, own_weights=not trained or arguments.weights != "default")
    card = described(arguments, changes)
    count = arguments.pictures or (8 if card.size.get("macs", 0) > LARGE_MACS else 100)
    # Pictures before the network: what does not fit is told at once.
    if not trained and not (arguments.data or arguments.calibration):
        pictures = list(smooth_pictures(card, min(count, 8)))
    else:
        pictures = calibration_pictures(arguments, card, count)
    network = network_to_export(arguments, card, changes)
    for wanted, rewrite in ((arguments.no_groups, without_groups), (arguments.no_dilation, combed)):
        network = rewrite(network) if wanted else network
    gated = np.stack(pictures[: arguments.gate_pictures])
    return Job(network, card, gated, pictures, trained, Path(arguments.model) if own else None)


def described(arguments: argparse.Namespace, changes: Mapping[str, Any]) -> Card:
    """The card of the network to export, as it is built."""
    from posezoo.cards import read_card_file
    from posezoo.zoo import changed_card

    if arguments.card:
        return read_card_file(arguments.card)
    with blaming_settings(arguments.model):
        return changed_card(info(arguments.model), changes, {})


def network_to_export(arguments: argparse.Namespace, card: Card, changes: Mapping[str, Any]) -> keras.Model:
    """The network of the user's own file, the zoo's with its weights, or one that nobody trained."""
    from posezoo.export.own import open_network
    from posezoo.export.seeded import seed_weights
    from posezoo.zoo import build

    if arguments.card:
        return open_network(arguments.model, card)
    with blaming_settings(card.name):
        if not arguments.structure_only:
            return load(card.name, runtime="keras", weights=arguments.weights, build=changes).network
        network = build(card.name, **changes)
    seed_weights(network, card)
    return network


def calibration_pictures(arguments: argparse.Namespace, card: Card, count: int) -> list[np.ndarray]:
    """Pictures of the kind that the network will see, as it takes them."""
    from posezoo.data.calibration import person_crops, whole_pictures

    if arguments.data:
        examples = training_examples(card, Path(arguments.data), dataset=arguments.dataset, split=arguments.split)
        return person_crops(examples, limit=count)
    found = find_pictures([arguments.calibration])
    return whole_pictures(found, card.input, limit=count)


def export_tflite_file(job: Job, arguments: argparse.Namespace, out: Path) -> dict:
    """Write a gated TFLite file of the precision and types asked for; return its sidecar."""
    from posezoo.export.targets import get_target

    precision = {"precision": arguments.precision, "io": arguments.io}
    made = replace(get_target("tflite"), options=precision, int8=arguments.precision == "int8").make(job, out)
    sidecar = json.loads(out.with_name(out.name + ".json").read_text())
    rows = [
        (r["output"], r["kernels"], f"{r['psnr_db']:.1f}", f"{r['max_error']:.4f}", r["levels"])
        for r in sidecar["gates"]
    ]
    print_table("gates passed", ("output", "kernels", "PSNR dB", "largest error", "levels"), rows)
    print("\n".join(made.notes), end="\n" if made.notes else "")
    return sidecar


def add_to(command: Command) -> None:
    """Add `posezoo export`."""
    parser = command("export", export_command, "gated files for other runtimes", """
        Convert a model for another runtime: --to list shows the targets. The file is run beside the network; one that
        disagrees, or whose output is nearly constant or the same for every picture, is not written. A JSON sidecar
        records hash, versions and the comparison.

        --to c writes the TFLite file as a C header for TensorFlow Lite Micro, with the operators to register and the
        arena's size; without pictures to calibrate on, the released int8 file.

        MODEL is a name from 'posezoo list', or a .keras file or SavedModel of your own with --card.

        examples:
          posezoo export mobilenet_split_224 --calibration photos/ -o pose.tflite
          posezoo export mobilenet_split_224 --to onnx --calibration photos/ -o pose.onnx
          posezoo export mobilenet_split_224 --set input_px=256,192 --calibration photos/ -o portrait.tflite
          posezoo export efficienthrnet_lite_h-4 --to edgetpu --check
          posezoo export hand25d --to c -o hand25d.h
          posezoo export mine.keras --card mine.yaml --to openvino --calibration photos/ -o mine.xml
          posezoo export mobilenet_split_224 --all --calibration photos/ -o exported/

        --all writes manifest.json and a table, exports.md; a second run makes only what is missing, damaged or out of
        date.
    """)  # fmt: skip
    parser.add_argument("model", nargs="?", default="", help="a name from 'posezoo list', or a network of your own")
    parser.add_argument("--to", default="tflite", metavar="TARGET", help="see --to list (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="everything the model can become, into the folder OUT")
    parser.add_argument("-o", "--out", help="what to write")
    parser.add_argument("--card", metavar="FILE", help="the YAML card of a network of your own, see docs/export.md")
    parser.add_argument(
        "--no-groups", action="store_true", help="dense kernels for grouped convolutions, which Edge TPU refuses"
    )
    parser.add_argument(
        "--no-dilation", action="store_true", help="plain convolutions of interleaved pixels for dilated ones"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--calibration", metavar="FOLDER", help="pictures of the kind the network will see, taken whole"
    )
    source.add_argument(
        "--data",
        metavar="FOLDER",
        help="labelled data, seen as in training: people cut out, canvases, frames",
    )
    defaults = "; ".join(f"{names[0]} for networks that look at {kind}" for kind, names in LAYOUTS.items())
    parser.add_argument("--dataset", choices=ALL_LAYOUTS, help=f"layout of --data (default: {defaults})")
    parser.add_argument(
        "--split",
        default="train",
        help="train, val, test or all, as the data have them (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures", type=int, help="how many of them to use (default: 100, or 8 for networks above 10 GMACs)"
    )
    parser.add_argument("--gate-pictures", type=int, default=8, help="how many the gates run (default: %(default)s)")
    parser.add_argument(
        "--check", action="store_true", help="--to edgetpu: only tell what would map and what would not, write nothing"
    )
    parser.add_argument(
        "--precision", choices=("int8", "float32", "float16", "dynamic", "int16x8"), default="int8",
        help="of --to tflite (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--io", choices=("int8", "uint8", "int16", "float32"),
        help="type of the int8 TFLite file's input and outputs; browsers take uint8 or float32 (default: int8, of "
        "--precision int16x8 int16)",
    )  # fmt: skip
    parser.add_argument("--weights", default="default", help="your own .weights.h5 (default: the released file)")
    set_argument(
        parser, "arguments of the model's builder: with which --weights was made, or another size, such as input_px=256"
    )
    parser.add_argument(
        "--structure-only", action="store_true",
        help="weights that nobody trained, to see what a target makes of a network before it has weights",
    )  # fmt: skip
