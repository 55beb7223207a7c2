"""Make pictures of the README and the docs, from public-domain photographs and rendered.

python tools/make_pictures.py
python tools/make_pictures.py hands clothes backgrounds
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import posezoo
from posezoo.commands.common import DEFAULT_MODEL
from posezoo.commands.demo import DEMO_PHOTOS, demo_frame
from posezoo.inference.drawing import draw, write_picture
from posezoo.inference.estimator import PoseModel
from posezoo.inference.images import as_rgb

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def demo() -> Path:
    """Photographs with the poses of the default model."""
    from skimage import data

    pose = posezoo.load(DEFAULT_MODEL, runtime="tflite")
    photos = {name: as_rgb(getattr(data, name)()) for name in DEMO_PHOTOS}
    return beside("demo.jpg", [drawn(pose, photo, boxes=[DEMO_PHOTOS[name]]) for name, photo in photos.items()])


def depth() -> Path:
    """Two rendered frames of two people, as 'posezoo demo --model mpm_4s' draws them."""
    pose = posezoo.load("mpm_4s", runtime="tflite")
    frames = [frame for seed in range(2) for frame, _ in demo_frame(seed).values()]
    return beside("pose_machines.png", [drawn(pose, frame) for frame in frames])


def drawn(pose: PoseModel, image: np.ndarray, *, times: int = 1, **how: Any) -> np.ndarray:
    """What a model finds, drawn as the commands draw it, on the picture `times` as large."""
    found = pose(image, **how)
    picture = cv2.resize(pose.picture(pose.read(image)), None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR)
    found = dataclasses.replace(found, keypoints=found.keypoints * times + (times - 1) / 2)
    return draw(picture, found, threshold=pose.card.score_threshold)


def beside(name: str, pictures: list[np.ndarray]) -> Path:
    """Write pictures side by side."""
    write_picture(IMAGES / name, np.hstack(pictures))
    return IMAGES / name


def hand() -> Path:
    """Rendered frames of two hands, as 'posezoo demo --model hand25d' draws them, enlarged."""
    from posezoo.synth.hand_frames import demo_frame as two_hands

    pose = posezoo.load("hand25d", runtime="tflite")
    return beside("hand25d.jpg", [drawn(pose, two_hands(seed).amplitude, times=2) for seed in range(3)])


def hands() -> Path:
    """The first frames of 'posezoo synth --hands' with seed 16: built-in hands, both cameras."""
    from posezoo.synth.hand_frames import HandJob
    from posezoo.synth.preview import hand_tiles, write_sheet

    job = HandJob(SHOWN_HANDS, seed=16)
    frames = [job.sample(number) for number in range(job.images)]
    write_sheet(IMAGES / "synth_hands.jpg", frames, tiles=hand_tiles, tile_width=192)
    return IMAGES / "synth_hands.jpg"


def clothes() -> Path:
    """Built-in people in coats, from the front, and with backpacks, from behind and from the side."""
    from posezoo.synth.crowd import activities
    from posezoo.synth.procedural import BuiltinPeople

    rng, coats, packs = np.random.default_rng(4), [], []
    while len(coats) < 3 or len(packs) < 3:
        body = BuiltinPeople().random(rng)
        posed = body.posed(activities(rng, body)[0])
        if body.about["backpack"] and len(packs) < 3:
            packs.append((posed, (np.pi, 2.2, -1.3)[len(packs)]))
        elif body.about.get("upper") == "coat" and len(coats) < 3:
            coats.append((posed, (0.0, 0.5, -0.6)[len(coats)]))
    return portraits("synth_clothes.jpg", coats + packs)


def motion() -> Path:
    """Built-in people in poses of CMU's motion files, from POSEZOO_SHARED."""
    from posezoo.synth.motion import MotionLibrary
    from posezoo.synth.procedural import BuiltinPeople

    folder = Path(os.environ.get("POSEZOO_SHARED", IMAGES.parents[2] / "shared")) / "data" / "mocap_cmu_bvh"
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no motion files; set POSEZOO_SHARED to the folder of data/mocap_cmu_bvh")
    rng, library, people = np.random.default_rng(8), MotionLibrary.in_folders(str(folder)), []
    for number in range(6):
        body = BuiltinPeople().random(rng)
        people.append((body.posed(library.random(rng, rig=body.rig, girth=body.girth)), (-0.7, 0.0, 0.7)[number % 3]))
    return portraits("synth_motion.jpg", people)


