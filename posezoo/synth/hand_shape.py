"""Hands with forearms: their joints, the built-in hand's surface, and random sizes of it.

Everything is a left hand; a right one is its mirror image. A hand's own axes: x along the straight fingers, y out of
its back, z towards the thumb; the wrist is at 0 and the forearm lies along -x. Seen from its back with the fingers
up, a left hand's thumb points to the right.

A pose is 21 angles in degrees (`ANGLES`): 0 everywhere but for the thumb is a flat hand with the fingers close.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import sparse

from posezoo.skeletons import HAND_AUXILIARY, HAND_PRIMARY
from posezoo.synth.anatomy import Sculpture, blended_bones, neighbours, onto_surface, surface_distance, surface_of_grid
from posezoo.synth.makehuman import LeftArm
from posezoo.synth.rig import FINGERS, rotation_between, rotations, skinned

#: Landmarks of a hand: the wrist, then four along each finger from the knuckle (of the thumb: its root) to the tip.
LANDMARKS = ("wrist", *(f"{finger}{k}" for finger in FINGERS for k in (1, 2, 3, 4)))
#: Joints that turn: the forearm's two halves, the hand, three per finger.
BONES = ("forearm", "forearm_end", "hand", *(f"{finger}{k}" for finger in FINGERS for k in (1, 2, 3)))
_BONE = {name: k for k, name in enumerate(BONES)}
_MARK = {name: k for k, name in enumerate(LANDMARKS)}
_PARENT = {
    "forearm_end": "forearm", "hand": "forearm_end",
    **{f"{f}{k}": "hand" if k == 1 else f"{f}{k - 1}" for f in FINGERS for k in (1, 2, 3)},
}  # fmt: skip
#: Between each bone and its parent lies half a bone, which turns half as far: without it joints that bend collapse.
_BENT = tuple(name for name in BONES if name not in ("forearm", "forearm_end"))

_NAMES = {"thumb": ("cmc", "mcp", "ip", "tip"), **dict.fromkeys(FINGERS[1:], ("mcp", "pip", "dip", "tip"))}
_OF_SKELETON = {"wrist": 0} | {
    f"{'pinky' if finger == 'little' else finger}_{name}": 1 + 4 * n + k
    for n, finger in enumerate(FINGERS)
    for k, name in enumerate(_NAMES[finger])
}
#: Landmark of each of a hand's 17 keypoints, in the order of `HAND34`.
KEYPOINTS = np.array([_OF_SKELETON[name] for name in HAND_PRIMARY + HAND_AUXILIARY])

#: Parts of the surface; a keypoint is seen where the part that it lies in is seen.
PARTS = ("forearm", "palm", *FINGERS)

#: The wrist and a little more belong to the hand: from here on, along the forearm.
WRIST_X_M = -0.012

#: Angles of a pose in degrees with what people reach. `out` opens the thumb in the palm's plane, `fore` brings it
#: before the palm, `roll` turns its nail from the hand's back (0) past the thumb's side (90). `spread` is towards
#: the thumb's side.
ANGLES: dict[str, tuple[float, float]] = {
    "thumb.out": (0, 68), "thumb.fore": (-8, 65), "thumb.roll": (35, 135), "thumb.mcp": (-12, 62),
    "thumb.ip": (-25, 82),
    **{
        f"{finger}.{name}": limits
        for finger in FINGERS[1:]
        for name, limits in (("mcp", (-25, 95)), ("spread", (-22, 22)), ("pip", (-6, 112)), ("dip", (-8, 82)))
    },
}  # fmt: skip
ANGLE = {name: k for k, name in enumerate(ANGLES)}
LOWEST, HIGHEST = np.array(list(ANGLES.values())).T
#: A flat hand: the pose in which sizes are changed.
FLAT = np.zeros(len(ANGLES))
FLAT[[ANGLE["thumb.out"], ANGLE["thumb.fore"], ANGLE["thumb.roll"]]] = 40, 16, 58

#: Directions of the straight fingers in the palm's plane, degrees towards the thumb, and the tilt of the axes about
#: which they bend: bent fingers come together over the ball of the thumb.
_FAN = dict(zip(FINGERS[1:], (3.0, 0.0, -3.5, -8.0)))
_TILT = dict(zip(FINGERS[1:], (-5.0, 2.0, 9.0, 17.0)))


def _turn(axis: int, degrees: np.ndarray) -> np.ndarray:
    """Return rotations `(..., 3, 3)` about a coordinate axis."""
    angle = np.radians(degrees)
    sin, cos = np.sin(angle), np.cos(angle)
    out = np.zeros((*angle.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[..., axis, axis] = 1
    out[..., i, i] = out[..., j, j] = cos
    out[..., i, j], out[..., j, i] = -sin, sin
    return out


_FINGER_BASE = np.stack([_turn(1, -np.array(_FAN[f])) @ _turn(0, -np.array(_TILT[f])) for f in FINGERS[1:]])


def bone_frames(angles: np.ndarray) -> np.ndarray:
    """Return orientations of the 15 finger bones in a pose.

    Args:
        angles: `(..., 21)` degrees in the order of `ANGLES`.

    Returns:
        `(..., 15, 3, 3)` in the hand's axes, columns: along the bone, out of its back, across; a finger bends about
        the negative of the last one.
    """
    angles = np.asarray(angles, float)
    # All bones of a finger bend about one axis: each is the first one's frame turned by the sum of the bends so far.
    start = np.empty((*angles.shape[:-1], 5, 1, 3, 3))
    (sa, sb, sg), (ca, cb, cg) = (np.moveaxis(f(np.radians(angles[..., :3])), -1, 0) for f in (np.sin, np.cos))
    zero = np.zeros_like(sa)
    along = np.stack([cb * ca, -sb, cb * sa], -1)
    aside, above = np.stack([-sa, zero, ca], -1), np.stack([sb * ca, cb, sb * sa], -1)
    start[..., 0, 0, :, 0] = along
    start[..., 0, 0, :, 1] = cg[..., None] * above + sg[..., None] * aside
    start[..., 0, 0, :, 2] = cg[..., None] * aside - sg[..., None] * above
    fingers = angles[..., 5:].reshape(*angles.shape[:-1], 4, 4)
    start[..., 1:, 0, :, :] = _turn(1, -fingers[..., 1]) @ _FINGER_BASE
    bends = np.zeros((*angles.shape[:-1], 5, 3))
    bends[..., 0, 1:] = angles[..., 3:5]
    bends[..., 1:, :] = fingers[..., [0, 2, 3]]
    frames = start @ _turn(2, -np.cumsum(bends, axis=-1))
    return frames.reshape(*angles.shape[:-1], 15, 3, 3)


_FLAT_FRAMES = bone_frames(FLAT)


@dataclass(frozen=True, eq=False)
class HandShape:
    """A left hand and forearm, flat, of one size.

    Attributes:
        vertices: float32 `(V, 3)` metres, in the hand's axes.
        faces: int32 `(F, 3)`.
        weights: Sparse `(V, bones + half bones)`; rows sum to 1.
        parts: uint8 `(F,)` index into `PARTS`.
        landmarks: `(21, 3)` in the order of `LANDMARKS`, inside the hand.
        elbow: `(3,)`.
        radii: `(21,)` metres from the landmarks to the skin.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: sparse.csr_matrix
    parts: np.ndarray
    landmarks: np.ndarray
    elbow: np.ndarray
    radii: np.ndarray

    @cached_property
    def palmar(self) -> np.ndarray:
        """bool `(F,)`, the faces on the palm's side."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)[:, 1] < 0

    @cached_property
    def forearm_radius(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions along the forearm, 0 wrist to 1 elbow, and its largest half-width there, metres."""
        at = np.linspace(0, 1, 9)
        where = self.vertices[:, 0] / self.elbow[0]
        wide = np.linalg.norm(self.vertices[:, 1:], axis=1)
        near = [wide[np.abs(where - p) < 0.08] for p in at]
        return at, np.array([n.max() if len(n) else 0.04 for n in near])

    def landmarks_of(self, angles: np.ndarray) -> np.ndarray:
        """Return landmarks `(..., 21, 3)` of poses `(..., 21)` in the hand's axes."""
        return _chains(self.landmarks, bone_frames(angles))

    def posed(self, angles: np.ndarray, *, wrist: np.ndarray, twist: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the surface and landmarks in a pose, in the hand's axes.

        Args:
            angles: `(21,)` degrees.
            wrist: `(3, 3)` rotation of the forearm's hand end relative to the hand.
            twist: Radians by which the forearm's elbow half is turned about the forearm against its hand half.

        Returns:
            float32 `(V, 3)` and `(21, 3)`.
        """
        frames = bone_frames(angles)
        marks = _chains(self.landmarks, frames)
        turn = np.empty((len(BONES), 3, 3))
        turn[0] = wrist @ _turn(0, np.degrees(np.array(twist)))
        turn[1], turn[2] = wrist, np.eye(3)
        turn[3:] = frames @ _FLAT_FRAMES.swapaxes(-1, -2)
        rest, now = _bone_starts(self.landmarks, self.elbow), np.zeros((len(BONES), 3))
        now[0] = wrist @ self.elbow
        now[1] = now[0] / 2
        now[3:] = marks[_STARTS]
        turn = np.concatenate([turn, _half(turn[_BENT_PARENTS], turn[_BENT_BONES])])
        rest, now = np.concatenate([rest, rest[_BENT_BONES]]), np.concatenate([now, now[_BENT_BONES]])
        return skinned(self.vertices, self.weights, rest, turn, now), marks


_STARTS = np.array([_MARK[name] for name in BONES[3:]])
_BENT_BONES = np.array([_BONE[name] for name in _BENT])
_BENT_PARENTS = np.array([_BONE[_PARENT[name]] for name in _BENT])


def _chains(landmarks: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Lay each finger's bones one after the other: landmarks `(..., 21, 3)`."""
    flat = landmarks[1:].reshape(5, 4, 3)
    bones = np.einsum("fkji,fkj->fki", _FLAT_FRAMES.reshape(5, 3, 3, 3), flat[:, 1:] - flat[:, :-1])
    steps = np.einsum("...fkij,fkj->...fki", frames.reshape(*frames.shape[:-3], 5, 3, 3, 3), bones)
    out = np.empty((*frames.shape[:-3], 21, 3))
    out[..., 0, :] = landmarks[0]
    fingers = out[..., 1:, :].reshape(*frames.shape[:-3], 5, 4, 3)
    fingers[..., 0, :] = flat[:, 0]
    fingers[..., 1:, :] = flat[:, 0, None] + np.cumsum(steps, axis=-2)
    out[..., 1:, :] = fingers.reshape(*frames.shape[:-3], 20, 3)
    return out


def _bone_starts(landmarks: np.ndarray, elbow: np.ndarray) -> np.ndarray:
    """Return where each of `BONES` turns, `(18, 3)`."""
    return np.concatenate([[elbow, elbow / 2, np.zeros(3)], landmarks[_STARTS]])


def _half(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the rotations `(n, 3, 3)` halfway between two, less than half a turn apart."""
    between = first.swapaxes(-1, -2) @ second
    # The half of a rotation is the polar factor of 1 + R: normalise the quaternion's sum with the identity's.
    cosine = np.clip((np.trace(between, axis1=-2, axis2=-1) - 1) / 2, -1, 1)
    skew = np.stack([between[:, 2, 1] - between[:, 1, 2], between[:, 0, 2] - between[:, 2, 0],
                     between[:, 1, 0] - between[:, 0, 1]], -1)  # fmt: skip
    sine = np.linalg.norm(skew, axis=-1) / 2
    angle = np.arctan2(sine, cosine)
    axis = skew / np.maximum(2 * sine, 1e-9)[:, None]
    return first @ rotations(axis * angle[:, None] / 2)


# ---------------------------------------------------------------------------------------- the built-in hand

_AWAY = np.array([0.5, 0, 0])  # sculptures are folded at x = 0


def _sculpted() -> tuple[Sculpture, dict[str, np.ndarray]]:
    """Return the built-in left hand's solids, moved by `_AWAY`, and its landmarks and elbow in their rest pose."""
    s = Sculpture()
    thumbward, back = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])

    def at(along: float, above: float, across: float) -> np.ndarray:
        return np.array([along, above, across])

    def sweep(start, end, table, **how) -> None:
        s.sweep(start + _AWAY, end + _AWAY, table, **how)

    marks: dict[str, np.ndarray] = {"elbow": at(-0.25, 0, 0), "wrist": at(0, 0, 0)}
    # Tables: position, half-width over the back, towards the thumb, towards the little finger.
    sweep(marks["elbow"], at(0.004, 0, 0), [
        (0.00, 0.036, 0.039), (0.20, 0.041, 0.044), (0.45, 0.035, 0.038), (0.80, 0.024, 0.0295), (1.00, 0.0195, 0.027),
    ], bones=[(0.1, "forearm"), (0.75, "forearm_end")], part="forearm", front=thumbward, blend=0.02)  # fmt: skip
    sweep(at(-0.004, 0, 0), at(0.086, 0.001, 0.0), [
        (0.0, 0.0185, 0.026), (0.25, 0.0175, 0.029, 0.030), (0.6, 0.0145, 0.036, 0.037), (1.0, 0.0115, 0.041, 0.040),
    ], bones="hand", part="palm", front=thumbward, power=2.7, blend=0.014, caps=(0.012, 0.006))  # fmt: skip
    # Balls of the thumb and of the little finger, on the palm's side.
    sweep(at(0.014, -0.008, 0.016), at(0.052, -0.015, 0.031), [
        (0, 0.014, 0.012), (0.5, 0.0165, 0.0145), (1, 0.013, 0.011),
    ], bones=[(0.0, "hand"), (0.9, "thumb1")], part="palm", front=back, blend=0.014)  # fmt: skip
    sweep(at(0.018, -0.008, -0.019), at(0.064, -0.007, -0.027), [
        (0, 0.013, 0.0125), (0.5, 0.0145, 0.013), (1, 0.012, 0.010),
    ], bones="hand", part="palm", front=back, blend=0.014)  # fmt: skip
    # The web between thumb and index finger.
    sweep(at(0.030, -0.004, 0.028), at(0.066, -0.003, 0.036), [
        (0, 0.0095, 0.014), (0.6, 0.0075, 0.010), (1, 0.006, 0.006),
    ], bones=[(0.2, "hand"), (1.4, "thumb1")], part="palm", front=thumbward, blend=0.012)  # fmt: skip

    fingers = {  # knuckle along, across; bones; half-width; fan
        "index": ((0.088, 0.0300), (0.044, 0.0255, 0.0225), 0.0093, 0.16),
        "middle": ((0.092, 0.0092), (0.048, 0.0295, 0.0240), 0.0096, 0.035),
        "ring": ((0.087, -0.0115), (0.044, 0.0280, 0.0235), 0.0091, -0.09),
        "little": ((0.078, -0.0305), (0.035, 0.0205, 0.0210), 0.0081, -0.25),
    }
    for finger, ((along, across), bones, r, fan) in fingers.items():
        direction = np.array([np.cos(fan), 0, np.sin(fan)])
        here = at(along, 0.001, across)
        # Knuckle, on the back.
        s.ball(here + _AWAY + at(-0.003, 0.0015, 0), (0.013, 0.0100, 0.0098), bones=[(0.0, "hand")], part="palm",
               blend=0.010)  # fmt: skip
        # Width across, back, palm side: joints are wider, the flesh between is on the palm's side.
        rows = {
            1: [(0, r * 1.02, r * 0.98, r * 1.06), (0.45, r * 0.97, r * 0.90, r * 1.06), (1, r * 1.03, r * 0.98, r)],
            2: [(0, r * 1.03, r * 0.98, r), (0.5, r * 0.93, r * 0.86, r * 0.98), (1, r * 0.93, r * 0.84, r * 0.90)],
            3: [
                (0, r * 0.93, r * 0.84, r * 0.90),
                (0.5, r * 0.92, r * 0.74, r * 0.93),
                (1, r * 0.76, r * 0.6, r * 0.7),
            ],
        }
        for n, bone in enumerate(bones, start=1):
            name = f"{finger}{n}"
            marks[name] = here
            end = here + direction * bone
            start = here - direction * 0.016 if n == 1 else here
            stop = end - direction * r * 0.7 if n == 3 else end
            sweep(start, stop, [(p, *rest) for p, *rest in rows[n]], front=back, part=finger,
                  bones=[(0.12, "hand"), (0.5, name)] if n == 1 else name, blend=0.007 if n == 1 else 0.003,
                  caps=(r * 0.7, r * 0.7))  # fmt: skip
            here = end
        marks[f"{finger}4"] = here - direction * r * 0.65
    direction = bone_frames(FLAT)[0][:, 0]
    nail = bone_frames(FLAT)[0][:, 1]
    here = at(0.018, -0.010, 0.021)
    for n, (bone, flesh) in enumerate((
        (0.045, [(0, 0.0135, 0.0130, 0.0150), (0.5, 0.0125, 0.0115, 0.0150), (1, 0.0112, 0.0110, 0.0115)]),
        (0.033, [(0, 0.0112, 0.0110, 0.0112), (0.5, 0.0100, 0.0094, 0.0108), (1, 0.0106, 0.0096, 0.0102)]),
        (0.029, [(0, 0.0106, 0.0096, 0.0102), (0.5, 0.0106, 0.0082, 0.0104), (1, 0.0082, 0.0060, 0.0076)]),
    ), start=1):  # fmt: skip
        name = f"thumb{n}"
        marks[name] = here
        end = here + direction * bone
        stop = end - direction * 0.0075 if n == 3 else end
        sweep(here, stop, flesh, bones=name, part="thumb" if n > 1 else "palm", front=nail,
              blend=0.014 if n == 1 else 0.004)  # fmt: skip
        here = end
    marks["thumb4"] = here - direction * 0.0065
    return s, marks


