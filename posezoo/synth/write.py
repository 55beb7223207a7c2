"""Data sets of synthetic samples in shards: written by many workers, continued after a kill, read at random.

A sample depends on the seed and its number alone, so the number of workers, the order in which they finish and
interruptions change nothing. A shard gets its name when it is complete, so a file that is there is whole.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posezoo.errors import UserError
from posezoo.files import replacing
from posezoo.synth.camera import Intrinsics
from posezoo.synth.scene import BodySource, Recipe, SynthSample, make_sample
from posezoo.synth.sensor import Backgrounds

log = logging.getLogger(__name__)

#: Of the files, not of the samples; readers refuse others.
FORMAT = 1
INDEX = "dataset.json"

#: Pictures that a shard may hold: how they are packed.
PICTURES = ("depth", "labels", "rgb", "amplitude")


class DatasetError(UserError):
    """A folder that holds no data set, another one, or a damaged one."""


class ShardPlan(ABC):
    """How a data set's samples are dealt out to files; what `write_dataset` needs to know of a job.

    Attributes:
        images: How many samples.
        shard_size: Samples per file.
        file_format: "npz" or "tfrecord".
    """

    images: int
    shard_size: int
    file_format: str

    def __post_init__(self) -> None:
        if self.images < 1 or self.shard_size < 1:
            raise UserError(f"{self.images} images in shards of {self.shard_size}: both must be at least 1")

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.images // self.shard_size)

    def numbers(self, shard: int) -> range:
        """Return the numbers of a shard's samples."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.images))

    def file(self, shard: int) -> str:
        """Return a shard's file name."""
        return f"shard-{shard:05d}.{self.file_format}"

    @abstractmethod
    def prepare(self) -> None:
        """Fail at once where something is missing."""

    @abstractmethod
    def described(self) -> dict:
        """Return what the index file says: all that the samples depend on."""

    @abstractmethod
    def arrays(self, shard: int) -> dict[str, np.ndarray]:
        """Make the arrays of one shard; `counts` has one number per sample."""


@dataclass(frozen=True)
class Job(ShardPlan):
    """A data set of people to be made.

    Attributes:
        bodies: Source of people; must be picklable when there are workers.
        images: How many samples.
        seed: Of every random number.
        recipe: How samples are made.
        backgrounds: Folder of real depth frames without people, or None.
        shard_size: Samples per file.
        file_format: "npz", or "tfrecord", which needs TensorFlow.
        told: What else distinguishes this data set, such as the name of its source of people; a run is only continued
            where this is equal.
    """

    bodies: BodySource
    images: int
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    backgrounds: str | None = None
    shard_size: int = 100
    file_format: Literal["npz", "tfrecord"] = "npz"
    told: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.file_format not in ("npz", "tfrecord"):
            raise UserError(f"unknown file format '{self.file_format}'; expected npz or tfrecord")

    def prepare(self) -> None:
        """Fail at once where something is missing."""
        if self.file_format == "tfrecord":
            _tensorflow()
        if self.backgrounds:
            _backgrounds(self.backgrounds)

    def described(self) -> dict:
        """Return what the index file says: all that the samples depend on."""
        recipe = json.loads(json.dumps(dataclasses.asdict(self.recipe)))
        if not self.recipe.empty:  # data sets made before there was this choice are continued
            del recipe["empty"]
        return {
            "format": FORMAT, "file_format": self.file_format, "images": self.images, "shard_size": self.shard_size,
            "seed": self.seed, "recipe": recipe,
            "backgrounds": self.backgrounds, **self.told,
        }  # fmt: skip

    def sample(self, number: int) -> SynthSample:
        """Make one sample; everything random comes from the seed and its number."""
        backgrounds = _backgrounds(self.backgrounds) if self.backgrounds else None
        made = make_sample(
            np.random.default_rng((self.seed, number)), self.bodies, self.recipe, backgrounds=backgrounds
        )
        made.meta |= {"seed": self.seed, "index": number}
        return made

    def arrays(self, shard: int) -> dict[str, np.ndarray]:
        """Make the arrays of one shard."""
        return pack([self.sample(number) for number in self.numbers(shard)], ranked=self.file_format == "npz")


_OPEN_BACKGROUNDS: dict[str, Backgrounds] = {}


def _backgrounds(folder: str) -> Backgrounds:
    if folder not in _OPEN_BACKGROUNDS:
        _OPEN_BACKGROUNDS[folder] = Backgrounds(folder)
    return _OPEN_BACKGROUNDS[folder]


