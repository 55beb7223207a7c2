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

from posezoo.data.coco import read_json
from posezoo.data.sample import KeypointSet
from posezoo.errors import UserError
from posezoo.files import replacing
from posezoo.geometry import box_of_points
from posezoo.inference.images import ImageError, read_image
from posezoo.inference.poses import Poses
from posezoo.skeletons import COCO17, Skeleton

#: Detections per picture that count.
MAX_DETECTIONS = 20
#: The category of people in COCO's files.
PERSON = 1
#: What COCO's server reads of a result.
RESULT = ("image_id", "category_id", "keypoints", "score")


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
        annotations: COCO's JSON of person keypoints, plain or gzipped.
        image_ids: Pictures that count; all of the file by default.

    Raises:
        FileNotFoundError: No such file.
        ResultsError: Results of another form, or of pictures that the annotations do not have.
        ValueError: The annotations are no COCO JSON, or lack people or one of `image_ids`.
        ImportError: pycocotools is not installed.
    """
    rows = read_results(results) if isinstance(results, (str, Path)) else results
    truth = _index(read_json(Path(annotations)))
    if PERSON not in truth.cats:
        raise ValueError(f"{annotations} has no category {PERSON}, people; it has {sorted(truth.cats)}")
    check_results(rows, COCO17, set(truth.imgs))
    ids = sorted(truth.imgs if image_ids is None else image_ids)
    missing = [i for i in ids if i not in truth.imgs]
    if missing:
        raise ValueError(f"{annotations} has no picture {missing[0]}; image_ids must be ids of its 'images'")
    return _score(truth, rows, ids, np.array(COCO17.sigmas))


def read_results(path: Path | str) -> list[dict]:
    """Read a file of results.

    Raises:
        FileNotFoundError: No such file.
        ResultsError: The file is no JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ResultsError(f"{path}: damaged or no JSON ({error}); expected a list of results") from error


def _index(content: dict):
    """Return pycocotools' view of annotations."""
    COCO, _ = _coco()
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


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
    """Return what `loadRes`, which takes no empty list, would return for no results."""
    return _index({**truth.dataset, "annotations": []})


def check_results(results: Sequence[dict], skeleton: Skeleton, image_ids: set[int] | None = None) -> None:
    """Check that results have the form that COCO's server accepts.

    Raises:
        ResultsError: The first thing that is wrong, with the place of the result.
    """
    if not isinstance(results, Sequence):
        raise ResultsError(f"expected a list of results, got {type(results).__name__}")
    expected = 3 * skeleton.num_keypoints
    for i, result in enumerate(results):
        if not isinstance(result, dict):
            raise ResultsError(f"result {i} is a {type(result).__name__}; expected a dict")
        missing = [name for name in RESULT if name not in result]
        if missing:
            raise ResultsError(f"result {i} has no {', '.join(missing)}")
        if result["category_id"] != PERSON:
            raise ResultsError(f"result {i} is of category {result['category_id']}; expected {PERSON}, people")
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
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([{name: result[name] for name in RESULT} for result in results]))


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

    People without one labelled keypoint of `joints` are ignored, found or not. Those without any are nowhere:
    what was found of them counts as wrong.

    Args:
        pictures: What is known and what was found.
        joints: Names of the keypoints that count; all by default.

    Raises:
        ValueError: No pictures, or a joint that the skeleton does not have.
        ImportError: pycocotools is not installed.
    """
    if not pictures:
        raise ValueError("no pictures to score")
    skeleton = pictures[0].found.skeleton
    columns = [skeleton.index(k) for k in (joints or skeleton.keypoints)]
    annotations: list[dict] = []
    results: list[dict] = []
    for image_id, picture in enumerate(pictures, start=1):
        for person, area in zip(picture.keypoints, picture.areas, strict=True):
            # COCO knows by the box what was found of a person without labelled keypoints.
            box = box_of_points(person[person[:, 2] > 0, :2])
            keypoints = person[columns]
            labelled = keypoints[:, 2] > 0
            chosen = np.where(labelled[:, None], keypoints, 0)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": PERSON, "iscrowd": 0,
                "area": float(area), "bbox": box.tolist(), "num_keypoints": int(labelled.sum()),
                "keypoints": chosen.ravel().tolist(),
            })  # fmt: skip
        found = picture.found
        for keypoints, scores, score in zip(found.keypoints, found.scores, found.person_scores, strict=True):
            chosen = np.column_stack([keypoints[columns], scores[columns]])
            results.append({
                "image_id": image_id, "category_id": PERSON, "keypoints": chosen.ravel().tolist(),
                "score": float(score),
            })  # fmt: skip
    ids = range(1, len(pictures) + 1)
    content = {
        "images": [{"id": i} for i in ids], "categories": [{"id": PERSON, "name": "person"}],
        "annotations": annotations,
    }  # fmt: skip
    return _score(_index(content), results, ids, np.array(skeleton.sigmas)[columns])
