"""A disk that is full at any write of any target: nothing is left, and an older export stays byte for byte."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_converters import load_script

tf = pytest.importorskip("tensorflow")
pytest.importorskip("onnx")
pytest.importorskip("tf2onnx")
openvino = pytest.importorskip("openvino")

from posezoo import cli  # noqa: E402
from posezoo.export import myriad, tflite_targets  # noqa: E402
from posezoo.export import openvino as ir  # noqa: E402
from posezoo.export.c_array import write_c_array  # noqa: E402
from posezoo.export.edgetpu import COMPILER  # noqa: E402
from posezoo.export.everything import export_everything, read_manifest  # noqa: E402
from posezoo.export.targets import TARGETS  # noqa: E402


class Disk:
    """A folder in which only so many files can be written.

    Args:
        folder: Everything in it counts.
        monkeypatch: Restores what writes.
    """

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.writes, self.room = folder, 0, 10**6
        opened, replaced = io.open, {}

        def open_counted(file, mode="r", *args, **options):
            if set(mode) & set("wax+") and self.holds(file):
                self.write(file)
            return opened(file, mode, *args, **options)

        def counted(module, name, paths_of, error):
            """Let a library's writer fail as it fails on a full disk, at any of its files."""
            replaced[name] = getattr(module, name)

            def write(*args, **options):
                replaced[name](*args, **options)
                try:
                    for path in filter(self.holds, paths_of(args[1])):
                        self.write(path)
                except OSError as full:
                    raise error from full

            monkeypatch.setattr(module, name, write)

        monkeypatch.setattr(io, "open", open_counted)
        monkeypatch.setattr(builtins, "open", open_counted)
        stream = RuntimeError("basic_ios::clear: iostream error")
        counted(openvino, "save_model", lambda xml: (xml.with_suffix(".bin"), xml), stream)
        counted(openvino, "serialize", lambda xml: (xml.with_suffix(".bin"), xml), stream)
        exhausted = tf.errors.ResourceExhaustedError(None, None, "saved_model.pb; No space left on device")
        counted(tf.saved_model, "save", lambda folder: (Path(folder) / "saved_model.pb",), exhausted)

    def holds(self, file) -> bool:
        return isinstance(file, str | os.PathLike) and Path(file).resolve().is_relative_to(self.folder.resolve())

    def write(self, file) -> None:
        """Count a write; beyond the room the file is there, and empty."""
        self.writes += 1
        if self.writes > self.room:
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC))
            raise OSError(errno.ENOSPC, "No space left on device", str(file))

    def content(self) -> dict[str, bytes | None]:
        """Everything in it, hidden files and empty folders included."""
        found = sorted(self.folder.rglob("*"))
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() if p.is_file() else None for p in found}

    def clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.writes = 0


