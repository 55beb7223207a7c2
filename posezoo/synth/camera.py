"""Pinhole cameras: intrinsics of real depth sensors at any picture size, and where a camera stands.

Picture: x right, y down, pixel centres at integers. Camera space: x right, y down, z forward, metres.
World: right-handed, y up, floor at y = 0. A camera that is not turned looks along -z, so that a person who looks
along +z faces it, and has the left shoulder at the larger x in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from posezoo.errors import UserError


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion.

    Attributes:
        fx: Focal length in pixel widths.
        fy: Focal length in pixel heights.
        cx: Principal point, pixels from the centre of the leftmost pixel.
        cy: Principal point, pixels from the centre of the topmost pixel.
        width: Pixels.
        height: Pixels.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.fx <= 0 or self.fy <= 0:
            raise UserError(
                f"a camera of {self.width}x{self.height} pixels with focal lengths {self.fx}, {self.fy} cannot be; "
                "all four must be larger than 0"
            )

    def resized(self, width: int, height: int) -> Intrinsics:
        """Return the camera whose picture was scaled to cover another size and cut to it around the middle.

        This is what drivers do to offer a size of another aspect than the sensor's.
        """
        scale = max(width / self.width, height / self.height)
        cut_x, cut_y = (self.width * scale - width) / 2, (self.height * scale - height) / 2
        return Intrinsics(
            self.fx * scale, self.fy * scale,
            (self.cx + 0.5) * scale - 0.5 - cut_x, (self.cy + 0.5) * scale - 0.5 - cut_y, width, height,
        )  # fmt: skip

    def project(self, points: np.ndarray) -> np.ndarray:
        """Map camera-space points `(..., 3)` to pixels `(..., 2)`; those not in front of the camera become NaN."""
        points = np.asarray(points, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(points[..., 2] > 1e-6, points[..., 2], np.nan)
            return np.stack([points[..., 0] / z * self.fx + self.cx, points[..., 1] / z * self.fy + self.cy], axis=-1)

    def back_project(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Map pixels `(..., 2)` at depths `(...)` to camera space `(..., 3)`, in the depth's unit."""
        pixels, depth = np.asarray(pixels, np.float64), np.asarray(depth, np.float64)
        x = (pixels[..., 0] - self.cx) / self.fx * depth
        y = (pixels[..., 1] - self.cy) / self.fy * depth
        return np.stack([x, y, depth], axis=-1)

    def contains(self, pixels: np.ndarray) -> np.ndarray:
        """Say which pixels `(..., 2)` lie on the picture, bool `(...)`; NaN does not."""
        x, y = pixels[..., 0], pixels[..., 1]
        return (x >= -0.5) & (x < self.width - 0.5) & (y >= -0.5) & (y < self.height - 0.5)

    @property
    def rays(self) -> np.ndarray:
        """Camera-space points at depth 1 seen by the pixels, float32 `(height, width, 3)`, not to be written to."""
        return _rays(self)

    @property
    def ray_lengths(self) -> np.ndarray:
        """Length of `rays`, float32 `(height, width)`: from depth to distance; not to be written to."""
        return _ray_lengths(self)

    @property
    def half_angles(self) -> tuple[float, float]:
        """Half the angle of view in radians, across and down."""
        return float(np.arctan(self.width / 2 / self.fx)), float(np.arctan(self.height / 2 / self.fy))


@lru_cache(maxsize=16)
def _rays(intrinsics: Intrinsics) -> np.ndarray:
    rays = np.ones((intrinsics.height, intrinsics.width, 3), np.float32)
    rays[..., 0] = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
    rays[..., 1] = ((np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy)[:, None]
    rays.setflags(write=False)
    return rays


@lru_cache(maxsize=16)
def _ray_lengths(intrinsics: Intrinsics) -> np.ndarray:
    x = ((np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx).astype(np.float32)
    y = ((np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy).astype(np.float32)
    lengths = np.sqrt((x * x + 1) + (y * y)[:, None])
    lengths.setflags(write=False)
    return lengths


#: Depth cameras at their own resolution. Kinect 1: the nominal focal length of Microsoft's SDK (285.63 px at 320x240).
#: Kinect 2: the factory calibration common to the devices we have seen published, 365 px. D435: the 1280x800 imagers
#: behind all of its modes, so that 640x480 is the 384 px that its driver reports. tof: a small time-of-flight sensor of
#: 224x172, with a lens of 73 degrees.
INTRINSICS = {
    "kinect1": Intrinsics(571.26, 571.26, 319.5, 239.5, 640, 480),
    "kinect2": Intrinsics(365.4, 365.4, 257.9, 206.1, 512, 424),
    "d435": Intrinsics(640.0, 640.0, 639.5, 399.5, 1280, 800),
    "tof": Intrinsics(151.0, 151.0, 111.5, 85.5, 224, 172),
}


@dataclass(frozen=True)
class Camera:
    """A camera in the world.

    Attributes:
        intrinsics: Its lens and picture.
        rotation: `(3, 3)` from world to camera axes.
        position: `(3,)` metres, in the world.
    """

    intrinsics: Intrinsics
    rotation: np.ndarray
    position: np.ndarray

    @classmethod
    def looking(cls, intrinsics: Intrinsics, position, *, yaw=0.0, tilt=0.0, roll=0.0) -> Camera:
        """Return a camera by its angles in radians.

        Args:
            intrinsics: Its lens and picture.
            position: `(3,)` metres.
            yaw: Turn to its left around the world's vertical; 0 looks along -z.
            tilt: How far it looks down.
            roll: Turn clockwise, seen from behind it.
        """
        unturned = np.diag([1.0, -1.0, -1.0])
        (sy, cy), (st, ct), (sr, cr) = ((np.sin(a), np.cos(a)) for a in (yaw, tilt, roll))
        about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        about_x = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
        about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
        return cls(intrinsics, about_z @ about_x @ unturned @ about_y, np.asarray(position, np.float64))

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Map world points `(..., 3)` to camera space, float32."""
        moved = np.asarray(points, np.float32) - self.position.astype(np.float32)
        return moved @ self.rotation.astype(np.float32).T

    def project(self, points: np.ndarray) -> np.ndarray:
        """Map world points `(..., 3)` to pixels `(..., 2)`; NaN behind the camera."""
        return self.intrinsics.project(self.to_camera(points))

    def resized(self, width: int, height: int) -> Camera:
        """Return the same camera with a picture of another size."""
        return replace(self, intrinsics=self.intrinsics.resized(width, height))


def tilt_towards(drop_m: float, distance_m: float, *, rows_off_centre: float, intrinsics: Intrinsics) -> float:
    """Return the tilt that brings a point to a given row.

    Args:
        drop_m: How far the point is below the camera.
        distance_m: Its horizontal distance.
        rows_off_centre: Rows below the principal point where it shall appear.
        intrinsics: The camera's.
    """
    return float(np.arctan2(drop_m, distance_m) - np.arctan(rows_off_centre / intrinsics.fy))
