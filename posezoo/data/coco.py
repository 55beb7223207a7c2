"""COCO keypoint files (Lin et al. 2014, arXiv:1405.0312), with any keypoint set.

A picture's `ignore` mask covers the people that have no usable keypoints: crowds, people without labelled
keypoints, and people whose labels are impossible. It is built when the picture is loaded.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from posezoo.data.sample import KeypointSet, keypoint_columns
from posezoo.skeletons import COCO17, Skeleton

log = logging.getLogger(__name__)


def read_coco(
    annotations_json: Path | str,
    images_dir: Path | str,
    *,
    skeleton: Skeleton = COCO17,
    category: str = "person",
    keep_empty: bool = False,
    labelled: bool = True,
) -> KeypointSet:
    """Read COCO-keypoint JSON.

    Boxes `(x, y, width, height)` and areas stay as the file has them. A person that has no labelled
    keypoint of `skeleton`, or impossible labels, is no person of the record but part of its ignore mask;
    impossible labels and missing pictures are logged by name and counted in `problems`.

    Args:
        annotations_json: The file, plain or gzipped.
        images_dir: Folder that the file's `file_name`s are relative to.
        skeleton: The keypoints to read. Matched by name if the file names its keypoints, which may have
            more; else the file's columns must be the skeleton's.
        category: The category to read if more than one has keypoints.
        keep_empty: Whether pictures without a labelled person become records, as an evaluation over
            all pictures needs.
        labelled: False for COCO's lists of test pictures (`image_info_...`), which have no annotations.

    Raises:
        FileNotFoundError: No such annotation file, or no such folder.
        ValueError: The file is no COCO JSON, or has not all keypoints of the skeleton.
    """
    path, images_dir = Path(annotations_json), Path(images_dir)
    if not images_dir.is_dir():
        raise FileNotFoundError(f"{images_dir}: no such folder; expected the pictures that {path.name} labels")
    content = read_json(path) if labelled else {**read_json(path, lists=("images",)), "annotations": []}
    category_id, named = _keypoint_names(path, content.get("categories"), category)
    names = skeleton.keypoints if named is None else named
    columns = keypoint_columns(names, skeleton, str(path))
    people = KeypointSet(path.name.removesuffix(".gz").removesuffix(".json"), skeleton, person_boxes=True)

    pictures = {}
    for entry in content["images"]:
        if not (isinstance(entry, dict) and "id" in entry and isinstance(entry.get("file_name"), str)):
            people.leave_out(path.name, "a picture without id or file_name")
        elif entry["id"] in pictures:
            people.leave_out(entry["file_name"], "a picture's id is used twice")
        else:
            pictures[entry["id"]] = entry
    by_picture = defaultdict(list)
    for annotation in content["annotations"]:
        if not isinstance(annotation, dict) or annotation.get("image_id") not in pictures:
            people.leave_out(path.name, "an annotation of no picture in the file")
        elif category_id is None or annotation.get("category_id", category_id) == category_id:
            by_picture[annotation["image_id"]].append(annotation)

    present = _Folder(images_dir)
    for image_id, entry in pictures.items():
        if not by_picture[image_id] and not keep_empty:
            continue
        if entry["file_name"] not in present:
            people.leave_out(entry["file_name"], "no such picture")
            continue
        picture = images_dir / entry["file_name"]
        _add_picture(people, picture, entry, by_picture[image_id], columns, len(names), keep_empty)
    return people


def read_json(path: Path, *, lists: Sequence[str] = ("images", "annotations")) -> dict:
    """Read a COCO file, plain or gzipped.

    Args:
        path: The file.
        lists: The lists that it must hold.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, or lacks one of `lists`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected COCO keypoint annotations")
    data = path.read_bytes()
    try:
        content = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or no JSON ({error}); fetch it again") from error
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            expected = " and ".join(f"'{name}'" for name in lists)
            raise ValueError(f"{path}: no list '{key}'; expected COCO annotations with {expected}")
    return content


