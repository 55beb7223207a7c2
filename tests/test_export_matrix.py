"""The page of every model and every target, and the full run that fills it."""

import json
import subprocess

import numpy as np
import pytest
from scripts import script

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
pytest.importorskip("openvino")

from posezoo.export.targets import TARGETS  # noqa: E402
from posezoo.zoo import list_models  # noqa: E402

export_matrix = script("tools/export_matrix.py")


def entry(status="written", *, psnr=80.0, px=None, **more):
    moved = px and {"keypoints": 9, "median_px": px, "p95_px": 2 * px, "max_px": 3 * px}
    row = {"output": "heatmaps", "kernels": "any", "psnr_db": psnr, "max_error": 0, "mean_error": 0, "levels": 99}
    gates = [{"outputs": [row], "keypoint_error": moved}] if status == "written" else []
    return {"status": status, "gates": gates, "files": {"x": {"bytes": 2000000, "sha256": "0"}}, "notes": [], **more}


def test_pictures_have_the_size_of_the_released_network(tmp_path, monkeypatch):
    def blank(card, data):
        return [np.zeros((*card.input.wh[::-1], 3), np.float32)] * 2

    monkeypatch.setattr(export_matrix, "real_pictures", blank)
    job = export_matrix.make_job("efficienthrnet_lite_h-4", tmp_path)
    assert job.pictures.shape[1:] == job.network.input_shape[1:] == (256, 256, 3)
    assert job.card.input.wh == (256, 256)


def test_what_tftrt_leaves_is_told():
    some = {
        "targets": {"tftrt": entry(notes=["3 of 4 operations; left to TensorFlow: 'odd' (Where has no converter)"])}
    }
    full = {"targets": {"tftrt": entry(notes=["4 of 4 operations"])}}
    lines = export_matrix.coverage_lines({"hand": some, "face": full})
    assert lines[2].startswith("- `hand`: 3 of 4 operations")
    assert lines[-2].endswith("every operation of the others.")
    assert "every network" in export_matrix.coverage_lines({"face": full})[-2]
    assert export_matrix.coverage_lines({}) == []


RESULTS = {
    "hand": {
        "trained": True, "versions": {"keras": "3", "onnx": None},
        "targets": {
            "onnx": entry(psnr=146.9, px=0.004),
            "myriad": entry(psnr=76.3, notes=["a", "105 hardware stages, 82% of all that work"]),
            "tftrt": entry("refused", reason="layer 'odd'; write it otherwise"),
        },
    },
    "face": {"trained": False, "versions": {}, "targets": {
        "tflite": entry("refused", reason="layer 'odd' is new; write it otherwise"),
        "tftrt": entry("refused", reason="layer 'odd'; write it otherwise"),
    }},
}  # fmt: skip


def test_page_has_a_row_per_model_and_a_column_per_target():
    page = export_matrix.page(RESULTS)
    assert "| model | tflite | onnx | myriad | tftrt |" in page
    assert "| `hand` |  | 147 dB<br>0.00 px | 76 dB | **refused** |" in page
    assert "| `face` * | **refused** |  |  | **refused** |" in page
    told = """
- refused; the way out: write it otherwise
  - `face` for tflite: layer 'odd' is new
  - `face` for tftrt; `hand` for tftrt: layer 'odd'
"""
    assert told in page
    assert "| `hand` | 2.00 MB | 105 hardware stages, 82% of all that work |" in page
    assert "Versions: " in page
    assert "No target refuses" not in page
    assert "Not measured yet: `foot`, `nose`." in export_matrix.page(RESULTS, ["foot", "nose"])


def test_page_says_that_nothing_is_refused_only_when_all_is_measured():
    whole = {name: entry(notes=["a", "9 hardware stages"]) for name in TARGETS}
    full = {"hand": {"trained": True, "versions": {}, "targets": whole}}
    good = "No target refuses a model, and no gate failed."
    page = export_matrix.page(full)
    assert good in page and "Not measured yet" not in page
    one_less = {name: value for name, value in whole.items() if name != "onnx"}
    two = full | {"face": {"trained": True, "versions": {}, "targets": one_less}}
    for page, told in (
        (export_matrix.page({}), ""), (export_matrix.page(full, ["foot"]), "Not measured yet: `foot`."),
        (export_matrix.page(two), "Not measured yet for onnx: `face`."),
        (export_matrix.page({"face": two["face"]}), "Not measured yet for any model: onnx."),
    ):  # fmt: skip
        assert good not in page and told in page


