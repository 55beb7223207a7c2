"""The hand network's codec, losses and lifting."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from posezoo.codecs.hand import HandCodec, HandMaps  # noqa: E402
from posezoo.inference.lifting import Lifter, Pinhole  # noqa: E402
from posezoo.models.hand import Heads, hand25d  # noqa: E402
from posezoo.skeletons import HAND16  # noqa: E402
from posezoo.training.hand import (  # noqa: E402
    HandTrainer,
    class_loss,
    keypoint_loss,
    segmentation_loss,
    task_losses,
    visibility_loss,
)

CODEC = HandCodec((224, 168), stride=2)


def drawn(points: np.ndarray, *, sharpness: float = 1.0) -> np.ndarray:
    """Logits of Gaussians around points `(16, 2)` in input pixels."""
    width, height = CODEC.map_wh
    x, y = ((np.arange(side) + 0.5) * 2 - 0.5 for side in (width, height))
    squared = (x[None, :, None] - points[:, 0]) ** 2 + (y[:, None, None] - points[:, 1]) ** 2
    return (-sharpness * squared / 8).astype(np.float32)


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(20, 140, (16, 2)).astype(np.float32)


def test_peaks_lie_between_pixels(points):
    xy, scores, people = CODEC.decode(CODEC.merge({"heatmaps": drawn(points)}), HAND16)
    assert np.abs(xy[0] - points).max() < 0.1
    assert scores.min() > 0.5
    assert people.shape == (1,)


def test_peaks_at_the_border_stay_inside():
    corners = np.tile([[0.0, 0.0], [223.0, 167.0]], (8, 1))
    xy, *_ = CODEC.decode(CODEC.merge({"heatmaps": drawn(corners)}), HAND16)
    assert (xy >= -0.5).all()
    assert (xy <= [223.5, 167.5]).all()
    assert np.abs(xy - corners).max() < 1.5


def test_missing_hands(points):
    maps = {"heatmaps": drawn(points)}
    seen = np.full(18, 5.0, np.float32)
    nobody = CODEC.decode(CODEC.merge({**maps, "visibility": -seen}), HAND16)
    assert [len(part) for part in nobody] == [0, 0, 0]
    seen[16] = -5
    _, scores, people = CODEC.decode(CODEC.merge({**maps, "visibility": seen}), HAND16)
    assert (scores[0, :8] == 0).all()
    assert (scores[0, 8:] > 0.9).all()
    assert people[0] > 0.9


def test_a_mirrored_pass_changes_sides(points):
    flip = list(HAND16.flip_indices)
    other = points[flip] * [-1, 1] + [223, 0]
    visibility = np.arange(18, dtype=np.float32)
    maps = CODEC.merge(
        {"heatmaps": drawn(points), "visibility": visibility},
        {"heatmaps": drawn(other), "visibility": visibility[[*flip, 17, 16]]},
        HAND16,
    )
    np.testing.assert_allclose(maps.heatmaps, drawn(points), atol=1e-2)
    np.testing.assert_allclose(maps.visibility, 1 / (1 + np.exp(-visibility)), rtol=1e-5)


def test_damaged_maps_are_told(points):
    with pytest.raises(ValueError, match="hold NaN"):
        CODEC.decode(HandMaps(np.full((84, 112, 16), np.nan, np.float32), None), HAND16)
    with pytest.raises(ValueError, match=r"heatmaps are \(84, 110\), the codec expects \(84, 112\)"):
        CODEC.merge({"heatmaps": drawn(points)[:, :110]})


def test_decoding_takes_little_time(points):
    maps = CODEC.merge({"heatmaps": drawn(points), "visibility": np.full(18, 5.0)})
    times = []
    for _ in range(20):
        start = time.perf_counter()
        CODEC.decode(maps, HAND16)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.001


def test_targets_leave_out_what_is_hidden_and_count_tips_twice(points):
    keypoints = np.column_stack([points, np.full(16, 2.0)])
    keypoints[HAND16.index("right_wrist"), 2] = 1
    keypoints[HAND16.index("right_thumb_mcp"), 0] = 400
    targets = CODEC.targets(keypoints, np.array([False, True]), skeleton=HAND16)
    weight = targets["points"][:, 2]
    assert (weight[:8] == 0).all()
    assert weight[HAND16.index("right_index_tip")] == 2
    assert weight[HAND16.index("right_index_mcp")] == 1
    assert weight[HAND16.index("right_wrist")] == weight[HAND16.index("right_thumb_mcp")] == 0
    assert targets["visibility"][16:].tolist() == [0, 1]
    assert targets["visibility"].sum() == 6 + 1


# ---------------------------------------------------------------------------------------------- losses


def test_keypoint_loss_by_hand():
    logits = np.zeros((1, 2, 2, 2), "float32")
    logits[0, 1, 0, 0] = 2.0
    points = np.array([[[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]], "float32")  # x 1, y 2 of 4x4 is row 1, column 0 of 2x2
    expected = math.log(math.exp(2) + 3) - 2
    assert float(keypoint_loss(points, logits, input_height=4)[0]) == pytest.approx(2 * expected, rel=1e-5)
    points[0, 1, 2] = 1.0  # the other keypoint's map is flat: log 4; weights 2 and 1
    both = 2 * expected + math.log(4)
    assert float(keypoint_loss(points, logits, input_height=4)[0]) == pytest.approx(both, rel=1e-5)
    assert float(keypoint_loss(points * np.float32([1, 1, 0]), logits, input_height=4)[0]) == 0


def test_orientation_is_softened_around_the_circle():
    logits = np.zeros((1, 16), "float32")
    logits[0, 7] = 3.0  # left hand: direction 7, whose neighbours are 6 and 0
    total = math.log(math.exp(3) + 7)
    expected = 0.9 * (total - 3) + 0.1 * total
    found = class_loss(np.array([[7, -1]]), logits, softened=0.1, circular=True)
    assert float(found[0]) == pytest.approx(expected, rel=1e-5)


def test_softening_at_the_ends_stays_a_distribution():
    logits = np.zeros((1, 6), "float32")
    logits[0, 0] = 1.0
    total = math.log(math.e + 2)
    found = class_loss(np.array([[0, -1]]), logits, softened=0.2)
    assert float(found[0]) == pytest.approx(0.8 * (total - 1) + 0.2 * total, rel=1e-5)


def test_no_hand_no_class_loss():
    assert float(class_loss(np.array([[-1, -1]]), np.ones((1, 18), "float32"))[0]) == 0


def test_pixels_and_flags():
    assert float(visibility_loss(np.ones((1, 3), "float32"), np.zeros((1, 3), "float32"))[0]) == pytest.approx(
        math.log(2)
    )
    flat = np.zeros((1, 2, 2, 3), "float32")
    assert float(segmentation_loss(np.zeros((1, 2, 2), "int32"), flat)[0]) == pytest.approx(math.log(3))


def batch(size: int = 4, height: int = 32, width: int = 48) -> tuple[np.ndarray, dict]:
    rng = np.random.default_rng(0)

    def some(count):
        xy = rng.uniform(0, [width, height], (size, count, 2))
        return np.concatenate([xy, np.ones((size, count, 1))], -1).astype("float32")

    return rng.uniform(-0.5, 0.5, (size, height, width, 1)).astype("float32"), {
        "points": some(16), "points_aux": some(18), "visibility": rng.integers(0, 2, (size, 18)).astype("float32"),
        "orientation": rng.integers(-1, 8, (size, 2)), "pose": rng.integers(-1, 9, (size, 2)),
        "segmentation": rng.integers(0, 3, (size, height, width)),
    }  # fmt: skip


@pytest.mark.parametrize("without", ["", "auxiliary", "visibility", "orientation", "pose", "segmentation", "deep"])
def test_each_task_can_be_left_out(without):
    x, y = batch()
    network = hand25d(input_px=(32, 48), heads=Heads(**({without: False} if without else {})))
    tasks = task_losses(y, network(x), input_height=32)
    short = {
        "auxiliary": "akp",
        "visibility": "kphv",
        "orientation": "cho",
        "pose": "dhp",
        "segmentation": "seg",
        "deep": "ds",
    }
    assert set(tasks) == {"kp", "akp", "kphv", "cho", "dhp", "seg", "ds"} - {short.get(without)}
    assert all(np.isfinite(np.asarray(v)).all() for v in tasks.values())


def test_training_learns_every_task():
    keras.utils.set_random_seed(0)
    x, y = batch()
    trainer = HandTrainer(hand25d(input_px=(32, 48), heads=Heads()), input_height=32)
    trainer.build((None, 32, 48, 1))
    trainer.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
    first = {k: float(np.mean(v)) for k, v in task_losses(y, trainer(x, training=True), input_height=32).items()}
    for _ in range(60):
        trainer.train_on_batch(x, y)
    last = {k: float(np.mean(v)) for k, v in task_losses(y, trainer(x, training=True), input_height=32).items()}
    assert all(last[k] < first[k] for k in first), (first, last)


# --------------------------------------------------------------------------------------------- lifting

CAMERA = Pinhole(200.0, 200.0, 112.0, 84.0)


def test_a_flat_hand_is_lifted_to_millimetres(points):
    lift = Lifter(CAMERA, HAND16, longest_mm=1000, longest_hand_mm=1000)
    space = lift(np.full((168, 224), 500, np.uint16), points, np.ones(16))
    np.testing.assert_allclose(space[:, 2], 500)
    np.testing.assert_allclose(space[:, 0], (points[:, 0] - 112) * 500 / 200, atol=1e-3)


def test_holes_and_background_do_not_count():
    depth = np.full((168, 224), 900, np.float32)
    depth[80:85, 100:103] = 400  # a finger three pixels wide
    depth[82, 101] = np.nan
    keypoints, scores = np.tile([[101.0, 82.0]], (16, 1)), np.zeros(16)
    scores[:2] = 1
    space = Lifter(CAMERA, HAND16, hold_frames=0)(depth, keypoints, scores)
    np.testing.assert_allclose(space[:2, 2], 400)
    assert np.isnan(space[2:]).all()


def test_limbs_that_are_too_long_lose_their_farther_end():
    depth = np.full((168, 224), 400, np.float32)
    keypoints = np.tile([[100.0, 80.0]], (16, 1))
    tip = HAND16.index("left_index_tip")
    keypoints[tip], depth[120:, :] = (100, 130), 900
    space = Lifter(CAMERA, HAND16)(depth, keypoints, np.ones(16))
    assert np.isnan(space[tip]).all()
    assert not np.isnan(np.delete(space, tip, axis=0)).any()


def test_a_lost_depth_is_held_for_a_while():
    lift = Lifter(CAMERA, HAND16, hold_frames=2)
    keypoints, full, empty = np.tile([[100.0, 80.0]], (16, 1)), np.full((168, 224), 400.0), np.zeros((168, 224))
    seen = [lift(d, keypoints, np.ones(16))[0, 2] for d in (full, empty, empty, empty, full)]
    np.testing.assert_allclose(seen, [400, 400, 400, np.nan, 400])


def test_an_even_window_is_told():
    with pytest.raises(ValueError, match="window_px must be odd"):
        Lifter(CAMERA, HAND16, window_px=4)


def test_an_open_hand_is_no_limb_that_is_too_long():
    """From the wrist to the middle finger's tip a hand measures some 19 cm, more than any bone."""
    depth = np.full((168, 224), 400, np.float32)
    keypoints = np.tile([[100.0, 60.0]], (16, 1))
    keypoints[HAND16.index("left_wrist")] = (100, 155)  # 190 mm away
    keypoints[HAND16.index("left_thumb_mcp")] = (100, 130)
    keypoints[HAND16.index("left_index_mcp")] = (100, 100)
    space = Lifter(CAMERA, HAND16)(depth, keypoints, np.ones(16))
    assert not np.isnan(space[HAND16.index("left_middle_tip")]).any()
    assert np.isnan(Lifter(CAMERA, HAND16, longest_hand_mm=150)(depth, keypoints, np.ones(16))[:, 2]).any()
