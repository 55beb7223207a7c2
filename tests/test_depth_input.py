"""Depth frames from files and arrays to poses: units, holes, sizes, runtimes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

import posezoo
from posezoo import cli
from posezoo.cards import CardError, read_card
from posezoo.cards.card import InputSpec
from posezoo.codecs import PartAffinityCodec, make_codec
from posezoo.data.calibration import whole_pictures
from posezoo.geometry import apply, box_to_crop, crop_matrix, whole_picture
from posezoo.inference.bottom_up import fit
from posezoo.inference.depth import as_depth, cleaned, coloured, crop_depth, depth_at, read_depth
from posezoo.inference.estimator import PoseModel
from posezoo.inference.images import ImageError
from posezoo.inference.runners import normalise
from posezoo.skeletons import DEPTH17

SPEC = InputSpec((96, 128, 1), (4.0,), (8.0,), colour="depth")


def frame(height=48, width=64, seed=0) -> np.ndarray:
    """A wall at 3 m, a body at 2 m before it, a hole beside it, uint16 mm."""
    rng = np.random.default_rng(seed)
    depth = np.full((height, width), 3000, np.uint16)
    depth[height // 4 :, width // 3 : width // 2] = 2000
    depth[height // 2 :, width // 2 : width // 2 + 6] = 0
    return depth + rng.integers(0, 3, depth.shape).astype(np.uint16) * (depth > 0)


# Arrays and files


def test_millimetres_and_metres_are_one():
    mm = frame()
    metres = mm.astype(np.float64) / 1000
    metres[metres == 0] = np.nan
    expected = as_depth(mm)
    assert expected.dtype == np.float32 and expected.shape == mm.shape
    assert expected[0, 0] == pytest.approx(mm[0, 0] / 1000) and (expected == 0).sum() == (mm == 0).sum() > 0
    for same in (metres, metres.astype(np.float32)[..., None], np.where(np.isnan(metres), np.inf, metres)):
        np.testing.assert_allclose(as_depth(same), expected, atol=1e-6)
    assert as_depth(expected) is not None and np.array_equal(as_depth(expected), expected)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 5, 3), np.uint8), r"looks at depth, got a colour picture of shape \(4, 5, 3\)"),
        (np.zeros((4, 5, 4), np.uint16), "got a colour picture"),
        (np.zeros((4, 5), np.uint8), "8-bit pixels cannot hold depth"),
        (np.zeros((4, 5), np.int32), "expected uint16 millimetres or float metres, one channel; got int32"),
        (np.zeros((4, 5), bool), "got bool"),
        (np.full((4, 5), -1.5), r"20 pixel\(s\) of negative depth, down to -1.5 m; give 0 or NaN"),
        (np.full((4, 5), 2500.0), "reaches 2500 m; that looks like millimetres: divide by 1000"),
        (np.zeros((0, 5)), "array of shape"),
        (np.zeros(5), "array of shape"),
        (np.zeros((2, 4, 5, 1)), "array of shape"),
    ],
)
def test_what_is_no_depth_is_refused(array, told):
    with pytest.raises(ImageError, match=told):
        as_depth(array)


def test_files_hold_what_arrays_hold(tmp_path):
    mm = frame()
    cv2.imwrite(str(tmp_path / "a.png"), mm)
    cv2.imwrite(str(tmp_path / "b.tiff"), mm.astype(np.float32) / 1000)
    np.save(tmp_path / "c.npy", mm)
    for name in ("a.png", "b.tiff", "c.npy"):
        np.testing.assert_allclose(read_depth(tmp_path / name), as_depth(mm), atol=1e-6)


def test_files_that_are_no_depth_are_named(tmp_path):
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 5, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((4, 5), np.uint8))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"no picture")
    (tmp_path / "text.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    for name, told in (
        ("colour.png", "colour picture"), ("grey.png", "8-bit"), ("empty.png", "not a picture"),
        ("text.png", "not a picture"), ("text.npy", "cannot be read"), ("objects.npy", "cannot be read"),
        ("none.png", "no such file"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=f"{name}: .*{told}"):
            read_depth(tmp_path / name)


# Preparation


def test_the_median_removes_speckles_and_the_range_is_clipped():
    depth = np.full((9, 9), 3.0, np.float32)
    depth[4, 4] = 0
    depth[0:3] = 12.0
    clean = cleaned(depth)
    assert clean[4, 4] == 3 and clean[0, 4] == 8
    depth[4:7, 4:7] = 0
    assert cleaned(depth)[5, 5] == 0, "a true hole stays"


def test_metres_become_the_papers_range():
    for name in posezoo.list_models(skeleton="depth17"):
        spec = read_card(name).input
        assert spec.depth and spec.shape[2] == 1
        scaled = normalise(np.array([0, 2, 4, 8], np.float32).reshape(1, 2, 2, 1), spec)
        assert scaled.ravel() == pytest.approx([-0.5, -0.25, 0, 0.5])


@pytest.mark.parametrize("shape", [(24, 32), (48, 64), (424, 512), (540, 960), (97, 33)])
def test_crops_invent_no_surface_between_a_body_and_a_hole(shape):
    depth = np.zeros(shape, np.float32)
    depth[shape[0] // 4 : -shape[0] // 4, shape[1] // 4 : -shape[1] // 4] = 2.0
    crop = crop_depth(depth, fit(shape[::-1], (64, 48)), (64, 48))
    assert crop.shape == (48, 64, 1) and crop.dtype == np.float32
    assert set(np.unique(crop.round(4))) == {0.0, 2.0}
    scale = min(64 / shape[1], 48 / shape[0])
    assert (crop > 0).sum() == pytest.approx((depth > 0).sum() * scale**2, rel=0.15)


def test_crops_interpolate_between_known_pixels():
    depth = np.tile(np.linspace(1, 3, 32, dtype=np.float32), (24, 1))
    crop = crop_depth(depth, crop_matrix((15.5, 11.5), (16, 12), (64, 48)), (64, 48))
    columns = 15.5 + (np.arange(64) - 31.5) / 4
    assert crop[20, :, 0] == pytest.approx(1 + 2 * columns / 31, abs=2e-3)


def test_outside_the_frame_is_missing():
    crop = crop_depth(np.full((10, 10), 2.0, np.float32), fit((10, 10), (40, 20)), (40, 20))
    assert (crop[:, 10:30] == 2).all() and not crop[:, :9].any() and not crop[:, 31:].any()


def test_calibration_pictures_are_what_the_network_sees(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), frame())
    (picture,) = whole_pictures([tmp_path / "a.png"], SPEC)
    expected = crop_depth(cleaned(as_depth(frame())), fit((64, 48), (128, 96)), (128, 96))
    assert picture.shape == (96, 128, 1) and np.array_equal(picture, expected)


def test_depth_at_keypoints_is_that_of_the_surface():
    depth = as_depth(frame())
    depth[20, 25] = 0
    keypoints = np.array([[[25, 20], [2, 2], [34, 40], [70, 10], [25, 20]]], np.float32)
    scores = np.array([[1, 1, 1, 1, 0]], np.float32)
    found = depth_at(depth, keypoints, scores)
    assert found.shape == (1, 5) and found.dtype == np.float32
    assert found[0, :2] == pytest.approx([2000, 3000], abs=3)
    assert np.isnan(found[0, 2:]).all(), "a hole, outside, not found"
    assert depth_at(depth, keypoints[:0], scores[:0]).shape == (0, 5)


def test_depth_is_rendered_for_people():
    picture = coloured(as_depth(frame()))
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    near, far = picture[30, 25].astype(int), picture[2, 2].astype(int)
    assert near[0] > near[2] and far[2] > far[0], "near is red, far blue"
    assert not picture[40, 34].any()
    assert not coloured(np.zeros((4, 4), np.float32)).any()


def test_cards_of_depth_agree_with_themselves():
    with pytest.raises(CardError, match="unknown input colour 'infrared'; expected RGB, depth or amplitude"):
        InputSpec((8, 8, 1), (0.0,), (1.0,), colour="infrared")
    with pytest.raises(CardError, match="one channel of depth"):
        InputSpec((8, 8, 3), (0.0,) * 3, (1.0,) * 3, colour="depth")
    with pytest.raises(CardError, match=r"with 3 mean\(s\) and 1 std"):
        InputSpec((8, 8, 3), (0.0,) * 3, (1.0,))


# Whole frames


def people_in_frame() -> np.ndarray:
    """Two people of DEPTH17 in the pixels of a 64x48 frame."""
    rng = np.random.default_rng(4)
    people = np.full((2, 17, 3), 2, np.float32)
    for i, x in enumerate((16, 46)):
        people[i, :, :2] = (x, 24) + rng.uniform(-1, 1, (17, 2)) * (13, 21)
    return people


class Oracle:
    """A runner that gives what a perfect network would, for people it knows; it checks what it is shown."""

    name = "oracle"

    def __init__(self, codec, people, wh=(64, 48)):
        self.codec, self.people, self.wh, self.seen = codec, people, wh, []

    def __call__(self, images):
        height, width = images.shape[1:3]
        assert images.dtype == np.float32 and images.shape[3] == 1 and images.min() >= 0 and images.max() <= 8
        self.seen.append(images[0])
        people = self.people.copy()
        people[..., :2] = apply(fit(self.wh, (width, height)), people[..., :2])
        if len(self.seen) % 2 == 0:
            people[..., 0] = width - 1 - people[..., 0]
            people = people[:, list(DEPTH17.flip_indices)]
        return {k: v[None] for k, v in self.codec.targets(people, skeleton=DEPTH17).items()}


def oracle_model(people, **changes) -> PoseModel:
    card = replace(read_card("mpm_1s"), input=replace(SPEC, shape=(192, 256, 1)), **changes)
    codec = PartAffinityCodec((256, 192))
    return PoseModel(card, Oracle(codec, people))


@pytest.mark.parametrize("flip", [False, True])
def test_people_are_found_in_frame_pixels_with_their_depth(flip):
    people = people_in_frame()
    model = oracle_model(people)
    found = model(frame(), flip=flip)
    assert len(model.runner.seen) == 1 + flip and len(found) == 2
    if flip:
        np.testing.assert_array_equal(model.runner.seen[0], model.runner.seen[1][:, ::-1])
    error = np.linalg.norm(found.keypoints[:, None] - people[None, ..., :2], axis=-1).max(axis=-1)
    assert sorted(error.argmin(axis=1)) == [0, 1] and error.min(axis=1).max() < 0.5
    assert found.boxes.shape == (2, 4) and found.depth.shape == (2, 17)
    expected = depth_at(as_depth(frame()), found.keypoints, found.scores)
    np.testing.assert_array_equal(found.depth, expected)
    assert np.nanmin(found.depth) < 2100 and np.nanmax(found.depth) > 2900


def test_networks_of_one_person_look_at_depth_in_boxes():
    card = read_card("hourglass_2s")
    codec = make_codec(input_wh=card.input.wh, **card.codec)
    person = people_in_frame()[1]

    def run(images):
        assert images.shape == (2, 384, 384, 1) and images.dtype == np.float32 and 1.9 < images.max() < 3.1
        centre, size = box_to_crop(box, enlarge=card.crop["enlarge"])
        points = apply(crop_matrix(centre, size, (384, 384)), person[:, :2])
        return {"heatmaps": codec.encode(np.stack([points] * 2), np.ones((2, 17)))}

    box = [30, 2, 32, 44]
    found = PoseModel(card, run)(frame(), boxes=[box, box])
    assert found.keypoints.shape == (2, 17, 2), "the background is no keypoint"
    assert np.abs(found.keypoints - person[:, :2]).max() < 0.1
    assert found.depth.shape == (2, 17) and np.isfinite(found.depth).any()


def test_a_frame_of_nothing_holds_nobody():
    model = oracle_model(people_in_frame()[:0])
    found = model(np.zeros((48, 64), np.uint16))
    assert len(found) == 0 and found.depth.shape == (0, 17)


def test_a_depth_network_refuses_pictures(tmp_path):
    model = oracle_model(people_in_frame())
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((20, 20, 3), np.uint8))
    for picture in (tmp_path / "photo.jpg", np.zeros((20, 20, 3), np.uint8)):
        with pytest.raises(ImageError, match="looks at depth, got a colour picture"):
            model(picture)


class Still(Oracle):
    """The same people however the frame is shown."""

    def __call__(self, images):
        self.seen.clear()
        return super().__call__(images)


def test_the_command_draws_on_coloured_depth(tmp_path, monkeypatch, capsys):
    people = people_in_frame()
    model = oracle_model(people)
    model.runner = Still(model.codec, people)
    monkeypatch.setattr("posezoo.commands.common.load", lambda name, **_: model)
    cv2.imwrite(str(tmp_path / "depth.png"), frame())
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((20, 20, 3), np.uint8))
    out = tmp_path / "out"
    assert cli.main(["predict", str(tmp_path / "depth.png"), "--model", "mpm_1s", "-o", str(out)]) == 0
    assert cli.main(["predict", str(tmp_path / "depth.png"), "--model", "mpm_1s", "--inpaint", "-o", str(out)]) == 0
    drawn = cv2.imread(str(out / "depth_poses.png"))
    plain = coloured(as_depth(frame()))[..., ::-1]
    assert drawn.shape == (48, 64, 3) and (drawn != plain).any(axis=-1).mean() > 0.05
    assert (drawn == plain).all(axis=-1).mean() > 0.1
    results = json.loads((out / "results.json").read_text())
    assert len(results) == 2 and len(results[0]["keypoints"]) == 51
    arguments = ["predict", str(tmp_path / "photo.png"), str(tmp_path / "depth.png"), "--model", "mpm_1s"]
    assert cli.main([*arguments, "-o", str(tmp_path / "both")]) == 1
    assert "photo.png: this network looks at depth" in capsys.readouterr().err


# Networks


def frames(count=8, seed=0) -> np.ndarray:
    """Smooth random depth with holes, metres, at the network's size."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.5, 7.5, (count, 6, 8)).astype(np.float32)
    depth = np.stack([cv2.resize(c, (128, 96), interpolation=cv2.INTER_CUBIC) for c in coarse]).clip(0, 8)
    depth[:, 40:50, 30:50] = 0
    return depth[..., None]


