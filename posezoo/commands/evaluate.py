"""`posezoo eval`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.commands.calibration import ALL_LAYOUTS, LAYOUTS
from posezoo.commands.common import (
    DONE,
    Command,
    CommandError,
    dataset_arguments,
    load_model,
    model_argument,
    network_arguments,
    read_scales,
    runtime_argument,
    scales_argument,
)
from posezoo.commands.display import print_table, track
from posezoo.files import write_json

if TYPE_CHECKING:
    from posezoo.inference.estimator import PoseModel
    from posezoo.inference.poses import Poses


def eval_command(arguments: argparse.Namespace) -> int:
    """Accuracy on a labelled set."""
    from posezoo.data.pipeline import PersonCrops
    from posezoo.data.readers import read
    from posezoo.evaluation.pck import LIMB_JOINTS
    from posezoo.evaluation.top_down import evaluate_pck

    model = load_model(arguments)
    if (model.card.family == "hand") != (arguments.dataset == "hands"):
        raise CommandError(
            f"{arguments.model} is not for --dataset {arguments.dataset}; hand models take 'hands' alone"
        )
    if model.card.family == "hand":
        return eval_hands(model, arguments)
    if model.card.input.depth != (arguments.dataset in LAYOUTS["depth"]):
        looks = "depth" if model.card.input.depth else "colour"
        raise CommandError(f"{arguments.model} looks at {looks}; --dataset {arguments.dataset} does not hold that")
    if model.card.input.depth:
        return eval_depth(model, arguments)
    if model.codec.bottom_up:
        return eval_bottom_up(model, arguments)
    if arguments.scales or arguments.results:
        raise CommandError(f"--scales and --results are for bottom-up networks; {arguments.model} looks at boxes")
    people = read(arguments.dataset, Path(arguments.data), arguments.split)
    crops = PersonCrops(people, model.card.input.wh, box=arguments.box, enlarge=arguments.enlarge)
    if not len(crops):
        raise CommandError(f"{arguments.data}: no labelled person in split '{arguments.split}'")
    scores = evaluate_pck(
        model.runner, crops, model.codec, normaliser=arguments.normaliser, flip=arguments.flip,
        skeleton=model.card.skeleton, progress=lambda rows: track(rows, "evaluating", total=len(crops)),
    )  # fmt: skip
    rows = [(joint, f"{value:.4f}") for joint, value in scores.per_joint(arguments.threshold).items()]
    rows.append(("limb joints", f"{scores.at(arguments.threshold):.4f}"))
    title = f"PCK@{arguments.threshold:g} of {arguments.normaliser} size, {len(crops)} people, {model!r}"
    print_table(title + (", flip test" if arguments.flip else ""), ("joint", "PCK"), rows)
    if arguments.plot:
        from posezoo.evaluation.plots import plot_pck

        plot_pck({f"{model.card.name} ({model.runner.name})": scores}, arguments.plot, joints=LIMB_JOINTS)
        print(f"written: {arguments.plot}")
    if arguments.json:
        measured = {
            "model": model.card.name, "runtime": model.runner.name, "people": len(crops), "flip": arguments.flip,
            "normaliser": arguments.normaliser, "threshold": arguments.threshold,
            "pck": scores.at(arguments.threshold), "per_joint": scores.per_joint(arguments.threshold),
        }  # fmt: skip
        write_json(arguments.json, measured)
    return DONE


def eval_bottom_up(model: PoseModel, arguments: argparse.Namespace) -> int:
    """COCO's average precision, or on data sets of one labelled person the PCK of the best person found."""
    from posezoo.data.readers import read, read_coco_pictures
    from posezoo.evaluation.bottom_up import best_person_pck, finding_everybody
    from posezoo.evaluation.coco import evaluate_coco, predict_pictures, write_results

    scales = read_scales(arguments.scales)
    everybody = finding_everybody(model)

    def find(image: np.ndarray) -> Poses:
        return everybody(image, flip=arguments.flip, scales=scales)

    note = (", flip test" if arguments.flip else "") + (f", scales {arguments.scales}" if scales else "")
    note += f", codec {arguments.codec}" if arguments.codec else ""
    measured = {"model": model.card.name, "runtime": model.runner.name, "flip": arguments.flip, "scales": scales}
    measured["codec"] = arguments.codec
    if arguments.dataset == "coco":
        people, annotations = read_coco_pictures(arguments.data, arguments.split)
        if annotations is None and (arguments.json or not arguments.results):
            raise CommandError(
                f"--split {arguments.split}: COCO keeps the labels of these pictures, so that nothing is scored here; "
                "give --results FILE to send to its server, and no --json"
            )
        results, unreadable = predict_pictures(find, people, progress=lambda rows: track(rows, "evaluating"))
        if arguments.results:
            write_results(arguments.results, results)
            print(f"written: {arguments.results}")
        if unreadable:
            print(f"{len(unreadable)} picture(s) could not be read: {', '.join(unreadable[:5])}", file=sys.stderr)
        if annotations is None:
            print(f"{len(people)} pictures, {len(results)} people{note}; not scored: COCO's server has the labels")
            return DONE
        scores = evaluate_coco(results, annotations, image_ids=[r.image_id for r in people.records])
        print_table(f"COCO keypoints, {len(people)} pictures, {model!r}{note}", ("metric", "value"), scores.rows())
        measured |= {"pictures": len(people), **dataclasses.asdict(scores)}
    else:
        people = read(arguments.dataset, Path(arguments.data), arguments.split)
        pck = best_person_pck(find, people, progress=lambda rows: track(rows, "evaluating"))
        rows = [(joint, f"{value:.4f}") for joint, value in pck.per_joint(arguments.threshold).items()]
        rows.append(("limb joints", f"{pck.at(arguments.threshold):.4f}"))
        title = f"PCK@{arguments.threshold:g} of the best person in {len(people)} whole pictures, {model!r}{note}"
        print_table(title, ("joint", "PCK"), rows)
        measured |= {"pictures": len(people), "threshold": arguments.threshold, "pck": pck.at(arguments.threshold)}
    if arguments.json:
        write_json(arguments.json, measured)
    return DONE


