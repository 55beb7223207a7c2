"""`NAME=VALUE` settings of builders and codecs, read by what the code says they are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from posezoo.commands.common import CommandError
from posezoo.skeletons import get_skeleton

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

#: Annotation -> function from text to value, which raises ValueError or KeyError. Texts come last: they take all.
_READERS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: _TRUTH[text.lower()],
    "int": int,
    "float": float,
    "Sequence[int]": lambda text: tuple(int(part) for part in text.split(",")),
    "Sequence[str]": lambda text: tuple(text.split(",")),
    "Skeleton": get_skeleton,
    "str": str,
}


def read_settings(
    taker: Callable, settings: Sequence[str], *, told: str, held: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """Read settings for a builder or a codec.

    Args:
        taker: The function or dataclass that takes them; its annotations say what each value is.
        settings: `NAME=VALUE` each; `none` where the annotation allows it, several numbers or words by commas.
        told: What takes them, for messages.
        held: Names that the user does not set.

    Raises:
        CommandError: No `=`, an unknown name, or a value of another kind.
    """
    parameters = inspect.signature(taker).parameters.items()
    kinds = {name: str(parameter.annotation) for name, parameter in parameters if name not in held}
    found = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise CommandError(f"'{setting}': expected NAME=VALUE, such as {next(iter(kinds), 'name')}=...")
        if name not in kinds:
            raise CommandError(f"{told} has no '{name}'; it has {', '.join(kinds)}")
        try:
            found[name] = _value(text, kinds[name])
        except ValueError:
            raise CommandError(f"{told}: {name}={text}: expected {kinds[name]}") from None
    return found


def _value(text: str, annotation: str) -> Any:
    """Read a value of an annotation such as `int | Sequence[int] | None`.

    Raises:
        ValueError: It is none of these.
    """
    kinds = [kind.strip() for kind in annotation.split("|")]
    if text.lower() == "none" and "None" in kinds:
        return None
    for kind, reader in _READERS.items():
        if kind in kinds:
            try:
                return reader(text)
            except (ValueError, KeyError):
                continue
    raise ValueError(text)


def split_settings(text: str) -> list[str]:
    """Divide `a=1,b=2,3,c=x` at the commas that a name follows: `a=1`, `b=2,3`, `c=x`."""
    return re.split(r",(?=\w+=)", text)
