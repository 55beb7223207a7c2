"""Data sets: the same for any number of workers, whole after a kill, read back as written."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from capsule_person import NAMES, capsule_person

from posezoo import cli
from posezoo.synth.scene import Recipe, SceneSettings
from posezoo.synth.write import MOST_LEVELS, DatasetError, Job, SynthShards, pack, read_tfrecord, unpack, write_dataset

pytestmark = pytest.mark.skipif(not hasattr(cv2, "triangleRasterize"), reason="needs OpenCV 5 (posezoo[synth])")

TESTS = Path(__file__).parent
SMALL = Recipe(width=64, height=48)
FIELDS = ("depth", "parts", "people", "landmarks_px", "landmarks_mm", "visibility", "boxes", "rotation", "position")


def job(images=10, **more) -> Job:
    return Job(capsule_person, images, **{"shard_size": 4, "recipe": SMALL, "seed": 7, **more})


def assert_same(one, other):
    for name in FIELDS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.meta == other.meta and one.intrinsics == other.intrinsics and one.names == other.names


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    assert write_dataset(out, job()) == 10
    return out


def test_what_is_written_is_read_back(dataset):
    shards = SynthShards(dataset)
    assert len(shards) == 10 and shards.complete and shards.about["seed"] == 7
    for number in (0, 3, 4, 9):
        assert_same(shards[number], job().sample(number))
    assert [s.meta["index"] for s in shards] == list(range(10))
    assert shards[-1].meta["index"] == 9 and len(shards[2:5]) == 3
    with pytest.raises(IndexError):
        shards[10]


@pytest.mark.parametrize("sensor", ["kinect1", "kinect2"])
def test_depth_of_few_and_of_many_values_is_kept_exactly(sensor):
    sample = job(1, recipe=Recipe(sensor=sensor)).sample(0)
    assert (len(np.unique(sample.depth)) <= MOST_LEVELS) == (sensor == "kinect1")
    plain, ranked = pack([sample], ranked=False), pack([sample])
    for shard in (plain, ranked):
        again = unpack(shard, 0).depth
        assert again.dtype == np.uint16 and np.array_equal(again, sample.depth)
    if sensor == "kinect1":
        assert len(ranked["depth"]) < 0.75 * len(plain["depth"])


def test_colour_and_amplitude_are_kept(tmp_path):
    rich = job(2, recipe=Recipe(width=64, height=48, rgb=True, amplitude=True))
    write_dataset(tmp_path, rich)
    sample, made = SynthShards(tmp_path)[1], rich.sample(1)
    assert np.array_equal(sample.amplitude, made.amplitude)
    assert np.abs(sample.rgb.astype(int) - made.rgb).mean() < 6


def test_empty_scenes_are_kept():
    nobody = job(2, recipe=Recipe(width=64, height=48, scene=SceneSettings(people=(0, 1))))
    samples = [nobody.sample(i) for i in range(8)]
    assert {len(s.landmarks_px) for s in samples} == {0, 1}
    for sample, again in zip(samples, (unpack(pack(samples), i) for i in range(8))):
        assert np.array_equal(sample.depth, again.depth) and len(sample.landmarks_px) == len(again.landmarks_px)
        assert again.landmarks_px.shape[1:] == (len(NAMES), 2)
    assert unpack(pack(samples[:1] if not len(samples[0].boxes) else samples), 0).depth.shape == (48, 64)


def test_seeds_differ_and_images_do_too(dataset):
    shards = SynthShards(dataset)
    assert len({s.depth.tobytes() for s in shards}) == 10
    assert not np.array_equal(shards[0].depth, job(seed=8).sample(0).depth)


def test_the_number_of_workers_changes_nothing(dataset, tmp_path):
    seen = []

    def progress(rows, total):
        for row in rows:
            seen.append(total)
            yield row

    assert write_dataset(tmp_path, job(), workers=2, progress=progress) == 10
    assert seen == [3, 3, 3]
    for one, other in zip(SynthShards(dataset), SynthShards(tmp_path)):
        assert_same(one, other)


def test_nothing_is_made_twice_and_more_can_be_added(tmp_path):
    assert write_dataset(tmp_path, job(6)) == 6
    before = (tmp_path / "shard-00000.npz").stat().st_mtime_ns
    assert write_dataset(tmp_path, job(6)) == 0
    assert write_dataset(tmp_path, job(9)) == 5, "the shard that was short is made again"
    assert (tmp_path / "shard-00000.npz").stat().st_mtime_ns == before
    assert [s.meta["index"] for s in SynthShards(tmp_path)] == list(range(9))
    with pytest.raises(DatasetError, match="of 9 images, asked for 5"):
        write_dataset(tmp_path, job(5))


def test_damaged_shards_are_made_again_and_named_by_the_reader(tmp_path):
    write_dataset(tmp_path, job(8))
    whole = SynthShards(tmp_path)[1]
    path = tmp_path / "shard-00000.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=r"shard-00000.npz: damaged"):
        SynthShards(tmp_path)[1]
    assert write_dataset(tmp_path, job(8)) == 4
    assert_same(SynthShards(tmp_path)[1], whole)


def test_other_settings_are_refused(dataset, tmp_path):
    with pytest.raises(DatasetError, match="seed: 7 there, 8 here"):
        write_dataset(dataset, job(seed=8))
    with pytest.raises(DatasetError, match="bodies"):
        write_dataset(dataset, job(told={"bodies": ["makehuman"]}))
    with pytest.raises(DatasetError, match=r"no synthetic data set: dataset.json is missing"):
        SynthShards(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(DatasetError, match="format 99"):
        SynthShards(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        SynthShards(tmp_path)


def test_leftovers_of_a_killed_run_go_and_incomplete_sets_can_be_read(tmp_path):
    write_dataset(tmp_path, job(8))
    (tmp_path / ".123.shard-00001.npz").write_bytes(b"half")
    (tmp_path / "shard-00001.npz").unlink()
    half = SynthShards(tmp_path)
    assert len(half) == 4 and not half.complete
    assert write_dataset(tmp_path, job(8)) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".lock", "dataset.json", "shard-00000.npz", "shard-00001.npz",
    ]  # fmt: skip


def test_the_cache_is_bounded_and_not_sent_along(dataset):
    import pickle

    shards = SynthShards(dataset, cache_bytes=1)
    for number in (0, 5, 9, 1):
        assert shards[number].meta["index"] == number
    assert len(shards._cache) == 1
    again = pickle.loads(pickle.dumps(shards))
    assert not again._cache and again[5].meta["index"] == 5


RUN = """
import sys
sys.path.insert(0, {tests!r})
from test_synth_write import job
from posezoo.synth.write import write_dataset
if __name__ == "__main__":
    write_dataset({out!r}, job(60), workers={workers})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_continued_without_loss_or_doubles(tmp_path, workers):
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(RUN.format(tests=str(TESTS), out=str(out), workers=workers))
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    )
    until = time.monotonic() + 60
    while len(list(out.glob("shard-*"))) < 3 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)
    if workers > 1:
        with pytest.raises(DatasetError, match="another run writes to this folder"):
            write_dataset(out, job(60))
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(out.glob("shard-*.npz")))
    assert 3 <= there < 15, "the run was to be killed in its middle"
    # The workers end by themselves when their parent is gone.
    while time.monotonic() < until and _session_lives(process.pid):
        time.sleep(0.05)
    assert not _session_lives(process.pid)
    assert write_dataset(out, job(60)) == 60 - 4 * there
    shards = SynthShards(out)
    assert [s.meta["index"] for s in shards] == list(range(60))
    for number in (0, 17, 59):
        assert_same(shards[number], job(60).sample(number))
    assert len(list(out.iterdir())) == 15 + 2


