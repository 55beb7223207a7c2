"""Labelled hands from files: recordings of one's own, and depth sets laid out as MSRA's, NYU's and ICVL's.

Every reader gives `HandFrame`s in the order of `HAND34`; what a set does not label is `UNKNOWN`. The public sets label
where a joint is, not whether it is seen: a keypoint counts as seen where the measured surface is no more than
`SEEN_WITHIN_MM` nearer than the joint, which lies inside the finger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posezoo.data.hand_frames import HIDDEN, SEEN, UNKNOWN, HandFrame
from posezoo.errors import UserError
from posezoo.files import replacing
from posezoo.inference.images import ImageError
from posezoo.skeletons import HAND34, HAND_AUXILIARY, HAND_POSES, HAND_PRIMARY

#: One hand's keypoints in the order of `HAND34`.
ONE_HAND = HAND_PRIMARY + HAND_AUXILIARY
SIDES = ("left", "right")
#: Words for a keypoint's state in labels.
STATES = {"unknown": UNKNOWN, "hidden": HIDDEN, "seen": SEEN}
#: A surface nearer than this before a joint hides it.
SEEN_WITHIN_MM = 30.0

Camera = tuple[float, float, float, float]


class LabelError(UserError, ValueError):
    """A label file that cannot be understood."""


# ------------------------------------------------------------------------------------------ recordings


class HandRecording:
    """A folder of one's own frames.

    The layout, for a frame called 000001:

        camera.json                 {"fx": 200.0, "fy": 200.0, "cx": 112.0, "cy": 84.0} in pixels (may be missing)
        labels/000001.json          see below; a frame without one is not labelled and not read
        amplitude/000001.png        16 bits, 65535 the sensor's full scale; or 8 bits
        depth/000001.png            16 bits, millimetres, 0 where nothing was measured
        segmentation/000001.png     8 bits, 0 background, 1 left hand, 2 right hand (may be missing)

    Amplitude or depth may be missing where the network does not look at it. A label names who is there:

        {"left": {"keypoints": {"wrist": [101.5, 140.0, "seen"], "index_tip": [80.0, 60.2, "hidden"]},
                  "pose": "point", "orientation": 0},
         "right": null}

    Keypoints are those of `ONE_HAND`, in pixels; what is left out is unknown. `pose` is one of `HAND_POSES`,
    `orientation` the palm's direction out of eight (0 faces the camera, 4 is the back); both may be left out.

    Args:
        folder: The recording.
        count: How many frames to take; all by default.

    Raises:
        FileNotFoundError: No labels in the folder.
    """

    def __init__(self, folder: Path | str, *, count: int | None = None):
        self.folder, self.skeleton = Path(folder), HAND34
        self.name = self.folder.name
        self.names = sorted(path.stem for path in (self.folder / "labels").glob("*.json"))[:count]
        if not self.names:
            raise FileNotFoundError(f"{folder}: no labels/*.json; expected a recording as docs/hand.md describes it")
        self.camera = _camera(self.folder / "camera.json")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> HandFrame:
        """Read one frame.

        Raises:
            LabelError: Its label is damaged, or names what there is not.
            ImageError: A picture is damaged, or there is neither amplitude nor depth.
        """
        name = self.names[index]
        pictures = {
            kind: _picture(self.folder / kind / f"{name}.png") for kind in ("amplitude", "depth", "segmentation")
        }  # fmt: skip
        if pictures["amplitude"] is None and pictures["depth"] is None:
            raise ImageError(f"{self.folder}: neither amplitude/{name}.png nor depth/{name}.png")
        amplitude = pictures["amplitude"]
        if amplitude is not None and amplitude.dtype == np.uint8:
            amplitude = _from_eight_bits(amplitude)
        label = self.folder / "labels" / f"{name}.json"
        keypoints, present, orientation, pose = self._labels(label)
        if pictures["depth"] is not None and pictures["depth"].dtype != np.uint16:
            raise ImageError(f"{self.folder}: depth/{name}.png is {pictures['depth'].dtype}; expected 16 bits")
        return HandFrame(
            keypoints, pictures["depth"], amplitude, pictures["segmentation"], None, present, orientation, pose,
            self.camera,
        )  # fmt: skip

    def _labels(self, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        try:
            content = json.loads(path.read_text())
            hands = [content.get(side) for side in SIDES]
        except (OSError, ValueError, AttributeError) as error:
            raise LabelError(
                f'{path}: damaged or no label ({error}); expected {{"left": ..., "right": ...}}'
            ) from error
        keypoints = np.zeros((2, len(ONE_HAND), 3), np.float32)
        orientation, pose = np.full(2, -1, np.int8), np.full(2, -1, np.int8)
        for i, hand in enumerate(hands):
            if hand is None:
                continue
            try:
                for name, (x, y, state) in hand["keypoints"].items():
                    keypoints[i, ONE_HAND.index(name)] = float(x), float(y), STATES[state]
                orientation[i] = hand.get("orientation", -1)
                pose[i] = -1 if hand.get("pose") is None else HAND_POSES.index(hand["pose"])
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise LabelError(
                    f"{path}: {SIDES[i]}: {error}; keypoints are {', '.join(ONE_HAND)}, each [x, y, "
                    f"{' | '.join(STATES)}], poses {', '.join(HAND_POSES)}"
                ) from error
        if not -1 <= orientation.min() <= orientation.max() <= 7:
            raise LabelError(f"{path}: orientation {orientation.tolist()}; expected 0 to 7")
        present = np.array([hand is not None for hand in hands])
        return keypoints.reshape(-1, 3), present, orientation, pose


def _camera(path: Path) -> Camera | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        fx, fy, cx, cy = (float(content[k]) for k in ("fx", "fy", "cx", "cy"))
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{path}: {error}; expected fx, fy, cx and cy in pixels") from error
    return fx, fy, cx, cy


def _picture(path: Path) -> np.ndarray | None:
    import cv2

    if not path.exists():
        return None
    data = np.fromfile(path, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if picture is None or picture.ndim != 2:
        raise ImageError(f"{path}: expected a picture of one channel")
    return picture


def _from_eight_bits(picture: np.ndarray) -> np.ndarray:
    """Amplitude that an 8-bit picture shows, as `posezoo.inference.amplitude` takes such pictures."""
    return np.rint((picture.astype(np.float32) / 255) ** 2 * 65535).astype(np.uint16)


def write_recording(folder: Path | str, frames: Mapping[str, HandFrame]) -> Path:
    """Write frames as `HandRecording` reads them: for tools that label, and to look at rendered frames.

    Args:
        folder: Where to write.
        frames: Frames by name.

    Returns:
        The folder.
    """
    import cv2

    folder = Path(folder)
    words = {state: word for word, state in STATES.items()}
    for name, frame in frames.items():
        for kind in ("amplitude", "depth", "segmentation"):
            picture = getattr(frame, kind)
            if picture is not None:
                with replacing(folder / kind / f"{name}.png") as path:
                    cv2.imwrite(str(path), picture)
        keypoints = frame.keypoints.reshape(2, -1, 3)
        label: dict[str, Any] = {}
        for i, side in enumerate(SIDES):
            known = keypoints[i, :, 2] != UNKNOWN
            there = known.any() if frame.present is None else frame.present[i]
            if not there:
                label[side] = None
                continue
            marks = {ONE_HAND[k]: [*map(float, keypoints[i, k, :2]), words[int(keypoints[i, k, 2])]]
                     for k in np.flatnonzero(known)}  # fmt: skip
            label[side] = {"keypoints": marks}
            if frame.orientation is not None and frame.orientation[i] >= 0:
                label[side]["orientation"] = int(frame.orientation[i])
            if frame.pose is not None and frame.pose[i] >= 0:
                label[side]["pose"] = HAND_POSES[frame.pose[i]]
        with replacing(folder / "labels" / f"{name}.json") as path:
            path.write_text(json.dumps(label))
        if frame.camera is not None and not (folder / "camera.json").exists():
            with replacing(folder / "camera.json") as path:
                path.write_text(json.dumps(dict(zip(("fx", "fy", "cx", "cy"), map(float, frame.camera), strict=True))))
    return folder


# ------------------------------------------------------------------------------------------ public sets


class DepthHands:
    """Depth frames of one hand with joints in space; the public sets derive from it.

    Args:
        name: Of the set.
        labels: Names of its joints; those of `ONE_HAND` are taken.
        camera: fx, fy, cx, cy.
        hand: Which hand it shows.

    Raises:
        ValueError: `hand` is neither left nor right.
    """

    def __init__(self, name: str, labels: Sequence[str | None], camera: Camera, *, hand: str):
        if hand not in SIDES:
            raise ValueError(f"unknown hand '{hand}'; expected left or right")
        self.name, self.skeleton, self.camera, self.side = name, HAND34, camera, SIDES.index(hand)
        self.columns = [(ONE_HAND.index(label), i) for i, label in enumerate(labels) if label is not None]

    def frame(self, depth: np.ndarray, pixels: np.ndarray, distance: np.ndarray) -> HandFrame:
        """Make a frame.

        Args:
            depth: uint16 `(height, width)` millimetres.
            pixels: The set's joints `(J, 2)`.
            distance: Their depth in millimetres `(J,)`.
        """
        target, source = np.array(self.columns).T
        target = target + len(ONE_HAND) * self.side
        keypoints = np.zeros((HAND34.num_keypoints, 3), np.float32)
        keypoints[target, :2] = pixels[source]
        keypoints[target, 2] = np.where(seen(depth, pixels[source], distance[source]), SEEN, HIDDEN)
        fx, fy, cx, cy = self.camera
        points_mm = np.full((HAND34.num_keypoints, 3), np.nan, np.float32)
        z = distance[source]
        points_mm[target] = np.stack(
            [(pixels[source, 0] - cx) * z / fx, (pixels[source, 1] - cy) * z / fy, z], axis=-1
        )  # fmt: skip
        present = np.arange(2) == self.side
        return HandFrame(keypoints, depth, keypoints_mm=points_mm, present=present, camera=self.camera)


def seen(depth: np.ndarray, pixels: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Whether the surface measured at each joint is not far before it, bool `(J,)`."""
    height, width = depth.shape
    column, row = np.rint(pixels).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    surface = depth[np.where(inside, row, 0), np.where(inside, column, 0)].astype(np.float32)
    return inside & ((surface == 0) | (surface >= distance - SEEN_WITHIN_MM))


