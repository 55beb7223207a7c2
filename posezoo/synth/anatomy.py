"""The built-in person's shape: simple solids melted into one skin, and how build, sex and age change it.

Bones, muscles and features are ellipsoids and tapered sweeps. Their smooth union is turned into one closed surface
once; each way in which people differ then becomes a displacement of that surface's vertices, found by moving the
solids and letting the vertices follow. A random person is a weighted sum, so it costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from posezoo.skeletons import mirrored
from posezoo.synth.body import FINGER_LANDMARKS, LANDMARKS, vertex_normals
from posezoo.synth.rig import JOINTS, rotations

#: How people differ. 0 is an average adult between woman and man; +1 (and -1) what the name says.
TRAITS = (
    "female", "fat", "muscle", "child",
    "leg_length", "arm_length", "shoulder_width", "hip_width", "head_size", "hand_size", "foot_size", "neck_length",
    "belly", "nose", "jaw",
)  # fmt: skip

_ARM_DOWN = np.pi / 4  # at rest arms point this far below the horizontal

#: Bones that share out a limb's twist: (rig joint, the joint it belongs to). They carry the half of the limb
#: that is nearer the trunk (upper arm, thigh) or nearer the hand (forearm).
TWIST_JOINTS = {
    f"{side}_{name}": f"{side}_{joint}"
    for side in ("left", "right")
    for name, joint in (("upper_arm_root", "upper_arm"), ("thigh_root", "thigh"), ("forearm_end", "forearm"))
}
RIG_JOINTS = (*JOINTS, *TWIST_JOINTS)


@dataclass(frozen=True)
class Solid:
    """A sweep of ellipses (or squarer shapes) along a straight axis, with rounded ends.

    Attributes:
        start: `(3,)` and the axes it spans: `frame` `(3, 3)` rows are across, front, along (unit vectors).
        length: Along the axis, metres; 0 for an ellipsoid.
        knots: `(n,)` positions along the axis, 0..1.
        profile: `(n, 4)` half-widths at the knots: across, front, back, and the centre's shift to the front.
        caps: How far the ends bulge out, at start and end.
        power: 2 for ellipses; more is squarer.
        blend: Metres over which it melts into what came before.
        carve: Take the solid away instead of adding it.
        bones: Rig joints that carry it: a name, or `(position 0..1, name)` pairs between which weights pass over.
        part: The part's label, or none for that of the nearest other solid.
    """

    start: np.ndarray
    frame: np.ndarray
    length: float
    knots: np.ndarray
    profile: np.ndarray
    caps: tuple[float, float]
    power: float
    blend: float
    carve: bool
    bones: tuple[tuple[float, str], ...]
    part: str | None

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return about how far points `(n, 3)` are outside the solid, metres; negative inside."""
        local = (points - self.start) @ self.frame.T
        along = np.clip(local[:, 2], 0, self.length)
        over = local[:, 2] - along
        if self.length > 0 and len(self.knots) > 1:
            at = along / self.length
            a, front, back, shift = (np.interp(at, self.knots, self.profile[:, k]) for k in range(4))
        else:
            a, front, back, shift = self.profile[0]
        y = local[:, 1] - shift
        b = np.where(y > 0, front, back)
        c = np.where(over > 0, self.caps[1], self.caps[0])
        x = local[:, 0] / a
        y = y / b
        z = over / c
        if self.power == 2:
            flat = x * x + y * y
        else:
            p = self.power
            flat = (np.abs(x) ** p + np.abs(y) ** p) ** (2 / p)
        size = np.sqrt(flat + z * z)
        slope = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        # On the axis both are 0: the quotient is the radius there, and the point is deep inside.
        return np.where(slope > 1e-6, size / np.maximum(slope, 1e-6), a) * (size - 1)

    def bounds(self) -> tuple[np.ndarray, float]:
        """Return centre `(3,)` and radius of a ball around the solid."""
        wide = float(np.hypot(self.profile[:, 0], np.maximum(self.profile[:, 1], self.profile[:, 2])).max())
        wide += float(np.abs(self.profile[:, 3]).max())
        centre = self.start + self.frame[2] * self.length / 2
        return centre, float(np.hypot(self.length / 2 + max(self.caps), wide))


