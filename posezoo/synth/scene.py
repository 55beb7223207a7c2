"""One synthetic picture: people in a room before a camera, with everything that is known about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from posezoo.errors import UserError
from posezoo.inference.depth import fill_missing
from posezoo.skeletons import Skeleton, get_skeleton, joint_kind
from posezoo.synth.camera import Camera, Intrinsics, tilt_towards
from posezoo.synth.posed import PARTS, PosedBody
from posezoo.synth.render import Mesh, View, amplitude, render, shaded_rgb
from posezoo.synth.room import Floor, random_room
from posezoo.synth.sensor import Backgrounds, Sensor, drop_silhouette, fuse, get_sensor, read_depth

#: A landmark's visibility. 0, 1 and 2 mean what they mean in COCO: unlabelled (here: not on the picture), hidden (by
#: the person's own body), seen; 3 is hidden by somebody or something else.
OUTSIDE, HIDDEN_BY_SELF, SEEN, HIDDEN_BY_OTHERS = 0, 1, 2, 3

#: A source of people: each call returns another one, in any pose. It may return a dict of facts beside the body,
#: such as its activity, which go into the sample's `meta`.
BodySource = Callable[[np.random.Generator], "PosedBody | tuple[PosedBody, dict]"]


@dataclass(frozen=True)
class SceneSettings:
    """What scenes are like.

    Attributes:
        people: Least and largest number of people.
        min_distance_m: Between the middles of two people, on the floor.
        nearest_m: Least horizontal distance of a person from the camera.
        farthest_m: Largest.
        camera_height_m: Least and largest.
        tilt: Least and largest angle in radians by which the camera looks down.
        roll: Standard deviation in radians.
        cut_share: Share of the people who are placed so that the picture's border may cut them.
        occluder_chance: Of a piece of furniture between the camera and somebody.
        margin_m: How far in front of a landmark, its radius apart, the seen surface may be.
        own_margin_m: The same where that surface is the landmark's own part: a knee under a skirt, the top of a head
            seen from the front.
        min_pixels: People with fewer visible pixels, in a picture of 320x240, are not labelled.
    """

    people: tuple[int, int] = (1, 4)
    min_distance_m: float = 0.6
    nearest_m: float = 1.2
    farthest_m: float = 8.0
    camera_height_m: tuple[float, float] = (0.4, 2.6)
    tilt: tuple[float, float] = (-0.45, 1.0)
    roll: float = 0.04
    cut_share: float = 0.25
    occluder_chance: float = 0.3
    margin_m: float = 0.05
    own_margin_m: float = 0.12
    min_pixels: int = 40

    def __post_init__(self) -> None:
        low, high = self.people
        if not 0 <= low <= high:
            raise UserError(f"people: expected a least and a largest number such as (1, 4), got {self.people}")
        if not 0.3 <= self.nearest_m < self.farthest_m:
            raise UserError(
                f"nearest_m {self.nearest_m} and farthest_m {self.farthest_m}: expected 0.3 <= nearest < farthest"
            )


@dataclass(frozen=True)
class Scene:
    """People and things in the world, and who looks at them.

    Attributes:
        bodies: The people, standing on the floor.
        scenery: Everything else.
        camera: Who looks.
        facts: One dict per person.
    """

    bodies: list[PosedBody]
    scenery: list[Mesh]
    camera: Camera
    facts: list[dict] = field(default_factory=list)


@dataclass
class SynthSample:
    """One picture and all that is known about it.

    Attributes:
        depth: uint16 `(height, width)` millimetres as the sensor reads them, 0 = no reading.
        parts: uint8 `(height, width)`, index into `posezoo.synth.posed.PARTS`.
        people: uint8 `(height, width)`, person number from 1 in the order of the rows below, 0 = nobody.
        landmarks_px: float32 `(N, K, 2)` x, y in pixels, also of landmarks outside the picture.
        landmarks_mm: float32 `(N, K, 3)` camera space: x right, y down, z forward.
        visibility: uint8 `(N, K)`: `OUTSIDE`, `HIDDEN_BY_SELF`, `SEEN` or `HIDDEN_BY_OTHERS`.
        boxes: float32 `(N, 4)` x, y, width, height in pixels around the whole body, hidden parts too, cut at the
            picture's border.
        names: The K landmarks.
        intrinsics: The camera's.
        rotation: `(3, 3)` from world to camera axes.
        position: `(3,)` the camera's place in the world, metres.
        meta: `seed`, `index`, `sensor`, `background`, `scale`, and `people`: one dict of facts per person.
        rgb: uint8 `(height, width, 3)`, or None.
        amplitude: uint16 `(height, width)`, or None.
    """

    depth: np.ndarray
    parts: np.ndarray
    people: np.ndarray
    landmarks_px: np.ndarray
    landmarks_mm: np.ndarray
    visibility: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...]
    intrinsics: Intrinsics
    rotation: np.ndarray
    position: np.ndarray
    meta: dict = field(default_factory=dict)
    rgb: np.ndarray | None = None
    amplitude: np.ndarray | None = None

    def columns(self, skeleton: Skeleton | str) -> list[int]:
        """Return the column of each of a skeleton's keypoints.

        Raises:
            UserError: The sample lacks some of them.
        """
        skeleton = get_skeleton(skeleton)
        missing = [k for k in skeleton.keypoints if k not in self.names]
        if missing:
            raise UserError(
                f"synthetic people have no {', '.join(missing)} of skeleton '{skeleton.name}'; "
                f"they have {', '.join(self.names)}"
            )
        return [self.names.index(k) for k in skeleton.keypoints]

    def keypoints(self, skeleton: Skeleton | str) -> np.ndarray:
        """Return `(N, K, 3)` x, y, COCO visibility (0 outside, 1 hidden by anything, 2 seen), as `Sample` has it."""
        chosen = self.columns(skeleton)
        visibility = self.visibility[:, chosen].astype(np.float32)
        visibility[visibility == HIDDEN_BY_OTHERS] = 1
        return np.concatenate([self.landmarks_px[:, chosen], visibility[..., None]], axis=-1).astype(np.float32)


# ------------------------------------------------------------------------------------------------ placing


def compose(
    rng: np.random.Generator,
    bodies: BodySource,
    intrinsics: Intrinsics,
    settings: SceneSettings | None = None,
    *,
    furnished: bool = True,
) -> Scene:
    """Place people, camera and, if wanted, a room.

    Args:
        rng: Source of every random number.
        bodies: Source of people.
        intrinsics: The camera's.
        settings: What scenes are like.
        furnished: Whether a room is built around them; not where a real background will stand.
    """
    settings = settings or SceneSettings()
    low, high = settings.people
    count = int(rng.integers(low, high + 1))
    height = float(rng.uniform(*settings.camera_height_m))
    if rng.random() < 0.6:  # most cameras stand on a table, a tripod or a robot
        height = float(np.clip(rng.normal(1.3, 0.35), *settings.camera_height_m))
    places = _places(rng, count, intrinsics, settings)
    people, facts = [], []
    for place in places:
        made = bodies(rng)
        body, told = made if isinstance(made, tuple) else (made, {})
        yaw = rng.normal(0, 0.8) if rng.random() < 0.6 else rng.uniform(-np.pi, np.pi)
        # Towards the camera, which stands at x = z = 0, and not merely along +z.
        yaw += np.arctan2(-place[0], -place[1])
        people.append(stand(body, place, float(yaw)))
        facts.append({**told, "yaw": round(float(yaw), 3)})
    tilt = _tilt(rng, people, height, intrinsics, settings)
    camera = Camera.looking(intrinsics, (0, height, 0), tilt=tilt, roll=float(rng.normal(0, settings.roll)))
    scenery = []
    if furnished:
        floor = Floor(np.array(places).reshape(-1, 2), np.zeros(2))
        if not people:
            floor = Floor(np.array([[0.0, -rng.uniform(2, 5)]]), np.zeros(2))
        scenery = [random_room(rng, floor, camera_height=height, occluder_chance=settings.occluder_chance)]
    return Scene(people, scenery, camera, facts)


def stand(body: PosedBody, place: Sequence[float] | np.ndarray, yaw: float) -> PosedBody:
    """Turn a body by `yaw` around the vertical and set its lowest vertex on the floor.

    Args:
        body: In its own coordinates.
        place: `(2,)` x, z in metres where the middle of its hips comes.
        yaw: Radians; 0 keeps looking along +z, pi / 2 looks along +x.
    """
    sin, cos = np.sin(yaw), np.cos(yaw)
    rotation = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    middle = _middle(body) @ rotation.T
    lowest = float(body.vertices[:, 1].min())
    return body.moved(rotation, np.array([place[0] - middle[0], -lowest, place[1] - middle[2]]))


def _middle(body: PosedBody) -> np.ndarray:
    return body.landmarks[[body.names.index("left_hip"), body.names.index("right_hip")]].mean(axis=0)


def _places(rng, count, intrinsics, settings) -> list[np.ndarray]:
    """Draw places on the floor, x, z, in front of a camera at the origin that looks along -z."""
    half, _ = intrinsics.half_angles
    places: list[np.ndarray] = []
    for _ in range(40 * count):
        if len(places) == count:
            break
        if places and rng.random() < 0.5:  # near somebody: groups overlap in the picture
            angle, far = rng.uniform(-np.pi, np.pi), rng.uniform(settings.min_distance_m, 1.6)
            place = places[int(rng.integers(len(places)))] + far * np.array([np.sin(angle), np.cos(angle)])
        else:
            distance = settings.nearest_m + (settings.farthest_m - settings.nearest_m) * rng.beta(1.3, 2.3)
            reach = 1.02 if rng.random() < settings.cut_share else 0.8
            place = distance * np.array([np.tan(rng.uniform(-reach, reach) * half), -1.0])
        away = -place[1]
        if not settings.nearest_m <= np.hypot(*place) <= settings.farthest_m or away < settings.nearest_m * 0.8:
            continue
        if abs(np.arctan2(place[0], away)) > 1.05 * half:
            continue
        if all(np.hypot(*(place - other)) >= settings.min_distance_m for other in places):
            places.append(place)
    return places


def _tilt(rng, people, height, intrinsics, settings) -> float:
    """Aim at some height of somebody, so that most people are mostly on the picture."""
    if not people:
        return float(rng.uniform(0, 0.4))
    body = people[int(rng.integers(len(people)))]
    distance = max(0.3, float(np.hypot(*_middle(body)[[0, 2]])))
    top = float(body.vertices[:, 1].max())
    aim = rng.uniform(0.35, 0.75) * top
    rows = rng.normal(0, 0.12) * intrinsics.height
    tilt = tilt_towards(height - aim, distance, rows_off_centre=rows, intrinsics=intrinsics)
    return float(np.clip(tilt, *settings.tilt))


# ---------------------------------------------------------------------------------------------- observing


#: Landmark kind -> the kinds of parts that it lies in. The face's landmarks are not here: an eye behind the nose lies
#: in the part that hides it.
_OWN_PARTS = {
    "head_top": ("head", "face"), "head": ("head", "face", "neck"), "neck": ("neck", "torso"),
    "shoulder": ("upper_arm", "torso"), "elbow": ("upper_arm", "forearm"), "wrist": ("forearm", "hand"),
    "hip": ("pelvis", "thigh", "torso"), "knee": ("thigh", "shin"), "ankle": ("shin", "foot"),
}  # fmt: skip


@lru_cache(maxsize=8)
def _own_parts(names: tuple[str, ...]) -> np.ndarray:
    """Say which parts each landmark lies in, bool `(K, parts)`."""
    table = np.zeros((len(names), len(PARTS)), bool)
    for row, name in enumerate(names):
        kind = joint_kind(name)
        side = name.removesuffix(kind)
        for part in _OWN_PARTS.get(kind, ()):
            table[row, PARTS.index(part if part in PARTS else side + part)] = True
    return table


def visibility(landmarks: np.ndarray, body: PosedBody, person: int, view: View, settings: SceneSettings) -> np.ndarray:
    """Say of one person's landmarks whether they are seen, by the distance to the surface in front of them.

    A landmark is seen when the surface at its pixel is in front of it by no more than its radius and a margin; both
    are measured along the ray. The margin is wider where that surface is the person's own part in which the landmark
    lies.

    Args:
        landmarks: `(K, 3)` camera space, metres.
        body: Whose they are, for names and radii.
        person: Number in `view.person`.
        view: The exact picture.
        settings: For the margins.

    Returns:
        uint8 `(K,)` of `OUTSIDE`, `HIDDEN_BY_SELF`, `SEEN`, `HIDDEN_BY_OTHERS`.
    """
    pixels = view.intrinsics.project(landmarks)
    on_picture = view.intrinsics.contains(pixels)
    column, row = np.rint(np.where(on_picture[:, None], pixels, 0)).astype(int).T
    surface = view.depth[row, column]
    in_front = (landmarks[:, 2] - surface) * view.intrinsics.ray_lengths[row, column]
    by_self = view.person[row, column] == person
    own = by_self & _own_parts(body.names)[np.arange(len(landmarks)), view.part[row, column]]
    margin = np.where(own, settings.own_margin_m, settings.margin_m)
    near = (surface <= 0) | (in_front <= body.radii + margin)
    found = np.where(near, SEEN, np.where(by_self, HIDDEN_BY_SELF, HIDDEN_BY_OTHERS))
    return np.where(on_picture, found, OUTSIDE).astype(np.uint8)


@dataclass(frozen=True)
class Recipe:
    """How samples are made of scenes.

    Attributes:
        sensor: Name of a sensor, or a sensor of your own.
        width: Pixels.
        height: Pixels.
        scene: What scenes are like.
        silhouette_drop: Share of the people's outline pixels that are set to 0.
        inpaint: Fill holes, as `posezoo.inference.depth.fill_missing` does.
        exact: Leave the sensor out: exact depth, rounded to millimetres.
        fused_share: Share of the samples that stand before a real background, where there are any.
        margin_m: People stand this far in front of a real background.
        rgb: Make colour pictures.
        amplitude: Make active-infrared pictures.
        empty: Nothing stands around the people: no room, no real background.
    """

    sensor: Sensor | str = "kinect1"
    width: int = 320
    height: int = 240
    scene: SceneSettings = field(default_factory=SceneSettings)
    silhouette_drop: float = 0.2
    inpaint: bool = False
    exact: bool = False
    fused_share: float = 1.0
    margin_m: float = 0.1
    rgb: bool = False
    amplitude: bool = False
    empty: bool = False


#: How many real backgrounds are tried before a room is built.
BACKGROUND_TRIES = 8


def make_sample(
    rng: np.random.Generator,
    bodies: BodySource,
    recipe: Recipe | None = None,
    *,
    backgrounds: Backgrounds | None = None,
) -> SynthSample:
    """Make one sample: everything random comes from `rng`.

    Args:
        rng: Source of every random number.
        bodies: Source of people.
        recipe: How samples are made.
        backgrounds: Real depth frames without people. Where none of the few that are drawn is far enough behind the
            people, a room is built.
    """
    recipe = recipe or Recipe()
    sensor = get_sensor(recipe.sensor)
    intrinsics = sensor.intrinsics.resized(recipe.width, recipe.height)
    real = not recipe.empty and backgrounds is not None and rng.random() < recipe.fused_share
    scene = compose(rng, bodies, intrinsics, recipe.scene, furnished=not (real or recipe.empty))
    fused = None
    background = "none" if recipe.empty else "room"
    if backgrounds is not None and real and scene.bodies:
        alone = render(scene.bodies, scene.camera)
        for _ in range(BACKGROUND_TRIES):
            frame, name = backgrounds.draw(rng, recipe.width, recipe.height)
            fused = fuse(alone.depth, frame, margin_m=recipe.margin_m)
            if fused:
                background = name
                break
    if fused is None and real:
        places = [_middle(b)[[0, 2]] for b in scene.bodies] or [np.array([0.0, -3.0])]
        room = random_room(
            rng, Floor(np.array(places), np.zeros(2)), camera_height=float(scene.camera.position[1]),
            occluder_chance=recipe.scene.occluder_chance,
        )  # fmt: skip
        scene = Scene(scene.bodies, [room], scene.camera, scene.facts)
    view = alone if fused else render([*scene.bodies, *scene.scenery], scene.camera)
    sample = label(scene, view, recipe.scene)
    sample.meta |= {"sensor": sensor.name, "background": background, "scale": 1.0}
    if fused:
        sample.landmarks_mm *= np.float32(fused.scale)
        sample.meta["scale"] = round(fused.scale, 4)
    exact = fused.depth if fused else view.depth
    measured = fused.measured if fused else None
    if recipe.exact:
        sample.depth = np.rint(np.clip(exact, 0, 65) * 1000).astype(np.uint16)
    else:
        cosine = np.where(view.person > 0, view.cosine, 1).astype(np.float32) if fused else view.cosine
        sample.depth = read_depth(
            rng, exact, sensor, intrinsics, cosine=cosine, albedo=view.albedo, measured=measured
        )  # fmt: skip
    if recipe.silhouette_drop:
        sample.depth = drop_silhouette(rng, sample.depth, sample.people, share=recipe.silhouette_drop)
    if recipe.inpaint:
        sample.depth = fill_missing(sample.depth)
    if recipe.rgb:
        sample.rgb = shaded_rgb(view, rng)
    if recipe.amplitude:
        sample.amplitude = amplitude(view, rng, full_scale_m=1.2)
    return sample


def label(scene: Scene, view: View, settings: SceneSettings) -> SynthSample:
    """Return everything that is known about a rendered scene; the depth is exact, in whole millimetres."""
    camera = scene.camera
    names = scene.bodies[0].names if scene.bodies else ()
    pixels = np.bincount(view.person.ravel(), minlength=len(scene.bodies) + 1)[1:]
    least = settings.min_pixels * view.person.size / (320 * 240)
    kept = [i for i in range(len(scene.bodies)) if pixels[i] >= least]
    points, seen, boxes = [], [], []
    for i in kept:
        body = scene.bodies[i]
        if body.names != names:
            raise UserError("the people of one scene have different landmarks; take them from one source")
        points.append(camera.to_camera(body.landmarks))
        seen.append(visibility(points[-1], body, i + 1, view, settings))
        boxes.append(_box(camera, body))
    renumber = np.zeros(len(scene.bodies) + 1, np.uint8)
    renumber[[i + 1 for i in kept]] = np.arange(1, len(kept) + 1)
    count = len(names)
    landmarks = np.array(points, np.float32).reshape(len(kept), count, 3)
    return SynthSample(
        depth=np.rint(np.clip(view.depth, 0, 65) * 1000).astype(np.uint16),
        parts=view.part,
        people=renumber[view.person],
        landmarks_px=camera.intrinsics.project(landmarks).astype(np.float32),
        landmarks_mm=landmarks * 1000,
        visibility=np.array(seen, np.uint8).reshape(len(kept), count),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        names=names,
        intrinsics=camera.intrinsics,
        rotation=np.asarray(camera.rotation, np.float32),
        position=np.asarray(camera.position, np.float32),
        meta={"people": [{**scene.facts[i], "pixels": int(pixels[i])} if scene.facts else {} for i in kept]},
    )


def _box(camera: Camera, body: PosedBody) -> tuple[float, float, float, float]:
    points = camera.to_camera(body.vertices)
    pixels = camera.intrinsics.project(points[points[:, 2] > 0.05])
    limit = np.array([camera.intrinsics.width, camera.intrinsics.height]) - 0.5
    low, high = np.clip(pixels.min(axis=0), -0.5, limit), np.clip(pixels.max(axis=0), -0.5, limit)
    return (low[0], low[1], high[0] - low[0], high[1] - low[1])
