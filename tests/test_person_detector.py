"""The person detector: network, training images, losses, recipe, and what users load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripts import script

import posezoo
from posezoo.cards import read_card
from posezoo.codecs import CenterCodec
from posezoo.codecs.center import box_iou
from posezoo.data.augment import Augmentation
from posezoo.data.detection import (
    INCOMPLETE,
    VARIED,
    DetectionExample,
    DetectionImages,
    clip_boxes,
    detection_batch,
    random_view,
    read_person_boxes,
)
from posezoo.errors import UserError
from posezoo.evaluation.detection import detect_in_examples, detect_in_images, detection_ap
from posezoo.geometry import apply
from posezoo.inference.bottom_up import fit
from posezoo.inference.detector import PersonDetector
from posezoo.inference.images import ImageError
from posezoo.weights import WeightsError
from posezoo.zoo import load_detector

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

from posezoo import counts  # noqa: E402
from posezoo.models.person_detector import person_detector  # noqa: E402
from posezoo.training.detection import box_loss, center_loss, detection_losses  # noqa: E402
from posezoo.training.initialise import layers_of, load_backbone  # noqa: E402
from posezoo.training.native_torch import NATIVE  # noqa: E402

# ------------------------------------------------------------------------------------------------ network


@pytest.mark.parametrize(
    ("width", "input_px", "params", "mmacs", "maps"),
    [
        (0.5, 256, 947_525, 250.65, (32, 32)),
        (0.5, 320, 947_525, 391.64, (40, 40)),
        (0.35, 256, 505_573, 153.78, (32, 32)),
        (0.5, (192, 320), 947_525, 234.98, (24, 40)),
    ],
)
def test_counts_and_shapes(width, input_px, params, mmacs, maps):
    network = person_detector(width=width, input_px=input_px)
    assert counts.params(network) == params
    assert counts.macs(network) / 1e6 == pytest.approx(mmacs, abs=0.005)
    shapes = {name: y.shape for name, y in network.output.items()}
    assert shapes == {"centers": (None, *maps, 1), "sizes": (None, *maps, 2), "offsets": (None, *maps, 2)}
    for name in shapes:
        last = network.get_layer(name)
        assert last.compute_dtype == "float32" and last.activation.__name__ == "linear"


def test_sizes_must_be_multiples_of_32():
    with pytest.raises(ValueError, match="multiples of 32, got 100x100"):
        person_detector(input_px=100)


def test_an_untrained_network_expects_few_people():
    network = person_detector(width=0.35, input_px=64)
    logits = keras.ops.convert_to_numpy(network(np.zeros((1, 64, 64, 3), np.float32))["centers"])
    scores = 1 / (1 + np.exp(-logits))
    assert scores == pytest.approx(0.1, abs=0.03)


def test_imagenet_weights_load_by_name():
    imagenet = keras.applications.MobileNet(alpha=0.5, input_shape=(128, 128, 3), weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for layer in imagenet.layers:
        layer.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in layer.get_weights()])
    network = person_detector(width=0.5, input_px=64)
    filled = load_backbone(network, layers_of(imagenet))
    assert len(filled) == 27 * 2  # the stem and 13 pairs of convolutions, each with its batch norm
    kernel = network.get_layer("conv_pw_13").get_weights()[0]
    np.testing.assert_array_equal(kernel, imagenet.get_layer("conv_pw_13").get_weights()[0])


def test_its_cards():
    for px in (256, 320):
        card = read_card(f"person_050_{px}")
        assert card.input.wh == (px, px) and card.family == "person_detector"
        assert CenterCodec(card.input.wh).stride == card.codec["stride"]
    assert posezoo.list_models("person*") == ["person_050_256", "person_050_320"]


def test_torch_has_a_native_form_of_every_layer():
    # That each form computes what Keras does is tested in test_native_torch.py.
    network = person_detector(width=0.35, input_px=(64, 96))
    assert {type(layer).__name__ for layer in network.layers[1:]} <= set(NATIVE)


# ------------------------------------------------------------------------------------------------- losses


def test_the_center_loss_by_hand():
    target = np.array([1.0, 0.5, 0.0]).reshape(1, 1, 3, 1).astype(np.float32)
    logits = np.array([0.4, -0.7, 1.1]).reshape(1, 1, 3, 1).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.ravel()))
    expected = [
        -((1 - p[0]) ** 2) * np.log(p[0]),
        -(0.5**4) * p[1] ** 2 * np.log(1 - p[1]),
        -(p[2] ** 2) * np.log(1 - p[2]),
    ]
    got = keras.ops.convert_to_numpy(center_loss(target, logits))
    assert got.shape == (1, 1, 3)
    assert got.ravel() == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(keras.ops.convert_to_numpy(center_loss(target, logits * 1e4))).all()
    sizes = keras.ops.convert_to_numpy(box_loss(np.array([[[[1.0, 2.0]]]]), np.array([[[[0.5, 4.0]]]])))
    assert sizes == pytest.approx(2.5)


# --------------------------------------------------------------------------------------------------- data


def write_coco(root: Path, images: list[np.ndarray], annotations: list[dict], **entries) -> Path:
    """A COCO folder whose file is all of `train`; `entries` maps an image's name to more of its entry."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    listed = []
    for i, image in enumerate(images):
        cv2.imwrite(str(root / "images" / f"{i}.png"), image[..., ::-1])
        height, width = image.shape[:2]
        listed.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height, **entries.get(f"i{i}", {})})
    numbered = [{"id": 100 + n, "category_id": 1, "iscrowd": 0, **a} for n, a in enumerate(annotations)]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    content = {"images": listed, "annotations": numbered, "categories": categories}
    (root / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(content))
    return root


