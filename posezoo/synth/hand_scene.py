"""One frame of one or two hands: arms put before a camera, things about them, and everything known about the picture.

Two kinds of camera. Egocentric: at somebody's eyes, hands 0.2 to 0.7 m in front, forearms from below and the sides.
Facing: before a person whose palms are mostly towards it. Camera space as everywhere: x right, y down, z forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from posezoo.data.hand_frames import BACKGROUND, HIDDEN, LEFT, RIGHT, SEEN, UNKNOWN, HandFrame
from posezoo.synth.camera import Camera, Intrinsics
from posezoo.synth.hand_backgrounds import Person, Wide, wearer
from posezoo.synth.hand_poses import POSES, Split, random_pose
from posezoo.synth.hand_shape import KEYPOINTS, HandShape, keypoint_parts
from posezoo.synth.render import Mesh, View, phase_image
from posezoo.synth.rig import rotations
from posezoo.synth.room import BOX, BOX_FACES, CYLINDER, CYLINDER_FACES
from posezoo.synth.sensor import get_sensor, read_depth

#: A source of hands: each number gives another left hand, always the same.
HandSource = Callable[[int], HandShape]

Kind = Literal["egocentric", "facing"]

ORIENTATIONS = 8
_MIRROR, _PLAIN = np.array([-1.0, 1, 1]), np.ones(3)
#: A keypoint is seen while the surface before it is no farther than this, metres along the optical axis; the wrist is
#: thicker.
SEEN_WITHIN_M, WRIST_WITHIN_M = 0.024, 0.032


@dataclass(frozen=True)
class HandRecipe:
    """How frames are made.

    Attributes:
        sensor: Name of a sensor.
        width: Pixels.
        height: Pixels.
        facing_share: Share of the frames whose camera faces the person.
        two_share: Share of the frames with two hands.
        empty_share: Share of the frames without any.
        exact: Leave noise and holes out.
        split: "train" and "test" share no hand, no room, and no part of the poses that can be held out; "all" draws
            from everything.
    """

    sensor: str = "tof"
    width: int = 224
    height: int = 168
    facing_share: float = 0.45
    two_share: float = 0.5
    empty_share: float = 0.04
    exact: bool = False
    split: Split = "all"


@dataclass(frozen=True, eq=False)
class Hand:
    """A left hand in a pose, or a right one in a mirror.

    Attributes:
        side: `LEFT` or `RIGHT`.
        shape: The hand, always a left one.
        angles: `(21,)` degrees.
        pose: Index into `POSES`.
    """

    side: int
    shape: HandShape
    angles: np.ndarray
    pose: int

    @cached_property
    def landmarks(self) -> np.ndarray:
        """`(21, 3)` in the axes of the left hand."""
        return self.shape.landmarks_of(self.angles)

    @property
    def mirror(self) -> np.ndarray:
        """`(3,)` factors that make camera space of a right hand that of a left one."""
        return _MIRROR if self.side == RIGHT else _PLAIN

    @cached_property
    def middle(self) -> np.ndarray:
        """`(3,)` about the middle of the palm, in the axes of the left hand."""
        return 0.62 * self.shape.landmarks[9]


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm before the camera, in camera space.

    Attributes:
        hand: In its pose.
        rotation: `(3, 3)` from the axes of the left hand to camera space; a right hand's mirrored camera space.
        wrist: `(3,)` metres in camera space.
        forearm: `(3, 3)` rotation of the forearm's hand end relative to the hand.
        twist: Radians, of the elbow half of the forearm.
        elbow: `(3,)` in camera space.
        shoulder: `(3,)` in camera space.
    """

    hand: Hand
    rotation: np.ndarray
    wrist: np.ndarray
    forearm: np.ndarray
    twist: float
    elbow: np.ndarray
    shoulder: np.ndarray

    def placed(self, points: np.ndarray) -> np.ndarray:
        """Map points `(..., 3)` of the left hand's axes to camera space."""
        return points @ (self.rotation.T * self.hand.mirror) + self.wrist

    @cached_property
    def landmarks(self) -> np.ndarray:
        """`(21, 3)` in camera space."""
        return self.placed(self.hand.landmarks)


# ------------------------------------------------------------------------------------------------- arms


def _about(axis: int, angle: float) -> np.ndarray:
    """Return the rotation `(3, 3)` about a coordinate axis by radians."""
    sin, cos = math.sin(angle), math.cos(angle)
    out = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[i, i] = out[j, j] = cos
    out[i, j], out[j, i] = -sin, sin
    return out


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product of two vectors `(3,)`; NumPy's takes ten times as long."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(math.sqrt(float(vector @ vector)), 1e-9)