class MsraHands(DepthHands):
    """MSRA's hand gestures (Sun et al., CVPR 2015): nine subjects' right hands, 17 gestures of about 500 frames.

    The layout, as distributed: `P0/1/joint.txt` (a number of frames, then for each 63 numbers: x, y up, z towards the
    camera's back, in millimetres, of 21 joints) and `P0/1/000000_depth.bin` (six int32: width, height, left, top,
    right, bottom; then float32 millimetres of that box). Their thumb has a joint more than its name tells: "mcp, pip,
    dip, tip" are the saddle joint, mcp, ip and tip.

    Args:
        root: The folder of `P0`, `P1`, and so on.
        subjects: Which subjects, such as `("P0",)`; all by default.

    Raises:
        FileNotFoundError: No gestures in the folder.
    """

    CAMERA: Camera = (241.42, 241.42, 160.0, 120.0)
    JOINTS = (
        "wrist", "index_mcp", "index_pip", "index_dip", "index_tip", "middle_mcp", "middle_pip", None, "middle_tip",
        "ring_mcp", "ring_pip", None, "ring_tip", "pinky_mcp", "pinky_pip", None, "pinky_tip",
        None, "thumb_mcp", "thumb_ip", "thumb_tip",
    )  # fmt: skip

    def __init__(self, root: Path | str, *, subjects: Sequence[str] = ()):
        super().__init__("msra_hands", self.JOINTS, self.CAMERA, hand="right")
        root = Path(root)
        self.frames: list[tuple[Path, np.ndarray]] = []
        for path in sorted(root.glob("P*/*/joint.txt")):
            if not subjects or path.parts[-3] in subjects:
                joints = _numbers(path, skip=1).reshape(-1, len(self.JOINTS), 3)
                self.frames += [(path.parent / f"{i:06d}_depth.bin", row) for i, row in enumerate(joints)]
        if not self.frames:
            raise FileNotFoundError(f"{root}: no P0/1/joint.txt and the like; expected the unpacked MSRA hand gestures")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> HandFrame:
        """Read one frame.

        Raises:
            ImageError: Its file is missing or damaged.
        """
        path, joints = self.frames[index]
        fx, fy, cx, cy = self.CAMERA
        distance = -joints[:, 2]
        pixels = np.stack([cx + fx * joints[:, 0] / distance, cy - fy * joints[:, 1] / distance], axis=-1)
        return self.frame(_msra_depth(path), pixels.astype(np.float32), distance)


