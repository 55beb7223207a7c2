"""The `posezoo` command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import re
import runpy
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from posezoo import __version__
from posezoo.cards import Card
from posezoo.files import replacing
from posezoo.zoo import info, list_models, load

if TYPE_CHECKING:
    from posezoo.export.job import Job
    from posezoo.inference.estimator import PoseModel
    from posezoo.inference.lifting import Pinhole
    from posezoo.inference.poses import Poses
    from posezoo.inference.runners import TFLiteRunner

DEFAULT_MODEL = "mobilenet_split_224"

#: Networks with more multiplications are calibrated on fewer pictures by default.
LARGE_MACS = 10e9

#: Data sets of depth frames.
DEPTH_LAYOUTS = ("utd_mhad", "dih", "panoptic_depth", "itop")

# Exit codes, as `posezoo --help` explains them.
DONE, SOME_FAILED, REFUSED = 0, 1, 2


class CommandError(Exception):
    """What the user must change, in one line."""


# ---------------------------------------------------------------------------------------------- predict


def predict(arguments: argparse.Namespace) -> int:
    """Poses of the people in pictures."""
    from posezoo.inference.depth import fill_missing
    from posezoo.inference.images import ImageError

    pictures = find_pictures(arguments.pictures)
    depths, camera = depth_of(arguments.depth, pictures), camera_of(arguments.camera)
    boxes = read_boxes(arguments.boxes) if arguments.boxes else {}
    model = load(arguments.model, runtime=arguments.runtime, threads=arguments.threads)
    if arguments.inpaint and not model.card.input.depth:
        raise CommandError(f"--inpaint fills holes of depth frames; {arguments.model} looks at photographs")
    lifts = bool(depths) or (camera is not None and model.card.input.depth)
    if camera is not None and not lifts:
        raise CommandError("--camera lifts keypoints into space by their depth; give the frames with --depth")
    threshold = model.card.score_threshold if arguments.threshold is None else arguments.threshold
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    base = Path(os.path.commonpath([p.parent.absolute() for p in pictures]))
    results, failed = [], 0
    for number, path in enumerate(track(pictures, "predicting"), start=1):
        try:
            image = model.read(path)
            if arguments.inpaint:
                image = fill_missing(image)
            people = model(image, boxes=boxes.get(path.name), flip=arguments.flip)
            points = lifted(people, image, depths.get(path), camera) if lifts else None
            target = out / path.absolute().relative_to(base).parent / annotated_name(path)
            write_annotated(target, model.picture(image), people, threshold, depths=lifts)
        except (ImageError, ValueError, OSError) as error:
            failed += 1
            print(f"posezoo: {error}", file=sys.stderr)
            continue
        image_id = int(path.stem) if path.stem.isdecimal() else number
        rows = [{**row, "file_name": path.name} for row in people.to_coco(image_id)]
        results += [{**row, **in_space(people, points, i)} for i, row in enumerate(rows)] if lifts else rows
    if failed == len(pictures):
        return REFUSED
    with replacing(out / "results.json") as path:
        path.write_text(json.dumps(results, indent=1))
    print(f"{len(pictures) - failed} picture(s), {len(results)} pose(s): {out}")
    return SOME_FAILED if failed else DONE


def find_pictures(patterns: Sequence[str]) -> list[Path]:
    """Return the pictures that files, folders and globs name, each once.

    Raises:
        CommandError: A pattern names nothing, or a folder holds no picture.
    """
    import glob

    from posezoo.inference.images import SUFFIXES

    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise CommandError(f"{path}: the folder holds no picture ({', '.join(s[1:] for s in SUFFIXES)})")
        elif path.exists():
            inside = [path]
        else:
            inside = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
            if not inside:
                raise CommandError(f"{pattern}: no such file or folder")
        found |= dict.fromkeys(inside)
    return list(found)


def read_boxes(path: str) -> dict[str, list[list[float]]]:
    """Read person boxes: `{"photo.jpg": [[x, y, width, height], ...]}`, or a list of `file_name`, `bbox`.

    Raises:
        CommandError: The file is missing or has another form.
    """
    form = (
        'expected {"photo.jpg": [[x, y, width, height]]} or [{"file_name": "photo.jpg", "bbox": [x, y, width, height]}]'
    )
    try:
        content = json.loads(Path(path).read_text())
        if isinstance(content, list):
            by_name: dict[str, list] = {}
            for row in content:
                by_name.setdefault(row["file_name"], []).append(row["bbox"])
            content = by_name
        return {name: [[float(v) for v in box] for box in rows] for name, rows in content.items()}
    except OSError as error:
        raise CommandError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CommandError(f"{path}: {form}") from error


def annotated_name(path: Path) -> str:
    """Name of the annotated copy: `photo.jpg` -> `photo_poses.jpg`; formats that cannot be drawn become PNG."""
    suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else f"{path.suffix}.png"
    return f"{path.stem}_poses{suffix}"


def write_annotated(
    target: Path, image: np.ndarray, people: Poses, threshold: float, *, depths: bool = False
) -> None:  # fmt: skip
    """Draw poses on a picture, with their depths where wanted, and write it."""
    from posezoo.inference.drawing import draw, draw_depths, write_picture

    write_picture(target, (draw_depths if depths else draw)(image, people, threshold=threshold))


def depth_of(given: str | None, pictures: Sequence[Path]) -> dict[Path, Path]:
    """Return the depth frame of every picture: the file given, or the one of the same name in the folder given.

    Raises:
        CommandError: One is missing, or one file is given for several pictures.
    """
    if given is None:
        return {}
    path = Path(given)
    if path.is_dir():
        frames = {picture: path / picture.name for picture in pictures}
    elif len(pictures) == 1:
        frames = {pictures[0]: path}
    else:
        raise CommandError(f"--depth {given}: {len(pictures)} pictures need a folder with a frame of each one's name")
    missing = [frame for frame in frames.values() if not frame.is_file()]
    if missing:
        raise CommandError(f"{missing[0]}: no such depth frame")
    return frames


def camera_of(given: str | None) -> Pinhole | None:
    """Return the intrinsics of `--camera`.

    Raises:
        CommandError: They are not four numbers.
    """
    from posezoo.inference.lifting import Pinhole

    if given is None:
        return None
    try:
        fx, fy, cx, cy = (float(number) for number in given.split(","))
    except ValueError:
        raise CommandError(f"--camera {given}: expected fx,fy,cx,cy in pixels, such as 200,200,112,84") from None
    return Pinhole(fx, fy, cx, cy)


def lifted(people: Poses, image: np.ndarray, frame: Path | None, camera: Pinhole | None) -> np.ndarray | None:
    """Give poses their depth from a frame, or from the picture where that is depth; return points in space."""
    from posezoo.inference.depth import read_depth
    from posezoo.inference.lifting import lift, same_view

    depth = image if frame is None else read_depth(frame)
    same_view(image.shape, depth)
    return lift(people, depth, camera)


def in_space(people: Poses, points: np.ndarray | None, person: int) -> dict[str, list]:
    """One person's depths, and points in space where there is a camera, in millimetres; None where unknown."""

    def numbers(values: np.ndarray) -> list:
        return [None if np.isnan(v) else round(float(v), 1) for v in values.ravel()]

    assert people.depth is not None
    told = {"depth_mm": numbers(people.depth[person])}
    return told if points is None else {**told, "points_mm": numbers(points[person])}