def _bent_wrist(rng: np.random.Generator, flex: float, spread: float) -> np.ndarray:
    """Return a random rotation of a hand relative to its forearm, bent by about `flex` degrees."""
    flex = math.radians(min(max(rng.normal(flex, spread), -65), 65))
    tilt = math.radians(min(max(rng.normal(-2, 10), -28), 20))
    return _about(1, -tilt) @ _about(2, -flex)


def place_arm(rng: np.random.Generator, hand: Hand, person: Person, palm: np.ndarray, *, kind: Kind) -> Arm | None:
    """Bring a hand to a place in front of the camera by an arm that can reach there.

    Args:
        rng: Source of every random number.
        hand: In its pose.
        person: Whose arm it is.
        palm: `(3,)` where the middle of the palm comes.
        kind: Of the camera; palms face one before the person more often.

    Returns:
        The arm, or None where it does not reach.
    """
    mirror = hand.mirror
    up, outward = person.up * mirror, person.right * mirror * (-1 if hand.side == LEFT else 1)
    shoulder, target = person.shoulders[hand.side - 1] * mirror, palm * mirror
    lower = float(np.linalg.norm(hand.shape.elbow))
    upper = lower * rng.uniform(1.08, 1.2)
    best, best_rank = None, -np.inf
    for _ in range(5 if kind == "facing" and rng.random() < 0.6 else 1):
        swivel = math.radians(rng.normal(25, 25))
        towards = outward * math.sin(swivel) - up * math.cos(swivel)
        pronate = math.radians(min(max(rng.normal(25, 45), -85), 85))
        relative = _about(0, pronate) @ _bent_wrist(rng, -12, 24)
        wrist, elbow = target, None
        for _ in range(3):  # where the wrist is depends on how the hand is turned, and that on the elbow
            elbow = _elbow(shoulder, wrist, upper, lower, towards)
            if elbow is None:
                break
            along = (wrist - elbow) / lower
            thumb = shoulder - elbow
            thumb = _unit(thumb - along * (along @ thumb))
            straight = np.stack([along, _cross(thumb, along), thumb], axis=1)
            rotation = straight @ relative
            wrist = target - rotation @ hand.middle
        if elbow is None:
            continue
        rank = rotation[2, 1]  # the palm looks along -y of the hand, the camera is at smaller z
        if rank > best_rank:
            best_rank = rank
            forearm = rotation.T @ straight @ _about(0, pronate)
            best = Arm(hand, rotation, wrist * mirror, forearm, 0.8 * (math.radians(35) - pronate), elbow * mirror,
                       shoulder * mirror)  # fmt: skip
    return best


def place_free(rng: np.random.Generator, hand: Hand, palm: np.ndarray) -> Arm:
    """Bring a hand to a place, turned in any way, with whatever arm that takes."""
    mirror = hand.mirror
    rotation = rotation_of(rng.normal(size=4))
    if rotation[2, 0] < -0.5:  # the forearm would stand between hand and camera: turn it round
        rotation = np.diag([1, -1, -1.0]) @ rotation
    relative = _bent_wrist(rng, 0, 20).T
    wrist = palm * mirror - rotation @ hand.middle
    fore = rotation @ relative
    elbow = wrist + fore @ hand.shape.elbow
    shoulder = elbow + fore @ np.array([-0.21, 0, 0.21])
    return Arm(hand, rotation, wrist * mirror, relative, float(rng.normal(0, 0.5)), elbow * mirror, shoulder * mirror)


