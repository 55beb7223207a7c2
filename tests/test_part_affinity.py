"""The part-affinity codec: targets, grouping against the plain reference, whole circle, mirrored pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference_paf import group as reference_group

from posezoo.codecs import PartAffinityCodec, make_codec
from posezoo.codecs.part_affinity import UNKNOWN, Maps, limb_flip, mirrored_maps, resized, unlabelled_joints
from posezoo.skeletons import COCO17, DEPTH17, Skeleton

ARM = Skeleton("arm", ("neck", "left_elbow", "right_elbow"), (("neck", "left_elbow"), ("neck", "right_elbow")))
CHAIN = Skeleton("chain", ("head", "neck", "tail"), (("head", "neck"), ("neck", "tail")))


def person(*xyv) -> np.ndarray:
    """One person `(1, K, 3)` from x, y or x, y, visibility."""
    return np.array([[(*p, 2)[:3] for p in xyv]], np.float32)


def maps_of(codec, people, skeleton, *, noise=0.0, seed=0) -> Maps:
    """What a perfect network would give, and noise."""
    rng = np.random.default_rng(seed)
    targets = codec.targets(people, skeleton=skeleton)
    return codec.merge({k: (v + rng.normal(0, noise, v.shape)).astype("f4") for k, v in targets.items()})


def random_people(rng, n, joints, size, *, apart=0.0):
    """People in cells of their own, `(n, joints, 3)`; joints of a person keep `apart` pixels between them."""
    cells = int(np.ceil(np.sqrt(n)))
    side = size / cells
    people = np.full((n, joints, 3), 2, np.float32)
    for i in range(n):
        corner = np.array([i % cells, i // cells]) * side
        while True:
            points = corner + rng.uniform(0.15, 0.85, (joints, 2)) * side
            gap = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(joints)
            if gap.min() >= apart:
                break
        people[i, :, :2] = points
    return people


# Targets


def test_confidence_is_the_papers_gaussian_of_the_nearest_person():
    codec = PartAffinityCodec((64, 48), sigma_px=10)
    people = np.concatenate([person((3.5, 3.5), (3.5, 3.5), (3.5, 3.5)), person((35.5, 3.5), (3.5, 3.5), (3.5, 3.5))])
    heatmaps = codec.targets(people, skeleton=ARM)["heatmaps"]
    assert heatmaps.shape == (6, 8, 4) and heatmaps.dtype == np.float32
    # Map pixels 0 and 4 are the keypoints' places; pixel 1 is 8 and 24 input pixels away, pixel 2 is 16 from both.
    expected = [1, np.exp(-(8**2) / 10**2), np.exp(-(16**2) / 10**2)]
    assert heatmaps[0, [0, 1, 2], 0] == pytest.approx(expected, abs=1e-6)
    assert heatmaps[0, 4, 0] == 1 and heatmaps[0, 4, 1] == pytest.approx(np.exp(-(32**2) / 10**2))
    assert heatmaps[..., 3] == pytest.approx(1 - heatmaps[..., :3].max(axis=-1))


def test_default_sigma_is_openposes():
    heatmaps = PartAffinityCodec((64, 48)).targets(person((3.5, 3.5), (3.5, 3.5), (3.5, 3.5)), skeleton=ARM)["heatmaps"]
    assert heatmaps[0, 1, 0] == pytest.approx(np.exp(-(8**2) / (2 * 7**2)))


def slow_fields(codec, people, skeleton):
    """Fields pixel by pixel."""
    width, height = codec.map_wh
    fields = np.zeros((height, width, 2 * len(skeleton.limbs)))
    for y in range(height):
        for x in range(width):
            middle = np.array([x, y]) * codec.stride + (codec.stride - 1) / 2
            for k, (a, b) in enumerate(skeleton.limb_indices):
                vectors = []
                for p in people:
                    if p[a, 2] == 0 or p[b, 2] == 0:
                        continue
                    start, v = p[a, :2], p[b, :2] - p[a, :2]
                    share = np.clip((middle - start) @ v / (v @ v), 0, 1)
                    if np.linalg.norm(start + share * v - middle) <= codec.limb_width_px:
                        vectors.append(v / np.linalg.norm(v))
                if vectors:
                    fields[y, x, 2 * k : 2 * k + 2] = np.mean(vectors, axis=0)
    return fields


@pytest.mark.parametrize("width", [4.0, 8.0, 13.0])
def test_fields_are_the_mean_direction_near_each_limb(width):
    codec = PartAffinityCodec((96, 72), limb_width_px=width)
    people = np.full((4, 3, 3), 2, np.float32)
    people[..., :2] = np.random.default_rng(1).uniform(0, (95, 71), (4, 3, 2))
    people[3, 1, 2] = 0
    pafs = codec.targets(people, skeleton=ARM)["pafs"]
    expected = slow_fields(codec, people, ARM)
    assert np.abs(pafs - expected).max() < 1e-4
    assert (np.linalg.norm(expected[..., :2], axis=-1) > 0).sum() > 10


def test_a_limb_without_length_has_no_field():
    pafs = PartAffinityCodec((64, 64)).targets(person((20, 20), (20, 20), (40, 20)), skeleton=ARM)["pafs"]
    assert not pafs[..., :2].any() and pafs[..., 2].max() == 1


def test_what_lies_outside_or_is_not_labelled_is_not_drawn():
    codec = PartAffinityCodec((64, 64))
    targets = codec.targets(person((20, 20), (70, 20), (np.nan, np.nan, 0)), skeleton=ARM)
    assert targets["heatmaps"].max(axis=(0, 1))[:3].tolist() == [pytest.approx(1, abs=0.02), 0, 0]
    assert not targets["pafs"].any()


def test_ignored_pixels_are_marked_in_every_map_that_depends_on_them():
    codec = PartAffinityCodec((64, 64))
    people = person((20, 20), (40, 40), (50, 20))
    ignore = np.zeros((64, 64, 3), bool)
    ignore[:32, :, 1] = True
    targets = codec.targets(people, ignore, skeleton=ARM)
    heatmaps, pafs = targets["heatmaps"], targets["pafs"]
    assert (heatmaps[:4, :, [1, 3]] == UNKNOWN).all() and (pafs[:4, :, :2] == UNKNOWN).all()
    plain = codec.targets(people, skeleton=ARM)
    for name, channels in (("heatmaps", [0, 2]), ("pafs", [2, 3])):
        assert np.array_equal(targets[name][..., channels], plain[name][..., channels])
        assert np.array_equal(targets[name][4:], plain[name][4:])
    everything = codec.targets(people, ignore.any(axis=-1), skeleton=ARM)
    assert all((everything[name][:4] == UNKNOWN).all() for name in everything)


def test_unlabelled_keypoints_are_unknown_within_their_persons_box():
    people = np.concatenate([person((10, 10), (20, 30), (0, 0, 0)), person((40, 40), (50, 50), (55, 45))])
    boxes = np.array([[10, 10, 10, 20], [40, 40, 15, 10]], np.float32)
    mask = unlabelled_joints(people, boxes, (64, 64), enlarge=1.0)
    assert mask.shape == (64, 64, 3) and not mask[..., :2].any()
    rows, columns = np.nonzero(mask[..., 2])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 30, 10, 20)
    outside = unlabelled_joints(people, boxes - (30, 30, 0, 0), (64, 64))
    assert outside.sum() < mask.sum()


@pytest.mark.parametrize(("floor_maps", "width"), [(False, 56), (True, 55)])
def test_inputs_that_are_no_multiple_of_the_stride(floor_maps, width):
    codec = PartAffinityCodec((444, 368), floor_maps=floor_maps)
    people = random_people(np.random.default_rng(0), 2, 17, 368, apart=10)
    ignore = np.zeros((368, 444), bool)
    targets = codec.targets(people, ignore, skeleton=DEPTH17)
    assert targets["heatmaps"].shape == (46, width, 18) and targets["pafs"].shape == (46, width, 32)
    keypoints, _, _ = codec.decode(codec.merge(targets), DEPTH17)
    assert_recovered(keypoints, people, 1.0)
    with pytest.raises(ValueError, match="no multiple of the stride"):
        codec.merge(targets, targets, DEPTH17)


def test_nobody_gives_background_and_no_fields():
    targets = PartAffinityCodec((64, 64)).targets(np.zeros((0, 3, 3)), skeleton=ARM)
    assert (targets["heatmaps"][..., 3] == 1).all() and not targets["heatmaps"][..., :3].any()
    assert not targets["pafs"].any()


# Grouping

CODECS = {
    "product": lambda wh, **c: PartAffinityCodec(wh, **c),
    "idiap": lambda wh, **c: PartAffinityCodec.idiap(wh, **c),
    "openpose": lambda wh, **c: PartAffinityCodec.openpose(wh, **c),
    "five samples": lambda wh, **c: PartAffinityCodec(wh, samples=5, min_share=0.5, **c),
    "half the samples": lambda wh, **c: PartAffinityCodec(wh, min_share=0.45, min_parts=1, **c),
    "few candidates": lambda wh, **c: PartAffinityCodec(wh, max_candidates=4, peak_distance_px=20, **c),
}


def test_parameter_sets_are_the_papers():
    """architectures.md, 2.8."""
    idiap, openpose = PartAffinityCodec.idiap((448, 368)), PartAffinityCodec.openpose((448, 368))
    common = {
        "upsample": True, "sub_pixel": False, "bilinear": False, "samples": 10, "sample_threshold": 0.05,
        "min_share": 0.8, "length_prior": 0.5, "min_parts": 3, "peak_distance_px": 6.0,
    }  # fmt: skip
    for codec, own in (
        (idiap, {"peak_threshold": 0.1, "peak_test": "cross", "min_score": 0.2}),
        (openpose, {"peak_threshold": 0.05, "peak_test": "window", "min_score": 0.4}),
    ):
        assert {name: getattr(codec, name) for name in {**common, **own}} == {**common, **own}
    assert make_codec("part_affinity", (64, 64), peak_threshold=0.3).peak_threshold == 0.3
    assert PartAffinityCodec.idiap((64, 64), upsample=False).peak_test == "cross"


def assert_same_groups(codec, heatmaps, pafs, limbs):
    px = 1 if codec.upsample else codec.stride
    got = codec.group(heatmaps, pafs, limbs, px=px)
    expected = reference_group(codec, heatmaps, pafs, limbs, px=px)
    assert len(got[0]) == len(expected[0])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    return got


@pytest.mark.parametrize("kind", CODECS)
def test_groups_are_the_references_on_random_people(kind):
    codec = CODECS[kind]((96, 80))
    rng = np.random.default_rng(len(kind))
    found = 0
    for trial in range(6):
        people = np.full((5, 5, 3), 2, np.float32)
        people[..., :2] = rng.uniform(0, (95, 79), (5, 5, 2))
        people[..., 2] *= rng.random((5, 5)) > 0.3
        skeleton = random_skeleton(rng, 5)
        maps = maps_of(codec, people, skeleton, noise=0.03, seed=trial)
        if codec.upsample:
            maps = Maps(*(resized(planes, (96, 80)) for planes in maps))
        found += len(assert_same_groups(codec, *maps, skeleton.limb_indices)[0])
    assert found > 3


def adversarial():
    rng = np.random.default_rng(3)
    flat, field = np.zeros((3, 12, 14), np.float32), np.zeros((4, 12, 14), np.float32)
    yield "empty", flat, field
    yield "plateau", flat + 0.5, field + 0.5
    yield "plateau, no field", flat + 0.5, field
    ties = rng.integers(0, 3, (3, 12, 14)).astype(np.float32) / 2
    yield "ties", ties, rng.integers(-1, 2, (4, 12, 14)).astype(np.float32)
    yield "ties, one direction", ties, field + 1
    yield "noise", rng.normal(0, 0.5, (3, 12, 14)).astype("f4"), rng.normal(0, 0.5, (4, 12, 14)).astype("f4")
    yield "above one", 3 * rng.random((3, 12, 14), "f4"), rng.normal(0.5, 1, (4, 12, 14)).astype("f4")
    corners = flat.copy()
    corners[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 0.9
    yield "corners", corners, field + 0.7
    borders = flat.copy()
    borders[:, 0, ::4] = borders[:, ::5, -1] = 0.6
    yield "borders", borders, field - 0.7
    only = flat.copy()
    only[1, 5, 7] = 0.8
    yield "one joint", only, field + 1
    pairs = flat.copy()
    pairs[:2, 5, [2, 9]] = 0.8, 0.6
    yield "one end missing", pairs, field + 1
    yield "negative", flat - 1, field
    same = flat.copy()
    same[:, 4, 4] = 0.9
    yield "all at one place", same, field + 1
    yield "threshold", flat + np.float32(0.1), field + np.float32(0.05)


@pytest.mark.parametrize(("name", "heatmaps", "pafs"), adversarial(), ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("skeleton", [ARM, CHAIN], ids=lambda s: s.name)
def test_groups_are_the_references_on_hard_maps(name, heatmaps, pafs, kind, skeleton):
    assert_same_groups(CODECS[kind]((112, 96)), heatmaps, pafs, skeleton.limb_indices)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_groups_are_the_references_on_maps_of_one_row(shape):
    rng = np.random.default_rng(0)
    heatmaps, pafs = rng.random((3, *shape), "f4"), rng.random((4, *shape), "f4")
    assert_same_groups(PartAffinityCodec((8, 8), min_parts=1), heatmaps, pafs, ARM.limb_indices)


def test_more_candidates_than_are_kept():
    codec = PartAffinityCodec((240, 240), max_candidates=35, min_parts=2, min_score=0)
    rng = np.random.default_rng(0)
    heatmaps = np.zeros((3, 30, 30), np.float32)
    heatmaps[:, ::3, ::3] = rng.uniform(0.2, 1, (3, 10, 10))
    pafs = rng.normal(0.3, 0.4, (4, 30, 30)).astype("f4")
    keypoints, scores, _ = assert_same_groups(codec, heatmaps, pafs, CHAIN.limb_indices)
    assert len(keypoints) > 5 and (scores > 0).sum(axis=0).max() <= 35
    assert scores[scores > 0].min() > np.sort(heatmaps[0].ravel())[-36:].min() - 0.2


def test_lone_keypoints_open_people_where_the_other_end_has_no_candidates():
    codec = PartAffinityCodec((64, 64), min_parts=1)
    maps = maps_of(codec, person((12, 12, 0), (12, 12), (12, 44, 0)), CHAIN)
    keypoints, scores, people = codec.decode(maps, CHAIN)
    assert np.abs(keypoints - [[[0, 0], [12, 12], [0, 0]]]).max() < 0.1 and (scores > 0).tolist() == [[0, 1, 0]]
    assert people == pytest.approx([1], abs=0.01)
    assert len(replace(codec, min_parts=2).decode(maps, CHAIN)[0]) == 0


def test_person_score_is_the_mean_of_keypoints_and_limbs():
    codec = PartAffinityCodec((128, 64))
    maps = maps_of(codec, person((19.5, 19.5), (59.5, 19.5), (99.5, 19.5)), CHAIN)
    heatmaps = maps.heatmaps * np.array([1, 0.8, 0.6], "f4")[:, None, None]
    _, scores, people = codec.decode(Maps(heatmaps, maps.pafs * 0.5), CHAIN)
    # The limbs are 40 pixels long, the length prior of 0.5 * 64 / 40 - 1 costs 0.2.
    assert scores[0] == pytest.approx([1, 0.8, 0.6], abs=1e-5)
    assert people == pytest.approx([(2.4 + 2 * (0.5 - 0.2)) / 5], abs=1e-5)


# The whole circle


def assert_recovered(keypoints, people, tolerance):
    """Everybody is found once, whole, within a mean distance in input pixels."""
    assert len(keypoints) == len(people)
    error = np.linalg.norm(keypoints[:, None] - people[None, ..., :2], axis=-1)
    assert sorted(error.max(axis=-1).argmin(axis=1)) == list(range(len(people)))
    assert error.max(axis=-1).min(axis=1).max() < tolerance


def random_skeleton(rng, joints) -> Skeleton:
    """A random tree whose limbs run in any direction and come in any order."""
    names = tuple(f"part{i}" for i in range(joints))
    limbs = []
    for child in range(1, joints):
        limb = (names[rng.integers(child)], names[child])
        limbs.append(limb if rng.random() < 0.5 else limb[::-1])
    return Skeleton("random", names, tuple(limbs[i] for i in rng.permutation(len(limbs))))


@pytest.mark.parametrize("seed", range(40))
def test_people_of_any_skeleton_come_back(seed):
    rng = np.random.default_rng(seed)
    skeleton = random_skeleton(rng, int(rng.integers(3, 13)))
    people = random_people(rng, int(rng.integers(1, 5)), skeleton.num_keypoints, 368, apart=10)
    codec = PartAffinityCodec((368, 368), length_prior=2.0)
    keypoints, scores, _ = codec.decode(maps_of(codec, people, skeleton), skeleton)
    assert (scores > 0).all()
    assert_recovered(keypoints, people, 1.5)


def interleaved(rng, joints, *, apart=24.0):
    """Two to four people among each other, `(n, joints, 3)`: joints of one type at least `apart` pixels apart."""
    count, people = int(rng.integers(2, 5)), []
    while len(people) < count:
        one = rng.uniform(110, 258, 2) + rng.uniform(-100, 100, (joints, 2))
        gap = np.linalg.norm(one[:, None] - one, axis=-1) + 1e9 * np.eye(joints)
        if gap.min() >= 10 and all(np.linalg.norm(one - other, axis=-1).min() > apart for other in people):
            people.append(one)
    return np.concatenate([np.array(people), np.full((count, joints, 1), 2)], axis=-1).astype("f4")


def nearest_twins(people, skeleton) -> np.ndarray:
    """Distance in pixels from each person's limbs to the nearest limb of the same type of somebody else, `(n,)`."""
    share = np.linspace(0, 1, 80)[:, None]
    nearest = np.full(len(people), np.inf)
    for a, b in skeleton.limb_indices:
        lines = [p[a, :2] * (1 - share) + p[b, :2] * share for p in people]
        for i, j in np.ndindex(len(people), len(people)):
            if i != j:
                nearest[i] = min(nearest[i], np.linalg.norm(lines[i][:, None] - lines[j], axis=-1).min())
    return nearest


