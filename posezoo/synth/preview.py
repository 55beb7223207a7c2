"""Contact sheets of synthetic samples: depth coloured, parts, landmarks; and of hands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from posezoo.data.hand_frames import HandFrame
from posezoo.files import replacing
from posezoo.skeletons import DEPTH17, HAND34
from posezoo.synth.posed import PARTS
from posezoo.synth.scene import HIDDEN_BY_OTHERS, HIDDEN_BY_SELF, OUTSIDE, SEEN, SynthSample

#: RGB of the parts, in the order of `PARTS`: left warm, right cold, the middle grey to white.
PART_COLOURS = np.array(
    [
        (0, 0, 0), (250, 250, 210), (255, 255, 255), (200, 200, 160), (150, 150, 150), (100, 100, 110),
        (255, 190, 60), (255, 140, 20), (255, 80, 20), (90, 190, 255), (30, 130, 255), (40, 60, 255),
        (230, 60, 90), (190, 30, 60), (130, 10, 40), (60, 220, 140), (20, 170, 100), (0, 110, 70),
    ],
    np.uint8,
)  # fmt: skip
assert len(PART_COLOURS) == len(PARTS)

_DOTS = {SEEN: (255, 255, 255), HIDDEN_BY_SELF: (255, 60, 60), HIDDEN_BY_OTHERS: (255, 60, 255)}


def coloured_depth(depth: np.ndarray, *, nearest_mm: float | None = None, farthest_mm: float | None = None):
    """Return depth as RGB `(height, width, 3)`: blue near, red far, black without a reading.

    Args:
        depth: `(height, width)` millimetres, 0 = no reading.
        nearest_mm: Depth of the first colour; by default nearly the smallest there is.
        farthest_mm: Depth of the last colour; by default nearly the largest there is.
    """
    import cv2

    known = depth[depth > 0]
    low, high = np.percentile(known, (1, 98)) if len(known) else (0.0, 1.0)
    low = low if nearest_mm is None else nearest_mm
    high = high if farthest_mm is None else farthest_mm
    share = np.clip((depth.astype(np.float32) - low) / max(high - low, 1.0), 0, 1)
    picture = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1].copy()
    picture[depth == 0] = 0
    return picture


def draw_landmarks(picture: np.ndarray, sample: SynthSample, *, scale: float = 1.0) -> np.ndarray:
    """Draw limbs and landmarks on a copy of an RGB picture: white seen, red behind the own body, pink behind others.

    Args:
        picture: RGB `(height, width, 3)`, the sample's picture times `scale`.
        sample: Whose people are drawn.
        scale: Size of the picture against the sample's.
    """
    import cv2

    drawn = picture.copy()
    if not len(sample.landmarks_px):
        return drawn
    chosen = sample.columns(DEPTH17)
    for points, seen in zip(sample.landmarks_px[:, chosen], sample.visibility[:, chosen]):
        at = np.rint((np.nan_to_num(points, nan=-1e4) + 0.5) * scale - 0.5).clip(-9999, 9999).astype(int).tolist()
        for a, b in DEPTH17.limb_indices:
            if seen[a] != OUTSIDE and seen[b] != OUTSIDE:
                cv2.line(drawn, at[a], at[b], (230, 230, 230), 1, cv2.LINE_AA)
        for place, kind in zip(at, seen.tolist()):
            if kind != OUTSIDE:
                cv2.circle(drawn, place, max(1, round(1.5 * scale)), _DOTS[kind], -1, cv2.LINE_AA)
    return drawn


def sample_tiles(sample: SynthSample, tile_width: int) -> list[np.ndarray]:
    """Return a sample's pictures: depth coloured with landmarks, parts, and colour and amplitude where it has them."""
    scale = tile_width / sample.depth.shape[1]
    fitted = _fitter(sample.depth.shape, tile_width)
    tiles = [
        draw_landmarks(fitted(coloured_depth(sample.depth)), sample, scale=scale),
        fitted(PART_COLOURS[sample.parts]),
    ]
    if sample.rgb is not None:
        tiles.append(fitted(sample.rgb))
    if sample.amplitude is not None:
        tiles.append(fitted(bright_amplitude(sample.amplitude)))
    return tiles


