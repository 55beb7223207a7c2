"""What sensors do to depth: statistics, shadows, holes, fusion with real frames, filling."""

import cv2
import numpy as np
import pytest

from posezoo.errors import UserError
from posezoo.inference import depth as depth_frames
from posezoo.inference.depth import fill_missing
from posezoo.synth.camera import Intrinsics
from posezoo.synth.sensor import (
    SENSORS,
    Backgrounds,
    drop_silhouette,
    fuse,
    get_sensor,
    occluding_edge,
    patchy,
    read_depth,
    shadow,
    silhouette,
)

SIZE = (240, 320)


def plane(z, shape=SIZE) -> np.ndarray:
    return np.full(shape, z, np.float32)


def reading(sensor, depth, seed=0, **more) -> np.ndarray:
    sensor = get_sensor(sensor)
    intrinsics = sensor.intrinsics.resized(depth.shape[1], depth.shape[0])
    return read_depth(np.random.default_rng(seed), depth, sensor, intrinsics, **more)


def metres(millimetres):
    return millimetres[millimetres > 0] / 1000


# -------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("name", sorted(SENSORS))
@pytest.mark.parametrize("z", [1.0, 2.5, 4.0])
def test_range_noise_has_its_standard_deviation(name, z):
    sensor = SENSORS[name]
    values = np.concatenate([metres(reading(name, plane(z), seed)) for seed in range(6)])
    expected = np.hypot(sensor.range_sigma_m(z), sensor.wander_m * z)
    expected = np.hypot(expected, sensor.step_m(z) / np.sqrt(12))
    assert abs(values.mean() - z) < 0.25 * expected + 0.002
    assert 0.75 * expected < values.std() < 1.35 * expected + 0.0015


def test_published_numbers():
    kinect1, d435 = SENSORS["kinect1"], SENSORS["d435"]
    assert kinect1.range_sigma_m(2.4) == pytest.approx(0.0012 + 0.0019 * 4)
    assert kinect1.step_m(2.0) == pytest.approx(4 / (571.26 * 0.075 * 8))
    assert d435.range_sigma_m(2.0) / 2.0 < 0.02, "Intel's bound: 2 % at 2 m"


def test_kinect1_depth_comes_in_steps_of_disparity():
    values = np.unique(metres(reading("kinect1", plane(4.0))))
    steps = np.diff(values)
    assert 0.9 < np.median(steps) / SENSORS["kinect1"].step_m(4.0) < 1.1
    assert len(values) < 20, "a step is 4.7 cm there"
    assert len(np.unique(reading("kinect2", plane(4.0)))) > 20


def test_patches_err_together():
    noise = patchy(np.random.default_rng(0), (400, 400), 6.0)
    assert noise.mean() == pytest.approx(0, abs=0.05) and noise.std() == pytest.approx(1, abs=0.05)
    assert noise.std(axis=0).std() < 0.15, "the deviation is the same everywhere"
    beside, apart = (noise[:, :-k] * noise[:, k:] for k in (1, 12))
    assert beside.mean() > 0.7 and abs(apart.mean()) < 0.1
    assert patchy(np.random.default_rng(0), (50, 50), 1.0).dtype == np.float32


def test_the_same_seed_reads_the_same():
    for name in SENSORS:
        assert np.array_equal(reading(name, plane(3)), reading(name, plane(3)))
        assert not np.array_equal(reading(name, plane(3)), reading(name, plane(3), seed=1))


def test_steep_surfaces_are_read_less_exactly():
    flat = metres(reading("kinect2", plane(2), cosine=plane(1)))
    steep = metres(reading("kinect2", plane(2), cosine=plane(0.25)))
    assert steep.std() > 1.5 * flat.std()


# -------------------------------------------------------------------------------------------------- holes


def test_range_limits():
    for name, sensor in SENSORS.items():
        for z in (sensor.nearest_m * 0.8, sensor.farthest_m * 1.1, 0.0):
            assert not reading(name, plane(z)).any(), (name, z)


@pytest.mark.parametrize("name", ["kinect1", "kinect2"])
def test_dark_far_and_grazing_surfaces_are_missing(name):
    def missing(z=3.0, **more):
        return (reading(name, plane(z), **more) == 0).mean()

    bright = missing(albedo=plane(0.6), cosine=plane(0.9))
    assert bright < 0.02
    assert missing(z=7.5, albedo=plane(0.05), cosine=plane(0.9)) > 0.5
    assert missing(albedo=plane(0.6), cosine=plane(0.02)) > 0.6