# ------------------------------------------------------------------------------------------------- demo

# The whole person in scikit-image's two public-domain photographs, beyond the picture's lower edge:
# x, y, width, height in pixels.
DEMO_PHOTOS = {"astronaut": (20, 0, 440, 900), "camera": (20, 60, 300, 800)}


def demo(arguments: argparse.Namespace) -> int:
    """Poses in two public-domain photographs, or in a rendered depth frame."""
    model = load(arguments.model, runtime=arguments.runtime)
    threshold = model.card.score_threshold
    if model.card.family == "hand":
        return demo_hands(model, Path(arguments.out), arguments.seed)
    pictures: Mapping = demo_frame(arguments.seed) if model.card.input.depth else demo_photos()
    for name, (image, box) in pictures.items():
        people = model(image) if model.codec.bottom_up else model(image, boxes=[box])
        target = Path(arguments.out) / f"{name}_poses.png"
        write_annotated(target, model.picture(model.read(image)), people, threshold)
        print_keypoints(name, people, threshold)
        print(f"written: {target}\n")
    return DONE


def demo_photos() -> dict[str, tuple[np.ndarray, tuple[int, ...]]]:
    """The photographs by name, and the box of the person in each."""
    try:
        from skimage import data
    except ImportError:
        raise CommandError("the demo's photographs come with: pip install 'posezoo[demo]'") from None
    from posezoo.inference.images import as_rgb

    return {name: (as_rgb(getattr(data, name)()), box) for name, box in DEMO_PHOTOS.items()}


def demo_frame(seed: int) -> dict[str, tuple[np.ndarray, None]]:
    """A rendered depth frame of two people, by name."""
    import numpy as np

    from posezoo.synth.crowd import body_source
    from posezoo.synth.scene import Recipe, SceneSettings, make_sample

    settings = SceneSettings(people=(2, 2), nearest_m=2.0, farthest_m=4.0)
    sample = make_sample(np.random.default_rng(seed), body_source(["builtin"]), Recipe(scene=settings))
    return {"depth_frame": (sample.depth, None)}


