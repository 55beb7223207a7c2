"""Poses of a hand: nine classes drawn from templates, from joint limits and from real hands' joints.

    angles, label = random_pose(np.random.default_rng(3), shape)

Templates vary along one parameter of 0 to 1 that is their own (how tight a fist is, how far fingers are spread, how
wide a pinch is open), beside noise on every angle. A band of it, `HELD_BAND`, and half of the finger combinations of
"other" belong to the held-out set alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np

from posezoo.skeletons import HAND_POSES
from posezoo.synth.hand_shape import ANGLE, ANGLES, FLAT, HIGHEST, LOWEST, HandShape, bone_frames, builtin_hand
from posezoo.synth.rig import FINGERS

Split = Literal["train", "test", "all"]

#: Values of a template's parameter that are kept for the held-out set.
HELD_BAND = (0.55, 0.75)

#: Fingers that are stretched in the combinations that "other" draws (thumb, index, middle, ring, little), but for
#: those that are classes of their own. Every second one is kept for the held-out set.
COMBINATIONS = tuple(
    bits
    for number in range(32)
    if sum(bits := tuple(bool(number >> k & 1) for k in range(5))) and bits not in (
        (True, False, False, False, False), (True, True, False, False, False), (False, True, False, False, False),
        (True, True, True, True, True), (False, True, True, True, True),
    )
)  # fmt: skip


class _Draft:
    """Angles of a pose being made."""

    def __init__(self, rng: np.random.Generator, parameter: float) -> None:
        self.rng, self.u = rng, parameter
        self.angles = FLAT.copy()

    def finger(self, finger: str, mcp: float, pip: float, dip: float, spread: float = 0.0, *, jitter=5.0) -> None:
        """Bend a finger, with noise."""
        values = np.array([mcp, spread, pip, dip]) + self.rng.normal(0, 1, 4) * jitter * (1, 0.35, 1, 0.8)
        k = ANGLE[f"{finger}.mcp"]
        self.angles[k : k + 4] = values

    def thumb(self, out: float, fore: float, roll: float, mcp: float, ip: float, *, jitter=5.0) -> None:
        """Place the thumb, with noise."""
        self.angles[:5] = np.array([out, fore, roll, mcp, ip]) + self.rng.normal(0, 1, 5) * jitter

    def curled(self, fingers, *, tight: float = 1.0, jitter=5.0) -> None:
        """Curl fingers into the palm; those beside each other alike."""
        common = self.rng.normal(0, 4, 3)
        for finger in fingers:
            self.finger(finger, 42 + 48 * tight + common[0], 64 + 44 * tight + common[1], 40 + 36 * tight + common[2],
                        jitter=jitter)  # fmt: skip

    def straight(self, fingers, *, spread: float = 0.3, bent: float = 0.0, jitter=4.0) -> None:
        """Stretch fingers; `spread` -0.3 is closed, 1 wide open, `bent` 0 straight, 1 relaxed."""
        fan = dict(zip(FINGERS[1:], (11.0, 1.5, -8.0, -17.0)))
        droop = self.rng.normal(0, 5)
        for finger in fingers:
            self.finger(finger, droop + 20 * bent, 4 + 26 * bent, 2 + 14 * bent, fan[finger] * spread, jitter=jitter)


def _open_hand(d: _Draft) -> None:
    closed = d.rng.random() < 0.3
    spread = -0.25 if closed else 0.1 + 0.9 * d.u
    d.straight(FINGERS[1:], spread=spread, bent=abs(d.rng.normal(0, 0.15)))
    if closed and d.u < 0.5:
        d.thumb(14, 8, 62, 8, 5)
    else:
        d.thumb(34 + 24 * d.u, 12, 58, 2, 0, jitter=7)


def _fist(d: _Draft) -> None:
    d.curled(FINGERS[1:], tight=0.75 + 0.3 * d.u, jitter=3)
    kind = d.rng.random()
    if kind < 0.6:  # across the fingers
        d.thumb(24, 46, 96, 30, 48, jitter=5)
    elif kind < 0.85:  # beside the index finger
        d.thumb(12, 22, 80, 10, 20, jitter=5)
    else:  # over the middle finger
        d.thumb(16, 50, 100, 40, 30, jitter=5)


def _point(d: _Draft) -> None:
    d.curled(FINGERS[2:], tight=0.55 + 0.5 * d.rng.random(), jitter=5)
    d.finger("index", d.rng.uniform(-10, 35), 2 + 16 * d.u, 3 + 8 * d.u, d.rng.normal(0, 4), jitter=3)
    if d.rng.random() < 0.65:
        d.thumb(22, 44, 96, 30, 40, jitter=6)
    else:
        d.thumb(10, 20, 76, 14, 22, jitter=5)


def _l_pose(d: _Draft) -> None:
    d.curled(FINGERS[2:], tight=0.55 + 0.5 * d.rng.random(), jitter=5)
    d.finger("index", d.rng.uniform(-10, 12), 4, 3, d.rng.normal(2, 4), jitter=3)
    d.thumb(50 + 16 * d.u, 8, 62, -2, -6, jitter=5)


def _thumbs_up(d: _Draft) -> None:
    d.curled(FINGERS[1:], tight=0.65 + 0.4 * d.rng.random(), jitter=4)
    d.thumb(44 + 22 * d.u, 4, 62, -2, -8, jitter=5)


def _ok(d: _Draft) -> None:
    d.straight(FINGERS[2:], spread=d.rng.uniform(0.0, 1.0), bent=abs(d.rng.normal(0.1, 0.35)), jitter=5)
    _ring(d, wide=d.u)


def _pinch(d: _Draft) -> None:
    d.curled(FINGERS[2:], tight=d.rng.uniform(-0.15, 0.9), jitter=7)
    _ring(d, wide=d.u)


def _ring(d: _Draft, *, wide: float) -> None:
    """Bring thumb and index finger near each other, round (`wide` 1) or flat; `_touch` closes the gap."""
    d.finger("index", 52 - 8 * wide, 38 + 26 * wide, 16 + 20 * wide, d.rng.normal(-2, 4), jitter=4)
    d.thumb(34, 44, 100, 8 + 14 * wide, 18 + 22 * wide, jitter=4)


def _c_pose(d: _Draft) -> None:
    mcp, pip, dip = 28 + d.rng.normal(0, 6), 44 + d.rng.normal(0, 6), 24 + d.rng.normal(0, 5)
    for finger in FINGERS[1:]:
        d.finger(finger, mcp, pip, dip, -0.5, jitter=3)
    d.thumb(36, 48, 98, 6, 16, jitter=5)


def _relaxed(d: _Draft) -> None:
    common = d.rng.uniform(5, 45)
    for k, finger in enumerate(FINGERS[1:]):
        d.finger(finger, common * 0.7 + 4 * k, common * 1.05 + 3 * k, common * 0.6, 1.5 - k, jitter=5)
    d.thumb(30, 22, 72, 12, 14, jitter=8)


def _combination(d: _Draft, split: Split) -> None:
    choices = {"train": COMBINATIONS[::2], "test": COMBINATIONS[1::2], "all": COMBINATIONS}[split]
    bits = choices[int(d.rng.integers(len(choices)))]
    up = [f for f, bit in zip(FINGERS, bits) if bit and f != "thumb"]
    d.curled([f for f in FINGERS[1:] if f not in up], tight=d.rng.uniform(0.3, 1.0), jitter=6)
    d.straight(up, spread=d.rng.uniform(-0.2, 1.0), bent=abs(d.rng.normal(0, 0.25)), jitter=5)
    if bits[0]:
        d.thumb(48, 10, 64, 0, 0, jitter=8)
    else:
        d.thumb(20, 46, 98, 30, 42, jitter=7)


def _anything(d: _Draft) -> None:
    """Draw every finger within its limits; neighbours bend alike, and the last joint follows the middle one."""
    rng = d.rng
    mcp, pip = rng.uniform(-10, 85), rng.uniform(0, 100)
    for finger in FINGERS[1:]:
        mcp = 0.5 * mcp + 0.5 * rng.uniform(-15, 90)
        pip = 0.45 * pip + 0.55 * rng.uniform(0, 108)
        d.finger(finger, mcp, pip, pip * rng.uniform(0.3, 0.75), rng.normal(0, 6), jitter=2)
    d.thumb(rng.uniform(5, 62), rng.uniform(-5, 60), rng.uniform(50, 110), rng.uniform(-5, 50), rng.uniform(-10, 65))


TEMPLATES: dict[str, Callable[[_Draft], None]] = {
    "ok": _ok, "open_hand": _open_hand, "pinch": _pinch, "c_pose": _c_pose, "fist": _fist, "l_pose": _l_pose,
    "point": _point, "thumbs_up": _thumbs_up,
}  # fmt: skip

#: Metres between the skins of thumb and index finger tip in poses that bring them together: least, most.
_GAPS = {"ok": (-0.001, 0.003), "pinch": (-0.001, 0.008), "c_pose": (0.022, 0.065)}


def template(rng: np.random.Generator, name: str, shape: HandShape, *, split: Split = "all") -> np.ndarray:
    """Return angles `(21,)` of one of the eight named poses for a hand."""
    low, high = HELD_BAND
    if split == "test":
        parameter = rng.uniform(low, high)
    else:
        parameter = rng.random() if split == "all" else rng.uniform(0, 1 - (high - low))
        if split == "train" and parameter > low:
            parameter += high - low
    draft = _Draft(rng, float(parameter))
    TEMPLATES[name](draft)
    angles = np.clip(draft.angles, LOWEST, HIGHEST)
    if name in _GAPS:
        low, high = _GAPS[name]
        gap = low + (high - low) * (parameter if name == "c_pose" else rng.random() ** 2)
        angles = touch(shape, angles, gap)
    return angles


def other(rng: np.random.Generator, *, split: Split = "all", recorded: np.ndarray | None = None) -> np.ndarray:
    """Return angles `(21,)` of a pose that is near none of the named classes.

    Args:
        rng: Source of every random number.
        split: See `random_pose`.
        recorded: `(N, 21)` angles of real hands; half of the poses come from them.
    """
    angles = FLAT
    for _ in range(8):
        if recorded is not None and rng.random() < 0.5:
            angles = recorded[int(rng.integers(len(recorded)))] + rng.normal(0, 3, len(ANGLES))
        else:
            draft = _Draft(rng, float(rng.random()))
            kind = rng.random()
            if kind < 0.35:
                _relaxed(draft)
            elif kind < 0.7:
                _combination(draft, split)
            else:
                _anything(draft)
            angles = draft.angles
        angles = np.clip(angles, LOWEST, HIGHEST)
        if nearest_class(angles[None])[1][0] > OTHER_FROM_M:
            break
    return angles


#: Poses whose landmarks are nearer than this, on average, to an example of a class are not called "other".
OTHER_FROM_M = 0.009


@lru_cache(maxsize=1)
def _examples() -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks of examples of the eight named classes `(N, 60)` and their classes `(N,)`."""
    hand, rng = builtin_hand(), np.random.default_rng(0)
    rows = [(template(rng, name, hand), k) for k, name in enumerate(TEMPLATES) for _ in range(40)]
    marks = hand.landmarks_of(np.array([angles for angles, _ in rows]))
    numbers = np.array([HAND_POSES.index(name) for name in TEMPLATES])
    return marks[:, 1:].reshape(len(rows), -1), numbers[[k for _, k in rows]]


