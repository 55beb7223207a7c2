"""Tables and progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Print a table that fits the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    piped = not sys.stdout.isatty()
    Console(width=160 if piped and "COLUMNS" not in os.environ else None).print(table)


def track(rows, what: str, total: int | None = None) -> Iterator:
    """Show a progress bar while iterating, unless the output is piped or there is one row."""
    total = len(rows) if total is None else total
    if total < 2 or not sys.stderr.isatty():
        return iter(rows)
    from rich.console import Console
    from rich.progress import track as rich_track

    return iter(rich_track(rows, what, total=total, console=Console(stderr=True)))
