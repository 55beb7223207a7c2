"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

#: What a disk that is full has no room for.
PROBE = bytes(64 * 1024)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`, made its folder if need be; rename it when the block ends well.

    The temporary name keeps the ending, and is the process's own. When the block raises, `path` stays as
    it was and nothing is left behind; what killed processes left of the same file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _own(path)
    # A folder of a million frames is not listed for each of them.
    _remove(_known_leftovers(path.parent.resolve()).get(path.name, {}))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write JSON so that nobody sees half of it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


@contextmanager
def replacing_together(path: Path | str, *, ours: str = "") -> Iterator[Path]:
    """Yield an empty folder; when the block ends well, all that is in it takes its place beside `path`, or nothing.

    Inside, files have their final names: what names or finds each other can be read before anybody sees it. A sidecar,
    `path` with `.json` added, comes last. When the block raises, or a file cannot take its place, everything stays as
    it was and nothing is left behind; what killed processes left of the same files is removed.

    Args:
        path: The main file or folder.
        ours: Of a main folder the name of a file that every folder of this kind holds. Another folder that holds
            anything is not replaced.

    Raises:
        FileExistsError: `path` is to be a folder and is a file, or a folder with other things in it.
        OSError: The disk is full, however the block told it, or a file cannot take its place.
    """
    path = Path(path)
    if ours and path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; name a folder")
    if ours and path.is_dir() and not (path / ours).exists() and any(path.iterdir()):
        raise FileExistsError(f"{path} holds other things, which would be removed; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    work = _own(path)
    shutil.rmtree(work, ignore_errors=True)  # of a killed process that had the same number
    new, old = work / "new", work / "old"
    try:
        for folder in (work, new, old):
            folder.mkdir()
        with telling_full_disk(work):
            yield new
        sidecar = f"{path.name}.json"
        _take_places(path, sorted((p.name for p in new.iterdir()), key=lambda name: (name == sidecar, name)), new, old)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def replacing_folder(path: Path | str, *, ours: str) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well it takes the name, and what bore it is removed.

    When the block raises, `path` stays as it was and nothing is left behind. Arguments and errors as
    `replacing_together`.
    """
    with replacing_together(path, ours=ours) as together:
        folder = together / Path(path).name
        folder.mkdir()
        yield folder


@contextmanager
def telling_full_disk(folder: Path) -> Iterator[None]:
    """Turn any error that a full disk is the reason of into an OSError: libraries tell it in many ways.

    Args:
        folder: Where the block writes.

    Raises:
        OSError: The disk is full.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        told = os.strerror(errno.ENOSPC)
        if told in str(error):
            raise OSError(errno.ENOSPC, told, str(folder)) from error
        if "iostream error" in str(error):  # all that C++ says, and the room may be free again by now
            raise OSError(errno.ENOSPC, f"{told}, or it does not take what is written", str(folder)) from error
        probe = folder / f".{os.getpid()}.probe"
        try:
            probe.write_bytes(PROBE)
        except OSError as full:
            if full.errno in (errno.ENOSPC, errno.EDQUOT):
                raise full from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
        raise


def remove_leftovers(path: Path | str) -> None:
    """Remove what processes of this machine that run no more left of a file or folder; nothing else is touched."""
    path = Path(path)
    if path.parent.is_dir():
        _remove(_leftovers(path.parent).get(path.name, {}))


def _own(path: Path) -> Path:
    """The process's own hidden name beside a path. It has the machine's name too, for folders are shared."""
    return path.with_name(f".{os.getpid()}@{platform.node()}.{path.name}")


def _leftovers(folder: Path) -> dict[str, dict[Path, int]]:
    """Hidden names that other processes of this machine gave, and the processes, by the name that was to be written."""
    pattern = re.compile(rf"\.(\d{{1,10}})@{re.escape(platform.node())}\.(.+)", re.DOTALL)
    found: dict[str, dict[Path, int]] = {}
    for path in folder.iterdir():
        if (match := pattern.fullmatch(path.name)) and int(match[1]) != os.getpid():
            found.setdefault(match[2], {})[path] = int(match[1])
    return found


_known_leftovers = lru_cache(maxsize=256)(_leftovers)


def _remove(leftovers: Mapping[Path, int]) -> None:
    """Remove what belongs to processes that run no more; a folder that one of them had just moved away comes back."""
    for path, process in leftovers.items():
        if _runs(process):
            continue
        with suppress(OSError):
            for kept in path.glob("old/*"):
                if not os.path.lexists(path.parent / kept.name):
                    kept.replace(path.parent / kept.name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; True where that cannot be known."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _take_places(path: Path, names: list[str], new: Path, old: Path) -> None:
    """Move files and folders beside `path`, keeping what had their names in `old`; all of them or none.

    Raises:
        OSError: One cannot be moved, or would replace a folder.
    """
    begun: list[str] = []
    try:
        for name in names:
            target = path.with_name(name)
            if target.is_dir() and not (new / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            begun.append(name)
            _keep(target, old / name)
            (new / name).replace(target)
    except BaseException:
        for name in begun:
            target = path.with_name(name)
            if not os.path.lexists(new / name):
                target.replace(new / name)
            if os.path.lexists(old / name) and not os.path.lexists(target):  # else another process wrote it
                (old / name).replace(target)
        raise


def _keep(target: Path, kept: Path) -> None:
    """Give what stands at `target` a second name; where that cannot be, as of folders, move it there."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        with suppress(OSError, NotImplementedError):
            os.link(target, kept, follow_symlinks=False)
            return
    target.replace(kept)
