"""Pictures of stick people, for smoke tests: enough to run every line, nothing to learn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from posezoo.skeletons import LSP14

# A standing person seen from the front, as fractions of the picture; left and right are the person's own.
STANDING = {
    "head_top": (0.50, 0.08), "neck": (0.50, 0.22),
    "right_shoulder": (0.40, 0.25), "left_shoulder": (0.60, 0.25),
    "right_elbow": (0.34, 0.40), "left_elbow": (0.66, 0.40), "right_wrist": (0.32, 0.54), "left_wrist": (0.68, 0.54),
    "right_hip": (0.44, 0.54), "left_hip": (0.56, 0.54), "right_knee": (0.43, 0.73), "left_knee": (0.57, 0.73),
    "right_ankle": (0.42, 0.92), "left_ankle": (0.58, 0.92),
}  # fmt: skip


def write_stick_figures(folder: Path | str, count: int = 8, *, validation: int = 2, seed: int = 0) -> Path:
    """Write a tiny LSP-like data set: `images/`, `annotations.json`, `split.json`.

    Args:
        folder: Where to write.
        count: Number of pictures.
        validation: How many of them are for validation.
        seed: Seed of the variation.

    Returns:
        The folder.
    """
    import cv2

    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = [k.replace("left_", "l_").replace("right_", "r_") for k in LSP14.keypoints]
    items = []
    for i in range(1, count + 1):
        side = 160
        points = np.array([STANDING[k] for k in LSP14.keypoints]) + rng.normal(0, 0.02, (len(names), 2))
        points = (points * side).clip(1, side - 2)
        image = np.full((side, side, 3), rng.integers(0, 120, 3), np.uint8)
        for a, b in LSP14.limb_indices:
            start, end = (tuple(int(v) for v in points[k]) for k in (a, b))
            cv2.line(image, start, end, tuple(int(v) for v in rng.integers(130, 256, 3)), 6, cv2.LINE_AA)
        name = f"im{i:05d}.jpg"
        cv2.imwrite(str(folder / "images" / name), image)
        joints = [[round(float(x), 2), round(float(y), 2), 1] for x, y in points]
        items.append({"file": name, "width": side, "height": side, "joints": joints})
    (folder / "annotations.json").write_text(json.dumps({"joint_names": names, "items": items}))
    (folder / "split.json").write_text(json.dumps({"val": [item["file"] for item in items[-validation:]]}))
    return folder
