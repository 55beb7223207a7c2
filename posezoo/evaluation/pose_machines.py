"""Precision and recall of landmarks, the measure of the depth pose machines.

Martinez-Gonzalez et al. 2019, arXiv:1912.00711, section 6: a landmark is found when a prediction of its type lies
within kappa times the height of its person's box. Precision and recall are averaged over landmark types and over
kappa from 0.05 to 0.15; the F-score is the harmonic mean of the two averages.

Who is compared with whom is the parameter `matching`:

- `landmark` (the paper's): each type on its own. In every picture the predictions take, by falling score, the nearest
  landmark within reach that none before has taken. It does not matter who a prediction was grouped with.
- `person`: predicted people are first assigned to the labelled ones, one to one, so that the sum over landmarks of
  `1 - distance / (0.15 height)`, where positive, is largest. A prediction counts for its own person's landmark only:
  a limb that was given to the neighbour is wrong twice.

What nobody labelled is not counted: types without any label, and predictions that found nothing but lie within the
box of a person whose landmark of that type is unlabelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from posezoo.data.depth_scenes import DepthFrames
from posezoo.data.pipeline import Examples, batches, load_all
from posezoo.data.sample import KeypointSet
from posezoo.data.scenes import Scene
from posezoo.geometry import box_of_points
from posezoo.inference.estimator import CropCodec, run_crops
from posezoo.inference.images import ImageError
from posezoo.inference.poses import Poses
from posezoo.skeletons import Skeleton, joint_kind

#: Shares of the person's height within which a prediction is right.
KAPPAS = tuple(round(0.05 + 0.01 * i, 2) for i in range(11))
#: Kinds of landmarks above the hips.
UPPER_BODY = ("neck", "head", "head_top", "eye", "shoulder", "elbow", "wrist", "nose", "ear")

MATCHINGS = ("landmark", "person")

FOUND, WRONG, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class Labelled:
    """A picture whose people are known, and what was found in it.

    Attributes:
        found: The poses found.
        keypoints: `(N, K, 3)` with COCO visibility, of the same skeleton; 0 is unlabelled.
        boxes: `(N, 4)`: x, y, width, height of the people.
    """

    found: Poses
    keypoints: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Summary:
    """Means over landmark types and kappa, 0 to 1; NaN where nothing is labelled."""

    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Harmonic mean."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0 * total


@dataclass(frozen=True)
class LandmarkScores:
    """Every prediction of a set of pictures, and whether it was right.

    Attributes:
        skeleton: Names the landmark types.
        kappas: `(M,)`.
        scores: Per type, the predictions' scores, falling.
        outcomes: Per type int8 `(predictions, M)`: `FOUND`, `WRONG` or `IGNORED`.
        labelled: `(K,)` number of labelled landmarks.
    """

    skeleton: Skeleton
    kappas: np.ndarray
    scores: tuple[np.ndarray, ...]
    outcomes: tuple[np.ndarray, ...]
    labelled: np.ndarray

    def counts(self, threshold: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return how many predictions of at least that score were right, and wrong: `(K, M)` each."""
        kept = [o[s >= threshold] for s, o in zip(self.scores, self.outcomes, strict=True)]
        return (np.array([(o == value).sum(axis=0) for o in kept]) for value in (FOUND, WRONG))  # type: ignore[return-value]

    def precision(self, threshold: float = 0.0) -> np.ndarray:
        """Right predictions over all, `(K, M)`; NaN where nothing was predicted or labelled."""
        right, wrong = self.counts(threshold)
        total = np.where(self.labelled[:, None] > 0, right + wrong, 0)
        return np.where(total > 0, right / np.maximum(total, 1), np.nan)

    def recall(self, threshold: float = 0.0) -> np.ndarray:
        """Landmarks found over all labelled, `(K, M)`; NaN where none is labelled."""
        right, _ = self.counts(threshold)
        labelled = self.labelled[:, None]
        return np.where(labelled > 0, right / np.maximum(labelled, 1), np.nan)

    def summary(self, *, kinds: Sequence[str] | None = None, threshold: float = 0.0) -> Summary:
        """Average over types and kappa: the paper's AP and AR, and their F-score.

        Types of which nothing was predicted have no precision and are left out of its mean; if that is so for all,
        it is 0.

        Args:
            kinds: Kinds of landmarks that count, such as `UPPER_BODY`; all by default.
            threshold: Predictions with a lower score do not count.
        """
        rows = [i for i, k in enumerate(self.skeleton.keypoints) if kinds is None or joint_kind(k) in kinds]
        if not self.labelled[rows].any():
            return Summary(float("nan"), float("nan"))
        precision = self.precision(threshold)[rows]
        known = ~np.isnan(precision)
        return Summary(float(precision[known].mean()) if known.any() else 0.0, _mean(self.recall(threshold)[rows]))

    def per_type(self, threshold: float = 0.0) -> dict[str, Summary]:
        """Means over kappa of each labelled landmark type, by name."""
        precision, recall = self.precision(threshold), self.recall(threshold)
        return {
            name: Summary(_mean(precision[i]) if np.isfinite(precision[i]).any() else 0.0, _mean(recall[i]))
            for i, name in enumerate(self.skeleton.keypoints) if self.labelled[i]
        }  # fmt: skip

    def curve(
        self, thresholds: Sequence[float] | None = None, *, kinds: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision and recall over the score threshold.

        Args:
            thresholds: By default 0 to 1 in steps of 0.02.
            kinds: As in `summary`.

        Returns:
            Thresholds, precision and recall, `(T,)` each; precision is NaN where nothing is left.
        """
        at = np.linspace(0, 1, 51) if thresholds is None else np.asarray(thresholds, float)
        rows = [self.summary(kinds=kinds, threshold=t) for t in at]
        some = [any((s >= t).any() for s in self.scores) for t in at]
        precision = np.array([r.precision for r in rows])
        return at, np.where(some, precision, np.nan), np.array([r.recall for r in rows])


def score_landmarks(
    pictures: Sequence[Labelled], *, kappas: Sequence[float] = KAPPAS, matching: str = "landmark"
) -> LandmarkScores:
    """Compare what was found with what is labelled.

    Args:
        pictures: All of one skeleton.
        kappas: Shares of the person's height.
        matching: `landmark` or `person`, see above.

    Raises:
        ValueError: No pictures, different skeletons, labels of another shape, or an unknown matching.
    """
    if matching not in MATCHINGS:
        raise ValueError(f"unknown matching '{matching}'; expected one of {', '.join(MATCHINGS)}")
    if not pictures:
        raise ValueError("no pictures to score")
    skeleton = pictures[0].found.skeleton
    types = skeleton.num_keypoints
    limits = np.asarray(kappas, float)
    scores: list[list[float]] = [[] for _ in range(types)]
    outcomes: list[list[np.ndarray]] = [[] for _ in range(types)]
    labelled = np.zeros(types, int)
    for picture in pictures:
        found, truth, boxes = picture.found, np.asarray(picture.keypoints), np.asarray(picture.boxes)
        if found.skeleton != skeleton:
            raise ValueError(f"pictures of skeletons '{skeleton.name}' and '{found.skeleton.name}' cannot be mixed")
        if truth.shape != (len(truth), types, 3) or boxes.shape != (len(truth), 4):
            raise ValueError(f"expected keypoints (N, {types}, 3) and boxes (N, 4), got {truth.shape}, {boxes.shape}")
        labelled += (truth[..., 2] > 0).sum(axis=0)
        distance = _distances(found.keypoints, truth, boxes)
        owner = _assigned(np.where(found.scores[:, None] > 0, distance, np.inf)) if matching == "person" else None
        for k in range(types):
            there = np.flatnonzero(found.scores[:, k] > 0)
            order = there[np.argsort(-found.scores[there, k], kind="stable")]
            known = truth[:, k, 2] > 0
            unknown = boxes[~known]
            near = distance[order, :, k]
            right = _taken(near, limits) if owner is None else _own(near, owner[order], limits)
            excused = _inside(found.keypoints[order, k], unknown)
            if owner is not None and len(order):
                mine = owner[order]
                excused |= (mine >= 0) & ~known[mine] if len(truth) else False
            scores[k] += found.scores[order, k].tolist()
            outcomes[k] += list(np.where(right, FOUND, np.where(excused[:, None], IGNORED, WRONG)).astype(np.int8))
    falling = [np.argsort(-np.array(s), kind="stable") for s in scores]
    return LandmarkScores(
        skeleton, limits, tuple(np.array(s)[f] for s, f in zip(scores, falling, strict=True)),
        tuple(np.array(o, np.int8).reshape(-1, len(limits))[f] for o, f in zip(outcomes, falling, strict=True)),
        labelled,
    )  # fmt: skip


def _distances(predicted: np.ndarray, truth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Distance of prediction i to landmark j over j's person's height, `(found, labelled, K)`; infinite: unlabelled."""
    gap = np.linalg.norm(predicted[:, None].astype(float) - np.nan_to_num(truth[None, ..., :2]), axis=-1)
    return np.where(truth[..., 2] > 0, gap / np.maximum(boxes[:, 3], 1)[:, None], np.inf)


def _taken(distance: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Whether each prediction finds a landmark at each limit, `(n, M)`; predictions by falling score."""
    right = np.zeros((len(distance), len(limits)), bool)
    if not distance.size:
        return right
    if distance.shape[1] == 1 or len(distance) == 1:  # the first within reach takes it
        nearest = distance.min(axis=1)[:, None] <= limits
        return nearest & (np.cumsum(nearest, axis=0) == 1)
    for m, limit in enumerate(limits):
        free = distance.copy()
        for i in range(len(free)):
            j = int(free[i].argmin())
            if free[i, j] <= limit:
                right[i, m] = True
                free[:, j] = np.inf
    return right


def _own(distance: np.ndarray, owner: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Whether each prediction is right about its own person's landmark at each limit, `(n, M)`."""
    if not distance.size:
        return np.zeros((len(distance), len(limits)), bool)
    own = np.where(owner >= 0, distance[np.arange(len(distance)), owner], np.inf)
    return own[:, None] <= limits


def _assigned(distance: np.ndarray) -> np.ndarray:
    """The labelled person of each predicted one, `(found,)`; -1 for none. Distances `(found, labelled, K)`."""
    from scipy.optimize import linear_sum_assignment

    owner = np.full(len(distance), -1)
    likeness = np.clip(1 - distance / KAPPAS[-1], 0, None).sum(axis=-1)
    rows, columns = linear_sum_assignment(-likeness)
    alike = likeness[rows, columns] > 0
    owner[rows[alike]] = columns[alike]
    return owner


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each point lies in one of the boxes, `(n,)`."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return ((points[:, None] >= low) & (points[:, None] <= high)).all(axis=-1).any(axis=1)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def overlapping(pictures: Sequence[Labelled], *, least: float = 0.12, most: float = 0.15) -> list[Labelled]:
    """Return the pictures in which the boxes of two people overlap: table III's by default.

    Args:
        pictures: With the people's labelled boxes.
        least: Of the largest intersection over union of two boxes in the picture.
        most: The same.
    """

    def overlap(boxes: np.ndarray) -> float:
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
        shared = np.prod(np.maximum(common, 0), axis=-1)
        areas = np.prod(boxes[:, 2:], axis=1)
        ratio = shared / np.maximum(areas[:, None] + areas - shared, 1e-9)
        return float(np.max(ratio - np.eye(len(boxes)), initial=0.0))

    return [p for p in pictures if least <= overlap(np.asarray(p.boxes, float).reshape(-1, 4)) <= most]


def from_scenes(found: Sequence[tuple[Scene, Poses]]) -> list[Labelled]:
    """What `posezoo.evaluation.bottom_up.find_in_scenes` found, with the data set's boxes.

    Where a scene has none, they are those of its labelled keypoints, as `KeypointSet.add` makes them.
    """
    pictures = []
    for scene, poses in found:
        boxes = scene.boxes
        if boxes is None:
            boxes = np.array([box_of_points(person[person[:, 2] > 0, :2]) for person in scene.keypoints], np.float32)
        pictures.append(Labelled(poses, scene.keypoints, np.reshape(boxes, (-1, 4))))
    return pictures


def find_in_crops(
    run: Callable, scenes: Examples, codec: CropCodec, skeleton: Skeleton, *, batch: int = 8, workers: int = 2
) -> list[tuple[Scene, Poses]]:
    """Run a network for one person on scenes of one person each, as `find_in_scenes` does for many.

    Args:
        run: The network on any runtime.
        scenes: Such as `posezoo.data.depth_scenes.DepthPeople`.
        codec: Decodes the output that it names.
        skeleton: The network's keypoints.
        batch: Scenes per call of `run`.
        workers: Loader threads.
    """
    found: list[tuple[Scene, Poses]] = []
    for loaded in batches(load_all(scenes, workers=workers), batch):
        keypoints, scores = run_crops(run, codec, np.stack([s.image for s in loaded]), skeleton, flip=False)
        for scene, points, values in zip(loaded, keypoints, np.clip(scores, 0, 1), strict=True):
            there = bool(len(scene.keypoints))
            found.append((scene, Poses(points[None], values[None], skeleton) if there else Poses.empty(skeleton)))
    return found


def find_in_records(
    model: Callable,
    people: KeypointSet,
    *,
    boxes: bool = False,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[list[Labelled], list[str]]:
    """Run a model on every picture of a set.

    Args:
        model: Picture to poses, such as a `PoseModel`.
        people: The labelled pictures, of the model's skeleton.
        boxes: Whether the model looks at one person and is given the labelled boxes.
        progress: Wraps the iteration, for a progress bar.

    Returns:
        What was found beside what is labelled, and the names of files that could not be read.
    """
    pictures: list[Labelled] = []
    unreadable: list[str] = []
    for record in progress(people.records):
        try:
            picture = record.read(record.path)
            found = model(picture, boxes=record.boxes) if boxes else model(picture)
        except ImageError:
            unreadable.append(record.path.name)
            continue
        pictures.append(Labelled(found, record.keypoints, record.boxes))
    return pictures, unreadable


def find_in_frames(
    model: Callable, frames: DepthFrames, *, boxes: bool = False, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[list[Labelled], list[str]]:
    """Run a model on every frame of a set that holds frames, as `find_in_records` does on files.

    Args:
        model: Frame in metres to poses.
        frames: Such as `posezoo.synth.frames.SynthFrames`.
        boxes: As for `find_in_records`.
        progress: Wraps the iteration, for a progress bar.

    Returns:
        What was found beside what is labelled, and no unreadable files.
    """
    pictures = []
    for number in progress(range(len(frames))):
        frame = frames[number]
        found = model(frame.depth, boxes=frame.boxes) if boxes else model(frame.depth)
        pictures.append(Labelled(found, frame.keypoints, frame.boxes))
    return pictures, []
