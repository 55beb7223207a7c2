"""Boxes, crops and affine maps share one convention: pixel centres at integers."""

import numpy as np
import pytest

from posezoo.geometry import apply, box_of_points, box_to_crop, crop_matrix, invert, whole_picture


def test_box_of_points():
    assert box_of_points(np.array([[3, 8], [1, 2], [2, 4.0]])).tolist() == [1, 2, 2, 6]
    assert box_of_points(np.zeros((0, 2))).tolist() == [0, 0, 0, 0]


def test_the_whole_picture_maps_to_itself():
    centre, size = box_to_crop(whole_picture(64, 48), aspect=64 / 48)
    assert np.allclose(crop_matrix(centre, size, (64, 48)), [[1, 0, 0], [0, 1, 0]], atol=1e-5)


def test_borders_meet_borders():
    """The crop spans [-0.5, w - 0.5] whatever its resolution."""
    matrix = crop_matrix((9.5, 4.5), (20, 10), (200, 100))
    assert np.allclose(apply(matrix, np.array([[-0.5, -0.5], [19.5, 9.5]])), [[-0.5, -0.5], [199.5, 99.5]])


@pytest.mark.parametrize(
    "box, enlarge, aspect, size",
    [
        ((0, 0, 10, 40), 1.0, 1.0, (40, 40)),
        ((0, 0, 40, 10), 1.5, 1.0, (60, 60)),
        ((0, 0, 40, 10), 1.0, 0.5, (40, 80)),
        ((0, 0, 10, 40), 1.0, 0.5, (20, 40)),
        ((5, 5, 0, 0), 1.0, 1.0, (1, 1)),
    ],
)
def test_box_to_crop(box, enlarge, aspect, size):
    centre, got = box_to_crop(box, enlarge=enlarge, aspect=aspect)
    assert np.allclose(got, size)
    assert np.allclose(centre, [box[0] + box[2] / 2, box[1] + box[3] / 2])


def test_rotation_is_clockwise_on_screen():
    matrix = crop_matrix((10, 10), (21, 21), (21, 21), rotation_deg=90)
    assert np.allclose(apply(matrix, np.array([15.0, 10.0])), [10, 15])  # right of the centre -> below it


def test_flip_mirrors_after_the_rotation():
    plain = crop_matrix((10, 7), (30, 30), (64, 64), rotation_deg=25)
    flipped = crop_matrix((10, 7), (30, 30), (64, 64), rotation_deg=25, flip=True)
    points = np.random.default_rng(0).uniform(0, 20, (50, 2))
    there, mirrored = apply(plain, points), apply(flipped, points)
    assert np.allclose(mirrored[:, 0], 63 - there[:, 0]) and np.allclose(mirrored[:, 1], there[:, 1])


def test_invert_undoes_any_crop():
    rng = np.random.default_rng(1)
    for _ in range(100):
        matrix = crop_matrix(
            rng.uniform(-100, 500, 2), rng.uniform(1, 900, 2), tuple(rng.integers(8, 300, 2)),
            rotation_deg=rng.uniform(-180, 180), flip=bool(rng.integers(2)),
        )  # fmt: skip
        points = rng.uniform(-500, 500, (3, 4, 2))
        assert np.allclose(apply(invert(matrix), apply(matrix, points)), points, atol=1e-6)
