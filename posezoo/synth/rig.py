"""Poses that any body can take, rigs that carry them out, and the skinning that moves a surface along.

A pose names the rotations of 51 joints relative to one reference: a person who stands upright, looks along +z,
stretches the arms sideways (left along +x) with palms down and fingers straight. A rig's own rest pose may differ;
`Rig` works out once how its bones turn into the reference, so that the same pose fits every rig.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from posezoo.skeletons import mirrored

FINGERS = ("thumb", "index", "middle", "ring", "little")

_SIDE = {
    "clavicle": "chest", "upper_arm": "clavicle", "forearm": "upper_arm", "hand": "forearm",
    **{f"{f}{k}": "hand" if k == 1 else f"{f}{k - 1}" for f in FINGERS for k in (1, 2, 3)},
    "thigh": "pelvis", "shin": "thigh", "foot": "shin", "toes": "foot",
}  # fmt: skip

#: Joint -> parent, parents first. `forearm` turns at the elbow, `shin` at the knee, and so on.
PARENTS: dict[str, str | None] = {
    "pelvis": None, "spine": "pelvis", "chest": "spine", "neck": "chest", "head": "neck",
    **{
        f"{side}_{joint}": parent if parent in ("chest", "pelvis") else f"{side}_{parent}"
        for side in ("left", "right")
        for joint, parent in _SIDE.items()
    },
}  # fmt: skip

#: The joints of a pose, in order.
JOINTS = tuple(PARENTS)
INDEX = {name: k for k, name in enumerate(JOINTS)}
_PARENT = np.array([-1 if p is None else INDEX[p] for p in PARENTS.values()])
_MIRROR = np.array([INDEX[mirrored(name)] for name in JOINTS])


def _depths() -> list[np.ndarray]:
    depth = np.zeros(len(JOINTS), int)
    for k, parent in enumerate(_PARENT):
        depth[k] = 0 if parent < 0 else depth[parent] + 1
    return [np.flatnonzero(depth == d) for d in range(1, depth.max() + 1)]


_LEVELS = _depths()

_THUMB = (0.70, -0.20, 0.68)


def reference_direction(joint: str) -> np.ndarray | None:
    """Return the unit direction `(3,)` of a joint's bone in the reference pose; none for bones that keep their rest.

    The trunk, neck, head and clavicles of every rig rest as in the reference; only limbs and fingers are turned.
    """
    side, _, name = joint.partition("_")
    if side not in ("left", "right") or name == "clavicle":
        return None
    out = 1.0 if side == "left" else -1.0
    if name in ("upper_arm", "forearm", "hand") or name[:-1] in FINGERS[1:]:
        return np.array([out, 0, 0])
    if name[:-1] == "thumb":
        thumb = np.array(_THUMB) * (out, 1, 1)
        return thumb / np.linalg.norm(thumb)
    return np.array([0, -1.0, 0]) if name in ("thigh", "shin") else np.array([0, 0, 1.0])


_DIRECTIONS = [reference_direction(name) for name in JOINTS]
_TURNED = np.array([d is not None for d in _DIRECTIONS])
_REFERENCE = np.array([np.zeros(3) if d is None else d for d in _DIRECTIONS])
_FEET = np.array([INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("foot", "toes")])


def rotations(vectors: np.ndarray) -> np.ndarray:
    """Return rotation matrices `(..., 3, 3)` of rotation vectors `(..., 3)` in radians (Rodrigues)."""
    vectors = np.asarray(vectors, float)
    angle = np.sqrt((vectors**2).sum(-1))[..., None, None]
    x, y, z = np.moveaxis(vectors / np.maximum(angle[..., 0], 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def rotation_vectors(matrices: np.ndarray) -> np.ndarray:
    """Return rotation vectors `(..., 3)` in radians, at most pi long, of rotation matrices `(..., 3, 3)`."""
    from scipy.spatial.transform import Rotation

    matrices = np.asarray(matrices, float)
    return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(matrices.shape[:-1])


def rotation_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the smallest rotation `(..., 3, 3)` that turns directions `start` `(..., 3)` onto `end` `(..., 3)`."""
    a = start / np.maximum(np.linalg.norm(start, axis=-1, keepdims=True), 1e-12)
    b = end / np.maximum(np.linalg.norm(end, axis=-1, keepdims=True), 1e-12)
    a, b = np.broadcast_arrays(a, b)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (a * b).sum(-1, keepdims=True))
    # Opposite directions: any axis across will do.
    other = np.cross(a, np.where(np.abs(a[..., :1]) < 0.9, [1.0, 0, 0], [0, 1.0, 0]))
    axis = np.where(sine > 1e-9, axis / np.maximum(sine, 1e-12), other / np.linalg.norm(other, axis=-1, keepdims=True))
    return rotations(axis * angle)


