"""Where the people of scenes come from: a source of bodies and a source of poses."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from posezoo.errors import UserError
from posezoo.synth.body import People
from posezoo.synth.motion import Motion, poses_of_kinect, read_kinect, read_motion
from posezoo.synth.posed import PosedBody
from posezoo.synth.poses import DEPTH_ALLOWED_M, FREQUENCIES, random_pose, self_overlap
from posezoo.synth.rig import Pose
from posezoo.synth.scene import BodySource

#: A source of poses: each call returns another one, and facts about it.
PoseSource = Callable[[np.random.Generator], tuple[Pose, dict]]


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
        pose, told = self.poses(rng)
        height = body.about.get("height_m")
        return body.posed(pose), {**told, **({"height_m": round(height, 3)} if isinstance(height, float) else {})}


def activities(rng: np.random.Generator) -> tuple[Pose, dict]:
    """Draw an activity and a pose of it."""
    shares = np.array(list(FREQUENCIES.values()), float)
    activity = list(FREQUENCIES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    return random_pose(rng, activity=activity), {"activity": activity}


#: How many recorded poses are tried until one fits a body without passing through itself.
POSE_TRIES = 5


@dataclass(frozen=True)
class RecordedPoses:
    """Poses from motion files, mixed with those of activities.

    Attributes:
        folders: Searched, at any depth, for .bvh and .amc (also .gz) files and for .npz files of Kinect sequences.
        leave_out: Patterns of clip names that are not used, such as `a*_s7_*`: a clip is called as its file without
            ending, or as its array in an .npz file.
        share: Of recorded poses; the rest come from `activities`, which sit, crouch and have fingers.

    Raises:
        UserError: A folder is missing or holds no motion.
    """

    folders: tuple[str, ...]
    leave_out: tuple[str, ...] = ()
    share: float = 0.5
    _clips: list[list[tuple[str, str]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_clips", self._found())

    def _found(self) -> list[list[tuple[str, str]]]:
        """List each folder's clips as (file, name)."""
        found, kept = 0, []
        for folder in self.folders:
            if not Path(folder).is_dir():
                raise UserError(f"{folder}: no such folder; expected motion files (.bvh, .amc, .npz)")
            clips: list[tuple[str, str]] = []
            for path in sorted(Path(folder).rglob("*")):
                name = path.name.removesuffix(".gz")
                if name.lower().endswith((".bvh", ".amc")):
                    clips.append((str(path), name[:-4]))
                elif name.lower().endswith(".npz"):
                    clips += [(str(path), sequence) for sequence in _kinect(str(path))]
            if not clips:
                raise UserError(f"{folder}: holds no motion; expected .bvh, .amc (with .asf) or .npz files")
            found += len(clips)
            clips = [c for c in clips if not any(fnmatch.fnmatch(c[1], pattern) for pattern in self.leave_out)]
            kept += [clips] if clips else []
        if not kept:
            raise UserError(f"--leave-out {' '.join(self.leave_out)}: leaves no clip of {found}")
        return kept

    def __call__(self, rng: np.random.Generator) -> tuple[Pose, dict]:
        """Return a pose and where it comes from."""
        if rng.random() >= self.share:
            return activities(rng)
        for _ in range(POSE_TRIES):
            folder = self._clips[int(rng.integers(len(self._clips)))]  # a folder of few clips counts as much
            path, name = folder[int(rng.integers(len(folder)))]
            if path.endswith(".npz"):
                joints = _kinect(path)[name]
                pose = poses_of_kinect(joints[[int(rng.integers(len(joints)))]])[0]
            else:
                clip = _motion(path)
                pose = clip.pose(int(rng.integers(len(clip))))
            if self_overlap(pose) <= 2 * DEPTH_ALLOWED_M:
                return pose, {"motion": name}
        return activities(rng)


@lru_cache(maxsize=8)
def _kinect(path: str) -> dict[str, np.ndarray]:
    return read_kinect(path)


@lru_cache(maxsize=256)
def _motion(path: str) -> Motion:
    return read_motion(path)


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
