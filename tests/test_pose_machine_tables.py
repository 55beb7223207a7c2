"""Tables of the pose machines' paper, and the benchmark of the released ones, without any network."""

from __future__ import annotations

import numpy as np
import pytest
from scripts import script

pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("cv2", minversion="5")

from posezoo.cards import read_card  # noqa: E402
from posezoo.codecs import make_codec  # noqa: E402
from posezoo.data.depth_scenes import DepthFrame  # noqa: E402
from posezoo.evaluation.pose_machines import Labelled, overlapping  # noqa: E402
from posezoo.inference.poses import Poses  # noqa: E402
from posezoo.skeletons import DEPTH17  # noqa: E402

tables = script("recipes/pose_machine_tables.py")


def test_rows_take_what_is_given_and_say_what_is_not_trained():
    rows = {
        row.label: row for row in tables.rows_of("V", "MPM-2S stagewise=mpm_2s:a/b.weights.h5; teacher=mpm_4s:t.h5")
    }
    assert rows["MPM-2S stagewise"].weights == "a/b.weights.h5"
    assert (rows["teacher"].model, rows["teacher"].weights) == ("mpm_4s", "t.h5")
    assert rows["MPM-1S alone"].weights is None
    assert len(tables.rows_of("II", "")) == 10
    assert [row.label for row in tables.rows_of("I", "")][:3] == ["rpm_1s", "rpm_2s", "rpm_3s"]


@pytest.mark.parametrize("table, rows, message", [
    ("VI", "", "--table VI: expected one of I, II, III, IV, V"),
    ("V", "MPM-9S=mpm_1s:x.h5", "table V has no row 'MPM-9S'; it has teacher"),
    ("V", "teacher=mpm_4s", "expected LABEL=NAME:WEIGHTS"),
])  # fmt: skip
def test_wrong_rows_are_told(table, rows, message):
    with pytest.raises(SystemExit, match=message):
        tables.rows_of(table, rows)


def picture(*boxes) -> Labelled:
    return Labelled(Poses.empty(DEPTH17), np.zeros((len(boxes), 17, 3)), np.array(boxes, np.float32).reshape(-1, 4))


def test_overlapping_people():
    apart, touching, nobody = (
        picture((0, 0, 10, 10), (20, 0, 10, 10)),
        picture((0, 0, 10, 10), (7, 0, 10, 10)),
        picture(),
    )
    # 3 x 10 shared of 170: 0.18
    assert overlapping([apart, touching, nobody]) == [touching]
    assert overlapping([touching], least=0.2) == []


class Oracle:
    """Finds exactly what is labelled."""

    card = read_card("mpm_1s")

    def __init__(self, frames):
        self.answers = {id(frame.depth): frame for frame in frames}

    def __call__(self, depth):
        known = self.answers[id(depth)].keypoints
        return Poses(known[..., :2], (known[..., 2] > 0).astype(np.float32), DEPTH17)


def test_benchmark_gives_an_oracle_full_marks_and_writes_the_table():
    benchmark = script("benchmarks/pose_machines.py")
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(3):
        keypoints = np.dstack([rng.uniform(5, 50, (2, 17, 2)), np.full((2, 17, 1), 2.0)])
        frames.append(DepthFrame(np.ones((60, 80), np.float32), keypoints, np.tile([[0.0, 0, 60, 60]], (2, 1))))
    row = benchmark.measure(Oracle(frames), frames, "oracle")
    assert row["all_f"] == row["upper_f"] == 1.0
    assert row["frames"] == 3
    assert len(benchmark.evenly(frames, 2)) == 2
    text = benchmark.markdown({
        "rows": [{"model": "mpm_1s", "precision": "int8", "dataset": "synth", **row}], "protocol": benchmark.SETS,
        "command": "python x", "environment": script("benchmarks/report.py").environment(),
    })  # fmt: skip
    assert "| `mpm_1s` | int8 | synth | 1.000 |" in text


def test_speed_decodes_the_people_that_it_draws():
    speed = script("benchmarks/efficienthrnet_speed.py")
    for name in ("mpm_1s", "efficienthrnet_lite_h-4", "hourglass_2s"):
        card = read_card(name)
        codec = make_codec(input_wh=card.input.wh, **card.codec)
        outputs = speed.drawn_outputs(card, codec)
        if not codec.bottom_up:
            assert outputs is None
            continue
        keypoints, *_ = codec.decode(codec.merge(outputs), card.skeleton)
        assert len(keypoints) >= speed.PEOPLE
