"""What real depth sensors do to a depth picture, real backgrounds behind rendered people, and filling of holes.

Sources of the numbers: Kinect 1, noise along and across the ray as measured by Nguyen, Izadi & Lovell (3DIMPVT 2012),
depth steps from the 1/8 pixel disparity of Khoshelham & Elberink (Sensors 12, 2012). D435, the stereo relation
z^2 * subpixel / (f * baseline) of Intel's tuning guide. Kinect 2, photon noise of a phase measurement: inverse to the
light that comes back, with readings of mixed depth at edges, most of which the driver drops. tof, a small and weak one
of that kind for near range, such as headsets carry: about 2 mm at 0.4 m and 2 cm at 2 m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posezoo.errors import UserError
from posezoo.inference import depth as depth_frames
from posezoo.synth.camera import INTRINSICS, Intrinsics
from posezoo.synth.render import View, returned_light


@dataclass(frozen=True)
class Sensor:
    """A depth sensor.

    Attributes:
        name: As in `SENSORS`.
        intrinsics: At its own resolution.
        nearest_m: It reads nothing nearer.
        farthest_m: It reads nothing farther.
        baseline_m: How far to the right of the camera, along x, the projector or second imager sits; 0 for time of
            flight. What only the camera sees is missing, which is at the left side of what stands in front.
        step_px: Smallest step of the disparity, in pixels of the own resolution; 0 where depth has no such steps.
        subpixel_px: Standard deviation of the disparity, for stereo; 0 elsewhere.
        range_noise_m: Standard deviation along the ray at z metres: a + b (z - c)^2 as (a, b, c).
        edge_px: Standard deviation, in pixels of the own resolution, of where an edge is seen.
        patch_px: Size of the window that the sensor matches, in pixels of the own resolution: noise is alike within
            it. 1 for time of flight.
        weakest_light: Returned light, as `returned_light` gives it, at which half of the readings are missing.
        grazing_cosine: Cosine between surface and ray at which half of the readings are missing.
        flying: Share of the edge pixels with a reading of mixed depth; the others are missing. None where edges
            are sharp.
        clean: Share of the pixels at edges, on either side, that are read as if there were no edge.
        wander_m: Standard deviation of smooth errors over the picture at 1 m, growing with distance: interference of
            several light paths, wiggling of the phase, lens errors.
    """

    name: str
    intrinsics: Intrinsics
    nearest_m: float
    farthest_m: float
    baseline_m: float = 0.0
    step_px: float = 0.0
    subpixel_px: float = 0.0
    range_noise_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    edge_px: float = 0.0
    patch_px: float = 1.0
    weakest_light: float = 0.0
    grazing_cosine: float = 0.0
    flying: float | None = None
    clean: float = 0.0
    wander_m: float = 0.0

    def step_m(self, z: np.ndarray | float) -> np.ndarray | float:
        """Return the depth between neighbouring readings at z metres; 0 where depth has no steps."""
        if not self.step_px:
            return 0.0 * z
        return self.step_px * z**2 / (self.intrinsics.fx * self.baseline_m)

    def range_sigma_m(self, z: np.ndarray | float) -> np.ndarray | float:
        """Return the standard deviation of a reading at z metres on a bright surface that faces the sensor."""
        a, b, c = self.range_noise_m
        sigma = a + b * (z - c) ** 2
        if self.subpixel_px:
            sigma = sigma + self.subpixel_px * z**2 / (self.intrinsics.fx * self.baseline_m)
        return sigma


SENSORS = {
    "kinect1": Sensor(
        "kinect1", INTRINSICS["kinect1"], 0.5, 8.0, baseline_m=0.075, step_px=1 / 8,
        range_noise_m=(0.0012, 0.0019, 0.4), edge_px=0.8, patch_px=9.0, weakest_light=0.0012, grazing_cosine=0.12,
        wander_m=0.001,
    ),
    "kinect2": Sensor(
        "kinect2", INTRINSICS["kinect2"], 0.5, 8.0, range_noise_m=(0.0013, 0.00012, 0.5), edge_px=0.0,
        weakest_light=0.0022, grazing_cosine=0.06, flying=0.08, wander_m=0.002,
    ),
    "d435": Sensor(
        "d435", INTRINSICS["d435"], 0.3, 10.0, baseline_m=0.05, step_px=1 / 32, subpixel_px=0.09, edge_px=2.0,
        patch_px=9.0, weakest_light=0.0, grazing_cosine=0.10, wander_m=0.002,
    ),
    "tof": Sensor(
        "tof", INTRINSICS["tof"], 0.1, 4.0, range_noise_m=(0.0014, 0.005, 0.2), weakest_light=0.012,
        grazing_cosine=0.035, flying=0.4, clean=0.5, wander_m=0.004,
    ),
}  # fmt: skip


def get_sensor(sensor: Sensor | str) -> Sensor:
    """Return a sensor given itself or its name.

    Raises:
        UserError: There is none of that name.
    """
    if isinstance(sensor, Sensor):
        return sensor
    if sensor not in SENSORS:
        raise UserError(f"unknown sensor '{sensor}'; expected one of {', '.join(SENSORS)}, or a Sensor")
    return SENSORS[sensor]


# ------------------------------------------------------------------------------------------------- reading


def read_depth(
    rng: np.random.Generator,
    depth: np.ndarray,
    sensor: Sensor,
    intrinsics: Intrinsics,
    *,
    cosine: np.ndarray | None = None,
    albedo: np.ndarray | None = None,
    measured: np.ndarray | None = None,
) -> np.ndarray:
    """Return what a sensor reads of a scene.

    Args:
        rng: Source of every random number.
        depth: float32 `(height, width)`, exact, metres, 0 where there is no surface.
        sensor: Which sensor.
        intrinsics: Of this picture, which may be smaller than the sensor's own.
        cosine: Between surface and ray; 1 by default.
        albedo: Reflectance in near infrared; 0.5 by default.
        measured: bool, True where `depth` was read by a real sensor: shadows fall there, no noise is added.

    Returns:
        uint16 `(height, width)` millimetres, 0 = no reading.
    """
    cv2 = _cv2()
    shape = depth.shape
    depth = np.asarray(depth, np.float32)
    ratio = intrinsics.fx / sensor.intrinsics.fx
    facing = np.float32(1) if cosine is None else np.maximum(cosine, 0.01)
    surface = depth > 0
    missing = ~surface | (depth < sensor.nearest_m) | (depth > sensor.farthest_m)
    if sensor.baseline_m:
        missing |= shadow(depth, sensor.baseline_m, intrinsics)

    if sensor.subpixel_px:  # the second imager's picture begins later: a band at the left has no partner
        columns = np.arange(shape[1], dtype=np.float32)
        missing |= columns * depth < np.float32(intrinsics.fx * sensor.baseline_m)

    # Weak light and grazing surfaces: each pixel has its own luck, in patches as large as the sensor's window.
    blotch = max(1.0, sensor.patch_px * ratio)
    luck = np.exp(np.float32(0.4) * patchy(rng, shape, blotch)) if sensor.weakest_light or sensor.grazing_cosine else 1
    if sensor.weakest_light:
        reflectance = np.float32(0.5) if albedo is None else albedo
        distance = depth * intrinsics.ray_lengths
        light = returned_light(distance, facing, reflectance, intrinsics)
        missing |= light * luck < np.float32(sensor.weakest_light)
    else:
        light = None
    if sensor.grazing_cosine and cosine is not None:
        missing |= facing * luck < np.float32(sensor.grazing_cosine)

    reading = blunted(depth, blotch) if sensor.baseline_m else depth
    edge_px = sensor.edge_px * ratio
    if edge_px:
        # Neighbours within the window err together, so that an edge is ragged in steps and not in single pixels.
        at_x, at_y = _grid(*shape)
        from_x = at_x + np.float32(edge_px) * patchy(rng, shape, blotch / 2)
        from_y = at_y + np.float32(edge_px) * patchy(rng, shape, blotch / 2)
        reading = cv2.remap(reading, from_x, from_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        reading = np.where(reading > 0, reading, depth)
    if sensor.flying is not None:
        edge = occluding_edge(depth)
        mixed = cv2.blur(depth, (3, 3))
        fate = rng.random(shape, np.float32)
        edge &= fate >= np.float32(sensor.clean)
        flies = edge & (fate < np.float32(sensor.clean + (1 - sensor.clean) * sensor.flying))
        missing |= edge & ~flies
        reading = np.where(flies, mixed, reading)

    sigma = sensor.range_sigma_m(reading)
    if cosine is not None:
        # Steep surfaces are read less exactly; the measured growth is quadratic in the angle's tangent.
        sigma = sigma * (1 + np.float32(0.15) * np.minimum(1 / facing**2 - 1, 20))
    if light is not None and not sensor.baseline_m:
        sigma = sigma + np.float32(2.5e-5) / np.maximum(light, np.float32(0.3 * sensor.weakest_light))
    noise = rng.standard_normal(shape, np.float32)
    if blotch > 1.3:
        noise = np.float32(0.94) * patchy(rng, shape, blotch) + np.float32(0.34) * noise
    reading = reading + sigma * noise
    if sensor.wander_m:
        reading = reading + np.float32(sensor.wander_m) * depth * patchy(rng, shape, max(shape) / 8)
    step = sensor.step_m(1.0)
    if step:
        # Steps are even in disparity, that is in 1 / z.
        inverse = np.rint(1 / np.maximum(reading, 1e-3) / np.float32(step)) * np.float32(step)
        reading = 1 / np.maximum(inverse, 1e-6)
    if measured is not None:
        reading = np.where(measured, depth, reading)
        missing &= ~measured | (shadow(depth, sensor.baseline_m, intrinsics) if sensor.baseline_m else False)
    missing |= (reading < sensor.nearest_m) & surface
    millimetres = np.rint(np.clip(reading, 0, 65.0) * 1000)
    return np.where(missing | (measured & ~surface if measured is not None else ~surface), 0, millimetres).astype(
        np.uint16
    )


def blunted(depth: np.ndarray, window_px: float) -> np.ndarray:
    """Return depth as matching by windows sees it: gaps narrower than the window close, thin things become blobs.

    So it is that a Kinect 1's hands are mittens. A window's reading is its nearest content's where that fills enough
    of it.

    Args:
        depth: float32 `(height, width)` metres, 0 where there is no surface.
        window_px: Size of the window; less than 2 pixels change nothing.
    """
    size = int(window_px / 2) | 1
    if size < 3:
        return depth
    cv2 = _cv2()
    known = depth > 0
    solid = np.where(known, depth, np.float32(1e3))
    closed = cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    return np.where(known, cv2.medianBlur(closed, 3 if size == 3 else 5), 0).astype(np.float32)


def shadow(depth: np.ndarray, baseline_m: float, intrinsics: Intrinsics) -> np.ndarray:
    """Find what the camera sees but a projector or second imager to its right does not.

    A pixel u at depth z lies in the other one's picture at u - f * baseline / z. Along a row from right to left these
    places must fall; where a pixel's place is not left of one already taken, something nearer hides it.

    Args:
        depth: `(height, width)` metres, 0 where there is no surface.
        baseline_m: Distance to the other one; negative when it is to the left.
        intrinsics: The camera's.

    Returns:
        bool `(height, width)`.
    """
    if not baseline_m:
        return np.zeros(depth.shape, bool)
    flipped = depth if baseline_m > 0 else depth[:, ::-1]
    with np.errstate(divide="ignore"):
        disparity = np.where(flipped > 0, np.float32(intrinsics.fx * abs(baseline_m)) / flipped, 0)
    place = np.arange(depth.shape[1], dtype=np.float32) - disparity
    place[flipped <= 0] = np.inf
    leftmost = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
    hidden = np.zeros(depth.shape, bool)
    # Half a pixel of tolerance: slanted surfaces squeeze their places together without hiding anything.
    hidden[:, :-1] = place[:, :-1] > leftmost[:, 1:] + 0.5
    hidden &= flipped > 0
    return hidden if baseline_m > 0 else hidden[:, ::-1]


def occluding_edge(depth: np.ndarray, *, relative: float = 0.04) -> np.ndarray:
    """Find pixels at a jump of depth larger than a share of the depth, on both sides of it; bool."""
    cv2 = _cv2()
    filled = np.where(depth > 0, depth, depth.max() if depth.size else 0).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    high, low = cv2.dilate(filled, kernel), cv2.erode(filled, kernel)
    return high - low > relative * np.maximum(low, 0.3) + 0.03


def patchy(rng: np.random.Generator, shape: tuple[int, int], size_px: float) -> np.ndarray:
    """Return normal noise that is alike within about `size_px` pixels; float32, mean 0, standard deviation 1."""
    if size_px <= 1.3:
        return rng.standard_normal(shape, np.float32)
    small = (int(np.ceil(shape[0] / size_px)) + 2, int(np.ceil(shape[1] / size_px)) + 2)
    coarse = rng.standard_normal(small, np.float32)
    where_x = (np.arange(shape[1], dtype=np.float32) + np.float32(rng.uniform(0, size_px))) / np.float32(size_px)
    where_y = (np.arange(shape[0], dtype=np.float32) + np.float32(rng.uniform(0, size_px))) / np.float32(size_px)
    # Linear mixing of two values shrinks the deviation to sqrt(a^2 + (1-a)^2); dividing by it keeps 1 everywhere.
    out = _mix_rows(_mix_rows(coarse, where_y).T, where_x).T
    return np.ascontiguousarray(out)


def _mix_rows(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    first = where.astype(np.intp)
    share = (where - first).astype(np.float32)
    scale = 1 / np.sqrt(share**2 + (1 - share) ** 2)
    return values[first] * ((1 - share) * scale)[:, None] + values[first + 1] * (share * scale)[:, None]


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def drop_silhouette(
    rng: np.random.Generator, depth: np.ndarray, people: np.ndarray, *, share: float = 0.2
) -> np.ndarray:
    """Set a share of the pixels at people's outlines to 0, as the depth pose machines are trained.

    Args:
        rng: Source of the choice.
        depth: `(height, width)`, any unit.
        people: `(height, width)` person numbers, 0 = nobody.
        share: How many of the outline's pixels, 0..1.

    Returns:
        A copy of `depth`.
    """
    outline = silhouette(people)
    return np.where(outline & (rng.random(depth.shape, np.float32) < share), depth.dtype.type(0), depth)


def silhouette(people: np.ndarray) -> np.ndarray:
    """Find the outermost pixels of each person, those with a 4-neighbour that is not of the same person; bool."""
    padded = np.pad(people, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    differs = np.zeros(people.shape, bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        differs |= neighbour != inner
    return differs & (people > 0)


# --------------------------------------------------------------------------------------------- backgrounds


class Backgrounds:
    """Real depth frames without people, to stand behind rendered ones.

    Args:
        folder: Holds 16-bit PNG (millimetres) or .npy (uint16 millimetres or float metres), at any depth of folders.

    Raises:
        UserError: The folder is missing or holds neither.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected depth frames without people (.png, .npy)")
        self.files = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in (".png", ".npy"))
        if not self.files:
            raise UserError(f"{folder}: holds no depth frame; expected 16-bit .png in millimetres, or .npy")

    def __len__(self) -> int:
        return len(self.files)

    def draw(self, rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, str]:
        """Return a random frame cut to a size, mirrored in one of two cases, and its file's name.

        The frame is cut to the aspect around the middle and reduced without mixing depths.

        Returns:
            float32 `(height, width)` metres, 0 = no reading; file name.
        """
        cv2 = _cv2()
        path = self.files[int(rng.integers(len(self.files)))]
        depth = depth_frames.read_depth(path)
        h, w = depth.shape
        scale = max(width / w, height / h)
        cut_w, cut_h = min(w, round(width / scale)), min(h, round(height / scale))
        x, y = (w - cut_w) // 2, (h - cut_h) // 2
        depth = depth[y : y + cut_h, x : x + cut_w]
        depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        return (depth[:, ::-1].copy() if rng.random() < 0.5 else depth), path.name


