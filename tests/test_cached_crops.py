"""Crops cut once, weights of labels, a teacher's maps, mixes of sets: what a long training run learns from."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from scripts import script

from posezoo.codecs import HeatmapCodec
from posezoo.data.augment import Augmentation
from posezoo.data.cached_crops import CachedCrops, CacheError, Mix, write_crops, write_taught
from posezoo.data.coco import read_coco
from posezoo.data.lsp import read_lsp
from posezoo.data.pipeline import PADDING, PersonCrops, resample_maps, weighted_batch
from posezoo.data.sample import KeypointSet
from posezoo.skeletons import COCO17, Skeleton

ROTATED = Augmentation(rotation_deg=40, any_rotation=0.3, scale=(0.8, 1.2), translate=0.05, flip=0.5)
CODEC = HeatmapCodec((96, 96))


def coco_folder(folder, *, people: int = 6, seed: int = 0):
    """A COCO folder of noise pictures with two people each, the second one of pseudo-labels with weights."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(1, people // 2 + 1):
        pixels = cv2.resize(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8), (320, 240))
        cv2.imwrite(str(folder / "images" / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "width": 320, "height": 240})
        for left in (20, 180):
            box = [left, 30, 90, 160]
            xy = rng.uniform(0.1, 0.9, (17, 2)) * box[2:] + box[:2]
            visible = rng.integers(0, 3, 17)
            visible[:3] = 2
            flat = np.column_stack([xy.round(1) * (visible > 0)[:, None], visible]).ravel().tolist()
            row = {
                "id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": box, "area": 9000, "iscrowd": 0,
                "num_keypoints": int((visible > 0).sum()), "keypoints": flat,
            }  # fmt: skip
            if left > 100:
                row["keypoint_weights"] = np.where(visible > 0, rng.uniform(0.2, 1, 17).round(2), 0).tolist()
            annotations.append(row)
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoints)}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "people_train.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def people(tmp_path) -> KeypointSet:
    folder = coco_folder(tmp_path / "coco")
    return read_coco(folder / "people_train.json", folder / "images")


@pytest.fixture
def cache(people, tmp_path):
    assert write_crops(people, tmp_path / "cache") == 6
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------------------ weights


def test_weights_of_labels_are_read(people):
    for record in people.records:
        assert record.weights.shape == (2, 17)
        assert (record.weights[0] == 1).all()  # a person without weights counts fully
        assert 0 < record.weights[1].max() <= 1 and record.weights[1].min() >= 0


@pytest.mark.parametrize("told", [None, "no", [1] * 16, [float("nan")] * 17])
def test_weights_that_are_none_count_fully(tmp_path, told):
    folder = coco_folder(tmp_path / "coco")
    content = json.loads((folder / "people_train.json").read_text())
    for row in content["annotations"]:
        row["keypoint_weights"] = told
    (folder / "people_train.json").write_text(json.dumps(content))
    people = read_coco(folder / "people_train.json", folder / "images")
    assert all((record.weights == 1).all() for record in people.records)


