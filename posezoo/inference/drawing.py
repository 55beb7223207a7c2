"""Poses drawn on pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posezoo.files import replacing
from posezoo.inference.poses import Poses

# RGB. Colour tells the person's own side, so that a left/right swap is seen at once.
LEFT, RIGHT, MIDDLE = (255, 140, 0), (0, 160, 255), (120, 220, 90)
BOX = (200, 200, 200)


def side_colour(*keypoints: str) -> tuple[int, int, int]:
    """Return the colour of a keypoint, or of a limb by its ends: orange left, blue right, green between."""
    if all(k.startswith("left_") for k in keypoints):
        return LEFT
    if all(k.startswith("right_") for k in keypoints):
        return RIGHT
    return MIDDLE


def draw(image: np.ndarray, poses: Poses, *, threshold: float = 0.2, boxes: bool = False) -> np.ndarray:
    """Draw limbs and joints on a copy of a picture.

    Args:
        image: RGB uint8 `(height, width, 3)`.
        poses: Poses in the picture's pixels.
        threshold: Keypoints that score lower are left out, with their limbs.
        boxes: Whether the boxes are drawn.

    Returns:
        RGB uint8 `(height, width, 3)`.
    """
    import cv2

    canvas = np.ascontiguousarray(image).copy()
    skeleton = poses.skeleton
    for i, (keypoints, scores) in enumerate(zip(poses.keypoints, poses.scores, strict=True)):
        extent = _extent(keypoints[scores >= threshold], image.shape)
        thick = max(1, round(extent / 90))
        shown = scores >= threshold
        points = [tuple(int(v) for v in np.rint(k)) for k in np.clip(keypoints, -1e6, 1e6)]
        if boxes and poses.boxes is not None:
            x, y, w, h = np.rint(poses.boxes[i]).astype(int).tolist()
            cv2.rectangle(canvas, (x, y), (x + w, y + h), BOX, max(1, thick // 2), cv2.LINE_AA)
        for (a, b), names in zip(skeleton.limb_indices, skeleton.limbs, strict=True):
            if shown[a] and shown[b]:
                cv2.line(canvas, points[a], points[b], (0, 0, 0), thick + 2, cv2.LINE_AA)
                cv2.line(canvas, points[a], points[b], side_colour(*names), thick, cv2.LINE_AA)
        for k, name in enumerate(skeleton.keypoints):
            if shown[k]:
                cv2.circle(canvas, points[k], thick + 2, (0, 0, 0), -1, cv2.LINE_AA)
                cv2.circle(canvas, points[k], thick + 1, side_colour(name), -1, cv2.LINE_AA)
    return canvas


def draw_depths(image: np.ndarray, poses: Poses, *, threshold: float = 0.2, short_side_px: int = 480) -> np.ndarray:
    """Draw poses and write each keypoint's depth in millimetres beside it.

    Args:
        image: RGB uint8 `(height, width, 3)`.
        poses: Poses in the picture's pixels, with `depth`.
        threshold: See `draw`.
        short_side_px: Smaller pictures are enlarged by a whole number to at least this, so that the numbers can be
            read.

    Returns:
        RGB uint8, maybe enlarged.
    """
    import cv2

    times = max(1, -(-short_side_px // min(image.shape[:2])))
    canvas = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
    larger = Poses((poses.keypoints + 0.5) * times - 0.5, poses.scores, poses.skeleton, poses.person_scores)
    canvas = draw(canvas, larger, threshold=threshold)
    if poses.depth is None:
        return canvas
    size = min(canvas.shape[:2]) / 1200
    for keypoints, scores, depth in zip(larger.keypoints, poses.scores, poses.depth, strict=True):
        for name, (x, y), score, millimetres in zip(poses.skeleton.keypoints, keypoints, scores, depth, strict=True):
            if score < threshold or not np.isfinite(millimetres):
                continue
            place = (int(x) + round(14 * size) + 4, int(y) - 4)
            for colour, thick in (((0, 0, 0), 3), (side_colour(name), 1)):
                cv2.putText(
                    canvas, f"{millimetres:.0f}", place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thick, cv2.LINE_AA
                )
    return canvas


def _extent(points: np.ndarray, shape: tuple[int, ...]) -> float:
    """Size that line widths follow: the person's, within what suits the picture."""
    side = min(shape[:2])
    size = float(np.ptp(points, axis=0).max()) if len(points) > 1 else side
    return float(np.clip(size, side / 4, 2 * side))


def write_picture(path: Path | str, image: np.ndarray) -> None:
    """Write an RGB picture under a temporary name and rename it.

    Raises:
        OSError: The folder is missing or full, or the ending is no picture format.
    """
    import cv2

    path = Path(path)
    try:
        written, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise OSError(f"{path}: cannot write a picture of this format or size") from error
    if not written:
        raise OSError(f"{path}: cannot write a picture of this format")
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())