def person_before_wall(near=2.0, far=4.0):
    depth = plane(far)
    depth[60:, 140:180] = near
    return depth


def test_shadow_is_where_geometry_says():
    intrinsics = Intrinsics(285.63, 285.63, 159.5, 119.5, 320, 240)
    hidden = shadow(person_before_wall(), 0.075, intrinsics)
    wide = 285.63 * 0.075 * (1 / 2 - 1 / 4)
    rows, columns = np.nonzero(hidden)
    assert rows.min() == 60 and columns.max() == 139
    assert 0 <= wide - (140 - columns.min()) <= 1.5, "half a pixel of tolerance, and whole pixels"
    assert not shadow(plane(3), 0.075, intrinsics).any()
    assert not shadow(person_before_wall(), 0.0, intrinsics).any()
    mirrored = shadow(person_before_wall(), -0.075, intrinsics)
    assert np.nonzero(mirrored)[1].min() == 180


def test_slanted_surfaces_have_no_shadow():
    depth = np.tile(np.linspace(1.5, 4, 320, dtype=np.float32), (240, 1))
    intrinsics = Intrinsics(285.63, 285.63, 159.5, 119.5, 320, 240)
    assert not shadow(depth, 0.075, intrinsics).any() and not shadow(depth[:, ::-1], 0.075, intrinsics).any()


def test_sensors_with_a_projector_lose_one_side_time_of_flight_the_outline():
    depth = person_before_wall()

    def lost(name, columns):
        return (reading(name, depth, cosine=plane(1), albedo=plane(0.6))[70:230, columns] == 0).mean()

    right, outline = slice(182, 190), slice(139, 141)
    for name, left in (("kinect1", slice(136, 140)), ("d435", slice(139, 140))):
        assert lost(name, left) > 0.7 and lost(name, right) < 0.25
    assert lost("kinect2", outline) > 0.5
    assert lost("kinect2", slice(130, 137)) < 0.05 and lost("kinect2", right) < 0.05


def test_stereo_loses_the_columns_that_only_one_imager_sees():
    read = reading("d435", plane(1.0))
    wide = 192 * 0.05
    assert not read[:, : int(wide) - 1].any() and (read[:, int(wide) + 2 :] > 0).mean() > 0.98
    assert (reading("kinect1", plane(1.0))[:, :5] > 0).any()


def test_flying_pixels_lie_between():
    values = np.concatenate([reading("kinect2", person_before_wall(), s)[60:].ravel() for s in range(4)]) / 1000
    between = (values > 2.2) & (values < 3.8)
    assert 0.0005 < between.mean() < 0.02


def test_edges_are_found_on_both_sides_and_slopes_are_none():
    edge = occluding_edge(person_before_wall())
    assert edge[120, 139] and edge[120, 140] and not edge[120, 136] and not edge[120, 144]
    assert not occluding_edge(np.tile(np.linspace(1.5, 4, 320, dtype=np.float32), (240, 1))).any()


# --------------------------------------------------------------------------------------------- silhouette


def test_a_fifth_of_the_outline_is_dropped_and_nothing_else():
    people = np.zeros(SIZE, np.uint8)
    people[40:200, 100:160] = 1
    people[60:200, 160:200] = 2
    outline = silhouette(people)
    assert outline[40, 100:160].all() and outline[100, 159] and outline[100, 160] and not outline[100, 130]
    assert not outline[people == 0].any()
    dropped = np.mean(
        [(drop_silhouette(np.random.default_rng(s), plane(3), people) == 0)[outline].mean() for s in range(20)]
    )
    assert dropped == pytest.approx(0.2, abs=0.02)
    assert (drop_silhouette(np.random.default_rng(0), plane(3), people)[~outline] == 3).all()
    assert (drop_silhouette(np.random.default_rng(0), plane(3), people, share=0) == 3).all()


# --------------------------------------------------------------------------------------------- backgrounds


def someone(z=3.0):
    depth = np.zeros(SIZE, np.float32)
    depth[60:220, 120:180] = z
    return depth


def test_in_front_of_a_far_background_nobody_is_moved():
    fused = fuse(someone(), plane(4))
    assert fused.scale == 1 and (fused.depth[100, 150], fused.depth[10, 10]) == (3, 4)
    assert fused.measured[10, 10] and not fused.measured[100, 150]


