"""A ready model: boxes, detectors, coordinates, drawing, result files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import posezoo
from posezoo.cards import read_card
from posezoo.codecs import CoordinateCodec
from posezoo.geometry import apply
from posezoo.inference.drawing import LEFT, draw
from posezoo.inference.estimator import PoseModel
from posezoo.inference.images import ImageError
from posezoo.inference.poses import Poses
from posezoo.skeletons import COCO17, LSP14
from posezoo.weights import WeightsError
from posezoo.zoo import released_card


class DotRunner:
    """A "network" that sees one coloured dot per joint: exact maps, so that only our own code is tested."""

    name = "dots"

    def __init__(self, codec, skeleton):
        self.codec, self.skeleton = codec, skeleton

    def __call__(self, images):
        maps = []
        for image in images.astype(np.float32):
            points, seen = np.zeros((14, 2)), np.zeros(14)
            for k in range(14):
                near = np.abs(image - dot_colour(k)).max(axis=-1) < 9
                if near.any():
                    rows, columns = np.nonzero(near)
                    points[k], seen[k] = (columns.mean(), rows.mean()), 1
            maps.append(self.codec.encode(points, seen))
        return {"heatmaps": np.stack(maps)}


def dot_colour(k: int) -> np.ndarray:
    return np.array([250 - 17 * k, 20 + 17 * k, 60 if k % 2 else 190])


def dotted_picture(points, size=(300, 400)) -> np.ndarray:
    import cv2

    image = np.full((*size, 3), 127, np.uint8)
    for k, (x, y) in enumerate(np.asarray(points)):
        cv2.circle(image, (int(x), int(y)), 5, dot_colour(k).tolist(), -1)
    return image


@pytest.fixture
def model():
    card = read_card("mobilenet_split_192")
    made = PoseModel(card, None)
    made.runner = DotRunner(made.codec, card.skeleton)
    return made


def people_points():
    rng = np.random.default_rng(2)
    one = np.stack([rng.permutation(14) * 9 + 30, rng.permutation(14) * 14 + 60], axis=-1)
    return one, one + (200, 20)


def test_whole_picture_is_one_person(model):
    one, _ = people_points()
    poses = model(dotted_picture(one))
    assert len(poses) == 1
    np.testing.assert_allclose(poses.keypoints[0], one, atol=2)
    assert (poses.scores > 0.9).all()


def test_boxes_come_back_in_order(model):
    one, two = people_points()
    image = dotted_picture(np.concatenate([one]))
    image[:, 190:] = dotted_picture(two)[:, 190:]
    boxes = [[215, 60, 150, 220], [20, 50, 150, 200]]
    poses = model(image, boxes=boxes)
    np.testing.assert_allclose(poses.keypoints[0], two, atol=2)
    np.testing.assert_allclose(poses.keypoints[1], one, atol=2)
    np.testing.assert_array_equal(poses.boxes, boxes)


def test_detector_is_asked_and_its_scores_count(model):
    one, _ = people_points()
    image = dotted_picture(one)
    seen = []

    def detector(pixels):
        seen.append(pixels.shape)
        return np.array([[20, 50, 150, 200]]), np.array([0.5])

    model.detector = detector
    poses = model(image)
    assert seen == [image.shape]
    assert poses.person_scores[0] == pytest.approx(poses.scores.mean() * 0.5)
    model.detector = lambda pixels: (np.zeros((0, 4)), np.zeros(0))
    assert len(model(image)) == 0


def test_flip_test_swaps_sides_back(model):
    one, _ = people_points()
    image = dotted_picture(one)
    runner = model.runner

    def mirrored_twin(images):
        # A network that is blind to mirroring labels the mirrored person's left joints "left": swap what the dots say.
        maps = runner(images)["heatmaps"]
        flipped = runner(np.ascontiguousarray(images[:, :, ::-1]))["heatmaps"]
        return (
            {"heatmaps": maps}
            if mirrored_twin.calls == 0
            else {"heatmaps": flipped[:, :, ::-1][..., list(LSP14.flip_indices)]}
        )

    calls = []

    def counting(images):
        mirrored_twin.calls = len(calls)
        calls.append(images.copy())
        return mirrored_twin(images)

    counting.name = "twin"
    model.runner = counting
    poses = model(image, flip=True)
    assert len(calls) == 2
    np.testing.assert_array_equal(calls[1], calls[0][:, :, ::-1])
    np.testing.assert_allclose(poses.keypoints[0], one, atol=2)


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        ([[1, 2, 3]], r"expected boxes \(N, 4\)"),
        ([[1, 2, 0, 5]], "width and height above 0"),
        ([[np.nan, 2, 3, 5]], "finite"),
    ],
)
def test_bad_boxes_are_told(model, boxes, told):
    with pytest.raises(ValueError, match=told):
        model(np.zeros((50, 50, 3), np.uint8), boxes=boxes)


def test_one_pixel_and_strange_shapes(model):
    assert model(np.zeros((1, 1, 3), np.uint8)).keypoints.shape == (1, 14, 2)
    assert model(np.zeros((1, 5000), np.uint8)).keypoints.shape == (1, 14, 2)
    with pytest.raises(ImageError, match="expected a picture"):
        model(np.zeros((4, 4, 7), np.uint8))
    with pytest.raises(ImageError, match="no such file"):
        model("nowhere.jpg")


def test_coordinate_codec_round_trip_and_mirror():
    codec = CoordinateCodec((64, 96))
    points = np.random.default_rng(0).uniform(0, 60, (5, 14, 2)).astype(np.float32)
    xy, scores = codec.decode(codec.encode(points))
    np.testing.assert_allclose(xy, points, atol=1e-4)
    assert (scores == 1).all()
    mirrored = points[:, list(LSP14.flip_indices)] * (-1, 1) + (63, 0)
    np.testing.assert_allclose(
        codec.mirror(codec.encode(mirrored), LSP14.flip_indices), codec.encode(points), atol=1e-6
    )
    marked = codec.targets(points, np.array([0] + [2] * 13))
    assert (marked[:, :2] < -50).all()
    assert (marked[:, 2:] > -1).all()


def test_poses_to_and_from_coco():
    rng = np.random.default_rng(1)
    poses = Poses(rng.uniform(0, 99, (2, 17, 2)), rng.random((2, 17)), COCO17, boxes=rng.uniform(1, 50, (2, 4)))
    again = Poses.from_coco(poses.to_coco(7), COCO17)
    np.testing.assert_allclose(again.keypoints, poses.keypoints, atol=1e-3)
    np.testing.assert_allclose(again.person_scores, poses.person_scores, atol=1e-4)
    np.testing.assert_allclose(again.boxes, poses.boxes, atol=1e-2)
    assert len(Poses.from_coco([], COCO17)) == 0
    with pytest.raises(ValueError, match="expected 51 numbers"):
        Poses.from_coco([{"keypoints": [1, 2, 3]}], COCO17)


def test_poses_select_people():
    poses = Poses(np.zeros((3, 14, 2)), np.arange(42).reshape(3, 14), LSP14, ids=np.array([4, 5, 6]))
    assert poses[1].ids.tolist() == [5]
    assert poses[-1].ids.tolist() == [6]
    assert poses[np.array([True, False, True])].ids.tolist() == [4, 6]
    with pytest.raises(IndexError):
        poses[3]
    with pytest.raises(ValueError, match=r"expected keypoints \(N, 14, 2\)"):
        Poses(np.zeros((3, 17, 2)), np.zeros((3, 17)), LSP14)


def test_drawing_hides_weak_joints_and_keeps_the_original():
    image = np.zeros((100, 100, 3), np.uint8)
    points = np.full((1, 14, 2), 20.0)
    points[0, LSP14.index("left_wrist")] = 70, 70
    scores = np.zeros((1, 14))
    assert not draw(image, Poses(points, scores, LSP14)).any()
    scores[0, LSP14.index("left_wrist")] = 0.9
    drawn = draw(image, Poses(points, scores, LSP14))
    assert drawn[70, 70].tolist() == list(LEFT)
    assert not image.any()


def test_drawing_survives_points_far_outside():
    draw(np.zeros((20, 20, 3), np.uint8), Poses(np.full((1, 14, 2), 1e12), np.ones((1, 14)), LSP14))


def test_load_tells_what_is_wrong(tmp_path):
    with pytest.raises(KeyError, match="did you mean"):
        posezoo.load("mobilenet_split_225")
    with pytest.raises(ValueError, match="unknown runtime 'caffe'"):
        posezoo.load("mobilenet_split_224", runtime="caffe")
    with pytest.raises(WeightsError, match="no onnx file is released for 'mobilenet_split_224'"):
        posezoo.load("mobilenet_split_224", runtime="onnx")
    with pytest.raises(WeightsError, match="make them with: python recipes/train_mobilenet_split.py"):
        posezoo.load("mobilenet_split_035_160")
    with pytest.raises(ValueError, match="is a file for runtime 'tflite'"):
        posezoo.load("mobilenet_split_224", weights="mine.tflite", runtime="keras")


def test_own_tflite_file_loads(tiny_int8, tmp_path, monkeypatch):
    path = Path(tmp_path / "mine.tflite")
    path.write_bytes(tiny_int8)
    card = read_card("mobilenet_split_035_160")
    small = replace(card, input=replace(card.input, shape=(64, 64, 3)))
    monkeypatch.setattr("posezoo.zoo.read_card", lambda name: small)
    pose = posezoo.load("mobilenet_split_035_160", weights=str(path))
    assert pose(np.zeros((80, 80, 3), np.uint8)).keypoints.shape == (1, 14, 2)
    with pytest.raises(AttributeError, match="runtime 'tflite' has no Keras network"):
        pose.network  # noqa: B018


def test_affine_of_the_box_is_inverted_exactly(model):
    from posezoo.geometry import box_to_crop, crop_matrix, invert

    centre, size = box_to_crop([3, 5, 70, 110], enlarge=1.25)
    matrix = crop_matrix(centre, size, (192, 192), rotation_deg=20, flip=True)
    points = np.random.default_rng(0).uniform(0, 100, (9, 2))
    np.testing.assert_allclose(apply(invert(matrix), apply(matrix, points)), points, atol=1e-9)


def test_nobody_gives_no_coco_results():
    assert Poses.empty(COCO17).to_coco(1) == []


def test_released_weights_bring_their_own_input_size(tmp_path, monkeypatch):
    pytest.importorskip("keras")
    card = read_card("mobilenet_split_050_192")
    smaller = replace(card, released={"input_px": 96}, person_threshold=0.4)
    monkeypatch.setattr("posezoo.zoo.read_card", lambda name: smaller)
    pose = posezoo.load(card.name, runtime="keras")
    assert pose.card.input.shape == released_card(card.name).input.shape == (96, 96, 3)
    assert pose.network.input_shape == (None, 96, 96, 3)
    assert pose.card.person_threshold == 0.4
    # What is told wins over the card, and one's own weights are of the paper's network.
    assert posezoo.load(card.name, runtime="keras", build={"input_px": 64}).network.input_shape[1] == 64
    pose.network.save_weights(tmp_path / "mine.weights.h5")
    own = posezoo.load(card.name, weights=str(tmp_path / "mine.weights.h5"))
    assert own.card.input.shape == own.network.input_shape[1:] == card.input.shape
    assert own.card.person_threshold == 0, "how sure released weights are says nothing about one's own"
