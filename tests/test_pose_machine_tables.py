"""Tables of the pose machines' paper, and the benchmark of the released ones, without any network."""

from __future__ import annotations

import numpy as np
import pytest
from scripts import script

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("cv2", minversion="5")

from posezoo import build  # noqa: E402
from posezoo.cards import read_card  # noqa: E402
from posezoo.codecs import make_codec  # noqa: E402
from posezoo.data.depth_scenes import DepthFrame  # noqa: E402
from posezoo.data.sample import KeypointSet  # noqa: E402
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
    # 3 x 10 shared of 170: 0.18; the paper's pictures share 12 to 15 %
    assert overlapping([apart, touching, nobody], most=1.0) == [touching]
    assert overlapping([touching], least=0.2, most=1.0) == overlapping([touching]) == []
    little = picture((0, 0, 10, 10), (7.6, 0, 10, 10))  # 24 of 176: 0.136
    assert overlapping([apart, touching, little]) == [little]
    # One pair within the bounds, another beyond: such a picture is not among them.
    assert overlapping([picture((0, 0, 10, 10), (7.6, 0, 10, 10), (9, 0, 10, 10))]) == []


class TwoPeople:
    """Three frames of two people on nothing, as boxes of depth."""

    name, skeleton = "two people", DEPTH17

    def __len__(self):
        return 3

    def __getitem__(self, index):
        depth, keypoints = np.zeros((96, 128), np.float32), np.full((2, 17, 3), 2, np.float32)
        for person, left in enumerate((20, 60)):
            depth[10:80, left : left + 30] = 2 + index
            keypoints[person, :, :2] = np.random.default_rng(person).uniform((left, 10), (left + 30, 80), (17, 2))
        return DepthFrame(depth, keypoints, np.array([[20, 10, 30, 70], [60, 10, 30, 70]], np.float32), complete=True)


def test_a_table_is_measured_from_frames_to_cells(tmp_path, monkeypatch):
    """Weights made here: of table I's rows the given one and the released ones have numbers."""
    monkeypatch.setattr(tables, "RUNS", 1)
    monkeypatch.setitem(
        tables.TABLES, "I", {name: tables.TABLES["I"][name] for name in ("mpm_1s", "mpm_3s", tables.WIDE)}
    )
    keras.utils.set_random_seed(0)
    weights = tmp_path / "mine.weights.h5"
    build("mpm_3s", input_px=96).save_weights(weights)
    cfg = script("recipes/depth_recipes.py").DepthConfig(table="I", rows=f"mpm_3s=mpm_3s:{weights}", batch=2)
    lines = tables.report(cfg, TwoPeople(), {"input_px": 96}).splitlines()
    table = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = {cells[0]: cells[1:] for cells in table}
    assert rows[""][:5] == ["network", "parameters", "GMACs", "int8 ms", "float ms"]
    assert rows["mpm_1s"][1:3] == ["99,890", "0.59"] and rows["mpm_1s"][3].endswith("(LiteRT)")
    assert rows["mpm_3s"][3] == "not measured" and rows["mpm_3s"][4].endswith("(Keras)")
    assert rows[tables.WIDE][:6] == ["rpm_2s", "10,532,068", "43.70", "not measured", "not measured", "not trained"]
    for row in ("mpm_1s", "mpm_3s"):
        assert all(0 <= float(cell) <= 1 for cell in rows[row][5:])
    assert "1 runs" in lines[-1]


def test_measured_frames_carry_their_own_boxes():
    """Half of the frames, a network that sees nothing: the labels and boxes at its size."""
    cfg = script("recipes/depth_recipes.py").DepthConfig(val_frames=2, batch=2)
    network = build("mpm_1s", input_px=128)
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    pictures = tables.measured(cfg, tables.Row("mpm_1s", "mpm_1s", None), network, TwoPeople())
    assert len(pictures) == 2 and len(pictures[0].found) == 0
    np.testing.assert_allclose(pictures[0].boxes, [[20, 26, 30, 70], [60, 26, 30, 70]], atol=1e-4)


def test_shares_of_the_training_frames_are_spread_evenly():
    recipes = script("recipes/depth_recipes.py")
    people = KeypointSet("eight", DEPTH17, records=list(range(8)))
    assert recipes.some(recipes.DepthConfig(share=0.5), people).records == [0, 2, 4, 6]
    assert len(recipes.some(recipes.DepthConfig(), people)) == 8
    with pytest.raises(SystemExit, match="--share 25.0: expected a share above 0, up to 1"):
        recipes.some(recipes.DepthConfig(share=25.0), people)


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


def test_seeds_are_measured_one_by_one_and_told_as_mean_and_spread(tmp_path, monkeypatch, capsys):
    benchmark = script("benchmarks/distillation.py")
    frame = DepthFrame(np.full((60, 80), 3, np.float32), np.full((1, 17, 3), 2.0), np.array([[0.0, 0, 60, 60]]))
    monkeypatch.setattr(benchmark, "rendered", lambda shared: [frame])
    network = build("mpm_1s", input_px=(64, 96))
    for name in "ab":
        network.save_weights(tmp_path / f"{name}.weights.h5")
    files = [str(tmp_path / f"{name}.weights.h5") for name in "ab"]
    flags = ["--model", "mpm_1s", "--input-px", "64x96", "--out", str(tmp_path)]
    record = benchmark.main([*flags, "--row", "alone", *files, "--row", "taught", files[0]])
    assert [(row["label"], len(row["seeds"])) for row in record["rows"]] == [("alone", 2), ("taught", 1)]
    assert "| alone | 2 | " in (tmp_path / "distillation.md").read_text()
    told = benchmark.spread([dict.fromkeys(benchmark.SCORES, value) for value in (0.1, 0.3)])["all_f"]
    assert told == {"mean": 0.2, "spread": pytest.approx(0.1414, abs=1e-4)}
    with pytest.raises(SystemExit, match="at least one file of weights"):
        benchmark.main([*flags, "--row", "alone"])


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