def _session_lives(session: int) -> bool:
    """Whether a process of a session is left, zombies apart."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, found = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if found == str(session) and state != "Z":
            return True
    return False


def test_tfrecord(tmp_path):
    pytest.importorskip("tensorflow")
    records = job(5, file_format="tfrecord")
    assert write_dataset(tmp_path, records) == 5
    assert write_dataset(tmp_path, records) == 0
    samples = [s for p in sorted(tmp_path.glob("*.tfrecord")) for s in read_tfrecord(p)]
    assert len(samples) == 5
    for number, sample in enumerate(samples):
        made = job().sample(number)
        assert np.array_equal(sample.depth, made.depth) and np.array_equal(sample.people, made.people)
        assert np.allclose(sample.landmarks_px, made.landmarks_px) and sample.names == made.names
    shards = SynthShards(tmp_path)
    assert len(shards) == 5 and shards.complete
    for number in (4, 0):  # by number, as NPZ
        for name in ("depth", "parts", "landmarks_px", "visibility", "boxes"):
            assert np.array_equal(getattr(shards[number], name), getattr(samples[number], name)), name
    first = tmp_path / "shard-00000.tfrecord"
    first.write_bytes(first.read_bytes()[:-9])
    with pytest.raises(DatasetError, match="shard-00000.tfrecord: damaged"):
        SynthShards(tmp_path)[0]


def test_tfrecords_of_empty_scenes(tmp_path):
    pytest.importorskip("tensorflow")
    nobody = Recipe(width=40, height=30, scene=SceneSettings(people=(0, 1)))
    records = Job(capsule_person, 6, seed=1, recipe=nobody, shard_size=3, file_format="tfrecord")
    write_dataset(tmp_path, records)
    counts = [len(sample.boxes) for sample in SynthShards(tmp_path)]
    assert set(counts) == {0, 1} and counts == [len(records.sample(i).boxes) for i in range(6)]


def test_ray(dataset, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs Ray (posezoo[ray])")
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    assert write_dataset(tmp_path, job(), ray=True, workers=2) == 10
    for one, other in zip(SynthShards(dataset), SynthShards(tmp_path)):
        assert_same(one, other)


def test_ray_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Exception, match=r"pip install 'posezoo\[ray\]'"):
        write_dataset(tmp_path, job(), ray=True)


# ------------------------------------------------------------------------------------------------- command


@pytest.fixture
def capsules(monkeypatch):
    from posezoo.synth import crowd

    monkeypatch.setattr(crowd, "body_source", lambda *_: capsule_person)


def run(line: str) -> int:
    return cli.main(["synth", *shlex.split(line)])


def test_command_writes_a_data_set_and_a_preview(capsules, tmp_path, capsys):
    out, sheet = tmp_path / "people", tmp_path / "sheet.png"
    line = f"{out} --images 6 --shard-size 4 --size 64x48 --sensor kinect2 --people 2 --rgb --preview {sheet} --seed 3"
    assert run(line) == 0
    assert "6 picture(s) made, 6 in all" in capsys.readouterr().out
    shards = SynthShards(out)
    assert len(shards) == 6 and shards[0].rgb is not None and shards[0].meta["sensor"] == "kinect2"
    assert cv2.imread(str(sheet)).shape == (3 * 242, 2 * 3 * 322, 3)
    assert run(line) == 0 and "0 picture(s) made" in capsys.readouterr().out


def test_preview_needs_no_folder(capsules, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert run(f"--preview {sheet} --images 3 --size 64x48 --exact --amplitude") == 0
    assert sheet.exists() and "3 picture(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "nothing to do: give OUT"),
        ("out --people 3-1", "--people 3-1: expected 1-4"),
        ("out --size 320*240", "--size 320\\*240: expected 320x240"),
        ("out --size 9000x10", "16 to 4096"),
        ("out --sensor kinect3", "expected one of kinect1"),
        ("out --preview sheet.gif", "ends in .png or .jpg"),
        ("out --workers 0", "expected 1 or more"),
        ("out --images 0", "at least 1"),
        ("out --backgrounds nowhere", "nowhere: no such folder"),
        ("out --drop 2", "a share from 0 to 1"),
        ("out --no-background --backgrounds rooms", "exclude each other"),
        ("out --no-background --inpaint", "with --no-background these are the people"),
        ("out --hands --no-background", "--no-background is for people"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(capsules, tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    assert run(line) == cli.REFUSED
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not list(tmp_path.glob("out/shard*"))


def test_speed_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS.parent / "benchmarks"))
    import synth_speed

    threads = cv2.getNumThreads()
    try:
        record = synth_speed.main(["--quick", "--size", "64x48", "--out", str(tmp_path)])
    finally:
        cv2.setNumThreads(threads)
    assert {s["sensor"] for s in record["samples"]} == {"kinect1", "kinect2", "d435"}
    assert all(r["same_depth"] > 0.999 for r in record["renderers"])
    assert record["hands"]["images_per_s"] > 1 and record["hands"]["kilobytes"] < 45
    assert "images/s" in (tmp_path / "synth_speed.md").read_text()
