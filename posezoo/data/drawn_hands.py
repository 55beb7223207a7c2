"""Drawn hands, for smoke tests: enough to run every line, and to see that something is learnt."""

from __future__ import annotations

import numpy as np

from posezoo.data.hand_frames import HIDDEN, SEEN, UNKNOWN, HandFrame
from posezoo.skeletons import HAND34

#: A left hand seen from its palm, as fractions of its size; y points down.
OPEN_HAND = {
    "thumb_tip": (0.95, 0.45), "index_tip": (0.72, 0.05), "middle_tip": (0.5, 0.0), "ring_tip": (0.3, 0.06),
    "pinky_tip": (0.08, 0.2), "index_mcp": (0.66, 0.48), "thumb_mcp": (0.75, 0.78), "wrist": (0.5, 1.0),
    "thumb_ip": (0.87, 0.6), "index_pip": (0.69, 0.28), "index_dip": (0.71, 0.16), "middle_mcp": (0.5, 0.46),
    "middle_pip": (0.5, 0.24), "ring_mcp": (0.36, 0.48), "ring_pip": (0.33, 0.27), "pinky_mcp": (0.22, 0.54),
    "pinky_pip": (0.14, 0.37),
}  # fmt: skip
_BONES = (
    ("wrist", "thumb_mcp", "thumb_ip", "thumb_tip"), ("wrist", "index_mcp", "index_pip", "index_dip", "index_tip"),
    ("wrist", "middle_mcp", "middle_pip", "middle_tip"), ("wrist", "ring_mcp", "ring_pip", "ring_tip"),
    ("wrist", "pinky_mcp", "pinky_pip", "pinky_tip"),
)  # fmt: skip


class DrawnHands:
    """Frames with up to two flat hands, drawn when they are asked for.

    Args:
        count: Number of frames.
        wh: Their width and height.
        seed: Seed of every random number.
    """

    def __init__(self, count: int, *, wh: tuple[int, int] = (224, 168), seed: int = 0):
        self.name, self.skeleton, self.count, self.wh, self.seed = "drawn hands", HAND34, count, wh, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> HandFrame:
        import cv2

        rng = np.random.default_rng((self.seed, index))
        width, height = self.wh
        distance = rng.uniform(900, 1300)
        depth = np.full((height, width), distance, np.float32)
        segmentation = np.zeros((height, width), np.uint8)
        keypoints, keypoints_mm = np.zeros((34, 3), np.float32), np.full((34, 3), np.nan, np.float32)
        present = np.zeros(2, bool)
        present[rng.permutation(2)[: 1 + int(rng.random() < 0.5)]] = True
        focal = width
        for hand in np.flatnonzero(present):
            millimetres = float(rng.uniform(350, 600))
            size = 180 * focal / millimetres
            place = rng.uniform(0.05, 0.95, 2) * (np.array(self.wh) - size * 0.9)
            unit = np.array([OPEN_HAND[k.removeprefix("left_")] for k in HAND34.keypoints[:17]]) + rng.normal(
                0, 0.015, (17, 2)
            )
            unit[:, 0] = unit[:, 0] if hand == 0 else 1 - unit[:, 0]
            points = unit * size + place
            names = [k.removeprefix("left_") for k in HAND34.keypoints[:17]]
            mask = np.zeros_like(segmentation)
            for finger in _BONES:
                line = np.rint(points[[names.index(k) for k in finger]]).astype(np.int32)
                cv2.polylines(mask, [line], False, 1, max(3, round(size * 0.1)))
            mask[:] = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
            nearer = (mask > 0) & (depth > millimetres)
            depth[nearer], segmentation[nearer] = millimetres, hand + 1
            rows = slice(17 * hand, 17 * hand + 17)
            keypoints[rows, :2], keypoints[rows, 2] = points, SEEN
            keypoints_mm[rows] = np.column_stack(
                [(points - np.array(self.wh) / 2) * millimetres / focal, np.full(17, millimetres)]
            )
        self._hide(keypoints, segmentation)
        albedo = np.where(segmentation > 0, 0.7, 0.4)
        amplitude = 65535 * np.clip(albedo * (250 / depth) ** 2 + rng.normal(0, 0.005, depth.shape), 0, 1)
        turned = np.where(present, 0, -1).astype(np.int8)
        posed = np.where(present, 1, -1).astype(np.int8)
        return HandFrame(
            keypoints, depth.astype(np.uint16), amplitude.astype(np.uint16), segmentation, keypoints_mm, present,
            turned, posed, (focal, focal, width / 2, height / 2),
        )  # fmt: skip

    def _hide(self, keypoints: np.ndarray, segmentation: np.ndarray) -> None:
        """Keypoints outside, or behind the other hand, are not seen; in place."""
        width, height = self.wh
        column, row = np.rint(keypoints[:, :2]).astype(int).T
        outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
        hand = np.repeat([1, 2], 17)
        shows = segmentation[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        keypoints[(keypoints[:, 2] != UNKNOWN) & (outside | (shows == 3 - hand)), 2] = HIDDEN