def _smooth_profile(table: np.ndarray, count: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """Return a finely sampled curve through the rows `(position, values...)` of a table, without overshoot.

    Cubic between rows; at each row the slope is the harmonic mean of those beside it, or 0 at a turning point.
    """
    at, values = table[:, 0], table[:, 1:]
    if len(table) < 2:
        return np.zeros(1), values
    step = np.diff(at)[:, None]
    rise = np.diff(values, axis=0) / step
    slope = np.empty_like(values)
    slope[0], slope[-1] = rise[0], rise[-1]
    before, after = rise[:-1], rise[1:]
    same = before * after > 0
    slope[1:-1] = np.where(same, 2 * before * after / np.where(same, before + after, 1), 0)
    knots = np.linspace(0, 1, count)
    k = np.clip(np.searchsorted(at, knots, side="right") - 1, 0, len(at) - 2)
    t = (knots - at[k])[:, None] / step[k]
    t2, t3 = t * t, t * t * t
    curve = (2 * t3 - 3 * t2 + 1) * values[k] + (3 * t2 - 2 * t3) * values[k + 1]
    return knots, curve + step[k] * ((t3 - 2 * t2 + t) * slope[k] + (t3 - t2) * slope[k + 1])


class Sculpture:
    """Collects the solids of the left half and the middle; the right half is its mirror image."""

    def __init__(self) -> None:
        self.solids: list[Solid] = []
        self.joints: dict[str, np.ndarray] = {}
        self.landmarks: dict[str, np.ndarray] = {}

    def sweep(
        self,
        start: Sequence[float] | np.ndarray,
        end: Sequence[float] | np.ndarray,
        table: Sequence[Sequence[float]],
        *,
        bones: str | Sequence[tuple[float, str]],
        part: str | None = None,
        caps: tuple[float, float] | None = None,
        front: Sequence[float] | np.ndarray = (0, 0, 1),
        power: float = 2,
        blend: float = 0.03,
        carve: bool = False,
    ) -> None:
        """Add a sweep; rows of `table`: (position, across, front[, back[, shift]])."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        length = float(np.linalg.norm(end - start))
        along = (end - start) / length
        forward = np.asarray(front, float)
        forward = forward - along * (forward @ along)
        forward /= np.linalg.norm(forward)
        rows = []
        for row in table:
            at, across, ahead, *rest = row
            back = rest[0] if rest else ahead
            rows.append((at, across, ahead, back, rest[1] if len(rest) > 1 else 0.0))
        knots, profile = _smooth_profile(np.array(rows, float))
        if caps is None:
            caps = (float(profile[0, :3].min()), float(profile[-1, :3].min()))
        spread = ((0.0, bones),) if isinstance(bones, str) else tuple(bones)
        frame = np.stack([np.cross(forward, along), forward, along])
        self.solids.append(Solid(start, frame, length, knots, profile, caps, power, blend, carve, spread, part))

    def ball(
        self,
        centre: Sequence[float] | np.ndarray,
        radii: Sequence[float] | np.ndarray,
        *,
        bones: str | Sequence[tuple[float, str]],
        part: str | None = None,
        turn: Sequence[float] = (0, 0, 0),
        blend: float = 0.03,
        carve: bool = False,
    ) -> None:
        """Add an ellipsoid with half-widths along x, y, z, turned by a rotation vector in radians."""
        frame = np.eye(3)[[0, 2, 1]] @ rotations(np.array(turn, float)).T
        frame[0] *= -1 if np.linalg.det(frame) < 0 else 1
        profile = np.array([[radii[0], radii[2], radii[2], 0.0]])
        spread = ((0.0, bones),) if isinstance(bones, str) else tuple(bones)
        self.solids.append(
            Solid(np.asarray(centre, float), frame, 0.0, np.zeros(1), profile, (radii[1], radii[1]), 2, blend, carve,
                  spread, part)
        )  # fmt: skip


def sculpted(traits: dict[str, float]) -> Sculpture:
    """Return solids, joints and landmarks of a person with these traits, about 1.72 m tall, heels at 0.

    Joints and landmarks on the left side are given; the right side mirrors them. Everything is in metres.
    """
    t = dict.fromkeys(TRAITS, 0.0) | traits
    fem, fat, muscle, child = t["female"], t["fat"], t["muscle"], t["child"]
    s = Sculpture()

    # ---- lengths
    leg = 1 + 0.07 * t["leg_length"] - 0.13 * child
    arm = 1 + 0.07 * t["arm_length"] - 0.08 * child
    wide = 1 + 0.07 * t["shoulder_width"] - 0.055 * fem - 0.05 * child + 0.03 * muscle
    hips = 1 + 0.08 * t["hip_width"] + 0.05 * fem - 0.04 * child
    head = 1 + 0.06 * t["head_size"] - 0.025 * fem + 0.40 * child
    hand = 1 + 0.09 * t["hand_size"] - 0.05 * fem + 0.05 * child
    foot = 1 + 0.09 * t["foot_size"] - 0.05 * fem + 0.02 * child
    neck_up = 0.018 * t["neck_length"] - 0.028 * child + 0.004 * fem
    soft = 1 + 0.10 * fat  # limbs thicken with fat
    firm = 1 + 0.10 * muscle - 0.055 * fem
    baby = 1 + 0.06 * child

    # ---- joints
    hip_y = 0.085 + 0.825 * leg
    lift = hip_y - 0.91  # the trunk rides on the legs

    def up(x: float, y: float, z: float) -> np.ndarray:
        return np.array([x, y + lift, z])

    hip = up(0.089 * hips, 0.91, 0.0)
    ankle = np.array([0.150 * (0.6 + 0.4 * hips), 0.085, -0.022])
    knee = hip + (ankle - hip) * 0.502 + np.array([0.0, 0, 0.014])
    ball = ankle + np.array([0.018, -0.063, 0.127 * foot])
    shoulder = up(0.175 * wide, 1.402, -0.018)
    down = np.array([np.cos(_ARM_DOWN), -np.sin(_ARM_DOWN), 0])
    over = np.array([np.sin(_ARM_DOWN), np.cos(_ARM_DOWN), 0])
    elbow = shoulder + down * 0.288 * arm + np.array([0, 0, -0.008])
    wrist = elbow + (down + np.array([0, 0, 0.045])) * 0.252 * arm
    s.joints |= {
        "pelvis": up(0, 0.945, 0), "spine": up(0, 1.045, -0.012), "chest": up(0, 1.19, -0.02),
        "neck": up(0, 1.445, -0.028),
        "left_clavicle": up(0.025, 1.415, 0.015), "left_upper_arm": shoulder, "left_forearm": elbow,
        "left_hand": wrist, "left_thigh": hip, "left_shin": knee, "left_foot": ankle, "left_toes": ball,
    }  # fmt: skip

    # ---- trunk
    w, d = 1 + 0.12 * fat, 1 + 0.20 * fat
    chest_w = (1 - 0.05 * fem + 0.05 * muscle - 0.03 * child) * (1 + 0.07 * fat)
    waist_w = (1 - 0.055 * fem + 0.03 * child) * w
    hip_w = hips * (1 + 0.075 * fat)
    bulge = 0.018 * fat + 0.022 * t["belly"] + 0.008 * child
    rows = [
        # height, half-width, front, back, shift to the front
        (0.865, 0.120 * hip_w, 0.085 * d, 0.085, 0.0),
        (0.900, 0.158 * hip_w, 0.094 * d, 0.096, 0.0),
        (0.940, 0.168 * hip_w, 0.098 * d, 0.100, 0.0),
        (0.985, 0.163 * hip_w, 0.100 * d, 0.094, 0.0),
        (1.040, 0.147 * waist_w, 0.097 * d + bulge, 0.084 * d, 0.0),
        (1.100, 0.139 * waist_w, 0.098 * d + bulge, 0.078 * d, 0.0),
        (1.170, 0.145 * waist_w**0.5 * chest_w**0.5, 0.102 * d + 0.6 * bulge, 0.083 * d, -0.004),
        (1.250, 0.158 * chest_w, 0.110 * d**0.5, 0.094 * d**0.5, -0.010),
        (1.320, 0.166 * chest_w, 0.108 * d**0.5, 0.100 * d**0.5, -0.016),
        (1.380, 0.158 * chest_w * wide, 0.088 * d**0.3, 0.092 * d**0.3, -0.020),
        (1.420, 0.118 * chest_w * wide, 0.064, 0.074, -0.024),
        (1.455, 0.066, 0.046, 0.056, -0.028),
    ]
    low, high = rows[0][0], rows[-1][0]
    span = high - low
    table = [((y - low) / span, *rest) for y, *rest in rows]
    spine = [((y - low) / span, name) for y, name in (
        (0.95, "pelvis"), (1.06, "spine"), (1.13, "spine"), (1.24, "chest"))]  # fmt: skip
    s.sweep(up(0, low, 0), up(0, high, 0), table, bones=spine, part="torso", caps=(0.045, 0.02), power=2.35)
    # Shoulder girdle: trapezius to the tip of the shoulder, collar bones, shoulder blades.
    tip = shoulder + np.array([0.006, 0.028, -0.006])
    s.sweep(
        up(0.022, 1.475, -0.038),
        tip,
        [(0, 0.036, 0.036), (0.5, 0.033, 0.034), (1, 0.030, 0.034)],
        bones=[(0.0, "chest"), (0.35, "left_clavicle")],
        part="torso",
        blend=0.04,
    )
    bulk = firm * (1 + 0.06 * fat)
    s.ball(
        up(0.083 * wide, 1.318, 0.052),
        (0.078 * wide, 0.056, 0.040 * bulk),
        bones="chest",
        part="torso",
        turn=(0, 0.25, 0.15),
        blend=0.03,
    )
    s.ball(up(0.088 * wide, 1.310, -0.078), (0.068, 0.082, 0.034), bones="chest", part="torso", turn=(0, -0.2, 0))
    # The number and order of solids never change, so that vertices can follow each one.
    size = 0.030 * (1 + fem) / 2 + 0.006 * max(fat, -1) + 0.002
    breast = 0.028 + size * max(1 - child, 0.0)
    s.ball(up(0.079, 1.262, 0.078 + 0.004 * fat), (breast + 0.012, breast + 0.010, breast), bones="chest",
           part="torso", blend=0.028, turn=(0.15, 0.2, 0))  # fmt: skip
    s.ball(up(0, 1.035, 0.052 + 0.03 * (d - 1) + bulge), (0.110 * w, 0.095, 0.048 + bulge), bones="spine",
           part="torso", blend=0.04)  # fmt: skip
    s.ball(up(0.074 * hips, 0.905, -0.062 - 0.008 * fat), (0.080 * hip_w, 0.088, 0.066 * (1 + 0.06 * fem + 0.08 * fat)),
           bones=[(0.0, "pelvis")], part="pelvis", blend=0.035)  # fmt: skip

    # ---- legs
    thick = soft * baby * (1 + 0.03 * fem) * (1 + 0.06 * muscle)
    s.sweep(hip + np.array([-0.004, -0.01, 0]), knee, [
        (0.00, 0.083 * thick, 0.082 * thick, 0.084 * thick, 0.000),
        (0.18, 0.081 * thick, 0.085 * thick, 0.083 * thick, 0.002),
        (0.50, 0.068 * thick, 0.074 * thick, 0.069 * thick, 0.004),
        (0.78, 0.053 * thick**0.7, 0.057 * thick**0.7, 0.053 * thick**0.7, 0.001),
        (0.92, 0.048, 0.052, 0.049, 0.000),
        (1.00, 0.047, 0.052, 0.047, 0.000),
    ], bones=[(0.1, "left_thigh_root"), (0.7, "left_thigh")], part="left_thigh", blend=0.035)  # fmt: skip
    calf = soft**0.6 * firm * baby
    s.sweep(knee, ankle, [
        (0.00, 0.046, 0.050, 0.046, 0.000),
        (0.12, 0.046 * calf, 0.045, 0.054 * calf, 0.000),
        (0.30, 0.051 * calf, 0.042, 0.069 * calf, 0.000),
        (0.50, 0.044 * calf, 0.039, 0.056 * calf, 0.000),
        (0.75, 0.032 * calf**0.5, 0.033, 0.038 * calf**0.5, 0.000),
        (0.92, 0.029, 0.033, 0.035, 0.000),
        (1.00, 0.035, 0.034, 0.036, 0.000),
    ], bones="left_shin", part="left_shin", blend=0.02)  # fmt: skip
    s.ball(knee + np.array([0, 0.004, 0.032]), (0.034, 0.040, 0.026), bones=[(0.0, "left_shin")], part="left_shin",
           blend=0.02)  # fmt: skip

    # ---- feet
    toward = (ball - ankle) * (1, 0, 1)
    toward /= np.linalg.norm(toward)
    side = np.array([toward[2], 0, -toward[0]])  # the person's left
    heel = ankle + np.array([0, -0.050, 0]) - toward * 0.030 * foot
    s.sweep(heel, ball + np.array([0, 0.006, 0]), [
        (0.0, 0.031 * foot, 0.034, 0.036), (0.35, 0.033 * foot, 0.042, 0.030), (0.7, 0.042 * foot, 0.034, 0.026),
        (1.0, 0.046 * foot, 0.024, 0.024),
    ], bones=[(0.8, "left_foot"), (1.05, "left_toes")], part="left_foot", front=(0, 1, 0), power=2.4, blend=0.02,
        caps=(0.030, 0.03))  # fmt: skip
    s.sweep(ankle + np.array([0, -0.004, 0.006]), ball + np.array([0, 0.012, 0]) - toward * 0.02, [
        (0.0, 0.033, 0.034), (0.5, 0.034 * foot, 0.030), (1.0, 0.036 * foot, 0.022),
    ], bones="left_foot", part="left_foot", front=(0, 1, 0), blend=0.02)  # fmt: skip
    s.sweep(ball + np.array([0, 0.001, 0]) - side * 0.002, ball + toward * 0.046 * foot - np.array([0, 0.006, 0]), [
        (0.0, 0.044 * foot, 0.021, 0.020), (1.0, 0.035 * foot, 0.014, 0.014),
    ], bones="left_toes", part="left_foot", front=(0, 1, 0), power=2.4, blend=0.015, caps=(0.02, 0.016))  # fmt: skip

    # ---- arms. Frames: along the arm; "across" is over the back of the hand, front is the thumb's side.
    round_ = soft**0.9 * baby * (1 + 0.08 * muscle - 0.04 * fem)
    s.ball(
        shoulder + over * 0.004 + down * 0.022,
        (0.058 * firm * soft**0.5, 0.058 * firm * soft**0.5, 0.060 * firm * soft**0.4),
        bones=[(0.0, "left_upper_arm_root")],
        part="left_upper_arm",
        blend=0.045,
    )
    s.sweep(shoulder + down * 0.01, elbow, [
        (0.00, 0.047 * round_, 0.051 * round_), (0.25, 0.046 * round_, 0.049 * round_, 0.047 * round_),
        (0.50, 0.044 * round_, 0.046 * round_, 0.047 * round_), (0.80, 0.038 * round_**0.7, 0.038 * round_**0.7),
        (1.00, 0.036, 0.038),
    ], bones=[(0.1, "left_upper_arm_root"), (0.7, "left_upper_arm")], part="left_upper_arm", blend=0.04)  # fmt: skip
    lower = soft**0.6 * baby * (1 + 0.06 * muscle - 0.06 * fem)
    s.sweep(elbow, wrist, [
        (0.00, 0.036, 0.039), (0.20, 0.042 * lower, 0.044 * lower), (0.45, 0.037 * lower, 0.039 * lower),
        (0.80, 0.026 * lower**0.6, 0.031 * lower**0.6), (1.00, 0.0215, 0.029),
    ], bones=[(0.1, "left_forearm"), (0.75, "left_forearm_end")], part="left_forearm", blend=0.02)  # fmt: skip

    # ---- hand
    out = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    thumbward = np.array([0, 0, 1.0]) - out * out[2]
    thumbward /= np.linalg.norm(thumbward)
    back = np.cross(thumbward, out)  # out of the back of the hand
    k = hand * (1 + 0.0 * fat)

    def in_hand(along: float, across: float, above: float) -> np.ndarray:
        return wrist + k * (out * along + thumbward * across + back * above)

    s.sweep(in_hand(-0.005, 0, 0), in_hand(0.088, -0.001, -0.002), [
        (0.0, 0.021 * k, 0.028 * k), (0.4, 0.017 * k, 0.037 * k, 0.036 * k), (1.0, 0.0125 * k, 0.043 * k, 0.041 * k),
    ], bones="left_hand", part="left_hand", front=thumbward, power=2.6, blend=0.02,
        caps=(0.012, 0.008 * k))  # fmt: skip
    fingers = {
        "index": ((0.092, 0.031), (0.043, 0.025, 0.021), 0.0088, 0.13),
        "middle": ((0.096, 0.0095), (0.047, 0.029, 0.022), 0.0090, 0.03),
        "ring": ((0.091, -0.0115), (0.043, 0.027, 0.021), 0.0085, -0.07),
        "little": ((0.082, -0.031), (0.034, 0.020, 0.019), 0.0075, -0.20),
    }
    for finger, ((along, across), bones, radius, fan) in fingers.items():
        direction = out * np.cos(fan) + thumbward * np.sin(fan) - back * 0.03
        direction /= np.linalg.norm(direction)
        at = in_hand(along, across, -0.002)
        r = radius * k * (1 + 0.04 * fat)
        for n, bone in enumerate(bones):
            name = f"left_{finger}{n + 1}"
            end = at + direction * bone * k
            s.joints[name] = at
            tip_end = end if n < 2 else end - direction * r * 0.8
            first = at - direction * 0.018 * k if n == 0 else at
            s.sweep(first, tip_end, [(0, r * (1 - 0.06 * n), r * (1 - 0.06 * n)), (1, r * (0.92 - 0.06 * n),
                    r * (0.92 - 0.06 * n))], bones=name if n else [(0.1, "left_hand"), (0.5, name)],
                    part="left_hand", front=thumbward, blend=0.003 if n else 0.008)  # fmt: skip
            s.landmarks[f"left_{FINGER_LANDMARKS[finger]}{n + 1}"] = at
            at = end
        s.landmarks[f"left_{FINGER_LANDMARKS[finger]}4"] = at - direction * r * 0.6
    at = in_hand(0.020, 0.024, -0.008)
    direction = out * 0.72 + thumbward * 0.66 - back * 0.22
    direction /= np.linalg.norm(direction)
    for n, (bone, radius) in enumerate(((0.046, 0.0135), (0.033, 0.0105), (0.027, 0.0098))):
        name = f"left_thumb{n + 1}"
        end = at + direction * bone * k
        s.joints[name] = at
        r = radius * k
        tip_end = end if n < 2 else end - direction * r * 0.8
        s.sweep(at, tip_end, [(0, r, r), (1, r * 0.92, r * 0.92)], bones=name, part="left_hand", front=back,
                blend=0.016 if n == 0 else 0.004)  # fmt: skip
        s.landmarks[f"left_thumb{n + 1}"] = at
        at = end
    s.landmarks["left_thumb4"] = at - direction * 0.006
    s.landmarks["left_hand_root"] = wrist

    # ---- neck and head
    top = up(0, 1.558 + neck_up, 0.0)  # where the head turns on the neck
    s.joints["head"] = top
    slim = (1 - 0.10 * fem + 0.07 * muscle) * (1 + 0.06 * fat) * (1 - 0.10 * child)
    s.sweep(up(0, 1.405, -0.030), top + np.array([0, 0.02, -0.004]), [
        (0.0, 0.066 * slim, 0.058 * slim, 0.060 * slim), (0.45, 0.057 * slim, 0.055 * slim, 0.056 * slim),
        (1.0, 0.054 * slim, 0.050 * slim, 0.058 * slim),
    ], bones=[(0.15, "chest"), (0.45, "neck"), (0.65, "neck"), (1.0, "head")], part="neck", blend=0.035)  # fmt: skip

    jaw = 1 - 0.07 * fem + 0.06 * t["jaw"] + 0.08 * fat - 0.05 * child
    chin_up = 0.012 * child + 0.004 * fem
    big = 1 - 0.10 * child  # the face stays small in a child's head

    def h(x: float, y: float, z: float) -> np.ndarray:
        """A point of the head, given from its turning point."""
        return top + head * np.array([x, y, z])

    def face(x: float, y: float, z: float) -> np.ndarray:
        return h(x * big, 0.075 + (y - 0.075) * big, z)

    def sized(*radii: float) -> tuple[float, ...]:
        return tuple(head * radius for radius in radii)

    s.ball(h(0, 0.091, -0.012), sized(0.075, 0.086, 0.093), part="head", bones="head")
    s.ball(h(0, 0.105, 0.028), sized(0.066, 0.062, 0.066), part="face", bones="head")  # forehead
    s.sweep(face(0, 0.070, 0.036), face(0, -0.022 + chin_up, 0.052), [
        (0.0, *sized(0.066, 0.054, 0.06)), (0.45, *sized(0.061 * jaw, 0.048, 0.06)),
        (0.8, *sized(0.046 * jaw, 0.041, 0.05)), (1.0, *sized(0.032 * jaw, 0.036, 0.04)),
    ], bones="head", part="face", blend=0.02, caps=(0.02, 0.012), power=2.2)  # fmt: skip
    s.sweep(h(0.050 * jaw, 0.028, -0.004), face(0.020, -0.020 + chin_up, 0.068), [
        (0, *sized(0.016, 0.026)), (1, *sized(0.014, 0.016))], bones="head", part="face", blend=0.03)  # fmt: skip
    s.ball(face(0, -0.022 + chin_up, 0.079), sized(0.021 * jaw, 0.014, 0.014), bones="head", part="face", blend=0.015)
    s.ball(face(0.040, 0.042, 0.064), sized(0.024 + 0.003 * fat, 0.020, 0.022), bones="head", part="face", blend=0.02)
    s.sweep(
        face(0.006, 0.090, 0.088),
        face(0.046, 0.087, 0.068),
        [(0, *sized(0.010, 0.011)), (1, *sized(0.008, 0.010))],
        bones="head",
        part="face",
        blend=0.012,
    )  # brow
    s.ball(face(0.032, 0.070, 0.101), sized(0.019, 0.0125, 0.019), bones="head", blend=0.010, carve=True)  # eye socket
    s.ball(face(0.0315, 0.070, 0.0745), sized(0.0135, 0.0125, 0.0125), bones="head", part="face", blend=0.004)
    size = (1 + 0.25 * t["nose"] - 0.06 * fem) * (1 - 0.25 * child)
    s.sweep(
        face(0, 0.074, 0.086),
        face(0, 0.034, 0.1010 + 0.010 * (size - 1)),
        [
            (0.0, *sized(0.0085, 0.012)),
            (0.6, *sized(0.0095 * size, 0.014 * size)),
            (1.0, *sized(0.0125 * size, 0.0135 * size)),
        ],
        bones="head",
        part="face",
        blend=0.010,
        front=(0, 0, 1),
    )  # nose
    s.ball(
        face(0.012 * size, 0.029, 0.0935), sized(0.0085 * size, 0.008, 0.010), bones="head", part="face", blend=0.006
    )
    s.ball(face(0, 0.006, 0.0865), sized(0.023, 0.0065, 0.010), bones="head", part="face", blend=0.008)  # lips
    s.ball(face(0, -0.003, 0.0855), sized(0.019, 0.006, 0.010), bones="head", part="face", blend=0.005)
    s.ball(
        h(0.077, 0.058, -0.008),
        sized(0.007, 0.030, 0.018),
        bones="head",
        part="head",
        turn=(-0.2, -0.45, 0.12),
        blend=0.008,
    )  # ear

    # ---- landmarks
    s.landmarks |= {
        "neck": up(0, 1.425, -0.020), "head": h(0, 0.075, 0.010), "head_top": h(0, 0.174, -0.012),
        "nose": face(0, 0.036, 0.108 + 0.01 * (size - 1)), "left_eye": face(0.0315, 0.070, 0.082),
        "left_ear": h(0.079, 0.058, -0.006),
        "left_shoulder": shoulder, "left_elbow": elbow, "left_wrist": wrist, "left_hip": hip, "left_knee": knee,
        "left_ankle": ankle,
        "left_big_toe": ball + toward * 0.042 * foot - side * 0.014 - np.array([0, 0.004, 0]),
        "left_small_toe": ball + toward * 0.020 * foot + side * 0.034 * foot - np.array([0, 0.004, 0]),
        "left_heel": heel - toward * 0.018 * foot - np.array([0, 0.012, 0]),
    }  # fmt: skip
    return s


def _near(solids: Sequence[Solid], points: np.ndarray, margin: float) -> list[np.ndarray]:
    """Return for each solid which of `points` `(n, 3)` lie within `margin` metres of a ball around it."""
    centres, radii = zip(*(solid.bounds() for solid in solids))
    away = (points**2) @ np.ones((3, 1)) - 2 * points @ np.array(centres).T + (np.array(centres) ** 2).sum(1)
    close = away < (np.array(radii) + margin) ** 2
    return [np.flatnonzero(close[:, k]) for k in range(len(solids))]


def _folded(points: np.ndarray) -> np.ndarray:
    """Return points `(..., 3)` with those on the right mirrored to the left."""
    out = points.copy()
    out[..., 0] = np.abs(out[..., 0])
    return out


def surface_distance(
    solids: Sequence[Solid],
    points: np.ndarray,
    *,
    margin: float = 0.06,
    near: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Return about how far points `(n, m, 3)` lie outside the melted solids, metres; `margin` or more where far away.

    Args:
        solids: In the order in which they melt into each other.
        points: Groups of points that are close together.
        margin: Farther than this is not told apart.
        near: For each solid, which of the `n` groups may be near it; found out when not given.
    """
    folded = _folded(points)
    out = np.full(points.shape[:2], margin)
    for solid, who in zip(solids, near or _near(solids, folded[:, 0], margin)):
        if not len(who):
            continue
        distance = solid.distance(folded[who].reshape(-1, 3)).reshape(len(who), -1)
        before, k = out[who], solid.blend
        if solid.carve:
            mix = np.maximum(k - np.abs(before + distance), 0) / k
            out[who] = np.maximum(before, -distance) + mix * mix * k / 4
        else:
            mix = np.maximum(k - np.abs(before - distance), 0) / k
            out[who] = np.minimum(before, distance) - mix * mix * k / 4
    return out


def onto_surface(solids: Sequence[Solid], points: np.ndarray, *, steps: int) -> np.ndarray:
    """Move points `(n, 3)` along the gradient onto the melted solids' surface."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 6e-4
    near = _near(solids, _folded(points), 0.05)
    for _ in range(steps):
        around = surface_distance(solids, points[:, None] + corners, near=near)
        gradient = around @ corners / (4 * 6e-4**2)
        slope = np.maximum((gradient**2).sum(1), 0.25)
        move = -(around.mean(1) / slope)[:, None] * gradient
        length = np.linalg.norm(move, axis=1, keepdims=True)
        points = points + move * np.minimum(1, 0.02 / np.maximum(length, 1e-9))
    return points


def _without_chessboards(values: np.ndarray) -> np.ndarray:
    """Return a field `(nx, ny, nz)` in which no face of a cell has its signs in a chessboard pattern.

    Where the surface only just touches grid points, such faces would join two sheets in one vertex. The value that is
    nearest to 0 changes its sign.
    """
    values = values.copy()
    flat = values.ravel()
    number = np.arange(values.size).reshape(values.shape)
    for _ in range(20):
        changed = 0
        for u, v in ((0, 1), (1, 2), (0, 2)):
            inside = values < 0
            corners = []
            for du, dv in ((0, 0), (0, 1), (1, 1), (1, 0)):
                part = [slice(None)] * 3
                part[u] = slice(du, values.shape[u] - 1 + du)
                part[v] = slice(dv, values.shape[v] - 1 + dv)
                corners.append(tuple(part))
            a, b, c, d = (inside[k] for k in corners)
            at = np.nonzero((a == c) & (b == d) & (a != b))
            if len(at[0]):
                nodes = np.stack([number[k][at] for k in corners], 1)
                least = np.unique(nodes[np.arange(len(nodes)), np.abs(flat[nodes]).argmin(1)])
                flat[least] = np.where(flat[least] < 0, 1e-5, -1e-5)
                changed += len(least)
        if not changed:
            break
    return values


def surface_of_grid(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the closed surface where a field `(nx, ny, nz)` changes sign; negative is inside.

    One vertex per cell that the surface crosses, at the mean of the crossings on its edges ("surface nets").

    Returns:
        Vertices `(V, 3)` in grid steps and faces `(F, 3)`, counter-clockwise seen from outside.
    """
    values = _without_chessboards(values)
    inside = values < 0
    shape = np.array(values.shape) - 1
    sums, counts = np.zeros((*shape, 3)), np.zeros(shape)
    quads = []
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(0, -1), slice(1, None)
        first, second = values[tuple(low)], values[tuple(high)]
        at = np.argwhere((first < 0) != (second < 0))
        a, b = first[tuple(at.T)], second[tuple(at.T)]
        crossing = at.astype(float)
        crossing[:, axis] += a / (a - b)
        u, v = (axis + 1) % 3, (axis + 2) % 3
        cells = []
        for du, dv in ((0, 0), (-1, 0), (-1, -1), (0, -1)):
            cell = at.copy()
            cell[:, u] += du
            cell[:, v] += dv
            np.add.at(sums, tuple(cell.T), crossing)
            np.add.at(counts, tuple(cell.T), 1)
            cells.append(np.ravel_multi_index(tuple(cell.T), tuple(shape)))
        quad = np.stack(cells, 1)
        quads.append(np.where((inside[tuple(low)][tuple(at.T)])[:, None], quad, quad[:, ::-1]))
    quad = np.concatenate(quads)
    used, numbers = np.unique(quad, return_inverse=True)
    quad = numbers.reshape(quad.shape)
    vertices = (sums.reshape(-1, 3)[used]) / counts.reshape(-1)[used, None]
    return vertices, _triangles(vertices, quad)


def _triangles(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Split quadrilaterals `(Q, 4)` along their shorter diagonals."""
    a, b, c, d = (vertices[quads[:, k]] for k in range(4))
    other = ((a - c) ** 2).sum(1) > ((b - d) ** 2).sum(1) + 1e-9
    turned = np.where(other[:, None], np.roll(quads, -1, axis=1), quads)
    return np.concatenate([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]])


def neighbours(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Return the matrix `(V, V)` that averages over each vertex' neighbours."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    matrix = sparse.csr_matrix((np.ones(len(edges)), edges.T), (count, count))
    matrix.data[:] = 1
    return (sparse.diags(1 / np.asarray(matrix.sum(1)).ravel()) @ matrix).tocsr()


def _magnifier(start: float, stop: float, factor: float) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a map from a stretched line to the real one: at(t) and its magnification, growing in `start..stop`."""
    t = np.linspace(0, 4, 4001)
    real = np.zeros_like(t)
    scale = np.ones_like(t)
    for k in range(1, len(t)):
        part = np.clip((real[k - 1] - start) / (stop - start), 0, 1)
        scale[k] = 1 + (factor - 1) * part * part * (3 - 2 * part)
        real[k] = real[k - 1] + (t[k] - t[k - 1]) / scale[k]
    return lambda at: (np.interp(at, t, real), np.interp(at, t, scale))


# Head and hands get finer triangles: they are made this many times larger while the surface is found.
_HEAD_FACTOR, _HAND_FACTOR = 2.3, 3.6
_HAND_FROM = (0.43, 0.54)  # metres along the arm from the shoulder


def _real_place(stretched: np.ndarray, shoulder: np.ndarray, head_from: float) -> np.ndarray:
    """Map points `(n, 3)` of the space in which head and hands are large, and get more triangles, to real space."""
    out = stretched.copy()
    side = np.where(out[:, :1] < 0, (-1.0, 1, 1), (1.0, 1, 1))
    out *= side
    height, scale = _magnifier(head_from, head_from + 0.06, _HEAD_FACTOR)(np.maximum(out[:, 1], 0))
    high = out[:, 1] > head_from
    head = np.stack([out[:, 0] / scale, height, out[:, 2] / scale], 1)
    down = np.array([np.cos(_ARM_DOWN), -np.sin(_ARM_DOWN), 0])
    along = (out - shoulder) @ down
    across = out - shoulder - along[:, None] * down
    arm = (along > _HAND_FROM[0]) & (np.linalg.norm(across, axis=1) < 0.40) & ~high
    at, scale = _magnifier(*_HAND_FROM, _HAND_FACTOR)(np.maximum(along, 0))
    hand = shoulder + at[:, None] * down + across / scale[:, None]
    out = np.where(high[:, None], head, np.where(arm[:, None], hand, out))
    return out * side


def _unfolded(solids: Sequence[Solid], points: np.ndarray, faces: np.ndarray, average: sparse.csr_matrix) -> np.ndarray:
    """Even out where triangles lie folded over their neighbours, as they can in narrow creases."""
    for _ in range(12):
        normals = vertex_normals(points, faces)
        a, b, c = (points[faces[:, k]] for k in range(3))
        flat = np.cross(b - a, c - a)
        folded = (flat * normals[faces].sum(1)).sum(1) < 0.3 * np.linalg.norm(flat, axis=1)
        if not folded.any():
            break
        near = np.zeros(len(points))
        near[faces[folded]] = 1
        near = np.maximum(near, average @ near > 0)[:, None]
        points = points + 0.7 * near * (average @ points - points)
        points = np.where(near > 0, onto_surface(solids, points, steps=1), points)
    return points


@dataclass(frozen=True)
class Template:
    """The average built-in person and how traits change it; what `procedural` makes people from.

    Attributes:
        vertices: `(V, 3)`.
        faces: `(F, 3)`.
        weights: Sparse `(V, J)` over `RIG_JOINTS`.
        labels: Part name of each vertex `(V,)`.
        joints: `(J, 3)` of `RIG_JOINTS`.
        landmarks: `(K, 3)` of `LANDMARKS`.
        vertex_changes: `(T, V, 3)` per unit of each of `TRAITS`.
        joint_changes: `(T, J, 3)`.
        landmark_changes: `(T, K, 3)`.
        average: Sparse `(V, V)`, averages over neighbours.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: sparse.csr_matrix
    labels: np.ndarray
    joints: np.ndarray
    landmarks: np.ndarray
    vertex_changes: np.ndarray
    joint_changes: np.ndarray
    landmark_changes: np.ndarray
    average: sparse.csr_matrix


#: Traits that only go one way, 0..1.
ONE_WAY = ("child", "belly")


def _both_sides(points: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return named points `(n, 3)`; those of the right side mirror those of the left."""
    return np.stack([points[n] if n in points else points[mirrored(n)] * (-1, 1, 1) for n in names])


def _joint_table(s: Sculpture) -> np.ndarray:
    joints = dict(s.joints)
    joints["left_upper_arm_root"] = joints["left_upper_arm"]
    joints["left_thigh_root"] = joints["left_thigh"]
    joints["left_forearm_end"] = (joints["left_forearm"] + joints["left_hand"]) / 2
    return _both_sides(joints, RIG_JOINTS)


def _closeness(solids: Sequence[Solid], folded: np.ndarray, softness: float, scale: np.ndarray) -> np.ndarray:
    """Return how much each solid has to say at each point `(S, V)`; columns sum to 1."""
    out = np.zeros((len(solids), len(folded)))
    for k, (solid, near) in enumerate(zip(solids, _near(solids, folded, 0.08))):
        if len(near) and not solid.carve:
            distance = solid.distance(folded[near])
            out[k, near] = np.exp(-np.clip(distance, -0.02, None) / (softness * scale[near]))
    return out / np.maximum(out.sum(0), 1e-12)


def _followed(before: Sequence[Solid], after: Sequence[Solid], folded: np.ndarray, say: np.ndarray) -> np.ndarray:
    """Return where points `(V, 3)` on the solids `before` go when the solids change to `after`."""
    out = np.zeros_like(folded)
    for old, new, share in zip(before, after, say):
        who = np.flatnonzero(share > 1e-4)
        if not len(who):
            continue
        local = (folded[who] - old.start) @ old.frame.T
        along = np.clip(local[:, 2], 0, old.length)
        over = local[:, 2] - along
        at = along / old.length if old.length else along
        a0, f0, b0, s0 = (np.interp(at, old.knots, old.profile[:, k]) for k in range(4))
        a1, f1, b1, s1 = (np.interp(at, new.knots, new.profile[:, k]) for k in range(4))
        y = local[:, 1] - s0
        y = np.where(y > 0, y * f1 / f0, y * b1 / b0) + s1
        cap = np.where(over > 0, new.caps[1] / old.caps[1], new.caps[0] / old.caps[0])
        moved = np.stack([local[:, 0] * a1 / a0, y, at * new.length + over * cap], 1)
        out[who] += share[who, None] * (new.start + moved @ new.frame)
    return out


def blended_bones(
    solids: Sequence[Solid],
    folded: np.ndarray,
    bones: Sequence[str],
    parts: Sequence[str],
    *,
    softness: float,
    scale: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much each bone carries points of the surface `(V, bones)`, and each point's part `(V,)`.

    Args:
        solids: With bones and parts by name.
        folded: `(V, 3)`, those on the right mirrored to the left.
        bones: Names in the order of the columns.
        parts: Names in the order of their numbers; empty where no parts are wanted.
        softness: Metres over which one solid's bones pass over to the next one's.
        scale: Factor on it per point.
    """
    scale = np.broadcast_to(scale, len(folded))
    say = _closeness(solids, folded, softness, scale)
    table = np.zeros((len(folded), len(bones)))
    index = {n: k for k, n in enumerate(bones)}
    for solid, share in zip(solids, say):
        if len(solid.bones) == 1:
            table[:, index[solid.bones[0][1]]] += share
            continue
        at = np.clip((folded - solid.start) @ solid.frame[2] / solid.length, 0, 1)
        knots = [k for k, _ in solid.bones]
        for n, (_, name) in enumerate(solid.bones):
            hat = np.zeros(len(knots))
            hat[n] = 1
            part = np.interp(at, knots, hat)
            table[:, index[name]] += share * part * part * (3 - 2 * part)
    numbers = np.zeros(0, int)
    if parts:
        labelled = [k for k, s in enumerate(solids) if s.part]
        numbers = np.array([parts.index(str(solids[k].part)) for k in labelled])[say[labelled].argmax(0)]
    return table / table.sum(1, keepdims=True), numbers


def _bone_weights(solids: Sequence[Solid], points: np.ndarray, average: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return skinning weights `(V, J)` of surface points."""
    side = np.sign(points[:, 0])
    folded = _folded(points)
    # Finer blending where bones are small: on hands.
    hand = next(s.start for s in solids if s.part == "left_hand")
    fine = np.where(np.linalg.norm(folded - hand, axis=1) < 0.22, 0.25, 1.0)
    table, _ = blended_bones(solids, folded, RIG_JOINTS, (), softness=0.014, scale=fine)
    # The right half belongs to the right bones; along the middle both sides share.
    index = {n: k for k, n in enumerate(RIG_JOINTS)}
    swap = np.array([index[mirrored(n)] for n in RIG_JOINTS])
    left = np.clip(0.5 + points[:, :1] / 0.05, 0, 1)
    left = np.where(np.abs(points[:, :1]) > 0.025, np.where(side[:, None] > 0, 1.0, 0.0), left)
    table = left * table + (1 - left) * table[:, swap]
    keep = fine[:, None] < 1
    for _ in range(4):
        table = np.where(keep, table, 0.5 * table + 0.5 * (average @ table))
    table = np.where(table < 0.01, 0, table)
    return sparse.csr_matrix((table / table.sum(1, keepdims=True)).astype(np.float32))


#: Distance between vertices on trunk and limbs, metres; head and hands get finer ones.
_STEP_M = 0.0265


@lru_cache(maxsize=1)
def template() -> Template:
    """Return the built-in person's surface and its changes; made at the first call, in one to two seconds."""
    step_m = _STEP_M
    base = sculpted({})
    solids = base.solids
    shoulder = base.joints["left_upper_arm"]
    head_from = base.joints["neck"][1] + 0.02
    top = base.landmarks["head_top"][1]
    x = (np.arange(int(1.32 / step_m)) + 0.5) * step_m
    y = np.arange(-0.03, head_from + (top - head_from) * _HEAD_FACTOR + 0.1, step_m)
    z = np.arange(-0.30, 0.44, step_m)
    grid = np.stack(np.meshgrid(x, y, z, indexing="ij"), -1).reshape(-1, 3)
    half = surface_distance(solids, _real_place(grid, shoulder, head_from)[:, None]).reshape(len(x), len(y), len(z))
    stretched, faces = surface_of_grid(np.concatenate([half[::-1], half]))
    stretched = stretched * step_m + (-x[-1], y[0], z[0])
    vertices = _real_place(stretched, shoulder, head_from)
    average = neighbours(faces, len(vertices))
    for _ in range(6):
        vertices = onto_surface(solids, 0.5 * vertices + 0.5 * (average @ vertices), steps=1)
    vertices = _unfolded(solids, onto_surface(solids, vertices, steps=2), faces, average)

    folded = _folded(vertices)
    say = _closeness(solids, folded, 0.006, np.ones(len(folded)))
    labelled = [k for k, s in enumerate(solids) if s.part]
    labels = np.array([solids[k].part for k in labelled])[say[labelled].argmax(0)].astype(object)
    labels[(labels == "torso") & (vertices[:, 1] < base.joints["pelvis"][1] + 0.04)] = "pelvis"
    right = vertices[:, 0] < 0
    labels[right] = [mirrored(n) for n in labels[right]]

    joints, landmarks = _joint_table(base), _both_sides(base.landmarks, LANDMARKS)
    changes: list[list[np.ndarray]] = [[], [], []]
    for trait in TRAITS:
        ends = []
        for value in (0.0, 1.0) if trait in ONE_WAY else (-1.0, 1.0):
            other = sculpted({trait: value})
            moved = _followed(solids, other.solids, folded, say)
            moved = onto_surface(other.solids, moved, steps=3) if value else folded
            moved = moved * np.where(right[:, None], (-1.0, 1, 1), (1.0, 1, 1))
            ends.append((moved, _joint_table(other), _both_sides(other.landmarks, LANDMARKS)))
        width = 1.0 if trait in ONE_WAY else 2.0
        for store, low, high in zip(changes, *ends):
            store.append(((high - low) / width).astype(np.float32))
    smooth = [c + 0.5 * (average @ c - c) for c in changes[0]]
    return Template(
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.int32),
        weights=_bone_weights(solids, vertices, average),
        labels=labels,
        joints=joints,
        landmarks=landmarks,
        vertex_changes=np.stack(smooth).astype(np.float32),
        joint_changes=np.stack(changes[1]),
        landmark_changes=np.stack(changes[2]),
        average=average,
    )
