"""People without any data: random build, age, clothes, hair and things they carry, on the built-in anatomy.

body = BuiltinPeople().random(np.random.default_rng(1))
posed = body.posed(Pose.reference())
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from posezoo.synth.anatomy import RIG_JOINTS, TRAITS, TWIST_JOINTS, Template, template
from posezoo.synth.body import LANDMARKS, Body, girth_of, vertex_normals
from posezoo.synth.posed import PARTS
from posezoo.synth.rig import FINGERS, PARENTS, Driver, Rig

_JOINT = {name: k for k, name in enumerate(RIG_JOINTS)}
_LANDMARK = {name: k for k, name in enumerate(LANDMARKS)}
_PART = {name: k for k, name in enumerate(PARTS)}


def _parents() -> np.ndarray:
    names = []
    for joint in RIG_JOINTS:
        parent = PARENTS[TWIST_JOINTS[joint]] if joint in TWIST_JOINTS else PARENTS[joint]
        names.append(TWIST_JOINTS[joint] if joint.endswith("forearm_end") else parent)
    return np.array([-1 if n is None else _JOINT[n] for n in names])


def _drivers() -> tuple[Driver, ...]:
    out = []
    for joint in RIG_JOINTS:
        side = joint.partition("_")[0]
        if joint.endswith("upper_arm_root"):
            out.append(Driver(f"{side}_upper_arm", f"{side}_clavicle", 0.75, twist_only=True))
        elif joint.endswith("thigh_root"):
            out.append(Driver(f"{side}_thigh", "pelvis", 0.7, twist_only=True))
        elif joint.endswith("forearm_end"):
            out.append(Driver(f"{side}_forearm", f"{side}_hand", 0.8, twist_only=True))
        else:
            out.append(Driver(joint))
    return tuple(out)


def built_in_rig(joints: np.ndarray, landmarks: np.ndarray) -> Rig:
    """Return the rig of a built-in person from joint positions `(J, 3)` and landmarks `(K, 3)`, metres."""
    anchors = {}
    across = {}
    for side in ("left", "right"):
        at = {n.removeprefix(f"{side}_"): joints[k] for n, k in _JOINT.items() if n.startswith(side)}
        chain = ("upper_arm", "forearm", "hand", "middle1"), ("thigh", "shin", "foot", "toes")
        for names in chain:
            for first, second in zip(names[:-1], names[1:]):
                anchors[f"{side}_{first}"] = (at[first], at[second])
        anchors[f"{side}_toes"] = (at["toes"], at["toes"] + (at["toes"] - at["foot"]) * (1, 0, 1))
        across[f"{side}_hand"] = at["index1"] - at["little1"]
        for finger in FINGERS:
            points = [joints[_JOINT[f"{side}_{finger}{k}"]] for k in (1, 2, 3)]
            tip = {"thumb": "thumb4", "index": "forefinger4"}.get(finger, f"{finger}_finger4")
            points.append(landmarks[_LANDMARK[f"{side}_{tip.replace('little', 'pinky')}"]])
            for k in (1, 2, 3):
                anchors[f"{side}_{finger}{k}"] = (points[k - 1], points[k])
    return Rig(RIG_JOINTS, _parents(), joints, _drivers(), anchors, across)


@lru_cache(maxsize=1)
def _landmark_carriers() -> np.ndarray:
    """Return the rig joint `(K,)` that carries each landmark of a built-in person along."""
    special = {
        "neck": "chest", "shoulder": "upper_arm", "elbow": "forearm", "wrist": "hand", "hand_root": "hand",
        "hip": "thigh", "knee": "shin", "ankle": "foot", "big_toe": "toes", "small_toe": "toes", "heel": "foot",
    }  # fmt: skip
    fingers = {"forefinger": "index", "middle_finger": "middle", "ring_finger": "ring", "pinky_finger": "little"}
    out = []
    for name in LANDMARKS:
        side, _, kind = name.partition("_") if name.startswith(("left_", "right_")) else ("", "", name)
        if kind[-1].isdigit():
            finger = fingers.get(kind[:-1], kind[:-1])
            joint = f"{finger}{min(int(kind[-1]), 3)}"
        else:
            joint = special.get(kind, "head")
        out.append(_JOINT[f"{side}_{joint}" if side and joint != "head" else joint])
    return np.array(out)


@dataclass
class _Fields:
    """Where every vertex of the template lies on the body, for cutting clothes; all `(V,)`."""

    leg: np.ndarray  # 0 hip, 1 knee, 2 ankle, 3 toes; -1 off the legs
    arm: np.ndarray  # 0 shoulder, 1 elbow, 2 wrist; -1 off the arms
    trunk: np.ndarray  # 0 hip joints, 1 base of the neck; -1 off the trunk
    hand: np.ndarray
    foot: np.ndarray
    scalp: np.ndarray  # 1 where hair grows, 0 elsewhere
    cap: np.ndarray  # 1 where a cap sits
    neck: np.ndarray  # 0 bottom, 1 below the skull; -1 off the neck
    around: np.ndarray  # angle about the limb or trunk, for folds
    faces_at: np.ndarray = field(default_factory=lambda: np.zeros(0))


@lru_cache(maxsize=1)
def _fields() -> _Fields:
    t = template()
    v = t.vertices.astype(float)
    at = {n: t.joints[k] for n, k in _JOINT.items()}
    left = v.copy()
    left[:, 0] = np.abs(left[:, 0])
    kind = np.array([n.partition("_")[2] if n.startswith(("left_", "right_")) else n for n in t.labels])

    def along(first: str, second: str) -> np.ndarray:
        a, b = at[first], at[second]
        return (left - a) @ (b - a) / ((b - a) @ (b - a))

    thigh, shin = along("left_thigh", "left_shin"), along("left_shin", "left_foot")
    leg = np.where(shin > 0, 1 + np.clip(shin, 0, 1.2), np.clip(thigh, -0.2, 1))
    leg = np.where(np.isin(kind, ("thigh", "shin")), leg, np.where(kind == "foot", 2.0 + (shin > 1.0), -1.0))
    upper, fore = along("left_upper_arm", "left_forearm"), along("left_forearm", "left_hand")
    arm = np.where(fore > 0, 1 + np.clip(fore, 0, 1.2), np.clip(upper, -0.2, 1))
    arm = np.where(np.isin(kind, ("upper_arm", "forearm")), arm, np.where(kind == "hand", 2.5, -1.0))
    base, top = at["left_thigh"][1], at["neck"][1]
    trunk = np.where(np.isin(kind, ("torso", "pelvis")), (v[:, 1] - base) / (top - base), -1.0)
    neck = np.where(kind == "neck", np.clip((v[:, 1] - top) / (at["head"][1] - top), -0.3, 1.2), -1.0)
    head = v - at["head"]
    # Hair: behind a line that runs from the forehead past the ears to the nape.
    line = np.interp(head[:, 1], (-0.03, 0.02, 0.06, 0.10, 0.125, 0.16), (-0.045, -0.025, 0.005, 0.030, 0.070, 0.12))
    ear = (np.abs(head[:, 0]) > 0.076) & (np.abs(head[:, 1] - 0.058) < 0.035)
    on_head = np.isin(kind, ("head", "face")) | ((kind == "neck") & (head[:, 1] > -0.035))
    scalp = on_head & (head[:, 2] < line) & (head[:, 1] > -0.035) & ~ear
    cap = np.isin(kind, ("head", "face")) & (head[:, 1] > 0.105 - 0.25 * np.minimum(head[:, 2] + 0.05, 0))
    return _Fields(
        leg, arm, trunk, kind == "hand", kind == "foot", scalp, cap, neck,
        np.arctan2(v[:, 2] + 0.02, np.where(np.isin(kind, ("thigh", "shin")), left[:, 0] - 0.11, v[:, 0])),
    )  # fmt: skip


@dataclass
class _Shell:
    """A closed extra surface: skirt, hair, hat, backpack."""

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray  # (n, J)
    parts: np.ndarray  # (f,)
    colour: np.ndarray
    albedo: float


def lofted(rings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the closed surface through rings of points `(R, N, 3)`, each counter-clockwise seen from the last ring.

    Returns:
        Vertices `(R N + 2, 3)` (the last two are the ends' centres) and faces `(F, 3)`, outward.
    """
    r, n = rings.shape[:2]
    number = np.arange(r * n).reshape(r, n)
    a, b = number[:-1], np.roll(number[:-1], -1, axis=1)
    c, d = np.roll(number[1:], -1, axis=1), number[1:]
    sides = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    start, end = r * n, r * n + 1
    low, high = number[0], number[-1]
    caps = np.concatenate([
        np.stack([np.full(n, start), np.roll(low, -1), low], 1), np.stack([np.full(n, end), high, np.roll(high, -1)], 1)
    ])  # fmt: skip
    vertices = np.concatenate([rings.reshape(-1, 3), rings[0].mean(0)[None], rings[-1].mean(0)[None]])
    return vertices, np.concatenate([sides, caps])


