"""Boxes as centre points: encoding, decoding, and what is suppressed."""

from __future__ import annotations

import numpy as np
import pytest

from posezoo.codecs import CenterCodec, make_codec
from posezoo.codecs.center import box_iou, suppress

WH = (256, 192)


def outputs_of(targets: dict, *, hide: bool = True) -> dict[str, np.ndarray]:
    """What a network says that learnt the targets; where it learnt no sizes and offsets, it says nonsense."""
    peaks = np.clip(targets["centers"][0].astype(np.float64), 1e-4, 1 - 1e-4)
    outputs = {"centers": np.log(peaks / (1 - peaks)).astype(np.float32)}
    for name in ("sizes", "offsets"):
        values, weights = targets[name]
        outputs[name] = np.where(weights[..., None] > 0, values, 9.0 if hide else 0.0).astype(np.float32)
    return outputs


def grid_of_boxes(rng: np.random.Generator) -> np.ndarray:
    """Twelve boxes of all sizes, one in each field of a grid."""
    boxes = []
    for row in range(3):
        for column in range(4):
            width, height = rng.uniform(9, 60, 2)
            x, y = column * 64 + rng.uniform(2, 62 - width), row * 64 + rng.uniform(2, 62 - height)
            boxes.append([x, y, width, height])
    return np.array(boxes)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_come_back(seed):
    boxes = grid_of_boxes(np.random.default_rng(seed))
    codec = CenterCodec(WH)
    found, scores = codec.decode(outputs_of(codec.encode(boxes)))
    assert found.dtype == scores.dtype == np.float32
    assert len(found) == len(boxes)
    nearest = box_iou(boxes, found).argmax(axis=1)
    assert sorted(nearest) == list(range(12))
    assert np.abs(found[nearest] - boxes).max() < 0.01
    assert (scores > 0.99).all()


def test_every_cell_that_learns_a_box_tells_the_same_box():
    codec = CenterCodec(WH)
    box = np.array([40.3, 20.7, 90.0, 150.0])
    targets = codec.encode(box[None])
    weights = targets["sizes"][1]
    assert weights.sum() == pytest.approx(1, abs=1e-5) and (weights > 0).sum() > 9
    for y, x in np.argwhere(weights > 0):
        outputs = outputs_of(targets)
        outputs["centers"] = np.full((24, 32, 1), -9, np.float32)
        outputs["centers"][y, x] = 2
        found, _ = codec.decode(outputs)
        assert np.abs(found[0] - box).max() < 0.01


def test_numbers_of_one_box():
    codec = CenterCodec(WH)
    # Its centre, at 99.5 pixels, lies in cell 12 (pixels 95.5 to 103.5), in its middle.
    targets = codec.encode(np.array([[67.5, 35.5, 64.0, 128.0]]))
    centers, weights = targets["centers"]
    assert centers.shape == (24, 32, 1) and centers.dtype == np.float32
    assert np.argwhere(centers[..., 0] == 1).tolist() == [[12, 12]]
    assert weights.min() == 1
    assert targets["sizes"][0][12, 12] == pytest.approx([0, np.log(2)], abs=1e-6)
    assert targets["offsets"][0][12, 12] == pytest.approx([0, 0], abs=1e-6)
    assert targets["offsets"][0][11, 12] == pytest.approx([0, 1], abs=1e-6)
    # Deviations of the Gaussian follow the box's sides: 8 cells / 12 and 16 cells / 12.
    assert centers[12, 13, 0] == pytest.approx(np.exp(-((1 / (8 / 12)) ** 2) / 2), rel=1e-5)
    assert centers[13, 12, 0] == pytest.approx(np.exp(-((1 / (16 / 12)) ** 2) / 2), rel=1e-5)


@pytest.mark.parametrize(
    "box",
    [
        (-0.5, -0.5, 256, 192),  # everything
        (-0.5, -0.5, 10, 12),  # the corners
        (245.5, 179.5, 10, 12),
        (-0.5, 50, 3, 100),  # a sliver at a border
    ],
)
def test_boxes_at_the_border_come_back(box):
    codec = CenterCodec(WH)
    found, _ = codec.decode(outputs_of(codec.encode(np.array([box]))))
    assert found == pytest.approx(np.array([box]), abs=0.01)


def test_a_centre_outside_is_left_out():
    codec = CenterCodec(WH)
    targets = codec.encode(np.array([[-90.0, 50, 100, 60], [300, 50, 10, 10]]))
    assert targets["centers"][0].max() == 0
    assert targets["sizes"][1].max() == 0


