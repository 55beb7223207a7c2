"""Poses of real hands, from the joint labels of two depth data sets.

Only joints are known, and not all: the built-in hand is fitted to them, which gives its joint angles. The files are
`icvl_test_uvd.npz` (Tang et al., CVPR 2014: the middles of palm and finger bones) and `nyu_test_uvd.npz` (Tompson et
al., ACM TOG 2014: tips, middle joints, thumb, wrist, palm): `uvd`, pixels and millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from posezoo.errors import UserError
from posezoo.synth.camera import Intrinsics
from posezoo.synth.hand_poses import OTHER_FROM_M, Split, nearest_class
from posezoo.synth.hand_shape import ANGLE, ANGLES, FLAT, HIGHEST, LANDMARKS, LOWEST, HandShape, builtin_hand
from posezoo.synth.rig import FINGERS


@dataclass(frozen=True)
class _LabelSet:
    """How a file's joints lie on a hand.

    Attributes:
        file: Its name.
        camera: Whose pixels they are in.
        points: For each joint the landmarks whose mean it is.
    """

    file: str
    camera: Intrinsics
    points: tuple[tuple[str, ...], ...]


_PALM = ("wrist", "index1", "middle1", "ring1", "little1")
_SETS = (
    _LabelSet(
        "icvl_test_uvd.npz", Intrinsics(241.42, 241.42, 160, 120, 320, 240),
        (_PALM, *((f"{f}{k}", f"{f}{k + 1}") for f in FINGERS for k in (1, 2, 3))),
    ),
    _LabelSet(
        "nyu_test_uvd.npz", Intrinsics(588.03, 587.07, 320, 240, 640, 480),
        (
            *((f"{f}{k}",) for f in ("little", "ring", "middle", "index") for k in (4, 2)),
            ("thumb4",), ("thumb3",), ("thumb2",), ("wrist",), ("wrist",), _PALM,
        ),
    ),
)  # fmt: skip

#: Shares of a file's frames that may be drawn: the last 15 % are never read.
_RANGES: dict[Split, tuple[float, float]] = {"train": (0.0, 0.7), "test": (0.7, 0.85), "all": (0.0, 0.85)}
#: Frames of each file that are fitted, and the largest mean distance of a good fit, of hands as large as ours.
_FRAMES, _WORST_M = 320, 0.008


@lru_cache(maxsize=4)
def recorded_angles(folder: str, split: Split) -> np.ndarray:
    """Return the angles `(N, 21)` in degrees of real hands in poses of none of the named classes.

    Args:
        folder: Holds at least one of the two files.
        split: "train" reads the first 70 % of each file, "test" the 15 % after them, "all" both.

    Raises:
        UserError: The folder holds neither, or a file is damaged.
    """
    found = []
    for labels in _SETS:
        path = Path(folder) / labels.file
        if path.exists():
            points = _read(path, labels)
            low, high = (round(share * len(points)) for share in _RANGES[split])
            chosen = np.unique(np.linspace(low, high - 1, _FRAMES).astype(int))
            found.append(fitted_angles(points[chosen], labels.points))
    if not found:
        raise UserError(f"{folder}: holds neither {' nor '.join(s.file for s in _SETS)}; expected labels of hands")
    angles = np.concatenate(found)
    return angles[nearest_class(angles)[1] > OTHER_FROM_M]


def _read(path: Path, labels: _LabelSet) -> np.ndarray:
    """Return joints `(N, J, 3)` in metres, camera space."""
    try:
        with np.load(path) as file:
            table = np.asarray(file["uvd"], float)
    except Exception as error:  # noqa: BLE001  zip and NumPy each raise their own kind
        raise UserError(f"{path}: damaged ({error}); get the file again") from error
    if table.ndim != 3 or table.shape[1:] != (len(labels.points), 3):
        raise UserError(f"{path}: 'uvd' is {table.shape}, expected (frames, {len(labels.points)}, 3)")
    return labels.camera.back_project(table[..., :2], table[..., 2]) / 1000


def fitted_angles(points: np.ndarray, marks: tuple[tuple[str, ...], ...], *, steps: int = 14) -> np.ndarray:
    """Fit the built-in hand to joints of real ones, left or right, of any size.

    Args:
        points: `(N, J, 3)` metres.
        marks: For each joint the landmarks whose mean it is.
        steps: Of the damped least squares over the angles; place, turn and size follow in closed form.

    Returns:
        `(n, 21)` degrees of the hands that fit, of which there may be fewer than N.
    """
    hand = builtin_hand()
    mix = np.zeros((len(marks), len(LANDMARKS)))
    for row, names in enumerate(marks):
        mix[row, [LANDMARKS.index(n) for n in names]] = 1 / len(names)
    centred = points - points.mean(axis=1, keepdims=True)
    probe = centred[np.unique(np.linspace(0, len(centred) - 1, 24).astype(int))]
    mirrored = [np.median(_fit(hand, mix, probe * (m, 1, 1), _START, steps)[1]) for m in (1.0, -1.0)]
    target = centred * (1.0 if mirrored[0] <= mirrored[1] else -1.0, 1, 1)
    angles, rest = _fit(hand, mix, target, _START, steps)
    # From a straight hand some fists are not found: the worse half begins again, bent.
    again = np.flatnonzero(rest >= np.median(rest))
    others, other_rest = _fit(hand, mix, target[again], _BENT_START, steps)
    better = other_rest < rest[again]
    angles[again[better]], rest[again[better]] = others[better], other_rest[better]
    return angles[rest < _WORST_M]


#: Where fits begin: nearly straight, and a loose fist.
_START = np.clip(FLAT + 15.0, LOWEST, HIGHEST)
_BENT_START = _START.copy()
for _name, _value in (("mcp", 65.0), ("pip", 75.0), ("dip", 50.0)):
    _BENT_START[[ANGLE[f"{_finger}.{_name}"] for _finger in FINGERS[1:]]] = _value


def _fit(
    hand: HandShape, mix: np.ndarray, target: np.ndarray, start: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return angles `(N, 21)` and mean distances `(N,)` in metres, on a hand of the built-in one's size."""
    count, k = len(target), len(ANGLES)
    angles = np.broadcast_to(start, (count, k)).copy()
    # Degrees against metres: what the joints do not tell stays where it began.
    stiff = np.full(k, 6e-5)
    nudge = np.vstack([np.zeros(k), 2.0 * np.eye(k)])

    def offsets(batch: np.ndarray) -> np.ndarray:
        model = mix @ hand.landmarks_of(batch)
        model = model - model.mean(axis=-2, keepdims=True)
        u, size, v = np.linalg.svd(np.einsum("n...ji,njk->n...ik", model, target))
        turned = np.sign(np.linalg.det(u @ v))
        u[..., 2] *= turned[..., None]
        aligned = model @ (u @ v)
        # Real hands are brought to the model's size.
        scale = (aligned * target[:, None]).sum((-1, -2)) / (target**2).sum((-1, -2))[:, None]
        return aligned - scale[..., None, None] * target[:, None]

    # The last joint bends with the middle one.
    follow = np.zeros((4, k))
    for row, finger in enumerate(FINGERS[1:]):
        follow[row, ANGLE[f"{finger}.dip"]], follow[row, ANGLE[f"{finger}.pip"]] = 2e-4, -1.2e-4
    soft = np.concatenate([np.diag(stiff), follow])
    for _ in range(steps):
        rest = offsets(angles[:, None] + nudge).reshape(count, k + 1, -1)
        slope = ((rest[:, 1:] - rest[:, :1]) / 2.0).swapaxes(1, 2)
        jacobian = np.concatenate([slope, np.broadcast_to(soft, (count, *soft.shape))], axis=1)
        pull = np.concatenate([stiff * (angles - start), angles @ follow.T], axis=1)
        residual = np.concatenate([rest[:, 0], pull], axis=1)
        normal = jacobian.swapaxes(1, 2) @ jacobian + 1e-9 * np.eye(k)
        move = np.linalg.solve(normal, -(jacobian.swapaxes(1, 2) @ residual[..., None]))[..., 0]
        angles = np.clip(angles + np.clip(move, -20, 20), LOWEST, HIGHEST)
    return angles, np.linalg.norm(offsets(angles[:, None])[:, 0], axis=-1).mean(axis=-1)
