"""Files that are replaced whole or not at all, one or several, and what killed processes left of them."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from posezoo import files
from posezoo.files import remove_leftovers, replacing, replacing_folder, replacing_together, telling_full_disk


def held(folder: Path) -> dict[str, str | None]:
    return {p.relative_to(folder).as_posix(): p.read_text() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def write(path: Path, content: str, *, names=("x.bin", "x.xml", "x.xml.json")) -> None:
    with replacing_together(path) as folder:
        for name in names:
            (folder / name).write_text(content)


def test_files_take_their_places_together(tmp_path):
    write(tmp_path / "deep" / "x.xml", "1")
    assert held(tmp_path / "deep") == {"x.bin": "1", "x.xml": "1", "x.xml.json": "1"}
    write(tmp_path / "deep" / "x.xml", "2")
    assert held(tmp_path / "deep") == {"x.bin": "2", "x.xml": "2", "x.xml.json": "2"}


def test_files_of_a_block_that_raises_change_nothing(tmp_path):
    write(tmp_path / "x.xml", "older")
    before = held(tmp_path)
    with pytest.raises(RuntimeError, match="gate"), replacing_together(tmp_path / "x.xml") as folder:
        (folder / "x.xml").write_text("new")
        raise RuntimeError("gate")
    assert held(tmp_path) == before


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("older", [True, False], ids=["older", "nothing"])
def test_files_that_cannot_take_their_places_change_nothing(older, links, tmp_path, monkeypatch):
    """Whichever move fails, those before are taken back; the sidecar comes last."""
    moved, fails, replace = [], [0], os.replace

    def counted(source, target):
        if Path(source).parent.name == "new":
            moved.append(Path(target).name)
            if len(moved) == fails[0]:
                raise PermissionError(errno.EPERM, "Operation not permitted")
        replace(source, target)

    def no_link(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    if older:
        write(tmp_path / "x.bin", "older", names=("x.bin", "x.bin.json", "x.xml"))
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a").write_text("older")
    before = held(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda self, target: counted(self, target))
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    for fails[0] in range(1, 5):
        moved.clear()
        with pytest.raises(PermissionError), replacing_together(tmp_path / "x.bin") as folder:
            (folder / "folder").mkdir()
            for name in ("folder/a", "x.bin.json", "x.bin", "x.xml"):
                (folder / name).write_text("new")
        assert moved == ["folder", "x.bin", "x.xml", "x.bin.json"][: fails[0]]
        assert held(tmp_path) == before


def test_what_another_process_wrote_in_between_stays(tmp_path, monkeypatch):
    """Of two that write the same folder, the one that comes second finds it there again."""
    replace = Path.replace

    def beaten(source, target):
        if source.parent.name == "new":
            target.mkdir()
            (target / "a").write_text("the other's")
        return replace(source, target)

    run_again(tmp_path / "model", "folder")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", beaten)
        with pytest.raises(OSError, match="not empty"):
            run_again(tmp_path / "model", "folder")
    assert held(tmp_path) == {"model": None, "model/a": "the other's"}


def test_folders_are_not_replaced_by_files(tmp_path):
    (tmp_path / "x.xml.json").mkdir()
    (tmp_path / "x.xml.json" / "dear.txt").write_text("...")
    before = held(tmp_path)
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "x.xml", "new")
    assert held(tmp_path) == before


def test_links_are_replaced_and_what_they_point_to_stays(tmp_path):
    (tmp_path / "real").write_text("real")
    (tmp_path / "x.xml").symlink_to(tmp_path / "real")
    write(tmp_path / "x.xml", "new")
    assert held(tmp_path) == {"real": "real", "x.bin": "new", "x.xml": "new", "x.xml.json": "new"}


def test_full_disk_is_told_however_a_library_tells_it(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="No space left") as told, telling_full_disk(tmp_path):
        raise RuntimeError("a.pb; No space left on device")
    assert told.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left on device, or it does not"), telling_full_disk(tmp_path):
        raise RuntimeError("basic_ios::clear: iostream error")
    with pytest.raises(RuntimeError, match="something else"), telling_full_disk(tmp_path):
        raise RuntimeError("something else")  # while there is room
    assert held(tmp_path) == {}

    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"), telling_full_disk(tmp_path):
        raise RuntimeError("something else")
    assert held(tmp_path) == {}


# ---------------------------------------------------------------------------------------- killed processes

KILLED = """
import sys, time
from posezoo.files import replacing, replacing_folder, replacing_together
path, kind = sys.argv[1:]
with {"file": replacing, "files": replacing_together}.get(kind, lambda p: replacing_folder(p, ours="a"))(path) as new:
    (new / "x.xml" if kind == "files" else new / "a" if kind == "folder" else new).write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writing():
    """Function from a path and a kind to a process that is writing it."""
    started = []

    def start(path, kind):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), kind], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "writing\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def run_again(path, kind):
    if kind == "file":
        with replacing(path) as new:
            new.write_text("whole")
    elif kind == "files":
        write(path, "whole")
    else:
        with replacing_folder(path, ours="a") as new:
            (new / "a").write_text("whole")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("kind", ["file", "files", "folder"])