def _ellipses(centres, across, front, back, *, points: int = 20, power: float = 2.0, up=False) -> np.ndarray:
    """Return horizontal rings `(R, N, 3)` about centres `(R, 3)`, counter-clockwise seen from above (or below)."""
    angle = np.arange(points) / points * 2 * np.pi
    c, s = np.cos(angle), np.sin(angle)
    size = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
    x = (size * c)[None] * np.asarray(across)[:, None]
    z = -(size * s)[None]
    z = z * np.where(z > 0, np.asarray(front)[:, None], np.asarray(back)[:, None])
    rings = np.stack([x, np.zeros_like(x), z], -1) + np.asarray(centres)[:, None]
    return rings if up else rings[:, ::-1]


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """Return a colour as clothes have them: often grey, dark or blue, sometimes bright."""
    if rng.random() < 0.45:
        return np.clip(rng.uniform(0.05, 0.95) + rng.normal(0, 0.03, 3), 0.02, 0.98)
    hue = rng.choice([0.6, rng.random()])
    value, strength = rng.uniform(0.15, 0.95), rng.uniform(0.2, 0.9)
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 - strength + strength * wheel)


SKIN_COLOURS = np.array(
    [[0.90, 0.73, 0.64], [0.82, 0.62, 0.50], [0.68, 0.47, 0.35], [0.47, 0.31, 0.23], [0.30, 0.19, 0.14]]
)
HAIR_COLOURS = np.array(
    [
        [0.06, 0.05, 0.05], [0.20, 0.13, 0.08], [0.40, 0.27, 0.15], [0.70, 0.55, 0.32], [0.65, 0.65, 0.65],
        [0.45, 0.20, 0.10],
    ]
)  # fmt: skip


