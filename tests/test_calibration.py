"""Scores as probabilities: the curve, its reliability, and the tool that puts it on a card."""

import numpy as np
import pytest

from posezoo.codecs import HeatmapCodec
from posezoo.evaluation.calibration import fit_calibration, reliability


def drawn(count: int = 20_000, seed: int = 0):
    """Heights of peaks that are right with the square of their height."""
    rng = np.random.default_rng(seed)
    heights = rng.uniform(0.05, 1.0, count)
    return heights, rng.random(count) < heights**2


def test_curve_finds_the_probability_of_each_height():
    heights, right = drawn()
    curve = fit_calibration(heights, right)
    for height in (0.2, 0.5, 0.8):
        assert np.interp(height, *np.array(curve).T) == pytest.approx(height**2, abs=0.04)
    HeatmapCodec((64, 64), calibration=curve)  # which asks that both rise


def test_calibrated_scores_are_reliable_where_heights_are_not():
    heights, right = drawn(seed=1)
    curve = fit_calibration(*drawn(seed=2))
    assert reliability(heights, right).error > 0.1
    assert reliability(np.interp(heights, *np.array(curve).T), right).error < 0.02


def test_reliability_counts_each_keypoint_once():
    found = reliability(np.array([0.05, 0.95, 0.95, 1.0]), np.array([False, True, False, True]))
    np.testing.assert_array_equal(found.count, [1, 3])
    np.testing.assert_allclose(found.right, [0, 2 / 3])
    assert found.error == pytest.approx((0.05 * 1 + abs(2.9 / 3 - 2 / 3) * 3) / 4)


@pytest.mark.parametrize(
    ("scores", "right", "told"),
    [([], [], "at least one"), ([0.5], [True, False], "got 1 and 2"), ([0.5] * 4, [True] * 4, "several heights")],
)
def test_what_cannot_be_calibrated_is_told(scores, right, told):
    with pytest.raises(ValueError, match=told):
        fit_calibration(np.array(scores), np.array(right))


def test_diagram_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    cv2 = pytest.importorskip("cv2")
    from posezoo.evaluation.plots import plot_reliability

    heights, right = drawn(500)
    plot_reliability({"heights": reliability(heights, right)}, tmp_path / "r.png", title="drawn")
    assert cv2.imread(str(tmp_path / "r.png")).std() > 5
