"""Write the table of released models into the README, from the cards.

python tools/make_tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

from posezoo.cards import Card, all_cards

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- models table: made by tools/make_tables.py -->", "<!-- end of models table -->"
COLUMNS = (
    "model",
    "input",
    "parameters",
    "MMACs",
    "PCK@0.2 float",
    "PCK@0.2 int8",
    "int8 file",
    "one thread",
    "data licence",
)


def accuracy(card: Card, precision: str) -> str:
    """The card's first measurement of one forward pass."""
    rows = [m for m in card.accuracy if m.precision == precision and not m.flip and m.value is not None]
    return f"{rows[0].value:.3f}" if rows else "not measured"


def row(card: Card) -> tuple[str, ...]:
    height, width, _ = card.input.shape
    latency = next((t for t in card.latency if t.network_ms is not None), None)
    return (
        f"`{card.name}`", f"{height}x{width}", f"{card.size['params'] / 1e6:.2f} M", f"{card.size['macs'] / 1e6:,.0f}",
        accuracy(card, "float32"), accuracy(card, "int8"), f"{card.weights['int8'].bytes / 1e6:.2f} MB",
        f"{latency.network_ms:.1f} ms ({latency.relative})" if latency else "not measured", card.licences["data"],
    )  # fmt: skip


def table() -> str:
    """The released models as Markdown, and how their numbers were made."""
    cards = [card for card in all_cards().values() if "int8" in card.weights]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row(card)) + " |" for card in cards]
    measured = {(m.dataset, m.protocol, m.command) for card in cards for m in card.accuracy[:1]}
    lines += ["", *(f"{dataset}: {protocol} (`{command}`)." for dataset, protocol, command in sorted(measured))]
    return "\n".join(lines)


def refreshed(text: str) -> str:
    """Return the README with a fresh table."""
    return re.sub(f"{START}.*?{END}", lambda _: f"{START}\n{table()}\n{END}", text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text()))
