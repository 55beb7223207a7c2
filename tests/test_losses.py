"""Losses against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo.codecs.heatmap import UNLABELLED, HeatmapCodec  # noqa: E402
from posezoo.training.losses import heatmap_loss, spatial_cross_entropy  # noqa: E402


def value(loss, target, predicted) -> np.ndarray:
    return np.asarray(loss(keras.ops.convert_to_tensor(target), keras.ops.convert_to_tensor(predicted)))


def test_heatmap_loss_sums_pixels_and_averages_labelled_maps():
    target = np.zeros((1, 2, 2, 3), "f4")
    target[..., 2] = UNLABELLED
    predicted = np.zeros_like(target)
    predicted[0, 0, 0] = (2.0, 1.0, 100.0)
    # Maps 0 and 1 count: (4 + 1) / 2.
    assert value(heatmap_loss, target, predicted) == pytest.approx([2.5])


def test_spatial_cross_entropy_by_hand():
    target = np.zeros((1, 1, 2, 2), "f4")
    target[0, 0, :, 0] = (1.0, 0.0)
    target[0, 0, :, 1] = UNLABELLED
    predicted = np.zeros_like(target)
    # Two equal pixels: log 2; the unlabelled map does not count.
    assert value(spatial_cross_entropy, target, predicted) == pytest.approx([np.log(2)], abs=1e-6)
    predicted[0, 0, 0, 0] = 0.5
    # Softmax of (8 * 0.5, 0): log(1 + exp(-4)).
    assert value(spatial_cross_entropy, target, predicted) == pytest.approx([np.log1p(np.exp(-4))], abs=1e-6)


def test_spatial_cross_entropy_prefers_one_peak_to_two():
    codec = HeatmapCodec((64, 64), sigma=2)
    truth = codec.encode(np.array([[[16.0, 16.0]]]), np.ones((1, 1)))
    other = codec.encode(np.array([[[48.0, 48.0]]]), np.ones((1, 1)))
    both = value(spatial_cross_entropy, truth, truth + other)
    assert value(spatial_cross_entropy, truth, truth) < both < value(spatial_cross_entropy, truth, other)
    empty = np.zeros_like(truth)
    assert np.isfinite(value(spatial_cross_entropy, empty, truth)).all()
