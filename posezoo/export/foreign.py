"""Tools that live in environments of their own: the stand-alone scripts of `converters/` and how they are run.

posezoo imports none of them; they are other programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from posezoo.errors import UserError


class MissingToolError(UserError, RuntimeError):
    """A tool that a target needs is not there; the message says how to get it."""


def converter(name: str) -> Path:
    """Return the path of a script of `converters/`: in the source tree, or where the package installed it.

    Raises:
        MissingToolError: Neither holds it.
    """
    for root in (Path(__file__).parents[2], Path(sys.prefix) / "share" / "posezoo"):
        if (root / "converters" / name).is_file():
            return root / "converters" / name
    raise MissingToolError(f"converters/{name} is neither in the source tree nor installed; reinstall posezoo")


def environment(name: str, *, make: bool = False) -> Path:
    """Return the Python of an environment of `converters/environments/`.

    Args:
        name: Such as `myriad`.
        make: Whether to make it where it is not made; that downloads packages.

    Raises:
        MissingToolError: It is not made, or cannot be.
    """
    script = converter("environments.py")
    command = [sys.executable, str(script), name] + ([] if make else ["--find"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingToolError(
            f"the environment '{name}' is not there ({done.stderr.strip().splitlines()[-1]}); "
            f"make it with: python {_short(script)} {name}"
        )
    return Path(done.stdout.strip())


def run_json(command: list[str], *, wrong: type[Exception], told: str) -> dict[str, Any]:
    """Run a script that prints one JSON object.

    Args:
        command: The program and its arguments.
        wrong: What to raise when it prints none.
        told: What was tried, for the message.

    Returns:
        The object, with the exit code as `exit_code`.
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        last = " ".join(done.stderr.strip().splitlines()[-3:])
        raise wrong(f"{told} failed: {last or f'exit code {done.returncode}'}")
    return {**json.loads(lines[-1]), "exit_code": done.returncode}


def _short(path: Path) -> str:
    """A path as the user would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
