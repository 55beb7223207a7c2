"""Where the people of scenes come from: a source of bodies and a source of poses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posezoo.errors import UserError
from posezoo.synth.body import People
from posezoo.synth.posed import PosedBody
from posezoo.synth.scene import BodySource

#: A source of poses: each call returns another one, and facts about it.
PoseSource = Callable[[np.random.Generator], "tuple[Any, dict]"]


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
        return body.posed(pose), {**told, **({"height_m": round(float(height), 3)} if height else {})}


def activities(rng: np.random.Generator) -> tuple[Any, dict]:
    """Draw an activity and a pose of it."""
    from posezoo.synth.poses import FREQUENCIES, random_pose

    shares = np.array(list(FREQUENCIES.values()), float)
    activity = list(FREQUENCIES)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    return random_pose(rng, activity=activity), {"activity": activity}


def body_source(bodies: Sequence[str], motion: Sequence[str] = ()) -> BodySource:
    """Return a source of people by what the command line says.

    Args:
        bodies: `["builtin"]`, or `["makehuman", folder]`.
        motion: Folders of motion files; poses are drawn from activity templates where there is none.

    Raises:
        UserError: Another source, or a folder that lacks what is needed.
    """
    if list(bodies) != ["builtin"]:
        raise UserError(f"--bodies {' '.join(bodies)}: expected builtin, or makehuman FOLDER")
    from posezoo.synth.procedural import BuiltinPeople

    return Crowd(BuiltinPeople(), activities)