def blocks(*boxes: tuple, size=(120, 160)) -> np.ndarray:
    """A black image with white boxes in COCO's coordinates, which count from a pixel's corner."""
    image = np.zeros((*size, 3), np.uint8)
    for x, y, width, height in boxes:
        image[y : y + height, x : x + width] = 255
    return image


def test_every_person_is_read(tmp_path):
    annotations = [
        {"image_id": 0, "bbox": [10, 20, 30, 40], "keypoints": [0] * 51, "num_keypoints": 0},
        {"image_id": 0, "bbox": [60, 20, 50, 60], "iscrowd": 1},
        {"image_id": 0, "bbox": [0, 0, 9, 9], "category_id": 2},
        {"image_id": 0, "bbox": [5, 5, 0, 9]},
        {"image_id": 0, "bbox": [5, 5, "x", 9]},
        {"image_id": 2, "bbox": [1, 1, 20, 20]},
        {"image_id": 3, "bbox": [1, 1, 20, 20]},
    ]
    root = write_coco(
        tmp_path, [blocks()] * 4, annotations, i2={"persons_complete": False}, i3={"file_name": "gone.png"}
    )  # fmt: skip
    people = read_person_boxes(root, "train")
    assert [r.path.name for r in people.records] == ["0.png", "1.png"]
    first, empty = people.records
    assert first.boxes.tolist() == [[9.5, 19.5, 30, 40]]
    assert first.ignored.tolist() == [[59.5, 19.5, 50, 60]]
    assert first.annotation_ids == [100] and first.keypoints.shape == (1, 0, 3)
    assert empty.boxes.shape == empty.ignored.shape == (0, 4)
    assert people.problems[INCOMPLETE] == 1
    assert people.problems["no such image"] == 1
    assert people.problems["a box without area, or that is not four numbers"] == 2


def test_categories_without_people_are_told(tmp_path):
    root = write_coco(tmp_path, [blocks()], [])
    path = root / "annotations" / "person_keypoints_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "categories": [{"id": 2, "name": "dog"}]}))
    with pytest.raises(ValueError, match="no category 'person'; it has dog"):
        read_person_boxes(root, "train")
    (root / "images" / "0.png").unlink()
    (root / "images").rmdir()
    path.write_text(json.dumps(content))
    assert len(read_person_boxes(root, "train")) == 0


@pytest.fixture
def one_block(tmp_path):
    """Images of one white block each."""
    boxes = [(20, 30, 40, 60), (90, 10, 30, 100), (5, 70, 120, 40)]
    root = write_coco(
        tmp_path, [blocks(b) for b in boxes], [{"image_id": i, "bbox": list(b)} for i, b in enumerate(boxes)]
    )  # fmt: skip
    return read_person_boxes(root, "train")


