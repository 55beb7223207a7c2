"""A training run that survives being killed.

A run is a folder: `run.json` (settings, versions, git revision, history), `state.npz` (everything needed
to go on: weights, optimiser, moving averages, schedule) and `best.weights.h5`. Files are written under a
temporary name and renamed, so a kill leaves the last whole state.
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

import keras
import numpy as np

from posezoo.errors import UserError
from posezoo.files import replacing, write_json
from posezoo.training.config import as_json

log = logging.getLogger(__name__)

#: Settings that may change when a run goes on.
FREE_SETTINGS = ("epochs", "workers", "threads", "devices", "data", "out", "resume", "tensorboard")


class RunError(UserError, RuntimeError):
    """A run that cannot start or go on."""


class Run:
    """One training run in one folder.

    Attributes:
        folder: Where everything is written.
        epoch: Number of finished epochs.
        best: Best validation score so far.
        history: One dict per finished epoch.
    """

    def __init__(self, folder: Path, config):
        self.folder, self.config = folder, config
        self.epoch, self.best = 0, float("-inf")
        self.history: list[dict[str, float]] = []
        self._state: dict | None = None

    @classmethod
    def start_or_resume(cls, config, folder: Path, *, resume: bool = True) -> Run:
        """Open a run's folder; go on where it stopped when it holds a state.

        Raises:
            RunError: The folder holds a run with other settings.
        """
        run = cls(Path(folder), config)
        run.folder.mkdir(parents=True, exist_ok=True)
        if resume and run._state_file.exists():
            run._check_settings()
            with np.load(run._state_file) as state:
                run._state = dict(state)
            saved = json.loads(str(run._state["json"]))
            run.epoch, run.best, run.history = saved["epoch"], saved["best"], saved["history"]
            log.info("%s: going on after epoch %d", run.folder, run.epoch)
        run.write_json()
        return run

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.npz"

    @property
    def best_weights(self) -> Path:
        """The weights of the best epoch, averages included."""
        return self.folder / "best.weights.h5"

    def _check_settings(self) -> None:
        try:
            before = json.loads((self.folder / "run.json").read_text())["config"]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{self.folder} holds a state but no whole run.json ({error}); choose another --out or --no-resume"
            ) from error
        now = as_json(self.config)
        changed = [k for k in now if k not in FREE_SETTINGS and before.get(k) != now[k]]
        if changed:
            told = ", ".join(f"{k} was {before.get(k)!r}, now {now[k]!r}" for k in changed)
            raise RunError(
                f"{self.folder} holds a run with other settings ({told}); choose another --out or --no-resume"
            )

    def write_json(self, **results) -> None:
        """Write `run.json`."""
        record = {
            "config": as_json(self.config),
            "keras_backend": keras.backend.backend(),
            "versions": {name: _version(name) for name in ("posezoo", "keras", "tensorflow", "torch", "jax", "numpy")},
            "python": platform.python_version(),
            "git_revision": _git_revision(),
            "history": self.history,
            **results,
        }
        write_json(self.folder / "run.json", record)

    def restore(self, model: keras.Model, plateau: Plateau | None = None) -> None:
        """Put the saved state back into a compiled model; does nothing in a fresh run."""
        if self._state is None:
            return
        model.optimizer.build(model.trainable_variables)
        self._assign(self._state, "model", model.variables)
        self._assign(self._state, "optimizer", model.optimizer.variables)
        if plateau is not None:
            plateau.state.update(json.loads(str(self._state["json"]))["plateau"])
        self._state = None

    def restore_averages(self, model: keras.Model) -> None:
        """Put back only the averaged weights, as an unbroken run has them when one stage hands over to the next."""
        if self._state is None:
            return
        self._assign(self._state, "averaged", model.variables)
        self._state = None

    def _assign(self, state: Mapping[str, np.ndarray], prefix: str, variables) -> None:
        for i, variable in enumerate(variables):
            value = state.get(f"{prefix}/{i}")
            if value is None or value.shape != tuple(variable.shape):
                raise RunError(f"{self._state_file} does not fit this model ({prefix} variable {variable.path})")
            variable.assign(value)

    def save(self, model: keras.Model, averaged: list[np.ndarray], plateau: Plateau | None = None) -> None:
        """Write the state of a finished epoch: the model, its averaged form, the optimiser, the schedule."""
        state = {f"model/{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(model.variables)}
        state |= {f"averaged/{i}": value for i, value in enumerate(averaged)}
        state |= {f"optimizer/{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(model.optimizer.variables)}
        saved: dict[str, Any] = {"epoch": self.epoch, "best": self.best, "history": self.history}
        saved["plateau"] = plateau.state if plateau else {}
        with replacing(self._state_file) as path, path.open("wb") as file:
            np.savez(file, json=np.array(json.dumps(saved)), **state)


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Inside the block the model holds the moving averages of its weights, if its optimiser keeps them."""
    if not getattr(model.optimizer, "use_ema", False):
        yield
        return
    raw = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, raw, strict=True):
            variable.assign(value)


class PlateauState(TypedDict):
    """What a plateau rule remembers, as JSON types."""

    scale: float
    best: float | None
    waited: int


class Plateau:
    """Halve the learning rate when the score has not risen for `patience` epochs."""

    def __init__(self, patience: int, factor: float = 0.5):
        self.patience, self.factor = patience, factor
        self.state: PlateauState = {"scale": 1.0, "best": None, "waited": 0}

    def update(self, score: float) -> float:
        """Take an epoch's score; return the factor on the learning rate from now on."""
        state = self.state
        if state["best"] is None or score > state["best"]:
            state["best"], state["waited"] = score, 0
        else:
            state["waited"] += 1
            if state["waited"] >= self.patience:
                state["scale"], state["waited"] = state["scale"] * self.factor, 0
        return state["scale"]


class Checkpoint(keras.callbacks.Callback):
    """After every epoch: evaluate the averaged weights, keep the best, save the state.

    Args:
        run: The run to write to.
        network: The network whose weights are released.
        evaluate: Returns a dict of scores; the first is the one that counts.
        learning_rate: Function of (step, total scale) giving the learning rate.
        plateau: Optional plateau rule on the first score.
    """

    def __init__(
        self,
        run: Run,
        network: keras.Model,
        evaluate: Callable[[], dict[str, float]],
        *,
        learning_rate: Callable[[int], float],
        plateau: Plateau | None = None,
    ):
        super().__init__()
        self.run, self.network, self.evaluate = run, network, evaluate
        self.learning_rate, self.plateau = learning_rate, plateau

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_train_batch_begin(self, batch, logs=None):
        scale = self.plateau.state["scale"] if self.plateau else 1.0
        step = self.run.epoch * self.params["steps"] + batch
        self.model.optimizer.learning_rate.assign(scale * self.learning_rate(step))

    def on_epoch_end(self, epoch, logs=None):
        run, seconds = self.run, time.monotonic() - self.started
        with averaged_weights(self.model):
            scores = self.evaluate()
            score = next(iter(scores.values()))
            if score > run.best:
                run.best = score
                with replacing(run.best_weights) as path:
                    self.network.save_weights(path)
            averaged = [keras.ops.convert_to_numpy(v) for v in self.model.variables]
        if self.plateau:
            self.plateau.update(score)
        if logs is not None:
            logs.update(scores)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        entry: dict[str, float] = {"epoch": epoch, "seconds": round(seconds, 1), "learning_rate": rate}
        entry |= {k: round(float(v), 6) for k, v in (logs or {}).items()}
        run.history.append(entry)
        run.epoch = epoch + 1
        run.save(self.model, averaged, self.plateau)
        run.write_json()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
