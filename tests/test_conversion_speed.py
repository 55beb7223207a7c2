"""The benchmark of the export command, with a command that does what the test says."""

from __future__ import annotations

import json
import sys

import pytest
from scripts import script

benchmark = script("benchmarks/conversion_speed.py")


def command(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys; words = sys.argv[1:]\n{code}")


def run(tmp_path, *words: str) -> dict:
    pictures = tmp_path / "pictures"
    pictures.mkdir(exist_ok=True)
    return benchmark.main([*words, "--calibration", str(pictures), "--out", str(tmp_path)])


def test_seconds_and_memory_of_processes_of_their_own(tmp_path, monkeypatch):
    grown = bytearray(1_200_000_000)  # this process's own memory does not count
    grown[::4096] = b"x" * len(grown[::4096])
    code = "import time; held = bytearray(300_000_000); held[::4096] = b'x' * len(held[::4096]); time.sleep(0.3)"
    monkeypatch.setattr(benchmark, "POSEZOO", command(code))
    record = run(tmp_path, "--models", "mpm_1s", "--runs", "2")
    (row,) = record["rows"]
    assert len(row["seconds"]) == 2 and min(row["seconds"]) >= 0.3
    assert 0.3 <= row["peak_gb"] < 1.0
    assert "reason" not in row
    page = (tmp_path / "conversion_speed.md").read_text()
    assert "| mpm_1s | 0.59 |" in page and page.rstrip().endswith("| written |")
    assert "`python benchmarks/conversion_speed.py --models mpm_1s`" in page
    assert json.loads((tmp_path / "conversion_speed.json").read_text()) == record


@pytest.mark.parametrize(("model", "structure_only"), [("mpm_1s", False), ("mpm_3s", True)])
def test_the_command_is_a_users_and_its_failure_is_told(tmp_path, monkeypatch, model, structure_only):
    monkeypatch.setattr(benchmark, "POSEZOO", command("print(*words[:6], '--structure-only' in words); sys.exit(3)"))
    (row,) = run(tmp_path, "--models", model, "--runs", "1")["rows"]
    assert row["reason"] == f"export {model} --to tflite --calibration {tmp_path / 'pictures'} {structure_only}"


def test_unknown_model_or_folder_is_told(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no model is called nothing; try: posezoo list"):
        run(tmp_path, "--models", "nothing")
    monkeypatch.setattr(benchmark, "SHARED", tmp_path)
    with pytest.raises(SystemExit, match="lspet.images: no such folder; give one with --calibration"):
        benchmark.main(["--models", "mobilenet_split_224", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="hand25d: give frames of hands with --calibration"):
        benchmark.main(["--models", "hand25d", "--out", str(tmp_path)])