def test_people_are_moved_in_front_by_the_margin():
    fused = fuse(someone(3.0), plane(2.9), margin_m=0.1)
    assert fused.scale == pytest.approx(2.8 / 3)
    assert fused.depth[100, 150] == pytest.approx(2.8) and fused.depth[10, 10] == pytest.approx(2.9)


def test_a_background_that_is_too_near_is_rejected():
    assert fuse(someone(3.0), plane(2.0)) is None
    assert fuse(someone(3.0), plane(2.0), smallest_scale=0.5).scale == pytest.approx(1.9 / 3)


def test_feet_on_a_real_floor_do_not_reject_it_and_holes_hide_nothing():
    background = plane(6)
    background[210:] = 2.0
    assert fuse(someone(3.0), background).scale == 1
    assert fuse(someone(3.0), np.zeros(SIZE, np.float32)).scale == 1


def test_real_backgrounds_keep_their_readings_but_get_shadows():
    background = plane(4.123)
    background[:30] = 0
    fused = fuse(someone(2.0), background)
    read = reading("kinect1", fused.depth, measured=fused.measured)
    assert (read[40:55] == 4123).all() and not read[:30].any()
    assert (read[100, 116:119] == 0).all(), "the shadow falls on the real wall"
    assert read[60:220, 125:175].std() > 1


def test_background_folder(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((480, 640), 2000, np.uint16))
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "b.npy", np.full((424, 512), 3.5, np.float32))
    folder = Backgrounds(tmp_path)
    rng = np.random.default_rng(0)
    drawn = [folder.draw(rng, 320, 240) for _ in range(20)]
    assert len(folder) == 2 and {name for _, name in drawn} == {"a.png", "b.npy"}
    for depth, name in drawn:
        assert depth.shape == SIZE and np.allclose(depth, 2.0 if name == "a.png" else 3.5)


def test_backgrounds_are_cut_around_the_middle_and_sometimes_mirrored(tmp_path):
    wide = np.full((240, 640), 3000, np.uint16)
    wide[:, :160], wide[:, 320:] = 1000, 4000
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    seen = {tuple(np.unique(Backgrounds(tmp_path).draw(np.random.default_rng(s), 320, 240)[0][:, 0])) for s in range(9)}
    assert seen == {(3.0,), (4.0,)}


def test_unreadable_backgrounds_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Backgrounds(tmp_path / "none")
    with pytest.raises(UserError, match="holds no depth frame"):
        Backgrounds(tmp_path)
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"photo.png.*got a colour picture of shape \(4, 4, 3\)"):
        depth_frames.read_depth(tmp_path / "photo.png")
    (tmp_path / "broken.npy").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        depth_frames.read_depth(tmp_path / "broken.npy")
    np.save(tmp_path / "nan.npy", np.array([[np.nan, 2.0]], np.float64))
    assert np.array_equal(depth_frames.read_depth(tmp_path / "nan.npy"), np.array([[0, 2]], np.float32))


# ------------------------------------------------------------------------------------------------- filling


def test_holes_take_the_farther_side():
    depth = np.full((20, 20), 4000, np.uint16)
    depth[:, 10:] = 2000
    depth[5:15, 8:10] = 0
    filled = fill_missing(depth)
    assert (
        filled.dtype == np.uint16
        and (filled[5:15, 8:10] == 4000).all()
        and (filled[depth > 0] == depth[depth > 0]).all()
    )


def test_holes_at_the_border_rows_and_nan():
    depth = np.full((20, 20), 3.0, np.float32)
    depth[:, :3], depth[7], depth[12, 5] = np.nan, 0, np.inf
    assert np.array_equal(fill_missing(depth), np.full((20, 20), 3.0, np.float32))
    assert not fill_missing(np.zeros((4, 4), np.uint16)).any()


def test_telea_blends():
    depth = np.tile(np.linspace(1000, 3000, 60).astype(np.uint16), (40, 1))
    holed = depth.copy()
    holed[15:20, 20:26] = 0
    painted = fill_missing(holed, method="telea")
    assert np.abs(painted.astype(int) - depth).max() < 250 and painted.dtype == np.uint16


def test_filling_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="expected 'background' or 'telea'"):
        fill_missing(np.array([[0, 1]], np.uint16), method="magic")
    with pytest.raises(ValueError, match="got uint8"):
        fill_missing(np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="expected one of kinect1"):
        get_sensor("kinect3")
