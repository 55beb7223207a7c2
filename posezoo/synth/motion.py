"""Motion capture as poses: BVH and ASF/AMC files (also gzipped), and the joints of Kinect recordings.

    clip = read_motion("walk.bvh.gz")
    pose = clip.pose(12)

A file's bones are matched to a pose's joints by name; how they rest is taken out, so any body can take the pose.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from posezoo.errors import UserError
from posezoo.synth.poses import DEPTH_ALLOWED_M, self_overlap, with_random_hands
from posezoo.synth.rig import (
    FINGERS,
    INDEX,
    JOINTS,
    PARENTS,
    Driver,
    Pose,
    Rig,
    rotation_between,
    rotation_vectors,
    rotations,
)


class MotionError(UserError, ValueError):
    """A motion file cannot be read, or its bones are not known."""


@dataclass(frozen=True)
class Motion:
    """Bones and how they turn.

    Attributes:
        names: Bone (or joint) names, parents first.
        parents: `(B,)` number of each one's parent, -1 for the root.
        start: `(B, 3)` where each bone starts when every rotation is zero; in the file's own unit.
        end: `(B, 3)` where it ends.
        turns: `(F, B, 3, 3)` rotations of every frame from that zero pose, in the world's axes.
        root: `(F, 3)` positions of the root.
        frame_s: Seconds between frames; 0 if the file does not say.
        source: The file, for messages.
    """

    names: tuple[str, ...]
    parents: np.ndarray
    start: np.ndarray
    end: np.ndarray
    turns: np.ndarray
    root: np.ndarray
    frame_s: float
    source: str

    def __len__(self) -> int:
        return len(self.turns)

    def positions(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where every bone starts and ends `(B, 3)` in one frame."""
        turn = self.turns[frame]
        start = np.empty_like(self.start)
        for k, parent in enumerate(self.parents):
            if parent < 0:
                start[k] = self.root[frame]
            else:
                start[k] = start[parent] + turn[parent] @ (self.start[k] - self.start[parent])
        return start, start + np.einsum("bij,bj->bi", turn, self.end - self.start)

    @cached_property
    def _matched(self) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
        """Bones by pose joint, rotations to take out of every frame, alignment of the rest, and the file's axes."""
        bones = match_bones(self.names, self.source)
        up = self.start[bones["head"] if "head" in bones else bones["chest"]] - self.start[bones["pelvis"]]
        # Some programs write z up and -y ahead.
        axes = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) if up[2] > abs(up[1]) else np.eye(3)
        # Some character rigs turn every bone's axes; their first frame stands in a T.
        first = any(name.startswith("CC_Base") for name in self.names)
        before = self.turns[0] if first else np.broadcast_to(np.eye(3), (len(self.names), 3, 3))
        start, end = (p @ axes.T for p in (self.positions(0) if first else (self.start, self.end)))
        anchors, across = {}, {}
        for joint, k in bones.items():
            child = next((c for c, p in PARENTS.items() if p == joint and c in bones and not c.endswith("1")), None)
            tip = start[bones[child]] if child else end[k]
            middle = bones.get(f"{joint.partition('_')[0]}_middle1")
            if joint.endswith("_hand") and middle is not None:
                tip = start[middle]
            if np.linalg.norm(tip - start[k]) > 1e-6:
                anchors[joint] = (start[k], tip)
        for side in ("left", "right"):
            index, little = (bones.get(f"{side}_{n}1") for n in ("index", "little"))
            if index is not None and little is not None:
                across[f"{side}_hand"] = start[index] - start[little]
        rig = Rig(("root",), np.array([-1]), np.zeros((1, 3)), (Driver("pelvis"),), anchors, across)
        return bones, before, rig.alignment, axes

    @cached_property
    def has_fingers(self) -> bool:
        """Whether the file records fingers: it has their bones, and they move unless there is a single frame."""
        bones = self._matched[0]
        pairs = [(k, bones[f"{j.partition('_')[0]}_hand"]) for j, k in bones.items() if j[:-1].endswith(FINGERS[1:])]
        if not pairs:
            return False
        finger, hand = np.array(pairs).T
        some = self.turns[:: max(1, len(self) // 20)]
        bent = some[:, hand].swapaxes(-1, -2) @ some[:, finger]
        moved = np.linalg.norm(rotation_vectors(bent[0].swapaxes(-1, -2) @ bent), axis=-1).max()
        return len(self) == 1 or bool(moved > np.radians(5))

    def pose(self, frame: int, *, heading: bool = False) -> Pose:
        """Return one frame as a pose.

        Args:
            frame: 0 .. `len(motion) - 1`.
            heading: Keep the direction in which the person walks; else it is turned to look along +z.

        Raises:
            IndexError: There is no such frame.
            MotionError: The bones' names are of no known kind.
        """
        if not 0 <= frame < len(self):
            raise IndexError(f"{self.source} has frames 0 to {len(self) - 1}; got {frame}")
        bones, before, alignment, axes = self._matched
        world = np.full((len(JOINTS), 3, 3), np.nan)
        for joint, k in bones.items():
            turn = axes @ self.turns[frame, k] @ before[k].T @ axes.T
            world[INDEX[joint]] = turn @ alignment[INDEX[joint]].T
        for joint, parent in PARENTS.items():
            if np.isnan(world[INDEX[joint]]).any():
                world[INDEX[joint]] = world[INDEX[parent]] if parent else np.eye(3)
        pose = Pose.from_world(world)
        return pose if heading else facing_front(pose)


def facing_front(pose: Pose) -> Pose:
    """Return the pose turned about the vertical so that the hips look along +z."""
    left = pose["pelvis"][:, 0]
    if np.hypot(left[0], left[2]) < 0.2:  # lies on its side: no heading to speak of
        return pose
    angle = np.arctan2(left[2], left[0])
    return pose.turned(rotations(np.array([0, angle, 0])))


# ---- names

_ARM = ("clavicle", "upper_arm", "forearm", "hand")
_LEG = ("thigh", "shin", "foot", "toes")


def _sided(middle: Mapping[str, str], sides: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    out = dict(middle)
    for side, table in sides.items():
        out |= {f"{side}_{joint}": bone for joint, bone in table.items()}
    return out


def _character_side(letter: str) -> dict[str, str]:
    bones = ("Clavicle", "Upperarm", "Forearm", "Hand", "Thigh", "Calf", "Foot", "ToeBase")
    table = {j: f"CC_Base_{letter}_{b}" for j, b in zip(_ARM + _LEG, bones)}
    fingers = ("Thumb", "Index", "Mid", "Ring", "Pinky")
    return table | {f"{f}{k}": f"CC_Base_{letter}_{b}{k}" for f, b in zip(FINGERS, fingers) for k in (1, 2, 3)}


def _makehuman_side(letter: str) -> dict[str, str]:
    bones = ("clavicle", "upperarm02", "lowerarm02", "wrist", "upperleg02", "lowerleg02", "foot", "toe1-1")
    table = {j: f"{b}.{letter}" for j, b in zip(_ARM + _LEG, bones)}
    return table | {f"{f}{k}": f"finger{n}-{k}.{letter}" for n, f in enumerate(FINGERS, 1) for k in (1, 2, 3)}


#: Kinds of skeleton: pose joint -> bone.
SKELETON_KINDS: dict[str, dict[str, str]] = {
    "CMU (ASF)": _sided(
        {"pelvis": "root", "spine": "lowerback", "chest": "thorax", "neck": "upperneck", "head": "head"},
        {side: dict(zip(_ARM + _LEG, (f"{c}{b}" for b in ("clavicle", "humerus", "radius", "hand", "femur", "tibia",
                                                          "foot", "toes")))) for side, c in
         (("left", "l"), ("right", "r"))}),
    "CMU (BVH)": _sided(
        {"pelvis": "Hips", "spine": "Chest", "chest": "Chest2", "neck": "Neck", "head": "Head"},
        {s.lower(): dict(zip(_ARM + _LEG, (f"{s}{b}" for b in ("Collar", "Shoulder", "Elbow", "Wrist", "Hip", "Knee",
                                                               "Ankle", "Toe")))) for s in ("Left", "Right")}),
    "character (CC_Base)": _sided(
        {"pelvis": "CC_Base_Hip", "spine": "CC_Base_Waist", "chest": "CC_Base_Spine02",
         "neck": "CC_Base_NeckTwist01", "head": "CC_Base_Head"},
        {"left": _character_side("L"), "right": _character_side("R")}),
    "MakeHuman": _sided(
        {"pelvis": "root", "spine": "spine04", "chest": "spine01", "neck": "neck02", "head": "head"},
        {"left": _makehuman_side("L"), "right": _makehuman_side("R")}),
}  # fmt: skip

_NEEDED = (
    "pelvis",
    "chest",
    *(f"{s}_{j}" for s in ("left", "right") for j in ("upper_arm", "forearm", "thigh", "shin")),
)


def match_bones(names: Sequence[str], source: str) -> dict[str, int]:
    """Return the number of the bone for each of a pose's joints that the skeleton has.

    Raises:
        MotionError: The names are of no known kind of skeleton.
    """
    numbers = {name: k for k, name in enumerate(names)}
    for table in SKELETON_KINDS.values():
        if all(table[joint] in numbers for joint in _NEEDED):
            return {joint: numbers[bone] for joint, bone in table.items() if bone in numbers}
    raise MotionError(
        f"{source}: the bones ({', '.join(list(names)[:6])}, ...) are of no known skeleton; "
        f"known are {', '.join(SKELETON_KINDS)} (see posezoo.synth.motion.SKELETON_KINDS to add one)"
    )


# ---- files


def read_motion(path: str | Path, *, skeleton: str | Path | None = None) -> Motion:
    """Read a BVH or AMC file, gzipped or not.

    Args:
        path: Ends in `.bvh`, `.amc`, `.bvh.gz` or `.amc.gz`.
        skeleton: The ASF file of an AMC file; else the one whose name the AMC file's begins with (`02.asf` for
            `02_04.amc`), beside it.

    Raises:
        MotionError: The file cannot be read.
    """
    path = Path(path)
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "bvh":
        return parse_bvh(_text(path), str(path))
    if kind == "amc":
        if skeleton is None:
            subject = path.name.partition("_")[0]
            found = [p for p in (path.with_name(f"{subject}.asf"), path.with_name(f"{subject}.asf.gz")) if p.exists()]
            if not found:
                raise MotionError(f"{path}: no skeleton '{subject}.asf' beside it; name the ASF file with skeleton=")
            skeleton = found[0]
        return parse_amc(_text(path), parse_asf(_text(Path(skeleton)), str(skeleton)), str(path))
    raise MotionError(f"{path}: expected a file that ends in .bvh or .amc (or .bvh.gz, .amc.gz)")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii", "replace")
    except FileNotFoundError:
        raise MotionError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MotionError(f"{path}: damaged gzip data ({error}); get the file again") from None


_CHANNELS = {f"{axis}{kind}": (kind, k) for k, axis in enumerate("XYZ") for kind in ("position", "rotation")}


def parse_bvh(text: str, source: str = "BVH") -> Motion:
    """Parse a BVH file's text.

    Raises:
        MotionError: It is not BVH, or incomplete.
    """
    head, found, tail = text.partition("MOTION")
    if not head.lstrip().startswith("HIERARCHY") or not found:
        raise MotionError(f"{source}: not a BVH file; expected HIERARCHY, then MOTION")
    names: list[str] = []
    parents: list[int] = []
    offsets: list[np.ndarray] = []
    channels: list[list[str]] = []
    ends: dict[int, np.ndarray] = {}
    stack: list[int] = []
    in_end = False
    tokens = iter(head.split()[1:])
    try:
        for token in tokens:
            word = token.upper()
            if word in ("ROOT", "JOINT"):
                names.append(next(tokens))
                parents.append(stack[-1] if stack else -1)
                offsets.append(np.zeros(3))
                channels.append([])
            elif word == "END":
                next(tokens)
                in_end = True
            elif word == "{":
                if not in_end:
                    stack.append(len(names) - 1)
            elif word == "}":
                if in_end:
                    in_end = False
                else:
                    stack.pop()
            elif word == "OFFSET":
                offset = np.array([float(next(tokens)) for _ in range(3)])
                if in_end:
                    ends[stack[-1]] = offset
                else:
                    offsets[stack[-1]] = offset
            elif word == "CHANNELS":
                channels[stack[-1]] = [next(tokens) for _ in range(int(next(tokens)))]
            else:
                raise MotionError(
                    f"{source}: unexpected '{token}' in the hierarchy; expected JOINT, OFFSET or CHANNELS"
                )
        unknown = sorted({c for row in channels for c in row} - set(_CHANNELS))
        if unknown:
            raise MotionError(f"{source}: unknown channels {', '.join(unknown)}; expected {', '.join(_CHANNELS)}")
    except (StopIteration, IndexError, ValueError) as error:
        if isinstance(error, MotionError):
            raise
        raise MotionError(f"{source}: the hierarchy is cut off or damaged; get the file again") from None
    if stack or not names:
        raise MotionError(f"{source}: the hierarchy's braces do not match; get the file again")
    words = tail.replace("Frame Time:", "Time:").split()
    try:
        count = int(words[words.index("Frames:") + 1])
        frame_s = float(words[words.index("Time:") + 1])
        values = np.array(words[words.index("Time:") + 2 :], float)
    except (ValueError, IndexError):
        raise MotionError(f"{source}: expected 'Frames: N', 'Frame Time: s', then numbers, after MOTION") from None
    width = sum(map(len, channels))
    if count < 1 or values.size != count * width:
        raise MotionError(
            f"{source}: expected {count} frames of {width} numbers = {count * width}; found {values.size}. "
            "The file is cut off or damaged"
        )
    values = values.reshape(count, width)
    if not np.isfinite(values).all():
        raise MotionError(f"{source}: some of the numbers are not finite; the file is damaged")

    start = np.zeros((len(names), 3))
    turns = np.zeros((count, len(names), 3, 3))
    root = np.zeros((count, 3))
    column = 0
    for k, parent in enumerate(parents):
        turn = np.broadcast_to(np.eye(3), (count, 3, 3))
        place = np.broadcast_to(offsets[k], (count, 3)).copy()
        for channel in channels[k]:
            kind, axis = _CHANNELS[channel]
            if kind == "position":
                place[:, axis] = values[:, column]
            else:
                turn = turn @ rotations(np.radians(values[:, column])[:, None] * np.eye(3)[axis])
            column += 1
        if parent < 0:
            root = place
            turns[:, k] = turn
        else:
            # Moving joints other than the root would stretch bones; only their rotations are used.
            start[k] = start[parent] + offsets[k]
            turns[:, k] = turns[:, parent] @ turn
    end = start.copy()
    for k in range(len(names)):
        children = [c for c, p in enumerate(parents) if p == k and np.linalg.norm(offsets[c]) > 1e-9]
        if k in ends:
            end[k] = start[k] + ends[k]
        elif children:
            end[k] = start[children[0]]
    return Motion(tuple(names), np.array(parents), start, end, turns, root, frame_s, source)


@dataclass(frozen=True)
class _Skeleton:
    """An ASF file: bones by name with where they start and end at rest, their axes and degrees of freedom."""

    names: tuple[str, ...]
    parents: np.ndarray
    start: np.ndarray
    end: np.ndarray
    axes: np.ndarray  # (B, 3, 3)
    dof: tuple[tuple[str, ...], ...]
    degrees: bool


def _turn_xyz(angles: np.ndarray, order: str) -> np.ndarray:
    """Return rotations `(..., 3, 3)` of angles `(..., 3)` in radians, the first of `order` applied first."""
    out = np.eye(3)
    for axis in order.lower():
        k = "xyz".index(axis)
        out = rotations(angles[..., k, None] * np.eye(3)[k]) @ out
    return out


def parse_asf(text: str, source: str = "ASF") -> _Skeleton:
    """Parse an ASF skeleton's text.

    Raises:
        MotionError: It is not ASF, or incomplete.
    """
    sections: dict[str, list[list[str]]] = {}
    section = ""
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0].startswith(":"):
            section = words[0][1:].lower()
            sections[section] = [words[1:]]
        elif section:
            sections[section].append(words)
    missing = [s for s in ("root", "bonedata", "hierarchy") if s not in sections]
    if missing:
        raise MotionError(f"{source}: not a whole ASF file; it lacks the sections :{', :'.join(missing)}")
    degrees = ["angle", "rad"] not in sections.get("units", [])
    unit = np.pi / 180 if degrees else 1.0
    root = {words[0].lower(): words[1:] for words in sections["root"] if words}
    names, direction, axes, dof = (
        ["root"],
        [np.zeros(3)],
        [np.eye(3)],
        [tuple(w.lower() for w in root.get("order", []))],
    )
    try:
        turn = np.array(root.get("orientation", ["0", "0", "0"])[:3], float) * unit
        axes[0] = _turn_xyz(turn, root.get("axis", ["XYZ"])[0])
        bone: dict[str, list[str]] = {}
        for words in sections["bonedata"]:
            if not words or words[0].startswith("("):
                continue
            if words[0] == "begin":
                bone = {}
            elif words[0] == "end":
                names.append(bone["name"][0])
                direction.append(np.array(bone["direction"][:3], float) * float(bone["length"][0]))
                order = bone["axis"][3] if len(bone["axis"]) > 3 else "XYZ"
                axes.append(_turn_xyz(np.array(bone["axis"][:3], float) * unit, order))
                dof.append(tuple(w.lower() for w in bone.get("dof", [])))
            else:
                bone[words[0].lower()] = words[1:]
        parent_of = {}
        for words in sections["hierarchy"]:
            if words and words[0] not in ("begin", "end"):
                for child in words[1:]:
                    parent_of[child] = words[0]
        order_ = ["root"]
        for name in order_:
            order_ += [child for child, parent in parent_of.items() if parent == name]
        if sorted(order_) != sorted(names):
            raise KeyError(", ".join(sorted(set(order_) ^ set(names))))
    except (KeyError, ValueError, IndexError) as error:
        raise MotionError(f"{source}: the bones are cut off or damaged ({error}); get the file again") from None
    at = {name: k for k, name in enumerate(names)}
    position = {name: k for k, name in enumerate(order_)}
    parents = np.array([position[parent_of[n]] if n in parent_of else -1 for n in order_])
    start = np.zeros((len(order_), 3))
    end = np.zeros((len(order_), 3))
    for k, name in enumerate(order_):
        start[k] = end[parents[k]] if parents[k] >= 0 else 0
        end[k] = start[k] + direction[at[name]]
    pick = [at[n] for n in order_]
    return _Skeleton(tuple(order_), parents, start, end, np.array(axes)[pick], tuple(dof[k] for k in pick), degrees)


def parse_amc(text: str, skeleton: _Skeleton, source: str = "AMC") -> Motion:
    """Parse an AMC file's text with its skeleton.

    Raises:
        MotionError: It is not AMC, incomplete, or of another skeleton.
    """
    number = {name: k for k, name in enumerate(skeleton.names)}
    values: list[list[np.ndarray | None]] = []
    try:
        for line in text.splitlines():
            words = line.split()
            if not words or words[0].startswith(("#", ":")):
                continue
            if len(words) == 1 and words[0].isdigit():
                values.append([None] * len(number))
                continue
            if words[0] not in number:
                raise MotionError(f"{source}: the skeleton has no bone '{words[0]}'; is it another subject's?")
            k = number[words[0]]
            row = np.array(words[1:], float)
            if len(row) != len(skeleton.dof[k]) or not np.isfinite(row).all():
                raise MotionError(
                    f"{source}: frame {len(values)}, bone {words[0]}: expected {len(skeleton.dof[k])} numbers, "
                    f"found {len(row)}; the file is cut off or damaged"
                )
            values[-1][k] = row
    except (ValueError, IndexError) as error:
        if isinstance(error, MotionError):
            raise
        raise MotionError(f"{source}: not an AMC file, or damaged ({error})") from None
    moving = [k for k, d in enumerate(skeleton.dof) if d]
    if not values:
        raise MotionError(f"{source}: no frames; expected a line with the frame's number before each")
    short = next((f for f, rows in enumerate(values) if any(rows[k] is None for k in moving)), None)
    if short is not None:
        raise MotionError(f"{source}: frame {short + 1} lacks some bones; the file is cut off")
    count = len(values)
    unit = np.pi / 180 if skeleton.degrees else 1.0
    turns = np.zeros((count, len(number), 3, 3))
    root = np.zeros((count, 3))
    for k, parent in enumerate(skeleton.parents):
        angles = np.zeros((count, 3))
        order = ""
        for column, dof in enumerate(skeleton.dof[k]):
            series = np.array([rows[k][column] for rows in values])  # type: ignore[index]
            if dof.startswith("t"):
                root[:, "xyz".index(dof[1])] = series
            elif dof.startswith("r"):
                angles[:, "xyz".index(dof[1])] = series * unit
                order += dof[1]
        turn = _turn_xyz(angles, order) if order else np.broadcast_to(np.eye(3), (count, 3, 3))
        turn = skeleton.axes[k] @ turn @ skeleton.axes[k].T
        turns[:, k] = turns[:, parent] @ turn if parent >= 0 else turn
    return Motion(skeleton.names, skeleton.parents, skeleton.start, skeleton.end, turns, root, 0.0, source)


# ---- Kinect

#: Joints of a Kinect (first generation) skeleton in the order of its recordings.
KINECT20 = (
    "head", "shoulder_center", "spine", "hip_center", "l_shoulder", "l_elbow", "l_wrist", "l_hand", "r_shoulder",
    "r_elbow", "r_wrist", "r_hand", "l_hip", "l_knee", "l_ankle", "l_foot", "r_hip", "r_knee", "r_ankle", "r_foot",
)  # fmt: skip


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def _frame(up: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return rotations `(F, 3, 3)` whose y axis is `up` and whose x axis is as near to `left` as can be."""
    y = _unit(up)
    z = _unit(np.cross(left, y))
    return np.stack([np.cross(y, z), y, z], -1)


def _limited(rotation: np.ndarray, limit: float, share: float = 1.0) -> np.ndarray:
    """Return a `share` of rotations `(F, 3, 3)`, at most `limit` radians."""
    vectors = rotation_vectors(rotation) * share
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return rotations(vectors * np.minimum(1, limit / np.maximum(length, 1e-9)))


def poses_of_kinect(joints_mm: np.ndarray) -> list[Pose]:
    """Fit poses to Kinect joints by the bones' directions; how limbs twist follows from how elbows and knees bend.

    Args:
        joints_mm: `(F, 20, 3)` in the order of `KINECT20`, camera axes: x to the right of the picture, y up, z away
            from the camera, millimetres. `l_` is the person's own left: a person who faces the camera has it at
            larger x.

    Returns:
        One pose per frame, as the camera sees it: who faces the camera looks along +z.

    Raises:
        MotionError: The shape is not `(F, 20, 3)` or numbers are not finite.
    """
    joints_mm = np.asarray(joints_mm, float)
    if joints_mm.ndim != 3 or joints_mm.shape[1:] != (20, 3) or not np.isfinite(joints_mm).all():
        raise MotionError(f"expected finite Kinect joints of shape (frames, 20, 3); got {joints_mm.shape}")
    at = dict(zip(KINECT20, np.moveaxis(joints_mm * (1, 1, -1) / 1000, 1, 0)))
    count = len(joints_mm)
    world = np.broadcast_to(np.eye(3), (count, len(JOINTS), 3, 3)).copy()

    hips = (at["l_hip"] + at["r_hip"]) / 2
    trunk = _unit(at["shoulder_center"] - hips)
    pelvis = _frame(trunk + _unit(at["spine"] - hips), at["l_hip"] - at["r_hip"])
    chest = _frame(trunk + _unit(at["shoulder_center"] - at["spine"]), at["l_shoulder"] - at["r_shoulder"])
    # Trackers place shoulders loosely: keep the trunk's twist within what people can do.
    chest = pelvis @ _limited(pelvis.swapaxes(-1, -2) @ chest, np.radians(65))
    spine = pelvis @ _limited(pelvis.swapaxes(-1, -2) @ chest, np.pi, 0.5)
    nod = rotation_between(chest[:, :, 1], _unit(at["head"] - at["shoulder_center"]))
    neck = _limited(nod, np.radians(35), 0.6) @ chest
    head = _limited(nod, np.radians(40), 0.8) @ chest
    for name, table in (("pelvis", pelvis), ("spine", spine), ("chest", chest), ("neck", neck), ("head", head)):
        world[:, INDEX[name]] = table

    for side, letter, out in (("left", "l", 1.0), ("right", "r", -1.0)):
        shoulder, elbow, wrist, hand = (at[f"{letter}_{n}"] for n in ("shoulder", "elbow", "wrist", "hand"))
        upper, lower = _unit(elbow - shoulder), _unit(wrist - elbow)
        # At rest beside the body, palms in, then swung the shortest way.
        hanging = chest @ rotations(np.array([0, 0, -out * np.pi / 2]))
        natural = rotation_between(-chest[:, :, 1], upper) @ hanging
        arm = _hinged(natural, upper, lower, along=np.array([out, 0, 0]), toward=np.array([0, 0, 1.0]))
        fore = rotation_between(arm[:, :, 0] * out, lower) @ arm
        reach = np.linalg.norm(hand - wrist, axis=-1)
        bend = _limited(rotation_between(fore[:, :, 0] * out, _unit(hand - wrist)), np.radians(40), 0.5)
        palm = np.where((reach > 0.03)[:, None, None], bend @ fore, fore)
        world[:, INDEX[f"{side}_clavicle"]] = chest
        world[:, INDEX[f"{side}_upper_arm"]] = arm
        world[:, INDEX[f"{side}_forearm"]] = fore
        world[:, INDEX[f"{side}_hand"]] = palm
        for finger in FINGERS:
            for k in (1, 2, 3):
                world[:, INDEX[f"{side}_{finger}{k}"]] = palm

        hip, knee, ankle, foot = (at[f"{letter}_{n}"] for n in ("hip", "knee", "ankle", "foot"))
        upper, lower = _unit(knee - hip), _unit(ankle - knee)
        natural = rotation_between(-pelvis[:, :, 1], upper) @ pelvis
        thigh = _hinged(natural, upper, lower, along=np.array([0, -1.0, 0]), toward=np.array([0, 0, -1.0]))
        shin = rotation_between(-thigh[:, :, 1], lower) @ thigh
        # The foot's point lies too near to the ankle for its pitch: take its heading, and set it flat.
        ahead = np.einsum("fij,fi->fj", shin, foot - ankle)
        yaw = np.clip(np.arctan2(ahead[:, 0], np.maximum(ahead[:, 2], 1e-6)), -0.6, 0.6)
        yaw = np.where(np.hypot(ahead[:, 0], ahead[:, 2]) > 0.02, yaw, 0)
        sole = shin @ rotations(yaw[:, None] * np.array([0, 1.0, 0]))
        front = sole[:, :, 2]
        flat = front * (1, 0, 1)
        flat = np.where(np.linalg.norm(flat, axis=1, keepdims=True) > 0.3, flat, front)
        level = _limited(rotation_between(front, flat), np.radians(35))
        sole = level @ sole
        for name, table in (("thigh", thigh), ("shin", shin), ("foot", sole), ("toes", sole)):
            world[:, INDEX[f"{side}_{name}"]] = table
    return [Pose.from_world(table) for table in world]


def _hinged(natural: np.ndarray, upper: np.ndarray, lower: np.ndarray, *, along: np.ndarray, toward: np.ndarray):
    """Return `natural` `(F, 3, 3)` twisted so that the joint bends `toward`, as far as the bend shows the plane.

    Args:
        natural: Rotations of the upper bone without twist.
        upper: `(F, 3)` its direction.
        lower: `(F, 3)` direction of the bone beyond the joint.
        along: The upper bone's direction in the reference pose.
        toward: Where the lower bone goes when the joint bends, in the reference pose.
    """
    ahead = np.einsum("fij,j->fi", natural, toward)
    bent = lower - upper * (lower * upper).sum(-1, keepdims=True)
    sine = np.linalg.norm(bent, axis=-1)
    angle = np.arctan2((np.cross(ahead, bent) * upper).sum(-1), (ahead * bent).sum(-1))
    trust = np.clip((sine - 0.17) / 0.35, 0, 1)  # from 10 degrees of bend, full from 31
    angle = np.clip(angle * trust, -np.radians(100), np.radians(100))
    return rotations(upper * angle[:, None]) @ natural


def read_kinect(path: str | Path) -> dict[str, np.ndarray]:
    """Read Kinect sequences from an NPZ file of arrays `(F, 20, 3)` in millimetres, by name.

    Raises:
        MotionError: The file is missing, damaged, or holds something else.
    """
    try:
        with np.load(path) as file:
            out = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise MotionError(f"{path}: no such file; expected an NPZ of Kinect joint sequences") from None
    except Exception as error:
        raise MotionError(f"{path}: not a readable NPZ file ({error})") from None
    wrong = [n for n, a in out.items() if a.ndim != 3 or a.shape[1:] != (20, 3)]
    if wrong or not out:
        raise MotionError(f"{path}: expected arrays of shape (frames, 20, 3); {', '.join(wrong[:3]) or 'none found'}")
    return out


class MotionLibrary:
    """Draws poses from motion files and Kinect sequences; files are read when first drawn.

    Args:
        paths: Files for `read_motion`, and `.npz` files for `read_kinect`.
        keep: Which Kinect sequences to use, by name; all when not given.

    Raises:
        MotionError: There are no files, or one has an unknown ending.
    """

    def __init__(self, paths: Sequence[str | Path], *, keep: Callable[[str], bool] | None = None) -> None:
        self.paths = [Path(p) for p in paths]
        if not self.paths:
            raise MotionError("no motion files given; expected .bvh, .amc (or gzipped) or Kinect .npz files")
        for path in self.paths:
            if not path.name.endswith((".npz", ".bvh", ".amc", ".bvh.gz", ".amc.gz")):
                raise MotionError(f"{path}: expected a file that ends in .bvh, .amc, .bvh.gz, .amc.gz or .npz")
        self.keep = keep
        self._clips: dict[Path, Motion] = {}
        self._kinect: dict[Path, list[np.ndarray]] = {}

    @classmethod
    def in_folders(cls, *folders: str | Path, keep: Callable[[str], bool] | None = None) -> MotionLibrary:
        """Return a library of every motion file in some folders.

        Raises:
            MotionError: A folder is missing or holds no motion file.
        """
        paths: list[Path] = []
        for folder in map(Path, folders):
            found = sorted(
                p for p in folder.glob("*") if p.name.endswith((".npz", ".bvh", ".amc", ".bvh.gz", ".amc.gz"))
            )
            if not found:
                raise MotionError(f"{folder}: no such folder, or no .bvh, .amc (or gzipped) or .npz file in it")
            paths += found
        return cls(paths, keep=keep)

    def random(self, rng: np.random.Generator, *, rig: Rig | None = None, girth: float = 1.0) -> Pose:
        """Draw a file, then a frame of it; hips look along +z, fingers are drawn when the file has none.

        Args:
            rng: The same generator state gives the same pose.
            rig: Whose bones the pose is for. Frames recorded from others can pass through a body of another shape;
                of a few draws, the first that does not is taken, else the one that does least.
            girth: The trunk's thickness, as `Body.girth` says.
        """
        best, least = None, np.inf
        for _ in range(6):
            pose = self._draw(rng)
            depth = self_overlap(pose, rig=rig, girth=girth)
            if depth <= DEPTH_ALLOWED_M:
                return pose
            if depth < least:
                best, least = pose, depth
        assert best is not None
        return best

    def _draw(self, rng: np.random.Generator) -> Pose:
        path = self.paths[rng.integers(len(self.paths))]
        if path.suffix == ".npz":
            if path not in self._kinect:
                named = {n: a for n, a in read_kinect(path).items() if self.keep is None or self.keep(n)}
                if not named:
                    raise MotionError(f"{path}: none of its sequences is kept")
                self._kinect[path] = [named[n] for n in sorted(named)]
            clip = self._kinect[path][rng.integers(len(self._kinect[path]))]
            frame = rng.integers(len(clip))
            return with_random_hands(facing_front(poses_of_kinect(clip[frame : frame + 1])[0]), rng)
        if path not in self._clips:
            self._clips[path] = read_motion(path)
        motion = self._clips[path]
        pose = motion.pose(int(rng.integers(len(motion))))
        return pose if motion.has_fingers else with_random_hands(pose, rng)
