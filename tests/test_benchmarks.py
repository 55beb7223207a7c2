"""The benchmark scripts' own parts, and a real detector and a real peer where the shared folder has them."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import accuracy  # noqa: E402
import peers  # noqa: E402
import results  # noqa: E402

import posezoo  # noqa: E402
from posezoo.evaluation.latency import Contender, measure  # noqa: E402
from posezoo.skeletons import COCO17  # noqa: E402


def peer(name: str) -> Path:
    if name not in peers.peer_files():
        pytest.skip(f"no {name} in the shared peers")
    return peers.peer_files()[name]


def test_markdown_table():
    assert results.markdown_table(("a", "b"), [(1, "x")]) == "| a | b |\n|---|---|\n| 1 | x |\n"


def test_measure_runs_in_turns_and_times_apart():
    calls = []
    timings = measure(
        {
            "one": Contender(lambda: calls.append("one")),
            "two": Contender(lambda: calls.append("two"), lambda raw: None),
        },
        runs=3, warm_up=1,
    )  # fmt: skip
    assert calls == ["one", "two"] * 4
    assert timings["one"].decode_ms is None
    assert timings["two"].decode_ms >= 0
    assert timings["two"].runs == 3


def test_movenet_mirror_is_undone():
    rng = np.random.default_rng(0)
    poses = rng.random((2, 17, 3))
    mirrored = poses[:, list(COCO17.flip_indices)].copy()
    mirrored[..., 1] = 1 - mirrored[..., 1]
    np.testing.assert_allclose(peers.MoveNet.mirror(None, mirrored, COCO17.flip_indices), poses)


def test_detector_keeps_people_only():
    detector = peers.SsdPersonDetector.__new__(peers.SsdPersonDetector)
    detector.min_score = 0.5
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1], [-0.1, 0.5, 1.2, 0.9]])
    found, scores = detector.people(boxes, np.array([0, 7, 0]), np.array([0.9, 0.9, 0.6]), (100, 200, 3))
    np.testing.assert_allclose(found, [[40, 10, 80, 40], [100, 0, 80, 100]])
    assert scores.tolist() == [0.9, 0.6]


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data").astronaut()


def test_real_detector_feeds_a_real_model(astronaut):
    detector = peers.SsdPersonDetector(peer("ssd_mobilenet_v1_coco_300_uint8"))
    boxes, scores = detector(astronaut)
    assert len(boxes) == 1
    x, y, width, height = boxes[0]
    assert x < 220 < x + width
    assert y < 100 < y + height
    assert width > 200
    names = posezoo.list_models(runtime="tflite")
    if not names:
        pytest.skip("no released int8 file")
    people = posezoo.load(names[0], runtime="tflite", detector=detector)(astronaut)
    assert len(people) == 1
    np.testing.assert_allclose(people.boxes, boxes)
    assert people.person_scores[0] <= scores[0]


def test_movenet_finds_the_astronaut(astronaut):
    import cv2

    movenet = peers.MoveNet(peer(peers.MOVENET))
    crop = cv2.resize(astronaut, (192, 192))
    keypoints, scores = movenet.decode(movenet(crop[None])[movenet.output])
    nose = COCO17.index("nose")
    assert scores[0, nose] > 0.3
    assert np.linalg.norm(keypoints[0, nose] - np.array([220, 110]) * 192 / 512) < 12


def test_measurable_people_have_a_torso_and_six_joints(tmp_path):
    from posezoo.data.sample import KeypointSet

    people = KeypointSet("some", COCO17)
    full = np.ones((17, 3), np.float32) * np.arange(1, 18)[:, None]
    full[:, 2] = 2
    no_hip = full.copy()
    no_hip[COCO17.index("right_hip"), 2] = 0
    people.add(tmp_path / "a.jpg", np.stack([full, no_hip]))
    people.add(tmp_path / "b.jpg", no_hip[None])
    kept = accuracy.measurable(people)
    assert [len(r.keypoints) for r in kept.records] == [1]