def test_everybody_whose_limbs_do_not_touch_their_like_comes_back():
    """Interleaved people of random skeletons. Where limbs of one type touch, their fields are averaged and may fail."""
    clear, lost, crossing = 0, 0, 0
    for seed in range(45):
        rng = np.random.default_rng(seed)
        skeleton = random_skeleton(rng, int(rng.integers(3, 9)))
        people = interleaved(rng, skeleton.num_keypoints)
        codec = PartAffinityCodec((368, 368), length_prior=2.0)
        keypoints, _, _ = codec.decode(maps_of(codec, people, skeleton), skeleton)
        error = np.linalg.norm(keypoints[:, None] - people[None, ..., :2], axis=-1).max(axis=-1)
        found = error.min(axis=0) < 3
        untouched = nearest_twins(people, skeleton) > codec.limb_width_px
        assert found[untouched].all()
        clear, crossing, lost = clear + untouched.sum(), crossing + (~untouched).sum(), lost + (~found).sum()
    assert clear > 25 and crossing > 60
    # Of those whose limbs do touch, few are lost: the share is that of the greedy grouping, not of a mistake.
    assert lost < 0.3 * crossing


@pytest.mark.parametrize("kind", ["product", "idiap", "openpose"])
def test_people_come_back(kind):
    codec = CODECS[kind]((368, 368))
    for seed in range(3):
        people = random_people(np.random.default_rng(seed), 4, 17, 368, apart=12)
        keypoints, scores, _ = codec.decode(maps_of(codec, people, DEPTH17), DEPTH17)
        assert (scores > 0).all()
        assert_recovered(keypoints, people, 4.0)


