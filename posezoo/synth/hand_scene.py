"""One frame of one or two hands: arms put before a camera, things about them, and everything known about the picture.

Two kinds of camera. Egocentric: at somebody's eyes, hands 0.2 to 0.7 m in front, forearms from below and the sides.
Facing: before a person whose palms are mostly towards it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from posezoo.data.hand_frames import BACKGROUND, HIDDEN, LEFT, RIGHT, SEEN, UNKNOWN, HandFrame
from posezoo.synth.camera import Intrinsics
from posezoo.synth.hand_arms import Arm, Hand, Kind, Person, collide, orientation, place_arm, place_free
from posezoo.synth.hand_backgrounds import Wide, somebody
from posezoo.synth.hand_poses import Split, random_pose
from posezoo.synth.hand_shape import KEYPOINTS, PARTS, WRIST_X_M, HandShape, keypoint_parts
from posezoo.synth.hand_things import Things, add_arm, add_arm_behind, add_held_thing, add_random_thing
from posezoo.synth.render import View, phase_image
from posezoo.synth.rig import rotations
from posezoo.synth.sensor import get_sensor, read_depth

#: A source of hands: each number gives another left hand, always the same.
HandSource = Callable[[int], HandShape]

#: A keypoint is seen while the surface before it is no farther than this, metres along the optical axis; the wrist is
#: thicker.
SEEN_WITHIN_M, WRIST_WITHIN_M = 0.024, 0.032

#: Share of the frames in which nothing beyond 0.8 to 1.6 m is read, as with sensors set to near range.
SHORT_SHARE = 0.25


@dataclass(frozen=True)
class HandRecipe:
    """How frames are made.

    Attributes:
        sensor: Name of a sensor.
        width: Pixels.
        height: Pixels.
        facing_share: Share of the frames whose camera faces the person.
        two_share: Share of the frames with two hands.
        empty_share: Share of the frames without any.
        exact: Leave noise and holes out.
        split: "train" and "test" share no hand, no room, and no part of the poses that can be held out; "all" draws
            from everything.
    """

    sensor: str = "tof"
    width: int = 224
    height: int = 168
    facing_share: float = 0.45
    two_share: float = 0.5
    empty_share: float = 0.04
    exact: bool = False
    split: Split = "all"


def compose(
    rng: np.random.Generator,
    hands: HandSource,
    wide: Wide | None,
    recipe: HandRecipe,
    *,
    kind: Kind,
    recorded: np.ndarray | None = None,
    count: int | None = None,
) -> tuple[Intrinsics, np.ndarray, list[Arm], Person]:
    """Draw a camera and the arms before it.

    Returns:
        Intrinsics, rotation from the wide view's axes to the camera's, up to two arms (left first), the person.
    """
    base = get_sensor(recipe.sensor).intrinsics.resized(recipe.width, recipe.height)
    zoom = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    shift = rng.normal(0, 0.012, 2) * recipe.width
    intrinsics = Intrinsics(base.fx * zoom, base.fy * zoom, base.cx + shift[0], base.cy + shift[1], base.width,
                            base.height)  # fmt: skip
    turn = rotations(np.array([0, 0, rng.normal(0, 0.1)])) @ rotations(rng.normal(0, (0.1, 0.14, 0)))
    person = somebody(rng, kind) if wide is None else wide.person.turned(turn)
    if count is None:
        count = 0 if rng.random() < recipe.empty_share else 1 + int(rng.random() < recipe.two_share)
    sides = (LEFT, RIGHT) if count == 2 else (LEFT + int(rng.integers(2)),) * count
    number = int(rng.integers(1 << 30))
    loose = rng.random() < 0.15
    near = count == 2 and rng.random() < 0.35
    arms: list[Arm] = []
    for side in sides:
        shape = hands(number)
        hand = Hand(side, shape, *random_pose(rng, shape, split=recipe.split, recorded=recorded))
        for attempt in range(16):
            palm = _target(rng, intrinsics, side, kind, arms[0] if near and arms else None, person)
            if loose or attempt > 11:
                arm: Arm | None = place_free(rng, hand, palm)
            else:
                arm = place_arm(rng, hand, person, palm, kind=kind)
            if arm is not None and arm.landmarks[:, 2].min() > 0.12 and not (arms and collide(arms[0], arm)):
                arms.append(arm)
                break
    return intrinsics, turn, arms, person


def _target(rng, intrinsics: Intrinsics, side: int, kind: Kind, other: Arm | None, person: Person) -> np.ndarray:
    """Draw where the middle of a palm comes, in camera space."""
    if other is not None:
        return other.landmarks[9] + rng.normal(0, 1, 3) * (0.07, 0.06, 0.05)
    if kind == "egocentric":
        depth = 0.2 + 0.5 * rng.beta(1.8, 2.0)
    else:
        farthest = min(0.75, float(person.shoulders[:, 2].mean()) - 0.18)
        depth = rng.uniform(0.2, max(farthest, 0.28))
    # Left hands more to the left of a wearer's view, and to the right of a camera before the person.
    lean = 0.12 * (-1 if (side == LEFT) == (kind == "egocentric") else 1)
    x = np.clip(rng.normal(0.5 + lean, 0.2), 0.08, 0.92) * intrinsics.width
    y = np.clip(rng.normal(0.52, 0.19), 0.1, 0.92) * intrinsics.height
    return np.array([(x - intrinsics.cx) / intrinsics.fx * depth, (y - intrinsics.cy) / intrinsics.fy * depth, depth])


def make_frame(
    rng: np.random.Generator,
    hands: HandSource,
    recipe: HandRecipe,
    *,
    kind: Kind,
    wide: Wide | None = None,
    recorded: np.ndarray | None = None,
    count: int | None = None,
) -> HandFrame:
    """Make one frame: everything random comes from `rng`.

    Args:
        rng: Source of every random number.
        hands: Source of hands.
        recipe: How frames are made.
        kind: Of the camera.
        wide: What is behind the hands, of the same kind; nothing when not given.
        recorded: `(N, 21)` angles of real hands, for poses of no class.
        count: How many hands; drawn when not given.
    """
    intrinsics, turn, arms, person = compose(rng, hands, wide, recipe, kind=kind, recorded=recorded, count=count)
    things = Things()
    skin = float(np.clip(rng.normal(0.5, 0.09), 0.25, 0.75))
    sleeve = str(rng.choice(("long", "bare", "band"), p=(0.5, 0.38, 0.12)))
    for arm in arms:
        add_arm(rng, things, arm, skin, person.cloth, sleeve)
        if rng.random() < 0.12:
            add_held_thing(rng, things, arm)
    if kind == "facing" and wide is not None:
        for side in (LEFT, RIGHT):
            if all(arm.hand.side != side for arm in arms):
                add_arm_behind(rng, things, person, side)
    for _ in range(int(rng.choice(4, p=(0.5, 0.25, 0.15, 0.1)))):
        depth = rng.uniform(0.25, 1.0)
        pixel = rng.uniform(0, 1, 2) * (intrinsics.width, intrinsics.height)
        place = np.array([(pixel[0] - intrinsics.cx) / intrinsics.fx, (pixel[1] - intrinsics.cy) / intrinsics.fy, 1])
        if all(np.linalg.norm(a.landmarks - place * depth, axis=1).min() > 0.13 for a in arms):
            add_random_thing(rng, things, place * depth, 0.2)
    exact, cosine, albedo, tags = _drawn(things, intrinsics, None if wide is None else wide.part(intrinsics, turn))
    sensor = get_sensor(recipe.sensor)
    if recipe.exact:
        depth_mm = np.rint(np.clip(exact, 0, 65) * 1000).astype(np.uint16)
    else:
        depth_mm = read_depth(rng, exact, sensor, intrinsics, cosine=cosine, albedo=albedo)
        if rng.random() < SHORT_SHARE:
            depth_mm[depth_mm > rng.uniform(800, 1600)] = 0
    light = phase_image(
        rng, exact * intrinsics.ray_lengths, cosine, albedo, intrinsics,
        full_scale_m=_exposure(rng, arms, skin),
        noise=0.0 if recipe.exact else float(rng.uniform(0.7, 2.2)),
    )  # fmt: skip
    return _labelled(arms, exact, tags, intrinsics, depth_mm, light)


def _exposure(rng: np.random.Generator, arms: Sequence[Arm], skin: float) -> float:
    """Draw how far away a white surface reads full scale: skin of the nearest hand mostly reads 6 to 90 % of it."""
    near = min((float(np.linalg.norm(arm.landmarks[9])) for arm in arms), default=float(rng.uniform(0.3, 0.7)))
    return near * float(np.sqrt(np.exp(rng.uniform(np.log(0.06), np.log(0.9))) / skin))


def _drawn(things: Things, intrinsics: Intrinsics, behind: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Return exact depth, cosine, albedo (float32) and tags (uint8), each `(height, width)`."""
    shape = (intrinsics.height, intrinsics.width)
    if things.meshes:
        sizes = np.cumsum([0] + [len(m.vertices) for m in things.meshes])
        faces = np.concatenate([m.faces + np.int32(first) for m, first in zip(things.meshes, sizes)])
        view = View(intrinsics, np.concatenate([m.vertices for m in things.meshes]), faces, things.meshes)
        depth, cosine, reflectance = view.depth, view.smooth_cosine, view.albedo
        tags = np.append(np.concatenate(things.tags), np.uint8(0))[view.face]
    else:
        depth, cosine, reflectance = (np.zeros(shape, np.float32) for _ in range(3))
        tags = np.zeros(shape, np.uint8)
    if behind is None:
        return depth, cosine, reflectance, tags
    far = behind[..., 0] / intrinsics.ray_lengths
    hand = (tags & 15 > 0) & (far > 0)
    if hand.any():
        # Hands are not inside the furniture: what is behind moves away until it is.
        far = far * max(1.0, 1.03 * float(np.quantile(depth[hand] / far[hand], 0.97)))
    front = (depth > 0) & ((depth <= far) | (far <= 0))
    return (
        np.where(front, depth, far), np.where(front, cosine, behind[..., 1]),
        np.where(front, reflectance, behind[..., 2]), np.where(front, tags, np.uint8(0)),
    )  # fmt: skip