@pytest.fixture(scope="module")
def network():
    """MPM-1S whose batch norms hold the frames' statistics, with outputs of some size."""
    keras = pytest.importorskip("keras")
    from posezoo.models.pose_machines import pose_machine

    keras.utils.set_random_seed(7)
    network = pose_machine("mpm", input_px=(96, 128), name="mpm_1s")
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    network(normalise(frames(), SPEC), training=True)
    for name in ("heatmaps", "pafs"):
        kernel, bias = network.get_layer(name).get_weights()
        network.get_layer(name).set_weights([kernel * 30, bias])
    return network


@pytest.fixture(scope="module")
def int8_file(network, tmp_path_factory):
    pytest.importorskip("tensorflow")
    from posezoo.export.tflite import export_tflite

    path = tmp_path_factory.mktemp("int8") / "mpm_1s.tflite"
    export_tflite(network, SPEC, path, calibration=frames(), check_pictures=frames(4, seed=1), min_psnr_db=25)
    return path


def test_int8_files_take_depth(network, int8_file):
    from posezoo.inference.runners import KerasRunner, TFLiteRunner

    sidecar = json.loads(int8_file.with_name("mpm_1s.tflite.json").read_text())
    assert all(row["levels"] > 32 for row in sidecar["gates"]) and len(sidecar["gates"]) == 4
    assert not [op for op in sidecar["operators"] if op.split()[0] in ("CUSTOM", "FLEX", "DEQUANTIZE")]
    runner = TFLiteRunner(int8_file, SPEC)
    kind, scale, zero = runner.quantisation["image"]
    # The whole range of 8 m has its 256 levels, so that a missing pixel is told from a near one.
    assert kind == "int8" and scale == pytest.approx(1 / 255, rel=0.05)
    tensor = runner.prepare(np.full((96, 128, 1), 4.0, np.float32))
    assert tensor.shape == (1, 96, 128, 1) and tensor.dtype == np.int8 and (tensor == round(zero)).all()
    images = frames(2, seed=2)
    expected, got = KerasRunner(network, SPEC)(images), runner(images)
    for name in ("heatmaps", "pafs"):
        # Random weights amplify every rounding: with the input's alone it is 0.85.
        assert np.corrcoef(expected[name].ravel(), got[name].ravel())[0, 1] > 0.6