def test_nobody():
    codec = CenterCodec(WH)
    targets = codec.encode(np.zeros((0, 4)))
    assert [v.shape for v, _ in targets.values()] == [(24, 32, 1), (24, 32, 2), (24, 32, 2)]
    assert targets["centers"][1].min() == 1
    assert targets["sizes"][1].max() == targets["offsets"][1].max() == 0
    found, scores = codec.decode(outputs_of(targets))
    assert found.shape == (0, 4) and scores.shape == (0,)
    assert found.dtype == np.float32


def test_ignored_regions_have_no_weight_but_labelled_people_in_them_do():
    codec = CenterCodec(WH)
    person, crowd = [90.0, 60, 20, 40], [79.5, 39.5, 80, 80]  # the crowd covers cells 10 to 19 and 5 to 14
    targets = codec.encode(np.array([person]), np.array([crowd]))
    weights = targets["centers"][1]
    expected = np.ones((24, 32))
    expected[5:15, 10:20] = 0
    centre = np.argwhere(targets["centers"][0][..., 0] == 1)
    assert len(centre) == 1
    expected[tuple(centre[0])] = 1
    np.testing.assert_array_equal(weights, expected)
    assert targets["sizes"][1][tuple(centre[0])] > 0.2
    # What a box touches is ignored, and what lies outside the input changes nothing.
    touched = codec.encode(np.zeros((0, 4)), np.array([[83.0, 43.0, 1, 1], [-50, -50, 20, 20], [400, 9, 9, 9]]))
    assert np.argwhere(touched["centers"][1] == 0).tolist() == [[5, 10]]


def test_of_two_centres_in_a_cell_the_smaller_person_gives_the_box():
    codec = CenterCodec(WH)
    large, small = [50.0, 20, 60, 120], [70.0, 60, 20, 40]
    for boxes in ([large, small], [small, large]):
        found, _ = codec.decode(outputs_of(codec.encode(np.array(boxes))))
        assert found == pytest.approx(np.array([small]), abs=0.01)


def test_people_side_by_side_are_both_found():
    codec = CenterCodec(WH)
    boxes = np.array([[40.0, 20, 50, 150], [65.0, 22, 50, 150]])
    found, _ = codec.decode(outputs_of(codec.encode(boxes)))
    assert len(found) == 2


def maps(**cells: tuple) -> dict[str, np.ndarray]:
    """Empty outputs of a 64x64 input with logits in some cells: `y_x=logit`."""
    outputs = {
        "centers": np.full((8, 8, 1), -8, np.float32),
        "sizes": np.zeros((8, 8, 2), np.float32),
        "offsets": np.zeros((8, 8, 2), np.float32),
    }
    for place, logit in cells.items():
        y, x = map(int, place.strip("c").split("_"))
        outputs["centers"][y, x] = logit
    return outputs


SMALL = CenterCodec((64, 64), reference_px=8.0)


def test_scores_are_probabilities_best_first_above_the_threshold():
    found, scores = SMALL.decode(maps(c1_1=0, c5_5=3, c1_6=-0.9))
    assert scores == pytest.approx([1 / (1 + np.exp(-3)), 0.5])
    assert found[0] == pytest.approx([5.5 * 8 - 0.5 - 4, 5.5 * 8 - 0.5 - 4, 8, 8])
    assert len(SMALL.decode(maps(c1_1=0, c5_5=3, c1_6=-0.8))[0]) == 3


def test_a_neighbour_that_is_lower_is_no_peak_and_of_equals_the_first_is():
    assert len(SMALL.decode(maps(c3_3=2, c3_4=1.9))[0]) == 1
    for tie in (("c3_3", "c3_4"), ("c3_3", "c4_3"), ("c3_4", "c4_3"), ("c3_3", "c4_4")):
        found, _ = SMALL.decode(maps(**dict.fromkeys(tie, 2)))
        y, x = map(int, tie[0].strip("c").split("_"))
        assert found.tolist() == [[x * 8 - 0.5, y * 8 - 0.5, 8, 8]]
    everywhere = maps()
    everywhere["centers"][:] = 2
    assert len(SMALL.decode(everywhere)[0]) == 1


def test_at_most_so_many_boxes():
    cells = {f"c{y}_{x}": 1 + x / 10 for y in range(0, 8, 2) for x in range(0, 8, 2)}
    assert len(SMALL.decode(maps(**cells))[0]) == 16
    found, scores = CenterCodec((64, 64), reference_px=8.0, max_boxes=4).decode(maps(**cells))
    assert len(found) == 4 and scores.min() == pytest.approx(1 / (1 + np.exp(-1.6)))


