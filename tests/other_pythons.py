"""Interpreters of other environments, for tests that need one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "converters" / "environments.py"


def other_python(name: str) -> Path:
    """The Python of an environment of `converters/environments/`; the test is skipped by name where it is not made."""
    if not SCRIPT.exists():
        pytest.skip(f"no {SCRIPT.name} to look for the environment '{name}'")
    done = subprocess.run([sys.executable, str(SCRIPT), name, "--find"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the environment '{name}' is not made: python converters/environments.py {name}")
    return Path(done.stdout.strip())


def run_there(python: Path, code: str, *arguments: object) -> str:
    """Run code in another Python, where the libraries of its environment are found; return what it prints."""
    libraries = [str(p) for p in sorted((python.parents[1] / "debian").glob("**/*-linux-gnu"))]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "-c", code, *map(str, arguments)], capture_output=True, text=True,
        env={**clean, "LD_LIBRARY_PATH": ":".join(libraries)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
