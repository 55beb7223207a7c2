"""The recipe for quantisation after training, and the scores that recipes hand to the cards."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from posezoo.export.metadata import read_metadata  # noqa: E402

ROOT = Path(__file__).parents[1]


def test_int8_mixed_and_int16_side_by_side_with_the_layers_errors(tmp_path, compressing_recipe, capsys):
    recipe = compressing_recipe("quantize_ptq")
    recipe.main([
        "--smoke", "--model", "mobilenet_split_050_192", "--out", str(tmp_path), "--keep-worst", "2", "--keep-float",
        "up", "--int16",
    ])  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["scores"]) == ["float32", "int8", "int8-mixed", "int16x8"]
    errors = report["layers"]
    assert report["kept_float"] == list(dict.fromkeys(["up", errors[0]["layer"], errors[1]["layer"]]))
    assert errors[0]["steps"] >= errors[-1]["steps"]
    for row, ending in zip(report["rows"][1:], ("int8", "int8_mixed", "int16x8")):
        path = tmp_path / f"mobilenet_split_050_192_{ending}.tflite"
        assert row["bytes"] == path.stat().st_size
        assert read_metadata(path.read_bytes())["posezoo"]["model"] == "mobilenet_split_050_192"
        assert (tmp_path / f"{path.name}.json").exists()
    levels = report["quantisation"]["int8"]["outputs"][0]
    assert (levels["output"], levels["of"]) == ("heatmaps", 256)
    told = capsys.readouterr().out
    assert "error, levels" in told
    assert "of 256 levels used" in told
    assert "to float" in told


def test_float_weights_that_are_missing_are_told(compressing_recipe):
    recipe = compressing_recipe("quantize_ptq")
    with pytest.raises(SystemExit, match="has no released weights; give --weights, from: python recipes/train_"):
        recipe.main(["--model", "mobilenet_split_050_192"])


# ------------------------------------------------------------------------------------------------- cards


@pytest.fixture
def compressing(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    return importlib.import_module("compressing")


def report_of(model: str, **values: float) -> dict:
    return {
        "model": model, "dataset": "lspet", "metric": "PCK@0.2", "people": 500, "protocol": "crops", "command": "run",
        "date": "2026-11-21", "rows": [{"precision": k.replace("_", "-"), "value": v} for k, v in values.items()],
    }  # fmt: skip


def test_recorded_rows_replace_those_of_the_same_form(compressing, tmp_path):
    file = tmp_path / "compression.json"
    compressing.record(file, report_of("a", float32=0.6, int8=0.5, int8_qat=0.55))
    compressing.record(file, report_of("b", float32=0.7, int8=0.6))
    compressing.record(file, report_of("a", float32=0.6, int8_qat=0.59))
    rows = {(r["model"], r["precision"]): r["value"] for r in json.loads(file.read_text())["rows"]}
    assert rows == {
        ("a", "float32"): 0.6, ("a", "int8"): 0.5, ("a", "int8-qat"): 0.59, ("b", "float32"): 0.7, ("b", "int8"): 0.6,
    }  # fmt: skip


def test_commands_tell_what_is_not_default_and_no_folders_of_this_machine(compressing):
    cfg = compressing.CompressConfig(data=Path("/somewhere/lspet"), out=Path("/tmp/x"), calibration=50, seed=2)
    told = compressing.command_of(cfg, "quantize_ptq.py")
    assert told == "python recipes/quantize_ptq.py --seed 2 --data lspet --calibration 50"


def test_cards_take_recorded_rows(tmp_path, monkeypatch, compressing):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    make_cards = importlib.import_module("make_cards")
    monkeypatch.setattr(make_cards, "RESULTS", tmp_path)
    row = {"precision": "float32", "dataset": "lspet", "metric": "PCK", "value": 0.58, "people": 500, "flip": False}
    measured = {"command": "bench", "rows": [{**row, "model": "mobilenet_split_224", "protocol": "boxes given"}]}
    (tmp_path / "accuracy.json").write_text(json.dumps(measured))
    assert [r["value"] for r in make_cards.accuracy_of("mobilenet_split_224")] == [0.58, None]
    report = report_of("mobilenet_split_224", float32=0.6, int8=0.58, int8_qat=0.595, int8_pruned_qat=0.57)
    compressing.record(tmp_path / "compression.json", report)
    rows = make_cards.accuracy_of("mobilenet_split_224")
    assert [(r["precision"], r["value"]) for r in rows] == [
        ("float32", 0.58), ("int8-ptq", 0.58), ("int8-pruned-qat", 0.57), ("int8-qat", 0.595),
    ]  # fmt: skip
    assert rows[-1]["protocol"] == "crops; float32 there 0.600"
    assert rows[-1]["command"] == "run"
    assert make_cards.accuracy_of("mpm_1s") == []