def demo_hands(model: PoseModel, out: Path, seed: int) -> int:
    """Keypoints and depths of a rendered frame with two hands."""
    from posezoo.inference.lifting import Pinhole, lift
    from posezoo.synth.hand_frames import demo_frame as two_hands

    frame = two_hands(seed)
    picture = frame.depth if model.card.input.depth else frame.amplitude
    if picture is None or frame.depth is None or frame.camera is None:
        raise CommandError("the rendered frame has no depth or amplitude; reinstall posezoo")
    hands = model(picture)
    lift(hands, frame.depth.astype(np.float32) / 1000, Pinhole(*frame.camera))
    target = out / "hands_poses.png"
    write_annotated(target, model.picture(model.read(picture)), hands, model.card.score_threshold, depths=True)
    print_keypoints("hands", hands, model.card.score_threshold)
    print(f"written: {target}\n")
    return DONE


def print_keypoints(title: str, people: Poses, threshold: float) -> None:
    """Print the keypoints that score at least `threshold`, with their depth where it is known."""
    far = people.depth is not None
    for i in range(len(people)):
        depths = people.depth[i] if people.depth is not None else np.full(len(people.skeleton.keypoints), np.nan)
        rows = [
            (name, f"{x:.1f}", f"{y:.1f}", f"{score:.2f}", *([f"{mm:.0f}" if mm == mm else "?"] if far else []))
            for name, (x, y), score, mm in zip(
                people.skeleton.keypoints, people.keypoints[i], people.scores[i], depths, strict=True
            )
            if score >= threshold
        ]
        hidden = people.skeleton.num_keypoints - len(rows)
        note = f", {hidden} below {threshold:g} hidden" if hidden else ""
        print_table(
            f"{title}: person {i + 1}, score {people.person_scores[i]:.2f}{note}",
            ("keypoint", "x", "y", "score", *(["depth mm"] if far else [])), rows,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------- list, info


def list_command(arguments: argparse.Namespace) -> int:
    """Models, their size and licences."""
    names = list_models(arguments.pattern, released=True if arguments.released else None)
    if not names:
        raise CommandError(f"no model is named like '{arguments.pattern}'; try: posezoo list")
    rows = []
    for name in names:
        card = info(name)
        height, width, _ = card.input.shape
        rows.append(
            (
                name, f"{height}x{width}", f"{card.size['params'] / 1e6:.2f}", f"{card.size['macs'] / 1e6:,.0f}",
                ", ".join(card.runtimes) or "none", *(card.licences[k] for k in ("code", "weights", "data")),
            )
        )  # fmt: skip
    columns = ("model", "input", "M params", "MMACs", "weights for", "code licence", "weights licence", "data licence")
    print_table(f"{len(rows)} model(s)", columns, rows)
    return DONE


def info_command(arguments: argparse.Namespace) -> int:
    """A model's card."""
    card = info(arguments.model)
    print(describe(card))
    return DONE


def describe(card: Card) -> str:
    """Return a card as text for a terminal."""

    def measured(value, form="{}"):
        return "not measured" if value is None else form.format(value)

    height, width, _ = card.input.shape
    lines = [
        f"{card.name}: {card.title}",
        "",
        f"  paper        {card.paper}",
        f"  input        {height}x{width} {card.input.colour}",
        f"  keypoints    {card.skeleton.name}: {', '.join(card.skeleton.keypoints)}",
        f"  size         {card.size['params']:,} parameters, {card.size['macs'] / 1e6:,.1f} MMACs",
        *(f"  licence      {part}: {card.licences[part]}" for part in ("code", "weights", "data")),
        f"  retrain      {card.recipe}",
        "",
        "  weights",
        *(f"    {k}: {w.file}, {w.bytes / 1e6:.2f} MB, SHA-256 {w.sha256[:16]}…" for k, w in card.weights.items()),
        *([] if card.weights else ["    none released; the recipe above makes them"]),
        "",
        "  accuracy",
        *(
            f"    {m.precision:8} {m.dataset}: {m.metric}{' with flip test' if m.flip else ''} "
            f"{measured(m.value, '{:.3f}')} ({m.protocol})"
            for m in card.accuracy
        ),
        *([] if card.accuracy else ["    not measured"]),
        "",
        "  latency",
        *(
            f"    {t.precision:8} {t.device}, {t.runtime}, {t.threads} thread(s), {t.date}: network "
            f"{measured(t.network_ms, '{:.1f} ms')}, decode {measured(t.decode_ms, '{:.2f} ms')}"
            f"{f', {t.relative}' if t.relative else ''}"
            for t in card.latency
        ),
        *([] if card.latency else ["    not measured"]),
        "",
        *textwrap.wrap(f"limits: {card.limits}", 100, initial_indent="  ", subsequent_indent="  "),
    ]
    return "\n".join(lines)


# --------------------------------------------------------------------------- eval, train, export, bench


def eval_command(arguments: argparse.Namespace) -> int:
    """Accuracy on a labelled set."""
    from posezoo.data.pipeline import PersonCrops
    from posezoo.data.readers import read
    from posezoo.evaluation.pck import LIMB_JOINTS
    from posezoo.evaluation.top_down import evaluate_pck

    model = load(arguments.model, runtime=arguments.runtime, weights=arguments.weights, threads=arguments.threads)
    if (model.card.family == "hand") != (arguments.dataset == "hands"):
        raise CommandError(
            f"{arguments.model} is not for --dataset {arguments.dataset}; hand models take 'hands' alone"
        )
    if model.card.family == "hand":
        return eval_hands(model, arguments)
    if model.card.input.depth != (arguments.dataset in DEPTH_LAYOUTS):
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
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(measured, indent=1))
    return DONE


