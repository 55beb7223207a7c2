"""A person: a surface on a rig, with labels, ready to take poses. Both sources of people make these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from posezoo.skeletons import COCO17, DEPTH17
from posezoo.synth.posed import PosedBody
from posezoo.synth.rig import FINGERS, Pose, Rig, skinned

#: Fingers as landmark names call them (COCO-WholeBody's spelling).
FINGER_LANDMARKS = {
    "thumb": "thumb", "index": "forefinger", "middle": "middle_finger", "ring": "ring_finger",
    "little": "pinky_finger",
}  # fmt: skip

#: The 21 landmarks of each hand: its root, then four along each finger, from the knuckle (of the thumb: its root)
#: to the tip.
HAND_LANDMARKS = {
    side: (f"{side}_hand_root", *(f"{side}_{FINGER_LANDMARKS[f]}{k}" for f in FINGERS for k in (1, 2, 3, 4)))
    for side in ("left", "right")
}

FOOT_LANDMARKS = tuple(f"{side}_{name}" for side in ("left", "right") for name in ("big_toe", "small_toe", "heel"))

#: Every landmark that a body gives.
LANDMARKS = (
    *DEPTH17.keypoints,
    *(k for k in COCO17.keypoints if k not in DEPTH17.keypoints),
    *FOOT_LANDMARKS,
    *HAND_LANDMARKS["left"],
    *HAND_LANDMARKS["right"],
)


@dataclass(frozen=True)
class Body:
    """A person at rest on a rig. Metres, y up, looking along +z, left at larger x.

    Attributes:
        rig: The joints.
        vertices: `(V, 3)` at rest, clothes and hair included.
        weights: Sparse `(V, J)`: how much each joint carries a vertex along; rows sum to 1.
        faces: `(F, 3)` counter-clockwise seen from outside.
        parts: `(F,)` index into `posezoo.synth.posed.PARTS`.
        colours: `(F, 3)` RGB reflectance 0..1.
        albedo: `(F,)` near-infrared reflectance 0..1.
        landmarks: `(K, 3)` at rest, in the order of `LANDMARKS`.
        carriers: `(K,)` the rig's joint that carries each landmark along.
        radii: `(K,)` metres from each landmark to the surface above it, clothes included.
        girth: The trunk's thickness relative to that of an average person of this size, for `poses.random_pose`.
        about: What the person is: height in metres, sex, clothes and so on, for records.
    """

    rig: Rig
    vertices: np.ndarray
    weights: object
    faces: np.ndarray
    parts: np.ndarray
    colours: np.ndarray
    albedo: np.ndarray
    landmarks: np.ndarray
    carriers: np.ndarray
    radii: np.ndarray
    girth: float
    about: dict[str, object]

    def posed(self, pose: Pose) -> PosedBody:
        """Return the surface and landmarks in a pose, the pelvis where it was at rest."""
        turn, positions = self.rig.transforms(pose)
        offsets = self.landmarks - self.rig.rest[self.carriers]
        landmarks = np.einsum("kab,kb->ka", turn[self.carriers], offsets) + positions[self.carriers]
        return PosedBody(
            vertices=skinned(self.vertices, self.weights, self.rig.rest, turn, positions),
            faces=self.faces,
            parts=self.parts,
            colours=self.colours,
            albedo=self.albedo,
            landmarks=landmarks.astype(np.float32),
            names=LANDMARKS,
            radii=self.radii,
        )


class People(Protocol):
    """A source of random people."""

    def random(self, rng: np.random.Generator) -> Body:
        """Return a person; the same generator state gives the same person."""
        ...


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return outward unit normals `(V, 3)` of a surface, averaged over each vertex' faces by their areas."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    sums = np.stack([np.bincount(faces.ravel(), np.repeat(normals[:, k], 3), len(vertices)) for k in range(3)], axis=1)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def girth_of(rig: Rig, vertices: np.ndarray) -> float:
    """Return how thick a trunk is at the belly relative to an average person of the same trunk's length."""
    hip, shoulder = (
        (rig.anchors[f"left_{name}"][0] + rig.anchors[f"right_{name}"][0]) / 2 for name in ("thigh", "upper_arm")
    )
    size = (shoulder[1] - hip[1]) / 0.492
    height = (vertices[:, 1] - hip[1]) / (shoulder[1] - hip[1])
    near = vertices[(height > 0.15) & (height < 0.65) & (np.abs(vertices[:, 0] - hip[0]) < 0.12 * size)]
    return float((near[:, 2].max() - near[:, 2].min()) / (0.223 * size))