def test_sets_without_weights_have_none(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    content = json.loads((folder / "people_train.json").read_text())
    for row in content["annotations"]:
        row.pop("keypoint_weights", None)
    (folder / "people_train.json").write_text(json.dumps(content))
    assert read_coco(folder / "people_train.json", folder / "images").records[0].weights is None


def test_weights_follow_their_keypoints_into_mirrored_crops(people):
    crops = PersonCrops(people, (96, 96), box="annotated", augmentation=ROTATED, seed=1)
    plain = PersonCrops(people, (96, 96), box="annotated")
    flips = 0
    for i in range(len(crops)):
        varied, still = crops.crop(i), plain.crop(i)
        mirrored = np.linalg.det(varied.matrix[:, :2]) < 0
        flips += mirrored
        order = list(COCO17.flip_indices) if mirrored else list(range(17))
        np.testing.assert_array_equal(varied.weights, still.weights[order])
        np.testing.assert_array_equal(varied.visible, still.visible[order])
    assert 0 < flips < len(crops)


def test_crops_are_laid_around_the_person_where_a_set_has_its_box(people, stick_figures):
    whole = PersonCrops(people, (96, 96))
    assert whole.own_box and whole.enlarge == PADDING["annotated"] == 1.25
    joints = PersonCrops(people, (96, 96), box="keypoints")
    assert not joints.own_box and joints.enlarge == PADDING["keypoints"] == 1.35
    without = PersonCrops(read_lsp(stick_figures, "train"), (96, 96))
    assert not without.own_box and without.enlarge == 1.35


# -------------------------------------------------------------------------------------------------- cache


def test_cached_crops_show_what_pictures_show(people, cache):
    cached = CachedCrops(cache, (96, 96), skeleton=COCO17)
    direct = PersonCrops(people, (96, 96), box="annotated")
    assert len(cached) == len(direct) == 6
    for i in range(6):
        a, b = cached.crop(i), direct.crop(i)
        labelled = b.visible > 0
        np.testing.assert_allclose(a.keypoints[labelled], b.keypoints[labelled], atol=0.05)
        np.testing.assert_array_equal(a.visible, b.visible)
        np.testing.assert_allclose(a.weights, b.weights * labelled, atol=1e-6)
        assert np.abs(a.image.astype(int) - b.image).mean() < 4


def test_random_crops_come_from_seed_epoch_and_index(cache):
    one, same = (CachedCrops(cache, (96, 96), augmentation=ROTATED, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.crop(2, 5).image, same.crop(2, 5).image)
    assert (one.crop(2, 5).image != one.crop(2, 6).image).any()


def test_places_without_a_person_meet_none(people, tmp_path):
    count = write_crops(people, tmp_path / "cache", nobody=1.0, seed=2)
    cached = CachedCrops(tmp_path / "cache", (96, 96), augmentation=ROTATED)
    nobody = [i for i in range(count) if not cached.keypoints[i, :, 2].any()]
    assert nobody
    _, maps, weights = weighted_batch([cached.crop(i) for i in nobody], CODEC, teacher_share=0.5)
    assert (weights["heatmaps"] == 1).all() and (maps["heatmaps"] == 0).all()


def test_a_cache_that_does_not_fit_is_told(cache, tmp_path):
    with pytest.raises(CacheError, match="recipes/cache_crops.py"):
        CachedCrops(tmp_path / "nothing", (96, 96))
    with pytest.raises(CacheError, match="has the keypoints nose"):
        CachedCrops(cache, (96, 96), skeleton=Skeleton("short", ("nose", "neck")))
    (cache / "labels.npz").write_bytes(b"half")
    with pytest.raises(CacheError, match="no whole cache"):
        CachedCrops(cache, (96, 96))


def test_a_set_of_tiny_people_is_no_cache(people, tmp_path):
    with pytest.raises(CacheError, match="lower min_side"):
        write_crops(people, tmp_path / "cache", min_side=1000)
    assert not (tmp_path / "cache" / "images.npy").exists()


# ------------------------------------------------------------------------------------------------- teacher


def knowing_teacher(cache, input_wh, stride=4):
    """A teacher that knows the labels of a cache: Gaussians of map pixel `u` at input pixel `u * stride`."""
    codec, cached = HeatmapCodec(input_wh, stride=stride, half_pixel=False), CachedCrops(cache, input_wh)
    answers = iter([cached.crop(i) for i in range(len(cached))])

    def teacher(images):
        crops = [next(answers) for _ in images]
        return codec.encode(np.stack([c.keypoints for c in crops]), np.stack([c.visible for c in crops]))

    return teacher


def test_a_teachers_maps_follow_every_rotation_and_mirror(cache):
    write_taught(cache, knowing_teacher(cache, (144, 192)), (144, 192), batch=4)
    cached = CachedCrops(cache, (96, 96), skeleton=COCO17, augmentation=ROTATED, seed=4)
    seen = 0
    for i in range(len(cached)):
        crop = cached.crop(i, epoch=i)
        points, scores = CODEC.decode(resample_maps(*crop.taught, CODEC))
        inside = ((crop.keypoints > 8) & (crop.keypoints < 87)).all(axis=1) & (crop.visible > 0) & (scores > 0.5)
        assert np.abs(points - crop.keypoints)[inside].max(initial=0) < 1.5
        seen += inside.sum()
    assert seen > 20


def test_blended_targets_pull_as_label_and_teacher_together(cache):
    write_taught(cache, knowing_teacher(cache, (96, 96)), (96, 96))
    cached = CachedCrops(cache, (96, 96), skeleton=COCO17)
    crops = [cached.crop(i) for i in range(4)]
    images, plain, weights = weighted_batch(crops, CODEC)
    _, blended, total = weighted_batch(crops, CODEC, teacher_share=0.5)
    taught = np.stack([resample_maps(*c.taught, CODEC) for c in crops])
    assert images.shape == (4, 96, 96, 3) and images.min() >= -1
    np.testing.assert_allclose(total["heatmaps"], weights["heatmaps"] + 0.5)
    guess = np.random.default_rng(0).random(taught.shape).astype(np.float32)
    label_pull = weights["heatmaps"][:, None, None] * (guess - plain["heatmaps"])
    pull = total["heatmaps"][:, None, None] * (guess - blended["heatmaps"])
    np.testing.assert_allclose(pull, label_pull + 0.5 * (guess - taught), atol=1e-5)


# --------------------------------------------------------------------------------------------------- mixes


def test_a_mix_draws_by_shares_and_leaves_nothing_out(cache, people, tmp_path):
    write_crops(people, tmp_path / "other")
    parts = [CachedCrops(folder, (96, 96), augmentation=ROTATED) for folder in (cache, tmp_path / "other")]
    mix = Mix([(parts[0], 3), (parts[1], 1)], length=8, seed=1)
    assert len(mix) == 8
    orders = [mix.order(epoch) for epoch in range(3)]
    assert all((order < 6).sum() == 6 and (order >= 6).sum() == 2 for order in orders)
    np.testing.assert_array_equal(orders[1], Mix([(parts[0], 3), (parts[1], 1)], length=8, seed=1).order(1))
    assert sorted(i for order in orders for i in order if i >= 6) == list(range(6, 12))  # each once in three epochs
    np.testing.assert_array_equal(mix.crop(7, 2).image, parts[1].crop(1, 2).image)


@pytest.mark.parametrize("shares", [[], [0.0]])
def test_a_mix_of_nothing_is_refused(cache, shares):
    with pytest.raises(ValueError, match="shares above 0"):
        Mix([(CachedCrops(cache, (96, 96)), share) for share in shares])


# ------------------------------------------------------------------------------------------------ training


def test_keypoint_losses_agree_with_the_heatmap_loss():
    keras = pytest.importorskip("keras")
    from posezoo.training.losses import heatmap_loss, keypoint_losses, spatial_cross_entropy

    rng = np.random.default_rng(0)
    points, visible = rng.uniform(10, 80, (3, 17, 2)), np.full((3, 17), 2)
    target = CODEC.encode(points, visible)
    guess = rng.normal(size=target.shape).astype(np.float32)
    each = keras.ops.convert_to_numpy(keypoint_losses(target, guess))
    assert each.shape == (3, 17)
    np.testing.assert_allclose(each.mean(axis=1), keras.ops.convert_to_numpy(heatmap_loss(target, guess)), rtol=1e-5)
    both = keras.ops.convert_to_numpy(
        keypoint_losses(target / target.max(axis=(1, 2), keepdims=True), guess, spatial=2)
    )
    peaked = target / target.max(axis=(1, 2), keepdims=True)
    expected = heatmap_loss(peaked, guess) + 2 * spatial_cross_entropy(peaked, guess)
    np.testing.assert_allclose(both.mean(axis=1), keras.ops.convert_to_numpy(expected), rtol=1e-4)


def test_recipe_learns_from_caches(tmp_path, eager, capsys):
    pytest.importorskip("tensorflow")
    coco_folder(tmp_path / "coco")
    folder = tmp_path / "coco"
    (folder / "people_val.json").write_text((folder / "people_train.json").read_text())
    command = ["--data", str(folder), "--out", str(tmp_path / "cache")]
    script("recipes/cache_crops.py").main(command)
    assert "6 crops" in capsys.readouterr().out
    script("recipes/cache_crops.py").main(command)
    assert "6 crops" not in capsys.readouterr().out  # a whole cache is left alone
    flags = ["--dataset", "coco", "--data", str(folder), "--box", "annotated", "--width", "0.35", "--input-px", "64"]
    flags += [
        "--crops",
        f"{tmp_path / 'cache'}:1",
        "--batch",
        "3",
        "--frozen-steps",
        "0",
        "--steps",
        "2",
        "--spatial",
        "1",
    ]
    recipe = script("recipes/train_mobilenet_split.py")
    run = recipe.main([*flags, "--model", "mobilenet_split_224", "--out", str(tmp_path / "run")])
    assert all(np.isfinite(row["loss"]) for row in run.history) and run.best_weights.exists()
    with pytest.raises(SystemExit, match="FOLDER:SHARE"):
        recipe.main([*flags, "--crops", f"{tmp_path / 'cache'}:much", "--out", str(tmp_path / "other")])