def twist_about(matrices: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the angle `(...)` in radians by which rotations `(..., 3, 3)` turn about unit `axes` `(..., 3)`.

    It is the twist of the decomposition into a twist about the axis, then a swing of the axis.
    """
    m = np.asarray(matrices, float)
    sine = np.stack(
        [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1
    )  # twice the quaternion's vector part, up to the factor it shares with 1 + trace
    return 2 * np.arctan2((sine * axes).sum(-1), 1 + np.trace(m, axis1=-2, axis2=-1))


@dataclass(frozen=True)
class Pose:
    """Rotations of the named joints; any body can take it.

    Attributes:
        rotations: `(51, 3, 3)` in the order of `JOINTS`, each relative to its parent, in axes that coincide with the
            world's (x to the person's left, y up, z forward) in the reference pose. The pelvis' turns the whole body.
    """

    rotations: np.ndarray

    def __post_init__(self) -> None:
        if np.shape(self.rotations) != (len(JOINTS), 3, 3):
            raise ValueError(
                f"a pose holds rotations of {len(JOINTS)} joints, shape ({len(JOINTS)}, 3, 3); "
                f"got {np.shape(self.rotations)}"
            )

    @classmethod
    def reference(cls) -> Pose:
        """Return the reference pose: arms sideways, palms down."""
        return cls(np.broadcast_to(np.eye(3), (len(JOINTS), 3, 3)))

    @classmethod
    def from_vectors(cls, vectors: Mapping[str, Sequence[float] | np.ndarray]) -> Pose:
        """Return a pose from rotation vectors in radians by joint name; joints that are not named stay straight.

        Raises:
            KeyError: A joint of that name does not exist.
        """
        table = np.zeros((len(JOINTS), 3))
        for name, vector in vectors.items():
            if name not in INDEX:
                raise KeyError(f"a pose has no joint '{name}'; it has {', '.join(JOINTS)}")
            table[INDEX[name]] = vector
        return cls(rotations(table))

    def __getitem__(self, joint: str) -> np.ndarray:
        """Return one joint's rotation `(3, 3)` relative to its parent."""
        return self.rotations[INDEX[joint]]

    def changed(self, changes: Mapping[str, np.ndarray]) -> Pose:
        """Return the pose with other rotations `(3, 3)` of some joints."""
        table = np.array(self.rotations)
        for name, rotation in changes.items():
            table[INDEX[name]] = rotation
        return Pose(table)

    def turned(self, rotation: np.ndarray) -> Pose:
        """Return the pose with the whole body turned by `rotation` `(3, 3)`."""
        return self.changed({"pelvis": np.asarray(rotation) @ self["pelvis"]})

    def mirrored(self) -> Pose:
        """Return the pose in a mirror: left and right change places."""
        flip = np.diag([-1.0, 1, 1])
        return Pose(flip @ self.rotations[_MIRROR] @ flip)

    def world(self) -> np.ndarray:
        """Return every joint's rotation `(51, 3, 3)` from the reference pose in the world's axes."""
        table = np.array(self.rotations, float)
        for level in _LEVELS:
            table[level] = table[_PARENT[level]] @ table[level]
        return table

    @classmethod
    def from_world(cls, table: np.ndarray) -> Pose:
        """Return the pose whose `world` rotations are `table` `(51, 3, 3)`."""
        table = np.asarray(table, float)
        local = table.copy()
        local[1:] = table[_PARENT[1:]].swapaxes(-1, -2) @ table[1:]
        return cls(local)


@dataclass(frozen=True)
class Driver:
    """Which joints of a pose turn a joint of a rig.

    Attributes:
        joint: The pose's joint.
        other: A second joint, mixed in by `mix`.
        mix: 0 follows `joint` alone, 1 follows `other` alone.
        twist_only: Take from `other` only its turn about this rig joint's bone: bones that share out the twist of a
            forearm or an upper arm.
    """

    joint: str
    other: str | None = None
    mix: float = 0.0
    twist_only: bool = False


