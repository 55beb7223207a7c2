"""Random rooms: floor, walls, ceiling and furniture as boxes and cylinders, in one mesh."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from posezoo.synth.render import Mesh

#: A box and an upright cylinder of size 1 around 0, which room and things are made of.
BOX = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], np.float32)
BOX_FACES = np.array(
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
    ],
    np.int32,
)  # fmt: skip
_ROUND = 14  # corners of a cylinder


def _unit_cylinder() -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(_ROUND) / _ROUND * 2 * np.pi
    ring = np.stack([np.cos(angle) / 2, np.zeros(_ROUND), np.sin(angle) / 2], axis=-1)
    vertices = np.concatenate([ring - (0, 0.5, 0), ring + (0, 0.5, 0), [[0, -0.5, 0], [0, 0.5, 0]]])
    i = np.arange(_ROUND)
    j = (i + 1) % _ROUND
    low, high = np.full(_ROUND, 2 * _ROUND), np.full(_ROUND, 2 * _ROUND + 1)
    faces = np.concatenate(
        [np.stack(t, axis=-1) for t in ((i, i + _ROUND, j), (j, i + _ROUND, j + _ROUND), (i, j, low),
                                        (i + _ROUND, high, j + _ROUND))]
    )  # fmt: skip
    return vertices.astype(np.float32), faces.astype(np.int32)


CYLINDER, CYLINDER_FACES = _unit_cylinder()


@dataclass
class Pieces:
    """Boxes and cylinders that become one mesh.

    Attributes:
        boxes: Rows of size x, y, z; centre x, y, z; yaw; r, g, b; albedo.
        cylinders: The same.
    """

    boxes: list[tuple] = field(default_factory=list)
    cylinders: list[tuple] = field(default_factory=list)

    def box(self, size, centre, *, yaw=0.0, look=(0.5, 0.5, 0.5, 0.5)) -> None:
        """Add a box of a size `(3,)` around a centre `(3,)` in metres; `look` is r, g, b, infrared albedo."""
        self.boxes.append((*size, *centre, yaw, *look))

    def cylinder(self, size, centre, *, yaw=0.0, look=(0.5, 0.5, 0.5, 0.5)) -> None:
        """Add an upright cylinder, elliptic where size x and z differ."""
        self.cylinders.append((*size, *centre, yaw, *look))

    def mesh(self) -> Mesh:
        """Return everything that was added as one mesh."""
        parts = [_placed(BOX, BOX_FACES, self.boxes), _placed(CYLINDER, CYLINDER_FACES, self.cylinders)]
        starts = (0, len(parts[0][0]))
        return Mesh(
            np.concatenate([p[0] for p in parts]),
            np.concatenate([p[1] + s for p, s in zip(parts, starts)]),
            np.concatenate([p[2] for p in parts]),
            np.concatenate([p[3] for p in parts]),
        )


def _placed(shape: np.ndarray, faces: np.ndarray, rows: list[tuple]):
    table = np.array(rows, np.float32).reshape(-1, 11)
    corners = shape[None] * table[:, None, :3]
    sin, cos = np.sin(table[:, 6, None]), np.cos(table[:, 6, None])
    x, z = corners[..., 0] * cos + corners[..., 2] * sin, corners[..., 2] * cos - corners[..., 0] * sin
    corners = np.stack([x, corners[..., 1], z], axis=-1) + table[:, None, 3:6]
    numbers = faces[None] + (np.arange(len(table), dtype=np.int32) * len(shape))[:, None, None]
    per_face = np.repeat(table[:, 7:], len(faces), axis=0)
    return corners.reshape(-1, 3), numbers.reshape(-1, 3), per_face[:, :3], per_face[:, 3]


def random_look(rng: np.random.Generator, *, dull: bool = False) -> tuple[float, float, float, float]:
    """Return a random colour and infrared albedo; dull ones are walls' and floors'."""
    grey = rng.uniform(0.25, 0.9) if dull else rng.uniform(0.08, 0.85)
    red, green, blue = np.clip(grey + rng.normal(0, 0.05 if dull else 0.16, 3), 0.03, 0.97).tolist()
    albedo = np.clip(rng.normal(0.55, 0.15) if dull else rng.beta(2.2, 2.2), 0.06, 0.95)
    return red, green, blue, float(albedo)


@dataclass(frozen=True)
class Floor:
    """Where people stand and where the camera is, seen from above.

    Attributes:
        people: `(N, 2)` x, z in metres.
        camera: `(2,)`.
    """

    people: np.ndarray
    camera: np.ndarray

    def free(self, place: np.ndarray, radius: float, *, of_people=0.3, of_camera=0.5) -> bool:
        """Say whether a disc keeps its distance from people and camera."""
        far = np.linalg.norm(self.people - place, axis=1).min() > radius + of_people if len(self.people) else True
        return bool(far and np.linalg.norm(self.camera - place) > radius + of_camera)


def random_room(rng: np.random.Generator, floor: Floor, *, camera_height: float, occluder_chance: float) -> Mesh:
    """Furnish a room around people and camera.

    Args:
        rng: Source of every random number.
        floor: Where they are.
        camera_height: Metres; the ceiling is above it.
        occluder_chance: Of a piece of furniture between the camera and one of the people.

    Returns:
        One mesh, some hundreds of triangles.
    """
    pieces = Pieces()
    turn = float(rng.uniform(-0.6, 0.6)) if rng.random() < 0.7 else 0.0
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    inside = np.concatenate([floor.people, floor.camera[None]]) @ rotation.T
    low = inside.min(axis=0) - rng.uniform(0.6, 3.0, 2)
    high = inside.max(axis=0) + rng.uniform(0.6, 3.0, 2)
    height = max(camera_height + 0.15, rng.uniform(2.3, 3.4))
    centre, size = (low + high) / 2, high - low

    def at(xz) -> np.ndarray:
        """From the room's own axes to the world."""
        return np.asarray(xz) @ rotation

    middle = at(centre)
    floor_look, wall_look, ceiling_look = (random_look(rng, dull=True) for _ in range(3))
    large = 40.0 if rng.random() < 0.1 else 0.0  # a hall whose walls no sensor reaches
    w, d = size + large
    pieces.box((w, 0.02, d), (middle[0], -0.01, middle[1]), yaw=turn, look=floor_look)
    if not large:
        pieces.box((w, 0.02, d), (middle[0], height + 0.01, middle[1]), yaw=turn, look=ceiling_look)
        for axis in (0, 1):
            for end in (low, high):
                where = centre.copy()
                where[axis] = end[axis]
                thick = (0.02, height, d) if axis == 0 else (w, height, 0.02)
                x, z = at(where)
                pieces.box(thick, (x, height / 2, z), yaw=turn, look=wall_look)
        _on_walls(rng, pieces, low, high, height, at, turn)
        _along_walls(rng, pieces, low, high, height, at, turn, floor)
    for _ in range(rng.integers(0, 7)):
        _free_standing(rng, pieces, at(rng.uniform(low, high)), floor, height)
    if len(floor.people) and rng.random() < occluder_chance:
        _between(rng, pieces, floor, height)
    return pieces.mesh()


