"""From a name to a network, a card, or a ready model."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posezoo.cards import Card, all_cards, read_card
from posezoo.errors import UserError
from posezoo.skeletons import Skeleton, get_skeleton
from posezoo.weights import WeightsError, fetch

if TYPE_CHECKING:
    import keras

    from posezoo.inference.detector import PersonDetector
    from posezoo.inference.estimator import PoseModel
    from posezoo.inference.runners import Runner

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
    card, builder = read_card(name), builder_of(name)
    keypoints = {"skeleton": card.skeleton} if card.skeleton.num_keypoints else {}
    arguments = {**keypoints, "name": name.replace("-", "_minus_"), **card.build, **changes}
    if "skeleton" in changes:
        arguments["skeleton"] = get_skeleton(changes["skeleton"])
    del arguments["function"]
    return builder(**arguments)


def builder_of(name: str) -> Callable[..., keras.Model]:
    """Return the function that builds a model; the card's `build` holds its arguments.

    Raises:
        UnknownModelError: No model of that name.
        ImportError: Keras is not installed.
    """
    card = read_card(name)
    if importlib.util.find_spec("keras") is None:
        raise ImportError(f"building '{name}' needs Keras; install it with: pip install 'posezoo[keras]'")
    module, function = str(card.build["function"]).rsplit(".", 1)
    return getattr(importlib.import_module(module), function)


def load(
    name: str,
    *,
    runtime: str = "auto",
    weights: str = "default",
    threads: int | None = None,
    detector: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    build: Mapping[str, Any] | None = None,
    codec: Mapping[str, Any] | None = None,
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
        build: What differs from the card in the network that the weights were made with, as `posezoo.build`
            takes it, such as `{"skeleton": "lsp14"}`, `{"features": 128}` or `{"input_px": 256}`. Of released weights
            the card knows it.
        codec: Parameters of the codec that differ from the card's, such as `{"upsample": True}`.

    Raises:
        UnknownModelError: No model of that name; the message suggests near ones.
        WeightsError: No released weights, or a file that does not fit the network; the message says what to do.
        ValueError: Unknown runtime, a change that the network or the codec does not take, or more maps than the
            skeleton has names.
    """
    from posezoo.inference.estimator import PoseModel

    card, runner = _opened(
        name, runtime=runtime, weights=weights, threads=threads, build=build or {}, codec=codec or {}
    )
    return PoseModel(card, runner, detector=detector)


def load_detector(
    name: str = "person_050_256",
    *,
    runtime: str = "tflite",
    weights: str = "default",
    threads: int | None = None,
    build: Mapping[str, Any] | None = None,
    score_threshold: float | None = None,
    overlap: float | None = None,
) -> PersonDetector:
    """Return a ready person detector, for `posezoo.load(..., detector=...)`.

    Args:
        name: A detector's name from `list_models("person*")`.
        runtime: As for `load`.
        weights: `default` (the released file of the runtime) or the path of a file of your own, as for `load`.
        threads: Threads of the runtime; its own choice by default.
        build: What differs from the card in the network that the weights were made with, as for `load`.
        score_threshold: Boxes that score lower are left out; by default the card's.
        overlap: Of two boxes that overlap more (intersection over union), the lower one is left out; by default the
            card's.

    Raises:
        UnknownModelError: No model of that name; the message suggests near ones.
        WeightsError: No released weights, or a file that does not fit the network; the message says what to do.
        UserError: The model is no detector.
        ValueError: Unknown runtime, or a change that the network does not take.
    """
    from posezoo.inference.detector import PersonDetector

    if read_card(name).codec["type"] != "center":
        detectors = ", ".join(n for n, card in all_cards().items() if card.codec["type"] == "center")
        raise UserError(f"'{name}' is no person detector; expected one of {detectors}")
    card, runner = _opened(name, runtime=runtime, weights=weights, threads=threads, build=build or {}, codec={})
    return PersonDetector.of_card(card, runner, score_threshold=score_threshold, overlap=overlap)


def _opened(
    name: str, *, runtime: str, weights: str, threads: int | None, build: Mapping[str, Any], codec: Mapping[str, Any]
) -> tuple[Card, Runner]:
    """Return a model's card, with its changes, and its network on a runtime; arguments and errors are `load`'s."""
    from posezoo.inference.runners import KerasRunner, OnnxRunner, OpenVinoRunner, TFLiteRunner

    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime '{runtime}'; expected one of {', '.join(RUNTIMES)}")
    own = None if weights == "default" else weights
    build = changes_of(name, build, own_weights=own is not None)
    card = changed_card(read_card(name), build, codec)
    if own is not None:
        # How sure weights are of people who are none is known of the released ones.
        card = dataclasses.replace(card, person_threshold=0.0)
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
    if runtime == "tflite":
        return card, TFLiteRunner(own or fetch(card.weights["int8"]), card.input, threads=threads)
    if own and runtime in ("onnx", "openvino"):
        return card, (OnnxRunner if runtime == "onnx" else OpenVinoRunner)(own, card.input, threads=threads)
    return card, KerasRunner(_filled(name, own or fetch(card.weights["float16"]), build), card.input)


def changed_card(card: Card, build: Mapping[str, Any], codec: Mapping[str, Any]) -> Card:
    """Return the card of a network that was built with changes, read by a codec with changes.

    Raises:
        ValueError: A skeleton that does not name every map.
    """
    skeleton = get_skeleton(build.get("skeleton", card.skeleton))
    for name in ("num_keypoints", "num_maps"):
        count = build.get(name)
        if count is not None and count - skeleton.num_keypoints not in (0, 1):  # 1 for the background
            raise ValueError(
                f"{name}={count}: '{skeleton.name}' names {skeleton.num_keypoints} keypoints; give a Skeleton with all "
                "names as skeleton, or use the network alone: posezoo.build(...).load_weights(...)"
            )
    spec, side = card.input, build.get("input_px")
    if side is not None:
        height, width = (side, side) if isinstance(side, int) else side
        spec = dataclasses.replace(spec, shape=(height, width, spec.shape[2]))
    return dataclasses.replace(card, skeleton=skeleton, input=spec, codec={**card.codec, **codec})


def changes_of(name: str, changes: Mapping[str, Any], *, own_weights: bool) -> dict[str, Any]:
    """Return what differs from the card in the network that weights were made with.

    Args:
        name: A name from `list_models`.
        changes: What the caller changes.
        own_weights: Whether the weights are the caller's; else the released ones, whose differences the card knows.
    """
    return {**({} if own_weights else read_card(name).released), **changes}


def released_card(name: str) -> Card:
    """Return a model's card as its released weights were made: with their input size, where that is not the paper's.

    Raises:
        UnknownModelError: No model of that name.
    """
    card = read_card(name)
    return changed_card(card, card.released, {})


def build_released(name: str) -> keras.Model:
    """Build an untrained network that the model's released weights fit; `released_card` is its card."""
    return build(name, **read_card(name).released)


def _filled(name: str, weights: Path | str, changes: Mapping[str, Any]) -> keras.Model:
    """Build a network and load its weights.

    Raises:
        WeightsError: The file does not fit.
    """
    network = build(name, **changes)
    try:
        network.load_weights(weights)
    except (ValueError, OSError) as error:
        told = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{weights} does not fit '{name}' ({told}); give the arguments that it was built with (build=, or --set)"
        ) from error
    return network


def _keras_works() -> bool:
    """Whether Keras and the backend that it is set to are installed."""
    import os

    if importlib.util.find_spec("keras") is None:
        return False
    return importlib.util.find_spec(os.environ.get("KERAS_BACKEND") or "tensorflow") is not None
