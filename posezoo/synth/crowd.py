"""Where the people of scenes come from."""

from __future__ import annotations

from collections.abc import Sequence

from posezoo.errors import UserError
from posezoo.synth.scene import BodySource


def body_source(bodies: Sequence[str], motion: Sequence[str] = ()) -> BodySource:
    """Return a source of people by what the command line says.

    Args:
        bodies: `["builtin"]`, or `["makehuman", folder]`.
        motion: Folders of motion files; poses are drawn from activity templates where there is none.

    Raises:
        UserError: Another source, or a folder that lacks what is needed.
    """
    raise UserError("not wired yet")
