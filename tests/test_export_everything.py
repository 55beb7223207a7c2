"""Everything that a model can become: manifest, table, interruptions, second runs."""

import json
import platform
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")

from posezoo.export import everything  # noqa: E402
from posezoo.export.everything import FAILED, KEPT, LEFT_OUT, REFUSED, WRITTEN, export_everything  # noqa: E402
from posezoo.export.frozen import UnsupportedLayerError  # noqa: E402
from posezoo.export.gates import GateError  # noqa: E402
from posezoo.export.job import Made  # noqa: E402
from posezoo.export.targets import TARGETS, Target  # noqa: E402

MADE: list = []


def two_files(job, out, *, text="content"):
    """A target of two files."""
    MADE.append(out.name)
    beside = out.with_name(out.name + ".json")
    for path in (out, beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Made((out, beside), notes=("a note",))


def refused(job, out):
    MADE.append(out.name)
    raise UnsupportedLayerError("layer 'exotic' (Bessel) is not taken")


def failed(job, out):
    raise GateError("output 'heatmaps' on any kernels: PSNR 3.0 dB")


def toolless(job, out):
    MADE.append(out.name)
    raise ImportError("pip install tool")


def interrupted(job, out):
    raise KeyboardInterrupt


def broken(job, out):
    MADE.append(out.name)
    raise ValueError("shapes differ\nin the middle of TensorFlow")


def silent(job, out):
    raise MemoryError


def disk_full(job, out):
    raise OSError(28, "No space left on device")


def target(name, function, **more):
    return Target(name, f"the {name}", f".{name}", f"{__name__}.{function}", **more)


@pytest.fixture(autouse=True)
def nothing_made():
    MADE.clear()


GOOD, NOT_TAKEN, BAD, TOOL = (
    target("good", "two_files"), target("refused", "refused"), target("failed", "failed"), target("tool", "toolless"),
)  # fmt: skip


def statuses(job, folder, targets):
    return [o.status for o in export_everything(job, folder, targets=targets)]


def test_outcomes_manifest_and_table(tiny_job, tmp_path):
    seen = []
    outcomes = export_everything(tiny_job, tmp_path, targets=[GOOD, NOT_TAKEN, BAD, TOOL], say=seen.append)
    assert seen == outcomes
    assert [o.status for o in outcomes] == [WRITTEN, REFUSED, FAILED, LEFT_OUT]
    model = json.loads((tmp_path / "manifest.json").read_text())["models"]["tiny"]
    assert model["trained"] is True
    assert model["versions"]["tensorflow"]
    entry = model["targets"]["good"]
    assert {name: file["bytes"] for name, file in entry["files"].items()} == {"tiny.good": 7, "tiny.good.json": 7}
    assert model["targets"]["refused"]["reason"] == "layer 'exotic' (Bessel) is not taken"
    table = (tmp_path / "exports.md").read_text()
    assert "| the good | tiny.good | 0.00 MB |" in table
    assert "| the refused | refused |" in table
    assert "layer 'exotic'" in table
    assert "PSNR 3.0 dB" in everything.told(outcomes[2])


def test_second_run_redoes_nothing_that_is_valid(tiny_job, tmp_path):
    statuses(tiny_job, tmp_path, [GOOD, NOT_TAKEN, TOOL])
    MADE.clear()
    assert statuses(tiny_job, tmp_path, [GOOD, NOT_TAKEN, TOOL]) == [KEPT, REFUSED, LEFT_OUT]
    assert MADE == ["tiny.tool"]  # the tool may have come


@pytest.mark.parametrize("spoil", ["change", "remove", "remove beside", "options", "weights", "pictures"])
def test_what_is_damaged_or_out_of_date_is_made_again(tiny_job, tmp_path, spoil):
    import dataclasses

    import keras

    job, again = tiny_job, GOOD
    statuses(job, tmp_path, [GOOD])
    MADE.clear()
    if spoil == "change":
        (tmp_path / "tiny.good").write_text("CONTENT")
    elif spoil == "remove":
        (tmp_path / "tiny.good").unlink()
    elif spoil == "remove beside":
        (tmp_path / "tiny.good.json").unlink()
    elif spoil == "options":
        again = target("good", "two_files", options={"text": "other"})
    elif spoil == "weights":
        other = keras.models.clone_model(job.network)
        job = dataclasses.replace(job, network=other)
    else:
        job = dataclasses.replace(job, calibration=job.calibration[:3])
    assert statuses(job, tmp_path, [again]) == [WRITTEN]
    assert MADE == ["tiny.good"]
    assert statuses(job, tmp_path, [again]) == [KEPT]


def test_file_is_made_again_for_the_smallest_change_of_a_moment(tiny_job, tmp_path):
    import dataclasses

    import keras

    network = keras.models.clone_model(tiny_job.network)
    network.set_weights(tiny_job.network.get_weights())
    job = dataclasses.replace(tiny_job, network=network, trained=False)
    statuses(job, tmp_path, [GOOD])
    mean = next(weight for weight in network.non_trainable_weights if weight.name == "moving_mean")
    mean.assign(mean + 1e-6)
    assert statuses(job, tmp_path, [GOOD]) == [WRITTEN]


def test_interrupted_run_goes_on_where_it_stopped(tiny_job, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        export_everything(tiny_job, tmp_path, targets=[GOOD, target("other", "interrupted")])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "exports.md", "manifest.json", "tiny.good", "tiny.good.json",
    ]  # fmt: skip
    MADE.clear()
    assert statuses(tiny_job, tmp_path, [GOOD, target("other", "two_files")]) == [KEPT, WRITTEN]
    assert MADE == ["tiny.other"]


def test_unexpected_error_fails_its_target_alone_and_is_tried_again(tiny_job, tmp_path):
    targets = [target("wrong", "broken"), target("quiet", "silent"), GOOD]
    outcomes = export_everything(tiny_job, tmp_path, targets=targets)
    assert [o.status for o in outcomes] == [FAILED, FAILED, WRITTEN]
    way = "-v instead of --all shows where it came from"
    assert outcomes[0].entry["reason"] == f"ValueError: shapes differ; --to wrong {way}"
    assert outcomes[1].entry["reason"] == f"MemoryError; --to quiet {way}"
    assert "| the wrong | failed |" in (tmp_path / "exports.md").read_text()
    MADE.clear()
    assert statuses(tiny_job, tmp_path, targets) == [FAILED, FAILED, KEPT]
    assert MADE == ["tiny.wrong"]


def test_full_disk_stops_and_leaves_what_is_whole(tiny_job, tmp_path):
    with pytest.raises(OSError, match="No space left"):
        export_everything(tiny_job, tmp_path, targets=[GOOD, target("other", "disk_full")])
    assert list(everything.read_manifest(tmp_path)["models"]["tiny"]["targets"]) == ["good"]


def test_what_a_killed_run_left_of_a_target_is_removed_even_if_it_is_refused_now(tiny_job, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    hidden = tmp_path / f".{gone.pid}@{platform.node()}.tiny.bad"
    (hidden / "new").mkdir(parents=True)
    assert statuses(tiny_job, tmp_path, [target("bad", "refused")]) == [REFUSED]
    assert not hidden.exists()


def test_broken_manifest_is_made_anew(tiny_job, tmp_path):
    (tmp_path / "manifest.json").write_text('{"models": ')
    assert statuses(tiny_job, tmp_path, [GOOD]) == [WRITTEN]
    (tmp_path / "manifest.json").write_text("[]")
    assert statuses(tiny_job, tmp_path, [GOOD]) == [WRITTEN]


def test_missing_environment_and_pictures_leave_out(tiny_job, tmp_path, monkeypatch):
    import dataclasses

    monkeypatch.setenv("POSEZOO_CACHE", str(tmp_path / "cache"))
    (outcome,) = export_everything(tiny_job, tmp_path, targets=[target("x", "two_files", environment="myriad")])
    assert outcome.status == LEFT_OUT
    assert "environments.py myriad" in outcome.entry["reason"]
    job = dataclasses.replace(tiny_job, calibration=())
    (outcome,) = export_everything(job, tmp_path, targets=[target("x", "two_files", int8=True)])
    assert "no calibration pictures" in outcome.entry["reason"]
    assert MADE == []


def test_real_targets_share_a_folder(mixed_job, tmp_path):
    names = ("onnx", "onnx_int8", "openvino_v10", "saved_model", "tensorrt", "tftrt")
    outcomes = export_everything(mixed_job, tmp_path, targets=[TARGETS[name] for name in names])
    assert [o.status for o in outcomes] == [WRITTEN] * len(names), [o.entry.get("reason") for o in outcomes]
    assert "structure only" in (tmp_path / "exports.md").read_text()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert [o.status for o in export_everything(mixed_job, tmp_path, targets=[TARGETS["tftrt"]])] == [KEPT]
    (tmp_path / "tiny_tftrt" / "golden.py").write_text("spoilt")
    assert [o.status for o in export_everything(mixed_job, tmp_path, targets=[TARGETS["tftrt"]])] == [WRITTEN]