def _msra_depth(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
        width, height, left, top, right, bottom = np.frombuffer(data[:24], np.int32)
        box = np.frombuffer(data[24:], np.float32).reshape(bottom - top, right - left)
        depth = np.zeros((height, width), np.uint16)
        depth[top:bottom, left:right] = np.rint(np.clip(box, 0, 65535))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read ({error}); expected MSRA's depth of one hand") from error
    return depth


class NyuHands(DepthHands):
    """NYU's hands (Tompson et al., TOG 2014): right hands, palm to a Kinect, of three cameras.

    The layout, as distributed: `joint_data.mat` with `joint_uvd` (cameras, n, 36, 3) in pixels and millimetres, and
    `depth_1_0000001.png`, whose green and blue bytes are the depth's high and low ones. The wrist is the middle of the
    two palm points at its sides.

    Args:
        root: The folder of a split, such as `train`.
        camera: Which of the three cameras, from 1.

    Raises:
        FileNotFoundError: No joint_data.mat in the folder.
        LabelError: It holds other labels, or no such camera.
    """

    CAMERA: Camera = (588.03, 587.07, 320.0, 240.0)
    #: Of each finger's six points the outer ends of the three bones are at the tip, the joint before it and so on.
    _FINGER = {"tip": 0, "dip": 1, "pip": 3, "mcp": 5}
    _FIRST = {"pinky": 0, "ring": 6, "middle": 12, "index": 18}
    _THUMB = {"thumb_tip": 24, "thumb_ip": 25, "thumb_mcp": 27}
    _WRIST = (30, 31)
    _POINTS = 36

    def __init__(self, root: Path | str, *, camera: int = 1):
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        self.root, self.number = Path(root), camera
        path = self.root / "joint_data.mat"
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file; expected a split of the unpacked NYU hands")
        try:
            joints = np.asarray(loadmat(path, variable_names=["joint_uvd"])["joint_uvd"], np.float32)
        except (MatReadError, KeyError, ValueError) as error:
            raise LabelError(f"{path}: cannot be read ({error}); expected joint_uvd") from error
        if joints.ndim != 4 or joints.shape[2:] != (self._POINTS, 3) or not 1 <= camera <= len(joints):
            raise LabelError(f"{path}: joint_uvd is {joints.shape}; expected (cameras from {camera}, frames, 36, 3)")
        wrist = joints[camera - 1][:, self._WRIST].mean(axis=1, keepdims=True)
        self.joints = np.concatenate([joints[camera - 1], wrist], axis=1)
        labels: list[str | None] = [None] * (self._POINTS + 1)
        for finger, first in self._FIRST.items():
            for joint, offset in self._FINGER.items():
                name = f"{finger}_{joint}"
                labels[first + offset] = name if name in ONE_HAND else None
        for name, i in self._THUMB.items():
            labels[i] = name
        labels[-1] = "wrist"
        super().__init__(f"nyu_hands-{self.root.name}", labels, self.CAMERA, hand="right")

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, index: int, /) -> HandFrame:
        """Read one frame.

        Raises:
            ImageError: Its picture is missing or damaged.
        """
        import cv2

        path = self.root / f"depth_{self.number}_{index + 1:07d}.png"
        data = np.fromfile(path, np.uint8) if path.exists() else np.zeros(0, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if picture is None:
            raise ImageError(f"{path}: missing or no picture")
        high, low = (picture[..., i].astype(np.uint16) for i in (1, 0))
        depth = (high << 8) | low
        joints = self.joints[index]
        return self.frame(depth, joints[:, :2], joints[:, 2])


class IcvlHands(DepthHands):
    """ICVL's hands (Tang et al., CVPR 2014), whose palms face a short-range camera.

    The layout, as distributed: a text file whose lines are a picture's path and u, v in pixels and depth in
    millimetres of 16 joints (palm, then root, middle and tip of thumb, index, middle, ring and little finger), and
    16-bit PNGs in a folder `Depth`. The palm has no counterpart, the wrist is not labelled. In the pictures the thumb
    is on the side of a left hand; give `hand="right"` for mirrored ones.

    Args:
        labels: The text file, such as `Training/labels.txt`.
        pictures: Folder of the pictures; `Depth` beside the text file by default.
        hand: Which hand the pictures show.

    Raises:
        FileNotFoundError: No such file.
        LabelError: A line of another form.
    """

    CAMERA: Camera = (241.42, 241.42, 160.0, 120.0)
    JOINTS = (
        None, "thumb_mcp", "thumb_ip", "thumb_tip", "index_mcp", "index_pip", "index_tip", "middle_mcp", "middle_pip",
        "middle_tip", "ring_mcp", "ring_pip", "ring_tip", "pinky_mcp", "pinky_pip", "pinky_tip",
    )  # fmt: skip

    def __init__(self, labels: Path | str, *, pictures: Path | str | None = None, hand: str = "left"):
        super().__init__("icvl_hands", self.JOINTS, self.CAMERA, hand=hand)
        labels = Path(labels)
        self.pictures = Path(pictures) if pictures else labels.parent / "Depth"
        self.frames: list[tuple[str, np.ndarray]] = []
        for number, line in enumerate(labels.read_text().splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            try:
                joints = np.array(words[1:], np.float32).reshape(len(self.JOINTS), 3)
            except ValueError as error:
                raise LabelError(f"{labels}: line {number}: {error}; expected a path and 48 numbers") from error
            self.frames.append((words[0], joints))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> HandFrame:
        """Read one frame.

        Raises:
            ImageError: Its picture is missing or holds no depth.
        """
        name, joints = self.frames[index]
        depth = _picture(self.pictures / name)
        if depth is None or depth.dtype != np.uint16:
            raise ImageError(f"{self.pictures / name}: missing, or not 16 bits")
        return self.frame(depth, joints[:, :2], joints[:, 2])


def _numbers(path: Path, *, skip: int) -> np.ndarray:
    try:
        return np.loadtxt(path, np.float32, skiprows=skip, ndmin=2)
    except ValueError as error:
        raise LabelError(f"{path}: {error}; expected lines of numbers") from error
