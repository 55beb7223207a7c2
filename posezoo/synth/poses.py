"""Poses people take: joint angles with their limits, activities, and a check that nobody passes through himself.

    pose = random_pose(np.random.default_rng(3), activity="walking")

Angles are in degrees and mean the same on both sides. 0 everywhere is a person standing at attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from posezoo.synth.rig import FINGERS, INDEX, JOINTS, Pose, Rig, rotations

# Rotations are products of turns about the axes named, first letter outermost. Signs are for the left side and such
# that the angle's name says the positive direction; the right side mirrors y and z.
#: Joint kind -> ((angle, axis, sign, lowest, highest), ...). Degrees, after what the joints of adults allow.
LIMITS: dict[str, tuple[tuple[str, str, int, float, float], ...]] = {
    "pelvis": (("turn", "y", 1, -180, 180), ("flex", "x", 1, -90, 90), ("bend", "z", -1, -60, 60)),
    "spine": (("turn", "y", 1, -25, 25), ("flex", "x", 1, -20, 45), ("bend", "z", -1, -25, 25)),
    "chest": (("turn", "y", 1, -25, 25), ("flex", "x", 1, -15, 30), ("bend", "z", -1, -20, 20)),
    "neck": (("turn", "y", 1, -40, 40), ("flex", "x", 1, -30, 30), ("bend", "z", -1, -20, 20)),
    "head": (("turn", "y", 1, -40, 40), ("flex", "x", 1, -30, 30), ("bend", "z", -1, -20, 20)),
    "clavicle": (("forward", "y", -1, -20, 30), ("up", "z", 1, -10, 40)),
    "upper_arm": (("plane", "", 1, -60, 140), ("raise", "", 1, 0, 175), ("inward", "", 1, -80, 80)),
    "forearm": (("flex", "y", -1, 0, 150),),
    "hand": (("pronate", "x", 1, -85, 85), ("flex", "z", -1, -70, 80), ("tilt", "y", -1, -30, 25)),
    "thigh": (("flex", "x", -1, -30, 125), ("out", "z", 1, -25, 55), ("outward", "y", 1, -40, 45)),
    "shin": (("flex", "x", 1, 0, 150),),
    "foot": (("point", "x", 1, -30, 50), ("tilt", "z", 1, -20, 20)),
    "toes": (("lift", "x", -1, -20, 60),),
    "thumb1": (("out", "y", -1, -20, 30), ("curl", "thumb", 1, -15, 40)),
    "thumb2": (("curl", "thumb", 1, -10, 60),),
    "thumb3": (("curl", "thumb", 1, -15, 80),),
    **{f"{f}1": (("spread", "y", -1, -20, 20), ("curl", "z", -1, -20, 95)) for f in FINGERS[1:]},
    **{f"{f}2": (("curl", "z", -1, 0, 110),) for f in FINGERS[1:]},
    **{f"{f}3": (("curl", "z", -1, 0, 80),) for f in FINGERS[1:]},
}

# The thumb curls towards the base of the little finger.
_THUMB_AXIS = np.cross((0.70, -0.20, 0.68), (0.35, -0.60, -0.70))
_THUMB_AXIS /= np.linalg.norm(_THUMB_AXIS)
_AXES = {"x": np.array([1.0, 0, 0]), "y": np.array([0, 1.0, 0]), "z": np.array([0, 0, 1.0]), "thumb": _THUMB_AXIS}


def _kind(joint: str) -> tuple[str, int]:
    """Return a joint's kind and its side: 1 left or middle, -1 right."""
    side, _, kind = joint.partition("_")
    return (kind, 1 if side == "left" else -1) if side in ("left", "right") else (joint, 1)


#: Every angle a pose has: `left_forearm.flex` and so on, with its limits in degrees.
ANGLES: dict[str, tuple[float, float]] = {
    f"{joint}.{name}": (low, high) for joint in JOINTS for name, _, _, low, high in LIMITS[_kind(joint)[0]]
}


