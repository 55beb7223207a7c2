"""Every code block of the README and the docs runs."""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripts import script

from posezoo import cli
from posezoo.zoo import list_models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [m[3] for m in BLOCK.finditer(page.read_text()) if m[2] == language]


@pytest.fixture
def newcomer(tmp_path, monkeypatch, stick_figures):
    """A folder with what the docs assume: photo.jpg, pictures/, holiday/, boxes.json."""
    if "mobilenet_split_224" not in list_models(runtime="tflite"):
        pytest.skip("no released mobilenet_split_224")
    rng = np.random.default_rng(0)
    for folder in ("pictures", "holiday"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            picture = rng.integers(0, 255, (12, 9, 3), dtype=np.uint8)
            for suffix in ("jpg", "png"):
                cv2.imwrite(str(tmp_path / folder / f"{i}.{suffix}"), cv2.resize(picture, (240, 320)))
    figure = next((stick_figures / "images").iterdir())
    (tmp_path / "photo.jpg").write_bytes(figure.read_bytes())
    (tmp_path / "boxes.json").write_text('{"photo.jpg": [[10, 10, 100, 140]]}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page, newcomer, capsys):
    pytest.importorskip("tensorflow")
    namespace: dict = {}
    for code in blocks(page, "python"):
        exec(compile(code, f"{page.name}", "exec"), namespace)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=lambda p: p.name)
def test_posezoo_commands_run(page, newcomer, capsys):
    for line in "".join(blocks(page, "bash")).splitlines():
        if line.startswith("posezoo "):
            if " export " in line:
                pytest.importorskip("tensorflow")
            assert cli.main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=lambda p: p.name)
def test_scripts_that_docs_name_take_their_flags(page, capsys):
    pytest.importorskip("tensorflow")
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line)
        if words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            with pytest.raises(SystemExit) as left:
                script(words[1]).main(["--help"])
            assert not left.value.code
            told = capsys.readouterr().out
            for flag in (w for w in words[2:] if w.startswith("--")):
                assert flag in told, f"{page.name}: {words[1]} has no flag {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_table_is_fresh():
    make_tables = script("tools/make_tables.py")

    assert make_tables.refreshed((ROOT / "README.md").read_text()) == (ROOT / "README.md").read_text()


def test_tables_of_pages_are_fresh_and_show_results(tmp_path):
    make_tables = script("tools/make_tables.py")

    for page, places in make_tables.PLACES.items():
        assert make_tables.filled(page.read_text(), places) == page.read_text()
        for file, command, _ in places.values():
            empty = make_tables.filled(page.read_text(), places, tmp_path)
            assert f"Not measured yet (`{command}`)." in empty, file
    scores = {"frames": 9, "error_px": 4.321, "pck": 0.8765, "hidden_px": 9.5, "hands": None}
    told = make_tables.hand_accuracy({
        "rows": [{"model": "hand25d", "precision": "int8", "parts": {"all": scores}}], "protocol": "p.", "command": "c",
    })  # fmt: skip
    assert "| `hand25d` | int8 | all | 9 | 4.32 | 0.876 | 9.50 | not measured |" in told
    rows = [{"tasks": "kp, ds", "backbone": "ladder", "error_px": 7.123, "pck": 0.5}]
    told = make_tables.hand_ablation(
        {"rows": rows, "frames": 20000, "epochs": 5, "input": "depth", "val_frames": 9, "val": "test"}
    )
    assert "| kp, ds | `ladder` | 7.12 | 0.500 |" in told and "20,000 frames x 5 epochs" in told