def test_the_next_run_removes_what_a_killed_one_left(kind, by, writing, tmp_path):
    path = tmp_path / "x.xml"
    process = writing(path, kind)
    (hidden,) = tmp_path.iterdir()
    assert hidden.name == f".{process.pid}@{platform.node()}.x.xml"
    run_again(path, kind)
    assert hidden.exists()  # its process runs
    process.send_signal(by)
    process.wait()
    assert hidden.exists()
    files._known_leftovers.cache_clear()  # which another process starts with
    run_again(path, kind)
    assert not [name for name in held(tmp_path) if name.startswith(".")]
    assert path.exists()


def test_nothing_else_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    node = platform.node()
    others = [
        f".{gone.pid}@{node}.y.xml", f".{gone.pid}@{node}x.xml", f".{gone.pid}@{node}-2.x.xml", f".{gone.pid}.x.xml",
        f"{gone.pid}@{node}.x.xml", f".a{gone.pid}@{node}.x.xml", f".{gone.pid}@{node}.x.xml.json",
        f".{os.getppid()}@{node}.x.xml", ".x.xml", "x.xml",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / f".{gone.pid}@{node}.x.xml").write_text("half")
    remove_leftovers(tmp_path / "x.xml")
    assert held(tmp_path) == dict.fromkeys(sorted(others), "mine")
    remove_leftovers(tmp_path / "none" / "x.xml")
    assert not (tmp_path / "none").exists()


def test_a_folder_that_was_just_moved_away_comes_back(tmp_path):
    """Killed between two renames, the older folder is only in what the process left."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = tmp_path / f".{gone.pid}@{platform.node()}.model" / "old"
    for name in ("model", "model.json"):
        (old / name).mkdir(parents=True)
        (old / name / "a").write_text("older")
    (tmp_path / "model.json").write_text("newer")
    remove_leftovers(tmp_path / "model")
    assert held(tmp_path) == {"model": None, "model/a": "older", "model.json": "newer"}


def test_a_folder_of_many_files_is_listed_once(tmp_path, monkeypatch):
    listed, known = [], files._leftovers
    monkeypatch.setattr(
        files, "_known_leftovers", files.lru_cache(lambda folder: listed.append(folder) or known(folder))
    )
    for i in range(20):
        with replacing(tmp_path / f"{i}.txt") as path:
            path.write_text("frame")
    assert listed == [tmp_path.resolve()]


def test_process_of_the_same_number_is_no_hindrance(tmp_path):
    """In containers every run may have number 1."""
    (tmp_path / f".{os.getpid()}@{platform.node()}.x.xml" / "new").mkdir(parents=True)
    write(tmp_path / "x.xml", "whole")
    assert sorted(held(tmp_path)) == ["x.bin", "x.xml", "x.xml.json"]