def _keypoint_names(path: Path, categories, wanted: str) -> tuple[int | None, tuple[str, ...] | None]:
    """Return the id of the category with keypoints, and its keypoints' names; None where not told."""
    categories = [c for c in categories or () if isinstance(c, dict)]
    named = [c for c in categories if c.get("keypoints")]
    if len(named) > 1:
        named = [c for c in named if c.get("name") == wanted]
    if named:
        return named[0].get("id"), tuple(named[0]["keypoints"])
    if any(c.get("keypoints") for c in categories):
        has = ", ".join(str(c.get("name")) for c in categories if c.get("keypoints"))
        raise ValueError(f"{path}: no category '{wanted}' with keypoints; choose category= from {has}")
    return next((c.get("id") for c in categories if c.get("name") == wanted), None), None


def _add_picture(people, path, entry, annotations, columns, num_names, keep_empty) -> None:
    """Add one picture: its labelled persons, and the rest as ignored regions."""
    kept, ignored = [], []
    for annotation in annotations:
        person, reason = None, None
        if not annotation.get("iscrowd"):
            person, reason = _person(annotation, entry, columns, num_names)
        if reason:
            people.leave_out(path.name, reason)
        if person is None:
            ignored.append(annotation)
        else:
            kept.append((person, annotation))
    if not kept and not keep_empty:
        return
    people.add(
        path,
        np.array([person for person, _ in kept], np.float32).reshape(-1, people.skeleton.num_keypoints, 3),
        boxes=[annotation["bbox"] for _, annotation in kept],
        areas=[_area(annotation) for _, annotation in kept],
        image_id=entry["id"],
        annotation_ids=[annotation.get("id", 0) for _, annotation in kept],
        weights=_weights([annotation for _, annotation in kept], columns, num_names),
        ignore=_mask_maker(people, path.name, entry, ignored),
    )


def _person(annotation: dict, entry: dict, columns: list[int], num_names: int):
    """Return a person's keypoints `(K, 3)` or None, and what is impossible about them or None."""
    keypoints = _numbers(annotation.get("keypoints", [0] * 3 * num_names))
    if keypoints is None or keypoints.size != 3 * num_names:
        return None, f"keypoints that are no {num_names} times x, y, visibility"
    person = keypoints.reshape(-1, 3)[columns]
    if not np.isin(person[:, 2], (0, 1, 2)).all():
        return None, "a visibility other than 0, 1 or 2"
    labelled = person[:, 2] > 0
    if annotation.get("num_keypoints") == 0 or not labelled.any():
        return None, None
    if not np.isfinite(person[labelled]).all():
        return None, "a keypoint is not a number"
    size = _size(entry)
    if size is not None:
        height, width = size
        x, y = person[labelled, :2].T
        if not ((x > -1) & (x < width + 1) & (y > -1) & (y < height + 1)).any():
            return None, "every keypoint lies outside the picture"
    box = _numbers(annotation.get("bbox"))
    if box is None or box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= 0).any():
        return None, "a box without area"
    return np.where(labelled[:, None], person, 0), None


def _weights(annotations: list[dict], columns: list[int], num_names: int) -> np.ndarray | None:
    """Return how far each keypoint is to be trusted `(N, K)`, or None where no person of a picture tells.

    `keypoint_weights` holds a number from 0 to 1 for each keypoint, as pseudo-labels have it; people without it, or
    with something else there, count fully.
    """
    if not any("keypoint_weights" in annotation for annotation in annotations):
        return None
    weights = np.ones((len(annotations), len(columns)), np.float32)
    for row, annotation in zip(weights, annotations, strict=True):
        told = _numbers(annotation.get("keypoint_weights"))
        if told is not None and told.size == num_names and np.isfinite(told).all():
            row[:] = told[columns].clip(0, 1)
    return weights


def _numbers(values) -> np.ndarray | None:
    """Return a list of numbers as a float array `(n,)`, or None if it is something else."""
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
        return None
    try:
        return np.array(values, float)
    except OverflowError:  # an integer of more than 308 digits
        return None


def _area(annotation: dict) -> float:
    """Return the file's area of a person in square pixels, or its box's where the file has none."""
    area = annotation.get("area")
    if isinstance(area, (int, float)) and np.isfinite(area) and area > 0:
        return area
    return annotation["bbox"][2] * annotation["bbox"][3]


def _size(entry: dict) -> tuple[int, int] | None:
    """Return a picture's height and width in pixels, or None where the file does not tell."""
    size = entry.get("height", 0), entry.get("width", 0)
    return size if all(isinstance(side, int) and 0 < side <= 1 << 16 for side in size) else None