def nearest_class(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the named class to which poses are nearest, and how near.

    Args:
        angles: `(N, 21)` degrees.

    Returns:
        Indices into `HAND_POSES` `(N,)` and the mean distance `(N,)` in metres between the built-in hand's landmarks
        in the pose and in the nearest of 40 examples of the class.
    """
    known, classes = _examples()
    marks = builtin_hand().landmarks_of(angles)[:, 1:].reshape(len(angles), -1)
    away = np.sqrt(((marks[:, None] - known).reshape(len(angles), len(known), 20, 3) ** 2).sum(-1)).mean(-1)
    best = away.argmin(axis=1)
    return classes[best], away[np.arange(len(angles)), best]


def random_pose(
    rng: np.random.Generator,
    shape: HandShape,
    *,
    pose: str | None = None,
    split: Split = "all",
    recorded: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Return the angles of a pose and its class.

    A fifth of the poses lie between two. Such a pose keeps a class while it is no more than a quarter of the way to
    another; from there on it is "other".

    Args:
        rng: Source of every random number.
        shape: The hand, for poses in which finger and thumb touch.
        pose: One of `HAND_POSES`; drawn by default.
        split: "train" leaves the held-out part of the templates and combinations out, "test" draws from it alone.
        recorded: Angles of real hands for "other", see `other`.

    Returns:
        `(21,)` degrees and an index into `HAND_POSES`.
    """
    chosen = pose or HAND_POSES[int(rng.choice(len(HAND_POSES), p=_SHARES))]

    def draw(name: str) -> np.ndarray:
        if name == "other":
            return other(rng, split=split, recorded=recorded)
        return template(rng, name, shape, split=split)

    angles = draw(chosen)
    if pose is None and rng.random() < 0.2:
        towards = draw(HAND_POSES[int(rng.integers(len(HAND_POSES)))])
        step = float(rng.uniform(0, 0.5))
        angles = (1 - step) * angles + step * towards
        if step > 0.25:
            chosen = "other"
    return angles, HAND_POSES.index(chosen)


_SHARES = np.array([0.1] * 8 + [0.2])

_SOLVED = np.array([ANGLE[n] for n in (
    "thumb.out", "thumb.fore", "thumb.roll", "thumb.mcp", "thumb.ip", "index.mcp", "index.pip", "index.dip",
    "index.spread")])  # fmt: skip
_STEP = np.vstack([np.zeros(len(ANGLES)), np.eye(len(ANGLES))[_SOLVED]])


def touch(shape: HandShape, angles: np.ndarray, gap: float, *, steps: int = 4) -> np.ndarray:
    """Return the pose with thumb and index finger moved so that their tips' pads face each other at a distance.

    Args:
        shape: The hand.
        angles: `(21,)` degrees, where to begin.
        gap: Metres between the skins; a little below 0 presses.
        steps: Of the damped least squares.
    """
    angles = np.array(angles, float)
    start = angles[_SOLVED]
    apart = gap + 1.15 * (shape.radii[4] + shape.radii[8])
    # What the angles may differ from where they began, degrees, against a metre of distance.
    stiff = np.array([1.0, 1.0, 1.3, 1.0, 1.0, 1.0, 1.0, 1.3, 2.0]) * 2e-4

    def offsets(batch: np.ndarray) -> np.ndarray:
        marks, frames = shape.landmarks_of(batch), bone_frames(batch)
        between = marks[:, 8] - marks[:, 4]
        thumb_pad = -frames[:, 2, :, 1]
        # The index finger's tip is to lie `apart` from the thumb's, to the side of the thumb's pad.
        return between - apart * thumb_pad

    for _ in range(steps):
        found = offsets(angles + _STEP)
        slopes = found[1:] - found[0]
        jacobian = np.concatenate([slopes.T, np.diag(stiff)])
        residual = np.concatenate([found[0], stiff * (angles[_SOLVED] - start)])
        move = np.linalg.lstsq(jacobian, -residual, rcond=None)[0]
        angles[_SOLVED] += np.clip(move, -25, 25)
        angles = np.clip(angles, LOWEST, HIGHEST)
    return angles
