"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference outputs that is not part of the repository."""
    folder = Path(os.environ.get("POSEZOO_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip("no shared data; set POSEZOO_SHARED to its folder")
    return folder
