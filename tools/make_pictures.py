"""Make the pictures of the README and the docs from public-domain photographs.

python tools/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from skimage import data

import posezoo
from posezoo.cli import DEFAULT_MODEL, DEMO_PHOTOS
from posezoo.inference.drawing import draw, write_picture
from posezoo.inference.images import as_rgb

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    pose = posezoo.load(DEFAULT_MODEL, runtime="tflite")
    drawn = []
    for name, box in DEMO_PHOTOS.items():
        photo = as_rgb(getattr(data, name)())
        drawn.append(draw(photo, pose(photo, boxes=[box]), threshold=pose.card.score_threshold))
    write_picture(IMAGES / "demo.jpg", np.hstack(drawn))
    print(f"written: {IMAGES / 'demo.jpg'}")


if __name__ == "__main__":
    main()
