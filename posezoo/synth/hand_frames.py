"""Data sets of rendered hands: written in shards by many workers, read one frame at a time.

    frames = SynthHands("hands")
    frame = frames[0]

As with people, a frame depends on the seed and its number alone. Depth is kept in steps that grow with its noise,
amplitude as one byte on a scale on which its noise is even: a frame takes about 27 kB.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from posezoo.data.hand_frames import SEEN, HandFrame
from posezoo.errors import UserError
from posezoo.skeletons import HAND34
from posezoo.synth.hand_arms import Kind
from posezoo.synth.hand_backgrounds import Wide, egocentric_view, facing_view
from posezoo.synth.hand_labels import recorded_angles
from posezoo.synth.hand_scene import HandRecipe, make_frame
from posezoo.synth.hand_shape import HandShape, builtin_hand, makehuman_hand, resized
from posezoo.synth.makehuman import MakeHumanPeople
from posezoo.synth.sensor import Sensor, get_sensor
from posezoo.synth.write import FORMAT, ShardFolder, ShardPlan, blob, encoded, joined_blobs

_SPLITS = {"all": 0, "train": 1, "test": 2}
#: Beginnings of the seeds of hands and of backgrounds, beside the split's number.
_HANDS, _WIDES = 7411, 7412

#: Frames that share a few backgrounds, how many of each kind, and the share of frames with nothing behind.
BLOCK, WIDES, NOTHING_SHARE = 120, {"egocentric": 2, "facing": 1}, 0.15


@dataclass(frozen=True)
class HandJob(ShardPlan):
    """A data set of hands to be made.

    Attributes:
        images: How many frames.
        seed: Of every random number, but for the sizes of hands, which belong to the recipe's split.
        recipe: How frames are made.
        hands: `("builtin",)`, or `("makehuman", folder)`: half of the hands are MakeHuman's then.
        labels: Folder with labels of real hands that poses are drawn from, see `hand_labels`; or None.
        shard_size: Frames per file.
        file_format: "npz".
    """

    images: int
    seed: int = 0
    recipe: HandRecipe = field(default_factory=HandRecipe)
    hands: tuple[str, ...] = ("builtin",)
    labels: str | None = None
    shard_size: int = 500
    file_format: str = "npz"

    def prepare(self) -> None:
        """Fail at once where something is missing."""
        if self.hands != ("builtin",) and not (len(self.hands) == 2 and self.hands[0] == "makehuman"):
            raise UserError(f"hands {' '.join(self.hands)}: expected builtin, or makehuman FOLDER")
        for number in (0, 1):
            self._hand(number)
        self._recorded()

    def described(self) -> dict:
        """Return what the index file says: all that the frames depend on."""
        return {
            "format": FORMAT, "kind": "hands", "file_format": self.file_format, "images": self.images,
            "shard_size": self.shard_size, "seed": self.seed, "hands": list(self.hands), "labels": self.labels,
            "recipe": json.loads(json.dumps(dataclasses.asdict(self.recipe))),
        }  # fmt: skip

    def _hand(self, number: int) -> HandShape:
        return _hand(self.hands, self.recipe.split, number)

    def _recorded(self) -> np.ndarray | None:
        return None if self.labels is None else recorded_angles(self.labels, self.recipe.split)

    def sample(self, number: int) -> HandFrame:
        """Make one frame; everything random comes from the seed and its number."""
        rng = np.random.default_rng((self.seed, number))
        kind: Kind = "facing" if rng.random() < self.recipe.facing_share else "egocentric"
        wide = None
        if rng.random() >= NOTHING_SHARE:
            which = number // BLOCK * WIDES[kind] + int(rng.integers(WIDES[kind]))
            wide = _wide(kind, self.recipe.split, self.seed, which)
        frame = make_frame(rng, self._hand, self.recipe, kind=kind, wide=wide, recorded=self._recorded())
        return stored(frame, self.recipe)

    def arrays(self, shard: int) -> dict[str, np.ndarray]:
        """Make the arrays of one shard."""
        return pack([self.sample(number) for number in self.numbers(shard)], self.recipe)


#: People of MakeHuman's mesh whose hands are taken; each hand's size is then varied as the built-in one's.
MAKEHUMAN_PEOPLE = 400


@lru_cache(maxsize=256)
def _hand(source: tuple[str, ...], split: str, number: int) -> HandShape:
    """Return a hand; even numbers are MakeHuman's where there are such."""
    rng = np.random.default_rng((_HANDS, _SPLITS[split], number))
    if source[0] == "makehuman" and number % 2 == 0:
        return resized(_person_hand(source[1], split, number // 2 % MAKEHUMAN_PEOPLE), rng, size=0.6)
    return resized(builtin_hand(), rng)


@lru_cache(maxsize=MAKEHUMAN_PEOPLE)
def _person_hand(folder: str, split: str, person: int) -> HandShape:
    rng = np.random.default_rng((_HANDS, _SPLITS[split], 1, person))
    return makehuman_hand(MakeHumanPeople(folder).left_arm(rng))


@lru_cache(maxsize=6)
def _wide(kind: Kind, split: str, seed: int, number: int) -> Wide:
    make = facing_view if kind == "facing" else egocentric_view
    return make(np.random.default_rng((_WIDES, _SPLITS[split], seed, number)))


def demo_frame(seed: int = 0) -> HandFrame:
    """Return an egocentric frame with both hands, wholly on the picture and mostly seen, for demonstrations."""
    recipe = HandRecipe()
    size = np.array([recipe.width, recipe.height]) - 1
    best, most = None, -1
    for attempt in range(200):
        rng = np.random.default_rng((seed, attempt))
        wide = _wide("egocentric", recipe.split, seed, attempt // 20)
        frame = make_frame(
            rng, lambda n: _hand(("builtin",), recipe.split, n), recipe, kind="egocentric", wide=wide, count=2
        )
        assert frame.present is not None
        points = frame.keypoints[:, :2]
        inside = frame.present.all() and ((points >= 0) & (points <= size)).all()
        seen = int((frame.keypoints[:, 2] == SEEN).reshape(2, -1).sum(axis=1).min()) if inside else 0
        if seen > most:
            best, most = frame, seen
        if most >= 11:
            break
    assert best is not None
    return best


# ------------------------------------------------------------------------------------------------ packing

#: Steps of stored depth in standard deviations of its noise, near and far, and where "far" begins and is reached.
_NEAR_STEP, _FAR_STEP, _FAR_M = 1.0, 3.0, (0.9, 1.3)


@lru_cache(maxsize=4)
def depth_levels(sensor_name: str) -> np.ndarray:
    """Return the millimetres that stored depth may have, uint16 `(L,)`, rising from 0."""
    sensor: Sensor = get_sensor(sensor_name)
    levels = [0.0, 1.0]
    while levels[-1] < 65535:
        at = min(levels[-1] / 1000, sensor.farthest_m)
        share = float(np.interp(at, _FAR_M, (_NEAR_STEP, _FAR_STEP)))
        levels.append(levels[-1] + max(1.0, share * 1000 * float(sensor.range_sigma_m(at))))
    return np.unique(np.minimum(np.rint(levels), 65535)).astype(np.uint16)


@lru_cache(maxsize=4)
def _nearest_level(sensor_name: str) -> np.ndarray:
    levels = depth_levels(sensor_name).astype(float)
    rank = np.searchsorted((levels[1:] + levels[:-1]) / 2, np.arange(65536)).astype(np.uint16)
    rank[1] = max(rank[1], 1)
    return rank


#: Amplitude a in 0..1 is stored as sqrt(a + offset), in this many steps. Its noise is that of photons and read-out.
_OFFSET, _STEPS = 0.01, 127


@lru_cache(maxsize=1)
def _amplitude_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return code of each of 65536 amplitudes (uint8) and amplitude of each code (uint16)."""
    low, high = np.sqrt(_OFFSET), np.sqrt(1 + _OFFSET)
    code = np.rint(_STEPS * (np.sqrt(np.arange(65536) / 65535 + _OFFSET) - low) / (high - low)).astype(np.uint8)
    value = (np.arange(_STEPS + 1) / _STEPS * (high - low) + low) ** 2 - _OFFSET
    return code, np.rint(65535 * np.clip(value, 0, 1)).astype(np.uint16)


def stored(frame: HandFrame, recipe: HandRecipe) -> HandFrame:
    """Return a frame as it is after it was stored: depth and amplitude in steps. Exact frames stay."""
    assert frame.depth is not None and frame.amplitude is not None
    if recipe.exact:
        return frame
    code, value = _amplitude_tables()
    depth = depth_levels(recipe.sensor)[_nearest_level(recipe.sensor)[frame.depth]]
    return dataclasses.replace(frame, depth=depth, amplitude=value[code[frame.amplitude]])


def pack(frames: Sequence[HandFrame], recipe: HandRecipe) -> dict[str, np.ndarray]:
    """Turn stored frames into the arrays of one shard; pictures become PNG."""
    import cv2

    # Differences along rows, then run lengths: to try every filter would save 3 % in twice the time.
    png = [
        cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB,
    ]  # fmt: skip
    blobs: dict[str, list[np.ndarray]] = {"depth": [], "amplitude": [], "segmentation": []}
    for frame in frames:
        assert frame.depth is not None and frame.amplitude is not None and frame.segmentation is not None
        light, depth = frame.amplitude, frame.depth
        if not recipe.exact:
            light, depth = _amplitude_tables()[0][light], _nearest_level(recipe.sensor)[depth]
        blobs["amplitude"].append(encoded(".png", light, png))
        # Low and high bytes as two pictures, one above the other: side by side they would spoil each other's filters.
        blobs["depth"].append(encoded(".png", np.concatenate([depth & 255, depth >> 8]).astype(np.uint8), png))
        blobs["segmentation"].append(encoded(".png", frame.segmentation, png))
    return {
        "counts": np.array([f.present.sum() for f in frames if f.present is not None], np.int32),
        "keypoints": np.stack([f.keypoints for f in frames]),
        "keypoints_mm": np.stack([f.keypoints_mm for f in frames if f.keypoints_mm is not None]),
        "present": np.stack([f.present for f in frames if f.present is not None]),
        "orientation": np.stack([f.orientation for f in frames if f.orientation is not None]),
        "pose": np.stack([f.pose for f in frames if f.pose is not None]),
        "cameras": np.array([f.camera for f in frames], np.float64),
        **({} if recipe.exact else {"levels": depth_levels(recipe.sensor), "values": _amplitude_tables()[1]}),
        **joined_blobs(blobs),
    }


def unpack(shard: dict[str, np.ndarray], row: int) -> HandFrame:
    """Return one frame of a shard's arrays; no other frame's pictures are decoded."""
    import cv2

    names = ("depth", "amplitude", "segmentation")
    both, light, mask = (np.asarray(cv2.imdecode(blob(shard, n, row), cv2.IMREAD_UNCHANGED)) for n in names)
    low, high = np.split(both.astype(np.uint16), 2)
    depth = low | high << 8
    if "levels" in shard:
        depth, light = shard["levels"][depth], shard["values"][light]
    fx, fy, cx, cy = shard["cameras"][row].tolist()
    return HandFrame(
        shard["keypoints"][row], depth, light, mask, shard["keypoints_mm"][row],
        shard["present"][row], shard["orientation"][row], shard["pose"][row], (fx, fy, cx, cy),
    )  # fmt: skip


class SynthHands(ShardFolder):
    """The frames of a folder that `posezoo synth --hands` wrote, for training and evaluation.

    Shards stay compressed in memory and only the wanted frame is decoded (about 1 ms), so that frames may be drawn at
    random from a few shards at a time, and from all of them where `cache_bytes` holds them.

    Args:
        folder: The data set.
        first: Number of the first frame to take.
        count: How many frames to take; all by default.
        cache_bytes: Memory for shards.

    Raises:
        DatasetError: No data set of hands, or none of its shards is written.
    """

    def __init__(
        self, folder: Path | str, *, first: int = 0, count: int | None = None, cache_bytes: int = 1 << 30
    ) -> None:
        super().__init__(folder, kind="hands", cache_bytes=cache_bytes)
        self.name, self.skeleton = Path(folder).name, HAND34
        if not 0 <= first <= len(self._rows):
            raise UserError(f"first frame {first} of {len(self._rows)}: expected 0 to {len(self._rows)}")
        self._rows = self._rows[first : None if count is None else first + count]

    def __getitem__(self, index: int, /) -> HandFrame:
        """Return one frame.

        Raises:
            DatasetError: Its shard is damaged.
        """
        return unpack(*self.row(index))
