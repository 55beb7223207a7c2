"""Keypoint sets, described once and by name.

A new data set is one `Skeleton`; channel counts, flip order, drawing and OKS all derive from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

#: Per-keypoint constants of the COCO object-keypoint similarity, by joint kind (COCO keypoint
#: evaluation; neck and head top as CrowdPose sets them).
COCO_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089, "neck": 0.079, "head_top": 0.079,
}  # fmt: skip

SIDES = (("left_", "right_"), ("right_", "left_"))


def joint_kind(keypoint: str) -> str:
    """Return a keypoint's name without its side: `left_wrist` -> `wrist`."""
    for side, _ in SIDES:
        if keypoint.startswith(side):
            return keypoint[len(side) :]
    return keypoint


def mirrored(keypoint: str) -> str:
    """Return the name of the keypoint on the other side; midline keypoints are their own mirror."""
    for side, other in SIDES:
        if keypoint.startswith(side):
            return other + keypoint[len(side) :]
    return keypoint


@dataclass(frozen=True)
class Skeleton:
    """A set of named keypoints and the limbs that join them.

    Attributes:
        name: Short identifier, such as `coco17`.
        keypoints: Names in channel order. Paired keypoints start with `left_` and `right_`, from the
            person's own point of view.
        limbs: Pairs of keypoint names, for drawing and for part affinity fields.
        sigmas: OKS constant per keypoint; COCO's constant of the same joint kind when left empty.
        torso: The two keypoints whose distance normalises PCK ("torso size"), if the set has them.

    Raises:
        ValueError: A name is repeated, a limb names an unknown keypoint, a `left_` keypoint has no
            `right_` twin, or the number of sigmas differs from the number of keypoints.
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...] = ()
    sigmas: tuple[float, ...] = field(default=())
    torso: tuple[str, str] = ("left_shoulder", "right_hip")

    def __post_init__(self) -> None:
        object.__setattr__(self, "keypoints", tuple(self.keypoints))
        object.__setattr__(self, "limbs", tuple(tuple(limb) for limb in self.limbs))
        object.__setattr__(self, "sigmas", tuple(self.sigmas))
        known = set(self.keypoints)
        if len(known) != len(self.keypoints):
            twice = sorted({k for k in self.keypoints if self.keypoints.count(k) > 1})
            raise ValueError(f"skeleton '{self.name}' names {', '.join(twice)} twice; keypoint names must differ")
        for keypoint in self.keypoints:
            if mirrored(keypoint) not in known:
                raise ValueError(
                    f"skeleton '{self.name}' has '{keypoint}' but no '{mirrored(keypoint)}'; "
                    "left_ and right_ keypoints come in pairs"
                )
        for limb in self.limbs:
            for end in limb:
                if end not in known:
                    raise ValueError(f"skeleton '{self.name}': limb {limb} names the unknown keypoint '{end}'")
        if not self.sigmas:
            kinds = (joint_kind(k) for k in self.keypoints)
            object.__setattr__(self, "sigmas", tuple(COCO_SIGMAS.get(kind, 0.079) for kind in kinds))
        if len(self.sigmas) != len(self.keypoints):
            raise ValueError(
                f"skeleton '{self.name}' has {len(self.keypoints)} keypoints but {len(self.sigmas)} sigmas; "
                "give one sigma per keypoint, or none to use COCO's"
            )

    @property
    def num_keypoints(self) -> int:
        """Number of keypoints, which is the number of heatmap channels."""
        return len(self.keypoints)

    @cached_property
    def flip_indices(self) -> tuple[int, ...]:
        """Channel order of a mirrored picture: entry `k` is the channel of keypoint `k`'s twin."""
        return tuple(self.index(mirrored(k)) for k in self.keypoints)

    @cached_property
    def limb_indices(self) -> tuple[tuple[int, int], ...]:
        """The limbs as pairs of channel indices."""
        return tuple((self.index(a), self.index(b)) for a, b in self.limbs)

    def index(self, keypoint: str) -> int:
        """Return the channel of a keypoint.

        Raises:
            KeyError: The skeleton has no keypoint of that name.
        """
        try:
            return self.keypoints.index(keypoint)
        except ValueError:
            raise KeyError(
                f"skeleton '{self.name}' has no keypoint '{keypoint}'; it has {', '.join(self.keypoints)}"
            ) from None


