"""In CI, what tests would skip without must be there: a broken import may not turn gates off unseen."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest

SKIPPING = re.compile(r"importorskip\(\s*\"([\w.]+)\"")
#: No part of the `dev` extra: for training on other backends, for faster rays, for people who have them.
OPTIONAL = {"torch", "ray", "embreex.rtcore_scene"}

PACKAGES = sorted({name for path in Path(__file__).parent.glob("*.py") for name in SKIPPING.findall(path.read_text())})


def test_packages_of_the_gates_are_among_them():
    assert {"ai_edge_litert", "onnx", "onnxruntime", "openvino", "tensorflow", "tf2onnx"} <= set(PACKAGES)
    assert set(PACKAGES) >= OPTIONAL


@pytest.mark.skipif("POSEZOO_CI" not in os.environ, reason="elsewhere tests may skip what is not installed")
@pytest.mark.parametrize("package", [name for name in PACKAGES if name not in OPTIONAL])
def test_ci_has_every_package_that_tests_skip_without(package):
    importlib.import_module(package)