# ------------------------------------------------------------------------------------------------ packing


#: Depth with no more values than this is stored as their ranks.
MOST_LEVELS = 2048


def pack(samples: Sequence[SynthSample], *, ranked: bool = True) -> dict[str, np.ndarray]:
    """Turn samples into the arrays of one shard. Depth and labels become PNG, colour JPEG.

    Args:
        samples: What to pack.
        ranked: Store depth of few values, as sensors with steps of disparity give it, as ranks into a table of these
            values (`levels`): a Kinect 1's picture takes 27 kB instead of 49.
    """
    cv2 = _cv2()
    png = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # higher levels save a tenth in four times the time
    blobs: dict[str, list[np.ndarray]] = {name: [] for name in PICTURES}
    levels = []
    for s in samples:
        values = np.flatnonzero(np.bincount(s.depth.ravel()))
        if ranked and len(values) <= MOST_LEVELS:
            rank = np.zeros(values[-1] + 1, np.uint16)
            rank[values] = np.arange(len(values))
            blobs["depth"].append(encoded(".png", rank[s.depth], png))
            levels.append(values.astype(np.uint16))
        else:
            blobs["depth"].append(encoded(".png", s.depth, png))
            levels.append(np.zeros(0, np.uint16))
        blobs["labels"].append(encoded(".png", (s.people.astype(np.uint16) << 8) | s.parts, png))
        if s.rgb is not None:
            blobs["rgb"].append(encoded(".jpg", np.ascontiguousarray(s.rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95]))
        if s.amplitude is not None:
            blobs["amplitude"].append(encoded(".png", s.amplitude, png))
    meta = [np.frombuffer(json.dumps(s.meta).encode(), np.uint8) for s in samples]
    # A scene without people knows no landmark names; the others of the shard tell them.
    names: tuple[str, ...] = next((s.names for s in samples if s.names), ())
    shard = {
        "names": np.array(names),
        "counts": np.array([len(s.landmarks_px) for s in samples], np.int32),
        "landmarks_px": _joined([s.landmarks_px for s in samples], (len(names), 2), np.float32),
        "landmarks_mm": _joined([s.landmarks_mm for s in samples], (len(names), 3), np.float32),
        "visibility": _joined([s.visibility for s in samples], (len(names),), np.uint8),
        "boxes": _joined([s.boxes for s in samples], (4,), np.float32),
        "cameras": np.array([_camera_row(s) for s in samples], np.float64),
    }
    return shard | joined_blobs({**blobs, "meta": meta, **({"levels": levels} if ranked else {})})


def encoded(suffix: str, picture: np.ndarray, options: list[int]) -> np.ndarray:
    """Return the bytes of a picture file, uint8.

    Raises:
        DatasetError: OpenCV refuses.
    """
    done, data = _cv2().imencode(suffix, picture, options)
    if not done:
        raise DatasetError(f"OpenCV could not encode a picture of {picture.dtype} {picture.shape} as {suffix}")
    return data.ravel()


