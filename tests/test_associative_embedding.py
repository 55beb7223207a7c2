"""The associative-embedding codec: targets, grouping against the plain reference, whole circle."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference_grouping import candidates
from reference_grouping import group as reference_group

from posezoo.codecs import AssociativeEmbeddingCodec, make_codec
from posezoo.codecs.associative_embedding import Maps, best_with_tag, grouping_order, resized
from posezoo.codecs.heatmap import UNLABELLED, HeatmapCodec
from posezoo.skeletons import COCO17, LSP14, Skeleton

SMALL = Skeleton("small", ("nose", "left_wrist", "right_wrist"))


def outputs_of(codec, people, *, tag_of=None, noise=0.0, seed=0):
    """Network outputs that a perfect network would give: target maps, and every person's tag around its joints."""
    rng = np.random.default_rng(seed)
    targets = codec.targets(people)
    tags = rng.normal(0, noise, targets["heatmaps_low"].shape).astype(np.float32)
    for i, person in enumerate(targets["tags"][: len(people)]):
        for k, (x, y, labelled) in enumerate(person.astype(int)):
            if labelled:
                tags[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3, k] = i if tag_of is None else tag_of[i]
    maps = {name: targets[name] + rng.normal(0, noise, targets[name].shape) for name in ("heatmaps", "heatmaps_low")}
    return {**{k: v.astype(np.float32) for k, v in maps.items()}, "tags": tags}