_ARMS_AND_LEGS = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
)  # fmt: skip

_FACE = (
    ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear"),
)  # fmt: skip

#: COCO keypoints, 17 (Lin et al. 2014, arXiv:1405.0312).
COCO17 = Skeleton(
    "coco17",
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
        "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    _FACE + _ARMS_AND_LEGS,
)  # fmt: skip

#: Leeds Sports Pose, 14 (Johnson & Everingham, BMVC 2010; extended set CVPR 2011).
LSP14 = Skeleton(
    "lsp14",
    (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
        "neck", "head_top",
    ),
    (("neck", "head_top"), *_ARMS_AND_LEGS),
)  # fmt: skip

#: Frames Labeled In Cinema, the 11 upper-body joints in use (Sapp & Taskar, CVPR 2013).
FLIC11 = Skeleton(
    "flic11",
    (
        "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
        "left_hip", "right_hip", "left_eye", "right_eye", "nose",
    ),
    (("nose", "left_eye"), ("nose", "right_eye"), *_ARMS_AND_LEGS[:8]),
)  # fmt: skip

#: Depth pose machines, 17 (Martínez-González et al., idiap): limbs run from parent to child, in the order in which
#: part affinity fields are stacked and people are put together.
DEPTH17 = Skeleton(
    "depth17",
    (
        "neck", "head", "head_top", "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow", "left_wrist",
        "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow", "right_wrist",
        "left_eye", "right_eye",
    ),
    (
        ("neck", "head"), ("head", "head_top"),
        ("neck", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
        ("neck", "left_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
        ("neck", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
        ("neck", "right_shoulder"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
        ("head", "left_eye"), ("head", "right_eye"),
    ),
    torso=("neck", "right_hip"),
)  # fmt: skip

_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
#: Keypoints of one hand that `hand25d` finds, and those that only help it learn. The paper gives their numbers,
#: 8 and 9, and not their names.
HAND_PRIMARY = (*(f"{finger}_tip" for finger in _FINGERS), "index_mcp", "thumb_mcp", "wrist")
HAND_AUXILIARY = (
    "thumb_ip", "index_pip", "index_dip", "middle_mcp", "middle_pip", "ring_mcp", "ring_pip", "pinky_mcp", "pinky_pip",
)  # fmt: skip
#: Discrete poses of a hand (the eight of the paper's data section and its dummy class).
HAND_POSES = ("ok", "open_hand", "pinch", "c_pose", "fist", "l_pose", "point", "thumbs_up", "other")
#: Directions of a palm about the hand's long axis; in a mirror, direction k is -k.
HAND_ORIENTATIONS = 8


def _two_hands(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{side}_{name}" for side in ("left", "right") for name in names)


#: Two hands of 8 keypoints (2.5D hand network).
HAND16 = Skeleton(
    "hand16",
    _two_hands(HAND_PRIMARY),
    tuple(
        (f"{side}_{a}", f"{side}_{b}")
        for side in ("left", "right")
        for a, b in (
            ("wrist", "thumb_mcp"), ("thumb_mcp", "thumb_tip"), ("wrist", "index_mcp"), ("index_mcp", "index_tip"),
            ("wrist", "middle_tip"), ("wrist", "ring_tip"), ("wrist", "pinky_tip"),
        )
    ),
    torso=("left_wrist", "left_middle_tip"),
)  # fmt: skip

#: Two hands of 17 keypoints: all that are labelled for the 2.5D hand network.
HAND34 = Skeleton("hand34", _two_hands(HAND_PRIMARY + HAND_AUXILIARY), torso=("left_wrist", "left_middle_tip"))

#: Of networks that give no keypoints: image classifiers.
NONE = Skeleton("none", ())

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO17, LSP14, FLIC11, DEPTH17, HAND16, HAND34, NONE)}


def get_skeleton(skeleton: Skeleton | str) -> Skeleton:
    """Return a skeleton given itself or its name.

    Raises:
        KeyError: No skeleton of that name exists.
    """
    if isinstance(skeleton, Skeleton):
        return skeleton
    if skeleton not in SKELETONS:
        raise KeyError(f"unknown skeleton '{skeleton}'; expected one of {', '.join(SKELETONS)} or a Skeleton")
    return SKELETONS[skeleton]