def eval_bottom_up(model: PoseModel, arguments: argparse.Namespace) -> int:
    """COCO's average precision, or on data sets of one labelled person the PCK of the best person found."""
    from posezoo.data.readers import read, read_coco_pictures
    from posezoo.evaluation.bottom_up import best_person_pck
    from posezoo.evaluation.coco import evaluate_coco, predict_pictures, write_results

    try:
        scales = tuple(float(s) for s in arguments.scales.split(",")) if arguments.scales else None
    except ValueError:
        raise CommandError(f"--scales {arguments.scales}: expected numbers such as 0.5,1,1.5") from None

    def find(image: np.ndarray) -> Poses:
        return model(image, flip=arguments.flip, scales=scales)

    note = (", flip test" if arguments.flip else "") + (f", scales {arguments.scales}" if scales else "")
    measured = {"model": model.card.name, "runtime": model.runner.name, "flip": arguments.flip, "scales": scales}
    if arguments.dataset == "coco":
        people, annotations = read_coco_pictures(arguments.data, arguments.split)
        results, unreadable = predict_pictures(find, people, progress=lambda rows: track(rows, "evaluating"))
        if arguments.results:
            write_results(arguments.results, results)
            print(f"written: {arguments.results}")
        scores = evaluate_coco(results, annotations, image_ids=[r.image_id for r in people.records])
        print_table(f"COCO keypoints, {len(people)} pictures, {model!r}{note}", ("metric", "value"), scores.rows())
        if unreadable:
            print(f"{len(unreadable)} picture(s) could not be read: {', '.join(unreadable[:5])}", file=sys.stderr)
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
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(measured, indent=1))
    return DONE


def eval_depth(model: PoseModel, arguments: argparse.Namespace) -> int:
    """Precision, recall and F-score of landmarks in depth frames."""
    from posezoo.data.readers import read
    from posezoo.evaluation.pose_machines import UPPER_BODY, find_in_records, score_landmarks

    people = read(arguments.dataset, Path(arguments.data), arguments.split)
    if not len(people):
        raise CommandError(f"{arguments.data}: no labelled frame in split '{arguments.split}'")
    pictures, unreadable = find_in_records(
        partial(model, flip=arguments.flip), people, progress=lambda rows: track(rows, "evaluating")
    )
    if not pictures:
        raise CommandError(f"{arguments.data}: none of {len(people)} frames can be read, such as {unreadable[0]}")
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
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(content, indent=1))
    return DONE


def eval_hands(model: PoseModel, arguments: argparse.Namespace) -> int:
    """Error in input pixels and PCK of the hand's box, on labelled hands."""
    from posezoo.data.hands import HandScenes
    from posezoo.evaluation.hands import find_hands, score_hands
    from posezoo.synth.hand_folders import labelled_hands

    spec = model.card.input
    scenes = HandScenes(
        labelled_hands(arguments.data), spec.wh, looks_at=spec.colour, farthest_m=spec.farthest_m
    )  # fmt: skip
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
        with replacing(arguments.json) as path:
            path.write_text(json.dumps(content, indent=1))
    return DONE


def train(arguments: argparse.Namespace) -> int:
    """Run the model's recipe with the card's settings and the flags given."""
    card = info(arguments.model)
    _, script, *settings = shlex.split(card.recipe)
    path = find_recipe(script)
    sys.argv = [str(path), *settings, *arguments.flags]
    runpy.run_path(str(path), run_name="__main__")
    return DONE


def find_recipe(script: str) -> Path:
    """Return a recipe's path: in the source tree, or where the package installed it.

    Raises:
        CommandError: Neither holds it.
    """
    for root in (Path(__file__).parents[1], Path(sys.prefix) / "share" / "posezoo"):
        if (root / script).is_file():
            return root / script
    raise CommandError(f"{script} is neither in the source tree nor installed; reinstall posezoo")