def joined_blobs(blobs: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return each name's rows as one array and, as `<name>_ends`, where each of them ends; none of empty lists."""
    out = {}
    for name, rows in blobs.items():
        if rows:
            out[name] = np.concatenate(rows)
            out[f"{name}_ends"] = np.cumsum([len(r) for r in rows])
    return out


def blob(shard: Mapping[str, np.ndarray], name: str, row: int) -> np.ndarray:
    """Return one row of what `joined_blobs` joined."""
    ends = shard[f"{name}_ends"]
    return shard[name][ends[row - 1] if row else 0 : ends[row]]


def _joined(rows: list[np.ndarray], shape: tuple[int, ...], dtype) -> np.ndarray:
    filled = [r for r in rows if len(r)]
    return np.concatenate(filled).astype(dtype) if filled else np.zeros((0, *shape), dtype)


def _camera_row(s: SynthSample) -> list[float]:
    i = s.intrinsics
    return [i.fx, i.fy, i.cx, i.cy, i.width, i.height, *s.rotation.ravel().tolist(), *s.position.tolist()]


def unpack(shard: dict[str, np.ndarray], row: int) -> SynthSample:
    """Return one sample of a shard's arrays."""
    cv2 = _cv2()
    depth = cv2.imdecode(blob(shard, "depth", row), cv2.IMREAD_UNCHANGED)
    if "levels" in shard and len(blob(shard, "levels", row)):
        depth = blob(shard, "levels", row)[depth]
    counts = shard["counts"]
    first = int(counts[:row].sum())
    mine = slice(first, first + int(counts[row]))
    labels = cv2.imdecode(blob(shard, "labels", row), cv2.IMREAD_UNCHANGED)
    camera = shard["cameras"][row]
    fx, fy, cx, cy, width, height = camera[:6]
    sample = SynthSample(
        depth=depth,
        parts=(labels & 255).astype(np.uint8),
        people=(labels >> 8).astype(np.uint8),
        landmarks_px=shard["landmarks_px"][mine],
        landmarks_mm=shard["landmarks_mm"][mine],
        visibility=shard["visibility"][mine],
        boxes=shard["boxes"][mine],
        names=tuple(str(n) for n in shard["names"]),
        intrinsics=Intrinsics(float(fx), float(fy), float(cx), float(cy), int(width), int(height)),
        rotation=camera[6:15].reshape(3, 3).astype(np.float32),
        position=camera[15:].astype(np.float32),
        meta=json.loads(blob(shard, "meta", row).tobytes()),
    )
    if "rgb" in shard:
        sample.rgb = np.ascontiguousarray(cv2.imdecode(blob(shard, "rgb", row), cv2.IMREAD_COLOR)[..., ::-1])
    if "amplitude" in shard:
        sample.amplitude = cv2.imdecode(blob(shard, "amplitude", row), cv2.IMREAD_UNCHANGED)
    return sample


def _cv2():
    import cv2

    return cv2


# ------------------------------------------------------------------------------------------------ writing


def write_dataset(
    out: Path | str,
    job: ShardPlan,
    *,
    workers: int = 1,
    ray: bool = False,
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> int:
    """Write a data set, or what is missing of it.

    Args:
        out: Folder. One that holds a part of the same data set is continued; asking for more images than it was made
            for adds them.
        job: What to make.
        workers: Processes; 1 works in this one. With `ray`, how many tasks at a time, 0 for as many as the cluster has
            processors.
        ray: Work on a Ray cluster: that of `RAY_ADDRESS`, else one on this machine.
        progress: Wraps the iteration over shards, given it and its length.

    Returns:
        How many samples were made now.

    Raises:
        DatasetError: The folder holds a data set of other settings, or another run writes to it.
        UserError: An extra is missing.
    """
    out = Path(out)
    job.prepare()
    out.mkdir(parents=True, exist_ok=True)
    with _only_writer(out):
        _check_same(out, job)
        for leftover in out.glob(".*.shard-*"):
            leftover.unlink()
        todo = [i for i in range(job.shards) if _samples_in(out / job.file(i)) != len(job.numbers(i))]
        _write_index(out, job)
        if ray:
            made = _on_ray(job, todo, workers)
        elif workers > 1 and len(todo) > 1:
            made = _in_processes(job, todo, min(workers, len(todo)))
        else:
            made = ((number, job.arrays(number)) for number in todo)
        done = 0
        for number, shard in progress(made, len(todo)) if progress else made:
            with replacing(out / job.file(number)) as path:
                if job.file_format == "npz":
                    with path.open("wb") as file:
                        np.savez(file, **shard)
                else:
                    _write_tfrecord(path, shard)
            done += len(job.numbers(number))
    return done


def _write_index(out: Path, job: ShardPlan) -> None:
    with replacing(out / INDEX) as path:
        path.write_text(json.dumps(job.described(), indent=1) + "\n")


def _check_same(out: Path, job: ShardPlan) -> None:
    if not (out / INDEX).exists():
        if any(out.glob("shard-*")):
            raise DatasetError(f"{out}: holds shards but no {INDEX}; give another folder")
        return
    there, here = read_index(out), job.described()
    differ = [k for k in sorted({*there, *here}) if k != "images" and there.get(k) != here.get(k)]
    if differ:
        told = "; ".join(_difference(k, there.get(k), here.get(k)) for k in differ)
        raise DatasetError(f"{out}: holds a data set of other settings ({told}); give another folder")
    if there["images"] > job.images:
        raise DatasetError(
            f"{out}: holds a data set of {there['images']} images, asked for {job.images}; give another folder"
        )


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
        return "; ".join(_difference(f"{name}.{k}", there.get(k), here.get(k)) for k in keys)
    return f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else "other values"


def read_index(folder: Path | str) -> dict:
    """Return what a data set's index file says.

    Raises:
        DatasetError: There is none, or it is damaged or of another version.
    """
    path = Path(folder) / INDEX
    try:
        index = json.loads(path.read_text())
        form = index["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder}: no synthetic data set: {path.name} is missing or damaged ({error})") from error
    if form != FORMAT:
        raise DatasetError(f"{folder}: format {form}, this version reads {FORMAT}; make the data set again")
    return index


def _samples_in(path: Path) -> int:
    """Number of samples in a shard; 0 where it is missing or damaged, so that it is made anew."""
    if not path.exists():
        return 0
    try:
        if path.suffix == ".npz":
            with np.load(path) as shard:
                return len(shard["counts"])
        return sum(1 for _ in _tensorflow().data.TFRecordDataset(str(path)))
    except Exception as error:  # noqa: BLE001  zip, NumPy and TensorFlow each raise their own kind
        log.warning("%s: damaged, is made again (%s)", path, error)
        return 0


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Refuse a second run on the same folder. The lock ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DatasetError(f"{out}: another run writes to this folder; wait for it, or give another") from error
        yield


# ------------------------------------------------------------------------------------------------ workers

_JOB: ShardPlan | None = None


def _start_worker(job: ShardPlan) -> None:
    global _JOB
    _JOB = job
    _cv2().setNumThreads(1)


def _work(shard: int) -> tuple[int, dict[str, np.ndarray]]:
    assert _JOB is not None
    return shard, _JOB.arrays(shard)


def _in_processes(job: ShardPlan, todo: list[int], workers: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    import multiprocessing

    # Processes that are started anew, not forked: forked ones inherit the locks of TensorFlow's and OpenCV's threads.
    # A pool's processes end by themselves when the parent is killed, as their pipes close.
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker, (job,)) as pool:
        yield from pool.imap_unordered(_work, todo)


def _on_ray(job: ShardPlan, todo: list[int], workers: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray; install it by: pip install 'posezoo[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        limit = workers if workers > 0 else max(1, int(ray.cluster_resources().get("CPU", 1)))

        def work(job: ShardPlan, shard: int) -> tuple[int, dict[str, np.ndarray]]:
            _start_worker(job)
            return _work(shard)

        remote, shared = ray.remote(num_cpus=1)(work), ray.put(job)
        waiting, running = list(reversed(todo)), list[Any]()
        while waiting or running:
            # Twice as many as run, so that none waits for the next.
            while waiting and len(running) < 2 * limit:
                running.append(remote.remote(shared, waiting.pop()))
            finished, running = ray.wait(running, num_returns=1)
            yield from ray.get(finished)
    finally:
        if ours:
            ray.shutdown()


# ----------------------------------------------------------------------------------------------- TFRecord


def _tensorflow():
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError("TFRecord files need TensorFlow; install it by: pip install 'posezoo[keras]'") from error
    return tf


def _write_tfrecord(path: Path, shard: dict[str, np.ndarray]) -> None:
    """Write one `tf.train.Example` per sample; its features carry the names of the shard's arrays."""
    tf = _tensorflow()

    def example(row: int) -> bytes:
        features = {}
        for name in (*PICTURES, "meta"):
            if name in shard:
                data = blob(shard, name, row).tobytes()
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        first = int(shard["counts"][:row].sum())
        mine = slice(first, first + int(shard["counts"][row]))
        for name in ("landmarks_px", "landmarks_mm", "boxes"):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=shard[name][mine].ravel()))
        features["cameras"] = tf.train.Feature(float_list=tf.train.FloatList(value=shard["cameras"][row]))
        features["visibility"] = tf.train.Feature(
            int64_list=tf.train.Int64List(value=shard["visibility"][mine].ravel())
        )
        features["counts"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(shard["counts"][row])]))
        names = [str(n).encode() for n in shard["names"]]
        features["names"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=names))
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(len(shard["counts"])):
            writer.write(example(row))


