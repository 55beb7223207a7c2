"""Contact sheets of synthetic samples: depth coloured, parts, landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posezoo.files import replacing
from posezoo.skeletons import DEPTH17
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


def contact_sheet(samples: Sequence[SynthSample], *, columns: int = 2, tile_width: int = 320) -> np.ndarray:
    """Return one RGB picture with, for each sample, its pictures side by side.

    Depth coloured with landmarks, part masks dimmed by nothing, and colour and amplitude where the samples have them.

    Args:
        samples: What to show, all of one size.
        columns: Samples beside each other.
        tile_width: Pixels of one picture.
    """
    import cv2

    rows = []
    for sample in samples:
        scale = tile_width / sample.depth.shape[1]
        size = (tile_width, round(sample.depth.shape[0] * scale))

        def fitted(picture: np.ndarray, size=size) -> np.ndarray:
            return cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)

        tiles = [
            draw_landmarks(fitted(coloured_depth(sample.depth)), sample, scale=scale),
            fitted(PART_COLOURS[sample.parts]),
        ]
        if sample.rgb is not None:
            tiles.append(fitted(sample.rgb))
        if sample.amplitude is not None:
            bright = np.clip((sample.amplitude / 65535) ** 0.5 * 2, 0, 1)
            tiles.append(fitted(np.repeat((255 * bright).astype(np.uint8)[..., None], 3, axis=-1)))
        rows.append(np.hstack([_framed(t) for t in tiles]))
    columns = max(1, min(columns, len(rows)))
    while len(rows) % columns:
        rows.append(np.zeros_like(rows[0]))
    return np.vstack([np.hstack(rows[i : i + columns]) for i in range(0, len(rows), columns)])


def _framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=60)


def write_sheet(path: Path | str, samples: Sequence[SynthSample], **how) -> None:
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