def portraits(name: str, people: list) -> Path:
    """Write people beside each other, in colour and below in depth: pairs of a posed body and its yaw."""
    from posezoo.synth.camera import Camera, Intrinsics
    from posezoo.synth.preview import coloured_depth
    from posezoo.synth.render import render, shaded_rgb
    from posezoo.synth.scene import stand

    width, height = 190, 270
    camera = Camera.looking(Intrinsics(330, 330, width / 2, height / 2, width, height), (0, 1.1, 0), tilt=0.06)
    columns = []
    for body, yaw in people:
        view = render([stand(body, (0, -2.9), yaw)], camera)
        colour = shaded_rgb(view, np.random.default_rng(1))
        colour[view.depth == 0] = 40
        columns.append(np.vstack([colour, coloured_depth(view.depth * 1000)]))
    return beside(name, columns)


def backgrounds() -> Path:
    """A frame without people, people fused with it, and the same with its holes filled, three times.

    Frames of empty rooms, written as files, stand for real ones: no real frame of an empty room is free to show.
    """
    from posezoo.synth.crowd import body_source
    from posezoo.synth.preview import coloured_depth
    from posezoo.synth.scene import Recipe, SceneSettings
    from posezoo.synth.write import Job

    people, rows = body_source(["builtin"]), []
    with tempfile.TemporaryDirectory() as folder:
        rooms = Job(people, 20, seed=3, recipe=Recipe(scene=SceneSettings(people=(0, 0)), silhouette_drop=0))
        for number in range(rooms.images):
            depth = rooms.sample(number).depth
            if (depth > 0).mean() > 0.9:  # others are open, farther than the sensor sees
                cv2.imwrite(f"{folder}/{number}.png", depth)
        scene = SceneSettings(people=(1, 2), nearest_m=1.5, farthest_m=3.5)
        jobs = [Job(people, 40, seed=2, recipe=Recipe(scene=scene, inpaint=fill), backgrounds=folder)
                for fill in (False, True)]  # fmt: skip
        for number in range(jobs[0].images):
            fused, filled = (job.sample(number) for job in jobs)
            if fused.meta["background"] == "room" or len(rows) == 3 or not len(fused.boxes):
                continue
            behind = cv2.imread(f"{folder}/{fused.meta['background']}", cv2.IMREAD_UNCHANGED)
            # A background is mirrored in one of two cases: shown as it was used.
            far = (fused.people == 0) & (fused.depth > 0)
            unlike = [np.abs(frame.astype(int) - fused.depth)[far].mean() for frame in (behind, behind[:, ::-1])]
            behind = behind[:, ::-1] if unlike[1] < unlike[0] else behind
            tiles = [coloured_depth(depth, nearest_mm=800, farthest_mm=6000) for depth in
                     (behind, fused.depth, filled.depth)]  # fmt: skip
            rows.append(np.hstack([cv2.resize(tile, (240, 180), interpolation=cv2.INTER_AREA) for tile in tiles]))
    write_picture(IMAGES / "synth_backgrounds.jpg", np.vstack(rows))
    return IMAGES / "synth_backgrounds.jpg"


SHOWN_HANDS = 10
PICTURES: dict[str, Callable[[], Path]] = {
    "demo": demo, "depth": depth, "hand": hand, "hands": hands, "clothes": clothes, "motion": motion,
    "backgrounds": backgrounds,
}  # fmt: skip


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