def seen(image: np.ndarray) -> np.ndarray:
    """The box of what is white, pixel centres at integers."""
    y, x = np.nonzero(image[..., 0] > 191)
    return np.array([x.min() - 0.5, y.min() - 0.5, np.ptp(x) + 1, np.ptp(y) + 1])


@pytest.mark.parametrize("cache_px", [None, 80])
@pytest.mark.parametrize("input_wh", [(128, 128), (160, 96)])
def test_boxes_follow_the_pixels(one_block, input_wh, cache_px):
    plain = replace(VARIED, colour=0.0, grey=0.0)
    images = DetectionImages(one_block, input_wh, augmentation=plain, seed=3, cache_px=cache_px)
    tried = sides = 0
    for epoch in range(12):
        for index in range(3):
            example = images.crop(index, epoch)
            assert example.image.shape == (*input_wh[::-1], 3) and example.image.dtype == np.uint8
            if len(example.boxes):
                blur = 1.2 * abs(example.matrix[0, 0]) * (160 / cache_px if cache_px else 1) + 1
                assert np.abs(seen(example.image) - example.boxes[0])[:2].max() < blur
                assert example.boxes[0, 2:] == pytest.approx(seen(example.image)[2:], abs=2 * blur)
                tried += 1
                sides += example.matrix[0, 0] < 0
    assert tried > 24
    assert 3 < sides < tried - 3


def test_what_lies_around_the_image_is_grey_whatever_its_colours(one_block):
    small = Augmentation(rotation_deg=0, scale=(0.5, 0.5), translate=0, colour=1.0)
    image = DetectionImages(one_block, (128, 128), augmentation=small).crop(0).image
    assert (image[:30] == 127).all() and (image[64, 64] != 127).any()


def test_examples_depend_on_seed_epoch_and_index_alone(one_block):
    def make(**how):
        return DetectionImages(one_block, (64, 64), augmentation=VARIED, **{"seed": 5, **how})

    images, again = make(), make(cache_bytes=0)
    first = [images.crop(i, 1) for i in range(3)]
    other = [again.crop(i, 1) for i in (2, 1, 0)][::-1]
    assert all((a.image == b.image).all() and (a.boxes == b.boxes).all() for a, b in zip(first, other, strict=True))
    assert (images.crop(0, 2).image != first[0].image).any()
    assert (make(seed=6).crop(0, 1).image != first[0].image).any()


def test_the_view_stays_within_the_image_or_holds_it():
    rng = np.random.default_rng(0)
    scales, mirrored = [], 0
    for _ in range(300):
        matrix = random_view(rng, (640, 480), (256, 256), VARIED)
        scale = abs(matrix[0, 0]) * 640 / 256
        low, high = np.sort(apply(matrix, np.array([[-0.5, -0.5], [639.5, 479.5]])), axis=0)
        for axis, side in ((0, 640), (1, 480)):
            inside = low[axis] >= -0.5 - 1e-6 and high[axis] <= 255.5 + 1e-6
            covers = low[axis] <= -0.5 + 1e-6 and high[axis] >= 255.5 - 1e-6
            assert inside or covers, (axis, side, low, high)
        scales.append(scale)
        mirrored += matrix[0, 0] < 0
    assert 0.5 <= min(scales) < 0.55 and 1.8 < max(scales) <= 2
    assert 100 < mirrored < 200


