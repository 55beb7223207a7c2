"""Canvases: which joint is which after pasting and mirroring, and where exactly nothing is learnt."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from posezoo.data.augment import Augmentation
from posezoo.data.canvases import AREA_SHARE, KNOWN, Canvases
from posezoo.data.sample import KeypointSet
from posezoo.geometry import apply, box_of_points
from posezoo.skeletons import COCO17

WIDTH, HEIGHT, SIDE = 120, 150, 256
#: Columns and rows of a grid of joints, far enough apart that no dot covers another.
PLACES = np.array([(30 + 15 * (k % 5), 30 + 25 * (k // 5)) for k in range(17)], np.float32)
UNLABELLED = COCO17.index("left_elbow")


def joint_colour(k):
    return np.array([14 * k, 255 - 14 * k, 128])


@pytest.fixture
def people(tmp_path):
    """Three pictures of one person: on black, every joint a dot of its own colour; one joint is not labelled."""
    people = KeypointSet("made", COCO17)
    for i in range(3):
        places = PLACES + np.random.default_rng(i).integers(-2, 3, PLACES.shape)
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for k, (x, y) in enumerate(places):
            cv2.circle(image, (int(x), int(y)), 5, joint_colour(k).tolist(), -1)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image[..., ::-1])
        keypoints = np.column_stack([places, np.full(17, 2)])
        keypoints[UNLABELLED] = 0
        people.add(tmp_path / f"{i}.png", keypoints[None])
    return people


def labelled_pixels(scene, margin=3):
    """Each labelled keypoint's column, and its pixel, away from the canvas's border."""
    _, columns = np.nonzero(scene.keypoints[..., 2] > 0)
    pixels = np.rint(scene.keypoints[scene.keypoints[..., 2] > 0][:, :2]).astype(int)
    inside = ((pixels >= margin) & (pixels < SIDE - margin)).all(axis=1)
    return columns[inside], pixels[inside]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_every_label_lies_on_its_joint(people, flip):
    """A mirrored person's left side is where the right side's dots are."""
    varied = Augmentation(rotation_deg=180, flip=flip)
    canvases = Canvases(people, (SIDE, SIDE), count=(2, 4), augmentation=varied, seed=1)
    wrong = total = 0
    for index in range(15):
        scene = canvases.crop(index)
        columns, pixels = labelled_pixels(scene)
        shown = np.array(COCO17.flip_indices)[columns] if flip else columns
        expected = np.array([joint_colour(k) for k in shown]).reshape(-1, 3)
        wrong += (np.abs(scene.image[pixels[:, 1], pixels[:, 0]].astype(int) - expected).max(axis=1) > 6).sum()
        total += len(columns)
    assert total > 300
    # Next to another's soft edge a dot may be mixed with it.
    assert wrong <= 0.02 * total


def test_labelled_joints_are_learnt(people):
    canvases = Canvases(people, (SIDE, SIDE), count=(4, 6), seed=2, augmentation=Augmentation(rotation_deg=90))
    total = 0
    for index in range(15):
        scene = canvases.crop(index)
        columns, pixels = labelled_pixels(scene)
        assert not scene.ignored[pixels[:, 1], pixels[:, 0], columns].any()
        assert (scene.keypoints[..., 2] > 0).sum(axis=1).min(initial=3) >= 3
        assert len(scene.keypoints) == len(scene.areas) <= 6
        total += len(columns)
    assert total > 300


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_beyond_the_joint_box_nothing_is_learnt(people, flip):
    """In a whole picture: ignored is the picture beyond 1.2 times the joint box, on any angle."""
    varied = Augmentation(rotation_deg=180, flip=flip)
    canvases = Canvases(people, (SIDE, SIDE), single=1.0, augmentation=varied, seed=3)
    for index in range(6):
        scene = canvases.crop(index)
        record = people.records[index % 3]
        source = record.keypoints[0, COCO17.flip_indices if flip else slice(None)]
        assert len(scene.keypoints) == 1
        known = (scene.keypoints[0, :, 2] > 0) & (source[:, 2] > 0)
        ones = np.ones((known.sum(), 1))
        fitted, *_ = np.linalg.lstsq(np.hstack([source[known, :2], ones]), scene.keypoints[0, known, :2], rcond=None)
        x, y, w, h = record.boxes[0]
        grown = (x - (KNOWN - 1) / 2 * w, y - (KNOWN - 1) / 2 * h, KNOWN * w, KNOWN * h)
        picture, near = (filled(fitted.T, box) for box in ((0, 0, WIDTH - 1, HEIGHT - 1), grown))
        ignore = picture & ~near
        assert (scene.ignore & ignore).sum() / (scene.ignore | ignore).sum() > 0.93
        assert scene.areas[0] == pytest.approx(AREA_SHARE * w * h * abs(np.linalg.det(fitted[:2])), rel=1e-3)


def filled(matrix, box):
    x, y, w, h = box
    mask = np.zeros((SIDE, SIDE), np.uint8)
    corners = apply(matrix, np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]))
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
    return mask.astype(bool)


@pytest.mark.parametrize(("flip", "name"), [(0.0, "left_elbow"), (1.0, "right_elbow")])
def test_an_unlabelled_joint_is_not_learnt_around_its_person(people, flip, name):
    varied = Augmentation(rotation_deg=0, flip=flip)
    scene = Canvases(people, (SIDE, SIDE), count=(1, 1), augmentation=varied, seed=4).crop(0)
    box = box_of_points(scene.keypoints[0, scene.keypoints[0, :, 2] > 0, :2])
    x, y = (box[:2] + box[2:] / 2).astype(int)
    ignored = [k for k in range(17) if scene.ignored[y, x, k]]
    assert ignored == [COCO17.index(name)]


@pytest.fixture
def plain_people(tmp_path):
    """Six pictures of one person, each of one colour, and these colours."""
    people, colours = KeypointSet("plain", COCO17), []
    for i in range(6):
        colours.append((40 * i + 20, 230 - 35 * i, 60 + (i % 2) * 120))
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((HEIGHT, WIDTH, 3), colours[-1][::-1], np.uint8))
        people.add(tmp_path / f"{i}.png", np.column_stack([PLACES, np.full(17, 2)])[None])
    return people, np.array(colours)


def test_what_is_left_of_a_covered_person_is_ignored(plain_people):
    """Of a person with fewer than three uncovered joints the rest is neither a person to find nor background."""
    people, colours = plain_people
    canvases = Canvases(people, (96, 96), count=(2, 4), seed=5, augmentation=Augmentation(rotation_deg=180))
    lost = 0
    for index in range(150):
        scene = canvases.crop(index)
        pixels = np.rint(scene.keypoints[scene.keypoints[..., 2] > 0][:, :2]).astype(int).clip(0, 95)
        labelled = scene.image[pixels[:, 1], pixels[:, 0]]
        for colour in colours:
            rest = (scene.image == colour).all(axis=-1)
            if rest.any() and not (labelled == colour).all(axis=-1).any():
                lost += 1
                assert scene.ignore[rest].all()
    assert lost


def test_everybody_comes_first_in_turn(plain_people):
    """Epochs shorter than the set go on where the last one ended."""
    people, colours = plain_people
    canvases = Canvases(people, (64, 64), length=2, single=1.0, seed=6)
    shown = set()
    for epoch in range(3):
        for index in canvases.order(epoch):
            scene = canvases.crop(int(index), epoch)
            x, y = np.rint(scene.keypoints[0, scene.keypoints[0, :, 2] > 0, :2]).astype(int).clip(0, 63)[0]
            shown.add(int(np.abs(colours - scene.image[y, x]).sum(axis=1).argmin()))
    assert shown == set(range(6))


def test_people_close_by_are_larger_than_the_canvas(people):
    def sizes(close):
        canvases = Canvases(people, (SIDE, SIDE), single=1.0, close=close, length=30)
        areas = np.concatenate([canvases.crop(i).areas for i in range(30)])
        return np.sqrt(areas / AREA_SHARE) / SIDE, canvases

    (far, _), (near, canvases) = sizes(0.0), sizes(1.0)
    # Of whom three joints are seen is somebody to find.
    assert len(near) > 20
    # The boxes of these people are higher than wide: the side of a square of the same area is a little shorter.
    assert far.max() < 0.9
    assert near.min() > 0.6
    assert near.max() > 1.3
    for i in range(30):
        scene = canvases.crop(i)
        columns, pixels = labelled_pixels(scene)
        for k, (x, y) in zip(columns, pixels, strict=True):
            assert np.abs(scene.image[y, x].astype(int) - joint_colour(k)).max() < 40
        # Nothing is labelled outside.
        there = scene.keypoints[scene.keypoints[..., 2] > 0][:, :2]
        assert (there > -1).all()
        assert (there < SIDE + 1).all()
