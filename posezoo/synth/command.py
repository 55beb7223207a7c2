"""`posezoo synth`: its arguments and what it does. Light to import; the work is imported when it is done."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from posezoo.errors import UserError

if TYPE_CHECKING:
    from posezoo.synth.hand_frames import HandJob
    from posezoo.synth.write import Job

SUMMARY = "synthetic people or hands as a depth sensor sees them"

MANUAL = """
    Render people in rooms as a depth sensor sees them, with exact labels: depth in millimetres, part and person masks,
    2-D and 3-D landmarks, and for each landmark whether it is seen.

    OUT becomes a folder of shards (shard-00000.npz ...) and one dataset.json. A picture depends on the seed and its
    number alone: any number of workers gives the same data. A run that was stopped, even by kill -9, is continued by
    the same command; a shard that has its name is complete. More --images than before adds the difference.
    Read the samples in Python:
      from posezoo.synth.write import SynthShards
      sample = SynthShards("OUT")[0]

    bodies:       the built-in body needs no data; "makehuman FOLDER" takes MakeHuman's CC0 assets from a folder
    motion:       folders with .bvh, .asf/.amc or Kinect skeleton sequences (.npz), from which half of the poses come;
                  the others, and all where none is given, are drawn from activities within joint limits
    backgrounds:  a folder of real depth frames without people (16-bit .png in millimetres, .npy); people stand at least
                  10 cm in front of them, or the frame is rejected. Rooms are built where none is given, or none fits
                  --no-background leaves the people alone, with nothing read around them
    sensors:      kinect1 and d435 (shadows at the left of what is in front, steps of disparity), kinect2 (noise by
                  light, holes at edges), tof (near range, mixed depth and holes at edges); --exact leaves all of it out

    hands:        with --hands one or two hands near the camera, at somebody's eyes or before a person: depth,
                  amplitude, a mask of left and right, 17 keypoints of each hand with visibility, orientation, pose.
                  --split train and --split test share no hand, no room and no part of the poses that can be held out.
                  With makehuman half of the hands are MakeHuman's. Read them in Python:
                    from posezoo.synth.hand_frames import SynthHands
                    frame = SynthHands("OUT")[0]

    examples:
      posezoo synth --preview people.png
      posezoo synth hands --hands --images 20000 --split train --workers 4
      posezoo synth people --images 20000 --seed 1 --workers 4
      posezoo synth people --images 2000 --sensor kinect2 --size 512x424 --people 2-3 --rgb --preview people.png
      posezoo synth people --images 20000 --bodies makehuman mh --motion mocap --backgrounds rooms --ray