def test_what_no_limb_joins_comes_back_as_two_people():
    """COCO's limbs join no ear to a shoulder."""
    codec = PartAffinityCodec((368, 368))
    people = random_people(np.random.default_rng(0), 1, 17, 368, apart=12)
    _, scores, _ = codec.decode(maps_of(codec, people, COCO17), COCO17)
    assert len(scores) == 2 and ((scores > 0).sum(axis=0) == 1).all()


def body(rng, size) -> np.ndarray:
    """One standing person of DEPTH17, roughly, `(17, 2)`, somewhere in a picture."""
    across = {"hip": 0.08, "knee": 0.09, "ankle": 0.1, "shoulder": 0.14, "elbow": 0.2, "wrist": 0.22, "eye": 0.03}
    down = {"head_top": 0, "eye": 0.06, "head": 0.08, "neck": 0.16, "shoulder": 0.2, "elbow": 0.36, "wrist": 0.5,
            "hip": 0.52, "knee": 0.76, "ankle": 1.0}  # fmt: skip
    points = []
    for name in DEPTH17.keypoints:
        side, kind = name.split("_", 1) if name.startswith(("left_", "right_")) else ("", name)
        points.append(({"left": 1, "right": -1, "": 0}[side] * across.get(kind, 0), down[kind]))
    points = np.array(points) + rng.normal(0, 0.02, (17, 2))
    height = rng.uniform(0.45, 0.9) * size
    return points * height + rng.uniform((0.2 * height, 5), (size - 0.2 * height, size - height - 5))