@pytest.fixture
def disk(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk", monkeypatch)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """No gates in other environments; both compilers are there, and write what is no program."""
    monkeypatch.setattr(tflite_targets, "made_environments", lambda wanted: {})
    monkeypatch.setattr(ir, "read_by", lambda *_: {"not run": "a test"})

    def compile_blob(command, **_):
        Path(command[command.index("-o") + 1]).write_bytes(b"blob")
        counts = {"hardware": 1, "programs": {}, "hardware_share": 1.0, "idle": 0}
        return {"stages": counts, "numerics": {"rows": [{"psnr_db": 70.0}]}}

    monkeypatch.setattr(myriad, "run_json", compile_blob)
    compiler = tmp_path / "bin" / COMPILER
    compiler.parent.mkdir()
    compiler.write_text('#!/bin/sh\ncp "$4" "$3/$(basename "$4" .tflite)_edgetpu.tflite"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", TARGETS)
def test_full_disk_at_any_write_leaves_everything_as_it_was(name, tiny_job, disk, quick, monkeypatch):
    target = TARGETS[name]
    out = target.path(disk.folder, "tiny")
    made = target.make(tiny_job, out)
    writes = disk.writes
    assert writes >= len(made.files) > 0
    assert all(path.exists() and path.parent == disk.folder for path in made.files)
    for older in (False, True):
        if older:
            disk.room = 10**6
            target.make(tiny_job, out)
            for path in [p for p in disk.folder.rglob("*") if p.is_file()]:
                path.write_bytes(b"older " + path.name.encode())
        else:
            disk.clear()
        before = disk.content()
        for disk.room in range(writes):
            disk.writes = 0
            with pytest.raises(OSError, match="No space left") as told:
                target.make(tiny_job, out)
            assert told.value.errno == errno.ENOSPC
            assert disk.content() == before, f"after {disk.room} of {writes} writes"
    disk.room, disk.writes = writes, 0
    target.make(tiny_job, out)
    assert disk.content().keys() == before.keys()
    assert not [content for content in disk.content().values() if content and content.startswith(b"older ")]


def test_full_disk_leaves_the_older_c_header(tiny_int8, disk):
    (disk.folder / "x.h").write_text("older")
    disk.room, disk.writes = 0, 0
    with pytest.raises(OSError, match="No space left"):
        write_c_array(tiny_int8, disk.folder / "x.h", name="x")
    assert disk.content() == {"x.h": b"older"}


def test_full_disk_is_told_of_a_c_header(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert cli.main(["export", "hand25d", "--to", "c", "-o", str(tmp_path / "file" / "x.h")]) == 2
    assert "x.h: cannot be written (" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- Myriad X


@pytest.fixture
def to_myriad(tmp_path, monkeypatch):
    """The script, with an environment that is made."""
    script = load_script("to_myriad")
    monkeypatch.setattr(script.environments, "make", lambda name, say: None)
    monkeypatch.setattr(script, "libraries", lambda: tmp_path)
    (tmp_path / "myriad_compile").write_text("")
    (tmp_path / "model.xml").write_text("")
    return script


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_no_missing_compiler(to_myriad, tmp_path, capsys, monkeypatch):
    command = [str(tmp_path / "model.xml"), "-o", str(tmp_path / "deep" / "x.blob")]
    with monkeypatch.context() as patch:
        patch.setattr(to_myriad, "compile_blob", full)
        assert to_myriad.main([*command, "--json"]) == 2
        assert json.loads(capsys.readouterr().out) == {"full": "No space left on device"}
        assert to_myriad.main(command) == 2
        assert "nothing written: [Errno 28] No space left" in capsys.readouterr().out
        patch.setattr(to_myriad, "compile_blob", lambda *_: subprocess.run([str(tmp_path / "none")]))
        assert to_myriad.main([*command, "--json"]) == 2
        assert "No such file" in json.loads(capsys.readouterr().out)["missing"]


def test_compiler_that_does_not_tell_of_the_full_disk_is_not_blamed(to_myriad, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(to_myriad, "run", lambda *_, **__: (1, "error: cannot write"))
    command = [str(tmp_path / "model.xml"), "-o", str(tmp_path / "x.blob"), "--json"]
    assert to_myriad.main(command) == 1
    assert "myriad_compile does not take model.xml" in json.loads(capsys.readouterr().out)["refused"]
    monkeypatch.setattr(to_myriad, "check_room", full)
    assert to_myriad.main(command) == 2
    assert "full" in json.loads(capsys.readouterr().out)


def test_everything_stops_where_the_compiler_found_the_disk_full(tiny_job, tmp_path, monkeypatch):
    """It was told as a tool that is missing, and left out."""
    monkeypatch.setattr("posezoo.export.everything.environment", lambda name: None)
    monkeypatch.setattr(myriad, "run_json", lambda *_, **__: {"full": "No space left on device"})
    with pytest.raises(OSError, match="No space left"):
        export_everything(tiny_job, tmp_path, targets=[TARGETS["myriad"]])
    assert read_manifest(tmp_path)["models"] == {}
    assert not list(tmp_path.iterdir())