def _on_walls(rng, pieces, low, high, height, at, turn) -> None:
    """Doors, windows, boards, pictures, pillars, skirting, lamps: relief on the walls and the ceiling."""
    for _ in range(rng.integers(1, 8)):
        axis, end = int(rng.integers(2)), (low, high)[int(rng.integers(2))]
        where = rng.uniform(low, high)
        where[axis] = end[axis]
        wide, thick = rng.uniform(0.3, 1.8), rng.choice([0.04, 0.08, 0.15, 0.4])
        kind = rng.random()
        tall = rng.uniform(0.3, 1.2) if kind < 0.6 else rng.uniform(1.9, height)
        y = rng.uniform(tall / 2 + 0.7, max(height - tall / 2, tall / 2 + 0.71)) if kind < 0.6 else tall / 2
        size = (thick, tall, wide) if axis == 0 else (wide, tall, thick)
        x, z = at(where)
        pieces.box(size, (x, y, z), yaw=turn, look=random_look(rng))
    for _ in range(rng.integers(0, 4)):
        x, z = at(rng.uniform(low, high))
        pieces.box((rng.uniform(0.2, 1.2), 0.08, rng.uniform(0.2, 1.2)), (x, height - 0.05, z), yaw=turn)


def _along_walls(rng, pieces, low, high, height, at, turn, floor) -> None:
    """Shelves, cupboards, sofas and radiators with their backs to a wall."""
    for _ in range(rng.integers(0, 5)):
        axis, far = int(rng.integers(2)), int(rng.integers(2))
        deep, wide = rng.uniform(0.25, 0.7), rng.uniform(0.5, 1.8)
        where = rng.uniform(low, high)
        where[axis] = (high[axis] - deep / 2) if far else (low[axis] + deep / 2)
        x, z = at(where)
        if not floor.free(np.array([x, z]), max(deep, wide) / 2):
            continue
        yaw = turn + (np.pi / 2 if axis == 0 else 0.0)
        kind = rng.integers(3)
        if kind == 0:
            tall = rng.uniform(0.6, min(2.2, height))
            pieces.box((wide, tall, deep), (x, tall / 2, z), yaw=yaw, look=random_look(rng))
        elif kind == 1:
            _shelf(rng, pieces, (x, z), wide, deep, min(rng.uniform(0.8, 2.1), height), yaw)
        else:
            look = random_look(rng)
            side = 1.0 if far else -1.0
            pieces.box((wide, 0.42, deep + 0.3), (x, 0.21, z), yaw=yaw, look=look)
            back = np.array([0.0, side * deep / 2]) if axis == 1 else np.array([side * deep / 2, 0.0])
            bx, bz = at(where + back)
            pieces.box((wide, 0.85, 0.2), (bx, 0.425, bz), yaw=yaw, look=look)


