"""The card's schema and reader."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from posezoo.errors import UserError
from posezoo.skeletons import Skeleton, get_skeleton

FOLDER = Path(__file__).parent


class CardError(UserError, ValueError):
    """A card that does not follow the schema."""


class UnknownModelError(UserError, KeyError):
    """A model name that no card has."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class InputSpec:
    """What the network eats.

    Attributes:
        shape: `(height, width, channels)`.
        mean: Per channel, in pixel units 0-255; of depth in metres.
        std: Per channel: the network sees `(pixel - mean) / std`.
        name: Name of the input tensor.
        colour: `RGB`; `depth` for one channel in metres, 0 where the sensor measured nothing; `amplitude` for one
            channel of active infrared, see `posezoo.inference.amplitude`.
        farthest_m: Of depth: what is farther is seen there.

    Raises:
        CardError: Another colour, or numbers of channels that disagree.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str = "image"
    colour: str = "RGB"
    farthest_m: float = 8.0

    def __post_init__(self) -> None:
        if self.colour not in ("RGB", "depth", "amplitude"):
            raise CardError(f"unknown input colour '{self.colour}'; expected RGB, depth or amplitude")
        channels = {len(self.mean), len(self.std), self.shape[2], *([1] if self.colour != "RGB" else [])}
        if len(channels) > 1:
            raise CardError(
                f"{self.colour} input of shape {tuple(self.shape)} with {len(self.mean)} mean(s) and {len(self.std)} "
                "std(s); expected one of each per channel, and one channel of depth or amplitude"
            )

    @property
    def depth(self) -> bool:
        """Whether the network looks at depth."""
        return self.colour == "depth"

    @property
    def amplitude(self) -> bool:
        """Whether the network looks at active infrared."""
        return self.colour == "amplitude"

    @property
    def wh(self) -> tuple[int, int]:
        """Width and height."""
        return self.shape[1], self.shape[0]


@dataclass(frozen=True)
class WeightFile:
    """One released file.

    Attributes:
        file: File name in the package, the cache and on hosts.
        bytes: Its size.
        sha256: Its hash; a file with another hash is never used.
        recipe: The command that makes it.
        urls: Hosts to ask when the package does not hold it.
    """

    file: str
    bytes: int
    sha256: str
    recipe: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One measured accuracy. `value` is None where nobody measured yet."""

    precision: str
    dataset: str
    metric: str
    value: float | None
    people: int | None = None
    flip: bool = False
    protocol: str = ""
    command: str = ""


@dataclass(frozen=True)
class Latency:
    """One measured latency in milliseconds: medians, network and decode apart."""

    precision: str
    device: str
    runtime: str
    threads: int
    network_ms: float | None
    decode_ms: float | None
    date: str
    command: str = ""
    relative: str = ""


