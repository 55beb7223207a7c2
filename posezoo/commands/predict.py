"""`posezoo predict`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.commands.common import (
    DONE,
    REFUSED,
    SOME_FAILED,
    Command,
    CommandError,
    find_pictures,
    load_model,
    model_argument,
    network_arguments,
    read_scales,
    runtime_argument,
    scales_argument,
    write_annotated,
)
from posezoo.commands.display import track
from posezoo.files import write_json

if TYPE_CHECKING:
    from posezoo.inference.lifting import Pinhole
    from posezoo.inference.poses import Poses


def predict(arguments: argparse.Namespace) -> int:
    """Poses of the people in pictures."""
    from posezoo.inference.depth import fill_missing
    from posezoo.inference.images import ImageError

    pictures = find_pictures(arguments.pictures)
    depths, camera = depth_of(arguments.depth, pictures), camera_of(arguments.camera)
    boxes = read_boxes(arguments.boxes) if arguments.boxes else {}
    scales = read_scales(arguments.scales)
    model = load_model(arguments)
    if scales and not model.codec.bottom_up:
        raise CommandError(f"--scales is for bottom-up networks; {arguments.model} looks at boxes")
    if arguments.inpaint and not model.card.input.depth:
        raise CommandError(f"--inpaint fills holes of depth frames; {arguments.model} looks at photographs")
    lifts = bool(depths) or (camera is not None and model.card.input.depth)
    if camera is not None and not lifts:
        raise CommandError("--camera lifts keypoints into space by their depth; give the frames with --depth")
    threshold = model.card.score_threshold if arguments.threshold is None else arguments.threshold
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    base = Path(os.path.commonpath([p.parent.absolute() for p in pictures]))
    results, failed = [], 0
    for number, path in enumerate(track(pictures, "predicting"), start=1):
        try:
            image = model.read(path)
            if arguments.inpaint:
                image = fill_missing(image)
            people = model(image, boxes=boxes.get(path.name), flip=arguments.flip, scales=scales)
            points = lifted(people, image, depths.get(path), camera) if lifts else None
            target = out / path.absolute().relative_to(base).parent / annotated_name(path)
            write_annotated(target, model.picture(image), people, threshold, depths=lifts)
        except (ImageError, ValueError, OSError) as error:
            failed += 1
            print(f"posezoo: {error}", file=sys.stderr)
            continue
        image_id = int(path.stem) if path.stem.isdecimal() else number
        rows = [{**row, "file_name": path.name} for row in people.to_coco(image_id)]
        results += [{**row, **in_space(people, points, i)} for i, row in enumerate(rows)] if lifts else rows
    if failed == len(pictures):
        return REFUSED
    write_json(out / "results.json", results)
    print(f"{len(pictures) - failed} picture(s), {len(results)} pose(s): {out}")
    return SOME_FAILED if failed else DONE


def read_boxes(path: str) -> dict[str, list[list[float]]]:
    """Read person boxes: `{"photo.jpg": [[x, y, width, height], ...]}`, or a list of `file_name`, `bbox`.

    Raises:
        CommandError: The file is missing or has another form.
    """
    form = (
        'expected {"photo.jpg": [[x, y, width, height]]} or [{"file_name": "photo.jpg", "bbox": [x, y, width, height]}]'
    )
    try:
        content = json.loads(Path(path).read_text())
        if isinstance(content, list):
            by_name: dict[str, list] = {}
            for row in content:
                by_name.setdefault(row["file_name"], []).append(row["bbox"])
            content = by_name
        return {name: [[float(v) for v in box] for box in rows] for name, rows in content.items()}
    except OSError as error:
        raise CommandError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CommandError(f"{path}: {form}") from error


def annotated_name(path: Path) -> str:
    """Name of the annotated copy: `photo.jpg` -> `photo_poses.jpg`; formats that cannot be drawn become PNG."""
    suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else f"{path.suffix}.png"
    return f"{path.stem}_poses{suffix}"


def depth_of(given: str | None, pictures: Sequence[Path]) -> dict[Path, Path]:
    """Return the depth frame of every picture: the file given, or the one of the same name in the folder given.

    Raises:
        CommandError: One is missing, or one file is given for several pictures.
    """
    if given is None:
        return {}
    path = Path(given)
    if path.is_dir():
        frames = {picture: path / picture.name for picture in pictures}
    elif len(pictures) == 1:
        frames = {pictures[0]: path}
    else:
        raise CommandError(f"--depth {given}: {len(pictures)} pictures need a folder with a frame of each one's name")
    missing = [frame for frame in frames.values() if not frame.is_file()]
    if missing:
        raise CommandError(f"{missing[0]}: no such depth frame")
    return frames


def camera_of(given: str | None) -> Pinhole | None:
    """Return the intrinsics of `--camera`.

    Raises:
        CommandError: They are not four numbers.
    """
    from posezoo.inference.lifting import Pinhole

    if given is None:
        return None
    try:
        fx, fy, cx, cy = (float(number) for number in given.split(","))
    except ValueError:
        raise CommandError(f"--camera {given}: expected fx,fy,cx,cy in pixels, such as 200,200,112,84") from None
    return Pinhole(fx, fy, cx, cy)


def lifted(people: Poses, image: np.ndarray, frame: Path | None, camera: Pinhole | None) -> np.ndarray | None:
    """Give poses their depth from a frame, or from the picture where that is depth; return points in space."""
    from posezoo.inference.depth import read_depth
    from posezoo.inference.lifting import lift, same_view

    depth = image if frame is None else read_depth(frame)
    same_view(image.shape, depth)
    return lift(people, depth, camera)


def in_space(people: Poses, points: np.ndarray | None, person: int) -> dict[str, list]:
    """One person's depths, and points in space where there is a camera, in millimetres; None where unknown."""

    def numbers(values: np.ndarray) -> list:
        return [None if np.isnan(v) else round(float(v), 1) for v in values.ravel()]

    assert people.depth is not None
    told = {"depth_mm": numbers(people.depth[person])}
    return told if points is None else {**told, "points_mm": numbers(points[person])}