def apart(n, joints, size, rng):
    """People whose joints keep apart: each joint type of each person in a cell of its own."""
    cells = int(np.ceil(np.sqrt(n)))
    side = size / cells
    people = np.ones((n, joints, 3), np.float32)
    for i in range(n):
        corner = np.array([i % cells, i // cells]) * side
        people[i, :, :2] = corner + rng.uniform(0.25, 0.75, (joints, 2)) * side
    return people


# Order


def test_order_of_grouping_is_the_papers():
    assert grouping_order(COCO17) == [0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16]


def test_order_of_any_skeleton_goes_by_kind_and_unknown_kinds_come_last():
    names = [LSP14.keypoints[i] for i in grouping_order(LSP14)]
    assert names[:2] == ["head_top", "neck"] and set(names[-2:]) == {"left_ankle", "right_ankle"}
    tail = Skeleton("cat", ("tail", "nose"))
    assert grouping_order(tail) == [1, 0]


@pytest.mark.parametrize(
    ("joint_order", "people"), [(["nose"], [[1, 1, 0], [0, 0, 1]]), (["wrist", "nose"], [[0, 1, 1], [1, 0, 0]])]
)
def test_order_of_kinds_is_a_parameter(joint_order, people):
    codec = make_codec("associative_embedding", (64, 64), joint_order=joint_order, refine=False)
    outputs = outputs_of(codec, np.array([[[10, 10, 2], [20, 40, 2], [50, 10, 2]]]))
    # The left wrist is near either neighbour; with the first it meets, the mean is too far from the other.
    outputs["tags"][:] = 0, 0.8, 1.6
    _, scores, _ = codec.decode(codec.merge(outputs), SMALL)
    assert (scores > 0).tolist() == np.array(people, bool).tolist()


# Targets


def test_targets_are_the_largest_gaussian_of_all_people():
    codec = AssociativeEmbeddingCodec((64, 64), truncate=False)
    people = np.array([[[20.5, 20.5, 2]], [[28.5, 20.5, 1]]], np.float32)
    targets = codec.targets(people)
    assert targets["heatmaps"].shape == (32, 32, 1) and targets["heatmaps_low"].shape == (16, 16, 1)
    # Map pixel u of stride 2 lies at input pixel 2u + 0.5: 10 and 14 are the centres, 12 is 2 pixels from both.
    assert targets["heatmaps"][10, [10, 12, 14], 0] == pytest.approx([1, np.exp(-0.5), 1])


def test_truncated_centres_are_the_pixel_that_holds_the_keypoint():
    codec = AssociativeEmbeddingCodec((64, 64))
    for x in (19.6, 20.0, 21.4):  # all within input pixels 20 and 21, which are map pixel 10
        targets = codec.targets(np.array([[[x, 20.5, 2]]], np.float32))
        assert targets["heatmaps"][10, 10, 0] == 1
        assert targets["tags"][0, 0].tolist() == [5, 5, 1]


def test_without_half_pixel_centres_are_the_public_codes():
    codec = AssociativeEmbeddingCodec((64, 64), half_pixel=False, decode_shift=0.5)
    for x in (20.0, 20.7, 21.9):  # floor(x / 2) is 10, floor(x / 4) is 5
        targets = codec.targets(np.array([[[x, 20.5, 2]]], np.float32))
        assert targets["heatmaps"][10, 10, 0] == 1 and targets["heatmaps_low"][5, 5, 0] == 1
        assert targets["tags"][0, 0].tolist() == [5, 5, 1]


@pytest.mark.parametrize("half_pixel", [False, True])
def test_untruncated_targets_are_the_heatmap_codecs(half_pixel):
    codec = AssociativeEmbeddingCodec((96, 64), truncate=False, half_pixel=half_pixel)
    people = np.ones((5, 3, 3), np.float32)
    people[..., :2] = np.random.default_rng(1).uniform(0, (95, 63), (5, 3, 2))
    people[2, 1, 2] = 0
    targets = codec.targets(people)
    for name, stride in (("heatmaps", 2), ("heatmaps_low", 4)):
        whole = HeatmapCodec((96, 64), stride=stride, sigma=2, half_pixel=half_pixel)
        expected = whole.encode(people[..., :2], people[..., 2]).max(axis=0)
        # The first pixel that is left out is at least 7 pixels from the centre on one axis.
        left_out = np.exp(-(7**2) / (2 * 2**2))
        np.testing.assert_allclose(targets[name], expected, atol=left_out)
        high = expected > left_out
        np.testing.assert_allclose(targets[name][high], expected[high], atol=1e-6)
        assert high.any() and (targets[name] == 0).any()


def test_ignored_pixels_are_marked_at_both_sizes():
    codec = AssociativeEmbeddingCodec((64, 64))
    ignore = np.zeros((64, 64), bool)
    ignore[:32] = True
    person = np.array([[[40, 40, 2], [41, 50, 2]]], np.float32)
    targets = codec.targets(person, ignore)
    for name, half in (("heatmaps", 16), ("heatmaps_low", 8)):
        assert (targets[name][:half] == UNLABELLED).all() and targets[name][half:].min() >= 0
    each = np.zeros((64, 64, 2), bool)
    each[..., 1] = True
    targets = codec.targets(person, each)
    assert (targets["heatmaps"][..., 1] == UNLABELLED).all() and targets["heatmaps"][..., 0].max() == 1


def test_unlabelled_and_outside_keypoints_have_no_tag():
    codec = AssociativeEmbeddingCodec((64, 64), max_people=4)
    people = np.array([[[10, 10, 2], [20, 20, 0], [70, 10, 2]]], np.float32)
    tags = codec.targets(people)["tags"]
    assert tags.shape == (4, 3, 3)
    assert tags[0, :, 2].tolist() == [1, 0, 0] and (tags[1:] == 0).all()
    heatmaps = codec.targets(people)["heatmaps"]
    assert heatmaps.max(axis=(0, 1)).tolist() == [1, 0, 0]
    people[0, 1] = np.nan, np.nan, 0
    assert (codec.targets(people)["heatmaps"] == heatmaps).all()


def test_nobody_gives_empty_targets():
    targets = AssociativeEmbeddingCodec((64, 64)).targets(np.zeros((0, 3, 3)))
    assert targets["heatmaps"].shape == (32, 32, 3) and not any(value.any() for value in targets.values())


def test_of_too_many_people_the_largest_stay():
    codec = AssociativeEmbeddingCodec((64, 64), max_people=2)
    people = np.array([[[10, 10, 2], [10 + s, 10 + s, 2]] for s in (4, 30, 20)], np.float32)
    tags = codec.targets(people)["tags"]
    assert tags[:, 1, 0].tolist() == [10, 7]  # map pixels of 40 and 30


# Grouping


CASES = [
    {}, {"adjust": False}, {"refine": False}, {"score_in_cost": False}, {"ignore_too_many": True, "max_people": 3},
    {"nms_kernel": 3, "tag_threshold": 0.4}, {"detection_threshold": 0.4}, {"max_people": 4},
]  # fmt: skip


def assert_same_groups(codec, heatmaps, tags, order):
    got, expected = codec.group(heatmaps, tags, order), reference_group(codec, heatmaps, tags, order)
    assert len(got[0]) == len(expected[0])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    return got


@pytest.mark.parametrize("changes", CASES, ids=str)
@pytest.mark.parametrize("passes", [1, 2])
def test_groups_are_the_references_on_random_people(changes, passes):
    codec = AssociativeEmbeddingCodec((80, 80), **changes)
    rng = np.random.default_rng(len(str(changes)) + passes)
    found = 0
    for _ in range(4):
        people = np.ones((6, 3, 3), np.float32)
        people[..., :2] = rng.uniform(0, 79, (6, 3, 2))
        people[..., 2] = rng.random((6, 3)) > 0.3
        one = codec.merge(outputs_of(codec, people, noise=0.1, seed=int(rng.integers(99))))
        tags = np.concatenate([one.tags, one.tags + rng.normal(0, 0.1, one.tags.shape).astype("f4")])[:passes]
        found += len(assert_same_groups(codec, one.heatmaps, tags, grouping_order(SMALL))[0])
    assert found > 8


def adversarial():
    rng = np.random.default_rng(3)
    flat = np.zeros((3, 24, 24), np.float32)
    yield "empty", flat, flat[None]
    yield "plateau", flat + 0.5, flat[None]
    ties = rng.integers(0, 3, (3, 24, 24)).astype(np.float32) / 2
    yield "ties", ties, rng.integers(-2, 3, (1, 3, 24, 24)).astype(np.float32)
    yield "ties, two tags", ties, rng.integers(-2, 3, (2, 3, 24, 24)).astype(np.float32) / 2
    yield "noise", rng.normal(0, 1, (3, 24, 24)).astype("f4"), rng.normal(0, 3, (1, 3, 24, 24)).astype("f4")
    yield "above one", 3 * rng.random((3, 24, 24), "f4"), rng.normal(0, 2, (1, 3, 24, 24)).astype("f4")
    corners = flat.copy()
    corners[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 0.9
    yield "corners", corners, rng.normal(0, 2, (1, 3, 24, 24)).astype("f4")
    only = flat.copy()
    only[1, 5, 7] = 0.8
    yield "one joint", only, flat[None]
    yield "negative", flat - 1, flat[None]


@pytest.mark.parametrize(("name", "heatmaps", "tags"), adversarial(), ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("changes", CASES[:5], ids=str)
def test_groups_are_the_references_on_hard_maps(name, heatmaps, tags, changes):
    codec = AssociativeEmbeddingCodec((48, 48), **changes)
    assert_same_groups(codec, heatmaps, tags, [0, 1, 2])


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("floor", [0.1, 0.9])
@pytest.mark.parametrize("step", [None, 0.25], ids=["floats", "quarters"])
def test_search_of_missing_keypoints_is_exact(passes, floor, step):
    rng = np.random.default_rng(passes)
    planes = rng.normal(0, 0.4, (4, 19, 23)).astype("f4")
    planes[1] *= 4  # values above 1, which win although their tags are a whole step away
    planes[2] = -1
    tags = rng.normal(0, 3, (passes, 4, 19, 23)).astype("f4")
    joint, means = np.repeat(np.arange(4), 20), rng.normal(0, 4, (80, passes)).astype("f4")
    if step:  # ties of values, and distances that are exactly a half
        planes, tags, means = (np.round(a / step).astype("f4") * np.float32(step) for a in (planes, tags, means))
    above = [np.flatnonzero(plane > floor) for plane in planes]
    place, value = best_with_tag(planes, tags, joint, means, above=above, floor=floor)
    for k, mean, pixel, best in zip(joint, means, place, value, strict=True):
        apart = np.sqrt(np.square(tags[:, k] - mean[:, None, None]).sum(axis=0))
        everywhere = (planes[k] - np.rint(apart)).ravel()
        assert best == max(0, everywhere.max())
        assert best == 0 or pixel == everywhere.argmax()
    assert 20 < (value > 0).sum() < 80


def test_candidates_of_equal_tags_open_a_person_each():
    codec = AssociativeEmbeddingCodec((48, 48))
    heatmaps = np.zeros((1, 24, 24), np.float32)
    heatmaps[0, 5, [5, 15]] = 0.9, 0.8
    keypoints, _, people = codec.group(heatmaps, np.zeros((1, 1, 24, 24), np.float32), [0])
    assert keypoints[:, 0].round().tolist() == [[5, 5], [15, 5]] and people == pytest.approx([0.9, 0.8])


def test_more_candidates_than_people_can_be():
    codec = AssociativeEmbeddingCodec((240, 240), nms_kernel=1)
    heatmaps = np.random.default_rng(0).random((2, 120, 120), "f4")
    assert (
        len(assert_same_groups(replace(codec, refine=False), heatmaps, np.zeros_like(heatmaps)[None], [0, 1])[0]) == 30
    )


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_a_crowd_of_more_candidates_than_count_is_grouped_as_the_reference_does(passes, spread):
    """Hundreds of peaks of every tag: the strongest 30 of each joint count, and missing joints are searched."""
    codec = AssociativeEmbeddingCodec((96, 96), nms_kernel=3)
    rng = np.random.default_rng(int(spread) + passes)
    heatmaps = rng.random((3, 48, 48), "f4")
    assert codec.refine and all(len(candidates(plane, replace(codec, max_people=999))) > 100 for plane in heatmaps)
    tags = rng.normal(0, spread, (passes, 3, 48, 48)).astype("f4")
    keypoints, scores, people = assert_same_groups(codec, heatmaps, tags, [2, 0, 1])
    assert len(keypoints) > 30 and (people < scores.mean(axis=1) - 0.01).any(), "nothing was searched"


def test_nobody_gives_empty_arrays():
    codec = AssociativeEmbeddingCodec((64, 64))
    zeros = {"heatmaps": np.zeros((32, 32, 3)), "heatmaps_low": np.zeros((16, 16, 3)), "tags": np.zeros((16, 16, 3))}
    keypoints, scores, people = codec.decode(codec.merge(zeros), SMALL)
    assert keypoints.shape == (0, 3, 2) and scores.shape == (0, 3) and people.shape == (0,)


# The whole circle


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_people_come_back(upsample, truncate):
    codec = AssociativeEmbeddingCodec((256, 256), upsample=upsample, truncate=truncate)
    errors = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        people = apart(int(rng.integers(1, 7)), 17, 256, rng)
        tag_of = rng.permutation(len(people)) * 1.6 - 3
        maps = codec.merge(outputs_of(codec, people, tag_of=tag_of, noise=0.01, seed=seed))
        keypoints, scores, _ = codec.decode(maps, COCO17)
        assert len(keypoints) == len(people) and (scores > 0).all()
        nearest = np.linalg.norm(keypoints[:, None] - people[None, ..., :2], axis=-1).mean(axis=-1)
        assert sorted(nearest.argmin(axis=1)) == list(range(len(people)))
        errors.append(nearest.min(axis=1).mean())
    # Truncation to whole pixels of the 1/4 map alone costs about 1.5 input pixels.
    assert np.mean(errors) < (2.2 if truncate else 1.2)


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("convention", [{}, {"half_pixel": False, "decode_shift": 0.5}], ids=["half pixel", "public"])
def test_keypoints_come_back_without_bias(upsample, convention):
    codec = AssociativeEmbeddingCodec((128, 128), upsample=upsample, **convention)
    errors = []
    for seed in range(12):
        people = apart(1, 17, 128, np.random.default_rng(seed))
        keypoints, _, _ = codec.decode(codec.merge(outputs_of(codec, people)), COCO17)
        errors.append(keypoints[0] - people[0, :, :2])
    # One pixel of truncation has a spread of 1.2 input pixels at most: 0.08 for the mean of 204 keypoints.
    assert np.abs(np.mean(errors, axis=(0, 1))).max() < 0.25


def test_the_mirrored_pass_agrees_with_itself():
    codec = AssociativeEmbeddingCodec((64, 64))
    outputs = outputs_of(codec, apart(2, 3, 64, np.random.default_rng(0)))
    order = list(SMALL.flip_indices)
    mirrored = {k: v[:, ::-1][..., order] for k, v in outputs.items()}
    plain, both = codec.merge(outputs), codec.merge(outputs, mirrored, SMALL)
    np.testing.assert_allclose(both.heatmaps, plain.heatmaps, atol=1e-6)
    assert both.tags.shape[0] == 2
    np.testing.assert_allclose(both.tags[0], both.tags[1], atol=1e-6)


def test_scales_are_averaged_at_the_reference():
    codec = AssociativeEmbeddingCodec((64, 64))
    rng = np.random.default_rng(0)
    small, large = (
        Maps(rng.random((2, s, s), "f4"), rng.random((1, 2, s, s), "f4")) for s in (16, 32)
    )  # fmt: skip
    merged = codec.merge_scales([small, large], reference=1)
    np.testing.assert_allclose(merged.heatmaps, (resized(small.heatmaps, (32, 32)) + large.heatmaps) / 2, atol=1e-6)
    assert merged.tags is large.tags
    every = replace(codec, all_scale_tags=True).merge_scales([small, large], reference=1)
    assert every.tags.shape == (2, 2, 32, 32)


# Bad input


@pytest.mark.parametrize("name", ["heatmaps", "heatmaps_low", "tags"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_named(name, value):
    codec = AssociativeEmbeddingCodec((64, 64))
    outputs = outputs_of(codec, apart(1, 3, 64, np.random.default_rng(0)))
    outputs[name][3, 3, 0] = value
    with pytest.raises(ValueError, match=f"{name} hold NaN or infinity"):
        codec.merge(outputs)


def test_wrong_sizes_and_missing_outputs_are_named():
    codec = AssociativeEmbeddingCodec((64, 64))
    outputs = outputs_of(codec, apart(1, 3, 64, np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"tags are \(15, 16\), the codec expects \(16, 16\)"):
        codec.merge({**outputs, "tags": outputs["tags"][1:]})
    with pytest.raises(ValueError, match="as many channels in every output"):
        codec.merge({**outputs, "tags": outputs["tags"][..., 1:]})
    with pytest.raises(ValueError, match="skeleton of the 3 keypoints, got none"):
        codec.merge(outputs, outputs)
    with pytest.raises(ValueError, match="got 'coco17' with 17"):
        codec.merge(outputs, outputs, COCO17)
    del outputs["tags"]
    with pytest.raises(ValueError, match="no 'tags'"):
        codec.merge(outputs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nms_kernel": 4}, "must be odd"),
        ({"detection_threshold": 2.0}, "0 to 1"),
        ({"stride": 3}, "multiple"),
        ({"max_people": 0}, "at least 1"),
    ],
)
def test_impossible_parameters(changes, told):
    with pytest.raises(ValueError, match=told):
        make_codec("associative_embedding", (64, 64), **changes)


def test_training_arrays_of_wrong_shapes_are_named():
    codec = AssociativeEmbeddingCodec((64, 48))
    with pytest.raises(ValueError, match=r"expected keypoints \(N, K, 3\).* got \(3, 3\)"):
        codec.targets(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"expected ignore \(48, 64\) or \(48, 64, 3\).* got \(64, 48\)"):
        codec.targets(np.zeros((1, 3, 3)), np.zeros((64, 48), bool))


# Benchmark


def test_benchmark_times_every_case(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    grouping = importlib.import_module("grouping")
    record = grouping.main(["--people", "2", "--input-px", "128", "--runs", "1", "--out", str(tmp_path)])
    assert [row["case"] for row in record["rows"]] == list(grouping.CASES)
    assert record["rows"][0]["found"] >= 1 and all(row["wall_ms"] > 0 for row in record["rows"])
    assert [row["case"] for row in record["fields"]] == [*grouping.FIELD_CASES, grouping.DRAWING]
    assert record["fields"][0]["found"] >= 1 and all(row["wall_ms"] > 0 for row in record["fields"])
    assert "idiap's parameters" in (tmp_path / "grouping.md").read_text()
    assert "half missing, mirrored pass" in (tmp_path / "grouping.md").read_text()