def crowd(seed, size=368) -> np.ndarray:
    """Two to five standing people whose joints of one type are at least 24 pixels apart."""
    rng = np.random.default_rng(seed)
    count, people = int(rng.integers(2, 6)), []
    for _ in range(200):
        one = body(rng, size)
        if all(np.linalg.norm(one - other, axis=-1).min() > 24 for other in people):
            people.append(one)
        if len(people) == count:
            break
    return np.concatenate([np.array(people), np.full((len(people), 17, 1), 2)], axis=-1).astype("f4")


def test_the_fast_decoder_is_as_accurate_as_the_papers():
    """Small maps with sub-pixel peaks against maps enlarged to the input, with and without noise."""
    fast, paper = PartAffinityCodec((368, 368)), PartAffinityCodec.idiap((368, 368))
    for noise in (0.0, 0.03):
        errors, found = {fast: [], paper: []}, {fast: 0, paper: 0}
        for seed in range(30):
            people = crowd(seed)
            maps = maps_of(fast, people, DEPTH17, noise=noise, seed=seed)
            for codec, rows in errors.items():
                keypoints, scores, _ = codec.decode(maps, DEPTH17)
                gap = np.linalg.norm(keypoints[:, None] - people[None, ..., :2], axis=-1)
                gap = np.where(scores[:, None] > 0, gap, np.nan)
                nearest = np.nanmean(gap, axis=-1).argmin(axis=0)
                best = gap[nearest, np.arange(len(people))]
                rows += best[best < 20].tolist()
                found[codec] += (best < 20).sum()
        assert found[fast] >= found[paper] > 1900
        assert np.mean(errors[fast]) <= np.mean(errors[paper])
        assert np.mean(errors[fast]) < (0.2 if noise == 0 else 1.0)


