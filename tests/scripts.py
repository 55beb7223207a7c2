"""Scripts of the repository (recipes, benchmarks, tools, converters) as modules of the test's process."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def script(path: str) -> ModuleType:
    """Import a script by its path in the repository, such as `recipes/train_hand25d.py`; it finds its neighbours."""
    folder, name = str((ROOT / path).parent), Path(path).stem
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """TensorFlow without graphs: where a recipe takes a few steps only, tracing them is most of the work."""
    import keras
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
        keras.mixed_precision.set_global_policy("float32")
