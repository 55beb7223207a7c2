"""Keypoint sets: everything derives from names, and mistakes are told."""

import pytest

from posezoo.skeletons import (
    COCO17,
    COCO_SIGMAS,
    FLIC11,
    LSP14,
    SKELETONS,
    Skeleton,
    get_skeleton,
    joint_kind,
    mirrored,
)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_flipping_twice_changes_nothing(skeleton):
    flip = skeleton.flip_indices
    assert sorted(flip) == list(range(skeleton.num_keypoints))
    assert [flip[i] for i in flip] == list(range(skeleton.num_keypoints))
    for k, twin in enumerate(flip):
        assert joint_kind(skeleton.keypoints[k]) == joint_kind(skeleton.keypoints[twin])
        assert (k == twin) == (joint_kind(skeleton.keypoints[k]) == skeleton.keypoints[k])


def test_known_orders():
    assert (COCO17.num_keypoints, LSP14.num_keypoints, FLIC11.num_keypoints) == (17, 14, 11)
    assert FLIC11.flip_indices == (3, 4, 5, 0, 1, 2, 7, 6, 9, 8, 10)
    assert COCO17.flip_indices[:5] == (0, 2, 1, 4, 3)
    assert LSP14.flip_indices == (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13)


def test_coco_sigmas_are_the_evaluations_own():
    expected = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
    assert [round(s * 1000) for s in COCO17.sigmas] == list(expected)


def test_names():
    assert mirrored("left_wrist") == "right_wrist" and mirrored("right_wrist") == "left_wrist"
    assert mirrored("nose") == "nose" and joint_kind("left_wrist") == "wrist" and joint_kind("head_top") == "head_top"
    assert LSP14.index("head_top") == 13
    with pytest.raises(KeyError, match="lsp14.*no keypoint 'nose'.*head_top"):
        LSP14.index("nose")


def test_a_skeleton_is_made_of_any_sequences():
    mine = Skeleton("mine", ["left_hand", "right_hand"], [["left_hand", "right_hand"]], [0.1, 0.2])
    assert mine.limb_indices == ((0, 1),) and mine.sigmas == (0.1, 0.2)
    assert hash(mine) == hash(Skeleton("mine", ("left_hand", "right_hand"), (("left_hand", "right_hand"),), (0.1, 0.2)))
    assert Skeleton("mine", ("tail",)).sigmas == (COCO_SIGMAS["shoulder"],)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((("nose", "nose"),), "names nose twice"),
        ((("left_eye",),), "'left_eye' but no 'right_eye'"),
        ((("nose",), (("nose", "tail"),)), "unknown keypoint 'tail'"),
        ((("nose",), (), (0.1, 0.2)), "1 keypoints but 2 sigmas"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        Skeleton("mine", *arguments)


def test_get_skeleton():
    assert get_skeleton("coco17") is COCO17 and get_skeleton(LSP14) is LSP14
    with pytest.raises(KeyError, match="unknown skeleton 'coco'.*coco17"):
        get_skeleton("coco")