def test_people_of_whom_little_is_left_and_small_ones_are_ignored(tmp_path):
    boxes = [(0, 0, 100, 100), (96, 0, 8, 30), (0, 110, 3, 4)]
    annotations = [{"image_id": 0, "bbox": list(b)} for b in boxes]
    annotations.append({"image_id": 0, "bbox": [50, 50, 90, 40], "iscrowd": 1})
    people = read_person_boxes(write_coco(tmp_path, [blocks()], annotations), "train")
    # The middle at twice its size: 40 to 120 and 30 to 90 of the image's pixels.
    twice = Augmentation(rotation_deg=0, scale=(2.0, 2.0), translate=0, flip=0)
    example = DetectionImages(people, (160, 120), augmentation=twice).crop(0)
    # Of the first 60 x 70 of 100 x 100 are left, of the second nothing, the third lies outside.
    assert example.boxes == pytest.approx(np.array([[-0.5, -0.5, 120, 120]]), abs=1e-3)
    assert example.ignored == pytest.approx(np.array([[19.5, 39.5, 140, 80]]), abs=1e-3)
    strict = DetectionImages(people, (160, 120), augmentation=twice, min_visible=0.5).crop(0)
    assert len(strict.boxes) == 0
    assert strict.ignored[0] == pytest.approx([-0.5, -0.5, 120, 120], abs=1e-3)
    whole = DetectionImages(people, (160, 120)).crop(0)
    assert len(whole.boxes) == 2
    assert whole.ignored[0] == pytest.approx([-0.5, 109.5, 3, 4], abs=1e-3)


def test_boxes_are_cut_at_the_border():
    boxes, share = clip_boxes(np.array([[-10.5, 0, 20, 10], [90, 90, 40, 40], [200, 0, 5, 5]]), (100, 100))
    assert boxes.tolist() == [[-0.5, 0, 10, 10], [90, 90, 9.5, 9.5], [99.5, 0, 0, 5]]
    assert share == pytest.approx([0.5, 9.5**2 / 1600, 0])
    assert clip_boxes(np.zeros((0, 4)), (9, 9))[0].shape == (0, 4)


def test_images_that_cannot_be_read_are_replaced_and_named(one_block):
    one_block.records[0].path.write_bytes(b"no image")
    images = DetectionImages(one_block, (64, 64))
    assert images.crop(0).index == 1
    assert images.broken == {"0.png": 1}
    one_block.records = one_block.records[:1]
    with pytest.raises(ImageError, match="none of its 1"):
        DetectionImages(one_block, (64, 64)).crop(0)


def test_weights_make_keras_mean_a_mean_over_people():
    codec, rng = CenterCodec((64, 64)), np.random.default_rng(0)
    image, matrix = np.zeros((64, 64, 3), np.uint8), np.eye(2, 3)
    several = np.array([[5.0, 5, 20, 30], [35, 10, 20, 40], [8, 40, 30, 20]])
    examples = [
        DetectionExample(image, several, np.array([[50.0, 50, 10, 10]]), matrix, (64, 64)),
        DetectionExample(image, np.zeros((0, 4)), np.zeros((0, 4)), matrix, (64, 64)),
    ]
    x, y, weights = detection_batch(examples, codec, scale=lambda images: images / np.float32(255))
    assert x.shape == (2, 64, 64, 3)
    assert y["sizes"].shape == (2, 8, 8, 2) and weights["sizes"].shape == (2, 8, 8)
    network = person_detector(width=0.35, input_px=64)
    network.compile("sgd", loss=detection_losses())
    predicted = {name: rng.normal(size=v.shape).astype(np.float32) for name, v in y.items()}
    total = float(network.compute_loss(y=y, y_pred=predicted, sample_weight=weights))
    plain = 0.0
    for example, i in zip(examples, range(2), strict=True):
        for name, (value, weight) in codec.encode(example.boxes, example.ignored).items():
            loss = keras.ops.convert_to_numpy(detection_losses()[name](value[None], predicted[name][i : i + 1]))
            plain += float((loss[0] * weight).sum()) / 3
    assert total == pytest.approx(plain, rel=1e-4)
    nobody = detection_batch(examples[1:], codec, scale=lambda images: images)[2]
    assert nobody["centers"].max() == 64 and nobody["sizes"].max() == 0


# -------------------------------------------------------------------------------------- detector and metric


class Bright:
    """A network that has learnt that what is white is a person."""

    name = "bright"

    def __init__(self, codec: CenterCodec):
        self.codec = codec

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        stacked: dict[str, list] = {name: [] for name in self.codec.outputs}
        for image in images:
            found, labels, stats, _ = cv2.connectedComponentsWithStats((image[..., 0] > 191).astype(np.uint8))
            targets = self.codec.encode(stats[1:found, :4] - (0.5, 0.5, 0, 0))
            peaks = targets["centers"][0].clip(1e-4, 1 - 1e-4)
            stacked["centers"].append(np.log(peaks / (1 - peaks)))
            for name in ("sizes", "offsets"):
                stacked[name].append(targets[name][0])
        return {name: np.stack(values) for name, values in stacked.items()}


