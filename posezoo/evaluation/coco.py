"""Average precision by object-keypoint similarity, through COCO's own code (pycocotools, extra `eval`).

https://cocodataset.org/#keypoints-eval. The same code scores COCO's annotation files, and any pictures
whose people are known, with any keypoints and any of them left out.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from posezoo.data.sample import KeypointSet
from posezoo.errors import UserError
from posezoo.files import replacing
from posezoo.geometry import box_of_points
from posezoo.inference.images import ImageError, read_image
from posezoo.inference.poses import Poses
from posezoo.skeletons import COCO17, Skeleton

#: Detections per picture that count.
MAX_DETECTIONS = 20


class ResultsError(UserError, ValueError):
    """Results that COCO's evaluation would not take."""


@dataclass(frozen=True)
class CocoScores:
    """COCO's ten numbers for keypoints, 0 to 1; NaN where no person is of that size."""

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    ar50: float
    ar75: float
    ar_medium: float
    ar_large: float

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, for a table."""
        return [(name, "no people" if np.isnan(value) else f"{value:.4f}") for name, value in asdict(self).items()]


def _coco():
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError("COCO's evaluation needs pycocotools: pip install 'posezoo[eval]'") from None
    return COCO, COCOeval


def evaluate_coco(
    results: Sequence[dict] | Path | str, annotations: Path | str, *, image_ids: Sequence[int] | None = None
) -> CocoScores:
    """Score keypoint results on an annotation file.

    Args:
        results: What `Poses.to_coco` gives, of all pictures, or a file of it.
        annotations: COCO's JSON of person keypoints.
        image_ids: Pictures that count; all of the file by default.

    Raises:
        ResultsError: Results of another form, or of pictures that the file does not have.
        ImportError: pycocotools is not installed.
    """
    COCO, _ = _coco()
    rows: Sequence[dict] = json.loads(Path(results).read_text()) if isinstance(results, (str, Path)) else results
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    check_results(rows, COCO17, set(truth.imgs))
    ids = sorted(truth.imgs) if image_ids is None else sorted(image_ids)
    return _score(truth, rows, ids, np.array(COCO17.sigmas))


def _score(truth, results: Sequence[dict], image_ids: Sequence[int], sigmas: np.ndarray) -> CocoScores:
    _, COCOeval = _coco()
    with contextlib.redirect_stdout(io.StringIO()):
        detected = truth.loadRes([dict(r) for r in results]) if len(results) else _nothing(truth)
        evaluation = COCOeval(truth, detected, "keypoints")
        evaluation.params.imgIds = list(image_ids)
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return CocoScores(*(float("nan") if value < 0 else float(value) for value in evaluation.stats))


def _nothing(truth):
    COCO, _ = _coco()
    empty = COCO()
    empty.dataset = {"images": truth.dataset["images"], "annotations": [], "categories": truth.dataset["categories"]}
    empty.createIndex()
    return empty


def check_results(results: Sequence[dict], skeleton: Skeleton, image_ids: set[int] | None = None) -> None:
    """Check that results have the form that COCO's server accepts.

    Raises:
        ResultsError: The first thing that is wrong, with the place of the result.
    """
    if not isinstance(results, Sequence):
        raise ResultsError(f"expected a list of results, got {type(results).__name__}")
    expected = 3 * skeleton.num_keypoints
    for i, result in enumerate(results):
        missing = [name for name in ("image_id", "category_id", "keypoints", "score") if name not in result]
        if missing:
            raise ResultsError(f"result {i} has no {', '.join(missing)}")
        if len(result["keypoints"]) != expected:
            raise ResultsError(f"result {i} has {len(result['keypoints'])} keypoint numbers; expected {expected}")
        if not np.isfinite([*result["keypoints"], result["score"]]).all():
            raise ResultsError(f"result {i} holds NaN or infinity")
        if image_ids is not None and result["image_id"] not in image_ids:
            raise ResultsError(f"result {i} is of picture {result['image_id']}, which the annotations do not have")


def write_results(path: Path | str, results: Sequence[dict], *, skeleton: Skeleton = COCO17) -> None:
    """Write results as COCO's server takes them.

    Raises:
        ResultsError: Results of another form; nothing is written.
    """
    check_results(results, skeleton)
    kept = ("image_id", "category_id", "keypoints", "score")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([{name: result[name] for name in kept} for result in results]))


def predict_pictures(
    model: Callable[[np.ndarray], Poses],
    people: KeypointSet,
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[list[dict], list[str]]:
    """Run a model on every picture of a set.

    Args:
        model: Picture to poses, such as a `PoseModel`.
        people: The pictures; those without people count too.
        progress: Wraps the iteration, for a progress bar.

    Returns:
        COCO results, and the names of files that could not be read.
    """
    results: list[dict] = []
    unreadable: list[str] = []
    for record in progress(people.records):
        try:
            image = read_image(record.path)
        except ImageError:
            unreadable.append(record.path.name)
            continue
        results += model(image).to_coco(record.image_id)
    return results, unreadable


@dataclass(frozen=True)
class Known:
    """A picture whose people are known, and what was found in it.

    Attributes:
        found: The poses found.
        keypoints: `(N, K, 3)` with COCO visibility, of the same skeleton; unlabelled ones do not count.
        areas: `(N,)` square pixels.
    """

    found: Poses
    keypoints: np.ndarray
    areas: np.ndarray


def oks_ap(pictures: Sequence[Known], *, joints: Sequence[str] | None = None) -> CocoScores:
    """Average precision on pictures whose people are known, over some of the keypoints.

    People without one labelled keypoint of `joints` are ignored, found or not.

    Args:
        pictures: What is known and what was found.
        joints: Names of the keypoints that count; all by default.

    Raises:
        ValueError: No pictures, or a joint that the skeleton does not have.
        ImportError: pycocotools is not installed.
    """
    COCO, _ = _coco()
    if not pictures:
        raise ValueError("no pictures to score")
    skeleton = pictures[0].found.skeleton
    columns = [skeleton.index(k) for k in (joints or skeleton.keypoints)]
    annotations: list[dict] = []
    results: list[dict] = []
    for image_id, picture in enumerate(pictures, start=1):
        for keypoints, area in zip(picture.keypoints[:, columns], picture.areas, strict=True):
            labelled = keypoints[:, 2] > 0
            chosen = np.where(labelled[:, None], keypoints, 0)
            box = box_of_points(keypoints[labelled, :2])
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": float(area),
                "bbox": box.tolist(), "num_keypoints": int(labelled.sum()),
                "keypoints": chosen.ravel().tolist(),
            })  # fmt: skip
        found = picture.found
        for keypoints, scores, score in zip(found.keypoints, found.scores, found.person_scores, strict=True):
            chosen = np.column_stack([keypoints[columns], scores[columns]])
            results.append(
                {"image_id": image_id, "category_id": 1, "keypoints": chosen.ravel().tolist(), "score": float(score)}
            )
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(1, len(pictures) + 1)],
        "categories": [{"id": 1, "name": "person"}], "annotations": annotations,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    sigmas = np.array(skeleton.sigmas)[columns]
    return _score(truth, results, range(1, len(pictures) + 1), sigmas)