"""

#: How many samples a preview shows, and how many are made for one without OUT.
SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add(
        "out", nargs="?", metavar="OUT", help="folder for the data set, before the flags; needless with --preview alone"
    )
    add("--images", type=int, metavar="N", help=f"how many pictures (default: 1000; {SHOWN} without OUT)")
    add("--seed", type=int, default=0, metavar="S", help="another seed gives other people and rooms (default: 0)")
    add("--hands", action="store_true", help="hands instead of people")
    add("--split", choices=("all", "train", "test"), help="of hands: which may be drawn (default: all)")
    add("--hand-labels", metavar="FOLDER",
        help="of hands: real ones' joints that poses are drawn from, icvl_test_uvd.npz, nyu_test_uvd.npz")  # fmt: skip
    add("--people", metavar="MIN-MAX", help="people in a picture (default: 1-4)")
    add("--size", metavar="WxH", help="of the pictures in pixels (default: 320x240; of hands 224x168)")
    add("--sensor", metavar="NAME", help="kinect1, kinect2, d435 or tof (default: kinect1; of hands tof)")
    add("--bodies", nargs="+", default=["builtin"], metavar="SOURCE",
        help="builtin, or makehuman FOLDER (default: builtin)")  # fmt: skip
    add("--motion", nargs="+", metavar="FOLDER", help="folders of motion files that poses are drawn from")
    add("--leave-out", nargs="+", metavar="PATTERN",
        help="clips of --motion that are kept for tests, by name, such as 'a*_s7_*'")  # fmt: skip
    add("--backgrounds", metavar="FOLDER", help="real depth frames without people, to stand behind the people")
    add("--no-background", action="store_true", help="people alone: neither rooms nor real backgrounds")
    add("--distance", metavar="MIN-MAX", help="metres from the camera (default: 1.2-8)")
    add("--rgb", action="store_true", help="shaded colour pictures as well")
    add("--amplitude", action="store_true", help="active-infrared pictures as well")
    add("--exact", action="store_true", help="leave sensor noise and holes out")
    add("--inpaint", action="store_true", help="fill the holes of the depth pictures")
    add("--drop", type=float, metavar="SHARE",
        help="share of the pixels at people's outlines that are set to 0 (default: 0.2)")  # fmt: skip
    add("--workers", type=int, metavar="N",
        help="processes (default: 1); with --ray tasks at a time (default: one per processor)")  # fmt: skip
    add("--ray", action="store_true", help="work on the Ray cluster of RAY_ADDRESS, or on one started here")
    add("--format", choices=("npz", "tfrecord"), default="npz", help="of the shards (default: %(default)s)")
    add("--shard-size", type=int, metavar="N", help="pictures in one shard (default: 100; of hands 500)")
    add("--preview", metavar="FILE.png",
        help="write a contact sheet: depth with landmarks (white: seen, red: behind the own body, pink: behind "
        "others), parts, and what else was made; of hands amplitude, depth and mask")  # fmt: skip


def run(arguments: argparse.Namespace, track: Callable[..., Iterable]) -> int:
    """Do it.

    Args:
        arguments: As `add_arguments` parsed them.
        track: Shows progress: given what is iterated over, what is done, and how many there are.

    Returns:
        The exit code.

    Raises:
        UserError: What the user must change.
    """
    from posezoo.synth.write import write_dataset

    if not arguments.out and not arguments.preview:
        raise UserError("nothing to do: give OUT, a folder for the data set, or --preview FILE.png")
    if arguments.preview and Path(arguments.preview).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--preview {arguments.preview}: expected a name that ends in .png or .jpg")
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: expected 1 or more")
    job = hand_job_of(arguments) if arguments.hands else job_of(arguments)
    if not arguments.out:
        _preview(arguments, job, [job.sample(i) for i in track(range(job.images), "rendering")])
        print(f"{job.images} picture(s): {arguments.preview}")
        return 0
    done = write_dataset(
        arguments.out, job, workers=arguments.workers or (0 if arguments.ray else 1), ray=arguments.ray,
        progress=lambda shards, count: track(shards, "rendering", count),
    )  # fmt: skip
    print(f"{done} picture(s) made, {job.images} in all: {arguments.out}")
    if arguments.preview:
        _preview(arguments, job, _first_samples(arguments.out, job))
        print(f"preview: {arguments.preview}")
    return 0


def _first_samples(out: str, job: Job | HandJob) -> list:
    from posezoo.synth.hand_frames import HandJob, SynthHands
    from posezoo.synth.write import SynthShards

    count = min(SHOWN, job.images)
    if isinstance(job, HandJob):
        frames = SynthHands(out)
        return [frames[i] for i in range(count)]
    return SynthShards(out)[:count]


def _preview(arguments: argparse.Namespace, job: Job | HandJob, samples: list) -> None:
    from posezoo.synth.preview import hand_tiles, sample_tiles, write_sheet

    write_sheet(arguments.preview, samples, tiles=hand_tiles if arguments.hands else sample_tiles)


def _size(arguments: argparse.Namespace, default: str) -> tuple[int, int]:
    text = arguments.size or default
    width, height = numbers(text, "x", "--size", default, whole=True)
    if not 16 <= min(width, height) <= max(width, height) <= 4096:
        raise UserError(f"--size {text}: expected sides of 16 to 4096 pixels")
    return int(width), int(height)


def hand_job_of(arguments: argparse.Namespace) -> HandJob:
    """Return what the arguments ask for, of hands.

    Raises:
        UserError: A value cannot be understood, or is one for people.
    """
    from posezoo.synth.hand_frames import HandJob
    from posezoo.synth.hand_scene import HandRecipe
    from posezoo.synth.sensor import get_sensor

    for name in ("people", "motion", "leave_out", "backgrounds", "no_background", "distance", "rgb", "inpaint",
                 "drop"):  # fmt: skip
        if getattr(arguments, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} is for people; leave it out with --hands")
    if arguments.format != "npz":
        raise UserError(f"--format {arguments.format}: hands are written as npz")
    width, height = _size(arguments, "224x168")
    sensor = arguments.sensor or "tof"
    get_sensor(sensor)
    images = arguments.images
    if images is None:
        images = 1000 if arguments.out else SHOWN
    job = HandJob(
        images, seed=arguments.seed,
        recipe=HandRecipe(sensor=sensor, width=width, height=height, exact=arguments.exact,
                          split=arguments.split or "all"),
        hands=tuple(arguments.bodies), labels=arguments.hand_labels, shard_size=arguments.shard_size or 500,
    )  # fmt: skip
    job.prepare()
    return job


def job_of(arguments: argparse.Namespace) -> Job:
    """Return what the arguments ask for.

    Raises:
        UserError: A value cannot be understood.
    """
    from posezoo.synth.crowd import body_source
    from posezoo.synth.scene import Recipe, SceneSettings
    from posezoo.synth.sensor import get_sensor
    from posezoo.synth.write import Job

    for name in ("split", "hand_labels"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is for hands; add --hands or leave it out")
    sensor, motion, leave_out = arguments.sensor or "kinect1", arguments.motion or [], arguments.leave_out or []
    get_sensor(sensor)
    people = numbers(arguments.people or "1-4", "-", "--people", "1-4", whole=True)
    width, height = _size(arguments, "320x240")
    nearest, farthest = numbers(arguments.distance or "1.2-8", "-", "--distance", "1.2-8")
    drop = 0.2 if arguments.drop is None else arguments.drop
    if not 0 <= drop <= 1:
        raise UserError(f"--drop {drop}: expected a share from 0 to 1")
    if arguments.no_background and arguments.backgrounds:
        raise UserError("--no-background and --backgrounds exclude each other; leave one of them out")
    if arguments.no_background and arguments.inpaint:
        raise UserError("--inpaint fills holes with what is around them; with --no-background these are the people")
    recipe = Recipe(
        sensor=sensor, width=width, height=height,
        scene=SceneSettings(people=(int(people[0]), int(people[1])), nearest_m=nearest, farthest_m=farthest),
        silhouette_drop=drop, inpaint=arguments.inpaint, exact=arguments.exact, rgb=arguments.rgb,
        amplitude=arguments.amplitude, empty=arguments.no_background,
    )  # fmt: skip
    images = arguments.images
    if images is None:
        images = 1000 if arguments.out else SHOWN
    return Job(
        body_source(arguments.bodies, motion, leave_out),
        images,
        seed=arguments.seed,
        recipe=recipe,
        backgrounds=str(Path(arguments.backgrounds).absolute()) if arguments.backgrounds else None,
        shard_size=arguments.shard_size or 100,
        file_format=arguments.format,
        told={"bodies": arguments.bodies, "motion": motion, "leave_out": leave_out},
    )


def numbers(text: str, between: str, flag: str, example: str, *, whole: bool = False) -> tuple[float, float]:
    """Read two numbers such as 1-4; one alone counts twice.

    Raises:
        UserError: They are something else, or the second is the smaller one of a range.
    """
    try:
        parts = [int(p) if whole else float(p) for p in text.split(between)]
    except ValueError:
        parts = []
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or (between == "-" and parts[0] > parts[1]):
        raise UserError(f"{flag} {text}: expected {example}")
    return parts[0], parts[1]