#: Distance between the built-in hand's vertices, metres, and how much coarser they are along the forearm.
_STEP_M, _FOREARM_FACTOR = 0.0062, 8.0


def _real_place(stretched: np.ndarray) -> np.ndarray:
    """Map points `(..., 3)` of the space in which the forearm is short to real space (moved by `_AWAY`)."""
    out = stretched.copy()
    x = out[..., 0] - _AWAY[0]
    short = x < -0.03
    out[..., 0] = np.where(short, -0.03 + (x + 0.03) * _FOREARM_FACTOR, x) + _AWAY[0]
    return out


@lru_cache(maxsize=1)
def builtin_hand() -> HandShape:
    """Return the built-in hand of average size, made at the first call, in about a second."""
    s, marks = _sculpted()
    step = _STEP_M
    axes = (
        np.arange(-0.03 - 0.26 / _FOREARM_FACTOR, 0.205, step) + _AWAY[0],
        np.arange(-0.056, 0.056, step),
        np.arange(-0.072, 0.098, step),
    )
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    values = surface_distance(s.solids, _real_place(grid.reshape(-1, 1, 3)), margin=0.03)
    points, faces = surface_of_grid(values.reshape(grid.shape[:3]))
    points = _real_place(points * step + [a[0] for a in axes])
    average = neighbours(faces, len(points))
    for _ in range(5):
        points = onto_surface(s.solids, 0.5 * points + 0.5 * (average @ points), steps=1)
    points = onto_surface(s.solids, points, steps=2)
    weights, parts = blended_bones(s.solids, points, BONES, PARTS, softness=0.0035)
    for _ in range(2):
        weights = 0.6 * weights + 0.4 * (average @ weights)
    points = points - _AWAY
    parts[(points[:, 0] > WRIST_X_M) & (parts == 0)] = 1
    parts[(points[:, 0] <= WRIST_X_M) & (parts == 1)] = 0
    landmarks = np.stack([marks[name] for name in LANDMARKS])
    return _flattened(points, faces, weights, np.sort(parts[faces], axis=1)[:, 1], landmarks, marks["elbow"])


