"""Depth frames with labelled people: UTD-MHAD, DIH-style folders, CMU Panoptic's Kinects, ITOP.

All give DEPTH17's landmarks. What a data set does not have stays unlabelled (visibility 0), also where something near
it exists: a tracker's hand is no wrist. Sides are the person's own, so that somebody who faces the camera has the
left shoulder at the larger x; a set in which most people have it at the smaller x is named in the log, for its frames
are probably as a mirror shows them.

Pictures come as float32 metres `(height, width)`, 0 where nothing was measured (`posezoo.inference.depth`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.data.sample import KeypointSet
from posezoo.geometry import box_of_points
from posezoo.inference.depth import as_depth, read_depth
from posezoo.inference.images import ImageError
from posezoo.skeletons import DEPTH17

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "all")
#: UTD-MHAD's subjects of the validation split; the rest is for training.
UTD_VALIDATION = (7,)
#: By how many frames UTD-MHAD's tracker is ahead of its depth frames. Over all sequences, wrists lie within 100 mm of
#: the measured surface in 51 % of the frames of the same number, in 86 % two frames and in 76 % one frame earlier.
UTD_LAG = 1.75
#: Share of a set's last sequences that are validation where no `split.json` says.
VAL_FRACTION = 0.1
#: Fewest people with both shoulders labelled of whom the sides are judged.
FEWEST_JUDGED = 20

#: DEPTH17's landmarks in the Kinect skeleton of UTD-MHAD. It has no head top and no eyes; its hands, feet, spine and
#: hip centre have no counterpart. The shoulder centre lies at the base of the neck.
KINECT = {
    "neck": "shoulder_center", "head": "head",
    **{f"{side}_{joint}": f"{side[0]}_{joint}" for side in ("left", "right")
       for joint in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")},
}  # fmt: skip

#: Panoptic's 19 joints, in the order of `joints19`.
PANOPTIC19 = (
    "neck", "nose", "body_center", "left_shoulder", "left_elbow", "left_wrist", "left_hip", "left_knee", "left_ankle",
    "right_shoulder", "right_elbow", "right_wrist", "right_hip", "right_knee", "right_ankle", "left_eye", "left_ear",
    "right_eye", "right_ear",
)  # fmt: skip
#: Least confidence of a Panoptic joint; -1 means that it was not seen.
PANOPTIC_CONFIDENCE = 0.1

#: ITOP's 15 joints, in the files' order. Its hands and feet are no wrists and ankles.
ITOP15 = (
    "head", "neck", "right_shoulder", "left_shoulder", "right_elbow", "left_elbow", "right_hand", "left_hand",
    "torso", "right_hip", "left_hip", "right_knee", "left_knee", "right_foot", "left_foot",
)  # fmt: skip


def _checked(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; expected one of {', '.join(SPLITS)}")


def _landmarks(names: Sequence[str], points: np.ndarray, visible: np.ndarray, mapping: Mapping[str, str] | None = None):
    """Bring people's points `(N, J, 2)` and visibility `(N, J)` of other names to DEPTH17, `(N, 17, 3)`."""
    keypoints = np.zeros((len(points), DEPTH17.num_keypoints, 3), np.float32)
    for column, keypoint in enumerate(DEPTH17.keypoints):
        name = (mapping or {}).get(keypoint, keypoint)
        if name in names:
            source = list(names).index(name)
            keypoints[:, column, :2], keypoints[:, column, 2] = points[:, source], visible[:, source]
    keypoints[keypoints[..., 2] == 0] = 0
    return keypoints


def people_mirrored(people: KeypointSet) -> float:
    """Share of the people with both shoulders labelled whose left one is at the smaller x; NaN without any."""
    left, right = (people.skeleton.index(f"{side}_shoulder") for side in ("left", "right"))
    pairs = [r.keypoints[:, [left, right]] for r in people.records]
    both = np.concatenate([p[(p[..., 2] > 0).all(axis=1)] for p in pairs]) if pairs else np.zeros((0, 2, 3))
    return float((both[:, 0, 0] < both[:, 1, 0]).mean()) if len(both) else float("nan")


def _with_sides(people: KeypointSet) -> KeypointSet:
    """Tell in the log where most people seem to face away, which frames of a mirror would look like."""
    share, count = people_mirrored(people), sum(len(r.keypoints) for r in people.records)
    if count >= FEWEST_JUDGED and share > 0.5:
        log.warning(
            "%s: %.0f %% of the people have the left shoulder at the smaller x: they face away, or the frames are as a "
            "mirror shows them; then mirror them, or rename the sides",
            people.name, 100 * share,
        )  # fmt: skip
    return people


