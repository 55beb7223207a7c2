"""Heatmaps: one test holds encode and decode together, the rest their corners."""

import numpy as np
import pytest

from posezoo.codecs import HeatmapCodec
from posezoo.codecs.heatmap import UNLABELLED


def as_int8(maps):
    """Maps as an int8 output of scale 1/127 gives them back."""
    return np.rint(maps * 127).astype(np.int8).astype(np.float32) / 127


def random_points(codec, count, *, margin, seed):
    """Input pixels `(count, 2)` whose map positions keep `margin` map pixels from the border."""
    rng = np.random.default_rng(seed)
    return codec.to_input(rng.uniform(margin, np.array(codec.map_wh) - 1 - margin, (count, 2))).astype(np.float32)


def errors(codec, points, change=lambda maps: maps):
    """Distance per axis in map pixels after encoding and decoding, `(count, 2)`."""
    decoded, _ = codec.decode(change(codec.encode(points[:, None], np.ones((len(points), 1)))))
    return np.abs(codec.to_map(decoded[:, 0]) - codec.to_map(points))


@pytest.mark.parametrize("half_pixel", [True, False])
@pytest.mark.parametrize("change", [lambda maps: maps, as_int8], ids=["float", "int8"])
@pytest.mark.parametrize("sigma", [1.5, 2.0])
@pytest.mark.parametrize("stride", [2, 4])
def test_dark_round_trip(stride, sigma, change, half_pixel):
    codec = HeatmapCodec((128, 96), stride=stride, sigma=sigma, half_pixel=half_pixel)
    points = random_points(codec, 400, margin=3, seed=7)
    assert errors(codec, points, change).max() < 0.05


@pytest.mark.parametrize("decoder, worst", [("argmax", 0.501), ("quarter", 0.501), ("dark", 0.56)])
def test_border_points_stay_near(decoder, worst):
    codec = HeatmapCodec((96, 64), sigma=2.0, decoder=decoder)
    points = random_points(codec, 400, margin=0, seed=3)
    assert errors(codec, points).max() < worst


def test_corners_decode_to_corners():
    codec = HeatmapCodec((64, 48))
    for corner in ([0, 0], [15, 0], [0, 11], [15, 11]):
        points = codec.to_input(np.array([corner], float))
        assert errors(codec, points).max() < 1e-5


def test_argmax_and_quarter_by_hand():
    maps = np.zeros((4, 5, 1), np.float32)
    maps[2, 2], maps[2, 3], maps[1, 2] = 1.0, 0.5, 0.25
    xy, score = HeatmapCodec((20, 16), decoder="argmax", half_pixel=False).decode(maps)
    assert xy.tolist() == [[8, 8]] and score.tolist() == [1]
    xy, _ = HeatmapCodec((20, 16), decoder="quarter", half_pixel=False).decode(maps)
    assert xy.tolist() == [[9, 7]]
    xy, _ = HeatmapCodec((20, 16), decoder="argmax").decode(maps)
    assert xy.tolist() == [[9.5, 9.5]]


def test_flat_and_noisy_maps_stay_within_one_pixel_of_the_peak():
    rng = np.random.default_rng(5)
    codec = HeatmapCodec((64, 64))
    plain = HeatmapCodec((64, 64), decoder="argmax")
    for maps in (np.zeros((16, 16, 3), np.float32), rng.normal(0, 1, (50, 16, 16, 3)), -np.ones((16, 16, 2))):
        xy, score = codec.decode(maps)
        assert np.isfinite(xy).all() and np.isfinite(score).all()
        assert np.abs(xy - plain.decode(maps)[0]).max() <= codec.stride + 1e-4


def test_truncate_with_half_pixel_shift_has_no_mean_error():
    """HigherHRNet's convention: centres are cut to whole pixels, decoding adds half a pixel."""
    codec = HeatmapCodec((128, 128), half_pixel=False, truncate=True, decode_shift=0.5, decoder="argmax", sigma=2.0)
    points = random_points(codec, 2000, margin=1, seed=11)
    decoded, _ = codec.decode(codec.encode(points[:, None], np.ones((2000, 1))))
    difference = codec.to_map(decoded[:, 0]) - codec.to_map(points)
    assert np.abs(difference).max() <= 0.5 + 1e-4
    assert np.abs(difference.mean(axis=0)).max() < 0.03
    maps = codec.encode(np.array([[[10.9, 7.9]]]), np.ones((1, 1)))
    assert maps[0, 1, 2, 0] == 1 and maps.max() == 1