def _some(rng: np.random.Generator, width: float, limit: float) -> float:
    return float(np.clip(rng.normal(0, width), -limit, limit))


def random_traits(rng: np.random.Generator) -> tuple[dict[str, float], float]:
    """Draw traits (see `anatomy.TRAITS`) and a height in metres: women, men, and children from four years."""
    female = rng.random() < 0.5
    traits = {name: _some(rng, 0.6, 1.4) for name in TRAITS}
    traits["female"] = (1 if female else -1) * rng.uniform(0.6, 1.1)
    traits["fat"] = float(np.clip(rng.normal(0.15, 0.75), -1.1, 2.3))
    traits["muscle"] = _some(rng, 0.5, 1.2)
    traits["belly"] = max(0.0, float(rng.normal(0.0, 0.6)))
    traits["child"] = 0.0
    height = float(np.clip(rng.normal(1.64 if female else 1.77, 0.07), 1.45, 2.0))
    if rng.random() < 0.2:
        years = rng.uniform(4, 15)
        traits["child"] = float(np.clip((15.5 - years) / 11, 0, 1))
        grown = 1 - traits["child"]
        height = float(np.clip(1.04 + 0.056 * (years - 4) + rng.normal(0, 0.04), 1.0, 1.75))
        for name in ("female", "muscle", "fat", "belly", "jaw", "nose"):
            traits[name] *= 0.35 + 0.65 * grown
    return traits, height


@dataclass(frozen=True)
class BuiltinPeople:
    """Random people that need no data files.

    Attributes:
        clothes: Dress them; else only skin and hair.
        things: Let some carry backpacks and wear hats.
    """

    clothes: bool = True
    things: bool = True

    def random(self, rng: np.random.Generator) -> Body:
        """Return a random person; the same generator state gives the same person."""
        traits, height = random_traits(rng)
        return self.person(rng, traits=traits, height_m=height)

    def person(self, rng: np.random.Generator, *, traits: dict[str, float], height_m: float) -> Body:
        """Return a person of given build and height, with random clothes and colours.

        Args:
            rng: For clothes, hair and colours.
            traits: Values by name of `anatomy.TRAITS`; 0 where left out.
            height_m: From heels to the top of the head, without hair.
        """
        unknown = sorted(set(traits) - set(TRAITS))
        if unknown:
            raise ValueError(f"unknown traits {', '.join(unknown)}; expected some of {', '.join(TRAITS)}")
        t = template()
        amounts = np.array([traits.get(name, 0.0) for name in TRAITS], np.float32)
        vertices = t.vertices + np.tensordot(amounts, t.vertex_changes, 1)
        joints = t.joints + np.tensordot(amounts, t.joint_changes, 1)
        landmarks = t.landmarks + np.tensordot(amounts, t.landmark_changes, 1)
        floor = vertices[:, 1].min()
        scale = height_m / (landmarks[_LANDMARK["head_top"], 1] - floor)
        shift = np.array([0, -floor, 0])
        vertices, joints, landmarks = ((p + shift) * scale for p in (vertices, joints, landmarks))
        wardrobe = _Wardrobe(rng, t, vertices, joints, landmarks, traits, height_m)
        wardrobe.hair()
        if self.clothes:
            wardrobe.dress()
        if self.things:
            wardrobe.carry()
        return wardrobe.body()