def import_torch(arguments: argparse.Namespace) -> int:
    """A PyTorch checkpoint as Keras weights."""
    from posezoo.torch_weights import load_torch, read_checkpoint
    from posezoo.zoo import build

    out = Path(arguments.out)
    if not out.name.endswith(".weights.h5"):
        raise CommandError(f"{out}: the file's name must end in .weights.h5, as Keras asks")
    card = info(arguments.model)
    state = read_checkpoint(arguments.checkpoint)
    changes = {"skeleton": arguments.skeleton} if arguments.skeleton else {}
    network = build(card.name, **changes)
    load_torch(network, state, family=card.family)
    with replacing(out) as path:
        network.save_weights(path)
    print(f"written: {out}; load it with posezoo.load({card.name!r}, weights={str(out)!r})")
    return DONE


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
    from posezoo.cards import read_card_file
    from posezoo.export.job import Job
    from posezoo.export.own import open_network
    from posezoo.export.rewrite import combed, without_groups
    from posezoo.export.seeded import seed_weights, smooth_pictures
    from posezoo.zoo import build

    if arguments.check and not (arguments.data or arguments.calibration):
        # What a target makes of a network depends on its layers alone.
        arguments.structure_only = True
    trained = not arguments.structure_only
    if trained and not (arguments.data or arguments.calibration):
        raise CommandError("give --calibration FOLDER or --data FOLDER: the gates, and int8's ranges, need pictures")
    if arguments.card:
        card = read_card_file(arguments.card)
        network = open_network(arguments.model, card)
    elif Path(arguments.model).suffix == ".keras" or Path(arguments.model).is_dir():
        raise CommandError(f"{arguments.model} is a network of your own; describe it with --card FILE.yaml")
    elif trained:
        model = load(arguments.model, runtime="keras", weights=arguments.weights)
        card, network = model.card, model.network
    else:
        card = info(arguments.model)
        network = build(card.name)
        seed_weights(network, card)
    for wanted, rewrite in ((arguments.no_groups, without_groups), (arguments.no_dilation, combed)):
        network = rewrite(network) if wanted else network
    count = arguments.pictures or (8 if card.size.get("macs", 0) > LARGE_MACS else 200)
    if not trained and not (arguments.data or arguments.calibration):
        pictures = list(smooth_pictures(card, min(count, 8)))
    else:
        pictures = calibration_pictures(arguments, card, count)
    return Job(network, card, np.stack(pictures[: arguments.gate_pictures]), pictures, trained)


def calibration_pictures(arguments: argparse.Namespace, card: Card, count: int) -> list[np.ndarray]:
    """Pictures of the kind that the network will see, as it takes them."""
    from posezoo.data.calibration import person_crops, whole_pictures
    from posezoo.data.pipeline import PersonCrops
    from posezoo.data.readers import read

    if arguments.data:
        crops = PersonCrops(read(arguments.dataset, Path(arguments.data), arguments.split), card.input.wh)
        return person_crops(crops, limit=count)
    found = find_pictures([arguments.calibration])
    return whole_pictures(found, card.input, limit=count)


def export_tflite_file(job: Job, arguments: argparse.Namespace, out: Path) -> dict:
    """Write a gated TFLite file of the precision and types asked for; return its sidecar."""
    from posezoo.export.tflite_targets import tflite

    made = tflite(job, out, precision=arguments.precision, io=arguments.io)
    sidecar = json.loads(out.with_name(out.name + ".json").read_text())
    rows = [
        (r["output"], r["kernels"], f"{r['psnr_db']:.1f}", f"{r['max_error']:.4f}", r["levels"])
        for r in sidecar["gates"]
    ]
    print_table("gates passed", ("output", "kernels", "PSNR dB", "largest error", "levels"), rows)
    print("\n".join(made.notes), end="\n" if made.notes else "")
    return sidecar


def bench(arguments: argparse.Namespace) -> int:
    """Latency of packaged files on this machine, interleaved."""
    from posezoo.evaluation.latency import Contender, measure

    contenders = {}
    for name in arguments.models or list_models(runtime="tflite"):
        model = load(name, runtime="tflite", threads=arguments.threads)
        runner = cast("TFLiteRunner", model.runner)
        tensor = runner.prepare(np.zeros(model.card.input.shape, np.uint8))
        contenders[name] = Contender(partial(runner.invoke, tensor), partial(_decode, model, runner))
    timings = measure(contenders, runs=arguments.runs, progress=lambda rounds: track(rounds, "measuring"))
    first = next(iter(timings.values())).network_ms
    rows = [
        (name, f"{t.network_ms:.2f}", f"{t.spread_ms:.2f}", f"{t.decode_ms:.2f}", f"{t.network_ms / first:.2f}")
        for name, t in timings.items()
    ]
    columns = ("model", "network ms", "quartile spread", "decode ms", "ratio to first")
    print_table(f"medians of {arguments.runs} interleaved runs, {arguments.threads} thread(s)", columns, rows)
    return DONE