def test_unlabelled_and_far_keypoints_leave_no_trace():
    codec = HeatmapCodec((64, 64))
    points = np.array([[30, 30], [np.nan, np.nan], [1e30, 5], [-500, 5], [30, 30]], np.float32)
    maps = codec.encode(points, np.array([2, 0, 2, 2, 0]))
    assert np.isfinite(maps).all()
    assert (maps.max(axis=(0, 1)) > 0).tolist() == [True, False, False, False, False]
    just_outside = codec.encode(np.array([[-6.0, 30]]), np.ones(1))
    assert 0 < just_outside.max() < 1 and just_outside[..., 0].argmax() % 16 == 0


def test_encode_takes_any_leading_axes():
    codec = HeatmapCodec((64, 32), stride=4)
    points = np.random.default_rng(0).uniform(0, 30, (2, 3, 5, 2))
    maps = codec.encode(points, np.ones((2, 3, 5)))
    assert maps.shape == (2, 3, 8, 16, 5) and maps.dtype == np.float32
    assert np.allclose(maps[1, 2], codec.encode(points[1, 2], np.ones(5)))
    xy, scores = codec.decode(maps)
    assert xy.shape == (2, 3, 5, 2) and scores.shape == (2, 3, 5) and xy.dtype == np.float32


def test_mistakes_are_told():
    codec = HeatmapCodec((64, 32))
    broken = np.zeros((8, 16, 2), np.float32)
    broken[3, 3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        codec.decode(broken)
    with pytest.raises(ValueError, match=r"\(16, 8\).*expects \(8, 16\)"):
        codec.decode(np.zeros((16, 8, 2), np.float32))
    with pytest.raises(ValueError, match="unknown decoder 'soft'.*quarter"):
        HeatmapCodec((64, 64), decoder="soft")
    with pytest.raises(ValueError, match="no multiple of the stride 4"):
        HeatmapCodec((64, 63))


def test_background_is_what_no_keypoint_covers():
    codec = HeatmapCodec((64, 64), background=True)
    points, visible = np.array([[24.0, 28.0], [40.0, 30.0]]), np.array([2, 2])
    maps = codec.encode(points, visible)
    assert maps.shape == (16, 16, 3)
    np.testing.assert_allclose(maps[..., 2], 1 - maps[..., :2].max(axis=-1))
    np.testing.assert_allclose(maps[..., :2], HeatmapCodec((64, 64)).encode(points, visible))
    keypoints, scores = codec.decode(maps)
    assert scores.shape == (2,) and np.abs(keypoints - points).max() < 0.05
    assert np.array_equal(codec.mirror(maps, (1, 0)), maps[:, ::-1][..., [1, 0, 2]])
    targets = codec.targets(points, np.array([2, 0]))
    assert (targets[..., 1:] == UNLABELLED).all() and np.array_equal(targets[..., 0], maps[..., 0])


def test_calibration_makes_heights_probabilities_and_leaves_points():
    maps = np.zeros((48, 48, 3), np.float32)
    for k, height in enumerate((0.1, 0.3, 0.9)):
        maps[20 + k, 10 + k, k] = height
    plain = HeatmapCodec((192, 192))
    calibrated = HeatmapCodec((192, 192), calibration=[[0.2, 0.0], [0.4, 0.5], [0.8, 0.95]])
    np.testing.assert_array_equal(calibrated.decode(maps)[0], plain.decode(maps)[0])
    np.testing.assert_allclose(calibrated.decode(maps)[1], [0.0, 0.25, 0.95], atol=1e-6)
    np.testing.assert_allclose(plain.decode(maps)[1], [0.1, 0.3, 0.9])
    assert hash(calibrated) != hash(plain)


@pytest.mark.parametrize("pairs", [[[0.1, 0.2]], [[0.1, 0.2], [0.1, 0.3]], [[0.1, 0.5], [0.2, 0.4]]])
def test_a_calibration_that_falls_is_refused(pairs):
    with pytest.raises(ValueError, match="both rising"):
        HeatmapCodec((192, 192), calibration=pairs)