@lru_cache(maxsize=1)
def _turns() -> tuple[list[str], np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return the plain angles: names, joints, signed axes `(n, 3)`, and which come first, second, third."""
    names, joints, axes, order = [], [], [], []
    for joint in JOINTS:
        kind, side = _kind(joint)
        if kind == "upper_arm":
            continue
        for k, (name, axis, sign, _, _) in enumerate(LIMITS[kind]):
            mirror = np.array([1, side, side])
            names.append(f"{joint}.{name}")
            joints.append(INDEX[joint])
            axes.append(_AXES[axis] * sign * mirror)
            order.append(k)
    return names, np.array(joints), np.array(axes), [np.flatnonzero(np.array(order) == k) for k in range(3)]


def _shoulder(plane: float, up: float, inward: float, side: int) -> np.ndarray:
    """Return an upper arm's rotation: raised by `up` in the plane `plane` (0 sideways, 90 forward), then twisted."""
    plane, up, inward = np.radians((plane, up, inward))
    mirror = np.array([1, side, side])
    steps = rotations(np.array([[0, -plane, 0], [0, 0, up - np.pi / 2], [inward - plane, 0, 0]]) * mirror)
    return steps[0] @ steps[1] @ steps[2]


def pose_from_angles(angles: Mapping[str, float]) -> Pose:
    """Return the pose with these joint angles.

    Args:
        angles: Degrees by name of `ANGLES`; 0 where left out.

    Raises:
        KeyError: An angle of that name does not exist.
        ValueError: An angle is beyond its limits.
    """
    for name, value in angles.items():
        if name not in ANGLES:
            raise KeyError(f"unknown angle '{name}'; the names are those of posezoo.synth.poses.ANGLES")
        low, high = ANGLES[name]
        if not low - 1e-6 <= value <= high + 1e-6:
            raise ValueError(f"{name} is {value:g} degrees; people reach {low:g} to {high:g}")
    names, joints, axes, order = _turns()
    values = np.radians([angles.get(name, 0.0) for name in names])
    turns = rotations(axes * values[:, None])
    table = np.broadcast_to(np.eye(3), (len(JOINTS), 3, 3)).copy()
    for which in order:
        table[joints[which]] = table[joints[which]] @ turns[which]
    for side, sign in (("left", 1), ("right", -1)):
        plane, up, inward = (angles.get(f"{side}_upper_arm.{name}", 0.0) for name in ("plane", "raise", "inward"))
        table[INDEX[f"{side}_upper_arm"]] = _shoulder(plane, up, inward, sign)
    return Pose(table)


def angles_of_pose(pose: Pose) -> dict[str, float]:
    """Return a pose's joint angles in degrees: what `pose_from_angles` would take, up to what angles can express."""
    out: dict[str, float] = {}
    for joint in JOINTS:
        kind, side = _kind(joint)
        mirror = np.diag([side, 1.0, 1.0])
        rotation = mirror @ pose[joint] @ mirror
        rows = LIMITS[kind]
        if kind == "upper_arm":
            arm = rotation[:, 0]
            up = np.arccos(np.clip(-arm[1], -1, 1))
            plane = np.arctan2(arm[2], arm[0]) if np.hypot(arm[0], arm[2]) > 1e-6 else 0.0
            if plane < np.radians(-120):
                plane += 2 * np.pi
            rest = _shoulder(np.degrees(plane), np.degrees(up), 0, 1).T @ rotation
            values = [plane, up, np.arctan2(rest[2, 1], rest[1, 1])]
        elif len(rows) == 1 or rows[1][1] == "thumb":
            last = rotation
            values = []
            if len(rows) == 2:  # the thumb's root: about y, then about its own axis
                seen = rotation @ _THUMB_AXIS
                before = np.arctan2(_THUMB_AXIS[0], _THUMB_AXIS[2])
                turn = np.arctan2(seen[0], seen[2]) - before
                turn = (turn + np.pi) % (2 * np.pi) - np.pi
                values.append(turn * rows[0][2])
                last = rotations(np.array([0, -turn, 0])) @ rotation
            axis = _AXES[rows[-1][1]]
            sine = np.array([last[2, 1] - last[1, 2], last[0, 2] - last[2, 0], last[1, 0] - last[0, 1]]) @ axis
            values.append(np.arctan2(sine, np.trace(last) - 1) * rows[-1][2])
        else:
            values = [v * row[2] for v, row in zip(_euler(rotation, "".join(r[1] for r in rows)), rows)]
        out |= {f"{joint}.{row[0]}": float(np.degrees(v)) for row, v in zip(rows, values)}
    return out


def _euler(rotation: np.ndarray, axes: str) -> np.ndarray:
    """Return the angles (radians) of a product of turns about two or three different axes, outermost first."""
    i, j = "xyz".index(axes[0]), "xyz".index(axes[1])
    k = 3 - i - j
    sign = 1 if (j - i) % 3 == 1 else -1
    if len(axes) == 2:  # unlike three angles, two are unique all the way round
        first = np.arctan2(sign * rotation[k, j], rotation[j, j])
        unturned = rotations(-first * np.eye(3)[i]) @ rotation
        return np.array([first, np.arctan2(sign * unturned[i, k], unturned[k, k])])
    middle = np.arcsin(np.clip(sign * rotation[i, k], -1, 1))
    first = np.arctan2(-sign * rotation[j, k], rotation[k, k])
    last = np.arctan2(-sign * rotation[i, j], rotation[i, i])
    return np.array([first, middle, last])


# ---- activities


class _Draft:
    """Angles of a pose being made; everything is clipped to the limits."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.angles: dict[str, float] = {}

    def set(self, joint: str, jitter: float = 4.0, **angles: float) -> None:
        """Set angles, each with a random deviation."""
        for name, value in angles.items():
            key = f"{joint}.{name}"
            low, high = ANGLES[key]
            self.angles[key] = float(min(max(value + self.rng.normal(0, jitter), low), high))

    def arm(self, side: str, plane: float, up: float, inward: float, bend: float, pronate: float, *, jitter=7.0):
        self.set(f"{side}_upper_arm", jitter, plane=plane, inward=inward, **{"raise": up})
        self.set(f"{side}_forearm", jitter, flex=bend)
        self.set(f"{side}_hand", jitter, pronate=pronate, flex=0, tilt=0)
        # Above the horizontal the shoulder girdle comes along.
        self.set(f"{side}_clavicle", 2, up=max(0.0, up - 70) * 0.25, forward=0.1 * min(plane, 100) * np.sin(
            np.radians(min(up, 90))))  # fmt: skip

    def hanging(self, side: str) -> None:
        rng = self.rng
        self.arm(side, rng.uniform(-15, 60), abs(rng.normal(10, 5)) + 3, rng.normal(5, 12), abs(rng.normal(15, 12)),
                 rng.normal(10, 20), jitter=2)  # fmt: skip

    def leg(self, side: str, flex: float, knee: float, *, out: float = 3, outward: float = 8, jitter=3.0) -> None:
        self.set(f"{side}_thigh", jitter, flex=flex, out=out, outward=outward)
        self.set(f"{side}_shin", jitter, flex=knee)
        self.set(f"{side}_foot", jitter, point=flex - knee + 0.0, tilt=0)

    def trunk(self, flex: float = 0, turn: float = 0, bend: float = 0, *, jitter: float = 3) -> None:
        for joint, share in (("spine", 0.5), ("chest", 0.5)):
            self.set(joint, jitter, flex=flex * share, turn=turn * share, bend=bend * share)

    def look(self, turn: float, nod: float, *, jitter: float = 4) -> None:
        for joint in ("neck", "head"):
            self.set(joint, jitter, turn=turn / 2, flex=nod / 2, bend=0)

    def hands(self) -> None:
        for side in ("left", "right"):
            _random_hand(self, side)


def _random_hand(draft: _Draft, side: str, shape: str | None = None) -> None:
    """Give a hand a shape: relaxed, flat, spread, fist, pointing or any."""
    rng = draft.rng
    shape = shape or str(rng.choice(("relaxed", "flat", "spread", "fist", "pointing", "any"),
                                    p=(0.45, 0.12, 0.1, 0.12, 0.06, 0.15)))  # fmt: skip
    base = {"relaxed": rng.uniform(10, 35), "flat": 3.0, "spread": 3.0, "fist": 82.0, "pointing": 80.0}.get(shape, 0.0)
    for k, finger in enumerate(FINGERS[1:]):
        curl = rng.uniform(-5, 90) if shape == "any" else base + (3 * k if shape == "relaxed" else 0)
        if shape == "pointing" and finger == "index":
            curl = 3.0
        fan = (1.5 - k) * {"spread": 9.0, "flat": 1.0}.get(shape, 2.0)
        draft.set(f"{side}_{finger}1", 3, spread=fan, curl=curl)
        draft.set(f"{side}_{finger}2", 4, curl=curl * 1.1)
        draft.set(f"{side}_{finger}3", 3, curl=curl * 0.7)
    thumb = {"fist": 35.0, "pointing": 30.0, "spread": -8.0, "flat": 0.0}.get(shape, rng.uniform(-5, 25))
    draft.set(f"{side}_thumb1", 4, curl=thumb * 0.7, out={"spread": 20.0}.get(shape, 0.0))
    draft.set(f"{side}_thumb2", 4, curl=thumb)
    draft.set(f"{side}_thumb3", 4, curl=thumb * 1.2)


def _upright(d: _Draft) -> None:
    """Stand: arms hang, weight on both legs or on one, head anywhere."""
    rng = d.rng
    d.set("pelvis", 1.5, flex=0, bend=0, turn=0)
    d.trunk(rng.normal(2, 4), rng.normal(0, 6), rng.normal(0, 4), jitter=1.5)
    d.look(rng.normal(0, 22), rng.normal(4, 12))
    wide = abs(rng.normal(4, 5))
    for side in ("left", "right"):
        d.hanging(side)
        d.leg(side, rng.normal(1, 4), abs(rng.normal(3, 4)), out=wide + rng.normal(0, 2), outward=rng.normal(10, 8))
    if rng.random() < 0.3:  # one knee loose
        d.leg(str(rng.choice(("left", "right"))), 12, 25, out=wide + 4, outward=15)


def _standing(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    if rng.random() < 0.25:
        for side in ("left", "right") if rng.random() < 0.6 else (str(rng.choice(("left", "right"))),):
            _on_hip(d, side)


def _on_hip(d: _Draft, side: str) -> None:
    d.arm(side, 0, 48, 40, 92, 15, jitter=3)
    d.set(f"{side}_upper_arm", 3, plane=-20, inward=62, **{"raise": 46})
    d.set(f"{side}_hand", 3, flex=45, tilt=-10)


def _walking(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    phase, stride = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.3)
    d.trunk(rng.normal(4, 3), 7 * stride * np.sin(phase), 0, jitter=1)
    for side, shift in (("left", 0.0), ("right", np.pi)):
        p = phase + shift
        swing = np.sin(p)  # 1: leg in front
        lifted = max(0.0, np.cos(p)) ** 1.5  # leg coming forward, off the floor
        d.leg(side, 3 + 25 * stride * swing + 12 * lifted, 6 + 55 * stride * lifted + 6 * abs(swing), jitter=2)
        d.set(f"{side}_foot", 3, point=18 * stride * max(0.0, -swing) * (1 - lifted) - 8 * max(0.0, swing))
        d.set(f"{side}_toes", 2, lift=25 * max(0.0, -swing) * (1 - lifted))
        forward = -22 * stride * swing
        d.arm(side, 80 if forward > 0 else -60, abs(forward) + 5, 0, 12 + max(0.0, forward), 10, jitter=3)


def _reaching(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    for side in ("left", "right") if rng.random() < 0.35 else (str(rng.choice(("left", "right"))),):
        d.arm(side, rng.uniform(10, 110), rng.uniform(40, 150), rng.normal(0, 20), abs(rng.normal(15, 20)),
              rng.normal(20, 30), jitter=2)  # fmt: skip
    d.trunk(rng.normal(10, 10), rng.normal(0, 10), rng.normal(0, 6))
    d.set("pelvis", 2, flex=max(0.0, rng.normal(4, 6)), bend=0, turn=0)


def _sitting(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    lean = rng.normal(0, 8)
    d.set("pelvis", 1, flex=-8 + lean * 0.5, bend=0, turn=0)
    d.trunk(rng.normal(10, 8), rng.normal(0, 8), rng.normal(0, 4))
    wide, knee = abs(rng.normal(8, 8)), rng.normal(85, 12)
    for side in ("left", "right"):
        d.leg(side, 78 + rng.normal(0, 5), knee + rng.normal(0, 5), out=wide, outward=rng.normal(0, 6))
        d.set(f"{side}_foot", 4, point=78 - knee - 8 + rng.normal(0, 4))
        if rng.random() < 0.7:  # hand on the lap or on an armrest
            d.arm(
                side, rng.uniform(50, 85), rng.uniform(18, 34), rng.uniform(-5, 25), rng.uniform(48, 75), 45, jitter=3
            )
        else:
            d.hanging(side)
            d.set(f"{side}_upper_arm", 3, **{"raise": 25})
    if rng.random() < 0.15:  # cross-legged step: one leg over
        side = str(rng.choice(("left", "right")))
        d.set(f"{side}_thigh", 2, flex=98, out=-10)


def _waving(d: _Draft) -> None:
    _upright(d)
    side = str(d.rng.choice(("left", "right")))
    if d.rng.random() < 0.75:
        d.arm(side, d.rng.uniform(5, 60), d.rng.uniform(35, 85), -d.rng.uniform(55, 78), d.rng.uniform(85, 130), 20)
    else:
        d.arm(side, d.rng.uniform(0, 60), d.rng.uniform(130, 168), 0, d.rng.uniform(5, 50), 20)
    d.set(f"{side}_hand", 10, flex=-10, tilt=0)
    _random_hand(d, side, str(d.rng.choice(("flat", "spread"))))


def _stretching(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    kind = rng.integers(3)
    for side in ("left", "right"):
        if kind == 0:
            d.arm(side, rng.uniform(10, 70), rng.uniform(140, 172), 0, abs(rng.normal(15, 20)), 20)
        elif kind == 1:
            d.arm(side, rng.uniform(-20, 30), rng.uniform(75, 110), rng.normal(0, 20), abs(rng.normal(10, 12)), 0)
        else:
            d.arm(side, rng.uniform(70, 95), rng.uniform(75, 110), rng.normal(0, 15), abs(rng.normal(8, 10)), 20)
    d.trunk(rng.normal(-4, 7), rng.normal(0, 10), rng.normal(0, 14))
    d.look(rng.normal(0, 15), rng.normal(-8, 12))


def _turning(d: _Draft) -> None:
    _upright(d)
    turn = d.rng.choice((-1, 1)) * d.rng.uniform(18, 46)
    d.trunk(d.rng.normal(3, 4), turn, 0)
    d.look(turn * d.rng.uniform(0.2, 1.6), d.rng.normal(4, 8))
    d.leg("left", 8 * np.sign(turn), 12, outward=15 + turn / 4)
    d.leg("right", -8 * np.sign(turn), 12, outward=15 - turn / 4)


def _arms_crossed(d: _Draft) -> None:
    _upright(d)
    first = str(d.rng.choice(("left", "right")))
    other = "right" if first == "left" else "left"
    d.arm(first, 62, 40, 48, 102, 20, jitter=2)
    d.arm(other, 72, 36, 38, 100, 30, jitter=2)
    d.set(f"{first}_hand", 3, flex=15)
    d.set(f"{other}_hand", 3, flex=20)


def _crouching(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    deep = rng.uniform(0.35, 1.0)
    d.set("pelvis", 2, flex=10 + 22 * deep, bend=0, turn=0)
    d.trunk(rng.normal(14, 8), rng.normal(0, 8), 0)
    wide = abs(rng.normal(12, 8))
    for side in ("left", "right"):
        d.leg(side, 40 + 78 * deep, 55 + 85 * deep, out=wide, outward=wide)
        d.set(f"{side}_foot", 3, point=-22 + 30 * max(0.0, deep - 0.7))
        d.arm(side, rng.uniform(60, 95), rng.uniform(40, 75), rng.normal(5, 15), rng.uniform(10, 70), 20)
    d.look(rng.normal(0, 20), rng.normal(-15, 12))


def _bending(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    d.set("pelvis", 3, flex=rng.uniform(10, 55), bend=0, turn=0)
    down = d.angles["pelvis.flex"]
    d.trunk(rng.uniform(15, 55), rng.normal(0, 12), rng.normal(0, 6))
    for side in ("left", "right"):
        bend = abs(rng.normal(10, 12))
        d.leg(side, down + bend, 2 * bend)
        d.arm(side, rng.uniform(60, 95), rng.uniform(40, 95), rng.normal(0, 15), abs(rng.normal(15, 15)), 10)


def _hand_to_head(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    side = str(rng.choice(("left", "right")))
    d.arm(side, rng.uniform(45, 75), rng.uniform(45, 70), rng.uniform(-30, -5), rng.uniform(128, 146), 10, jitter=3)
    other = "right" if side == "left" else "left"
    if rng.random() < 0.4:
        d.arm(other, rng.uniform(50, 80), rng.uniform(15, 35), rng.uniform(10, 40), rng.uniform(60, 100), 20)


def _gesturing(d: _Draft) -> None:
    _upright(d)
    rng = d.rng
    for side in ("left", "right"):
        d.arm(
            side, rng.uniform(15, 95), rng.uniform(10, 80), rng.normal(0, 25), rng.uniform(15, 120), rng.normal(0, 35)
        )


def _any(d: _Draft) -> None:
    """Arms and head anywhere within their limits."""
    _upright(d)
    rng = d.rng
    for side in ("left", "right"):
        d.arm(side, rng.uniform(-40, 125), rng.uniform(5, 170), rng.uniform(-60, 60), rng.uniform(0, 140),
              rng.uniform(-70, 70))  # fmt: skip
        d.leg(side, rng.normal(15, 22), abs(rng.normal(15, 25)), out=rng.normal(10, 12), outward=rng.normal(5, 15))
        d.set(f"{side}_foot", 8, point=0)
    d.trunk(rng.normal(5, 14), rng.normal(0, 16), rng.normal(0, 12))
    d.look(rng.normal(0, 30), rng.normal(0, 20))


ACTIVITIES: dict[str, Callable[[_Draft], None]] = {
    "standing": _standing, "walking": _walking, "reaching": _reaching, "sitting": _sitting, "waving": _waving,
    "stretching": _stretching, "turning": _turning, "arms_crossed": _arms_crossed, "crouching": _crouching,
    "bending": _bending, "hand_to_head": _hand_to_head, "gesturing": _gesturing, "any": _any,
}  # fmt: skip

#: How often `random_pose` draws each activity.
FREQUENCIES = {
    "standing": 5, "walking": 5, "reaching": 4, "sitting": 2, "waving": 2, "stretching": 2, "turning": 2,
    "arms_crossed": 1, "crouching": 1, "bending": 1, "hand_to_head": 2, "gesturing": 4, "any": 3,
}  # fmt: skip

#: Deeper than this, in metres, no limb may sink into another part in `random_pose`.
DEPTH_ALLOWED_M = 0.02


def random_pose(
    rng: np.random.Generator, *, activity: str | None = None, rig: Rig | None = None, girth: float = 1.0
) -> Pose:
    """Draw a pose within the joints' limits that does not pass through itself.

    Args:
        rng: The same generator state gives the same pose.
        activity: One of `ACTIVITIES`; drawn after `FREQUENCIES` when not given.
        rig: Whose bones to test the pose on; those of the average built-in person when not given.
        girth: The trunk's thickness relative to that of an average person of the rig's size.

    Raises:
        KeyError: No activity of that name exists.
    """
    if activity is None:
        names = list(FREQUENCIES)
        shares = np.array([FREQUENCIES[n] for n in names], float)
        activity = str(rng.choice(names, p=shares / shares.sum()))
    if activity not in ACTIVITIES:
        raise KeyError(f"unknown activity '{activity}'; expected one of {', '.join(ACTIVITIES)}")
    best, least = None, np.inf
    for _ in range(12):
        draft = _Draft(rng)
        draft.hands()
        ACTIVITIES[activity](draft)
        pose = pose_from_angles(draft.angles)
        depth = self_overlap(pose, rig=rig, girth=girth)
        if depth < least:
            best, least = draft, depth
        if depth <= DEPTH_ALLOWED_M:
            return pose
    assert best is not None
    # Bring the arms away from the body until they are free.
    angles = best.angles
    for _ in range(12):
        for side in ("left", "right"):
            for name, value in ((f"{side}_upper_arm.raise", 18.0), (f"{side}_upper_arm.plane", 30.0),
                                (f"{side}_upper_arm.inward", 0.0), (f"{side}_forearm.flex", 15.0)):  # fmt: skip
                angles[name] += 0.25 * (value - angles[name])
            angles[f"{side}_thigh.out"] += 0.25 * (8 - angles[f"{side}_thigh.out"])
        pose = pose_from_angles(angles)
        if self_overlap(pose, rig=rig, girth=girth) <= DEPTH_ALLOWED_M:
            break
    return pose


@lru_cache(maxsize=1)
def _average_rig() -> Rig:
    from posezoo.synth.anatomy import template
    from posezoo.synth.procedural import built_in_rig

    t = template()
    return built_in_rig(t.joints, t.landmarks)


_ALONG = np.linspace(0, 1, 7)[:, None]
_RODS = (*(f"{s}_{j}" for s in ("left", "right") for j in ("upper_arm", "forearm", "hand", "thigh", "shin")), "head")


@lru_cache(maxsize=1)
def _clearances() -> np.ndarray:
    """Return how far apart, in metres, each two of `_RODS` must be in an average person; 0 where it does not matter."""
    number = {name: k for k, name in enumerate(_RODS)}
    flesh = {"thigh": 0.066, "shin": 0.045, "head": 0.078}
    out = np.zeros((len(_RODS), len(_RODS)))

    def apart(first: str, second: str, metres: float) -> None:
        a, b = number[first], number[second]
        out[a, b] = out[b, a] = metres

    for side in ("left", "right"):
        for limb, radius in (("forearm", 0.030), ("hand", 0.012)):
            apart(f"{side}_{limb}", "head", radius + flesh["head"])
            for other in ("left", "right"):
                for leg in ("thigh", "shin"):
                    apart(f"{side}_{limb}", f"{other}_{leg}", radius + flesh[leg])
    apart("left_forearm", "right_forearm", 0.066)
    apart("left_hand", "right_forearm", 0.050)
    apart("right_hand", "left_forearm", 0.050)
    apart("left_shin", "right_shin", 0.085)
    return out


def self_overlap(pose: Pose, *, rig: Rig | None = None, girth: float = 1.0) -> float:
    """Return how deep, in metres, limbs sink into the trunk, the head or each other; 0 when nothing does.

    Arms and legs are tested as rods with flesh of average thickness, the trunk as elliptical cylinders.
    """
    rig = rig or _average_rig()
    turn, at = rig.transforms(pose)
    carriers, starts, ends, size = _rods_of(rig)
    start, end = (np.einsum("rij,rj->ri", turn[carriers], p) + at[carriers] for p in (starts, ends))
    rods = start[:, None] + _ALONG * (end - start)[:, None]
    flat = rods.reshape(-1, 3)
    squares = (flat**2).sum(1)
    apart = squares[:, None] + squares - 2 * flat @ flat.T
    count = len(_RODS)
    apart = apart.reshape(count, 7, count, 7)
    least = np.sqrt(np.maximum(apart.min(axis=(1, 3)), 0))
    need = _clearances() * size
    worst = float(np.where(need > 0, need - least, 0).max())
    left_thigh, right_thigh = _RODS.index("left_thigh"), _RODS.index("right_thigh")
    thighs = np.sqrt(max(apart[left_thigh, 3:, right_thigh, 3:].min(), 0))
    worst = max(worst, 0.105 * size - thighs)

    hips = (start[left_thigh] + start[right_thigh]) / 2
    shoulders = (start[_RODS.index("left_upper_arm")] + start[_RODS.index("right_upper_arm")]) / 2
    length = np.linalg.norm(shoulders - hips)
    up = (shoulders - hips) / length
    across = pose["pelvis"][:, 0] + (pose["pelvis"] @ pose["spine"] @ pose["chest"])[:, 0]
    across = across - up * (across @ up)
    across /= np.linalg.norm(across)
    front = np.array([across[1] * up[2] - across[2] * up[1], across[2] * up[0] - across[0] * up[2],
                      across[0] * up[1] - across[1] * up[0]])  # fmt: skip
    limbs = [_RODS.index(f"{s}_{n}") for s in ("left", "right") for n in ("forearm", "hand")]
    radius = np.array([0.030, 0.012, 0.030, 0.012])[:, None]
    points = rods[limbs] - hips
    height = points @ up / length
    x, z = points @ across / size, points @ front / size + 0.01
    a = np.interp(height, (-0.1, 0.1, 0.35, 0.75, 1.05), (0.165, 0.165, 0.140, 0.160, 0.11)) * girth
    b = np.interp(height, (-0.1, 0.1, 0.35, 0.75, 1.05), (0.095, 0.100, 0.098, 0.105, 0.06)) * girth
    depth = (1 - np.sqrt((x / a) ** 2 + (z / b) ** 2)) * np.minimum(a, b) + radius
    depth = np.where((height > -0.12) & (height < 1.05), depth, 0)
    depth[[0, 2], 0] = 0  # the elbows, which may touch the ribs
    return max(worst, float(depth.max()) * size, 0.0)


@lru_cache(maxsize=64)
def _rods_of(rig: Rig) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return for `_RODS`: carrying joints `(R,)`, both ends relative to them `(R, 3)`, and the person's size."""
    index = {n: k for k, n in enumerate(rig.names)}
    carriers = [_carrier(rig, index, name) for name in _RODS]
    starts, ends = [], []
    hip, shoulder = ((rig.anchors[f"left_{n}"][0] + rig.anchors[f"right_{n}"][0]) / 2 for n in ("thigh", "upper_arm"))
    size = float(np.linalg.norm(shoulder - hip) / 0.492)  # relative to the average person's trunk
    for name, carrier in zip(_RODS, carriers):
        if name == "head":
            up = np.array([0, 1.0, 0.12]) * size
            start, end = rig.rest[carrier] + 0.03 * up, rig.rest[carrier] + 0.11 * up
        else:
            start, end = rig.anchors[name]
            if name.endswith("hand"):
                end = end + 0.7 * (end - start)
        starts.append(start - rig.rest[carrier])
        ends.append(end - rig.rest[carrier])
    return np.array(carriers), np.array(starts), np.array(ends), size


def _carrier(rig: Rig, index: Mapping[str, int], joint: str) -> int:
    if joint in index:
        return index[joint]
    return next(k for k, d in enumerate(rig.drivers) if d.joint == joint and not d.twist_only)


def with_random_hands(pose: Pose, rng: np.random.Generator) -> Pose:
    """Return the pose with fingers drawn anew; motion files rarely record them."""
    draft = _Draft(rng)
    draft.hands()
    drawn = pose_from_angles(draft.angles)
    return pose.changed({name: drawn[name] for name in JOINTS if name[:-1].endswith(FINGERS)})