def eval_depth(model: PoseModel, arguments: argparse.Namespace) -> int:
    """Precision, recall and F-score of landmarks in depth frames."""
    from posezoo.data.readers import read
    from posezoo.evaluation.pose_machines import UPPER_BODY, find_in_frames, find_in_records, score_landmarks

    run = partial(model, flip=arguments.flip)
    if arguments.dataset == "synth":
        from posezoo.synth.frames import SynthFrames

        frames = SynthFrames(arguments.data)
        count, find = len(frames), partial(find_in_frames, run, frames)
    else:
        people = read(arguments.dataset, Path(arguments.data), arguments.split)
        count, find = len(people), partial(find_in_records, run, people)
    if not count:
        raise CommandError(f"{arguments.data}: no labelled frame in split '{arguments.split}'")
    pictures, unreadable = find(
        boxes=not model.codec.bottom_up, progress=lambda rows: track(rows, "evaluating")
    )  # fmt: skip
    if not pictures:
        raise CommandError(f"{arguments.data}: none of {count} frames can be read, such as {unreadable[0]}")
    scores = score_landmarks(pictures, matching=arguments.matching)
    threshold = model.card.score_threshold
    measured = {**scores.per_type(threshold), "all body": scores.summary(threshold=threshold)}
    measured["upper body"] = scores.summary(kinds=UPPER_BODY, threshold=threshold)
    rows = [(name, f"{s.precision:.4f}", f"{s.recall:.4f}", f"{s.f_score:.4f}") for name, s in measured.items()]
    title = f"means over kappa 0.05 to 0.15 of the person's height, {len(pictures)} frames, {model!r}"
    note = f", score from {threshold:g}, matching by {arguments.matching}" + (", flip test" if arguments.flip else "")
    print_table(title + note, ("landmark", "precision", "recall", "F-score"), rows)
    if unreadable:
        print(f"{len(unreadable)} frame(s) could not be read: {', '.join(unreadable[:5])}", file=sys.stderr)
    if arguments.plot:
        from posezoo.evaluation.plots import plot_precision_recall

        plot_precision_recall({f"{model.card.name} ({model.runner.name})": scores}, arguments.plot)
        print(f"written: {arguments.plot}")
    if arguments.json:
        content = {
            "model": model.card.name, "runtime": model.runner.name, "frames": len(pictures), "flip": arguments.flip,
            "matching": arguments.matching, "threshold": threshold,
            "landmarks": {k: {**dataclasses.asdict(s), "f_score": s.f_score} for k, s in measured.items()},
        }  # fmt: skip
        write_json(arguments.json, content)
    return DONE


