"""Where the people of scenes come from: a source of bodies and a source of poses."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from posezoo.errors import UserError
from posezoo.synth.body import Body, People
from posezoo.synth.motion import MotionLibrary, read_kinect
from posezoo.synth.posed import PosedBody
from posezoo.synth.poses import FREQUENCIES, random_pose
from posezoo.synth.rig import Pose
from posezoo.synth.scene import BodySource

#: A source of poses: each call returns another one for a body, and facts about it.
PoseSource = Callable[[np.random.Generator, Body], tuple[Pose, dict]]


@dataclass(frozen=True)
class Crowd:
    """Random people in random poses, for `posezoo.synth.scene.make_sample`.

    Attributes:
        people: Source of bodies.
        poses: Source of poses.
    """

    people: People
    poses: PoseSource

    def __call__(self, rng: np.random.Generator) -> tuple[PosedBody, dict]:
        """Return somebody, and who that is and does."""
        body = self.people.random(rng)
        pose, told = self.poses(rng, body)
        height = body.about.get("height_m")
        return body.posed(pose), {**told, **({"height_m": round(height, 3)} if isinstance(height, float) else {})}


def activities(rng: np.random.Generator, body: Body) -> tuple[Pose, dict]:
    """Draw an activity, and a pose of it that does not pass through the body."""
    shares = np.array(list(FREQUENCIES.values()), float)
    activity = list(FREQUENCIES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    return random_pose(rng, activity=activity, rig=body.rig, girth=body.girth), {"activity": activity}


@dataclass(frozen=True)
class RecordedPoses:
    """Poses from motion files, mixed with those of activities.

    Attributes:
        folders: Each holds .bvh and .amc (also .gz) files, or .npz files of Kinect sequences, and is drawn from as
            often as the others.
        leave_out: Patterns of clip names that are not used, such as `a*_s7_*`: a clip is called as its file without
            ending, or as its array in an .npz file.
        share: Of recorded poses; the rest come from `activities`, which sit and crouch more.

    Raises:
        UserError: A folder is missing or holds no motion that is used.
    """

    folders: tuple[str, ...]
    leave_out: tuple[str, ...] = ()
    share: float = 0.5

    def __post_init__(self) -> None:
        for folder in self.folders:
            _library(folder, self.leave_out)

    def __call__(self, rng: np.random.Generator, body: Body) -> tuple[Pose, dict]:
        """Return a pose, and the folder or the activity that it comes from."""
        if rng.random() >= self.share:
            return activities(rng, body)
        folder = self.folders[int(rng.integers(len(self.folders)))]
        pose = _library(folder, self.leave_out).random(rng, rig=body.rig, girth=body.girth)
        return pose, {"motion": Path(folder).name}


@lru_cache(maxsize=32)
def _library(folder: str, leave_out: tuple[str, ...]) -> MotionLibrary:
    """Return a folder's motion; kept per process, so that sources travel to workers without it."""

    def keep(name: str) -> bool:
        return not any(fnmatch.fnmatch(name, pattern) for pattern in leave_out)

    paths = MotionLibrary.in_folders(folder).paths
    kept = [p for p in paths if (any(map(keep, read_kinect(p))) if p.suffix == ".npz" else keep(p.name.split(".")[0]))]
    if not kept:
        raise UserError(f"{folder}: --leave-out {' '.join(leave_out)} leaves no motion of it; leave out less")
    return MotionLibrary(kept, keep=keep)


def body_source(bodies: Sequence[str], motion: Sequence[str] = (), leave_out: Sequence[str] = ()) -> BodySource:
    """Return a source of people by what the command line says.

    Args:
        bodies: `["builtin"]`, or `["makehuman", folder]`.
        motion: Folders of motion files; poses are drawn from activity templates alone where there is none.
        leave_out: Patterns of clips that are not used.

    Raises:
        UserError: Another source, or a folder that lacks what is needed.
    """
    people: People
    if list(bodies) == ["builtin"]:
        from posezoo.synth.procedural import BuiltinPeople

        people = BuiltinPeople()
    elif len(bodies) == 2 and bodies[0] == "makehuman":
        from posezoo.synth.makehuman import MakeHumanPeople

        people = MakeHumanPeople(str(Path(bodies[1]).absolute()))
        people.random(np.random.default_rng(0))  # says at once what the folder lacks
    else:
        raise UserError(f"--bodies {' '.join(bodies)}: expected builtin, or makehuman FOLDER")
    folders = tuple(str(Path(folder).absolute()) for folder in motion)
    return Crowd(people, RecordedPoses(folders, tuple(leave_out)) if motion else activities)