def _shelf(rng, pieces, place, wide, deep, tall, yaw) -> None:
    x, z = place
    look = random_look(rng)
    across = np.array([np.cos(yaw), -np.sin(yaw)])
    for side in (-0.5, 0.5):
        px, pz = place + across * wide * side
        pieces.box((0.03, tall, deep), (px, tall / 2, pz), yaw=yaw, look=look)
    for y in np.arange(0.05, tall, rng.uniform(0.28, 0.45)):
        pieces.box((wide, 0.03, deep), (x, y, z), yaw=yaw, look=look)
        for _ in range(rng.integers(0, 4)):
            px, pz = place + across * wide * rng.uniform(-0.4, 0.4)
            high = rng.uniform(0.08, 0.26)
            pieces.box(
                (rng.uniform(0.03, 0.3), high, deep * rng.uniform(0.4, 0.9)), (px, y + high / 2, pz),
                yaw=yaw, look=random_look(rng),
            )  # fmt: skip


def _free_standing(rng, pieces, place, floor, height) -> None:
    """A table with chairs, a chair, a stack of boxes, a bin, a pillar, or a thin pole."""
    kind = rng.choice(6, p=[0.2, 0.22, 0.2, 0.14, 0.06, 0.18])
    radius = (0.75, 0.3, 0.4, 0.25, 0.25, 0.1)[kind]
    if not floor.free(place, radius):
        return
    _furniture(rng, pieces, kind, place, height)


def _furniture(rng, pieces, kind, place, height) -> None:
    x, z = place
    yaw = float(rng.uniform(-np.pi, np.pi))
    if kind == 0:
        _table(rng, pieces, place, yaw)
    elif kind == 1:
        _chair(rng, pieces, place, yaw)
    elif kind == 2:
        y = 0.0
        for _ in range(rng.integers(1, 4)):
            size = rng.uniform(0.2, 0.6, 3)
            pieces.box(size, (x, y + size[1] / 2, z), yaw=yaw + rng.normal(0, 0.2), look=random_look(rng))
            y += size[1]
    elif kind == 3:
        wide, tall = rng.uniform(0.2, 0.5), rng.uniform(0.3, 1.0)
        pieces.cylinder((wide, tall, wide), (x, tall / 2, z), look=random_look(rng))
    elif kind == 4:
        wide = rng.uniform(0.2, 0.5)
        pieces.cylinder((wide, height, wide), (x, height / 2, z), look=random_look(rng, dull=True))
    else:
        _pole(rng, pieces, place)