# ------------------------------------------------------------------------------------------- UTD-MHAD


def read_utd_mhad(root: Path | str, split: str = "all", *, off_body: int = 0, lag: float = UTD_LAG) -> KeypointSet:
    """Read people of UTD-MHAD (Chen et al., ICIP 2015), one before nothing in each frame.

    The layout: `depth/NAME.png` (16-bit millimetres) and `annotations.json` with `joint_names`, `items` of `file`,
    `subject`, `joints_2d` and `on_body`, and `unmirrored: true`, since Kinect 1 gave frames as a mirror shows them.
    Labels are a tracker's; those beside the silhouette are left out. Boxes are those of all twenty joints, head to
    feet.

    The tracker's frame of the same number shows a later moment than the depth frame: in all of the set's sequences
    the moving limbs lie on the measured surface 1.5 to 2 frames earlier. With `skeleton_sequences_mm.npz` (every
    sequence's joints by `aAA_sS_tT`, millimetres; items with `action`, `trial` and `frame`; `intrinsics`) the labels
    are taken from that moment, and are beside the silhouette where nothing was measured within 4 pixels. Without
    it, they are those of the annotations.

    Args:
        root: The folder.
        split: `train` (subjects 1 to 6), `val` (subject 7) or `all`.
        off_body: Visibility of joints that lie beside the silhouette: 0 leaves them out, 1 keeps them as hidden.
        lag: By how many frames the tracker is ahead; 0 takes the annotations as they are.

    Raises:
        FileNotFoundError: No `annotations.json`.
        ValueError: An unknown split, a file of another form, or frames that are still mirrored.
    """
    root = Path(root)
    _checked(split)
    content = _read_json(root / "annotations.json", "the UTD-MHAD folder with annotations.json and depth/")
    missing = [key for key in ("joint_names", "items") if key not in content]
    if missing:
        raise ValueError(f"{root / 'annotations.json'} has no {', '.join(missing)}; see read_utd_mhad for its form")
    if not content.get("unmirrored"):
        raise ValueError(
            f"{root}: frames as Kinect 1 gives them, mirrored; flip pictures and coordinates, keep the names, and set "
            "'unmirrored': true in annotations.json"
        )
    names = content["joint_names"]
    lacking = [name for name in KINECT.values() if name not in names]
    if lacking:
        raise ValueError(f"{root / 'annotations.json'} has no joint {', '.join(lacking)}; it has {', '.join(names)}")
    sequences = root / "skeleton_sequences_mm.npz"
    joints_of = partial(_annotated_joints, len(names))
    if lag and sequences.exists():
        if not {"fx", "fy", "cx", "cy"} <= set(content.get("intrinsics", ())):
            raise ValueError(
                f"{root / 'annotations.json'} has no intrinsics (fx, fy, cx, cy), needed to project joints"
            )
        joints_of = partial(_joints_in_time, root, np.load(sequences), content["intrinsics"], lag)
    people = KeypointSet(f"utd_mhad-{split}", DEPTH17, read=read_depth, depth=True)
    for item in content["items"]:
        if split != "all" and (item["subject"] in UTD_VALIDATION) != (split == "val"):
            continue
        try:
            points, on_body = joints_of(item)
        except (TypeError, ValueError):
            people.leave_out(item["file"], "joints that are not two numbers each")
            continue
        except KeyError as error:
            people.leave_out(item["file"], f"no {error} in the annotation or in {sequences.name}")
            continue
        except ImageError:
            people.leave_out(item["file"], "a frame that cannot be read")
            continue
        visible = np.where(on_body, 2, off_body)[None]
        keypoints = _landmarks(names, points[None], visible, KINECT)
        people.add(root / "depth" / item["file"], keypoints, boxes=box_of_points(points)[None], image_id=len(people))
    return _with_sides(people)


