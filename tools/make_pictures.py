"""Make pictures of the README and the docs, from public-domain photographs and rendered.

python tools/make_pictures.py
python tools/make_pictures.py hands
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

import posezoo
from posezoo.commands.common import DEFAULT_MODEL
from posezoo.commands.demo import DEMO_PHOTOS
from posezoo.inference.drawing import draw, write_picture
from posezoo.inference.images import as_rgb

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def demo() -> Path:
    """Photographs with the poses of the default model."""
    from skimage import data

    pose = posezoo.load(DEFAULT_MODEL, runtime="tflite")
    drawn = []
    for name, box in DEMO_PHOTOS.items():
        photo = as_rgb(getattr(data, name)())
        drawn.append(draw(photo, pose(photo, boxes=[box]), threshold=pose.card.score_threshold))
    write_picture(IMAGES / "demo.jpg", np.hstack(drawn))
    return IMAGES / "demo.jpg"


def hands() -> Path:
    """The first frames of 'posezoo synth --hands' with seed 16: built-in hands, both cameras."""
    from posezoo.synth.hand_frames import HandJob
    from posezoo.synth.preview import hand_tiles, write_sheet

    job = HandJob(SHOWN_HANDS, seed=16)
    frames = [job.sample(number) for number in range(job.images)]
    write_sheet(IMAGES / "synth_hands.jpg", frames, tiles=hand_tiles, tile_width=192)
    return IMAGES / "synth_hands.jpg"


SHOWN_HANDS = 10
PICTURES: dict[str, Callable[[], Path]] = {"demo": demo, "hands": hands}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", help=f"which: {', '.join(PICTURES)} (default: all)")
    chosen = parser.parse_args(argv).pictures
    unknown = sorted(set(chosen) - set(PICTURES))
    if unknown:
        parser.error(f"no picture '{unknown[0]}'; expected {', '.join(PICTURES)}")
    for name in chosen or PICTURES:
        print(f"written: {PICTURES[name]()}")


if __name__ == "__main__":
    main()
