"""Associative-embedding grouping written as plainly as possible: loops, one pixel at a time where it matters.

The product's decoder must give the same (`test_associative_embedding.py`).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def is_peak(plane, y, x, kernel) -> bool:
    """Whether no pixel of the window around is larger."""
    r = kernel // 2
    window = plane[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
    return plane[y, x] == window.max()


def candidates(plane, codec) -> list[tuple[int, int, float]]:
    """Peaks above the threshold, largest first; equal ones in reading order."""
    found = [
        (x, y, float(plane[y, x]))
        for y in range(plane.shape[0]) for x in range(plane.shape[1])
        if plane[y, x] > np.float32(codec.detection_threshold) and is_peak(plane, y, x, codec.nms_kernel)
    ]  # fmt: skip
    return sorted(found, key=lambda c: -c[2])[: codec.max_people]


class Person:
    def __init__(self):
        self.joints: dict[int, tuple[float, float, float]] = {}
        self.tags: list[np.ndarray] = []

    def take(self, joint, candidate, tag):
        self.joints[joint] = candidate
        self.tags.append(tag)

    @property
    def tag(self):
        return np.sum(self.tags, axis=0, dtype=np.float32) / np.float32(len(self.tags))


def distance(a, b) -> np.float32:
    difference = (a - b).astype(np.float32)
    return np.abs(difference[0]) if len(difference) == 1 else np.sqrt(np.square(difference).sum())


def quarter(plane, x, y) -> tuple[float, float]:
    height, width = plane.shape
    right = plane[y, min(x + 1, width - 1)] > plane[y, max(x - 1, 0)]
    below = plane[min(y + 1, height - 1), x] > plane[max(y - 1, 0), x]
    return (0.25 if right else -0.25), (0.25 if below else -0.25)


def group(codec, heatmaps, tags, order):
    """The same arguments and results as `AssociativeEmbeddingCodec.group`."""
    people: list[Person] = []
    for joint in order:
        found = candidates(heatmaps[joint], codec)
        tag_of = [tags[:, joint, y, x] for x, y, _ in found]
        if not people:
            for candidate, tag in zip(found, tag_of, strict=True):
                people.append(Person())
                people[-1].take(joint, candidate, tag)
            continue
        if not found:
            continue
        means = [p.tag for p in people]
        distances = np.array([[distance(tag, mean) for mean in means] for tag in tag_of], np.float32)
        cost = distances
        if codec.score_in_cost:
            cost = np.rint(distances) * 100 - np.array([c[2] for c in found], np.float32)[:, None]
        if len(found) > len(people):
            cost = np.concatenate([cost, np.full((len(found), len(found) - len(people)), 1e10)], axis=1)
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if column < len(means) and distances[row, column] < codec.tag_threshold:
                people[column].take(joint, found[row], tag_of[row])
            elif not codec.ignore_too_many or len(people) < codec.max_people:
                people.append(Person())
                people[-1].take(joint, found[row], tag_of[row])
    joints = len(heatmaps)
    keypoints = np.zeros((len(people), joints, 2), np.float32)
    scores = np.zeros((len(people), joints), np.float32)
    for i, person in enumerate(people):
        for joint, (x, y, value) in person.joints.items():
            dx, dy = quarter(heatmaps[joint], x, y) if codec.adjust else (0, 0)
            keypoints[i, joint], scores[i, joint] = (x + dx, y + dy), value
    person_scores = scores.mean(axis=1) if people else np.zeros(0, np.float32)
    if codec.refine:
        for i, person in enumerate(people):
            for joint in range(joints):
                if scores[i, joint] > 0:
                    continue
                plane = heatmaps[joint]
                difference = tags[:, joint] - person.tag[:, None, None]
                apart = np.abs(difference[0]) if len(tags) == 1 else np.sqrt(np.square(difference).sum(axis=0))
                y, x = np.unravel_index(np.argmax(plane - np.rint(apart)), plane.shape)
                if plane[y, x] - np.rint(apart)[y, x] > 0:
                    dx, dy = quarter(plane, x, y) if codec.adjust else (0, 0)
                    keypoints[i, joint], scores[i, joint] = (x + dx, y + dy), plane[y, x]
    falling = np.argsort(-person_scores, kind="stable")
    return keypoints[falling], scores[falling], person_scores[falling]
