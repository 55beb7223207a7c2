"""From a name to a network, a card, or a ready model."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.cards import Card, all_cards, read_card
from posezoo.skeletons import Skeleton, get_skeleton
from posezoo.weights import WeightsError, fetch

if TYPE_CHECKING:
    import keras

    from posezoo.inference.estimator import PoseModel

RUNTIMES = ("auto", "keras", "tflite", "onnx", "openvino")

#: Ending of a user's own file -> its runtime; anything else is Keras's.
FILE_RUNTIMES = {".tflite": "tflite", ".onnx": "onnx", ".xml": "openvino"}


def list_models(
    pattern: str = "*",
    *,
    runtime: str | None = None,
    released: bool | None = None,
    max_params: float | None = None,
    max_macs: float | None = None,
    skeleton: Skeleton | str | None = None,
) -> list[str]:
    """Return the names of models.

    Args:
        pattern: Name with `*` and `?`.
        runtime: Only models with released files for `keras` or `tflite`.
        released: Only models with (True) or without (False) released weights.
        max_params: Most trainable parameters.
        max_macs: Most multiply-accumulates.
        skeleton: Only models for this keypoint set.
    """
    wanted = get_skeleton(skeleton) if skeleton else None
    return [
        name
        for name, card in all_cards().items()
        if fnmatch.fnmatch(name, pattern)
        and (runtime is None or runtime in card.runtimes)
        and (released is None or bool(card.weights) == released)
        and (max_params is None or card.size["params"] <= max_params)
        and (max_macs is None or card.size["macs"] <= max_macs)
        and (wanted is None or card.skeleton == wanted)
    ]


def info(name: str) -> Card:
    """Return a model's card: facts, licences, measured accuracy and latency.

    Raises:
        UnknownModelError: No model of that name (a `KeyError`); the message suggests near ones.
    """
    return read_card(name)


def build(name: str, **changes: Any) -> keras.Model:
    """Build an untrained network.

    Args:
        name: A name from `list_models`.
        **changes: Arguments of the family's builder that differ from the card's, such as
            `skeleton=`, `input_px=` or `width=`.

    Returns:
        A `keras.Model` from images `(batch, height, width, 3)` to a dict of named outputs.

    Raises:
        UnknownModelError: No model of that name.
        TypeError: The builder has no such argument.
        ImportError: Keras is not installed.
    """
    card = read_card(name)
    if importlib.util.find_spec("keras") is None:
        raise ImportError(f"building '{name}' needs Keras; install it with: pip install 'posezoo[keras]'")
    keypoints = {"skeleton": card.skeleton} if card.skeleton.num_keypoints else {}
    arguments = {**keypoints, "name": name.replace("-", "_minus_"), **card.build, **changes}
    if "skeleton" in changes:
        arguments["skeleton"] = get_skeleton(changes["skeleton"])
    module, function = arguments.pop("function").rsplit(".", 1)
    return getattr(importlib.import_module(module), function)(**arguments)


def load(
    name: str,
    *,
    runtime: str = "auto",
    weights: str = "default",
    threads: int | None = None,
    detector: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
) -> PoseModel:
    """Return a ready model: network, preprocessing, codec and card together.

    Args:
        name: A name from `list_models`.
        runtime: `keras`; `tflite` (the int8 file, no TensorFlow needed); `auto`: Keras where it and its
            backend are installed, else TFLite; `onnx` and `openvino` for files of your own.
        weights: `default` (the released file of the runtime) or the path of a file of your own: a
            `.weights.h5`, `.tflite`, `.onnx` or OpenVINO `.xml`, which also chooses the runtime.
        threads: Threads of the runtime; its own choice by default. Keras has settings of its own.
        detector: Finds people for the single-person networks: image `(height, width, 3)` to boxes
            `(N, 4)` as x, y, width, height and scores `(N,)`. By default the whole picture is taken.

    Raises:
        UnknownModelError: No model of that name; the message suggests near ones.
        WeightsError: No released weights; the message names the recipe that makes them.
        ValueError: Unknown runtime.
    """
    from posezoo.inference.estimator import PoseModel
    from posezoo.inference.runners import KerasRunner, OnnxRunner, OpenVinoRunner, Runner, TFLiteRunner

    card = read_card(name)
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime '{runtime}'; expected one of {', '.join(RUNTIMES)}")
    own = None if weights == "default" else weights
    if own is not None:
        fits = FILE_RUNTIMES.get(Path(own).suffix, "keras")
        if runtime not in ("auto", fits):
            raise ValueError(f"{own} is a file for runtime '{fits}', not '{runtime}'")
        runtime = fits
    elif runtime == "auto":
        runtime = "keras" if "keras" in card.runtimes and _keras_works() else "tflite"
    if own is None and runtime not in card.runtimes:
        if runtime in FILE_RUNTIMES.values() and card.runtimes:
            raise WeightsError(
                f"no {runtime} file is released for '{name}' (released: {', '.join(card.runtimes)}); "
                f"give one of your own with weights=FILE"
            )
        raise WeightsError(f"'{name}' has no released weights for runtime '{runtime}'; make them with: {card.recipe}")
    runner: Runner
    if runtime == "tflite":
        runner = TFLiteRunner(own or fetch(card.weights["int8"]), card.input, threads=threads)
    elif own and runtime in ("onnx", "openvino"):
        runner = (OnnxRunner if runtime == "onnx" else OpenVinoRunner)(own, card.input, threads=threads)
    else:
        network = build(name)
        network.load_weights(own or fetch(card.weights["float16"]))
        runner = KerasRunner(network, card.input)
    return PoseModel(card, runner, detector=detector)


def _keras_works() -> bool:
    """Whether Keras and the backend that it is set to are installed."""
    import os

    if importlib.util.find_spec("keras") is None:
        return False
    return importlib.util.find_spec(os.environ.get("KERAS_BACKEND") or "tensorflow") is not None
