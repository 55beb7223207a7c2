"""Whole pictures through a bottom-up network: sizes, places, the mirrored and the multi-scale test."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from posezoo.cards import read_card
from posezoo.codecs import AssociativeEmbeddingCodec
from posezoo.data.sample import KeypointSet
from posezoo.data.scenes import whole_scenes
from posezoo.evaluation.bottom_up import find_in_whole, finding_everybody, score_scenes
from posezoo.geometry import apply
from posezoo.inference.bottom_up import find_people, fit, sizes_at
from posezoo.inference.estimator import PoseModel
from posezoo.skeletons import COCO17

PICTURE = (300, 200)  # width, height


def people_in_picture() -> np.ndarray:
    """Three people in picture pixels, `(3, 17, 3)`."""
    rng = np.random.default_rng(4)
    people = np.full((3, 17, 3), 2, np.float32)
    for i, x in enumerate((40, 150, 250)):
        people[i, :, :2] = (x, 100) + rng.uniform(-1, 1, (17, 2)) * (35, 80)
    return people


class Oracle:
    """A runner that draws the maps a perfect network would give, for a picture whose people it knows.

    Mirrored pictures are told by a mark in the picture's left upper corner.
    """

    name = "oracle"

    def __init__(self, codec, people):
        self.codec, self.people, self.seen = codec, people, []

    def __call__(self, images):
        height, width = images.shape[1:3]
        self.seen.append((width, height))
        matrix = fit(PICTURE, (width, height))
        people = self.people.copy()
        people[..., :2] = apply(matrix, people[..., :2])
        corner = apply(matrix, np.array([3.0, 3.0])).round().astype(int)
        if images[0, corner[1], corner[0], 0] < 128:
            people[..., 0] = width - 1 - people[..., 0]
            people = people[:, list(COCO17.flip_indices)]
        codec = replace(self.codec, input_wh=(width, height))
        targets = codec.targets(people)
        tags = np.zeros_like(targets["heatmaps_low"])
        for i, person in enumerate(targets["tags"][:3]):
            for k, (x, y, labelled) in enumerate(person.astype(int)):
                if labelled:
                    tags[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3, k] = 2 * i - 1.5
        return {
            "heatmaps": targets["heatmaps"][None],
            "heatmaps_low": targets["heatmaps_low"][None],
            "tags": tags[None],
        }


class AnySize(Oracle):
    def at_size(self, wh):
        return self


def picture() -> np.ndarray:
    image = np.zeros((PICTURE[1], PICTURE[0], 3), np.uint8)
    image[:12, :12] = 255
    return image


def assert_found(keypoints, people, tolerance):
    error = np.linalg.norm(keypoints[:, None] - people[None, ..., :2], axis=-1).mean(axis=-1)
    assert sorted(error.argmin(axis=1)) == [0, 1, 2]
    assert error.min(axis=1).max() < tolerance


@pytest.mark.parametrize("flip", [False, True])
def test_people_are_found_in_picture_pixels(flip):
    codec = AssociativeEmbeddingCodec((192, 192), truncate=False)
    people = people_in_picture()
    oracle = Oracle(codec, people)
    keypoints, scores, _ = find_people(oracle, codec, picture(), COCO17, flip=flip)
    assert oracle.seen == [(192, 192)] * (2 if flip else 1)
    assert len(keypoints) == 3 and (scores > 0.5).all()
    assert_found(keypoints, people, 2.0)


@pytest.mark.parametrize(
    ("scales", "sizes"), [((1,), [(320, 192)]), ((0.5, 1, 1.5), [(192, 128), (384, 256), (576, 384)])]
)
def test_scales_follow_the_short_side(scales, sizes):
    codec = AssociativeEmbeddingCodec((192, 192), truncate=False)
    people = people_in_picture()
    oracle = AnySize(codec, people)
    keypoints, _, _ = find_people(oracle, codec, picture(), COCO17, scales=scales)
    assert oracle.seen == sizes
    assert_found(keypoints, people, 2.0)


def test_short_side_is_rounded_up_to_multiples_of_64():
    assert sizes_at((640, 480), (480, 480), (1,)) == [(704, 512)]
    assert sizes_at((480, 640), (416, 416), (1,)) == [(448, 640)]
    assert sizes_at((1000, 10), (64, 64), (1,)) == [(6400, 64)]
    with pytest.raises(ValueError, match="no multiples of 32"):
        sizes_at((64, 64), (64, 64), (1, 1.1))


def test_a_fixed_input_takes_no_scales():
    codec = AssociativeEmbeddingCodec((192, 192))
    with pytest.raises(ValueError, match="runtime 'oracle' has a fixed input"):
        find_people(Oracle(codec, people_in_picture()), codec, picture(), COCO17, scales=(1,))
    with pytest.raises(ValueError, match="scales= is empty"):
        find_people(AnySize(codec, people_in_picture()), codec, picture(), COCO17, scales=())


def model(**changes) -> PoseModel:
    card = read_card("efficienthrnet_lite_h-4")
    card = replace(
        card, input=replace(card.input, shape=(192, 192, 3)), codec={**card.codec, "truncate": False}, **changes
    )
    codec = AssociativeEmbeddingCodec((192, 192), truncate=False)
    return PoseModel(card, AnySize(codec, people_in_picture()))


def test_pose_model_gives_everybody_with_boxes():
    people = model()(picture())
    assert len(people) == 3
    truth = people_in_picture()
    for keypoints, box in zip(people.keypoints, people.boxes, strict=True):
        assert box == pytest.approx([*keypoints.min(axis=0), *np.ptp(keypoints, axis=0)], abs=1e-3)
    assert_found(people.keypoints, truth, 2.0)
    strict = model(person_threshold=2.0)
    assert len(strict(picture())) == 0
    assert len(finding_everybody(strict)(picture())) == 3, "evaluation counts people of any score"


def test_whole_pictures_of_a_set_are_scored_at_their_own_size(tmp_path):
    """What validation with scales runs: the same people in the picture's pixels, crowds left out, broken files too."""
    pytest.importorskip("pycocotools")
    import cv2

    crowd = np.zeros((PICTURE[1], PICTURE[0]), bool)
    crowd[:, 205:] = True
    truth = people_in_picture()[:2]
    people = KeypointSet("made", COCO17)
    boxes = np.concatenate([truth[..., :2].min(axis=1), np.ptp(truth[..., :2], axis=1)], axis=-1)
    for name in ("a.png", "broken.png"):
        people.add(tmp_path / name, truth, boxes=boxes, areas=[9000.0, 9000.0], ignore=lambda: crowd)
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = find_in_whole(partial(model(), flip=True, scales=(0.5, 1)), whole_scenes(people), images=1)
    ((scene, poses),) = found
    assert scene.image.shape == (200, 300, 3) and len(poses) == 2  # the third stands in the crowd
    assert score_scenes(found).ap == pytest.approx(1.0)
    ((scene, _),) = find_in_whole(model(), whole_scenes(people))
    assert scene.image.size == 0


