"""Recipe settings: a dataclass becomes the command line."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def option(default, help: str):
    """Declare a setting with its default and the help text of its flag."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Settings that every recipe has. A recipe's own dataclass derives from it."""

    resume: bool = option(True, "go on with the run in --out if there is one")
    smoke: bool = option(False, "two steps on generated pictures, to see that everything runs")
    seed: int = option(1, "seed of every random number")
    workers: int = option(2, "loader threads")
    threads: int = option(0, "compute threads; 0 leaves the framework's choice")
    precision: str = option("float32", "float32, bfloat16 or float16 (mixed: variables stay float32)")
    devices: int = option(1, "devices that share each batch; without GPUs parts of the CPU (TensorFlow, torch)")
    tensorboard: bool = option(False, "write TensorBoard logs into the run's folder")


def input_size(told: str) -> dict[str, tuple[int, int]]:
    """The builder's argument for `--input-px`: a side, or HEIGHTxWIDTH; none for an empty text.

    Raises:
        SystemExit: Another text.
    """
    sides = told.lower().split("x") if told else []
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise SystemExit(f"--input-px {told}: expected a side such as 368, or HEIGHTxWIDTH such as 184x224")
    return {"input_px": (int(sides[0]), int(sides[-1]))} if sides else {}


def parse(config_class, argv: Sequence[str] | None = None, *, description: str = ""):
    """Fill a dataclass from command-line flags; unknown flags are errors.

    Each field becomes `--its-name`; a bool becomes `--its-name` and `--no-its-name`.

    Returns:
        An instance of `config_class`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    types_by_name = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        flag, kind = "--" + field.name.replace("_", "-"), types_by_name[field.name]
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        common: dict[str, Any] = {"default": default, "help": field.metadata.get("help"), "required": required}
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        else:
            parser.add_argument(flag, type=_plain(kind), metavar=_plain(kind).__name__.upper(), **common)
    return config_class(**vars(parser.parse_args(argv)))


def _plain(kind):
    """`Path | None` -> `Path`."""
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    return kind


def as_json(config) -> dict:
    """Return the settings as JSON types."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}