def _decode(model: PoseModel, runner: TFLiteRunner, outputs: dict[str, np.ndarray]) -> object:
    """Decode a file's outputs as it holds them, the step after the network that `bench` times."""
    return model.decode(runner.finish(outputs))


# ---------------------------------------------------------------------------------------------- display


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Print a table that fits the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    piped = not sys.stdout.isatty()
    Console(width=160 if piped and "COLUMNS" not in os.environ else None).print(table)


def track(rows, what: str, total: int | None = None) -> Iterator:
    """Show a progress bar while iterating, unless the output is piped or there is one row."""
    total = len(rows) if total is None else total
    if total < 2 or not sys.stderr.isatty():
        return iter(rows)
    from rich.console import Console
    from rich.progress import track as rich_track

    return iter(rich_track(rows, what, total=total, console=Console(stderr=True)))


def synth(arguments: argparse.Namespace) -> int:
    """Synthetic people as a depth sensor sees them."""
    from posezoo.synth.command import run

    return run(arguments, track)


# ----------------------------------------------------------------------------------------------- parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posezoo",
        description="Human-pose networks for phones, Coral, Myriad and Jetson.",
        epilog=(
            "Exit codes: 0 all done; 1 some pictures failed, the others are written; 2 nothing was done, one line on "
            "the standard error says why. 'posezoo COMMAND --help' is the manual of a command."
        ),
    )
    parser.add_argument("--version", action="version", version=f"posezoo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, run, summary, manual):
        sub = commands.add_parser(
            name, help=summary, description=textwrap.dedent(manual).strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(run=run)
        sub.add_argument("-v", "--verbose", action="store_true", help="say more, and show where an error came from")
        return sub

    def model_argument(sub, positional=False):
        told = "a name from 'posezoo list'"
        if positional:
            sub.add_argument("model", help=told)
        else:
            sub.add_argument("--model", default=DEFAULT_MODEL, help=f"{told} (default: %(default)s)")

    def runtime_argument(sub, default):
        sub.add_argument(
            "--runtime", choices=("keras", "tflite", "onnx", "openvino", "auto"), default=default,
            help="keras: float network; tflite: int8 file, no TensorFlow needed; onnx, openvino: files of your own; "
            "auto: keras where installed (default: %(default)s)",
        )  # fmt: skip

    def dataset_arguments(sub, split, layouts=("lsp", "flic", "coco")):
        sub.add_argument(
            "--dataset", choices=layouts, default="lsp", help="the data set's layout (default: %(default)s)"
        )
        sub.add_argument(
            "--split", default=split, help="train, val, test or all, as it has them (default: %(default)s)"
        )

    sub = command("predict", predict, "poses in pictures", """
        Find poses in pictures.

        Writes an annotated copy of every picture (photo.jpg -> photo_poses.jpg) and one results.json in COCO's
        keypoint-result format: image_id (the file's number where its name is one), keypoints as x, y, score for each
        keypoint in picture pixels, score, bbox, and file_name.

        Networks that look at depth (pose machines, hand25d_depth) take 16-bit PNGs in millimetres; their poses are
        drawn on the coloured depth. hand25d takes a depth camera's amplitude, a PNG of 16 bits, or an infrared or grey
        picture of 8 bits. Bottom-up networks (efficienthrnet, pose machines) find everybody. The others look at one
        person: give the people's boxes with --boxes; without, the whole picture is taken as one person.

        examples:
          posezoo predict photo.jpg
          posezoo predict holiday/ -o holiday_poses
          posezoo predict "frames/*.png" --boxes boxes.json --runtime keras
          posezoo predict depth.png --model mpm_4s
          posezoo predict amplitude.png --model hand25d --depth depth.png --camera 200,200,112,84
    """)  # fmt: skip
    sub.add_argument("pictures", nargs="+", metavar="PHOTO|FOLDER|GLOB", help="pictures, folders of them, or patterns")
    model_argument(sub)
    runtime_argument(sub, "auto")
    sub.add_argument("--boxes", metavar="FILE", help='JSON: {"photo.jpg": [[x, y, width, height], ...]} in pixels')
    sub.add_argument("-o", "--out", default="poses", help="folder for the results (default: %(default)s)")
    sub.add_argument("--threshold", type=float, help="hide keypoints that score lower (default: the card's)")
    sub.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    sub.add_argument("--inpaint", action="store_true", help="depth frames: fill what the sensor missed first")
    sub.add_argument(
        "--depth", metavar="FILE|FOLDER",
        help="depth frame of the same view, or a folder with one of each picture's name: keypoints get their distance",
    )  # fmt: skip
    sub.add_argument(
        "--camera", metavar="FX,FY,CX,CY", help="with depth: intrinsics in pixels; keypoints get their place in space"
    )
    sub.add_argument("--threads", type=int, help="threads of the TFLite runtime")

    sub = command("demo", demo, "poses in two photographs, or in a rendered frame", """
        Run the packaged int8 file on two public-domain photographs that come with scikit-image, print the keypoints
        that score above the card's threshold, and write the annotated pictures. Models that look at depth get a
        frame of two people rendered for them, hand models one of two hands, as 'posezoo synth' makes it
        (pip install 'posezoo[synth]').
    """)  # fmt: skip
    model_argument(sub)
    runtime_argument(sub, "tflite")
    sub.add_argument("-o", "--out", default="posezoo_demo", help="folder for the pictures (default: %(default)s)")
    sub.add_argument("--seed", type=int, default=4, help="of the rendered frame (default: %(default)s)")

    sub = command("list", list_command, "models, sizes, licences", """
        List models with their size and the licences of code, weights and training data.

        example:
          posezoo list "mobilenet*" --released
    """)  # fmt: skip
    sub.add_argument("pattern", nargs="?", default="*", help="name with * and ? (default: all)")
    sub.add_argument("--released", action="store_true", help="only models with released weights")

    sub = command("info", info_command, "everything about one model", """
        Show a model's card: source, size, licences, released files, measured accuracy and latency, limits.
    """)  # fmt: skip
    model_argument(sub, positional=True)

    sub = command("eval", eval_command, "accuracy on a labelled data set", """
        Measure PCK, the share of keypoints within a threshold of the person's torso, head or box size, on the
        network in Keras or on its int8 file, with the same code. Bottom-up networks are measured by COCO's average
        precision with --dataset coco, else by the PCK of the best person that they find in the whole picture.
        Networks that look at depth are measured by precision, recall and F-score of landmarks, those of hands by their
        error in pixels and the PCK of the hand's box, on rendered or recorded frames (docs/hand.md).

        examples:
          posezoo eval mobilenet_split_224 --dataset lsp --data lspet --split val --runtime tflite --plot pck.png
          posezoo eval efficienthrnet_h-2 --dataset coco --data coco --runtime keras --flip --scales 0.5,1,1.5
          posezoo eval mpm_4s --dataset utd_mhad --data utd_mhad_depth --plot precision_recall.png
          posezoo eval hand25d --dataset hands --data hands/test
    """)  # fmt: skip
    model_argument(sub, positional=True)
    sub.add_argument("--data", required=True, help="folder of the data set")
    dataset_arguments(sub, split="val", layouts=("lsp", "flic", "coco", *DEPTH_LAYOUTS, "hands"))
    runtime_argument(sub, "tflite")
    sub.add_argument(
        "--weights",
        default="default",
        help="your own .weights.h5, .tflite, .onnx or OpenVINO .xml, with the --runtime it is for "
        "(default: the released file)",
    )
    sub.add_argument("--normaliser", choices=("torso", "head", "box"), default="torso", help="(default: %(default)s)")
    sub.add_argument("--threshold", type=float, default=0.2, help="(default: %(default)s)")
    sub.add_argument(
        "--box", choices=("keypoints", "annotated"), default="keypoints",
        help="crop around the labelled joints or the data set's person box (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--enlarge", type=float, default=1.35, help="factor on the box (default: %(default)s)")
    sub.add_argument("--flip", action="store_true", help="average with the mirrored crop or picture")
    sub.add_argument(
        "--scales", metavar="LIST",
        help="bottom-up networks in Keras: short side at the network's own times each, such as 1 or 0.5,1,1.5 "
        "(default: fit the picture into the input)",
    )  # fmt: skip
    sub.add_argument("--results", metavar="FILE", help="bottom-up networks on coco: write what was found, for COCO")
    sub.add_argument("--threads", type=int, help="threads of the TFLite runtime")
    sub.add_argument(
        "--matching", choices=("landmark", "person"), default="landmark",
        help="depth: compare each landmark with the nearest, or people first (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--plot", metavar="PNG", help="draw PCK, or precision and recall, over thresholds (matplotlib)")
    sub.add_argument("--json", metavar="FILE", help="write the numbers")

    sub = command("train", train, "retrain a model with its recipe", """
        Run the recipe of a model with the card's settings. Every further flag goes to the recipe and overrides them;
        'posezoo train MODEL --data x --help' is not needed: read 'python recipes/NAME.py --help'.

        example:
          posezoo train mobilenet_split_050_192 --dataset lsp --data lspet --out runs/mine
    """)  # fmt: skip
    model_argument(sub, positional=True)

    sub = command("import-torch", import_torch, "a PyTorch checkpoint as Keras weights", """
        Read a checkpoint of the public PyTorch code of a network and write Keras weights. Pickled code in the file is
        not run. A checkpoint that does not fit is refused with a list of what is missing, left over or of another
        shape.

        example:
          posezoo import-torch efficienthrnet_h-2.pth --model efficienthrnet_h-2 -o h-2.weights.h5
    """)  # fmt: skip
    sub.add_argument("checkpoint", help="a .pth, .pt or .safetensors file")
    sub.add_argument("--model", required=True, help="the network it belongs to, a name from 'posezoo list'")
    sub.add_argument("-o", "--out", required=True, help="the .weights.h5 to write")
    sub.add_argument("--skeleton", help="keypoints of the checkpoint where they are not the card's")

    sub = command("export", export_command, "gated files for other runtimes", """
        Convert a model for another runtime: --to list shows the targets. The file is run beside the network; one that
        disagrees, or whose output is nearly constant or the same for every picture, is not written. A JSON sidecar
        records hash, versions and the comparison.

        --to c writes the TFLite file as a C header for TensorFlow Lite Micro, with the operators to register and the
        arena's size; without pictures to calibrate on, the released int8 file.

        MODEL is a name from 'posezoo list', or a .keras file or SavedModel of your own with --card.

        examples:
          posezoo export mobilenet_split_224 --calibration photos/ -o pose.tflite
          posezoo export mobilenet_split_224 --to onnx --calibration photos/ -o pose.onnx
          posezoo export efficienthrnet_lite_h-4 --to edgetpu --check
          posezoo export hand25d --to c -o hand25d.h
          posezoo export mine.keras --card mine.yaml --to openvino --calibration photos/ -o mine.xml
          posezoo export mobilenet_split_224 --all --calibration photos/ -o exported/

        --all writes manifest.json and a table, exports.md; a second run makes only what is missing, damaged or out of
        date.
    """)  # fmt: skip
    sub.add_argument("model", nargs="?", default="", help="a name from 'posezoo list', or a network of your own")
    sub.add_argument("--to", default="tflite", metavar="TARGET", help="see --to list (default: %(default)s)")
    sub.add_argument("--all", action="store_true", help="everything the model can become, into the folder OUT")
    sub.add_argument("-o", "--out", help="what to write")
    sub.add_argument("--card", metavar="FILE", help="the YAML card of a network of your own, see docs/export.md")
    sub.add_argument(
        "--no-groups", action="store_true", help="dense kernels for grouped convolutions, which Edge TPU refuses"
    )
    sub.add_argument(
        "--no-dilation", action="store_true", help="plain convolutions of interleaved pixels for dilated ones"
    )
    source = sub.add_mutually_exclusive_group()
    source.add_argument(
        "--calibration", metavar="FOLDER", help="pictures of the kind the network will see, taken whole"
    )
    source.add_argument("--data", metavar="FOLDER", help="a labelled data set, whose people are cropped")
    dataset_arguments(sub, split="train")
    sub.add_argument(
        "--pictures", type=int, help="how many of them to use (default: 200, or 8 for networks above 10 GMACs)"
    )
    sub.add_argument("--gate-pictures", type=int, default=8, help="how many the gates run (default: %(default)s)")
    sub.add_argument(
        "--check", action="store_true", help="--to edgetpu: only tell what would map and what would not, write nothing"
    )
    sub.add_argument(
        "--precision", choices=("int8", "float32", "float16", "dynamic", "int16x8"), default="int8",
        help="of --to tflite (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--io", choices=("int8", "uint8", "int16", "float32"),
        help="type of the int8 TFLite file's input and outputs; browsers take uint8 or float32 (default: int8, of "
        "--precision int16x8 int16)",
    )  # fmt: skip
    sub.add_argument("--weights", default="default", help="your own .weights.h5 (default: the released file)")
    sub.add_argument(
        "--structure-only", action="store_true",
        help="weights that nobody trained, to see what a target makes of a network before it has weights",
    )  # fmt: skip

    from posezoo.synth.command import MANUAL, SUMMARY, add_arguments

    add_arguments(command("synth", synth, SUMMARY, MANUAL))

    sub = command("bench", bench, "latency on this machine", """
        Time packaged int8 files in one interleaved run: medians, network and decode apart.
    """)  # fmt: skip
    sub.add_argument("models", nargs="*", help="names (default: every packaged file)")
    sub.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    sub.add_argument("--runs", type=int, default=100, help="(default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    from posezoo.errors import UserError

    parser = _parser()
    arguments, flags = parser.parse_known_args(argv)
    if flags and arguments.run is not train:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    arguments.flags = flags
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.ERROR, format="%(message)s")
    if not arguments.verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return arguments.run(arguments)
    except (CommandError, UserError, FileNotFoundError, ImportError) as error:
        if arguments.verbose:
            raise
        print(f"posezoo: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("posezoo: interrupted; files that were written are whole", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