@dataclass(frozen=True)
class Fused:
    """People in front of a real background.

    Attributes:
        depth: float32 `(height, width)` metres, 0 = no reading.
        scale: Factor on all distances of the people from the camera.
        measured: bool, True where the depth is the background's.
    """

    depth: np.ndarray
    scale: float
    measured: np.ndarray


def fuse(
    people_m: np.ndarray,
    background_m: np.ndarray,
    *,
    margin_m: float = 0.1,
    smallest_scale: float = 0.85,
    tolerated: float = 0.08,
) -> Fused | None:
    """Put rendered people in front of a real background, by the depth margin rule.

    A person must stand in front of what is behind by a margin. Where the background is nearer, the people are moved
    towards the camera: all their distances are multiplied by one factor, which leaves every pixel of their picture
    where it is and makes them smaller in the world by that factor. A factor below `smallest_scale` would make dwarfs:
    the background is rejected, and the caller draws another. A few pixels may break the rule, since real feet touch a
    real floor.

    Args:
        people_m: `(height, width)` metres, 0 where there is nobody.
        background_m: `(height, width)` metres, 0 = no reading, which hides nothing.
        margin_m: Least distance between a person's pixel and the background behind it.
        smallest_scale: Least factor.
        tolerated: Share of the people's pixels with a known background that may break the rule.

    Returns:
        The fused picture, or None when the background is rejected.
    """
    there = people_m > 0
    both = there & (background_m > 0)
    scale = 1.0
    if both.any():
        allowed = (background_m[both] - margin_m) / people_m[both]
        scale = float(min(1.0, np.quantile(allowed, tolerated)))
        if scale < smallest_scale:
            return None
    depth = np.where(there, people_m * np.float32(scale), background_m).astype(np.float32)
    return Fused(depth, scale, ~there)


def read_view(rng: np.random.Generator, view: View, sensor: Sensor) -> np.ndarray:
    """Return what a sensor reads of a rendered view, uint16 millimetres `(height, width)`."""
    return read_depth(rng, view.depth, sensor, view.intrinsics, cosine=view.cosine, albedo=view.albedo)


def _cv2():
    import cv2

    return cv2


def sensor_names() -> Sequence[str]:
    """Return the names of the known sensors."""
    return tuple(SENSORS)
