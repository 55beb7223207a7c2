"""TFLite files on runtimes that cannot share a process with this one: older ones, in environments of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posezoo.export.foreign import MissingToolError, converter, environment
from posezoo.export.gates import GateError
from posezoo.inference.runners import TFLiteRunner

if TYPE_CHECKING:
    from posezoo.cards.card import InputSpec

#: The script that runs there, its exit code when the runtime refused the file, and what its message begins with.
SCRIPT, REFUSED, MARK = "run_tflite.py", 3, "RUNTIME: "


def made_environments(names: Mapping[str, str]) -> dict[str, Path]:
    """Return the interpreters of environments that are made: runtime -> Python.

    Args:
        names: Runtime, as reports call it -> name of an environment of `converters/environments/`.
    """
    found = {}
    for runtime, name in names.items():
        with contextlib.suppress(MissingToolError):
            found[runtime] = environment(name)
    return found


class OtherRuntime:
    """A TFLite file on the runtime of another Python.

    Args:
        content: The file.
        spec: Size and scaling of the network's input.
        python: Interpreter of an environment with NumPy and `tflite-runtime` or TensorFlow.

    Attributes:
        version: The runtime, such as `tflite-runtime 2.14.0`; empty before the first run.
    """

    def __init__(self, content: bytes, spec: InputSpec, python: Path):
        self._content, self._python, self.version = content, Path(python), ""
        self._here = TFLiteRunner(content, spec)
        self.name = str(python)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run pictures `(N, height, width, channels)`; return float32 outputs by name.

        Raises:
            MissingToolError: There is no such interpreter, or it has no TFLite runtime.
            GateError: The runtime refuses the file.
        """
        raw = self._run(np.stack([self._here.prepare(image) for image in images]))
        each = [self._here.finish({name: values[i] for name, values in raw.items()}) for i in range(len(images))]
        return {name: np.concatenate([row[name] for row in each]) for name in raw}

    def _run(self, tensors: np.ndarray) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model.tflite").write_bytes(self._content)
            np.savez(folder / "inputs.npz", input=tensors)
            command = [self._python, converter(SCRIPT)]
            command += [folder / file for file in ("model.tflite", "inputs.npz", "outputs.npz")]
            try:
                done = subprocess.run(
                    [str(c) for c in command], capture_output=True, text=True, check=False,
                    env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
                )  # fmt: skip
            except OSError as error:
                raise MissingToolError(
                    f"{self._python}: no Python interpreter ({error.strerror}); make the environment, or leave this "
                    "gate out"
                ) from error
            told = done.stderr.strip().splitlines() or ["no message"]
            if done.returncode == REFUSED and "No module named" not in told[-1]:
                raise GateError(f"the runtime of {self._python} refuses the file: {told[-1].removeprefix(MARK)}")
            if done.returncode:
                raise MissingToolError(f"{self._python} could not run the file: {told[-1].removeprefix(MARK)}")
            self.version = done.stdout.strip().splitlines()[-1]
            with np.load(folder / "outputs.npz") as outputs:
                return {key: outputs[key] for key in outputs.files}