def rotation_of(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation `(3, 3)` of a quaternion `(4,)` w, x, y, z of any length."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _elbow(shoulder, wrist, upper: float, lower: float, towards: np.ndarray) -> np.ndarray | None:
    """Return where the elbow of an arm is, bent `towards` a direction; None where the arm is too short or too long."""
    reach = wrist - shoulder
    far = math.sqrt(float(reach @ reach))
    if not abs(upper - lower) + 0.05 < far < 0.995 * (upper + lower):
        return None
    along = reach / far
    at = (upper**2 - lower**2 + far**2) / (2 * far)
    aside = towards - along * (along @ towards)
    return shoulder + along * at + _unit(aside) * math.sqrt(max(upper**2 - at**2, 0.0))


def orientation(arm: Arm) -> int:
    """Return which side of a hand the camera sees, as the palm's direction about the hand's long axis.

    Class 0 is a palm that faces the camera, 4 the back. Counted in eighths of a turn: seen with the fingers up, the
    palm of class 2 faces the right border of the picture and that of class 6 the left one. Turning the picture
    changes nothing; mirroring it makes class k to class -k modulo 8. (The long axis is from the wrist to the middle
    finger's knuckle; the direction to the camera is taken at that knuckle.)
    """
    wrist, middle, index, little = (arm.landmarks[k] for k in (0, 9, 5, 17))
    along, towards = _unit(middle - wrist), -middle
    palm = _cross(along, index - little) * (1 if arm.hand.side == LEFT else -1)
    angle = math.atan2(along @ _cross(towards, palm), towards @ palm - (along @ towards) * (along @ palm))
    return round(angle / (2 * math.pi / ORIENTATIONS)) % ORIENTATIONS


# ---------------------------------------------------------------------------------------------- surfaces


@dataclass
class _Things:
    """Triangles in camera space with labels; what is drawn."""

    vertices: list[np.ndarray] = field(default_factory=list)
    faces: list[np.ndarray] = field(default_factory=list)
    albedo: list[np.ndarray] = field(default_factory=list)
    tags: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def add(self, vertices: np.ndarray, faces: np.ndarray, albedo, tags=0) -> None:
        """Add a surface; tags are 16 x side + part of a hand's faces, 0 for everything else."""
        self.vertices.append(np.asarray(vertices, np.float32))
        self.faces.append(np.asarray(faces, np.int32) + np.int32(self.count))
        self.albedo.append(np.broadcast_to(np.asarray(albedo, np.float32), len(faces)))
        self.tags.append(np.broadcast_to(np.asarray(tags, np.uint8), len(faces)))
        self.count += len(vertices)


def _add_arm(rng: np.random.Generator, things: _Things, arm: Arm, skin: float, cloth: float, sleeve: str) -> None:
    """Add hand, forearm, upper arm and sleeve."""
    shape = arm.hand.shape
    vertices, _ = shape.posed(arm.hand.angles, wrist=arm.forearm, twist=arm.twist)
    vertices = arm.placed(vertices).astype(np.float32)
    front = _facing_camera(vertices, shape.faces, outward=1 if arm.hand.side == LEFT else -1)
    reflectance = np.where(shape.palmar, np.float32(1.06 * skin), np.float32(0.98 * skin))
    speckle = 1 + np.float32(0.02) * rng.standard_normal(len(shape.faces), np.float32)
    tags = np.where(shape.parts > 0, 16 * arm.hand.side + shape.parts, 0).astype(np.uint8)
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


def _add_limb(things: _Things, start: np.ndarray, end: np.ndarray, thick: float, albedo: float) -> None:
    """Add a tube from an elbow to a shoulder, round at the shoulder."""
    along = end - start
    at = np.array([-0.06, 0.25, 0.5, 0.8, 1.0, 1.12, 1.2])
    girth = thick * np.array([0.9, 1.0, 1.12, 1.25, 1.3, 1.0, 0.3])
    vertices, faces = _lofted(start + at[:, None] * along, along, girth)
    things.add(vertices, faces, albedo)


def _add_arm_behind(rng: np.random.Generator, things: _Things, person: Person, side: int, albedo: float) -> None:
    """Add the arm that a person before the camera holds behind the back."""
    shoulder, aside = person.shoulders[side - 1], person.right * (-1 if side == LEFT else 1)
    back = _cross(person.right, person.up) * -1
    elbow = shoulder - person.up * 0.27 + aside * rng.uniform(0.0, 0.08) + back * rng.uniform(0.0, 0.1)
    wrist = elbow + back * 0.12 - aside * 0.2 + person.up * rng.uniform(-0.1, 0.05)
    _add_limb(things, elbow, shoulder, 0.045, albedo)
    _add_limb(things, wrist, elbow, 0.035, albedo)


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


def _tube(things: _Things, arm: Arm, axis: np.ndarray, at: np.ndarray, wide: np.ndarray, albedo: float) -> None:
    centres = at[:, None] * axis
    vertices, faces = _lofted(centres, axis, wide)
    things.add(arm.placed(vertices), faces, albedo)


_ROUND = 16
_CIRCLE = np.stack([np.cos(np.arange(_ROUND) / _ROUND * 2 * np.pi), np.sin(np.arange(_ROUND) / _ROUND * 2 * np.pi)])


def _lofted(centres: np.ndarray, axis: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    return _lofted(height[:, None] * (0, 1.0, 0), np.array([0, 1.0, 0]), np.sqrt(np.maximum(0.25 - height**2, 0)))


_BALL, _BALL_FACES = _ball()
#: Cups have no lid.
_CUP_FACES = CYLINDER_FACES[CYLINDER_FACES.max(axis=1) < len(CYLINDER) - 1]
_SOLIDS = ((BOX, BOX_FACES), (CYLINDER, CYLINDER_FACES), (CYLINDER, _CUP_FACES), (_BALL, _BALL_FACES))


def _random_thing(rng: np.random.Generator, things: _Things, place: np.ndarray, largest: float) -> None:
    """Add a box, cylinder, cup or ball of any proportions, turned in any way."""
    solid, faces = _SOLIDS[int(rng.integers(len(_SOLIDS)))]
    size = rng.uniform(0.02, largest, 3)
    if solid is not BOX:
        size[2] = size[0]
    turn = rotations(rng.normal(0, 1.2, 3))
    things.add((solid * size) @ turn.T + place, faces, _albedo(rng))


def _albedo(rng: np.random.Generator) -> float:
    return float(np.clip(rng.beta(2.0, 2.0), 0.05, 0.95))


def _held_thing(rng: np.random.Generator, things: _Things, arm: Arm) -> None:
    """Put something into a hand: a bar or cup in bent fingers, a pen in a pinch, a slab on an open palm."""
    marks = arm.hand.landmarks
    name = POSES[arm.hand.pose]
    thick = float(arm.hand.shape.radii[6])
    if name in ("pinch", "ok"):
        middle = (marks[4] + marks[8]) / 2
        axis = rng.normal(size=3) + (0, 0, 0.6)
        size = np.array([rng.uniform(0.005, 0.012), rng.uniform(0.06, 0.16), 0])
    elif name == "open_hand":
        middle = marks[9] * 0.8 + np.array([0.01, -(thick + arm.hand.shape.radii[9] + 0.006), 0])
        size = np.array([rng.uniform(0.06, 0.16), rng.uniform(0.006, 0.012), rng.uniform(0.05, 0.09)])
        things.add(arm.placed((BOX * size) @ rotations(rng.normal(0, (0.1, 0.4, 0.1))).T + middle), BOX_FACES,
                   _albedo(rng))  # fmt: skip
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
    things.add(arm.placed((CYLINDER * size) @ frame.T + middle), faces, _albedo(rng))


# ------------------------------------------------------------------------------------------------ frames


def compose(
    rng: np.random.Generator,
    hands: HandSource,
    wide: Wide | None,
    recipe: HandRecipe,
    *,
    kind: Kind,
    recorded: np.ndarray | None = None,
    count: int | None = None,
) -> tuple[Intrinsics, np.ndarray, list[Arm], Person]:
    """Draw a camera and the arms before it.

    Returns:
        Intrinsics, rotation from the wide view's axes to the camera's, up to two arms (left first), the person.
    """
    base = get_sensor(recipe.sensor).intrinsics.resized(recipe.width, recipe.height)
    zoom = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    shift = rng.normal(0, 0.012, 2) * recipe.width
    intrinsics = Intrinsics(base.fx * zoom, base.fy * zoom, base.cx + shift[0], base.cy + shift[1], base.width,
                            base.height)  # fmt: skip
    turn = rotations(np.array([0, 0, rng.normal(0, 0.1)])) @ rotations(rng.normal(0, (0.1, 0.14, 0)))
    person = _nobody(rng, kind) if wide is None else wide.person.turned(turn)
    if count is None:
        count = 0 if rng.random() < recipe.empty_share else 1 + int(rng.random() < recipe.two_share)
    sides = (LEFT, RIGHT) if count == 2 else (LEFT + int(rng.integers(2)),) * count
    number = int(rng.integers(1 << 30))
    loose = rng.random() < 0.15
    near = count == 2 and rng.random() < 0.35
    arms: list[Arm] = []
    for side in sides:
        shape = hands(number)
        hand = Hand(side, shape, *random_pose(rng, shape, split=recipe.split, recorded=recorded))
        for attempt in range(16):
            palm = _target(rng, intrinsics, side, kind, arms[0] if near and arms else None, person)
            if loose or attempt > 11:
                arm: Arm | None = place_free(rng, hand, palm)
            else:
                arm = place_arm(rng, hand, person, palm, kind=kind)
            if arm is not None and arm.landmarks[:, 2].min() > 0.12 and not (arms and _through(arms[0], arm)):
                arms.append(arm)
                break
    return intrinsics, turn, arms, person


def _target(rng, intrinsics: Intrinsics, side: int, kind: Kind, other: Arm | None, person: Person) -> np.ndarray:
    """Draw where the middle of a palm comes, in camera space."""
    if other is not None:
        return other.landmarks[9] + rng.normal(0, 1, 3) * (0.07, 0.06, 0.05)
    if kind == "egocentric":
        depth = 0.2 + 0.5 * rng.beta(1.8, 2.0)
    else:
        farthest = min(0.75, float(person.shoulders[:, 2].mean()) - 0.1)
        depth = rng.uniform(0.2, max(farthest, 0.3))
    # Left hands more to the left of a wearer's view, and to the right of a camera before the person.
    lean = 0.12 * (-1 if (side == LEFT) == (kind == "egocentric") else 1)
    x = np.clip(rng.normal(0.5 + lean, 0.2), 0.08, 0.92) * intrinsics.width
    y = np.clip(rng.normal(0.52, 0.19), 0.1, 0.92) * intrinsics.height
    return np.array([(x - intrinsics.cx) / intrinsics.fx * depth, (y - intrinsics.cy) / intrinsics.fy * depth, depth])


def _through(one: Arm, other: Arm) -> bool:
    """Say whether two hands pass through each other."""
    apart = np.linalg.norm(one.landmarks[:, None] - other.landmarks[None], axis=-1)
    return bool(np.any(apart < 0.9 * (one.hand.shape.radii[:, None] + other.hand.shape.radii[None])))


def _nobody(rng: np.random.Generator, kind: Kind) -> Person:
    """Return a person for a camera with nothing behind the hands."""
    tilt = float(rng.uniform(-0.1, 0.8) if kind == "egocentric" else rng.normal(0.05, 0.25))
    camera = Camera.looking(Intrinsics(100, 100, 50, 50, 100, 100), (0, 0, 0), tilt=tilt)
    if kind == "egocentric":
        return wearer(rng, camera)
    away, half, yaw = rng.uniform(0.55, 1.2), rng.uniform(0.155, 0.195), rng.normal(0, 0.25)
    right = np.array([-np.cos(yaw), 0, np.sin(yaw)])
    neck = np.array([rng.normal(0, 0.05), -rng.normal(0.05, 0.12), -away])
    shoulders = np.stack([neck - half * right, neck + half * right]) @ camera.rotation.T
    return Person(shoulders, camera.rotation @ np.array([0, 1.0, 0]), camera.rotation @ right,
                  float(rng.uniform(0.15, 0.9)))  # fmt: skip


def make_frame(
    rng: np.random.Generator,
    hands: HandSource,
    recipe: HandRecipe,
    *,
    kind: Kind,
    wide: Wide | None = None,
    recorded: np.ndarray | None = None,
    count: int | None = None,
) -> HandFrame:
    """Make one frame: everything random comes from `rng`.

    Args:
        rng: Source of every random number.
        hands: Source of hands.
        recipe: How frames are made.
        kind: Of the camera.
        wide: What is behind the hands, of the same kind; nothing when not given.
        recorded: `(N, 21)` angles of real hands, for poses of no class.
        count: How many hands; drawn when not given.
    """
    intrinsics, turn, arms, person = compose(rng, hands, wide, recipe, kind=kind, recorded=recorded, count=count)
    things = _Things()
    skin = float(np.clip(rng.normal(0.5, 0.09), 0.25, 0.75))
    sleeve = str(rng.choice(("long", "bare", "band"), p=(0.5, 0.38, 0.12)))
    for arm in arms:
        _add_arm(rng, things, arm, skin, person.cloth, sleeve)
        if rng.random() < 0.12:
            _held_thing(rng, things, arm)
    if kind == "facing" and wide is not None:
        for side in {LEFT, RIGHT} - {arm.hand.side for arm in arms}:
            _add_arm_behind(rng, things, person, side, person.cloth)
    for _ in range(int(rng.choice(4, p=(0.5, 0.25, 0.15, 0.1)))):
        depth = rng.uniform(0.25, 1.0)
        pixel = rng.uniform(0, 1, 2) * (intrinsics.width, intrinsics.height)
        place = np.array([(pixel[0] - intrinsics.cx) / intrinsics.fx, (pixel[1] - intrinsics.cy) / intrinsics.fy, 1])
        if all(np.linalg.norm(a.landmarks - place * depth, axis=1).min() > 0.13 for a in arms):
            _random_thing(rng, things, place * depth, 0.2)
    exact, cosine, albedo, tags = _drawn(things, intrinsics, None if wide is None else wide.part(intrinsics, turn))
    sensor = get_sensor(recipe.sensor)
    if recipe.exact:
        depth_mm = np.rint(np.clip(exact, 0, 65) * 1000).astype(np.uint16)
    else:
        depth_mm = read_depth(rng, exact, sensor, intrinsics, cosine=cosine, albedo=albedo)
    light = phase_image(
        rng, exact * intrinsics.ray_lengths, cosine, albedo, intrinsics,
        full_scale_m=float(np.exp(rng.uniform(np.log(0.2), np.log(0.65)))),
        noise=0.0 if recipe.exact else float(rng.uniform(0.7, 2.2)),
    )  # fmt: skip
    return _labelled(arms, exact, tags, intrinsics, depth_mm, light)


def _drawn(things: _Things, intrinsics: Intrinsics, behind: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Return exact depth, cosine, albedo (float32) and tags (uint8), each `(height, width)`."""
    shape = (intrinsics.height, intrinsics.width)
    if things.count:
        faces, albedo = np.concatenate(things.faces), np.concatenate(things.albedo)
        vertices = np.concatenate(things.vertices)
        view = View(intrinsics, vertices, faces, [Mesh(vertices, faces, np.zeros((0, 3)), albedo)])
        depth, cosine, reflectance = view.depth, view.cosine, view.albedo
        tags = np.append(np.concatenate(things.tags), np.uint8(0))[view.face]
    else:
        depth, cosine, reflectance = (np.zeros(shape, np.float32) for _ in range(3))
        tags = np.zeros(shape, np.uint8)
    if behind is None:
        return depth, cosine, reflectance, tags
    far = behind[..., 0] / intrinsics.ray_lengths
    hand = (tags > 0) & (far > 0)
    if hand.any():
        # Hands are not inside the furniture: what is behind moves away until it is.
        far = far * max(1.0, 1.03 * float(np.quantile(depth[hand] / far[hand], 0.97)))
    front = (depth > 0) & ((depth <= far) | (far <= 0))
    return (
        np.where(front, depth, far), np.where(front, cosine, behind[..., 1]),
        np.where(front, reflectance, behind[..., 2]), np.where(front, tags, np.uint8(0)),
    )  # fmt: skip


#: Fewer pixels of a hand, in a picture of 224x168, are no hand that anybody could find.
LEAST_PIXELS = 40
#: Pose and orientation are known where this many of the 17 keypoints are on the picture.
LEAST_KEYPOINTS = 6

_OWN = keypoint_parts()


def _labelled(arms, exact, tags, intrinsics: Intrinsics, depth_mm, light) -> HandFrame:
    side_of = tags >> 4
    k = len(KEYPOINTS)
    points, points_mm = np.zeros((2, k, 3), np.float32), np.full((2, k, 3), np.nan, np.float32)
    present, turned, posed = np.zeros(2, bool), np.full(2, -1, np.int8), np.full(2, -1, np.int8)
    for arm in arms:
        side, hand = arm.hand.side, arm.hand.side - 1
        if (side_of == side).sum() < LEAST_PIXELS * tags.size / (224 * 168):
            continue
        present[hand] = True
        marks = arm.landmarks[KEYPOINTS]
        pixels = intrinsics.project(marks)
        inside = intrinsics.contains(pixels)
        column, row = np.rint(np.where(inside[:, None], pixels, 0)).astype(int).T
        tag = tags[row, column]
        own = (tag >> 4 == side) & _OWN[np.arange(k), tag & 15]
        limit = np.where(KEYPOINTS == 0, WRIST_WITHIN_M, SEEN_WITHIN_M)
        seen = inside & own & (np.abs(marks[:, 2] - exact[row, column]) <= limit)
        points[hand] = np.concatenate([pixels, np.where(seen, SEEN, HIDDEN)[:, None]], axis=1)
        points_mm[hand] = marks * 1000
        if inside.sum() >= LEAST_KEYPOINTS:
            turned[hand], posed[hand] = orientation(arm), arm.hand.pose
    points[~present, :, 2] = UNKNOWN
    segmentation = np.where(tags > 0, side_of, BACKGROUND).astype(np.uint8)
    return HandFrame(
        points.reshape(-1, 3), depth_mm, light, segmentation, points_mm.reshape(-1, 3), present, turned, posed,
        (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy),
    )  # fmt: skip