def _annotated_joints(count: int, item: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Joints `(count, 2)` in pixels, and which of them lie on the silhouette."""
    points = np.array(item["joints_2d"], np.float32).reshape(count, 2)
    return points, np.array(item["on_body"]).reshape(count) > 0


def _joints_in_time(
    root: Path, sequences: Mapping, intrinsics: Mapping, lag: float, item: Mapping
) -> tuple[np.ndarray, np.ndarray]:
    """The same of the moment that the depth frame shows."""
    import cv2

    frames = sequences[f"a{item['action']:02d}_s{item['subject']}_t{item['trial']}"]
    at = np.clip(item["frame"] - lag, 0, len(frames) - 1)
    before = frames[int(at)].astype(np.float64)
    joints = before + (at - int(at)) * (frames[min(int(at) + 1, len(frames) - 1)] - before)
    u = intrinsics["cx"] + joints[:, 0] / joints[:, 2] * intrinsics["fx"]
    v = intrinsics["cy"] - joints[:, 1] / joints[:, 2] * intrinsics["fy"]
    measured = (read_depth(root / "depth" / item["file"]) > 0).astype(np.uint8)
    near = cv2.dilate(measured, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    column, row = np.round(u).astype(int), np.round(v).astype(int)
    inside = (column >= 0) & (column < near.shape[1]) & (row >= 0) & (row < near.shape[0])
    on_body = np.zeros(len(joints), bool)
    on_body[inside] = near[row[inside], column[inside]] > 0
    return np.stack([u, v], axis=1).astype(np.float32), on_body


def _read_json(path: Path, expected: str) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected {expected}")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error


# ------------------------------------------------------------------------------------------------ DIH


def read_dih(root: Path | str, split: str = "all") -> KeypointSet:
    """Read a folder in the style of the DIH data set (depth images of humans; several people in a frame).

    The layout, one folder per split (`train/`, `val/`) with any number of annotated frames::

        train/depth/000001.png     16-bit millimetres, or .npy: uint16 millimetres or float metres
        train/annotations.json     {"landmarks": ["neck", "head", ...],
                                    "items": [{"file": "000001.png",
                                               "people": [{"points": [[x, y], ...],
                                                           "visible": [2, 1, 0, ...],
                                                           "box": [x, y, width, height]}]}]}

    `landmarks` are DEPTH17's names, in any order; those that it lacks are unlabelled. `visible` is COCO's: 0
    unlabelled, 1 hidden, 2 seen; left out, all are seen. `box` may be left out: that of the labelled points is taken.
    Frames of nobody have an empty list.

    Args:
        root: The folder with the splits' folders.
        split: `train`, `val` or `all`.

    Raises:
        FileNotFoundError: No `annotations.json` of the split.
        ValueError: An unknown split, or landmarks that DEPTH17 does not have.
    """
    root = Path(root)
    _checked(split)
    folders = [root / name for name in SPLITS[:2] if split in (name, "all") and (root / name).is_dir()]
    if not folders:
        raise FileNotFoundError(f"{root}: no folder {split if split != 'all' else 'train or val'}/; see read_dih")
    people = KeypointSet(f"{root.name}-{split}", DEPTH17, read=read_depth, depth=True)
    for folder in folders:
        file = folder / "annotations.json"
        content = _read_json(file, "a DIH-style folder, see read_dih")
        missing = [key for key in ("landmarks", "items") if key not in content]
        if missing:
            raise ValueError(f"{file} has no {', '.join(missing)}; see read_dih for its form")
        names = content["landmarks"]
        unknown = [name for name in names if name not in DEPTH17.keypoints]
        if unknown:
            raise ValueError(
                f"{file} names landmarks {', '.join(unknown)}; expected names of {', '.join(DEPTH17.keypoints)}"
            )
        for item in content["items"]:
            try:
                keypoints, boxes = _dih_people(item["people"], names)
            except (KeyError, TypeError, ValueError) as error:
                people.leave_out(item.get("file", "an item without a file"), f"people of another form ({error})")
                continue
            people.add(folder / "depth" / item["file"], keypoints, boxes=boxes, image_id=len(people))
    return _with_sides(people)


def _dih_people(rows: list[dict], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([row["points"] for row in rows], np.float32).reshape(len(rows), len(names), 2)
    visible = np.array([row.get("visible", [2] * len(names)) for row in rows]).reshape(len(rows), len(names))
    keypoints = _landmarks(names, points, visible)
    boxes = [
        row.get("box", box_of_points(person[person[:, 2] > 0, :2])) for row, person in zip(rows, keypoints, strict=True)
    ]
    return keypoints, np.array(boxes, np.float32).reshape(-1, 4)


# ------------------------------------------------------------------------------------------- Panoptic


def read_panoptic_depth(root: Path | str, split: str = "all", *, head_from_ears: bool = True) -> KeypointSet:
    """Read depth frames of CMU Panoptic's Kinects (Joo et al., ICCV 2015).

    The 3-D poses are as distributed. Depth frames and calibrations are not: extract them per sequence::

        SEQUENCE/hdPose3d_stage1_coco19/body3DScene_00000123.json     as distributed, centimetres in the world
        SEQUENCE/depth/KINECTNODE1/00000123.png                       16-bit millimetres, the frame of that time
        SEQUENCE/depth_calibration.json     {"KINECTNODE1": {"K": 3x3, "R": 3x3, "t": [x, y, z] in centimetres,
                                                             "distortion": [k1, k2, p1, p2, k3]}}

    `R` and `t` bring the world to the depth camera: x right, y down, z forward. Of DEPTH17 the head's top is
    unlabelled; the head is the middle between the ears. People of whom nothing falls into the frame are left out.

    Args:
        root: Folder of the sequences.
        split: `train`, `val` or `all`. `split.json` (`{"val": [sequence, ...]}`) divides; without it the last tenth
            of the sequences, at least one, is validation.
        head_from_ears: Whether the head is labelled.

    Raises:
        FileNotFoundError: No sequence in `root`, or a file that is missing.
        ValueError: An unknown split, a calibration of another form, or only one sequence to divide.
    """
    root = Path(root)
    _checked(split)
    sequences = sorted(p.parent for p in root.glob("*/depth_calibration.json"))
    if not sequences:
        raise FileNotFoundError(f"{root}: no SEQUENCE/depth_calibration.json; see read_panoptic_depth")
    people = KeypointSet(f"panoptic-{split}", DEPTH17, read=read_depth, depth=True)
    for sequence in _divided(root, sequences, split):
        cameras = _read_json(sequence / "depth_calibration.json", "a calibration")
        poses = {p.stem.removeprefix("body3DScene_"): p for p in sequence.glob("hdPose3d*/body3DScene_*.json")}
        for camera in sorted(cameras):
            project = _camera(cameras[camera], f"{sequence / 'depth_calibration.json'}: {camera}")
            for path in sorted((sequence / "depth" / camera).glob("*.png")):
                if path.stem not in poses:
                    people.leave_out(str(path.relative_to(root)), "no body3DScene of its number")
                    continue
                keypoints = _panoptic_people(poses[path.stem], project, read_size(path), head_from_ears)
                people.add(path, keypoints, image_id=len(people))
    return _with_sides(people)


def read_size(path: Path) -> tuple[int, int]:
    """Return a PNG's width and height from its header, without decoding it.

    Raises:
        ImageError: No PNG.
    """
    header = path.open("rb").read(24)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or len(header) < 24:
        raise ImageError(f"{path}: not a PNG")
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def _divided(root: Path, sequences: list[Path], split: str) -> list[Path]:
    if split == "all":
        return sequences
    if (root / "split.json").exists():
        validation = set(_read_json(root / "split.json", "a split")["val"])
    elif len(sequences) == 1:
        raise ValueError(f"{root}: one sequence cannot be divided; read split 'all', or write a split.json")
    else:
        validation = {p.name for p in sequences[-max(1, int(len(sequences) * VAL_FRACTION)) :]}
    return [p for p in sequences if (p.name in validation) == (split == "val")]


def _camera(values: Mapping[str, Any], where: str) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function from world points `(n, 3)` to pixels `(n, 2)` and depth `(n,)`."""
    try:
        matrix, rotation = (np.array(values[k], float).reshape(3, 3) for k in ("K", "R"))
        shift = np.array(values["t"], float).reshape(3)
        distortion = np.array(values.get("distortion", [0] * 5), float).ravel()
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: expected K and R of 3x3 numbers and t of 3 ({error})") from error

    def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        seen = points @ rotation.T + shift
        # Behind the camera there is no picture; a point in front stands in.
        safe = np.where(seen[:, 2:] > 0, seen, (0, 0, 1))
        pixels, _ = cv2.projectPoints(safe, np.zeros(3), np.zeros(3), matrix, distortion)
        return pixels.reshape(-1, 2), seen[:, 2]

    return project


def _panoptic_people(path: Path, project, size_wh: tuple[int, int], head_from_ears: bool) -> np.ndarray:
    bodies = _read_json(path, "a body3DScene")["bodies"]
    joints = np.array([body["joints19"] for body in bodies], float).reshape(len(bodies), 19, 4)
    confident = joints[..., 3] >= PANOPTIC_CONFIDENCE
    names = list(PANOPTIC19)
    if head_from_ears:
        ears = [names.index(f"{side}_ear") for side in ("left", "right")]
        joints = np.concatenate([joints, joints[:, ears].mean(axis=1, keepdims=True)], axis=1)
        confident = np.concatenate([confident, confident[:, ears].all(axis=1, keepdims=True)], axis=1)
        names.append("head")
    pixels, depth = project(joints[..., :3].reshape(-1, 3))
    pixels, depth = pixels.reshape(*joints.shape[:2], 2), depth.reshape(joints.shape[:2])
    inside = ((pixels >= -0.5) & (pixels < np.array(size_wh) - 0.5)).all(axis=-1)
    keypoints = _landmarks(names, pixels, np.where(confident & inside & (depth > 0), 2, 0))
    return keypoints[(keypoints[..., 2] > 0).sum(axis=1) >= 2]


# ----------------------------------------------------------------------------------------------- ITOP


def read_itop(root: Path | str, split: str = "all", *, view: str = "side", mirrored: bool = False) -> KeypointSet:
    """Read ITOP (Haque et al., ECCV 2016): one person in each frame, in HDF5 files.

    The layout, as distributed and unpacked: `ITOP_side_train_depth_map.h5` with `data` (n, 240, 320) in metres, and
    `ITOP_side_train_labels.h5` with `is_valid` (n,), `visible_joints` (n, 15) and `image_coordinates` (n, 15, 2);
    the same with `test`, which is the validation split. Frames that are not valid are left out. Hands and feet are
    not DEPTH17's wrists and ankles, which stay unlabelled, as do head top and eyes. Boxes are those of all 15 joints.

    Args:
        root: Folder of the files.
        split: `train`, `val` (ITOP's test) or `all`.
        view: `side` or `top`.
        mirrored: Whether the frames are as a mirror shows them; they are turned round, the names stay.

    Raises:
        FileNotFoundError: A file is missing.
        ImportError: h5py is not installed.
        ValueError: An unknown split or view, or files of another form.
    """
    root = Path(root)
    _checked(split)
    if view not in ("side", "top"):
        raise ValueError(f"unknown view '{view}'; expected side or top")
    read = partial(read_itop_frame, mirrored=mirrored)
    people = KeypointSet(f"itop_{view}-{split}", DEPTH17, read=read, depth=True)
    for part, name in (("train", "train"), ("val", "test")):
        if split in (part, "all"):
            _add_itop(people, root, f"ITOP_{view}_{name}", mirrored)
    return _with_sides(people)


def _h5py():
    try:
        import h5py
    except ImportError:
        raise ImportError("ITOP's files need h5py: pip install h5py") from None
    return h5py


def _add_itop(people: KeypointSet, root: Path, stem: str, mirrored: bool) -> None:
    h5py = _h5py()
    frames, labels = root / f"{stem}_depth_map.h5", root / f"{stem}_labels.h5"
    for path in (frames, labels):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; expected ITOP's unpacked .h5 files")
    with h5py.File(labels) as file, h5py.File(frames) as pictures:
        missing = [k for k in ("is_valid", "visible_joints", "image_coordinates") if k not in file]
        if missing or "data" not in pictures:
            raise ValueError(f"{labels.name if missing else frames.name} has no {', '.join(missing) or 'data'}")
        valid, visible = np.array(file["is_valid"]) > 0, np.array(file["visible_joints"])
        points = np.array(file["image_coordinates"], np.float32)
        count, _, width = pictures["data"].shape
    if visible.shape != (count, len(ITOP15)) or points.shape != (count, len(ITOP15), 2):
        raise ValueError(f"{labels.name}: expected {count} frames of {len(ITOP15)} joints, got {points.shape}")
    if mirrored:
        points[..., 0] = width - 1 - points[..., 0]
    for i in range(count):
        if not valid[i]:
            people.leave_out(f"{frames.name}/{i}", "labels that ITOP calls not valid")
            continue
        keypoints = _landmarks(ITOP15, points[i : i + 1], np.where(visible[i : i + 1] > 0, 2, 1))
        people.add(frames / str(i), keypoints, boxes=box_of_points(points[i])[None], image_id=len(people))


def read_itop_frame(path: Path, *, mirrored: bool = False) -> np.ndarray:
    """Read one frame, `FILE.h5/NUMBER`, in metres `(height, width)`.

    Raises:
        ImageError: The file or the frame is missing, or holds no depth.
    """
    h5py = _h5py()
    try:
        with h5py.File(path.parent) as file:
            frame = file["data"][int(path.name)]
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read ({error})") from error
    depth = as_depth(np.asarray(frame, np.float32))
    return depth[:, ::-1] if mirrored else depth