def makehuman_hand(arm: LeftArm) -> HandShape:
    """Return the hand of a person of MakeHuman's mesh."""
    wrist, knuckles = arm.heads[2], arm.heads[[6, 9, 12, 15]]
    along = knuckles[1] - wrist
    along /= np.linalg.norm(along)
    across = knuckles[0] - knuckles[3]
    across -= along * (across @ along)
    across /= np.linalg.norm(across)
    axes = np.stack([along, np.cross(across, along), across])
    points, heads, tips = ((p - wrist) @ axes.T for p in (arm.vertices, arm.heads, arm.tips))
    # The forearm is to lie along -x.
    turn = rotation_between(-heads[0], np.array([1.0, 0, 0]))
    straight = (points @ turn.T) * np.array([1, 1, 1])
    bent = arm.weights[:, :2].sum(1)[:, None]
    points = (1 - bent) * points + bent * straight
    elbow = np.array([-np.linalg.norm(heads[0]), 0, 0])
    fingers = np.concatenate([heads[3:].reshape(5, 3, 3), tips[:, None]], axis=1)
    # Bones end at the skin; the landmark lies as deep as in the built-in hand.
    last = fingers[:, 3] - fingers[:, 2]
    fingers[:, 3] -= 0.006 * last / np.linalg.norm(last, axis=1, keepdims=True)
    strongest = arm.weights.argmax(axis=1)
    parts = np.where(strongest < 3, np.where(points[:, 0] > WRIST_X_M, 1, 0), 2 + (strongest - 3) // 3)
    parts[strongest == 3] = 1  # the ball of the thumb
    fingers = _centred(fingers, points, parts)
    landmarks = np.concatenate([np.zeros((1, 3)), fingers.reshape(20, 3)])
    return _flattened(points, arm.faces, arm.weights, np.sort(parts[arm.faces], axis=1)[:, 1], landmarks, elbow)


def _centred(fingers: np.ndarray, points: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Move joints that lie below the back of the fingers, as MakeHuman's do, into their middle.

    Args:
        fingers: `(5, 4, 3)` joints and tips.
        points: `(V, 3)` the surface.
        parts: `(V,)`.
    """
    frames = _frames_at_rest(np.concatenate([np.zeros((1, 3)), fingers.reshape(20, 3)])).reshape(5, 3, 3, 3)
    out = fingers.copy()
    for n in range(5):
        mine = points[parts == 2 + n]
        moves = np.zeros(4)
        for k in (2, 3) if n == 0 else (1, 2, 3):
            along, back, _ = frames[n, min(k, 2)].T
            away = mine - fingers[n, k]
            slice_ = (away @ back)[np.abs(away @ along) < 0.006]
            moves[k] = (slice_.max() + slice_.min()) / 2 if len(slice_) else moves[k - 1]
        # Knuckles are in the palm's flesh; they lie as deep as the next joint, and more.
        moves[:2] = (0, moves[2]) if n == 0 else (1.4 * moves[1], moves[1])
        out[n] += moves[:, None] * frames[n, [0, 1, 2, 2], :, 1]
    return out


def _flattened(
    points: np.ndarray,
    faces: np.ndarray,
    weights: np.ndarray,
    parts: np.ndarray,
    landmarks: np.ndarray,
    elbow: np.ndarray,
) -> HandShape:
    """Turn a hand's finger bones from the pose in which it was made into the flat pose.

    Args:
        points: `(V, 3)` in the hand's axes.
        faces: `(F, 3)`.
        weights: `(V, bones)`.
        parts: `(F,)`.
        landmarks: `(21, 3)`.
        elbow: `(3,)`.
    """
    from scipy.spatial import cKDTree

    radii, _ = cKDTree(points).query(landmarks)
    frames = _frames_at_rest(landmarks)
    turn = np.broadcast_to(np.eye(3), (len(BONES), 3, 3)).copy()
    turn[3:] = _FLAT_FRAMES @ frames.swapaxes(-1, -2)
    flat = landmarks.copy()
    for n in range(5):
        for k in range(3):
            bone = landmarks[2 + 4 * n + k] - landmarks[1 + 4 * n + k]
            flat[2 + 4 * n + k] = flat[1 + 4 * n + k] + turn[3 + 3 * n + k] @ bone
    vertices = skinned(
        points, sparse.csr_matrix(weights), _bone_starts(landmarks, elbow), turn, _bone_starts(flat, elbow)
    )
    return HandShape(
        vertices, faces.astype(np.int32), _with_half_bones(weights), parts.astype(np.uint8), flat, elbow, radii
    )


def _frames_at_rest(landmarks: np.ndarray) -> np.ndarray:
    """Return the finger bones' frames `(15, 3, 3)` of a hand whose fingers are nearly straight, as `bone_frames`."""
    frames = _FLAT_FRAMES.copy()
    for n in range(5):
        for k in range(3):
            along = landmarks[2 + 4 * n + k] - landmarks[1 + 4 * n + k]
            along = along / np.linalg.norm(along)
            # The smallest turn that brings the flat bone there.
            before = frames[3 * n + k]
            axis = np.cross(before[:, 0], along)
            sine = np.linalg.norm(axis)
            angle = np.arctan2(sine, before[:, 0] @ along)
            frames[3 * n + k] = rotations(axis / max(sine, 1e-9) * angle) @ before
    return frames


def _with_half_bones(weights: np.ndarray) -> sparse.csr_matrix:
    """Give what two neighbouring bones share to the half bone between them, `(V, bones + half bones)`."""
    table = np.concatenate([weights, np.zeros((len(weights), len(_BENT)))], axis=1)
    for n, (bone, parent) in enumerate(zip(_BENT_BONES, _BENT_PARENTS)):
        shared = np.minimum(table[:, bone], table[:, parent])
        # A vertex that each bone carries by half moves with the half bone alone.
        table[:, len(BONES) + n] = 2 * shared
        table[:, bone] -= shared
        table[:, parent] -= shared
    table[table < 0.01] = 0
    return sparse.csr_matrix((table / table.sum(1, keepdims=True)).astype(np.float32))


# ------------------------------------------------------------------------------------------- random sizes


def resized(shape: HandShape, rng: np.random.Generator, *, size: float = 1.0) -> HandShape:
    """Return a hand of another size: bone lengths, thickness of palm and fingers, knuckles, forearm.

    Lengths of bones vary by 5 % (standard deviation) about a common size that varies by 9 %, thickness by 10 %; hands
    made of the built-in one are 14 to 22 cm long.

    Args:
        shape: Of average size, or a person's.
        rng: Source of every random number.
        size: Factor on how much the common size and thickness vary.
    """
    common = float(np.clip(1 - 0.05 * size + rng.normal(0, 0.085 * size), 0.72, 1.18))
    thick = common * float(np.clip(rng.normal(1.0, 0.10 * size), 0.78, 1.28))
    long = float(np.clip(rng.normal(1.0, 0.045), 0.88, 1.12))
    # Along, over the back, across of: forearm halves, palm, finger bones.
    scale = np.ones((len(BONES), 3))
    scale[:2] = (1.0, *(thick * rng.normal(1, 0.05, 2)))
    scale[2] = common * np.array([rng.normal(1, 0.04), rng.normal(1, 0.08) * thick / common, rng.normal(1, 0.05)])
    fingers = common * long * rng.normal(1, 0.035, (5, 1)) * rng.normal(1, 0.03, (5, 3))
    girth = thick * rng.normal(1, 0.04, (5, 1)) * rng.normal(1, 0.02, (5, 3))
    scale[3:] = np.stack([fingers, girth, girth * rng.normal(1, 0.02)], -1).reshape(15, 3)
    scale = np.clip(scale, 0.6, 1.5)
    return scaled(shape, scale, forearm=float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.2)) * (0.4 + 0.6 * common))


