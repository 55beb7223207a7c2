"""The report on quantisation: levels, and key-points matched and moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from posezoo.cards import read_card  # noqa: E402
from posezoo.codecs import make_codec  # noqa: E402
from posezoo.export.quantisation import keypoint_shift, match_people, quantisation_report  # noqa: E402
from posezoo.inference.runners import KerasRunner, TFLiteRunner  # noqa: E402


def people(*corners, score: float = 1.0):
    """People of four key-points at the corners of a square of 40 px."""
    square = np.array([(0, 0), (40, 0), (0, 40), (40, 40)], np.float32)
    return np.stack([square + corner for corner in corners]), np.full((len(corners), 4), score, np.float32)


def test_people_are_matched_by_place_not_order():
    there, here = people((0, 0), (200, 0), (400, 0)), people((401, 0), (2, 0), (199, 0))
    assert match_people(there, here, threshold=0.2) == [(0, 1), (1, 2), (2, 0)]


def test_people_far_apart_are_not_matched():
    assert match_people(people((0, 0)), people((100, 0)), threshold=0.2) == []
    assert match_people(people((0, 0)), people((30, 0)), threshold=0.2) == [(0, 0)]
    assert match_people(people((0, 0)), (np.empty((0, 4, 2)), np.empty((0, 4))), threshold=0.2) == []


def test_keypoints_that_score_little_do_not_count():
    keypoints, scores = people((0, 0))
    moved = keypoints.copy()
    moved[0, 3] += 500
    assert match_people((keypoints, scores), (moved, scores), threshold=0.2) == []
    scores[0, 3] = 0.1
    assert match_people((keypoints, scores), (moved, scores), threshold=0.2) == [(0, 0)]


def test_shift_of_single_people():
    card = read_card("mobilenet_split_050_192")
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    keypoints = np.random.default_rng(0).uniform(40, 150, (3, 14, 2)).astype(np.float32)
    seen = np.ones((3, 14))
    seen[0, :4] = 0

    def maps(xy):
        return {"heatmaps": np.stack([codec.encode(k, s) for k, s in zip(xy, seen)])}

    shift = keypoint_shift(card, maps(keypoints), maps(keypoints + (3, 4)))
    assert (shift.people, shift.missed, shift.extra, shift.keypoints) == (3, 0, 0, 38)
    np.testing.assert_allclose([shift.mean_px, shift.p95_px, shift.max_px], 5, atol=0.2)


def test_missed_and_extra_people_are_counted():
    card = read_card("mpm_1s")
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    rng = np.random.default_rng(1)
    body = rng.uniform(-60, 60, (17, 2))

    def maps(*centres):
        xy = np.stack([body + centre for centre in centres]).astype(np.float32)
        made = codec.targets(np.concatenate([xy, np.full((len(xy), 17, 1), 2.0)], -1), skeleton=card.skeleton)
        return {name: value[None] for name, value in made.items()}

    one, both = maps((90, 180)), maps((90, 180), (275, 180))
    assert keypoint_shift(card, both, both).missed == 0
    lost, found = keypoint_shift(card, both, one), keypoint_shift(card, one, both)
    assert (lost.people, lost.missed, lost.extra) == (1, 1, 0)
    assert (found.people, found.missed, found.extra) == (1, 0, 1)


def test_nobody_and_no_keypoints_are_none():
    card = read_card("mobilenet_split_050_192")
    empty = {"heatmaps": np.zeros((2, 48, 48, 14), np.float32)}
    assert keypoint_shift(card, empty, empty) is None
    assert keypoint_shift(read_card("compact_efficientnet_b0"), {}, {}) is None


def test_report_of_a_file(tiny_network, tiny_int8, tiny_spec, tiny_pictures):
    card = replace(read_card("mobilenet_split_050_192"), input=tiny_spec)
    reference = KerasRunner(tiny_network, tiny_spec)(tiny_pictures)
    runner = TFLiteRunner(tiny_int8, tiny_spec)
    report = quantisation_report(runner, reference, tiny_pictures, card)
    (levels,) = report.outputs
    assert levels.used == np.unique(runner(tiny_pictures)["heatmaps"]).size
    worst = np.abs(runner(tiny_pictures)["heatmaps"] - reference["heatmaps"]).max() / levels.scale
    assert levels.worst_steps == pytest.approx(worst)
    assert any("of 256 levels used" in line for line in report.lines())
    assert any(line.startswith("key-points:") for line in report.lines())
