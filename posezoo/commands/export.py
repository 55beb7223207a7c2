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
    from posezoo.export.targets import Target

#: Networks with more multiplications are calibrated on fewer pictures by default.
LARGE_MACS = 10e9
DEFAULT_TARGET, DEFAULT_PRECISION, DEFAULT_SPLIT = "tflite", "int8", "train"
#: Pictures that the gates run, by default and at least: one picture cannot show whether a file reacts to it.
GATE_PICTURES, LEAST_PICTURES = 8, 2
WHY_TWO = f"the gates need at least {LEAST_PICTURES}, for one cannot show whether a file reacts to the picture"


def export_command(arguments: argparse.Namespace) -> int:
    """Gated files for other runtimes."""
    from posezoo.export.gates import GateError
    from posezoo.export.targets import TARGETS

    if arguments.to == "list":
        known = {t.name: t.title for t in TARGETS.values()} | {"c": "C header of the TFLite file, for microcontrollers"}
        print_table(f"{len(known)} target(s)", ("--to", "what"), list(known.items()))
        return DONE
    refuse_what_does_not_apply(arguments)
    if arguments.check:
        print("\n".join(target_of(arguments).told(export_job(arguments))))
        return DONE
    if not arguments.out:
        raise CommandError("say where to write: -o FILE")
    out = Path(arguments.out)
    if arguments.all:
        return export_all(export_job(arguments), out)
    if arguments.to == "c":
        return export_header(arguments, out)
    target = target_of(arguments)
    if target.suffix not in ("", out.suffix):
        raise CommandError(f"{out}: --to {target.name} writes a {target.suffix} file; name it so")
    if target.environment:
        make_environment(target.environment)
    job = export_job(arguments)
    try:
        if target.name == DEFAULT_TARGET:
            sidecar = export_tflite_file(job, arguments, out)
            print(f"written: {out} ({sidecar['bytes'] / 1e6:.2f} MB), {out}.json")
            return DONE
        made = target.make(job, out)
    except GateError as error:
        raise CommandError(f"nothing written: {error}") from error
    except OSError as error:
        raise unwritable(out, error) from error
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


def unwritable(out: Path, error: OSError) -> CommandError:
    """What to tell of a file that cannot be written."""
    return CommandError(f"{out}: cannot be written ({error.strerror or error}); nothing is left behind")


def refuse_what_does_not_apply(arguments: argparse.Namespace) -> None:
    """Refuse options that what is asked for would ignore.

    Raises:
        CommandError: Names the option and what it is for.
        UnknownTargetError: There is no such target.
    """
    from posezoo.export.targets import get_target

    to = arguments.to or DEFAULT_TARGET
    if arguments.to not in (None, "c"):
        get_target(to)
    files = not arguments.all and to in (DEFAULT_TARGET, "c")
    coral = not arguments.all and to == "edgetpu"
    for option, given, applies, told in (
        ("--all", arguments.all, not arguments.to, "writes every target; leave out --to, or --all for that one alone"),
        ("--check", arguments.check, not arguments.all and to != "c", "is for --to edgetpu"),
        ("--precision", arguments.precision, files, "is for --to tflite and --to c; " + instead(arguments)),
        ("--io", arguments.io, files or coral, "is for --to tflite, --to c and --to edgetpu"),
        ("--min-mapped", arguments.min_mapped is not None, coral, "is for --to edgetpu"),
        ("--dataset", arguments.dataset, arguments.data, "is the layout of --data; give --data FOLDER"),
        ("--split", arguments.split, arguments.data, "is of --data; give --data FOLDER"),
        ("--weights", own_weights(arguments), not arguments.card,
         "is for models of the zoo; a network of your own holds its weights"),
        ("--weights", own_weights(arguments), not arguments.structure_only,
         "is for networks that somebody trained; leave out --structure-only"),
    ):  # fmt: skip
        if given and not applies:
            raise CommandError(f"{option} {told}")
    refuse_for_released_header(arguments)
    refuse_wrong_values(arguments)


def instead(arguments: argparse.Namespace) -> str:
    """What to do in place of a precision that the target does not take."""
    from posezoo.export.targets import TARGETS

    to, precision = arguments.to, arguments.precision
    if arguments.all:
        return "--all writes every precision"
    if to in ("tensorrt", "tftrt"):
        return f"of --to {to} it is chosen on the device, with --precision of the script in the folder"
    better = f"{str(to).split('_')[0]}_{precision}"
    return f"take --to {better}" if better in TARGETS else f"--to {to} writes one kind of file, see --to list"


def own_weights(arguments: argparse.Namespace) -> bool:
    """Whether --weights names a file."""
    return arguments.weights != "default"


def takes_released_file(arguments: argparse.Namespace) -> bool:
    """Whether a C header is made of the released file, for want of pictures to make a new one with."""
    return arguments.to == "c" and not (arguments.data or arguments.calibration or arguments.structure_only)


def refuse_for_released_header(arguments: argparse.Namespace) -> None:
    """Refuse options of a new file where the released one becomes a C header.

    Raises:
        CommandError: Names the option and what to add.
    """
    if not takes_released_file(arguments):
        return
    for option, given in (
        ("--precision", arguments.precision not in (None, "int8")), ("--io", arguments.io not in (None, "int8")),
        ("--card", arguments.card), ("--weights", own_weights(arguments)), ("--set", arguments.set),
        ("--no-groups", arguments.no_groups), ("--no-dilation", arguments.no_dilation),
        ("--pictures", arguments.pictures is not None), ("--gate-pictures", arguments.gate_pictures is not None),
    ):  # fmt: skip
        if given:
            raise CommandError(
                f"{option} is for a new file, and --to c without pictures takes the released one; give --calibration "
                "FOLDER or --data FOLDER"
            )


