"""Scores as probabilities: isotonic regression of peaks' heights on what was right (Zadrozny & Elkan, KDD 2002)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """How often keypoints of a score are right.

    Attributes:
        score: Mean score of each bin that holds any.
        right: Share of them that are right.
        count: How many they are.
    """

    score: np.ndarray
    right: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of score and share, weighted by count."""
        return float((np.abs(self.score - self.right) * self.count).sum() / self.count.sum())


def reliability(scores: np.ndarray, right: np.ndarray, *, bins: int = 10) -> Reliability:
    """Divide keypoints by score into equal ranges from 0 to 1.

    Args:
        scores: `(N,)`.
        right: bool `(N,)`.
        bins: Number of ranges.

    Raises:
        ValueError: No keypoints, or not as many of both.
    """
    scores, right = _checked(scores, right)
    place = np.clip((scores * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    held = count > 0
    means = [np.bincount(place, weights=values, minlength=bins)[held] / count[held] for values in (scores, right)]
    return Reliability(means[0], means[1], count[held])


def fit_calibration(heights: np.ndarray, right: np.ndarray, *, points: int = 8) -> tuple[tuple[float, float], ...]:
    """Fit the rising curve from a peak's height to the probability that the keypoint is right.

    Args:
        heights: Of peaks, `(N,)`.
        right: bool `(N,)`.
        points: Of the curve, at even quantiles of the heights.

    Returns:
        Pairs of height and probability for `posezoo.codecs.HeatmapCodec`.

    Raises:
        ValueError: No keypoints, not as many of both, or all of one height.
    """
    from scipy.optimize import isotonic_regression

    heights, right = _checked(heights, right)
    order = np.argsort(heights, kind="stable")
    heights, rising = heights[order], isotonic_regression(right[order]).x
    # Steps become a line through the means of as many equal groups.
    groups = np.array_split(np.arange(len(heights)), points)
    pairs: list[tuple[float, float]] = []
    for group in groups:
        if not len(group):
            continue
        height, chance = round(float(heights[group].mean()), 3), round(float(rising[group].mean()), 3)
        if not pairs or height > pairs[-1][0]:
            pairs.append((height, max(chance, pairs[-1][1] if pairs else 0.0)))
    if len(pairs) < 2:
        raise ValueError(f"all {len(heights)} peaks are {heights[0]:g} high; a calibration needs several heights")
    if pairs[0][0] > 0:
        pairs.insert(0, (0.0, 0.0))
    return tuple(pairs)


def _checked(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, right = np.asarray(scores, float).ravel(), np.asarray(right, float).ravel()
    if not len(scores) or len(scores) != len(right):
        raise ValueError(f"expected as many scores as answers, at least one; got {len(scores)} and {len(right)}")
    return scores, right
