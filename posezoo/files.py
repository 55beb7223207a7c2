"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`, made its folder if need be; rename it when the block ends well.

    The temporary name keeps the ending, and is the process's own. When the block raises, `path` stays as
    it was and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
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
def replacing_folder(path: Path | str, *, ours: str) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well it takes the name, and what bore it is removed.

    When the block raises, `path` stays as it was and nothing is left behind.

    Args:
        path: The folder.
        ours: Name of a file that every folder of this kind holds. Another folder that holds anything is not replaced.

    Raises:
        FileExistsError: `path` is a file, or a folder with other things in it.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; name a folder")
    if path.is_dir() and not (path / ours).exists() and any(path.iterdir()):
        raise FileExistsError(f"{path} holds other things, which would be removed; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{os.getpid()}{mark}.{path.name}") for mark in ("", ".old"))
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
    finally:
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)