def read_tfrecord(path: Path | str) -> Iterator[SynthSample]:
    """Yield the samples of a TFRecord shard. `tf.io.parse_example` reads the same features in a training pipeline."""
    shard = _tfrecord_arrays(path)
    for row in range(len(shard["counts"])):
        yield unpack(shard, row)


#: Features of numbers: type, and what is known of the shape of one sample's.
_NUMBERS: dict[str, tuple[type, tuple[int, ...]]] = {
    "landmarks_px": (np.float32, (-1, 2)), "landmarks_mm": (np.float32, (-1, 3)), "visibility": (np.uint8, (-1,)),
    "boxes": (np.float32, (-1, 4)), "cameras": (np.float64, (1, -1)), "counts": (np.int32, (1,)),
}  # fmt: skip


def _tfrecord_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """Read a TFRecord shard into the arrays that `pack` made."""
    tf = _tensorflow()
    records = [tf.train.Example.FromString(r.numpy()).features.feature for r in tf.data.TFRecordDataset(str(path))]
    names = next((list(r["names"].bytes_list.value) for r in records if r["names"].bytes_list.value), [])
    shard = {"names": np.array([name.decode() for name in names])}
    for name, (kind, shape) in _NUMBERS.items():
        values = [r[name].float_list.value or r[name].int64_list.value for r in records]
        shard[name] = np.concatenate([np.array(v, kind).reshape(shape) for v in values])
    for name in ("landmarks_px", "landmarks_mm", "visibility"):
        shard[name] = shard[name].reshape(-1, len(names), *shard[name].shape[1:])
    blobs = {
        name: [np.frombuffer(r[name].bytes_list.value[0], np.uint8) for r in records if name in r]
        for name in (*PICTURES, "meta")
    }
    return shard | joined_blobs(blobs)


