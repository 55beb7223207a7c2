"""Whole pictures as training examples: mirrored, with crowds that move along, in the same batches on every path."""

from __future__ import annotations

import os
from functools import partial

import cv2
import numpy as np
import pytest

from posezoo.data.augment import Augmentation
from posezoo.data.pipeline import keras_dataset, load_all, tf_dataset
from posezoo.data.sample import KeypointSet
from posezoo.data.scenes import Pictures, scene_batch
from posezoo.skeletons import COCO17

WIDTH, HEIGHT, SIDE = 160, 120, 128
VARIED = Augmentation(rotation_deg=30, scale=(0.75, 1.5), translate=0.2)


@pytest.fixture
def people(tmp_path):
    """Five pictures of two people on grey; a red crowd, and the first person's wrists in two colours."""
    people = KeypointSet("made", COCO17)
    for i in range(5):
        rng = np.random.default_rng(i)
        image = np.full((HEIGHT, WIDTH, 3), 60 + 10 * i, np.uint8)
        crowd = np.zeros((HEIGHT, WIDTH), bool)
        crowd[20:70, 90:150] = True
        image[crowd] = (255, 0, 0)
        keypoints = np.zeros((2, 17, 3), np.float32)
        keypoints[..., :2] = rng.uniform((10, 10), (80, 110), (2, 17, 2))
        keypoints[..., 2] = rng.integers(0, 3, (2, 17))
        keypoints[0, COCO17.index("left_wrist")] = (30, 30, 2)
        keypoints[0, COCO17.index("right_wrist")] = (30, 90, 2)
        cv2.circle(image, (30, 30), 6, (0, 255, 0), -1)
        cv2.circle(image, (30, 90), 6, (0, 0, 255), -1)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image[..., ::-1])
        people.add(tmp_path / f"{i}.png", keypoints, areas=[900, 1600], ignore=lambda crowd=crowd: crowd)
    return people


def test_mirrored_people_swap_their_sides(people):
    still = Augmentation(rotation_deg=0, scale=(1, 1), flip=1)
    scene = Pictures(people, (SIDE, SIDE), augmentation=still).crop(2)
    for name, colour in (("right_wrist", (0, 255, 0)), ("left_wrist", (0, 0, 255))):
        x, y, visible = scene.keypoints[0, COCO17.index(name)]
        assert visible == 2 and x > SIDE / 2
        assert scene.image[round(y), round(x)].tolist() == list(colour)


def test_crowds_and_areas_move_with_the_pixels(people):
    pictures = Pictures(people, (SIDE, SIDE), augmentation=VARIED, seed=1)
    met = 0
    for epoch in range(8):
        scene = pictures.crop(1, epoch)
        red = (scene.image[..., 0] > 150) & (scene.image[..., 1] < 60)
        if red.sum() > 400:
            met += 1
            assert (red & scene.ignore).sum() / (red | scene.ignore).sum() > 0.93
        assert scene.areas[1] / scene.areas[0] == pytest.approx(16 / 9)
    assert met >= 4
    assert scene.ignored.shape == (SIDE, SIDE)


def test_areas_scale_with_the_picture(people):
    scene = Pictures(people, (2 * WIDTH, 2 * HEIGHT)).crop(0)
    assert scene.areas == pytest.approx([3600, 6400])


def test_examples_depend_on_seed_epoch_and_index_alone(people):
    varied = Augmentation(colour=0.5, cutout=0.5)
    first, second = (Pictures(people, (SIDE, SIDE), augmentation=varied, seed=3) for _ in range(2))
    expected = [first.crop(i, 1) for i in range(5)]
    for i in reversed(range(5)):
        again = second.crop(i, 1)
        assert np.array_equal(again.image, expected[i].image)
        assert np.array_equal(again.keypoints, expected[i].keypoints)
    assert not np.array_equal(first.crop(0, 2).image, expected[0].image)
    assert sorted(first.order(1)) == list(range(5)) and first.order(1).tolist() != first.order(2).tolist()


def test_evaluation_sees_every_picture_in_order(people):
    scenes = list(load_all(Pictures(people, (SIDE, SIDE))))
    assert [scene.index for scene in scenes] == list(range(5))


class CountingCodec:
    """A stand-in: targets that show what it was given."""

    def targets(self, keypoints, ignore):
        places = np.zeros((4, 17, 3), np.float32)
        places[: len(keypoints)] = keypoints
        return {"ignored": ignore.astype(np.float32), "tags": places}


def expected_batches(pictures, encode, epochs, batch=2):
    for epoch in epochs:
        order = pictures.order(epoch)
        for start in range(0, len(order) - batch + 1, batch):
            yield encode([pictures.crop(int(i), epoch) for i in order[start : start + batch]])


@pytest.fixture
def training(people):
    encode = partial(scene_batch, codec=CountingCodec(), scale=lambda pixels: pixels.astype(np.float32) / 255)
    return Pictures(people, (SIDE, SIDE), augmentation=VARIED, seed=4), encode


def assert_same(got, expected):
    assert np.array_equal(np.asarray(got[0]), expected[0])
    assert got[1].keys() == expected[1].keys() == {"ignored", "tags"}
    for name, values in expected[1].items():
        assert np.array_equal(np.asarray(got[1][name]), values)


def test_keras_gets_the_same_batches(training):
    pytest.importorskip("keras")
    pictures, encode = training
    data = keras_dataset(pictures, encode, 2, epoch=1)
    for step, expected in enumerate(expected_batches(pictures, encode, range(1, 3))):
        assert_same(data[step], expected)
    assert step == 3 and expected[1]["ignored"].any()


def test_tensorflow_gets_the_same_batches(training):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    pictures, encode = training
    got = list(tf_dataset(pictures, encode, 2, epochs=range(1, 3)))
    assert len(got) == 4
    for batch, expected in zip(got, expected_batches(pictures, encode, range(1, 3)), strict=True):
        assert batch[0].shape == (2, SIDE, SIDE, 3) and batch[1]["tags"].shape == (2, 4, 17, 3)
        assert_same(batch, expected)