def test_boxes_and_scales_where_they_do_not_belong():
    with pytest.raises(ValueError, match="finds the people itself"):
        model()(picture(), boxes=[[0, 0, 10, 10]])


def test_keras_networks_run_at_any_size():
    pytest.importorskip("keras")
    from posezoo.cards.card import InputSpec
    from posezoo.inference.runners import SIZES_KEPT, KerasRunner
    from posezoo.models.efficienthrnet import efficienthrnet

    network = efficienthrnet(-4, input_px=64, lite=True)
    network.compile(loss={"heatmaps": lambda target, predicted: 0.0})  # as while it is trained
    runner = KerasRunner(network, InputSpec((64, 64, 3), (127.0,) * 3, (128.0,) * 3))
    larger = runner.at_size((96, 64))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    outputs = larger(image)
    assert outputs["heatmaps"].shape == (1, 32, 48, 17)
    assert runner.at_size((96, 64)) is larger and runner.at_size((64, 64)) is runner
    twin = efficienthrnet(-4, input_px=(64, 96), lite=True)
    twin.set_weights(network.get_weights())
    expected = twin.predict_on_batch((image.astype("f4") - 127) / 128)["heatmaps"]
    np.testing.assert_allclose(outputs["heatmaps"], expected, atol=1e-5)
    assert SIZES_KEPT >= 3