def eval_hands(model: PoseModel, arguments: argparse.Namespace) -> int:
    """Error in input pixels and PCK of the hand's box, on labelled hands."""
    from posezoo.data.hands import HandScenes
    from posezoo.evaluation.hands import find_hands, score_hands
    from posezoo.synth.hand_folders import labelled_hands

    scenes = HandScenes.for_input(labelled_hands(arguments.data), model.card.input)
    found = find_hands(
        model.runner, scenes, model.codec, model.card.skeleton,
        progress=lambda rows: track(rows, "evaluating", total=len(scenes)),
    )  # fmt: skip
    scores = score_hands(found, model.card.skeleton)
    rows = [(k, f"{error:.2f}", f"{scores.pck_of[k]:.4f}") for k, error in scores.error_of.items()]
    rows += [("all", f"{scores.error_px:.2f}", f"{scores.pck:.4f}"), ("hidden ones", f"{scores.hidden_px:.2f}", "")]
    title = f"error in input pixels, PCK@0.1 of the hand's box, {scores.frames} frames, {model!r}"
    print_table(title, ("keypoint", "error px", "PCK"), rows)
    print(f"right about which hands are there: {scores.hands:.4f}, about which keypoints are seen: {scores.seen:.4f}")
    if arguments.json:
        content = {"model": model.card.name, "runtime": model.runner.name, **dataclasses.asdict(scores)}
        write_json(arguments.json, content)
    return DONE


def add_to(command: Command) -> None:
    """Add `posezoo eval`."""
    parser = command("eval", eval_command, "accuracy on a labelled data set", """
        Measure PCK, the share of keypoints within a threshold of the person's torso, head or box size, on the
        network in Keras or on its int8 file, with the same code. Bottom-up networks are measured by COCO's average
        precision with --dataset coco, else by the PCK of the best person that they find in the whole picture.
        Networks that look at depth are measured by precision, recall and F-score of landmarks, those of hands by their
        error in pixels and the PCK of the hand's box, on rendered or recorded frames (docs/hand.md).

        examples:
          posezoo eval mobilenet_split_224 --dataset lsp --data lspet --split val --runtime tflite --plot pck.png
          posezoo eval efficienthrnet_h-2 --dataset coco --data coco --runtime keras --flip --scales 0.5,1,1.5
          posezoo eval mpm_4s --dataset utd_mhad --data utd_mhad_depth --plot precision_recall.png
          posezoo eval mpm_4s --dataset synth --data synth/val --matching person
          posezoo eval hand25d --dataset hands --data hands/test
    """)  # fmt: skip
    model_argument(parser, positional=True)
    parser.add_argument("--data", required=True, help="folder of the data set")
    dataset_arguments(parser, split="val", layouts=ALL_LAYOUTS)
    runtime_argument(parser, "tflite")
    network_arguments(parser)
    parser.add_argument(
        "--normaliser", choices=("torso", "head", "box"), default="torso", help="(default: %(default)s)"
    )
    parser.add_argument("--threshold", type=float, default=0.2, help="(default: %(default)s)")
    parser.add_argument(
        "--box", choices=("keypoints", "annotated"),
        help="crop around the labelled joints or the person's box (default: the latter where the data set has it)",
    )  # fmt: skip
    parser.add_argument("--enlarge", type=float, help="factor on the box (default: 1.25 of a person's, 1.35 of joints)")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored crop or picture")
    scales_argument(parser)
    parser.add_argument("--results", metavar="FILE", help="bottom-up networks on coco: write what was found, for COCO")
    parser.add_argument(
        "--matching", choices=("landmark", "person"), default="landmark",
        help="depth: compare each landmark with the nearest, or people first (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="PNG", help="draw PCK, or precision and recall, over thresholds (matplotlib)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers")