def add_to(command: Command) -> None:
    """Add `posezoo predict`."""
    parser = command("predict", predict, "poses in pictures", """
        Find poses in pictures.

        Writes an annotated copy of every picture (photo.jpg -> photo_poses.jpg) and one results.json in COCO's
        keypoint-result format: image_id (the file's number where its name is one), keypoints as x, y, score for each
        keypoint in picture pixels, score, bbox, and file_name.

        Networks that look at depth (pose machines, hand25d_depth) take 16-bit PNGs in millimetres; their poses are
        drawn on the coloured depth. hand25d takes a depth camera's amplitude, a PNG of 16 bits, or an infrared or grey
        picture of 8 bits. Bottom-up networks (efficienthrnet, pose machines) find everybody. The others look at one
        person: give the people's boxes with --boxes; without, the whole picture is taken as one person.

        examples:
          posezoo predict photo.jpg
          posezoo predict holiday/ -o holiday_poses
          posezoo predict "frames/*.png" --boxes boxes.json --runtime keras
          posezoo predict depth.png --model mpm_4s
          posezoo predict crowd.jpg --model efficienthrnet_h-2 --weights h-2.weights.h5 --flip --scales 1
          posezoo predict amplitude.png --model hand25d --depth depth.png --camera 200,200,112,84
    """)  # fmt: skip
    parser.add_argument(
        "pictures", nargs="+", metavar="PHOTO|FOLDER|GLOB", help="pictures, folders of them, or patterns"
    )
    model_argument(parser)
    runtime_argument(parser, "auto")
    network_arguments(parser)
    parser.add_argument("--boxes", metavar="FILE", help='JSON: {"photo.jpg": [[x, y, width, height], ...]} in pixels')
    parser.add_argument("-o", "--out", default="poses", help="folder for the results (default: %(default)s)")
    parser.add_argument("--threshold", type=float, help="hide keypoints that score lower (default: the card's)")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    scales_argument(parser)
    parser.add_argument("--inpaint", action="store_true", help="depth frames: fill what the sensor missed first")
    parser.add_argument(
        "--depth", metavar="FILE|FOLDER",
        help="depth frame of the same view, or a folder with one of each picture's name: keypoints get their distance",
    )  # fmt: skip
    parser.add_argument(
        "--camera", metavar="FX,FY,CX,CY", help="with depth: intrinsics in pixels; keypoints get their place in space"
    )
