"""Arms before a camera: a hand in a pose brought to a place by somebody's shoulder, elbow and wrist.

All of it is worked out for left arms; a right one is that of a mirrored scene. Camera space as everywhere: x right,
y down, z forward, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from posezoo.data.hand_frames import LEFT, RIGHT
from posezoo.skeletons import HAND_ORIENTATIONS
from posezoo.synth.hand_shape import HandShape

#: Where a camera is: at somebody's eyes, or before somebody.
Kind = Literal["egocentric", "facing"]

_MIRROR, _PLAIN = np.array([-1.0, 1, 1]), np.ones(3)


@dataclass(frozen=True)
class Person:
    """Whose hands are before the camera, in camera space.

    Attributes:
        shoulders: `(2, 3)` left, right, metres.
        up: `(3,)`.
        right: `(3,)` to the person's right.
        cloth: Near-infrared albedo of the sleeves.
    """

    shoulders: np.ndarray
    up: np.ndarray
    right: np.ndarray
    cloth: float

    def turned(self, rotation: np.ndarray) -> Person:
        """Return the person in the axes of a camera turned by `rotation` `(3, 3)`."""
        return Person(self.shoulders @ rotation.T, rotation @ self.up, rotation @ self.right, self.cloth)


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

    @property
    def wrist_axis(self) -> np.ndarray:
        """Unit vector `(3,)` in camera space midway between the forearm's direction and the hand's."""
        return _unit((self.rotation[:, 0] + self.rotation @ self.forearm[:, 0]) * self.hand.mirror)


def _about(axis: int, angle: float) -> np.ndarray:
    """Return the rotation `(3, 3)` about a coordinate axis by radians."""
    sin, cos = math.sin(angle), math.cos(angle)
    out = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[i, i] = out[j, j] = cos
    out[i, j], out[j, i] = -sin, sin
    return out


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
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
            straight = np.stack([along, cross(thumb, along), thumb], axis=1)
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
    rotation = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    if rotation[2, 0] < -0.5:  # the forearm would stand between hand and camera: turn it round
        rotation = np.diag([1, -1, -1.0]) @ rotation
    relative = _bent_wrist(rng, 0, 20).T
    wrist = palm * mirror - rotation @ hand.middle
    fore = rotation @ relative
    elbow = wrist + fore @ hand.shape.elbow
    shoulder = elbow + fore @ np.array([-0.21, 0, 0.21])
    return Arm(hand, rotation, wrist * mirror, relative, float(rng.normal(0, 0.5)), elbow * mirror, shoulder * mirror)


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
    palm = cross(along, index - little) * (1 if arm.hand.side == LEFT else -1)
    angle = math.atan2(along @ cross(towards, palm), towards @ palm - (along @ towards) * (along @ palm))
    return round(angle / (2 * math.pi / HAND_ORIENTATIONS)) % HAND_ORIENTATIONS


def collide(one: Arm, other: Arm) -> bool:
    """Say whether two hands pass through each other."""
    apart = np.linalg.norm(one.landmarks[:, None] - other.landmarks[None], axis=-1)
    return bool(np.any(apart < 0.9 * (one.hand.shape.radii[:, None] + other.hand.shape.radii[None])))