# ------------------------------------------------------------------------------------------------ reading


class ShardFolder:
    """A data set's shards, by the number of a sample. Shards that are not written yet are left out.

    Can be sent to other processes; each then keeps its own shards in memory.

    Args:
        folder: What `write_dataset` wrote, as NPZ or TFRecord.
        kind: What its samples are of, see `read_index`.
        cache_bytes: Memory for shards, which stay compressed in it.

    Attributes:
        about: What the index file says of the data set.

    Raises:
        DatasetError: No data set of this kind, or none of its shards is written.
    """

    def __init__(self, folder: Path | str, *, kind: str, cache_bytes: int):
        self.folder = Path(folder)
        self.about = read_index(folder)
        if self.about.get("kind", "people") != kind:
            raise DatasetError(f"{folder}: holds a data set of {self.about['kind']}, expected one of {kind}")
        if self.about["file_format"] == "tfrecord":
            _tensorflow()
        size, images = self.about["shard_size"], self.about["images"]
        self._rows: list[tuple[int, int]] = []
        for shard in range(-(-images // size)):
            if self._path(shard).exists():
                self._rows += [(shard, row) for row in range(min(size, images - shard * size))]
        if not self._rows:
            raise DatasetError(f"{folder}: no shard is written yet; run the command that makes it again")
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": OrderedDict()}

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.{self.about['file_format']}"

    @property
    def complete(self) -> bool:
        """Whether every sample of the data set is there."""
        return len(self) == self.about["images"]

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> tuple[dict[str, np.ndarray], int]:
        """Return the arrays of a sample's shard and the sample's row in them.

        Raises:
            DatasetError: The shard is damaged.
        """
        shard, row = self._rows[number]
        return self._shard(shard), row

    def _shard(self, number: int) -> dict[str, np.ndarray]:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        path = self._path(number)
        try:
            if path.suffix == ".tfrecord":
                shard = _tfrecord_arrays(path)
            else:
                with np.load(path) as file:
                    shard = {name: file[name] for name in file.files}
        except Exception as error:  # noqa: BLE001  zip and NumPy each raise their own kind
            raise DatasetError(
                f"{path}: damaged ({error}); the command that made the data set makes it again"
            ) from error
        self._cache[number] = shard
        while (
            len(self._cache) > 1 and sum(a.nbytes for s in self._cache.values() for a in s.values()) > self.cache_bytes
        ):
            self._cache.popitem(last=False)
        return shard


class SynthShards(ShardFolder, Sequence[SynthSample]):
    """The samples of a data set of people, by number; see `ShardFolder`.

    Args:
        folder: What `write_dataset` wrote, as NPZ or TFRecord.
        cache_bytes: Memory for shards, which stay compressed in it.

    Raises:
        DatasetError: No data set of people, or none of its shards is written.
    """

    def __init__(self, folder: Path | str, *, cache_bytes: int = 2 << 30):
        super().__init__(folder, kind="people", cache_bytes=cache_bytes)

    def __getitem__(self, number):
        """Return one sample, or a list of them for a slice.

        Raises:
            DatasetError: Its shard is damaged.
        """
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        return unpack(*self.row(number))