def refuse_wrong_values(arguments: argparse.Namespace) -> None:
    """Refuse numbers out of range, and types that the file's input and outputs cannot have.

    Raises:
        CommandError: Names the option and what is expected.
    """
    from posezoo.export.tflite import FLAVOURS

    for option, count in (("--pictures", arguments.pictures), ("--gate-pictures", arguments.gate_pictures)):
        if count is not None and count < LEAST_PICTURES:
            raise CommandError(f"{option} {count}: {WHY_TWO}")
    if arguments.min_mapped is not None and not 0 <= arguments.min_mapped <= 1:
        raise CommandError(f"--min-mapped {arguments.min_mapped:g}: expected a share of the operators, 0 to 1")
    precision = arguments.precision or DEFAULT_PRECISION
    takes, kind = FLAVOURS[precision].io, f"--precision {precision}"
    if arguments.to == "edgetpu":
        takes, kind = ("int8", "uint8"), "--to edgetpu"
    if arguments.io not in (None, *takes):
        raise CommandError(f"--io {arguments.io}: {kind} takes {' or '.join(takes)}")


def target_of(arguments: argparse.Namespace) -> Target:
    """The target asked for, with the options that its function takes."""
    from posezoo.export.targets import get_target

    target = get_target(DEFAULT_TARGET if arguments.to in (None, "c") else arguments.to)
    if target.name == "edgetpu":
        given = {"io": arguments.io, "min_mapped": arguments.min_mapped}
    elif target.name == DEFAULT_TARGET:
        precision = arguments.precision or DEFAULT_PRECISION
        given = {"precision": precision, "io": arguments.io}
        target = replace(target, int8=precision == "int8")
    else:
        return target
    return replace(target, options={name: value for name, value in given.items() if value is not None})


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
    if takes_released_file(arguments):
        return released_header(arguments.model, out)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        try:
            export_tflite_file(export_job(arguments), arguments, file)
        except GateError as error:
            raise CommandError(f"nothing written: {error}") from error
        except OSError as error:
            raise unwritable(file, error) from error
        return write_header(file.read_bytes(), out, f"{arguments.model}_{arguments.precision or DEFAULT_PRECISION}")


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

    try:
        told = write_c_array(content, out, name=re.sub(r"\W", "_", name))
    except OSError as error:
        raise unwritable(out, error) from error
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
    from posezoo.export.rewrite import combed, require_layers, without_groups
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
    if len(pictures) < LEAST_PICTURES and not arguments.check:
        raise CommandError(f"{arguments.data or arguments.calibration}: {len(pictures)} picture found; {WHY_TWO}")
    network = network_to_export(arguments, card, changes)
    for flag, wanted, rewrite in (
        ("--no-groups", arguments.no_groups, without_groups), ("--no-dilation", arguments.no_dilation, combed),
    ):  # fmt: skip
        if wanted:
            require_layers(network, wanted=flag)
            network = rewrite(network)
    gated = np.stack(pictures[: arguments.gate_pictures or GATE_PICTURES])
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
        examples = training_examples(
            card, Path(arguments.data), dataset=arguments.dataset, split=arguments.split or DEFAULT_SPLIT
        )
        return person_crops(examples, limit=count)
    found = find_pictures([arguments.calibration])
    return whole_pictures(found, card.input, limit=count)


def export_tflite_file(job: Job, arguments: argparse.Namespace, out: Path) -> dict:
    """Write a gated TFLite file of the precision and types asked for; return its sidecar."""
    made = target_of(arguments).make(job, out)
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
    parser.add_argument("--to", metavar="TARGET", help=f"see --to list (default: {DEFAULT_TARGET})")
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
        help=f"train, val, test or all, as the data have them (default: {DEFAULT_SPLIT})",
    )
    parser.add_argument(
        "--pictures", type=int, help="how many of them to use (default: 100, or 8 for networks above 10 GMACs)"
    )
    parser.add_argument("--gate-pictures", type=int, help=f"how many the gates run (default: {GATE_PICTURES})")
    parser.add_argument(
        "--check", action="store_true", help="--to edgetpu: only tell what would map and what would not, write nothing"
    )
    parser.add_argument(
        "--precision", choices=("int8", "float32", "float16", "dynamic", "int16x8"),
        help=f"of --to tflite and --to c (default: {DEFAULT_PRECISION})",
    )  # fmt: skip
    parser.add_argument(
        "--io", choices=("int8", "uint8", "int16", "float32"),
        help="type of the int8 TFLite file's input and outputs; browsers take uint8 or float32 (default: int8, of "
        "--precision int16x8 int16); --to edgetpu takes int8 or uint8",
    )  # fmt: skip
    parser.add_argument(
        "--min-mapped", type=float, metavar="SHARE",
        help="--to edgetpu: refuse the file where at best a smaller share of its operators maps, 0 to 1 (default: 0.9)",
    )  # fmt: skip
    parser.add_argument("--weights", default="default", help="your own .weights.h5 (default: the released file)")
    set_argument(
        parser, "arguments of the model's builder: with which --weights was made, or another size, such as input_px=256"
    )
    parser.add_argument(
        "--structure-only", action="store_true",
        help="weights that nobody trained, to see what a target makes of a network before it has weights",
    )  # fmt: skip