@pytest.mark.parametrize("size", [(120, 160), (300, 100), (97, 641)])
def test_boxes_are_told_in_image_pixels(size):
    spec = read_card("person_050_256").input
    height, width = size
    there = np.array([[0, 0, width // 4, height // 2], [width // 2, height // 3, width // 3, height // 2]])
    codec = CenterCodec(spec.wh)
    boxes, scores = PersonDetector(Bright(codec), codec, spec)(blocks(*there, size=size))
    assert boxes.dtype == scores.dtype == np.float32
    order = np.argsort(boxes[:, 0])
    assert np.abs(boxes[order] - (there - (0.5, 0.5, 0, 0))).max() < 2.5 * max(size) / 256 + 0.5
    assert boxes[:, :2].min() >= -0.5
    nothing, none = PersonDetector(Bright(codec), codec, spec)(blocks(size=size))
    assert nothing.shape == (0, 4) and none.shape == (0,)


def test_boxes_end_at_the_image():
    spec = read_card("person_050_256").input
    codec = CenterCodec(spec.wh)

    def everywhere(images):
        return {
            "centers": np.where(np.arange(32)[:, None] % 16 == 0, 5.0, -5.0)[None, :, None] * np.ones((1, 1, 32, 1)),
            "sizes": np.full((1, 32, 32, 2), 9.0), "offsets": np.zeros((1, 32, 32, 2)),
        }  # fmt: skip

    boxes, _ = PersonDetector(everywhere, codec, spec, overlap=1.0)(np.zeros((100, 200, 3), np.uint8))
    assert len(boxes)
    assert boxes == pytest.approx(np.tile([-0.5, -0.5, 200, 100], (len(boxes), 1)), abs=1e-3)
    grey = PersonDetector(everywhere, codec, spec)(np.zeros((100, 200), np.uint8))
    assert len(grey[0]) == 1


def test_thresholds_of_the_detector():
    spec = read_card("person_050_256").input
    codec = CenterCodec(spec.wh, score_threshold=0.4, overlap=0.6)
    assert PersonDetector(Bright(codec), codec, spec).codec == codec
    changed = PersonDetector(Bright(codec), codec, spec, score_threshold=0.1, overlap=0.2).codec
    assert (changed.score_threshold, changed.overlap) == (0.1, 0.2)
    with pytest.raises(ValueError, match="between 0 and 1"):
        PersonDetector(Bright(codec), codec, spec, score_threshold=2)
    with pytest.raises(ValueError, match="the network's is"):
        PersonDetector(Bright(codec), CenterCodec((64, 64)), spec)


def test_it_is_a_detector_of_a_pose_model():
    spec = read_card("person_050_256").input
    codec = CenterCodec(spec.wh)
    if "mobilenet_split_050_192" not in posezoo.list_models(runtime="tflite"):
        pytest.skip("no released mobilenet_split_050_192")
    detector = PersonDetector(Bright(codec), codec, spec)
    pose = posezoo.load("mobilenet_split_050_192", runtime="tflite", threads=1, detector=detector)
    found = pose(blocks((10, 10, 40, 80), (90, 20, 30, 90)))
    assert len(found) == 2 and found.boxes == pytest.approx(detector(blocks((10, 10, 40, 80), (90, 20, 30, 90)))[0])


def test_examples_and_images_score_alike(one_block):
    codec = CenterCodec((256, 256))
    spec = read_card("person_050_256").input
    in_batches = detect_in_examples(Bright(codec), DetectionImages(one_block, spec.wh), codec, batch=2)
    one_by_one = detect_in_images(PersonDetector(Bright(codec), codec, spec), one_block)
    assert len(in_batches) == len(one_by_one) == 3
    for a, b, record in zip(in_batches, one_by_one, one_block.records, strict=True):
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-4)
        assert box_iou(a.boxes, record.boxes)[0, 0] > 0.9
        assert a.labels is record.boxes
    assert detection_ap(in_batches) == 1
    one_block.records[1].path.write_bytes(b"no image")
    assert len(detect_in_examples(Bright(codec), DetectionImages(one_block, spec.wh), codec)) == 2
    assert len(detect_in_images(PersonDetector(Bright(codec), codec, spec), one_block)) == 2


# ---------------------------------------------------------------------------------------------------- zoo


@pytest.mark.skipif(bool(read_card("person_050_256").weights), reason="weights are released")
def test_without_released_weights_the_way_to_them_is_told():
    with pytest.raises(WeightsError) as caught:
        load_detector()
    assert isinstance(caught.value, UserError)
    told = str(caught.value)
    assert "'person_050_256' has no released weights" in told and "\n" not in told
    assert told.endswith("python recipes/train_person_detector.py --model person_050_256")


def test_detectors_and_pose_networks_are_told_apart():
    with pytest.raises(UserError, match="'mobilenet_split_224' is no person detector; expected one of person_050_256"):
        load_detector("mobilenet_split_224")
    with pytest.raises(WeightsError, match="'person_050_256' has no released weights"):
        posezoo.load("person_050_256", runtime="keras")
    with pytest.raises(KeyError, match="did you mean 'person_050_320'"):
        load_detector("person_050_321")


def test_own_weights_load(tmp_path, eager):
    keras.utils.set_random_seed(1)
    path = str(tmp_path / "own.weights.h5")
    person_detector(width=0.35, input_px=64).save_weights(path)
    build = {"width": 0.35, "input_px": (64, 96)}
    detector = load_detector(runtime="keras", weights=path, build=build, score_threshold=0.05)
    assert detector.codec == CenterCodec((96, 64), score_threshold=0.05)
    boxes, scores = detector(np.zeros((80, 90, 3), np.uint8))
    assert len(boxes) == len(scores) > 0
    # As a pose network it has a network, for export, and no poses.
    model = posezoo.load("person_050_256", weights=path, build=build)
    assert model.network.output["centers"].shape == (None, 8, 12, 1)
    with pytest.raises(UserError, match="'person_050_256' finds boxes of people and gives no poses; load it with"):
        model(np.zeros((80, 90, 3), np.uint8))
    with pytest.raises(ValueError, match="is a file for runtime 'keras', not 'tflite'"):
        load_detector(weights=path)


# ------------------------------------------------------------------------------------------------- recipe


def test_smoke_run_of_the_recipe(tmp_path, eager, capsys):
    recipe = script("recipes/train_person_detector.py")
    recipe.main(["--smoke", "--out", str(tmp_path), "--colour", "0.3"])
    assert "best validation recall" in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert [row["epoch"] for row in record["history"]] == [0, 1]
    names = ("loss", "centers_loss", "sizes_loss", "offsets_loss", "val_recall", "val_ap50", "val_threshold")
    assert all(np.isfinite(row[name]) for row in record["history"] for name in names)
    assert list(record["history"][0]).index("val_recall") < list(record["history"][0]).index("val_ap50")
    assert (tmp_path / "best.weights.h5").exists()


def test_the_recipe_learns_from_what_it_writes(tmp_path):
    recipe = script("recipes/train_person_detector.py")
    root = recipe.write_stick_people(tmp_path, count=8, validation=2)
    train, val = (read_person_boxes(root, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    assert sum(len(record.ignored) for record in train.records) == 1
    assert min(record.boxes[:, 3].min() for record in [*train.records, *val.records]) > 80
    for record in val.records:
        image = cv2.imread(str(record.path))
        height, width = image.shape[:2]
        assert (record.boxes[:, :2] >= -0.5).all()
        assert (record.boxes[:, :2] + record.boxes[:, 2:] <= (width - 0.5, height - 0.5)).all()
        matrix = fit((width, height), (width, height))
        np.testing.assert_allclose(matrix, np.eye(2, 3), atol=1e-9)
    with pytest.raises(SystemExit, match="nobody in the validation images is 500 px large"):
        recipe.main(["--data", str(root), "--out", str(tmp_path / "run"), "--min-person-px", "500"])
    with pytest.raises(SystemExit, match="6 images do not fill one batch of 32"):
        recipe.main(["--data", str(root), "--out", str(tmp_path / "run")])
