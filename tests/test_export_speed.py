"""The benchmark of exported files, on the tiny network."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("onnxruntime")

import posezoo  # noqa: E402


@pytest.fixture
def benchmark(monkeypatch, tiny_job):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    module = importlib.import_module("export_speed")
    monkeypatch.setattr(module, "job_of", lambda name: tiny_job)
    monkeypatch.setattr(module, "released_card", lambda name: tiny_job.card)
    monkeypatch.setattr(posezoo, "list_models", lambda **options: ["tiny"])
    return module


def test_float_and_int8_side_by_side(benchmark, tmp_path, capsys):
    record = benchmark.main([
        "--models", "tiny", "--targets", "tflite_float32", "tflite", "tflite_float16", "--runs", "4", "--folder",
        str(tmp_path / "made"), "--out", str(tmp_path),
    ])  # fmt: skip
    rows = {row["target"]: row for row in record["rows"]}
    assert rows["tflite"]["bytes"] < rows["tflite_float32"]["bytes"]
    assert rows["tflite"]["of_float"] == pytest.approx(rows["tflite"]["ms"] / rows["tflite_float32"]["ms"], rel=0.05)
    assert rows["tflite_float16"]["of_float"] is None
    assert all(row["made_in_s"] > 0 and row["ms"] > 0 for row in rows.values())
    page = (tmp_path / "export_speed.md").read_text()
    assert "| tiny | TFLite int8 | LiteRT |" in page
    assert json.loads((tmp_path / "export_speed.json").read_text()) == record
    # Files are there: a second run makes none.
    benchmark.main([
        "--models", "tiny", "--targets", "tflite", "--runs", "1", "--folder", str(tmp_path / "made"), "--out",
        str(tmp_path),
    ])  # fmt: skip
    assert "kept      tflite" in capsys.readouterr().out


def test_targets_that_are_not_written_are_told(benchmark, tmp_path, monkeypatch):
    from posezoo.export.foreign import MissingToolError
    from posezoo.export.targets import Target

    def missing(self, job, out):
        raise MissingToolError("no such tool")

    monkeypatch.setattr(Target, "make", missing)
    benchmark.main(["--models", "tiny", "--targets", "tflite", "--runs", "1", "--out", str(tmp_path)])
    assert "- tiny, tflite: left out, no such tool" in (tmp_path / "export_speed.md").read_text()


def test_unknown_model_is_told(benchmark):
    with pytest.raises(SystemExit, match="no model is called tyni"):
        benchmark.main(["--models", "tyni"])
