"""What lies behind hands: wide views of furnished rooms, made once and looked at many times.

A view is of one viewpoint; a frame's camera turns within it and takes its part by a projective map, which costs a
tenth of rendering the room again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posezoo.synth.camera import Camera, Intrinsics
from posezoo.synth.hand_arms import Kind, Person
from posezoo.synth.hand_things import lofted_tube
from posezoo.synth.posed import PARTS, PosedBody
from posezoo.synth.poses import random_pose
from posezoo.synth.procedural import BuiltinPeople
from posezoo.synth.render import Mesh, render
from posezoo.synth.room import Floor, Pieces, random_look, random_room

#: The wide views' camera: 120 by 100 degrees.
WIDE = Intrinsics(150.0, 150.0, 259.5, 179.5, 520, 360)


@dataclass(frozen=True)
class Wide:
    """A wide view.

    Attributes:
        pictures: float32 `(height, width, 3)`: distance along the ray in metres (0: nothing), cosine between surface
            and ray, near-infrared albedo.
        person: Whose arms come into it.
    """

    pictures: np.ndarray
    person: Person

    def part(self, intrinsics: Intrinsics, rotation: np.ndarray) -> np.ndarray:
        """Return what a turned camera sees, float32 `(height, width, 3)`; zeros beyond the view.

        Args:
            intrinsics: The camera's.
            rotation: `(3, 3)` from the view's axes to the camera's.
        """
        import cv2

        from_pixels = np.linalg.inv(_matrix(intrinsics))
        back = _matrix(WIDE) @ rotation.T @ from_pixels
        return cv2.warpPerspective(
            self.pictures, back, (intrinsics.width, intrinsics.height),
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT, borderValue=0,
        )  # fmt: skip


def _matrix(intrinsics: Intrinsics) -> np.ndarray:
    return np.array([[intrinsics.fx, 0, intrinsics.cx], [0, intrinsics.fy, intrinsics.cy], [0, 0, 1]])


def egocentric_view(rng: np.random.Generator) -> Wide:
    """Return what somebody sees who stands or sits in a room, a table before him in half of them."""
    sitting = rng.random() < 0.5
    height = rng.uniform(1.1, 1.3) if sitting else rng.uniform(1.4, 1.8)
    tilt = float(rng.uniform(-0.1, 0.9))
    camera = Camera.looking(WIDE, (0, height, 0), tilt=tilt)
    room = random_room(
        rng, Floor(np.array([[0.0, -0.5]]), np.zeros(2)), camera_height=float(height), occluder_chance=0.0
    )
    scenery = [room]
    if rng.random() < 0.5:
        scenery.append(_table_before(rng, height))
    scenery.append(_own_body(rng, height, sitting=sitting))
    return Wide(_pictures(scenery, camera), wearer(rng, camera))


def wearer(rng: np.random.Generator, camera: Camera) -> Person:
    """Return the person at whose eyes a camera is, the trunk turned against the head."""
    yaw = float(np.clip(rng.normal(0, 0.25), -0.6, 0.6))
    right = np.array([np.cos(yaw), 0, np.sin(yaw)])
    forward = np.array([np.sin(yaw), 0, -np.cos(yaw)])
    neck = np.array([0, -rng.uniform(0.20, 0.27), 0]) - forward * rng.uniform(0.03, 0.12)
    half = rng.uniform(0.155, 0.195)
    shoulders = np.stack([neck - right * half, neck + right * half])
    turn = camera.rotation
    return Person(shoulders @ turn.T, turn @ np.array([0, 1.0, 0]), turn @ right, float(rng.uniform(0.15, 0.9)))


def facing_view(rng: np.random.Generator) -> Wide:
    """Return a person without arms before a camera, in a room."""
    away = float(rng.uniform(0.5, 1.0))
    people = BuiltinPeople()
    body = people.random(rng)
    # Arms hang: where they are taken away the cut looks down.
    pose = random_pose(rng, activity="standing" if rng.random() < 0.6 else "sitting", rig=body.rig)
    posed = body.posed(pose)
    marks = dict(zip(posed.names, posed.landmarks))
    chest = (marks["left_shoulder"] + marks["right_shoulder"]) / 2
    across = marks["left_shoulder"] - marks["right_shoulder"]
    # Facing the camera, which looks along -z from the origin, more or less.
    yaw = np.arctan2(across[2], across[0]) + rng.normal(0, 0.25)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    low = float(posed.vertices[:, 1].min())
    moved = posed.moved(turn, np.array([0, -low, -away]) - turn @ (chest * (1, 0, 1)))
    marks = dict(zip(moved.names, moved.landmarks))
    top = (marks["left_shoulder"] + marks["right_shoulder"])[1] / 2
    height = float(np.clip(top + rng.normal(0, 0.25), 0.3, 1.9))
    tilt = float(np.arctan2(height - top + 0.1, away) + rng.normal(0, 0.12))
    camera = Camera.looking(WIDE, (0, height, 0), tilt=tilt)
    room = random_room(
        rng, Floor(np.array([[0.0, -away - 0.3]]), np.zeros(2)), camera_height=height, occluder_chance=0.0
    )
    arms = np.isin(moved.parts, [PARTS.index(f"{s}_{p}") for s in ("left", "right")
                                 for p in ("upper_arm", "forearm", "hand")])  # fmt: skip
    cloth = float(np.median(moved.albedo[moved.parts == PARTS.index("left_upper_arm")]))
    rest = PosedBody(
        moved.vertices, moved.faces[~arms], moved.parts[~arms], moved.colours[~arms], moved.albedo[~arms],
        moved.landmarks, moved.names, moved.radii,
    )  # fmt: skip
    shoulders = camera.to_camera(np.stack([marks["left_shoulder"], marks["right_shoulder"]])).astype(float)
    right = shoulders[1] - shoulders[0]
    person = Person(shoulders, camera.rotation @ np.array([0, 1.0, 0]), right / np.linalg.norm(right), cloth)
    return Wide(_pictures([rest, room], camera), person)


def _own_body(rng: np.random.Generator, eye_height: float, *, sitting: bool) -> Mesh:
    """Return what one sees of oneself when looking down: belly and thighs."""
    broad, behind = rng.uniform(0.13, 0.19), rng.uniform(0.06, 0.14)
    low = eye_height - rng.uniform(0.66, 0.74)
    hips = np.array([0, low, behind])
    neck = np.array([0, eye_height - 0.26, behind - 0.01])
    bulge = np.array([0.5, 0.85, 1.0, 0.95, 1.0, 0.9, 0.4])
    at = np.linspace(0, 1, len(bulge))[:, None]
    parts = [lofted_tube(neck + at * (hips - neck), hips - neck, broad * bulge)]
    for side in (-1, 1):
        start = hips + (side * 0.09, 0, 0)
        if sitting:
            end = start + (side * rng.uniform(0, 0.15), rng.uniform(-0.05, 0.08), -rng.uniform(0.40, 0.48))
        else:
            end = start + (side * 0.05, -0.42, rng.uniform(-0.1, 0.1))
        parts.append(lofted_tube(start + at * (end - start), end - start, np.linspace(0.09, 0.06, len(bulge))))
        parts.append(lofted_tube(end + at * (0, -0.4, 0.0), np.array([0, -1.0, 0]), np.linspace(0.062, 0.045, 7)))
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
    faces = np.concatenate([f + first for (_, f), first in zip(parts, starts)]).astype(np.int32)
    cloth = [rng.uniform(0.1, 0.9), *np.repeat(rng.uniform(0.1, 0.9), 4)]
    albedo = np.concatenate([np.full(len(f), c, np.float32) for (_, f), c in zip(parts, cloth)])
    vertices = np.concatenate([v for v, _ in parts]).astype(np.float32)
    return Mesh(vertices, faces, np.repeat(albedo[:, None], 3, axis=1), albedo)


def _table_before(rng: np.random.Generator, eye_height: float) -> Mesh:
    """Return a table top with things on it before somebody's eyes."""
    pieces = Pieces()
    high = eye_height - rng.uniform(0.35, 0.75)
    wide, deep, far = rng.uniform(0.8, 2.0), rng.uniform(0.5, 1.0), rng.uniform(0.1, 0.35)
    pieces.box((wide, 0.03, deep), (rng.normal(0, 0.2), high - 0.015, -far - deep / 2), look=random_look(rng))
    for _ in range(rng.integers(0, 7)):
        x, z = rng.uniform(-0.4, 0.4) * wide, -far - rng.uniform(0.3, 0.95) * deep
        size = rng.uniform(0.02, 0.3, 3) * (1, 0.8, 1)
        add = pieces.box if rng.random() < 0.65 else pieces.cylinder
        add(size, (x, high + size[1] / 2, z), yaw=rng.uniform(-3, 3), look=random_look(rng))
    return pieces.mesh()