#: Fewer pixels of a hand, in a picture of 224x168, are no hand that anybody could find.
LEAST_PIXELS = 40
#: Pose and orientation are known where this many of the 17 keypoints are on the picture.
LEAST_KEYPOINTS = 6

_OWN = keypoint_parts()


def _without_forearms(arms: Sequence[Arm], exact: np.ndarray, tags: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return tags with 0 at forearms; where a hand ends is a plane through the skin, not its triangles' edges."""
    part = tags & 15
    out = np.where(part > PARTS.index("palm"), tags, np.uint8(0))
    for arm in arms:
        palm = np.uint8(16 * arm.hand.side + PARTS.index("palm"))
        place = np.flatnonzero((tags >> 4 == arm.hand.side) & (part <= PARTS.index("palm")))
        points = intrinsics.rays.reshape(-1, 3)[place] * exact.ravel()[place, None]
        beyond = (points - arm.wrist) @ arm.wrist_axis > WRIST_X_M
        out.ravel()[place[beyond]] = palm
    return out


def _labelled(arms, exact, tags, intrinsics: Intrinsics, depth_mm, light) -> HandFrame:
    tags = _without_forearms(arms, exact, tags, intrinsics)
    side_of = tags >> 4
    k = len(KEYPOINTS)
    points, points_mm = np.zeros((2, k, 3), np.float32), np.full((2, k, 3), np.nan, np.float32)
    present, turned, posed = np.zeros(2, bool), np.full(2, -1, np.int8), np.full(2, -1, np.int8)
    for arm in arms:
        side, hand = arm.hand.side, arm.hand.side - 1
        if (side_of == side).sum() < LEAST_PIXELS * tags.size / (224 * 168):
            continue
        present[hand] = True
        marks = arm.landmarks[KEYPOINTS]
        pixels = intrinsics.project(marks)
        inside = intrinsics.contains(pixels)
        column, row = np.rint(np.where(inside[:, None], pixels, 0)).astype(int).T
        tag = tags[row, column]
        own = (tag >> 4 == side) & _OWN[np.arange(k), tag & 15]
        limit = np.where(KEYPOINTS == 0, WRIST_WITHIN_M, SEEN_WITHIN_M)
        seen = inside & own & (np.abs(marks[:, 2] - exact[row, column]) <= limit)
        points[hand] = np.concatenate([pixels, np.where(seen, SEEN, HIDDEN)[:, None]], axis=1)
        points_mm[hand] = marks * 1000
        if inside.sum() >= LEAST_KEYPOINTS:
            turned[hand], posed[hand] = orientation(arm), arm.hand.pose
    points[~present, :, 2] = UNKNOWN
    segmentation = np.where(tags > 0, side_of, BACKGROUND).astype(np.uint8)
    return HandFrame(
        points.reshape(-1, 3), depth_mm, light, segmentation, points_mm.reshape(-1, 3), present, turned, posed,
        (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy),
    )  # fmt: skip
