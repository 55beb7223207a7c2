"""The surfaces of a scene of hands: arms, sleeves, things about them and things held."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from posezoo.data.hand_frames import LEFT
from posezoo.skeletons import HAND_POSES
from posezoo.synth.hand_arms import Arm, Person, cross
from posezoo.synth.render import Mesh
from posezoo.synth.rig import rotations
from posezoo.synth.room import BOX, BOX_FACES, CYLINDER, CYLINDER_FACES


@dataclass
class Things:
    """What is drawn, in camera space.

    Attributes:
        meshes: The surfaces.
        tags: uint8 per face of each: 16 x side + part of an arm's skin, 0 for everything else.
    """

    meshes: list[Mesh] = field(default_factory=list)
    tags: list[np.ndarray] = field(default_factory=list)

    def add(self, vertices: np.ndarray, faces: np.ndarray, albedo, tags=0, *, curved: bool = True) -> None:
        """Add a surface; albedo and tags are one number or one per face."""
        albedo = np.broadcast_to(np.asarray(albedo, np.float32), len(faces))
        self.meshes.append(Mesh(np.asarray(vertices, np.float32), faces, np.zeros((0, 3)), albedo, curved))
        self.tags.append(np.broadcast_to(np.asarray(tags, np.uint8), len(faces)))


def add_arm(rng: np.random.Generator, things: Things, arm: Arm, skin: float, cloth: float, sleeve: str) -> None:
    """Add hand, forearm, upper arm and sleeve."""
    shape = arm.hand.shape
    vertices, _ = shape.posed(arm.hand.angles, wrist=arm.forearm, twist=arm.twist)
    vertices = arm.placed(vertices).astype(np.float32)
    front = _facing_camera(vertices, shape.faces, outward=1 if arm.hand.side == LEFT else -1)
    reflectance = np.where(shape.palmar, np.float32(1.06 * skin), np.float32(0.98 * skin))
    speckle = 1 + np.float32(0.02) * rng.standard_normal(len(shape.faces), np.float32)
    tags = (16 * arm.hand.side + shape.parts).astype(np.uint8)
    things.add(vertices, shape.faces[front], (reflectance * speckle)[front], tags[front])
    # Along the forearm from the wrist (0) to the elbow (1).
    long, radius = float(np.linalg.norm(shape.elbow)), shape.forearm_radius
    axis = arm.forearm @ shape.elbow
    if sleeve == "long":
        start = float(np.clip(rng.normal(0.10, 0.10), -0.05, 0.7))
        loose = rng.uniform(0.003, 0.016)
        at = np.array([start, start + 0.02, 0.35 + 0.6 * start, 0.8 + 0.15 * start, 1.05])
        wide = np.interp(at, *radius) * 1.04 + loose * np.array([rng.uniform(0.6, 1.8), 1, 1, 1, 1])
        _tube(things, arm, axis, at, wide, cloth)
    elif sleeve == "band":
        start = rng.uniform(0.03, 0.2)
        broad = rng.uniform(0.012, 0.035) / long
        at = np.array([start, start, start + broad, start + broad])
        wide = np.interp(at, *radius) * 1.02 + np.array([0, 0.004, 0.004, 0])
        _tube(things, arm, axis, at, wide, float(rng.uniform(0.1, 0.9)))
    dressed = sleeve == "long" or rng.random() < 0.5
    thick = float(np.interp(1.0, *radius)) + (0.012 if dressed else 0.0)
    _add_limb(things, arm.elbow, arm.shoulder, thick, cloth if dressed else skin)


def _add_limb(things: Things, start: np.ndarray, end: np.ndarray, thick: float, albedo: float) -> None:
    """Add a tube from an elbow to a shoulder, round at the shoulder."""
    along = end - start
    at = np.array([-0.06, 0.25, 0.5, 0.8, 1.0, 1.12, 1.2])
    girth = thick * np.array([0.9, 1.0, 1.12, 1.25, 1.3, 1.0, 0.3])
    vertices, faces = lofted_tube(start + at[:, None] * along, along, girth)
    things.add(vertices, faces, albedo)


def add_arm_behind(rng: np.random.Generator, things: Things, person: Person, side: int) -> None:
    """Add the arm that a person before the camera holds behind the back."""
    shoulder, aside = person.shoulders[side - 1], person.right * (-1 if side == LEFT else 1)
    back = cross(person.right, person.up)
    elbow = shoulder - person.up * 0.27 + aside * rng.uniform(0.0, 0.08) + back * rng.uniform(0.0, 0.1)
    wrist = elbow + back * 0.12 - aside * 0.2 + person.up * rng.uniform(-0.1, 0.05)
    _add_limb(things, elbow, shoulder, 0.045, person.cloth)
    _add_limb(things, wrist, elbow, 0.035, person.cloth)


def _facing_camera(vertices: np.ndarray, faces: np.ndarray, *, outward: int) -> np.ndarray:
    """Return the numbers of a closed surface's faces that a camera can see; half of the rasteriser's work."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    b, c = b - a, c - a
    volume = (
        a[:, 0] * (b[:, 1] * c[:, 2] - b[:, 2] * c[:, 1])
        + a[:, 1] * (b[:, 2] * c[:, 0] - b[:, 0] * c[:, 2])
        + a[:, 2] * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    )
    return np.flatnonzero(volume * outward < 0)