@dataclass(frozen=True)
class Card:
    """Everything about a model that is not its code. See `CONTRIBUTING.md` for the YAML.

    Attributes:
        name: Name for `posezoo.load`.
        family: Name of the family, which is its file in `posezoo/models`.
        title: One line.
        paper: Where the network comes from.
        build: `function` (dotted name) and the arguments that make this model.
        skeleton: Keypoints of the released weights.
        input: Size and scaling of the network's input.
        codec: `type` and its parameters.
        crop: `enlarge`: factor on the person box before it is cropped.
        score_threshold: Keypoints below it are hidden in pictures and tables.
        person_threshold: Bottom-up networks with released weights: people whose score is lower are left out.
        licences: `code`, `weights`, `data`.
        size: `params` (trainable), `macs`.
        weights: Released files by precision: `float16`, `int8`; empty when none are released.
        released: What differs from `build` in the network of the released weights, such as `input_px`.
        recipe: The script that makes weights.
        accuracy: Measurements.
        latency: Measurements.
        limits: What it is bad at, and must not be used for.
    """

    name: str
    family: str
    title: str
    paper: str
    build: Mapping[str, Any]
    skeleton: Skeleton
    input: InputSpec
    codec: Mapping[str, Any]
    licences: Mapping[str, str]
    size: Mapping[str, int]
    recipe: str
    crop: Mapping[str, float] = field(default_factory=lambda: {"enlarge": 1.25})
    score_threshold: float = 0.2
    person_threshold: float = 0.0
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    released: Mapping[str, Any] = field(default_factory=dict)
    accuracy: tuple[Measurement, ...] = ()
    latency: tuple[Latency, ...] = ()
    limits: str = ""

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Runtimes that have released files."""
        runs = {"float16": "keras", "int8": "tflite"}
        return tuple(runs[precision] for precision in self.weights if precision in runs)


def _make(kind, values: Mapping[str, Any], where: str):
    """Build a dataclass from YAML, naming what is missing or misspelt."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        close = difflib.get_close_matches(unknown[0], fields, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; expected some of {', '.join(fields)}"
        raise CardError(f"{where}: unknown entry '{unknown[0]}'{hint}")
    has_default = (dataclasses.MISSING,)
    missing = [
        n
        for n, f in fields.items()
        if n not in values and f.default in has_default and f.default_factory in has_default
    ]
    if missing:
        raise CardError(f"{where}: missing {', '.join(missing)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def parse_card(values: Mapping[str, Any], where: str) -> Card:
    """Build a card from a YAML mapping.

    Raises:
        CardError: An entry is missing, unknown or of the wrong form.
    """
    if not isinstance(values, Mapping):
        raise CardError(f"{where}: expected a YAML mapping")
    values = dict(values)
    try:
        values["skeleton"] = get_skeleton(values["skeleton"])
        values["input"] = _make(InputSpec, values["input"], f"{where}: input")
        files = values.get("weights") or {}
        values["weights"] = {k: _make(WeightFile, v, f"{where}: weights.{k}") for k, v in files.items()}
        for name, kind in (("accuracy", Measurement), ("latency", Latency)):
            values[name] = tuple(_make(kind, row, f"{where}: {name}") for row in values.get(name) or ())
    except KeyError as error:
        raise CardError(f"{where}: missing or unknown {error}") from error
    return _make(Card, values, where)


#: What a user's own card need not say.
OWN_CARD = {
    "family": "own", "paper": "none given", "build": {}, "size": {}, "recipe": "the script that trained it",
    "licences": {"code": "not stated", "weights": "not stated", "data": "not stated"},
}  # fmt: skip


def read_card_file(path: Path | str) -> Card:
    """Read the card of a user's own network, which needs `name`, `skeleton`, `input` and `codec`.

    Args:
        path: YAML as in `CONTRIBUTING.md`. `skeleton` may also be a mapping: `name`, `keypoints`, and `limbs` if any.

    Raises:
        CardError: The file is missing or no such card.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CardError(f"{path}: no card that can be read ({error}); expected YAML") from error
    if not isinstance(values, Mapping):
        raise CardError(f"{path}: expected a YAML mapping")
    values = {**OWN_CARD, "title": values.get("name", "own network"), **values}
    if isinstance(values.get("skeleton"), Mapping):
        try:
            values["skeleton"] = Skeleton(**values["skeleton"])
        except (TypeError, ValueError) as error:
            raise CardError(f"{path}: skeleton: {error}") from error
    return parse_card(values, str(path))


@functools.cache
def all_cards() -> Mapping[str, Card]:
    """Return every card of the package by name, in alphabetical order."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    cards = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        card = parse_card(yaml.load(path.read_text(encoding="utf-8"), Loader=loader), path.name)
        if card.name != path.stem:
            raise CardError(f"{path.name}: the card's name is '{card.name}'; name and file must agree")
        cards[card.name] = card
    return cards


def read_card(name: str) -> Card:
    """Return a model's card.

    Raises:
        UnknownModelError: No model of that name; the message suggests near ones.
    """
    cards = all_cards()
    if name not in cards:
        close = difflib.get_close_matches(name, cards, n=2)
        hint = " or ".join(f"'{c}'" for c in close) or "a name from posezoo.list_models()"
        raise UnknownModelError(f"unknown model '{name}'; did you mean {hint}?")
    return cards[name]
