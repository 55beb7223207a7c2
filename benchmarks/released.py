"""The released models as the benchmarks run them: each in float with Keras, where that is installed, and in int8."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import posezoo
from posezoo.cards.card import Card
from posezoo.codecs import make_codec
from posezoo.inference.estimator import PoseModel

PRECISIONS = {"keras": "float32", "tflite": "int8"}


def released(
    pattern: str, *, threads: int | None = None, wanted: Callable[[Card], bool] = lambda card: True
) -> Iterator[tuple[str, str, PoseModel]]:
    """Load the released models one after the other.

    Args:
        pattern: Name with * and ?.
        threads: Of the TFLite runtime.
        wanted: Which of the cards count.

    Yields:
        Name, precision and model.
    """
    runtimes = dict(PRECISIONS)
    if importlib.util.find_spec("keras") is None:
        print("left out: the float networks; they need Keras: pip install 'posezoo[keras]'")
        del runtimes["keras"]
    for name in posezoo.list_models(pattern, released=True):
        card = posezoo.info(name)
        for runtime, precision in runtimes.items():
            if wanted(card) and runtime in card.runtimes:
                yield name, precision, posezoo.load(name, runtime=runtime, threads=threads)


def finds_people(card: Card) -> bool:
    """Whether a network finds several people in a whole picture, rather than one in a crop."""
    return make_codec(input_wh=card.input.wh, **card.codec).bottom_up
