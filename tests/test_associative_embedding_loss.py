"""Losses of associative embedding against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo.codecs.heatmap import UNLABELLED  # noqa: E402
from posezoo.training.associative_embedding import SCALE, losses, masked_heatmap_loss, tag_loss  # noqa: E402


def value(loss, target, predicted, **weights) -> np.ndarray:
    return np.asarray(loss(keras.ops.convert_to_tensor(target), keras.ops.convert_to_tensor(predicted), **weights))


def test_heatmap_loss_leaves_marked_pixels_out():
    target = np.zeros((2, 2, 2, 1), "f4")
    target[0, 0, 0] = UNLABELLED
    predicted = np.ones_like(target)
    predicted[0, 0, 0] = 100
    # Three pixels of error 1 in four; four in four.
    assert value(masked_heatmap_loss, target, predicted) == pytest.approx([0.75, 1.0])


def test_adaptive_weights_by_hand():
    target = np.array([1.0, 0.0, 0.0, UNLABELLED], "f4").reshape(1, 2, 2, 1)
    predicted = np.array([0.4, 0.5, 0.0, 3.0], "f4").reshape(1, 2, 2, 1)
    # The peak lacks 0.6, a background pixel holds 0.5, the rest does not count: (0.6 * 0.36 + 0.5 * 0.25) / 4
    assert value(masked_heatmap_loss, target, predicted, adaptive=0.01) == pytest.approx([0.341 / 4])


def people(*places, most=4):
    """Targets of people, each a list of (column, row) or None per keypoint."""
    target = np.zeros((1, most, 2, 3), "f4")
    for i, person in enumerate(places):
        for k, place in enumerate(person):
            if place is not None:
                target[0, i, k] = (*place, 1)
    return target


def test_pull_and_push_by_hand():
    tags = np.zeros((1, 2, 3, 2), "f4")
    tags[0, 0, 0, 0], tags[0, 0, 1, 1] = 1.0, 3.0  # first person: mean 2, spread ((1 - 2)^2 + (3 - 2)^2) / 2 = 1
    tags[0, 1, 2, 0] = 2.5  # second person: mean 2.5, spread 0
    target = people([(0, 0), (1, 0)], [(2, 1), None])
    # pull = (1 + 0) / 2; push = 0.5 * (2 exp(-0.25)) / (2 * 1)
    pull, push = 0.5, 0.5 * np.exp(-0.25)
    assert value(tag_loss, target, tags, pull=1, push=0) == pytest.approx([pull])
    assert value(tag_loss, target, tags, pull=0, push=1) == pytest.approx([push])
    assert value(tag_loss, target, tags) == pytest.approx([1e-3 * (pull + push)])


def test_three_people_are_pushed_over_all_ordered_pairs():
    tags = np.zeros((1, 1, 3, 2), "f4")
    tags[0, 0, :, 0] = (0.0, 1.0, 3.0)
    target = people([(0, 0), None], [(1, 0), None], [(2, 0), None])
    near = 2 * (np.exp(-1) + np.exp(-4) + np.exp(-9))
    assert value(tag_loss, target, tags, pull=0, push=1) == pytest.approx([0.5 * near / 6], rel=1e-5)


def test_fewer_than_two_people_are_not_pushed():
    tags = np.full((1, 1, 3, 2), 5.0, "f4")
    assert value(tag_loss, people([(0, 0), (1, 0)]), tags, pull=0, push=1) == [0]
    assert value(tag_loss, people(), tags) == [0]


def test_gradients_are_finite_without_people():
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken in TensorFlow")
    tags = tf.Variable(np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype("f4"))
    for target in (people(), people([(0, 0), (1, 0)]), people([(0, 0), None], [(0, 0), None])):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tag_loss(tf.constant(target), tags))
        gradient = tape.gradient(loss, tags)
        assert np.isfinite(gradient.numpy()).all()


def test_losses_of_all_outputs_are_scaled_alike():
    terms = losses(low_weight=2.0, tag_weight=0.5)
    assert set(terms) == {"heatmaps", "heatmaps_low", "tags"}
    target, predicted = np.zeros((1, 2, 2, 1), "f4"), np.ones((1, 2, 2, 1), "f4")
    assert value(terms["heatmaps"], target, predicted) == pytest.approx([SCALE])
    assert value(terms["heatmaps_low"], target, predicted) == pytest.approx([2 * SCALE])