class _Wardrobe:
    """Dresses one person: displaces the skin where cloth lies on it, and adds shells where it hangs free."""

    def __init__(self, rng, t: Template, vertices, joints, landmarks, traits, height: float) -> None:
        self.rng, self.t, self.height = rng, t, height
        self.skin, self.joints, self.landmarks, self.traits = vertices, joints, landmarks, traits
        self.scale = height / 1.72
        self.fields = _fields()
        self.normals = vertex_normals(vertices, t.faces)
        self.offset = np.zeros(len(vertices))
        self.smooth = np.zeros(len(vertices))
        self.layer = np.zeros(len(vertices), int)  # 0 skin, else index into materials
        tone = SKIN_COLOURS[rng.choice(len(SKIN_COLOURS), p=(0.3, 0.3, 0.2, 0.12, 0.08))]
        tone = np.clip(tone * rng.uniform(0.92, 1.06) + rng.normal(0, 0.015, 3), 0.05, 0.97)
        self.materials: list[tuple[np.ndarray, float]] = [(tone, rng.uniform(0.48, 0.62))]
        self.shells: list[_Shell] = []
        self.about: dict[str, object] = {"height_m": height, "traits": traits}
        p = vertices / self.scale
        waves = rng.normal(0, 1, (5, 3)) * (26, 34, 26)
        self.folds = np.sin(p @ waves.T + rng.uniform(0, 6.28, 5)).mean(1) * 1.6

    def material(self, colour: np.ndarray, albedo: float) -> int:
        self.materials.append((np.asarray(colour, float), float(albedo)))
        return len(self.materials) - 1

    def cover(self, where: np.ndarray, thickness: np.ndarray | float, material: int, *, folds: float, smooth: float):
        """Lay cloth of a thickness in metres over the vertices `where`; `folds` is their height in metres."""
        offset = (np.broadcast_to(thickness, where.shape) + folds * self.folds) * np.sqrt(self.scale)
        self.offset = np.where(where, np.maximum(self.offset, np.maximum(offset, 0.003)), self.offset)
        self.smooth = np.where(where, np.maximum(self.smooth, smooth), self.smooth)
        self.layer = np.where(where, material, self.layer)

    # ---- hair
    def hair(self) -> None:
        rng, f = self.rng, self.fields
        female = self.traits.get("female", 0) > 0
        kinds = ("bald", "short", "full", "long", "ponytail", "bun")
        chance = (0.01, 0.17, 0.20, 0.34, 0.20, 0.08) if female else (0.12, 0.58, 0.22, 0.06, 0.01, 0.01)
        kind = str(rng.choice(kinds, p=chance))
        colour = np.clip(HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))] * rng.uniform(0.7, 1.3), 0.02, 0.95)
        self.hair_material = self.material(colour, rng.uniform(0.12, 0.45))
        self.about["hair"] = kind
        if kind == "bald":
            return
        thick = {"short": rng.uniform(0.006, 0.016), "full": rng.uniform(0.018, 0.035)}.get(
            kind, rng.uniform(0.01, 0.02)
        )
        self.cover(f.scalp, thick, self.hair_material, folds=0.15 * thick, smooth=0.3)
        head = self.joints[_JOINT["head"]]
        k = self.landmarks[_LANDMARK["head_top"], 1] - head[1]  # about 0.174 m
        k = k / 0.174
        if kind == "long":
            length = rng.uniform(0.14, 0.42) * self.scale
            wide = rng.uniform(0.085, 0.105) * k
            top = head[1] + 0.145 * k
            levels = np.linspace(0, 1, 9)
            y = top - levels * (top - head[1] + length)
            depth = (y - head[1]) / k
            across = wide * np.interp(levels, (0, 0.15, 0.35, 0.8, 1), (0.55, 0.92, 1.0, 1.02, 0.72))
            back = np.interp(depth, (-0.4, -0.12, 0, 0.08, 0.145), (0.050, 0.052, 0.075, 0.105, 0.07)) * k
            front = np.interp(depth, (-0.4, -0.12, 0, 0.08, 0.145), (0.012, 0.012, 0.022, 0.030, 0.03)) * k
            behind = self.skin[self.fields.trunk > 0.55]
            low = behind[:, 2].min()  # the back's surface
            z = np.where(depth < -0.05, np.minimum(head[2] - 0.045 * k, low + 0.030 * self.scale), head[2] - 0.02 * k)
            z = np.interp(np.arange(9), np.arange(9), np.convolve(np.pad(z, 1, "edge"), (0.25, 0.5, 0.25), "valid"))
            rings = _ellipses(np.stack([np.zeros(9), y, z], 1), across, front, back, points=18)
            self.hang(rings, self._neck_weights, self.hair_material, "head")
        elif kind == "ponytail":
            length = rng.uniform(0.12, 0.32) * self.scale
            start = head + np.array([0, rng.uniform(0.07, 0.13), -0.10]) * k
            step = np.linspace(0, 1, 8)
            path = np.stack([0 * step, 0.03 * k * np.sin(step * 2.6) - length * step**1.5, -0.075 * k * np.sin(
                np.minimum(step * 2.2, 1.6))], 1) + start  # fmt: skip
            thickness = rng.uniform(0.018, 0.032) * k * np.interp(step, (0, 0.1, 0.4, 1), (0.4, 0.7, 1.0, 0.3))
            rings = _ellipses(path, thickness, thickness, thickness, points=10)
            self.hang(rings, self._neck_weights, self.hair_material, "head")
        elif kind == "bun":
            centre = head + np.array([0, rng.uniform(0.06, 0.16), -0.115]) * k
            self._ball(centre, np.array([0.036, 0.034, 0.032]) * k * rng.uniform(0.8, 1.2), self.hair_material)

    def _ball(self, centre, radii, material: int) -> None:
        angle = np.linspace(0.12, np.pi - 0.12, 7)
        at = centre + np.stack([0 * angle, np.cos(angle) * radii[1], 0 * angle], 1)
        rings = _ellipses(at, np.sin(angle) * radii[0], np.sin(angle) * radii[2], np.sin(angle) * radii[2], points=12)
        self.hang(rings, self._head_weights, material, "head")

    # ---- clothes
    def dress(self) -> None:
        rng, f = self.rng, self.fields
        female = self.traits.get("female", 0) > 0
        lower = str(rng.choice(("trousers", "shorts", "skirt", "dress"), p=(0.55, 0.12, 0.16, 0.17) if female
                               else (0.82, 0.18, 0.0, 0.0)))  # fmt: skip
        upper = str(rng.choice(("t-shirt", "shirt", "coat"), p=(0.42, 0.40, 0.18)))
        self.about |= {"lower": lower, "upper": upper}
        waist = rng.uniform(0.17, 0.25)

        # Shoes first: trousers fall over them.
        if rng.random() < 0.93:
            shoe = self.material(random_colour(rng), rng.uniform(0.1, 0.8))
            high = 2.0 - rng.choice((0.0, 0.0, rng.uniform(0.15, 0.7)))
            self.cover(f.foot | (f.leg > high), rng.uniform(0.006, 0.012), shoe, folds=0.0, smooth=0.5)

        cloth = self.material(random_colour(rng), rng.uniform(0.15, 0.9))
        if lower in ("trousers", "shorts"):
            hem = rng.uniform(1.8, 2.0) if lower == "trousers" else rng.uniform(0.55, 1.15)
            loose = rng.choice((rng.uniform(0.003, 0.008), rng.uniform(0.01, 0.035)))
            legs = (f.leg > -0.5) & (f.leg < hem)
            flare = rng.choice((0.3, 1.0, 1.6))
            fall = np.interp(f.leg, (0, 0.5, 1.0, 1.5, 2.0), (0.4, 0.7, 0.9, 0.7, 1.0))
            thickness = 0.004 + loose * (fall + flare * np.clip(f.leg - 1, 0, 1) * 0.8)
            folds = min(0.4 * loose, 0.007)
            self.cover(legs, thickness, cloth, folds=folds, smooth=0.5)
            self.cover((f.trunk > -0.9) & (f.trunk < waist), 0.005 + 0.3 * loose, cloth, folds=folds / 2, smooth=0.4)
        elif lower == "skirt":
            self.cover((f.trunk > -0.9) & (f.trunk < waist), 0.006, cloth, folds=0.001, smooth=0.5)
            self.skirt(waist, rng.uniform(0.35, 1.75), rng.uniform(0.0, 0.16), cloth)

        same = lower == "dress" or rng.random() < 0.08
        top = cloth if same else self.material(random_colour(rng), rng.uniform(0.15, 0.9))
        if upper == "coat":
            top = self.material(random_colour(rng), rng.uniform(0.15, 0.9))
        loose = rng.choice((rng.uniform(0.002, 0.006), rng.uniform(0.008, 0.028)))
        if upper == "coat":
            loose = rng.uniform(0.014, 0.034)
        sleeve = {"t-shirt": rng.uniform(0.25, 0.85), "shirt": rng.uniform(1.75, 2.0), "coat": 2.0}[upper]
        if upper == "t-shirt" and female and rng.random() < 0.3:
            sleeve = -0.1
        hem = waist - rng.uniform(0.0, 0.22)
        collar = rng.uniform(0.0, 0.9) if upper != "t-shirt" else rng.uniform(-0.2, 0.2)
        folds = min(0.35 * loose, 0.006)
        self.cover(f.trunk > hem, 0.004 + loose * np.interp(f.trunk, (0, 0.3, 0.75, 1), (1.0, 1.0, 0.8, 0.4)), top,
                   folds=folds, smooth=0.55)  # fmt: skip
        hang = np.interp(f.arm, (0, 0.4, 1.0, 1.7, 2), (0.35, 0.8, 0.9, 0.8, 0.5 if upper == "shirt" else 0.8))
        self.cover((f.arm > -0.5) & (f.arm < sleeve), 0.004 + loose * hang, top, folds=folds, smooth=0.5)
        self.cover((f.neck > -0.9) & (f.neck < collar), 0.005 + 0.25 * loose, top, folds=0.0, smooth=0.3)
        if lower == "dress":
            self.skirt(0.22, rng.uniform(0.45, 1.8), rng.uniform(0.0, 0.15), cloth)
        if upper == "coat":
            self.skirt(0.3, rng.uniform(0.15, 1.2), rng.uniform(0.0, 0.05), top, gap=0.008 + loose)

    def skirt(self, waist: float, hem: float, flare: float, material: int, *, gap: float = 0.008) -> None:
        """Hang a skirt from the waist (0 hip .. 1 neck) to the hem (0 hip, 1 knee, 2 ankle)."""
        hip, knee, ankle, neck = (self.joints[_JOINT[n]] for n in ("left_thigh", "left_shin", "left_foot", "neck"))
        top = hip[1] + waist * (neck[1] - hip[1])
        bottom = float(np.interp(hem, (0, 1, 2), (hip[1], knee[1], ankle[1])))
        count = max(5, int((top - bottom) / 0.07))
        y = np.linspace(top, bottom, count)
        covered = self.skin[(self.fields.trunk > -0.9) | ((self.fields.leg > -0.5) & (self.fields.leg < 2.5))]
        reach = np.zeros((3, count))
        for k, level in enumerate(y):
            near = covered[np.abs(covered[:, 1] - level) < 0.035 * self.scale]
            reach[:, k] = np.abs(near[:, 0]).max(), near[:, 2].max(), -near[:, 2].min()
        fall = np.linspace(0, 1, count)
        extra = (gap + flare * fall) * self.scale
        # Cloth falls straight down from the widest place above.
        across, front, back = np.maximum.accumulate(reach, axis=1) + extra
        rings = _ellipses(np.stack([0 * y, y, 0 * y], 1), across, front, back, points=28, power=2.15)
        waves = 0.012 * min(flare / 0.1, 1.5) * self.scale
        angle = np.arange(28) / 28 * 2 * np.pi
        wave = waves * np.sin(angle * self.rng.integers(5, 9) + self.rng.uniform(0, 6))[None] * fall[:, None]
        out = rings * (1, 0, 1) / np.linalg.norm(rings * (1, 0, 1), axis=-1, keepdims=True)
        rings = rings + out * wave[..., None]
        inner = rings - out * 0.006
        # Down the outside, back up the inside: one closed sheet.
        both = np.concatenate([rings, inner[::-1]])
        self.hang(both, self._skirt_weights, material, "skirt", closed=True)

    # ---- things
    def carry(self) -> None:
        rng, f = self.rng, self.fields
        head = self.joints[_JOINT["head"]]
        k = (self.landmarks[_LANDMARK["head_top"], 1] - head[1]) / 0.174
        hat = str(rng.choice(("none", "cap", "hat", "beanie"), p=(0.80, 0.08, 0.06, 0.06)))
        pack = rng.random() < 0.1
        self.about |= {"hat": hat, "backpack": bool(pack)}
        if hat != "none":
            felt = self.material(random_colour(rng), rng.uniform(0.15, 0.9))
            self.cover(f.cap, rng.uniform(0.012, 0.024), felt, folds=0.0, smooth=0.6)
            at = head + np.array([0, 0.128, -0.008]) * k
            if hat == "cap":
                angle = np.linspace(-1.15, 1.15, 9)
                x, z = 0.080 * np.sin(angle) * k, 0.092 * np.cos(angle) * k
                reach = rng.uniform(0.055, 0.075) * k * np.cos(angle) ** 0.7
                inside = np.stack([x, 0 * x, z], 1)
                outside = np.stack([x * 0.95, -0.012 * k - 0.15 * reach, z + reach], 1)
                outline = np.concatenate([inside, outside[::-1]])[::-1]
                rings = at + np.stack([outline - (0, 0.004, 0), outline + (0, 0.004, 0)])
                self.hang(rings, self._head_weights, felt, "head")
            elif hat == "hat":
                brim = rng.uniform(0.045, 0.10) * k
                high = rng.uniform(0.075, 0.12) * k
                levels = np.array([-0.004, -0.004, 0.004, 0.006, high * 0.5, high, high + 0.006])
                grow = np.array([0.6, 1, 1, 0, -0.004, -0.012 * k, -0.05 * k])
                grow = np.where(grow > 0, grow * brim, grow)
                centres = at + np.stack([0 * levels, levels, 0 * levels], 1)
                rings = _ellipses(centres, 0.088 * k + grow, 0.104 * k + grow, 0.104 * k + grow, points=22, up=True)
                self.hang(rings, self._head_weights, felt, "head")
        if pack:
            cloth = self.material(random_colour(rng), rng.uniform(0.15, 0.9))
            chest, spine = self.joints[_JOINT["chest"]], self.joints[_JOINT["spine"]]
            size = rng.uniform(0.75, 1.15) * self.scale
            back = self.skin[(f.trunk > 0.4) & (f.trunk < 0.8)][:, 2].min()
            deep = rng.uniform(0.055, 0.105) * size
            levels = np.linspace(-1, 1, 9)
            round_ = np.interp(np.abs(levels), (0, 0.75, 0.92, 1), (1, 0.97, 0.85, 0.55))
            y = (chest[1] * 0.75 + spine[1] * 0.25) + 0.04 * self.scale + levels * 0.23 * size
            centres = np.stack([0 * y, y, np.full(9, back - deep * 0.8)], 1)
            rings = _ellipses(centres, 0.155 * size * round_, deep * 0.9 + 0 * round_, deep * round_ * np.interp(
                levels, (-1, 0, 1), (1.15, 1, 0.7)), points=20, power=3.0, up=True)  # fmt: skip
            self.hang(rings, self._chest_weights, cloth, "torso")
            strap = np.abs(np.abs(self.skin[:, 0]) - 0.098 * self.scale) < 0.024 * self.scale
            self.cover(strap & (f.trunk > 0.45), self.offset + 0.008, cloth, folds=0.0, smooth=0.2)

    # ---- what carries shells along: functions of points (n, 3) giving weights (n, J)
    def _rigid(self, points: np.ndarray, joint: str) -> np.ndarray:
        out = np.zeros((len(points), len(RIG_JOINTS)))
        out[:, _JOINT[joint]] = 1
        return out

    def _head_weights(self, points: np.ndarray) -> np.ndarray:
        return self._rigid(points, "head")

    def _chest_weights(self, points: np.ndarray) -> np.ndarray:
        return self._rigid(points, "chest")

    def _neck_weights(self, points: np.ndarray) -> np.ndarray:
        head, neck = self.joints[_JOINT["head"]][1], self.joints[_JOINT["neck"]][1]
        at = np.clip((points[:, 1] - neck + 0.05 * self.scale) / (head - neck + 0.05 * self.scale), 0, 1)
        at = at * at * (3 - 2 * at)
        return at[:, None] * self._rigid(points, "head") + (1 - at[:, None]) * self._rigid(points, "chest")

    def _skirt_weights(self, points: np.ndarray) -> np.ndarray:
        hip, knee, ankle = (self.joints[_JOINT[n]] for n in ("left_thigh", "left_shin", "left_foot"))
        side = np.clip(0.5 + points[:, 0] / (0.20 * self.scale), 0, 1)
        low = np.clip((hip[1] + 0.06 * self.scale - points[:, 1]) / (0.28 * self.scale), 0, 1) * 0.92
        lower = 0.6 * np.clip((knee[1] - points[:, 1]) / (knee[1] - ankle[1]), 0, 1)
        up = np.clip((points[:, 1] - self.joints[_JOINT["pelvis"]][1]) / (0.12 * self.scale), 0, 1)
        out = np.zeros((len(points), len(RIG_JOINTS)))
        out[:, _JOINT["spine"]] = up
        out[:, _JOINT["pelvis"]] = (1 - up) * (1 - low)
        for name, share in (("left", side), ("right", 1 - side)):
            out[:, _JOINT[f"{name}_thigh"]] = (1 - up) * low * share * (1 - lower)
            out[:, _JOINT[f"{name}_shin"]] = (1 - up) * low * share * lower
        return out

    def hang(self, rings: np.ndarray, weights, material: int, part: str, *, closed: bool = False) -> None:
        """Add a shell through rings `(R, N, 3)`; `closed` joins the last ring to the first instead of capping both."""
        if closed:
            r, n = rings.shape[:2]
            vertices = rings.reshape(-1, 3)
            number = np.arange(r * n).reshape(r, n)
            corners = number, np.roll(number, -1, 1), np.roll(number, (-1, -1), (0, 1)), np.roll(number, -1, 0)
            a, b, c, d = (k.reshape(r, n) for k in corners)
            # Inside and outside are split along the same diagonals, or they would cross where cloth is bent.
            low, high = slice(0, r // 2), slice(r // 2, r)
            faces = np.concatenate([
                np.stack(t, -1).reshape(-1, 3) for t in (
                    (a[low], b[low], c[low]), (a[low], c[low], d[low]),
                    (a[high], b[high], d[high]), (b[high], c[high], d[high]),
                )
            ])  # fmt: skip
            # The inside follows the outside exactly, or it would show through where cloth is stretched.
            share = weights(rings[: r // 2].reshape(-1, 3)).reshape(r // 2, n, -1)
            share = np.concatenate([share, share[::-1]]).reshape(r * n, -1)
        else:
            vertices, faces = lofted(rings)
            share = weights(vertices)
        colour, albedo = self.materials[material]
        if part == "skirt":
            at = vertices[faces].mean(1)
            hip, knee = self.joints[_JOINT["left_thigh"]][1], self.joints[_JOINT["left_shin"]][1]
            side = np.where(at[:, 0] > 0, "left_", "right_").astype(object)
            name = np.where(at[:, 1] > hip, "pelvis", np.where(at[:, 1] > knee, side + "thigh", side + "shin"))
            parts = np.array([_PART[n] for n in name])
        else:
            parts = np.full(len(faces), _PART[part])
        self.shells.append(_Shell(vertices, faces, share, parts, colour, albedo))

    # ---- the finished person
    def body(self) -> Body:
        """Put skin, cloth and shells together."""
        t = self.t
        vertices = self.skin + self.normals * self.offset[:, None]
        for _ in range(3 if self.smooth.any() else 0):
            vertices = vertices + self.smooth[:, None] * 0.6 * (t.average @ vertices - vertices)
        # Smoothing shrinks: no cloth may sink below the skin.
        lift = ((vertices - self.skin) * self.normals).sum(1)
        vertices = vertices + self.normals * np.maximum(np.minimum(self.offset, 0.004) - lift, 0)[:, None]
        layers = np.sort(self.layer[t.faces], axis=1)[:, 1]
        colours = np.array([c for c, _ in self.materials])[layers]
        albedo = np.array([a for _, a in self.materials])[layers]
        parts = _face_parts()
        colours = self._face_paint(vertices, colours, layers)
        weights = [t.weights]
        all_vertices, all_faces, all_parts = [vertices], [t.faces], [parts]
        all_colours, all_albedo = [colours], [albedo]
        count = len(vertices)
        for shell in self.shells:
            all_vertices.append(shell.vertices)
            all_faces.append(shell.faces + count)
            all_parts.append(shell.parts)
            all_colours.append(np.tile(shell.colour, (len(shell.faces), 1)))
            all_albedo.append(np.full(len(shell.faces), shell.albedo))
            weights.append(sparse.csr_matrix(shell.weights.astype(np.float32)))
            count += len(shell.vertices)
        radii, _ = cKDTree(vertices).query(self.landmarks)
        rig = built_in_rig(self.joints, self.landmarks)
        return Body(
            rig=rig,
            vertices=np.concatenate(all_vertices).astype(np.float32),
            weights=sparse.vstack(weights, format="csr") if self.shells else t.weights,
            faces=np.concatenate(all_faces).astype(np.int32),
            parts=np.concatenate(all_parts).astype(np.uint8),
            colours=np.clip(np.concatenate(all_colours), 0, 1).astype(np.float32),
            albedo=np.clip(np.concatenate(all_albedo), 0, 1).astype(np.float32),
            landmarks=self.landmarks,
            carriers=_landmark_carriers(),
            radii=radii.astype(np.float32),
            girth=girth_of(rig, self.skin),
            about=self.about,
        )

    def _face_paint(self, vertices: np.ndarray, colours: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """Paint eyes, brows and lips on faces `(F, 3)` of bare skin."""
        where = np.flatnonzero((_face_parts() == _PART["face"]) & (layers == 0))
        at = vertices[self.t.faces[where]].mean(1)
        colours = np.array(colours)
        k = (self.landmarks[_LANDMARK["head_top"], 1] - self.joints[_JOINT["head"]][1]) / 0.174
        dark = self.materials[self.hair_material][0] * 0.8
        for side in ("left_eye", "right_eye"):
            away = (at - self.landmarks[_LANDMARK[side]]) / k
            eye = (np.abs(away[:, 0]) < 0.014) & (np.abs(away[:, 1]) < 0.008)
            brow = (np.abs(away[:, 0]) < 0.022) & (np.abs(away[:, 1] - 0.019) < 0.006)
            colours[where[eye]] = np.where(np.abs(away[eye, :1]) < 0.006, 0.12, 0.75)
            colours[where[brow]] = dark
        nose = self.landmarks[_LANDMARK["nose"]]
        away = (at - nose) / k
        lips = (np.abs(away[:, 0]) < 0.022) & (np.abs(away[:, 1] + 0.033) < 0.009)
        colours[where[lips]] *= (0.96, 0.74, 0.74)
        return colours


@lru_cache(maxsize=1)
def _face_parts() -> np.ndarray:
    """Return the part `(F,)` of each of the template's faces."""
    t = template()
    numbers = np.array([_PART[n] for n in t.labels])
    return np.sort(numbers[t.faces], axis=1)[:, 1]
