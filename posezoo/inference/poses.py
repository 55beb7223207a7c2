"""Poses of the people in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posezoo.skeletons import Skeleton


@dataclass
class Poses:
    """Keypoints of `N` people with `K` keypoints each.

    Attributes:
        keypoints: float32 `(N, K, 2)`: x, y in picture pixels; pixel centres lie at integers.
        scores: float32 `(N, K)`: confidence of each keypoint, about 0 to 1.
        skeleton: Names of the keypoints.
        person_scores: float32 `(N,)`; the mean of the keypoints' scores when left out.
        boxes: float32 `(N, 4)`: x, y, width, height that the poses came from, or None.
        depth: float32 `(N, K)` in millimetres: how far the surface at each keypoint is from the camera's plane; NaN
            where unknown; None for networks that look at colour.
        ids: int64 `(N,)` track numbers, or None.

    Raises:
        ValueError: The shapes disagree.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    skeleton: Skeleton
    person_scores: np.ndarray = None  # type: ignore[assignment]  # an array from __post_init__ on
    boxes: np.ndarray | None = None
    depth: np.ndarray | None = None
    ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.keypoints = np.asarray(self.keypoints, np.float32)
        self.scores = np.asarray(self.scores, np.float32)
        people, count = len(self.keypoints), self.skeleton.num_keypoints
        if self.keypoints.shape != (people, count, 2) or self.scores.shape != (people, count):
            raise ValueError(
                f"expected keypoints (N, {count}, 2) and scores (N, {count}) for skeleton '{self.skeleton.name}', "
                f"got {self.keypoints.shape} and {self.scores.shape}"
            )
        if self.person_scores is None:
            self.person_scores = self.scores.mean(axis=1)
        self.person_scores = np.asarray(self.person_scores, np.float32)
        for name, shape in (("person_scores", (people,)), ("boxes", (people, 4)), ("depth", (people, count))):
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(f"expected {name} {shape}, got {np.shape(value)}")
        if self.ids is not None and np.shape(self.ids) != (people,):
            raise ValueError(f"expected ids {(people,)}, got {np.shape(self.ids)}")

    @classmethod
    def empty(cls, skeleton: Skeleton) -> Poses:
        """No people."""
        count = skeleton.num_keypoints
        return cls(np.zeros((0, count, 2)), np.zeros((0, count)), skeleton, boxes=np.zeros((0, 4), np.float32))

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, people: int | slice | Sequence[int] | np.ndarray) -> Poses:
        """Keep some people: an index, a slice, a list of indices or a mask."""
        if isinstance(people, (int, np.integer)):
            people = [range(len(self))[people]]
        boxes, depth, ids = (
            None if values is None else np.asarray(values)[people] for values in (self.boxes, self.depth, self.ids)
        )
        person_scores = np.asarray(self.person_scores)[people]
        return Poses(self.keypoints[people], self.scores[people], self.skeleton, person_scores, boxes, depth, ids)

    def to_coco(self, image_id: int, *, category_id: int = 1) -> list[dict]:
        """Return COCO keypoint results, one dict per person.

        `keypoints` holds x, y, score for each keypoint, `score` the person's score. COCO measures
        pixels from the corner of the picture as we do from the first pixel's centre: its evaluation
        takes coordinates as they are, so no half pixel is added.
        """
        values = np.concatenate([self.keypoints, self.scores[..., None]], axis=-1)
        values = values.reshape(len(self), 3 * self.skeleton.num_keypoints)
        results = []
        for i in range(len(self)):
            result: dict[str, Any] = {"image_id": int(image_id), "category_id": category_id}
            result["keypoints"] = [round(float(v), 3) for v in values[i]]
            result["score"] = round(float(self.person_scores[i]), 5)
            if self.boxes is not None:
                result["bbox"] = [round(float(v), 2) for v in self.boxes[i]]
            results.append(result)
        return results

    @classmethod
    def from_coco(cls, results: Iterable[dict], skeleton: Skeleton) -> Poses:
        """Read COCO keypoint results, or annotations, of one picture.

        Raises:
            ValueError: A result has another number of keypoints than the skeleton.
        """
        results = list(results)
        if not results:
            return cls.empty(skeleton)
        expected = 3 * skeleton.num_keypoints
        for result in results:
            if len(result["keypoints"]) != expected:
                raise ValueError(
                    f"expected {expected} numbers for skeleton '{skeleton.name}', got {len(result['keypoints'])}"
                )
        values = np.array([r["keypoints"] for r in results], np.float32).reshape(len(results), -1, 3)
        scores = [r["score"] if "score" in r else float(v[:, 2].mean()) for r, v in zip(results, values, strict=True)]
        boxes = [r["bbox"] for r in results] if all("bbox" in r for r in results) else None
        return cls(
            values[..., :2], values[..., 2], skeleton, np.array(scores), None if boxes is None else np.array(boxes)
        )
