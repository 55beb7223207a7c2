"""PCK against values worked out by hand."""

import numpy as np
import pytest

from posezoo.evaluation.pck import box_size, head_size, pck, torso_size
from posezoo.skeletons import COCO17, FLIC11, LSP14, Skeleton

PAIR = Skeleton("pair", ("left_wrist", "right_wrist", "nose"))


def persons(count, skeleton=LSP14):
    keypoints = np.zeros((count, skeleton.num_keypoints, 3))
    keypoints[..., 2] = 2
    return keypoints


def test_torso_is_left_shoulder_to_right_hip():
    truth = persons(3)
    truth[:, LSP14.index("left_shoulder"), :2] = 3, 0
    truth[:, LSP14.index("right_hip"), :2] = 0, 4
    truth[:, LSP14.index("left_hip"), :2] = 50, 50
    truth[1, LSP14.index("left_shoulder"), 2] = 0
    truth[2, LSP14.index("right_hip"), 2] = 1  # hidden, but labelled
    assert np.array_equal(torso_size(truth, LSP14), [5, np.nan, 5], equal_nan=True)


def test_head_is_neck_to_head_top():
    truth = persons(2)
    truth[:, LSP14.index("head_top"), :2] = 0, 7
    truth[1, LSP14.index("neck"), 2] = 0
    assert np.array_equal(head_size(truth, LSP14), [7, np.nan], equal_nan=True)
    with pytest.raises(KeyError, match="flic11.*no keypoint 'neck'"):
        head_size(persons(1, FLIC11), FLIC11)


def test_box_is_the_longer_side():
    assert box_size([[5, 5, 30, 40], [0, 0, 8, 2]]).tolist() == [40, 8]


def test_by_hand():
    """Two persons of size 100 and 50; errors of 19, 20, 0 and 9, 11, 30 pixels."""
    truth = persons(2, PAIR)
    predicted = np.array([[[19, 0], [0, 20], [0, 0]], [[0, -9], [11, 0], [18, 24]]], float)
    result = pck(predicted, truth, np.array([100.0, 50.0]), PAIR)
    assert np.allclose(result.distances, [[0.19, 0.2, 0], [0.18, 0.22, 0.6]])
    assert result.at(0.2) == 2 / 4  # 0.2 itself is not nearer than 0.2; the nose is no limb joint
    assert result.at(0.2, joints=None) == 3 / 6
    assert result.at(0.21) == 3 / 4
    assert result.at(0.2, joints=("nose",)) == 1 / 2
    assert result.per_joint(0.2) == {"wrist": 0.5, "nose": 0.5}


def test_what_does_not_count():
    truth = persons(4, PAIR)
    truth[0, 0, 2] = 0
    predicted = np.zeros((4, 3, 2))
    predicted[1, 1] = np.nan
    predicted[3] = 1000
    result = pck(predicted, truth, np.array([10, 10, np.nan, 10]), PAIR)
    expected = [[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert np.isnan(result.distances).astype(int).tolist() == expected
    assert result.at(0.2) == 2 / 4
    assert np.isnan(pck(predicted, truth, np.zeros(4), PAIR).at(0.2))
    assert np.isnan(result.at(0.2, joints=("knee",)))


def test_limb_joints_are_the_twelve_that_data_sets_share():
    for skeleton, columns in ((LSP14, 12), (COCO17, 12), (FLIC11, 8)):
        truth = persons(1, skeleton)
        predicted = np.full((1, skeleton.num_keypoints, 2), 1000.0)
        limbs = [i for i, k in enumerate(skeleton.keypoints) if k.startswith(("left_", "right_")) and "e" in k]
        assert len(limbs) >= 2
        result = pck(predicted, truth, np.ones(1), skeleton)
        kinds = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        counted = [i for i, k in enumerate(skeleton.keypoints) if k.split("_")[-1] in kinds]
        assert len(counted) == columns
        result.distances[:, counted] = 0
        assert result.at(0.2) == 1


def test_mistakes_are_told():
    truth = persons(2, PAIR)
    with pytest.raises(ValueError, match=r"expected predictions \(2, 3, 2\).*got \(2, 2, 2\)"):
        pck(np.zeros((2, 2, 2)), truth, np.ones(2), PAIR)
    with pytest.raises(ValueError, match=r"normaliser \(2,\).*\(3,\)"):
        pck(np.zeros((2, 3, 2)), truth, np.ones(3), PAIR)
