"""The released depth models find rendered people, in Keras and in int8 without it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2", minversion="5")
pytest.importorskip("ai_edge_litert")

import posezoo  # noqa: E402
from posezoo import cli  # noqa: E402
from posezoo.evaluation.pose_machines import Labelled, score_landmarks  # noqa: E402
from posezoo.synth.crowd import body_source  # noqa: E402
from posezoo.synth.scene import Recipe, SceneSettings, make_sample  # noqa: E402

RELEASED = [n for n in posezoo.list_models(released=True) if posezoo.info(n).family == "pose_machines"]


@pytest.fixture(scope="module")
def frames():
    recipe = Recipe(scene=SceneSettings(people=(1, 2), nearest_m=2.0, farthest_m=4.0))
    bodies = body_source(["builtin"])
    return [make_sample(np.random.default_rng((7, i)), bodies, recipe) for i in range(6)]


@pytest.mark.parametrize("name", RELEASED)
def test_int8_file_finds_rendered_people(name, frames):
    model = posezoo.load(name, runtime="tflite")
    found = [Labelled(model(frame.depth), frame.keypoints("depth17"), frame.boxes) for frame in frames]
    assert score_landmarks(found).summary().f_score > 0.5
    assert np.nanmedian(found[0].found.depth) > 1000


@pytest.mark.parametrize("name", RELEASED[:1])
def test_keras_and_int8_find_the_same(name, frames):
    pytest.importorskip("tensorflow")
    models = [posezoo.load(name, runtime=runtime) for runtime in ("keras", "tflite")]
    truth, found = (model(frames[0].depth) for model in models)
    labelled = np.concatenate([truth.keypoints, np.where(truth.scores > 0, 2, 0)[..., None]], axis=-1)
    agreement = score_landmarks([Labelled(found, labelled, truth.boxes)]).summary()
    assert agreement.f_score > 0.8


@pytest.mark.skipif(not RELEASED, reason="no depth model is released")
def test_demo_renders_a_frame_and_finds_somebody(tmp_path, capsys):
    assert cli.main(["demo", "--model", RELEASED[-1], "-o", str(tmp_path)]) == 0
    assert (tmp_path / "depth_frame_poses.png").exists()
    assert "person 1" in capsys.readouterr().out
