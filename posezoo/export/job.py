"""What every exporter is given, what it gives back, and the gate that all of them share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.cards import Card
from posezoo.export.frozen import Frozen, freeze
from posezoo.export.gates import OutputReport, check, check_reacts, compare
from posezoo.export.metadata import facts
from posezoo.export.pixels import KeypointError, keypoint_error, where_it_counts
from posezoo.files import write_json
from posezoo.inference.runners import KerasRunner
from posezoo.weights import sha256

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Limits:
    """How far a file may be from its network.

    Attributes:
        min_psnr_db: Least PSNR of each output; the peak is the network's range.
        max_error: Largest difference as a share of the range, if limited.
    """

    min_psnr_db: float
    max_error: float | None = None


#: Files that compute in float32, in float16 or with float16 weights, and in int8.
#: Float32's own rounding moves single values of tags, the least steady outputs, by 1.4e-4 of their range.
FLOAT32, FLOAT16, INT8 = Limits(80.0, 5e-4), Limits(50.0, 0.03), Limits(30.0)
#: Where the weights are random each layer amplifies what rounding did before it; the float32 file of the same graph is
#: held to `FLOAT32`.
FLOAT16_UNTRAINED, INT8_UNTRAINED = Limits(40.0, 0.1), Limits(18.0)


@dataclass(frozen=True)
class Job:
    """A network on its way to a target.

    Attributes:
        network: Keras network on the TensorFlow backend, with a dict of outputs.
        card: Its card: size and scaling of the input, codec, keypoints.
        pictures: Pictures on which files are compared with the network, `(N, height, width, channels)`.
        calibration: Pictures for int8, `(height, width, channels)` each.
        trained: False for weights that nobody trained: files then only show that the structure can be taken.
        source: The file or folder that the network was read from, where it is a user's own: what a SavedModel computes
            stands there, not in the network's weights.
    """

    network: keras.Model
    card: Card
    pictures: np.ndarray
    calibration: Sequence[np.ndarray] = ()
    trained: bool = True
    source: Path | None = None

    @property
    def float16(self) -> Limits:
        """What a file with float16 weights may differ by."""
        return FLOAT16 if self.trained else FLOAT16_UNTRAINED

    @property
    def int8(self) -> Limits:
        """What an int8 file may differ by."""
        return INT8 if self.trained else INT8_UNTRAINED

    @property
    def told_weights(self) -> str:
        """What sidecars say of the weights."""
        return "trained" if self.trained else "structure only: weights that nobody trained"

    @cached_property
    def frozen(self) -> Frozen:
        """The network, simplified, as one graph of constants; made once for all targets."""
        from posezoo.export.simplify import simplified

        return freeze(simplified(self.network), self.card.input)

    @cached_property
    def frozen_for_tensorflow(self) -> Frozen:
        """As `frozen`, for files that TensorFlow runs: grouped convolutions written by groups.

        As one operation they run only on GPUs and on processors for which TensorFlow switches oneDNN on.
        """
        from posezoo.export.simplify import simplified

        if not self.frozen.grouped():
            return self.frozen
        return freeze(simplified(self.network), self.card.input, groups="apart")

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What exporters keep for each other, such as the ONNX model of an opset."""
        return {}

    @cached_property
    def reference(self) -> dict[str, np.ndarray]:
        """The network's own outputs for the pictures, one picture at a time as files are run."""
        run = KerasRunner(self.network, self.card.input)
        each = [run(picture[None]) for picture in self.pictures]
        return {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}

    @cached_property
    def where(self) -> dict[str, np.ndarray]:
        """Which values of the outputs count for the gates, see `posezoo.export.pixels.where_it_counts`."""
        return where_it_counts(self.card, self.reference) if self.trained else {}


@dataclass(frozen=True)
class Agreement:
    """What the gate measured on one runtime."""

    rows: tuple[OutputReport, ...]
    keypoints: KeypointError | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "outputs": [dataclasses.asdict(row) for row in self.rows],
            "keypoint_error": self.keypoints and dataclasses.asdict(self.keypoints),
        }


@dataclass(frozen=True)
class Made:
    """What an exporter wrote.

    Attributes:
        files: Everything that belongs to the target, the main file first; folders stand for all they hold.
        agreements: One per runtime that ran it.
        details: What else is worth knowing, for JSON.
        notes: The same in short, for people.
    """

    files: tuple[Path, ...]
    agreements: tuple[Agreement, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def beside(self, main: Path) -> Made:
        """The same, with its files in the folder of `main`, where they take their places when they are whole."""
        return dataclasses.replace(self, files=tuple(main.with_name(path.name) for path in self.files))


def agree(job: Job, run: Callable[[np.ndarray], dict[str, np.ndarray]], limits: Limits, *, kernels: str) -> Agreement:
    """Run a file on the job's pictures and compare it with the network.

    Args:
        job: The network and the pictures.
        run: The file on a runtime: pictures `(N, height, width, channels)` to float outputs by name.
        limits: What is allowed.
        kernels: Name of the runtime, for messages.

    Raises:
        GateError: Names every output that differs too much, is nearly constant or does not react to the picture.
    """
    got = run(job.pictures)
    rows = compare(job.reference, got, kernels=kernels, where=job.where)
    check_reacts(got, kernels=kernels)
    sizes = {name: value.size for name, value in got.items()}
    check(rows, min_psnr_db=limits.min_psnr_db, max_error=limits.max_error, sizes=sizes)
    return Agreement(tuple(rows), keypoint_error(job.card, job.reference, got) if job.trained else None)


def versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that made a file."""
    return {package: metadata.version(package) for package in packages}


def write_sidecar(job: Job, made: Made, *, target: str, packages: Sequence[str]) -> Made:
    """Write `FILE.json` beside the main file: hashes, versions, the gate's measurements.

    Returns:
        What was made, with the sidecar.
    """
    main = made.files[0]
    path = main.with_name(main.name + ".json")
    write_json(path, sidecar(job, made, target=target, packages=packages))
    return dataclasses.replace(made, files=(*made.files, path))


def sidecar(job: Job, made: Made, *, target: str, packages: Sequence[str]) -> dict[str, Any]:
    """What stands beside files: what they are of, their hashes, versions, the gate's measurements, details."""
    return {
        "target": target,
        "weights": job.told_weights,
        **facts(job.card),
        "files": {path.name: describe(path) for path in made.files},
        "gates": [agreement.as_dict() for agreement in made.agreements],
        "versions": versions(*packages),
        **made.details,
    }


def describe(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file; of a folder the sum and the hash of its files' names and hashes."""
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        rows = "".join(f"{p.relative_to(path).as_posix()} {sha256(p)}\n" for p in inside)
        size = sum(p.stat().st_size for p in inside)
        return {"bytes": size, "sha256": hashlib.sha256(rows.encode()).hexdigest()}
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
