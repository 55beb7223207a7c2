"""The stand-alone scripts of converters/: environments, golden outputs."""

import ast
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

CONVERTERS = Path(__file__).parents[1] / "converters"
#: Scripts that run where posezoo is not installed.
FOREIGN = ("environments", "golden", "read_ir", "to_myriad", "to_tensorrt", "to_tftrt")


def load_script(name):
    """A script as a module; its neighbours can be imported as on the command line."""
    sys.path.insert(0, str(CONVERTERS))
    try:
        spec = importlib.util.spec_from_file_location(name, CONVERTERS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(CONVERTERS))


@pytest.mark.parametrize("name", FOREIGN)
def test_scripts_for_other_environments_import_nothing_of_posezoo(name):
    tree = ast.parse((CONVERTERS / f"{name}.py").read_text())
    found = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    found |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert "posezoo" not in found


@pytest.mark.parametrize("name", ["golden", "to_tensorrt", "to_tftrt"])
def test_scripts_for_devices_are_python_3_6(name):
    ast.parse((CONVERTERS / f"{name}.py").read_text(), feature_version=(3, 6))


# ------------------------------------------------------------------------------------------ environments


@pytest.fixture
def environments(tmp_path, monkeypatch):
    module = load_script("environments")
    monkeypatch.setenv("POSEZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "FOLDER", tmp_path / "files")
    (tmp_path / "files").mkdir()
    version = "{}.{}".format(*sys.version_info)
    (tmp_path / "files" / "empty.txt").write_text(f"# what: nothing\n# python: {version}\n# check: import json\n")
    return module


def test_every_environment_says_what_it_is_and_pins_everything():
    module = load_script("environments")
    for name in module.names():
        assert module.fact(name, "what"), name
        assert module.fact(name, "python"), name
        assert module.fact(name, "check").startswith(("import ", "from ")), name
        lines = [line for line in module.requirements(name).read_text().splitlines() if line and line[0] != "#"]
        assert lines, name
        assert all("==" in line for line in lines), name


def test_an_environment_is_made_once(environments, capsys, monkeypatch):
    assert environments.main(["empty", "--find"]) == 2
    assert "not made yet: python environments.py empty" in capsys.readouterr().err
    monkeypatch.setenv(f"POSEZOO_PYTHON_{environments.fact('empty', 'python').replace('.', '_')}", sys.executable)
    first = environments.make("empty", say=lambda line: None)
    assert first.exists()
    monkeypatch.setattr(environments, "run", None)
    assert environments.make("empty") == first
    assert environments.main(["empty", "--find"]) == 0
    assert capsys.readouterr().out.strip() == str(first)


def test_a_changed_file_makes_another_environment(environments):
    before = environments.place("empty")
    file = environments.requirements("empty")
    file.write_text(file.read_text() + "# more\n")
    assert environments.place("empty") != before


def test_what_fails_leaves_nothing(environments):
    file = environments.requirements("empty")
    file.write_text(file.read_text().replace("import json", "import no_such_module"))
    with pytest.raises(environments.EnvironmentMissing, match="No module named 'no_such_module'"):
        environments.make("empty", say=lambda line: None)
    assert list(environments.cache().iterdir()) == []


def test_missing_python_and_unknown_name_are_told(environments, monkeypatch, capsys):
    file = environments.requirements("empty")
    file.write_text("# what: nothing\n# python: 2.5\n# check: import json\n")
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    assert environments.main(["empty"]) == 2
    assert "no Python 2.5 found" in capsys.readouterr().err
    assert environments.main(["emtpy"]) == 2
    assert "no environment 'emtpy'; there are empty" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ golden outputs


@pytest.fixture
def golden(tmp_path):
    rng = np.random.default_rng(0)
    limits = {"float32": {"min_psnr_db": 80.0, "max_error": 1e-4}, "int8": {"min_psnr_db": 30.0, "max_error": None}}
    arrays = {"output.heatmaps": rng.normal(size=(2, 4, 5, 3)), "output.scores": rng.normal(size=(2, 3))}
    path = tmp_path / "x.golden.npz"
    inputs = rng.normal(size=(2, 16, 20, 3)).astype(np.float32)
    np.savez(path, input=inputs, meta=json.dumps({"limits": limits}), **arrays)
    return load_script("golden").Golden(path)


def test_equal_outputs_pass_in_either_layout(golden):
    first = {"heatmaps": golden.outputs["heatmaps"].transpose(0, 3, 1, 2), "scores": golden.outputs["scores"]}
    assert {row["wrong"] for row in golden.compare(golden.outputs, "float32")} == {""}
    rows = golden.compare(first, "float32", channels_first=True)
    assert {row["wrong"] for row in rows} == {""}
    assert "ok" in load_script("golden").told(rows)


def test_inputs_come_as_the_file_takes_them(golden):
    assert [x.shape for x in golden.inputs_for((1, 16, 20, 3))] == [(1, 16, 20, 3)] * 2
    assert golden.channels_first((1, 3, 16, 20))
    first = next(golden.inputs_for((1, 3, 16, 20)))
    np.testing.assert_array_equal(first[0].transpose(1, 2, 0), golden.input[0])
    with pytest.raises(ValueError, match=r"takes \(1, 3, 8, 8\)"):
        next(golden.inputs_for((1, 3, 8, 8)))


def test_what_is_wrong_is_told(golden):
    def wrong(**changes):
        rows = golden.compare({**golden.outputs, **changes}, "float32")
        return {row["output"]: row["wrong"] for row in rows if row["wrong"]}

    maps = golden.outputs["heatmaps"]
    assert "PSNR" in wrong(heatmaps=maps + 0.1)["heatmaps"]
    one = maps.copy()
    one[0, 0, 0, 0] += 2e-3
    assert "largest error" in wrong(heatmaps=one)["heatmaps"]
    assert wrong(heatmaps=maps * np.nan) == {"heatmaps": "holds NaN or infinity"}
    assert wrong(heatmaps=np.repeat(maps[:1], 2, 0)) == {"heatmaps": "is the same for every input"}
    assert wrong(scores=maps) == {"scores": "is (2, 4, 5, 3), expected (2, 3)"}
    with pytest.raises(ValueError, match="the network has outputs"):
        golden.compare({"heatmaps": maps}, "float32")
    with pytest.raises(ValueError, match="no limits for 'int4'; the file has float32, int8"):
        golden.compare(golden.outputs, "int4")
