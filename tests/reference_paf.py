"""Part-affinity grouping written as plainly as possible: loops over pixels, pairs, samples and people.

The product's decoder must give the same (`test_part_affinity.py`).
"""

from __future__ import annotations

import math

import numpy as np


def is_peak(plane, y, x, test) -> bool:
    height, width = plane.shape
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            inside = 0 <= y + dy < height and 0 <= x + dx < width
            if not inside or dy == dx == 0:
                continue
            if test == "cross" and abs(dy) + abs(dx) == 1 and plane[y + dy, x + dx] >= plane[y, x]:
                return False
            if test == "window" and plane[y + dy, x + dx] > plane[y, x]:
                return False
    return True


def between_pixels(plane, y, x) -> tuple[float, float, float]:
    """Peak of the Gaussian through the pixel and its neighbours: x, y and value."""
    value = float(plane[y, x])
    centre, height, shifts = np.log(value), np.log(value), []
    for dy, dx in ((0, 1), (1, 0)):
        shift = 0.0
        if y - dy >= 0 and y + dy < plane.shape[0] and x - dx >= 0 and x + dx < plane.shape[1]:
            before = np.log(max(float(plane[y - dy, x - dx]), 0.01 * value))
            after = np.log(max(float(plane[y + dy, x + dx]), 0.01 * value))
            curve = before - 2 * centre + after
            if curve < -1e-9:
                shift = min(max((before - after) / (2 * curve), -0.5), 0.5)
                height = height + (after - before) * shift / 4
        shifts.append(shift)
    return x + shifts[0], y + shifts[1], max(value, min(np.exp(height), 1))


def candidates(plane, codec, px) -> list[tuple[float, float, float]]:
    """Peaks above the threshold, strongest first; equal ones in reading order."""
    found = [
        (x, y) for y in range(plane.shape[0]) for x in range(plane.shape[1])
        if plane[y, x] > np.float32(codec.peak_threshold) and is_peak(plane, y, x, codec.peak_test)
    ]  # fmt: skip
    found = sorted(found, key=lambda p: -plane[p[1], p[0]])[: codec.max_candidates]
    kept: list[tuple[float, float, float]] = []
    for x, y in found:
        place = between_pixels(plane, y, x) if codec.sub_pixel else (float(x), float(y), float(plane[y, x]))
        far = all(
            ((place[0] - k[0]) * px) ** 2 + ((place[1] - k[1]) * px) ** 2 >= codec.peak_distance_px**2 for k in kept
        )
        if far:
            kept.append(place)
    return kept


def field_at(plane, x, y, bilinear) -> float:
    plane = plane.astype(np.float64)
    height, width = plane.shape
    if not bilinear:
        return plane[min(max(round(y), 0), height - 1), min(max(round(x), 0), width - 1)]
    column, row = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    right, below = x - column, y - row
    last_column, last_row = min(column + 1, width - 1), min(row + 1, height - 1)
    top = plane[row, column] + (plane[row, last_column] - plane[row, column]) * right
    bottom = plane[last_row, column] + (plane[last_row, last_column] - plane[last_row, column]) * right
    return top + (bottom - top) * below


def connection(codec, field, first, second, px) -> float | None:
    """Score of joining two candidates, or None where they do not belong together."""
    vx, vy = second[0] - first[0], second[1] - first[1]
    length = math.sqrt(vx * vx + vy * vy)
    if length <= 1e-3:
        return None
    total, passing = 0.0, 0
    for s in range(codec.samples):
        share = s / (codec.samples - 1)
        x, y = first[0] + vx * share, first[1] + vy * share
        fx, fy = (field_at(plane, x, y, codec.bilinear) for plane in field)
        value = (fx * vx + fy * vy) / length
        if value > codec.sample_threshold:
            total, passing = total + value, passing + 1
    if passing <= codec.min_share * codec.samples or passing == 0:
        return None
    score = total / passing + min(codec.length_prior * codec.input_wh[1] / (length * px) - 1, 0)
    return score if score > 0 else None


class Person:
    def __init__(self, joints: int):
        self.held: list[int | None] = [None] * joints
        self.total = 0.0
        self.joined = 0

    def take(self, joint, number, score):
        self.held[joint] = number
        self.total += score


def group(codec, heatmaps, pafs, limbs, *, px):
    """The same arguments and results as `PartAffinityCodec.group`."""
    joints = len(heatmaps)
    found = [candidates(plane, codec, px) for plane in heatmaps]
    people: list[Person] = []
    for k, (a, b) in enumerate(limbs):
        if not found[a] or not found[b]:
            for joint in (a, b):
                for number, candidate in enumerate(found[joint]):
                    if all(p.held[joint] != number for p in people):
                        people.append(Person(joints))
                        people[-1].take(joint, number, candidate[2])
            continue
        scored = []
        for i, first in enumerate(found[a]):
            for j, second in enumerate(found[b]):
                score = connection(codec, pafs[2 * k : 2 * k + 2], first, second, px)
                if score is not None:
                    scored.append((score, i, j))
        used_a, used_b, joined = set(), set(), []
        for score, i, j in sorted(scored, key=lambda c: -c[0]):
            if i not in used_a and j not in used_b:
                used_a.add(i)
                used_b.add(j)
                joined.append((score, i, j))
        for score, i, j in joined:
            one = next((p for p in people if p.held[a] == i), None)
            other = next((p for p in people if p.held[b] == j), None)
            if one is None and other is None:
                one = Person(joints)
                people.append(one)
                one.total += found[a][i][2] + found[b][j][2] + score
                one.held[a], one.held[b] = i, j
            elif one is other:
                one.total += score
            elif other is None:
                if one.held[b] is not None:
                    continue
                one.take(b, j, found[b][j][2] + score)
            elif one is None:
                if other.held[a] is not None:
                    continue
                other.take(a, i, found[a][i][2] + score)
                one = other
            else:
                if any(x is not None and y is not None for x, y in zip(one.held, other.held, strict=True)):
                    continue
                one.held = [x if x is not None else y for x, y in zip(one.held, other.held, strict=True)]
                one.total += other.total + score
                one.joined += other.joined
                people.remove(other)
            one.joined += 1
    rows = []
    for person in people:
        parts = sum(h is not None for h in person.held)
        if parts >= codec.min_parts and person.total / parts >= codec.min_score:
            keypoints, scores = np.zeros((joints, 2)), np.zeros(joints, np.float32)
            for joint, number in enumerate(person.held):
                if number is not None:
                    keypoints[joint], scores[joint] = found[joint][number][:2], found[joint][number][2]
            rows.append((keypoints, scores, np.float32(person.total / (parts + person.joined))))
    rows.sort(key=lambda r: -r[2])
    if not rows:
        return np.zeros((0, joints, 2)), np.zeros((0, joints), np.float32), np.zeros(0, np.float32)
    return tuple(np.stack(column) for column in zip(*rows, strict=True))