def bright_amplitude(amplitude: np.ndarray, *, gain: float = 2.0) -> np.ndarray:
    """Return amplitude `(height, width)` as a grey RGB picture, on a scale on which its noise is even."""
    bright = np.clip((amplitude / 65535) ** 0.5 * gain, 0, 1)
    return np.repeat((255 * bright).astype(np.uint8)[..., None], 3, axis=-1)


def _fitter(shape: tuple[int, ...], tile_width: int):
    import cv2

    size = (tile_width, round(shape[0] * tile_width / shape[1]))
    return lambda picture: cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)


#: RGB of `HandFrame.segmentation`: background, left, right.
HAND_COLOURS = np.array([(0, 0, 0), (40, 120, 255), (255, 130, 30)], np.uint8)
#: Keypoints of a hand in the order in which a finger's are joined, from `HAND34`.
_FINGER_CHAINS = tuple(
    tuple(f"{finger}_{joint}" for joint in joints)
    for finger, joints in (
        ("thumb", ("mcp", "ip", "tip")), ("index", ("mcp", "pip", "dip", "tip")), ("middle", ("mcp", "pip", "tip")),
        ("ring", ("mcp", "pip", "tip")), ("pinky", ("mcp", "pip", "tip")),
    )
)  # fmt: skip


def hand_tiles(frame: HandFrame, tile_width: int) -> list[np.ndarray]:
    """Return a frame's pictures: depth to 1.5 m, amplitude, and the mask with keypoints (white seen, red hidden)."""
    import cv2

    assert frame.depth is not None and frame.amplitude is not None and frame.segmentation is not None
    scale = tile_width / frame.depth.shape[1]
    fitted = _fitter(frame.depth.shape, tile_width)
    light = bright_amplitude(frame.amplitude, gain=1.4)
    drawn = fitted((0.5 * HAND_COLOURS[frame.segmentation] + 0.5 * light).astype(np.uint8))
    at = np.rint((frame.keypoints[:, :2] + 0.5) * scale - 0.5).clip(-9999, 9999).astype(int).tolist()
    for side in ("left", "right"):
        for chain in _FINGER_CHAINS:
            numbers = [HAND34.keypoints.index(f"{side}_{name}") for name in ("wrist", *chain)]
            for a, b in zip(numbers[:-1], numbers[1:]):
                if frame.keypoints[[a, b], 2].min() > 0:
                    cv2.line(drawn, at[a], at[b], (230, 230, 230), 1, cv2.LINE_AA)
    for place, state in zip(at, frame.keypoints[:, 2].tolist()):
        if state:
            cv2.circle(drawn, place, max(1, round(1.3 * scale)), _DOTS[SEEN if state == 2 else HIDDEN_BY_SELF], -1,
                       cv2.LINE_AA)  # fmt: skip
    return [fitted(coloured_depth(frame.depth, nearest_mm=150, farthest_mm=1500)), fitted(light), drawn]


def contact_sheet(
    samples: Sequence, *, columns: int = 2, tile_width: int = 320, tiles: Callable[..., list] = sample_tiles
) -> np.ndarray:
    """Return one RGB picture with, for each sample, its pictures side by side.

    Args:
        samples: What to show, all of one size.
        columns: Samples beside each other.
        tile_width: Pixels of one picture.
        tiles: Makes the pictures of a sample, given it and `tile_width`.
    """
    rows = [np.hstack([_framed(t) for t in tiles(sample, tile_width)]) for sample in samples]
    columns = max(1, min(columns, len(rows)))
    while len(rows) % columns:
        rows.append(np.zeros_like(rows[0]))
    return np.vstack([np.hstack(rows[i : i + columns]) for i in range(0, len(rows), columns)])


def _framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=60)


def write_sheet(path: Path | str, samples: Sequence, **how) -> None:
    """Write a contact sheet as PNG or JPEG.

    Raises:
        ValueError: The name has another ending.
    """
    import cv2

    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"{path}: cannot write '{path.suffix}'; expected .png or .jpg")
    sheet = contact_sheet(samples, **how)
    with replacing(path) as temporary:
        cv2.imwrite(str(temporary), np.ascontiguousarray(sheet[..., ::-1]))