def test_people_come_back_from_maps_of_int8():
    """Half a map pixel off, neighbours tie: the papers' strict test then sees no peak."""
    people = random_people(np.random.default_rng(2), 4, 17, 368, apart=16)
    people[0, :, :2] = np.floor(people[0, :, :2] / 8) * 8 - 0.5  # between two map pixels, on both axes
    codec = PartAffinityCodec((368, 368))
    maps = maps_of(codec, people, DEPTH17)
    coarse = Maps(np.rint(maps.heatmaps * 127).astype("f4") / 127, np.rint(maps.pafs * 127).astype("f4") / 127)
    assert_recovered(codec.decode(coarse, DEPTH17)[0], people, 1.5)
    assert len(replace(codec, peak_test="cross").decode(coarse, DEPTH17)[0]) < 4


# The mirrored pass, scales


def mirrored_people(people, skeleton, width):
    people = people[:, list(skeleton.flip_indices)].copy()
    people[..., 0] = width - 1 - people[..., 0]
    return people


@pytest.mark.parametrize("skeleton", [DEPTH17, COCO17, ARM], ids=lambda s: s.name)
def test_maps_of_a_mirrored_picture_are_turned_back(skeleton):
    codec = PartAffinityCodec((96, 64))
    people = random_people(np.random.default_rng(0), 2, skeleton.num_keypoints, 64)
    plain = codec.targets(people, skeleton=skeleton)
    mirrored = codec.targets(mirrored_people(people, skeleton, 96), skeleton=skeleton)
    assert not np.allclose(plain["pafs"], mirrored["pafs"], atol=0.1)
    back = mirrored_maps(codec.merge(mirrored), skeleton)
    for got, expected in zip(back, codec.merge(plain), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    for got, expected in zip(codec.merge(plain, mirrored, skeleton), codec.merge(plain), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_limbs_across_the_body_turn_round_when_mirrored():
    order, sign = limb_flip(COCO17)
    across = COCO17.limbs.index(("left_shoulder", "right_shoulder"))
    assert order[across] == across and sign[across] == -1
    arm = COCO17.limbs.index(("left_elbow", "left_wrist"))
    assert COCO17.limbs[order[arm]] == ("right_elbow", "right_wrist") and sign[arm] == 1
    lame = Skeleton("lame", ("neck", "left_arm", "right_arm"), (("neck", "left_arm"),))
    with pytest.raises(ValueError, match="limb neck-left_arm has no counterpart neck-right_arm"):
        limb_flip(lame)


def test_scales_are_averaged_at_the_reference():
    codec = PartAffinityCodec((64, 64))
    rng = np.random.default_rng(0)
    small, large = (Maps(rng.random((3, s, s), "f4"), rng.random((4, s, s), "f4")) for s in (4, 8))
    merged = codec.merge_scales([small, large], reference=1)
    for got, a, b in zip(merged, small, large, strict=True):
        np.testing.assert_allclose(got, (resized(a, (8, 8)) + b) / 2, atol=1e-6)


# Bad input


@pytest.mark.parametrize("name", ["heatmaps", "pafs"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_named(name, value):
    codec = PartAffinityCodec((64, 64))
    outputs = codec.targets(person((10, 10), (20, 20), (30, 30)), skeleton=ARM)
    outputs[name][3, 3, 0] = value
    with pytest.raises(ValueError, match=f"{name} hold NaN or infinity"):
        codec.merge(outputs)


def test_wrong_sizes_and_missing_outputs_are_named():
    codec = PartAffinityCodec((64, 64))
    outputs = codec.targets(person((10, 10), (20, 20), (30, 30)), skeleton=ARM)
    with pytest.raises(ValueError, match=r"pafs are \(7, 8\), the codec expects \(8, 8\)"):
        codec.merge({**outputs, "pafs": outputs["pafs"][1:]})
    with pytest.raises(ValueError, match="no 'pafs', only heatmaps"):
        codec.merge({"heatmaps": outputs["heatmaps"]})
    with pytest.raises(ValueError, match="needs the skeleton"):
        codec.merge(outputs, outputs)
    with pytest.raises(ValueError, match="'depth17' has 17 keypoints and 32 field maps, the network gave 3 and 4"):
        codec.decode(codec.merge(outputs), DEPTH17)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peak_test": "round"}, "unknown peak_test 'round'; expected one of cross, window"),
        ({"samples": 1}, "at least 2"),
        ({"min_share": 1.0}, "0 to 1"),
        ({"peak_threshold": -0.1}, "not be negative"),
        ({"sigma_px": 0}, "sigma_px must be above 0"),
        ({"max_candidates": 0}, "max_candidates must be above 0"),
    ],
)
def test_impossible_parameters(changes, told):
    with pytest.raises(ValueError, match=told):
        make_codec("part_affinity", (64, 64), **changes)


def test_training_arrays_of_wrong_shapes_are_named():
    codec = PartAffinityCodec((64, 48))
    with pytest.raises(ValueError, match=r"expected keypoints \(N, 3, 3\).* got \(3, 3\)"):
        codec.targets(np.zeros((3, 3)), skeleton=ARM)
    with pytest.raises(ValueError, match=r"expected ignore \(48, 64\) or \(48, 64, 3\).* got \(64, 48\)"):
        codec.targets(np.zeros((1, 3, 3)), np.zeros((64, 48), bool), skeleton=ARM)
