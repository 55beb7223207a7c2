"""What rounding did to a file's outputs, in numbers that users care about: levels used, key-points moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.codecs import CODECS
from posezoo.inference.estimator import PoseModel
from posezoo.inference.runners import TFLiteRunner

if TYPE_CHECKING:
    from posezoo.cards.card import Card


@dataclass(frozen=True)
class Levels:
    """How an output uses the levels that its type has.

    Attributes:
        output: Its name.
        type: Of the file's tensor.
        scale: Value of one level; 0 for float outputs.
        zero_point: Level of value 0.
        used: Different values in all pictures together.
        of: How many levels there are; None for float outputs.
        worst_steps: Largest difference to the network in levels; None for float outputs.
    """

    output: str
    type: str
    scale: float
    zero_point: int
    used: int
    of: int | None
    worst_steps: float | None


@dataclass(frozen=True)
class KeypointShift:
    """How far a file moves key-points, in pixels of the network's input.

    Both decode the same pictures with the card's codec; people are matched so that the sum of distances is smallest.

    Attributes:
        people: People that both find.
        missed: People that only the network finds.
        extra: People that only the file finds.
        keypoints: Key-points compared: those of matched people that score at least the card's threshold in the network.
        mean_px: Mean distance.
        p95_px: 95 of 100 are nearer.
        max_px: Largest distance.
    """

    people: int
    missed: int
    extra: int
    keypoints: int
    mean_px: float
    p95_px: float
    max_px: float


@dataclass(frozen=True)
class QuantisationReport:
    """Levels of every output, and the key-points' shift where the network finds people in the pictures."""

    outputs: tuple[Levels, ...]
    keypoints: KeypointShift | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "outputs": [dataclasses.asdict(row) for row in self.outputs]}

    def lines(self) -> list[str]:
        """The report for a terminal."""
        return lines_of(self.as_dict())


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """A report's plain values, as sidecars hold them, for a terminal."""
    rows = [
        f"{o['output']}: {o['type']}, "
        + (
            f"scale {o['scale']:.3g}, {o['used']} of {o['of']} levels used, at most {o['worst_steps']:.1f} levels off"
            if o["of"]
            else f"{o['used']} different values"
        )
        for o in report["outputs"]
    ]
    k = report["keypoints"]
    if k is None:
        return [*rows, "key-points: the network finds nobody in these pictures"]
    return [
        *rows,
        f"key-points: {k['keypoints']}, of {k['people']} people, moved by {k['mean_px']:.2f} px on average, 95 % by "
        f"less than {k['p95_px']:.2f} px, at most {k['max_px']:.1f} px; {k['missed']} people missed, {k['extra']} more",
    ]


def quantisation_report(
    runner: TFLiteRunner, reference: dict[str, np.ndarray], pictures: np.ndarray, card: Card | None = None
) -> QuantisationReport:
    """Run a file on pictures and compare what it gives with the network.

    Args:
        runner: The file.
        reference: The network's outputs for the pictures, by name.
        pictures: `(N, height, width, channels)`.
        card: Says how outputs are decoded; without one key-points are not compared.
    """
    got = runner(pictures)
    rows = []
    for name, value in got.items():
        kind, scale, zero = runner.quantisation[name]
        info = np.iinfo(kind) if np.dtype(kind).kind in "iu" else None
        worst = float(np.abs(value - reference[name]).max() / scale) if info and scale else None
        levels = info.max - info.min + 1 if info else None
        rows.append(Levels(name, kind, scale, int(zero), int(np.unique(value).size), levels, worst))
    return QuantisationReport(tuple(rows), keypoint_shift(card, reference, got) if card is not None else None)


def keypoint_shift(card: Card, expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> KeypointShift | None:
    """Decode two sets of outputs for the same pictures, match people and compare key-points.

    Args:
        card: Says how outputs are decoded.
        expected: Outputs of the network, `(N, ...)` each.
        got: Outputs of a file.

    Returns:
        None where neither finds anybody, or the network has no key-points.
    """
    if card.codec["type"] not in CODECS or not card.skeleton.num_keypoints:
        return None
    model = PoseModel(card, _Nothing())
    distances: list[np.ndarray] = []
    people = missed = extra = 0
    for i in range(len(next(iter(expected.values())))):
        there = _found(model, {name: value[i : i + 1] for name, value in expected.items()})
        here = _found(model, {name: value[i : i + 1] for name, value in got.items()})
        pairs = match_people(there, here, threshold=card.score_threshold)
        people, missed, extra = (
            people + len(pairs),
            missed + len(there[0]) - len(pairs),
            extra + len(here[0]) - len(pairs),
        )
        for a, b in pairs:
            sure = there[1][a] >= card.score_threshold
            distances.append(np.linalg.norm(there[0][a] - here[0][b], axis=-1)[sure])
    moved = np.concatenate(distances) if distances else np.empty(0)
    if not moved.size:
        return None
    return KeypointShift(
        people, missed, extra, int(moved.size), float(moved.mean()), float(np.percentile(moved, 95)), float(moved.max())
    )


class _Nothing:
    """Stands where a model has its runtime: outputs are there already."""

    name = "nothing"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        raise NotImplementedError


def _found(model: PoseModel, outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Key-points `(N, K, 2)` and scores `(N, K)` of the people who show at least one."""
    keypoints, scores = model.decode(outputs)
    seen = (scores >= model.card.score_threshold).any(axis=1)
    return keypoints[seen], scores[seen]


def match_people(
    expected: tuple[np.ndarray, np.ndarray], got: tuple[np.ndarray, np.ndarray], *, threshold: float
) -> Sequence[tuple[int, int]]:
    """Pair people so that the sum of their mean distances is smallest.

    Pairs further apart than the size of the expected person are none.

    Args:
        expected: Key-points `(N, K, 2)` and scores `(N, K)`.
        got: The same of others `(M, K, 2)`, `(M, K)`.
        threshold: Key-points of the expected people that score less do not count.

    Returns:
        Indices into `expected` and `got`.
    """
    from scipy.optimize import linear_sum_assignment

    if not len(expected[0]) or not len(got[0]):
        return []
    sure = (expected[1] >= threshold).astype(np.float64)
    apart = np.linalg.norm(expected[0][:, None] - got[0][None], axis=-1)
    cost = (apart * sure[:, None]).sum(-1) / np.maximum(sure.sum(-1), 1)[:, None]
    size = np.array([_size(k[s > 0]) for k, s in zip(expected[0], sure, strict=True)])
    allowed = cost <= np.maximum(size, 1.0)[:, None]
    rows, columns = linear_sum_assignment(np.where(allowed, cost, 1e6))
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if allowed[a, b]]


def _size(keypoints: np.ndarray) -> float:
    """Longer side of a person's box."""
    return float(np.ptp(keypoints, axis=0).max()) if len(keypoints) else 0.0
