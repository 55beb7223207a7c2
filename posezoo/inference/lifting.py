"""2.5D: keypoints of a picture and its depth to points in space.

What the hand paper calls simple heuristics, made explicit: a window of measured pixels, their median, plausibility by
the length of bones, and holding the last good value over frames. A keypoint that another part of the hand hides gets
the depth of what hides it, as long as that is plausible: self-occlusion is the known failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from posezoo.inference.images import ImageError
from posezoo.inference.poses import Poses
from posezoo.skeletons import Skeleton, joint_kind


@dataclass(frozen=True)
class Pinhole:
    """A camera: pixel `(u, v)` at depth Z is `((u - cx) Z / fx, (v - cy) Z / fy, Z)`.

    Attributes:
        fx: Focal length in pixels.
        fy: Focal length in pixels.
        cx: Principal point.
        cy: Principal point.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def back_project(self, points: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Return points in space.

        Args:
            points: `(..., 2)` pixels.
            depth: `(...)`, NaN where unknown.

        Returns:
            `(..., 3)` in the unit of `depth`: x right, y down, z forward.
        """
        x = (points[..., 0] - self.cx) * depth / self.fx
        y = (points[..., 1] - self.cy) * depth / self.fy
        return np.stack([x, y, depth], axis=-1).astype(np.float32)


@dataclass
class Lifter:
    """Lifts keypoints frame after frame; one for each sequence.

    Attributes:
        camera: Its intrinsics.
        skeleton: Names the keypoints and the limbs whose length is checked.
        window_px: Side of the window around a keypoint, odd.
        near_mm: Pixels more than this farther than the nearest tenth of the window are background and do not count.
        longest_mm: A limb longer than this is not plausible: its farther end loses its depth.
        longest_hand_mm: The same for a limb from a wrist to a fingertip.
        hold_frames: For how many frames a lost depth is replaced by the last one.
        least_score: Keypoints that score lower are not lifted.
    """

    camera: Pinhole
    skeleton: Skeleton
    window_px: int = 5
    near_mm: float = 60.0
    longest_mm: float = 140.0
    longest_hand_mm: float = 220.0
    hold_frames: int = 3
    least_score: float = 0.5
    _last: np.ndarray | None = field(default=None, repr=False)
    _age: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.window_px < 1 or self.window_px % 2 == 0:
            raise ValueError(f"window_px must be odd and at least 1, got {self.window_px}")

    def __call__(self, depth: np.ndarray, keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Lift one frame's keypoints.

        Args:
            depth: `(height, width)` millimetres, 0 or NaN where nothing was measured.
            keypoints: `(K, 2)` in its pixels.
            scores: `(K,)`.

        Returns:
            float32 `(K, 3)` millimetres in the camera's axes, NaN where a keypoint has no plausible depth.
        """
        z = self.surface(depth, keypoints, np.asarray(scores) >= self.least_score)
        z = self._plausible(keypoints, z)
        z = self._held(z)
        return self.camera.back_project(np.asarray(keypoints, np.float32), z)

    def surface(self, depth: np.ndarray, keypoints: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Median of the near, measured pixels in each keypoint's window, `(K,)`; NaN where there is none."""
        depth = np.nan_to_num(np.asarray(depth, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        height, width = depth.shape
        reach = np.arange(self.window_px) - self.window_px // 2
        centre = np.rint(np.asarray(keypoints, np.float32)).astype(int)
        rows, columns = centre[:, 1:2] + reach, centre[:, :1] + reach
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        values = depth[np.clip(rows, 0, height - 1)[:, :, None], np.clip(columns, 0, width - 1)[:, None, :]]
        values = np.where(inside & (values > 0), values, np.nan).reshape(len(centre), -1)
        found = np.full(len(centre), np.nan, np.float32)
        some = wanted & ~np.isnan(values).all(axis=1)
        if some.any():
            nearest = np.nanquantile(values[some], 0.1, axis=1, keepdims=True)
            close = np.where(values[some] <= nearest + self.near_mm, values[some], np.nan)
            found[some] = np.nanmedian(close, axis=1)
        return found

    def _plausible(self, keypoints: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Drop the farther end of limbs that are too long: it shows what is behind the hand."""
        space = self.camera.back_project(np.asarray(keypoints, np.float32), z)
        for a, b in self.skeleton.limb_indices:
            ends = {joint_kind(self.skeleton.keypoints[k]).split("_")[-1] for k in (a, b)}
            longest = self.longest_hand_mm if ends == {"wrist", "tip"} else self.longest_mm
            if np.linalg.norm(space[a] - space[b]) > longest:
                z[a if z[a] > z[b] else b] = np.nan
        return z

    def _held(self, z: np.ndarray) -> np.ndarray:
        if self._last is None or self._age is None:
            self._last, self._age = np.full_like(z, np.nan), np.zeros(len(z), int)
        lost = np.isnan(z)
        self._age = np.where(lost, self._age + 1, 0)
        held = np.where(lost & (self._age <= self.hold_frames), self._last, z)
        self._last = np.where(lost, self._last, z)
        return held


def lift(poses: Poses, depth: np.ndarray, camera: Pinhole | None = None) -> np.ndarray | None:
    """Give the poses of one picture their depth, and with a camera their points in space.

    Without one, bones of impossible length are not noticed. A keypoint that is not on the picture, or where nothing
    was measured, has no depth.

    Args:
        poses: Poses in the picture's pixels; their `depth` is written.
        depth: float32 `(height, width)` in metres, 0 where nothing was measured, of the same view.
        camera: Its intrinsics.

    Returns:
        float32 `(N, K, 3)` millimetres in the camera's axes, NaN where unknown; None without a camera.
    """
    millimetres = np.asarray(depth, np.float32) * 1000
    lifters = [Lifter(camera or Pinhole(1, 1, 0, 0), poses.skeleton, hold_frames=0) for _ in range(len(poses))]
    people = list(zip(lifters, poses.keypoints, poses.scores, strict=True))
    if camera is None:
        surface = [one.surface(millimetres, xy, score >= one.least_score) for one, xy, score in people]
        poses.depth = np.reshape(surface, poses.scores.shape).astype(np.float32)
        return None
    space = np.reshape([one(millimetres, xy, score) for one, xy, score in people], (*poses.scores.shape, 3))
    poses.depth = space[..., 2].astype(np.float32)
    return space.astype(np.float32)


def same_view(picture_hw: tuple[int, ...], depth: np.ndarray) -> None:
    """Check that depth belongs to a picture.

    Raises:
        ImageError: They are of another size.
    """
    if tuple(picture_hw[:2]) != depth.shape:
        raise ImageError(
            f"the depth frame is {depth.shape[1]}x{depth.shape[0]}, the picture {picture_hw[1]}x{picture_hw[0]}; "
            "expected the same view of the same camera"
        )