def test_loaded_models_take_files_and_arrays(network, int8_file, tmp_path, monkeypatch):
    small = replace(read_card("mpm_1s"), input=SPEC, build={**read_card("mpm_1s").build, "input_px": (96, 128)})
    monkeypatch.setattr("posezoo.zoo.read_card", lambda name: small)
    network.save_weights(tmp_path / "own.weights.h5")
    cv2.imwrite(str(tmp_path / "depth.png"), frame())
    for weights in (tmp_path / "own.weights.h5", int8_file):
        model = posezoo.load("mpm_1s", weights=str(weights))
        assert model.card.input.depth
        file, array = model(tmp_path / "depth.png"), model(frame())
        metres = model(np.where(frame() == 0, np.nan, frame() / 1000.0))
        assert len(file) == len(array) == len(metres)
        np.testing.assert_array_equal(file.keypoints, array.keypoints)
        np.testing.assert_allclose(metres.keypoints, array.keypoints, atol=0.05)


def test_models_without_weights_name_their_recipe():
    for name in posezoo.list_models(skeleton="depth17", released=False):
        with pytest.raises(posezoo.weights.WeightsError, match=f"train_pose_machine.py --model {name}"):
            posezoo.load(name)


def test_whole_pictures_show_all_of_a_frame():
    box = whole_picture(64, 48)
    corners = apply(fit((64, 48), (256, 192)), np.array([box[:2], box[:2] + box[2:]]))
    assert corners == pytest.approx(np.array([[-0.5, -0.5], [255.5, 191.5]]))


@pytest.mark.shared
def test_real_frames_are_depth(shared):
    folder = shared / "data" / "depth_samples"
    if not folder.is_dir():
        pytest.skip("no data/depth_samples in the shared data")
    files = sorted(folder.glob("*/*.png"))
    sizes = set()
    for path in files:
        depth = read_depth(path)
        sizes.add(depth.shape)
        crop = crop_depth(cleaned(depth), fit(depth.shape[::-1], (224, 184)), (224, 184))
        scaled = normalise(crop, SPEC)
        assert scaled.min() >= -0.5 and scaled.max() <= 0.5 and (crop > 0).mean() > 0.05, path.name
    assert len(sizes) >= 4
