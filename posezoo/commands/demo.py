"""`posezoo demo`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.commands.common import (
    DONE,
    Command,
    CommandError,
    load_model,
    model_argument,
    network_arguments,
    runtime_argument,
    write_annotated,
)
from posezoo.commands.display import print_table

if TYPE_CHECKING:
    from posezoo.inference.estimator import PoseModel
    from posezoo.inference.poses import Poses

# The whole person in scikit-image's two public-domain photographs, beyond the picture's lower edge:
# x, y, width, height in pixels.
DEMO_PHOTOS = {"astronaut": (20, 0, 440, 900), "camera": (20, 60, 300, 800)}


def demo(arguments: argparse.Namespace) -> int:
    """Poses in two public-domain photographs, or in a rendered depth frame."""
    model = load_model(arguments)
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


def add_to(command: Command) -> None:
    """Add `posezoo demo`."""
    parser = command("demo", demo, "poses in two photographs, or in a rendered frame", """
        Run the packaged int8 file, or your own, on two public-domain photographs that come with scikit-image, print
        the keypoints that score above the card's threshold, and write the annotated pictures. Models that look at
        depth get a frame of two people rendered for them, hand models one of two hands, as 'posezoo synth' makes it
        (pip install 'posezoo[synth]').
    """)  # fmt: skip
    model_argument(parser)
    runtime_argument(parser, "tflite")
    network_arguments(parser)
    parser.add_argument("-o", "--out", default="posezoo_demo", help="folder for the pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=4, help="of the rendered frame (default: %(default)s)")