@dataclass(frozen=True, eq=False)
class Rig:
    """Joints of one body and how a pose turns them.

    Attributes:
        names: Joint names of this rig, parents first.
        parents: `(J,)` number of each joint's parent, -1 for the root.
        rest: `(J, 3)` joint positions at rest, metres.
        drivers: One per joint.
        anchors: For each of the pose's joints with a bone of its own: its position and its bone's end at rest.
        across: For each hand, where known: the direction `(3,)` at rest from the little finger's knuckle to the index
            finger's.
    """

    names: tuple[str, ...]
    parents: np.ndarray
    rest: np.ndarray
    drivers: tuple[Driver, ...]
    anchors: Mapping[str, tuple[np.ndarray, np.ndarray]]
    across: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if any(parent >= k for k, parent in enumerate(self.parents)):
            raise ValueError("a rig lists parents before their children; reorder the joints")

    @cached_property
    def alignment(self) -> np.ndarray:
        """Rotations `(51, 3, 3)` that take each bone from this rig's rest to the reference pose."""
        table = np.broadcast_to(np.eye(3), (len(JOINTS), 3, 3)).copy()
        directions = np.zeros((len(JOINTS), 3))
        for name, (start, end) in self.anchors.items():
            directions[INDEX[name]] = np.asarray(end, float) - start
        # Feet rest flat on the floor; only their turning outwards goes.
        directions[_FEET, 1] = 0
        known = np.abs(directions).sum(axis=1) > 0
        for level in _LEVELS:
            limbs = level[_TURNED[level]]
            if not len(limbs):
                continue
            before = table[_PARENT[limbs]]
            before[np.isin(limbs, _FEET)] = np.eye(3)
            seen = np.einsum("jab,jb->ja", before, directions[limbs])
            seen = np.where(known[limbs, None], seen, _REFERENCE[limbs])
            table[limbs] = rotation_between(seen, _REFERENCE[limbs]) @ before
            for k in limbs:
                if JOINTS[k] in self.across:
                    across = table[k] @ self.across[JOINTS[k]]
                    angle = _angle_about(_REFERENCE[k], across, np.array([0, 0, 1.0]))
                    table[k] = rotations(_REFERENCE[k] * angle) @ table[k]
        return table

    @cached_property
    def _plan(self) -> tuple[np.ndarray, ...]:
        base = np.array([INDEX[d.joint] for d in self.drivers])
        mixed = np.array([k for k, d in enumerate(self.drivers) if d.other and not d.twist_only], int)
        twisted = np.array([k for k, d in enumerate(self.drivers) if d.other and d.twist_only], int)
        others = np.array([INDEX[d.other] if d.other else 0 for d in self.drivers])
        amount = np.array([d.mix for d in self.drivers])
        axes = np.zeros((len(self.names), 3))
        for k in twisted:
            start, end = self.anchors[self.drivers[k].joint]
            axes[k] = (np.asarray(end) - start) / np.linalg.norm(np.asarray(end) - start)
        return base, mixed, twisted, others, amount, axes

    def transforms(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Carry out a pose.

        Returns:
            Rotations from rest `(J, 3, 3)` and joint positions `(J, 3)` in metres.
        """
        base, mixed, twisted, others, amount, axes = self._plan
        world = pose.world() @ self.alignment
        turn = world[base]
        if len(mixed):
            relative = turn[mixed].swapaxes(-1, -2) @ world[others[mixed]]
            turn[mixed] = turn[mixed] @ rotations(rotation_vectors(relative) * amount[mixed, None])
        if len(twisted):
            relative = turn[twisted].swapaxes(-1, -2) @ world[others[twisted]]
            angle = twist_about(relative, axes[twisted])
            turn[twisted] = turn[twisted] @ rotations(axes[twisted] * (angle * amount[twisted])[:, None])
        offsets = self.rest - self.rest[self.parents]
        offsets = np.einsum("jab,jb->ja", turn[self.parents], offsets)
        positions = np.array(self.rest, float)
        for k, parent in enumerate(self.parents):
            if parent >= 0:
                positions[k] = positions[parent] + offsets[k]
        return turn, positions


def _angle_about(axis: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Return the angle in radians about `axis` `(3,)` that brings `start` as near to `end` as it can."""
    start, end = start - axis * (start @ axis), end - axis * (end @ axis)
    return float(np.arctan2(axis @ np.cross(start, end), start @ end))


def skinned(vertices: np.ndarray, weights, rest: np.ndarray, turn: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Move a surface with its joints (linear blend skinning).

    Args:
        vertices: `(V, 3)` at rest.
        weights: Sparse `(V, J)`, rows sum to 1.
        rest: `(J, 3)` joint positions at rest.
        turn: `(J, 3, 3)` rotations from rest.
        positions: `(J, 3)` joint positions now.

    Returns:
        `(V, 3)` float32.
    """
    joints = np.empty((len(rest), 12), np.float32)
    joints[:, :9] = turn.reshape(-1, 9)
    joints[:, 9:] = positions - np.einsum("jab,jb->ja", turn, rest)
    blend = weights @ joints
    x, y, z = vertices.T
    out = np.empty((len(vertices), 3), np.float32)
    for axis in range(3):
        k = 3 * axis
        out[:, axis] = blend[:, k] * x + blend[:, k + 1] * y + blend[:, k + 2] * z + blend[:, 9 + axis]
    return out