def scaled(shape: HandShape, scale: np.ndarray, *, forearm: float = 1.0) -> HandShape:
    """Return a hand whose bones are stretched.

    Args:
        shape: The hand.
        scale: `(18, 3)` for each of `BONES`: along, over the back, across.
        forearm: Length of the forearm.
    """
    scale = np.array(scale, float)
    scale[:2, 0] = forearm
    frames = np.concatenate([np.broadcast_to(np.eye(3), (3, 3, 3)), _FLAT_FRAMES])
    turn = frames @ (scale[:, :, None] * frames.swapaxes(-1, -2))
    flat = shape.landmarks.copy()
    elbow = shape.elbow * forearm
    for n in range(5):
        flat[1 + 4 * n] = turn[2] @ shape.landmarks[1 + 4 * n]
        for k in range(3):
            bone = shape.landmarks[2 + 4 * n + k] - shape.landmarks[1 + 4 * n + k]
            flat[2 + 4 * n + k] = flat[1 + 4 * n + k] + turn[3 + 3 * n + k] @ bone
    rest, now = _bone_starts(shape.landmarks, shape.elbow), _bone_starts(flat, elbow)
    halves = (turn[_BENT_PARENTS] + turn[_BENT_BONES]) / 2
    vertices = skinned(
        shape.vertices, shape.weights, np.concatenate([rest, rest[_BENT_BONES]]),
        np.concatenate([turn, halves]), np.concatenate([now, now[_BENT_BONES]]),
    )  # fmt: skip
    girth = np.concatenate([[scale[2, 1]], *(scale[[2 if k == 0 else 2 + 3 * n + k for k in range(4)], 1]
                                             for n in range(5))])  # fmt: skip
    return HandShape(vertices, shape.faces, shape.weights, shape.parts, flat, elbow, shape.radii * girth)


def keypoint_parts() -> np.ndarray:
    """Say which parts of the surface each of the 17 keypoints may be seen in, bool `(17, 16)`; unused columns last."""
    table = np.zeros((len(KEYPOINTS), 16), bool)
    for row, mark in enumerate(KEYPOINTS):
        finger, k = divmod(int(mark) - 1, 4)
        if mark == 0 or k == 0 or (finger == 0 and k == 1):
            table[row, PARTS.index("palm")] = True
        if mark > 0:
            table[row, PARTS.index(FINGERS[finger])] = True
    return table