def _pole(rng, pieces, place) -> None:
    """A lamp or a stand: thin, so that sensors see it in places only."""
    x, z = place
    thin, tall = rng.uniform(0.015, 0.05), rng.uniform(0.9, 2.0)
    look = random_look(rng)
    pieces.cylinder((thin, tall, thin), (x, tall / 2, z), look=look)
    pieces.cylinder((0.28, 0.03, 0.28), (x, 0.015, z), look=look)
    if rng.random() < 0.5:
        wide = rng.uniform(0.15, 0.4)
        pieces.cylinder((wide, wide * 0.8, wide), (x, tall, z), look=random_look(rng))


def _table(rng, pieces, place, yaw) -> None:
    wide, deep, high = rng.uniform(0.7, 1.6), rng.uniform(0.5, 0.9), rng.uniform(0.6, 0.95)
    x, z = place
    look = random_look(rng)
    along, across = np.array([np.cos(yaw), -np.sin(yaw)]), np.array([np.sin(yaw), np.cos(yaw)])
    if rng.random() < 0.2:
        pieces.cylinder((deep, 0.03, deep), (x, high, z), look=look)
        pieces.cylinder((0.08, high, 0.08), (x, high / 2, z), look=look)
    else:
        pieces.box((wide, 0.035, deep), (x, high, z), yaw=yaw, look=look)
        for i in (-1, 1):
            for j in (-1, 1):
                px, pz = place + along * i * (wide / 2 - 0.04) + across * j * (deep / 2 - 0.04)
                pieces.box((0.05, high, 0.05), (px, high / 2, pz), yaw=yaw, look=look)
    for _ in range(rng.integers(0, 4)):
        px, pz = place + along * rng.uniform(-0.4, 0.4) * wide + across * rng.uniform(-0.35, 0.35) * deep
        size = rng.uniform(0.05, 0.4, 3)
        (pieces.box if rng.random() < 0.7 else pieces.cylinder)(
            size, (px, high + size[1] / 2, pz), yaw=yaw + rng.normal(0, 0.3), look=random_look(rng)
        )


def _chair(rng, pieces, place, yaw) -> None:
    wide, seat, back = rng.uniform(0.38, 0.5), rng.uniform(0.4, 0.5), rng.uniform(0.35, 0.6)
    x, z = place
    look = random_look(rng)
    along, across = np.array([np.cos(yaw), -np.sin(yaw)]), np.array([np.sin(yaw), np.cos(yaw)])
    pieces.box((wide, 0.05, wide), (x, seat, z), yaw=yaw, look=look)
    px, pz = place - across * wide / 2
    pieces.box((wide, back, 0.04), (px, seat + back / 2 + 0.1, pz), yaw=yaw, look=look)
    for i in (-1, 1):
        for j in (-1, 1):
            px, pz = place + (along * i + across * j) * (wide / 2 - 0.03)
            tall = seat + back * 0.6 if j < 0 else seat
            pieces.box((0.04, tall, 0.04), (px, tall / 2, pz), yaw=yaw, look=look)


def _between(rng, pieces, floor, height) -> None:
    """Put something between the camera and one of the people, if there is room."""
    person = floor.people[int(rng.integers(len(floor.people)))]
    for _ in range(4):
        place = floor.camera + (person - floor.camera) * rng.uniform(0.45, 0.85) + rng.normal(0, 0.2, 2)
        kind = int(rng.choice(6, p=[0.3, 0.25, 0.25, 0.08, 0.04, 0.08]))
        if floor.free(place, (0.6, 0.28, 0.35, 0.2, 0.2, 0.05)[kind], of_people=0.15, of_camera=0.8):
            _furniture(rng, pieces, kind, place, height)
            return