def _mask_maker(people: KeypointSet, name: str, entry: dict, ignored: list[dict]):
    """Return a function that draws the ignore mask, or None if nothing is ignored."""
    if not ignored:
        return None
    size = _size(entry)
    if size is None:
        people.leave_out(name, "regions to ignore, in a picture without height and width")
        return None
    regions = []
    for annotation in ignored:
        region = annotation.get("segmentation")
        if not _is_polygons(region) and not _is_rle(region, size):
            if region:
                people.leave_out(name, "a segmentation that is neither polygons nor RLE of the picture's size")
            region = None
        box = _numbers(annotation.get("bbox"))
        if box is not None and (box.shape != (4,) or not np.isfinite(box).all()):
            box = None
        if region is not None or box is not None:
            regions.append((region, box))
    return partial(ignore_mask, size, regions, name) if regions else None


def _is_polygons(region) -> bool:
    if not isinstance(region, list) or not region:
        return False
    polygons = [_numbers(polygon) for polygon in region]
    return all(p is not None and p.size >= 6 and p.size % 2 == 0 and np.isfinite(p).all() for p in polygons)


def _is_rle(region, size: tuple[int, int]) -> bool:
    if not isinstance(region, dict) or region.get("size") != list(size):
        return False
    counts = region.get("counts")
    if isinstance(counts, str):
        return True
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        return False
    return sum(counts) == size[0] * size[1]


def ignore_mask(
    size: tuple[int, int], regions: Iterable[tuple[list | dict | None, np.ndarray | None]], name: str = ""
) -> np.ndarray:
    """Draw regions into one mask.

    Args:
        size: Height and width of the picture in pixels.
        regions: Pairs of a COCO segmentation (polygons, or RLE as a list or a compressed string) and a
            box `(x, y, width, height)`, which is drawn if there is no segmentation or it is damaged.
        name: File name of the picture, for the log.

    Returns:
        bool `(height, width)`, True inside a region.

    Raises:
        ImportError: A compressed RLE, and pycocotools is not installed.
    """
    mask = np.zeros(size, np.uint8)
    for region, box in regions:
        if isinstance(region, dict):
            try:
                mask |= _decode_rle(region, size)
                continue
            except ValueError as error:
                log.warning("%s: ignored region drawn as a box, its RLE is damaged (%s)", name, error)
                region = None
        if region is None and box is not None:
            x, y, width, height = box
            region = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        _fill_polygons(mask, region or [])
    return mask.astype(bool)


def _fill_polygons(mask: np.ndarray, polygons: list) -> None:
    import cv2

    height, width = mask.shape
    for polygon in polygons:
        # COCO's polygons count from a pixel's corner; ours and OpenCV's pixel centres are at integers.
        xy = np.asarray(polygon, float).reshape(-1, 2) - 0.5
        xy = np.clip(xy, (-width, -height), (2 * width, 2 * height))
        cv2.fillPoly(mask, [np.rint(xy * 16).astype(np.int32)], (1,), shift=4)


def _decode_rle(region: dict, size: tuple[int, int]) -> np.ndarray:
    """Return the uint8 mask `(height, width)` of an RLE, whose runs go down the columns.

    Raises:
        ImportError: pycocotools is needed and missing.
        ValueError: The runs do not fill the picture.
    """
    counts, (height, width) = region["counts"], size
    if isinstance(counts, list):
        values = np.arange(len(counts), dtype=np.uint8) & 1
        return np.repeat(values, counts).reshape(width, height).T
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise ImportError("compressed RLE masks need pycocotools; pip install posezoo[eval]") from error
    # pycocotools leaves what damaged runs do not reach undefined; an area beyond the picture tells.
    rle = {"size": [height, width], "counts": counts.encode("ascii", "replace")}
    if not 0 <= int(coco_mask.area(rle)) <= height * width:
        raise ValueError("its runs are longer than the picture")
    return coco_mask.decode(rle)


class _Folder:
    """The files of a folder, listed once per subfolder rather than asked for one by one."""

    def __init__(self, root: Path):
        self.root = root
        self.listed: dict[Path, set[str]] = {}

    def __contains__(self, name: str) -> bool:
        path = self.root / name
        if path.parent not in self.listed:
            folder = path.parent
            self.listed[folder] = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        return path.name in self.listed[path.parent]