def test_measuring_goes_on_and_writes_the_page(tmp_path, capsys):
    name, folder, out = "mobilenet_split_035_160", tmp_path / "results", tmp_path / "out"
    results = folder / f"{name}.json"
    export_matrix.measure(name, folder, ["saved_model"], out=out, keep=False, shared=tmp_path)
    first = json.loads(results.read_text())
    assert list(first["targets"]) == ["saved_model"]
    assert not list(out.iterdir())
    export_matrix.measure(name, folder, ["saved_model", "onnx"], out=out, keep=True, shared=tmp_path)
    second = json.loads(results.read_text())
    assert second["targets"]["saved_model"] == first["targets"]["saved_model"]
    assert set(second["targets"]) == {"saved_model", "onnx"}
    assert (out / name / f"{name}.onnx").exists()
    export_matrix.forget(folder, [name], ["onnx"])
    assert list(json.loads(results.read_text())["targets"]) == ["saved_model"]
    results.write_text(json.dumps({**second, "weights": "of another network"}))
    export_matrix.measure(name, folder, ["onnx"], out=out, keep=False, shared=tmp_path)
    assert list(json.loads(results.read_text())["targets"]) == ["onnx"]
    results.write_text(json.dumps(second))
    assert export_matrix.main(["--table", "--results", str(folder), "--page", str(tmp_path / "page.md")]) == 0
    assert f"| `{name}` * |" in (tmp_path / "page.md").read_text()
    assert "1 models: {'written': 2, 'refused': 0, 'failed': 0}" in capsys.readouterr().out


def test_every_model_has_a_process_and_one_that_dies_is_told(tmp_path, capsys, monkeypatch):
    commands = []

    def run(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, int("mpm_2s" in command))

    monkeypatch.setattr(subprocess, "run", run)
    arguments = ["--models", "mpm_*", "--results", str(tmp_path / "results"), "--page", str(tmp_path / "page.md")]
    assert export_matrix.main([*arguments, "--targets", "onnx"]) == 1
    expected = sorted(list_models("mpm_*"), key=export_matrix._order)
    assert [c[c.index("--one") + 1] for c in commands] == expected
    assert "ended early, start again to go on: mpm_2s" in capsys.readouterr().err


def gaps(cells: dict[str, set[str]]) -> list[str]:
    """Models, and targets of a model, that are missing in what was measured: model -> targets."""
    empty = {name: set(TARGETS) - cells.get(name, set()) for name in list_models()}
    return [f"{name}: {'nothing' if name not in cells else ', '.join(sorted(left))}" for name, left in empty.items()
            if left]  # fmt: skip


def cells_of(page: str) -> dict[str, set[str]]:
    """Model -> targets whose cells on the page hold something."""
    rows = page[page.index("| model |") :].split("\n\n")[0].splitlines()
    (_, *columns), _, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    return {
        name.split("`")[1]: {column for column, cell in zip(columns, cells, strict=True) if cell}
        for name, *cells in rows
    }


def test_gaps_of_a_page_are_seen():
    page = export_matrix.page(RESULTS, ["mpm_1s"])
    assert cells_of(page) == {"face": {"tflite", "tftrt"}, "hand": {"onnx", "myriad", "tftrt"}}
    assert "mpm_1s: nothing" in gaps(cells_of(page))
    whole = {name: set(TARGETS) for name in list_models()}
    assert gaps(whole) == []
    assert gaps({**whole, "mpm_1s": set(TARGETS) - {"onnx"}}) == ["mpm_1s: onnx"]


def test_every_model_and_target_was_measured():
    """A model that the page only lists as not measured yet does not count."""
    again = "measure it: python tools/export_matrix.py"
    results = export_matrix.read_results(export_matrix.RESULTS)
    assert gaps({name: set(content["targets"]) for name, content in results.items()}) == [], again
    assert gaps(cells_of(export_matrix.PAGE.read_text())) == [], again


@pytest.mark.export_all
def test_every_model_becomes_every_target(request, tmp_path):
    if "export_all" not in request.config.option.markexpr:
        pytest.skip("hours; ask for it: pytest -m export_all")
    results = tmp_path / "results"
    code = export_matrix.main(
        ["--results", str(results), "--out", str(tmp_path / "out"), "--page", str(tmp_path / "page.md")]
    )
    results = export_matrix.read_results(results)
    assert set(results) == set(list_models())
    left_out = {t: e["reason"] for r in results.values() for t, e in r["left_out"].items()}
    assert not left_out, f"a full run leaves nothing out: {left_out}"
    assert code == 0, (tmp_path / "page.md").read_text()
