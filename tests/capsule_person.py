"""A person of capsules for the tests of scenes, with every landmark of COCO17 and DEPTH17 and every part."""

import numpy as np

from posezoo.skeletons import COCO17, DEPTH17
from posezoo.synth.posed import PARTS, PosedBody

NAMES = tuple(dict.fromkeys(DEPTH17.keypoints + COCO17.keypoints))

# Metres, left side at larger x, looking along +z.
_MIDLINE = {"neck": (0, 1.45, 0), "head": (0, 1.6, 0), "head_top": (0, 1.74, 0), "nose": (0, 1.6, 0.09)}
_LEFT = {
    "eye": (0.035, 1.64, 0.08), "ear": (0.075, 1.61, 0), "shoulder": (0.18, 1.42, 0), "elbow": (0.26, 1.14, 0),
    "wrist": (0.3, 0.88, 0.05), "hip": (0.1, 0.92, 0), "knee": (0.11, 0.5, 0.02), "ankle": (0.12, 0.09, 0),
}  # fmt: skip
PLACES = {
    **_MIDLINE,
    **{f"left_{k}": v for k, v in _LEFT.items()},
    **{f"right_{k}": (-v[0], v[1], v[2]) for k, v in _LEFT.items()},
}
_RADII = {"head": 0.1, "nose": 0.01, "eye": 0.015, "ear": 0.03, "head_top": 0.02, "hip": 0.11, "neck": 0.13}

_LIMBS = [("torso", "neck", (0, 1.0, 0), 0.13), ("head", (0, 1.56, 0), (0, 1.64, 0), 0.1)]
_LIMBS += [("pelvis", (-0.06, 0.95, 0), (0.06, 0.95, 0), 0.12)]
for _side in ("left", "right"):
    _sign = 1 if _side == "left" else -1
    _LIMBS += [
        (f"{_side}_upper_arm", f"{_side}_shoulder", f"{_side}_elbow", 0.045),
        (f"{_side}_forearm", f"{_side}_elbow", f"{_side}_wrist", 0.04),
        (f"{_side}_hand", f"{_side}_wrist", (_sign * 0.31, 0.78, 0.07), 0.035),
        (f"{_side}_thigh", f"{_side}_hip", f"{_side}_knee", 0.08),
        (f"{_side}_shin", f"{_side}_knee", f"{_side}_ankle", 0.05),
        (f"{_side}_foot", f"{_side}_ankle", (_sign * 0.13, 0.05, 0.14), 0.045),
    ]


def capsule(start, end, radius, rings=5, around=12):
    """A closed tube with round ends: vertices `(V, 3)`, faces `(F, 3)` counter-clockwise from outside."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = end - start
    axis = axis / max(np.linalg.norm(axis), 1e-9)
    side = np.cross(axis, (0, 0, 1) if abs(axis[2]) < 0.9 else (1, 0, 0))
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    angle = np.arange(around) / around * 2 * np.pi
    circle = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    rows = [start - axis * radius]
    for centre, sign in ((start, -1), (end, 1)):
        for ring in range(rings):
            latitude = np.pi / 2 * (ring / rings if sign > 0 else 1 - (ring + 1) / rings)
            rows.extend(centre + sign * axis * radius * np.sin(latitude) + circle * radius * np.cos(latitude))
    rows.append(end + axis * radius)
    vertices = np.array(rows)
    i = np.arange(around)
    j = (i + 1) % around
    faces = [np.stack([np.zeros_like(i), 1 + j, 1 + i], -1)]
    for ring in range(2 * rings - 1):
        a, b = 1 + ring * around, 1 + (ring + 1) * around
        faces += [np.stack([a + i, a + j, b + i], -1), np.stack([a + j, b + j, b + i], -1)]
    last = 1 + (2 * rings - 1) * around
    faces.append(np.stack([last + i, last + j, np.full_like(i, len(vertices) - 1)], -1))
    faces = np.concatenate(faces)
    corners = vertices[faces]
    outside = np.einsum(
        "ij,ij->i", np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]),
        corners.mean(axis=1) - (start + end) / 2,
    )  # fmt: skip
    faces[outside < 0] = faces[outside < 0][:, ::-1]
    return vertices.astype(np.float32), faces.astype(np.int32)


def capsule_person(rng=None, places=None) -> PosedBody:
    """A standing person; with `rng` of random height, else as written above."""
    where = {**PLACES, **(places or {})}
    vertices, faces, parts, start = [], [], [], 0
    for part, a, b, radius in _LIMBS:
        v, f = capsule(
            where.get(a, a) if isinstance(a, str) else a, where.get(b, b) if isinstance(b, str) else b, radius
        )
        vertices.append(v)
        faces.append(f + start)
        parts.append(np.full(len(f), PARTS.index(part), np.uint8))
        start += len(v)
    size = 1.0 if rng is None else rng.uniform(0.85, 1.1)
    parts = np.concatenate(parts)
    colour = np.array((0.5, 0.4, 0.35)) if rng is None else rng.uniform(0.1, 0.9, 3)
    kinds = [n.removeprefix("left_").removeprefix("right_") for n in NAMES]
    return PosedBody(
        np.concatenate(vertices) * np.float32(size),
        np.concatenate(faces),
        parts,
        np.repeat(np.float32(colour)[None], len(parts), 0),
        np.full(len(parts), 0.5, np.float32),
        np.array([where[n] for n in NAMES], np.float32) * np.float32(size),
        NAMES,
        np.array([_RADII.get(k, 0.05) for k in kinds], np.float32),
    )