def _tube(things: Things, arm: Arm, axis: np.ndarray, at: np.ndarray, wide: np.ndarray, albedo: float) -> None:
    centres = at[:, None] * axis
    vertices, faces = lofted_tube(centres, axis, wide)
    things.add(arm.placed(vertices), faces, albedo)


_ROUND = 16
_CIRCLE = np.stack([np.cos(np.arange(_ROUND) / _ROUND * 2 * np.pi), np.sin(np.arange(_ROUND) / _ROUND * 2 * np.pi)])


def lofted_tube(centres: np.ndarray, axis: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the open tube through rings about `centres` `(R, 3)`, at right angles to an axis."""
    axis = axis / np.linalg.norm(axis)
    aside = np.cross(axis, (1.0, 0, 0) if abs(axis[0]) < 0.8 else (0, 1.0, 0))
    aside /= np.linalg.norm(aside)
    ring = np.outer(_CIRCLE[0], aside) + np.outer(_CIRCLE[1], np.cross(axis, aside))
    vertices = centres[:, None] + radii[:, None, None] * ring
    number = np.arange(len(centres) * _ROUND).reshape(-1, _ROUND)
    a, b = number[:-1], np.roll(number[:-1], -1, axis=1)
    c, d = np.roll(number[1:], -1, axis=1), number[1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return vertices.reshape(-1, 3), faces


def _ball() -> tuple[np.ndarray, np.ndarray]:
    """Return a ball of diameter 1 of 12 by 7 points."""
    height = np.cos(np.linspace(0, np.pi, 7)) / 2
    return lofted_tube(height[:, None] * (0, 1.0, 0), np.array([0, 1.0, 0]), np.sqrt(np.maximum(0.25 - height**2, 0)))


_BALL, _BALL_FACES = _ball()
#: Cups have no lid.
_CUP_FACES = CYLINDER_FACES[CYLINDER_FACES.max(axis=1) < len(CYLINDER) - 1]
_SOLIDS = ((BOX, BOX_FACES), (CYLINDER, CYLINDER_FACES), (CYLINDER, _CUP_FACES), (_BALL, _BALL_FACES))


def add_random_thing(rng: np.random.Generator, things: Things, place: np.ndarray, largest: float) -> None:
    """Add a box, cylinder, cup or ball of any proportions, turned in any way."""
    solid, faces = _SOLIDS[int(rng.integers(len(_SOLIDS)))]
    size = rng.uniform(0.02, largest, 3)
    if solid is not BOX:
        size[2] = size[0]
    turn = rotations(rng.normal(0, 1.2, 3))
    things.add((solid * size) @ turn.T + place, faces, _albedo(rng), curved=solid is _BALL)


def _albedo(rng: np.random.Generator) -> float:
    return float(np.clip(rng.beta(2.0, 2.0), 0.05, 0.95))


def add_held_thing(rng: np.random.Generator, things: Things, arm: Arm) -> None:
    """Put something into a hand: a bar or cup in bent fingers, a pen in a pinch, a slab on an open palm."""
    marks = arm.hand.landmarks
    name = HAND_POSES[arm.hand.pose]
    thick = float(arm.hand.shape.radii[6])
    if name in ("pinch", "ok"):
        middle = (marks[4] + marks[8]) / 2
        axis = rng.normal(size=3) + (0, 0, 0.6)
        size = np.array([rng.uniform(0.005, 0.012), rng.uniform(0.06, 0.16), 0])
    elif name == "open_hand":
        middle = marks[9] * 0.8 + np.array([0.01, -(thick + arm.hand.shape.radii[9] + 0.006), 0])
        size = np.array([rng.uniform(0.06, 0.16), rng.uniform(0.006, 0.012), rng.uniform(0.05, 0.09)])
        things.add(arm.placed((BOX * size) @ rotations(rng.normal(0, (0.1, 0.4, 0.1))).T + middle), BOX_FACES,
                   _albedo(rng), curved=False)  # fmt: skip
        return
    else:
        # In the hollow of the fingers: between knuckles and tips.
        middle = (marks[[5, 9, 13]].mean(0) + marks[[8, 12, 16]].mean(0) + marks[[6, 10, 14]].mean(0)) / 3
        hollow = np.linalg.norm(marks[[5, 9, 13]].mean(0) - marks[[8, 12, 16]].mean(0)) / 2 - thick
        axis = marks[5] - marks[17] + rng.normal(0, 0.01, 3)
        wide = 2 * max(0.006, hollow * rng.uniform(0.8, 1.1))
        size = np.array([wide, rng.uniform(0.10, 0.22), 0])
    size[2] = size[0]
    axis = axis / np.linalg.norm(axis)
    aside = np.cross(axis, (1.0, 0.1, 0))
    aside /= np.linalg.norm(aside)
    frame = np.stack([aside, axis, np.cross(aside, axis)], axis=1)
    faces = CYLINDER_FACES if rng.random() < 0.6 else _CUP_FACES
    middle = middle + axis * rng.uniform(-0.25, 0.25) * size[1]
    things.add(arm.placed((CYLINDER * size) @ frame.T + middle), faces, _albedo(rng), curved=False)