def somebody(rng: np.random.Generator, kind: Kind) -> Person:
    """Return a person for a camera with nothing behind the hands."""
    tilt = float(rng.uniform(-0.1, 0.8) if kind == "egocentric" else rng.normal(0.05, 0.25))
    camera = Camera.looking(Intrinsics(100, 100, 50, 50, 100, 100), (0, 0, 0), tilt=tilt)
    if kind == "egocentric":
        return wearer(rng, camera)
    away, half, yaw = rng.uniform(0.55, 1.2), rng.uniform(0.155, 0.195), rng.normal(0, 0.25)
    right = np.array([-np.cos(yaw), 0, np.sin(yaw)])
    neck = np.array([rng.normal(0, 0.05), -rng.normal(0.05, 0.12), -away])
    shoulders = np.stack([neck - half * right, neck + half * right]) @ camera.rotation.T
    return Person(shoulders, camera.rotation @ np.array([0, 1.0, 0]), camera.rotation @ right,
                  float(rng.uniform(0.15, 0.9)))  # fmt: skip


def _pictures(meshes, camera: Camera) -> np.ndarray:
    view = render(meshes, camera)
    distance = view.depth * view.intrinsics.ray_lengths
    return np.stack([distance, view.smooth_cosine, view.albedo], axis=-1).astype(np.float32)