def test_boxes_that_overlap_a_better_one_are_left_out():
    outputs = maps(c3_2=1, c3_4=2, c3_6=3)
    outputs["sizes"][:] = np.log(5.0)  # 40 px, 16 px apart: intersection over union 24 / 56
    assert len(CenterCodec((64, 64), reference_px=8.0, overlap=0.5).decode(outputs)[0]) == 3
    # The middle one goes, which would have suppressed the worst one.
    _, scores = CenterCodec((64, 64), reference_px=8.0, overlap=0.4).decode(outputs)
    assert scores == pytest.approx(1 / (1 + np.exp(-np.array([3.0, 1.0]))))


def test_suppression_against_a_plain_loop():
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.uniform(0, 60, (80, 2)), rng.uniform(10, 50, (80, 2))], axis=1)
    for overlap in (0.2, 0.5, 0.8):
        kept: list[int] = []
        for i in range(len(boxes)):
            if all(box_iou(boxes[i : i + 1], boxes[k : k + 1])[0, 0] <= overlap for k in kept):
                kept.append(i)
        assert suppress(boxes, overlap).tolist() == kept
        assert 0 < len(kept) < 80


def test_intersection_over_union():
    a = np.array([[0.0, 0, 10, 10]])
    b = np.array([[0.0, 0, 10, 10], [5, 0, 10, 10], [5, 5, 10, 10], [10, 0, 5, 5], [30, 30, 1, 1]])
    assert box_iou(a, b)[0] == pytest.approx([1, 1 / 3, 25 / 175, 0, 0])
    assert box_iou(np.zeros((0, 4)), b).shape == (0, 5)


def test_one_int8_scale_per_output_keeps_every_box():
    codec = CenterCodec(WH)
    boxes = grid_of_boxes(np.random.default_rng(7))
    boxes[0] = [2, 2, 8, 12]
    outputs = outputs_of(codec.encode(boxes), hide=False)
    for name, (low, high) in {"centers": (-8, 4), "sizes": (-2.5, 1.6), "offsets": (-4, 4)}.items():
        step = (high - low) / 255
        outputs[name] = (np.rint(outputs[name].clip(low, high) / step) * step).astype(np.float32)
    found, _ = codec.decode(outputs)
    assert len(found) == len(boxes)
    assert box_iou(boxes, found).max(axis=1).min() > 0.96


def test_wild_outputs_stay_finite():
    outputs = maps(c3_3=1e9)
    outputs["sizes"][:], outputs["offsets"][:] = 1e9, -np.inf
    found, scores = SMALL.decode(outputs)
    assert np.isfinite(found).all() and scores == pytest.approx([1])


@pytest.mark.parametrize("name", ["centers", "sizes", "offsets"])
def test_nan_and_other_outputs_are_told(name):
    outputs = maps(c3_3=2)
    outputs[name][7, 0] = np.nan
    with pytest.raises(ValueError, match=f"{name} holds NaN"):
        SMALL.decode(outputs)
    outputs[name] = outputs[name][:4]
    with pytest.raises(ValueError, match=rf"{name} is \(4, 8, .\), the codec expects \(8, 8, .\)"):
        SMALL.decode(outputs)
    del outputs[name]
    with pytest.raises(ValueError, match=f"no output '{name}' among"):
        SMALL.decode(outputs)


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        ([[1, 2, 3]], "expected boxes"),
        ([[0, 0, np.nan, 3]], "finite"),
        ([[0, 0, 5, 0]], "above 0"),
        ([[np.inf, 0, 5, 5]], "finite"),
    ],
)
def test_impossible_boxes_are_told(boxes, told):
    with pytest.raises(ValueError, match=told):
        SMALL.encode(np.array(boxes, float))
    with pytest.raises(ValueError, match=told):
        SMALL.encode(np.zeros((0, 4)), np.array(boxes, float))


def test_parameters_are_checked():
    assert make_codec("center", (64, 64), overlap=0.6) == CenterCodec((64, 64), overlap=0.6)
    with pytest.raises(ValueError, match="no multiple of the stride 8"):
        CenterCodec((60, 64))
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        CenterCodec((64, 64), score_threshold=1.5)
    with pytest.raises(ValueError, match="box_level above 0"):
        CenterCodec((64, 64), box_level=0)
