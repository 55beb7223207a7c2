"""Write the table of released models into the README, from the cards.

python tools/make_tables.py
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from posezoo.cards import Card, all_cards

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- models table: made by tools/make_tables.py -->", "<!-- end of models table -->"


@dataclass(frozen=True)
class Task:
    """A kind of model: what it is for, the codecs that say so, and the data sets that measure it."""

    title: str
    codecs: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]


TASKS = (
    Task(
        "One person in a given box (by default the whole picture)",
        ("heatmap", "coordinate"),
        (("lspet", "LSPet PCK@0.2"), ("coco_mini", "COCO PCK@0.2")),
    ),
    Task(
        "Several people in a whole picture",
        ("associative_embedding",),
        (("lspet", "LSPet PCK@0.2, best person"), ("lspet canvases", "canvases AP"), ("coco_mini", "COCO AP")),
    ),
    Task(
        "Several people in a depth frame",
        ("part_affinity",),
        (("utd_mhad", "Kinect frames F-score"), ("synth", "rendered frames F-score")),
    ),
)


def accuracy(card: Card, dataset: str) -> str:
    """The card's measurements of one forward pass: float, then int8."""

    def measured(precision: str) -> str:
        rows = [m for m in card.accuracy if (m.precision, m.dataset, m.flip) == (precision, dataset, False)]
        return f"{rows[0].value:.3f}" if rows and rows[0].value is not None else "not measured"

    return f"{measured('float32')}, {measured('int8')}"


def row(card: Card, task: Task) -> tuple[str, ...]:
    height, width, _ = card.input.shape
    latency = next((t for t in card.latency if t.precision == "int8" and t.network_ms is not None), None)
    return (
        f"`{card.name}`", f"{height}x{width}", f"{card.size['params'] / 1e6:.2f} M", f"{card.size['macs'] / 1e6:,.0f}",
        *(accuracy(card, dataset) for dataset, _ in task.columns),
        f"{card.weights['int8'].bytes / 1e6:.2f} MB",
        f"{latency.network_ms:.1f} ms ({latency.relative})" if latency else "not measured", card.licences["data"],
    )  # fmt: skip


def table(task: Task) -> str:
    """The released models of one task as Markdown, and how their numbers were made; empty where there are none."""
    cards = [card for card in all_cards().values() if "int8" in card.weights and card.codec["type"] in task.codecs]
    if not cards:
        return ""
    named = [f"{title}: float, int8" for _, title in task.columns]
    columns = ("model", "input", "parameters", "MMACs", *named, "int8 file", "int8, one thread", "data licence")
    lines = [f"**{task.title}**", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row(card, task)) + " |" for card in cards]
    measured = {(m.dataset, m.protocol, m.command) for card in cards for m in card.accuracy if m.command and m.protocol}
    told = [f"{dataset}: {protocol} (`{command}`)." for dataset, protocol, command in sorted(measured)]
    return "\n".join([*lines, "", " ".join(told)])


def tables() -> str:
    return "\n\n".join(text for text in map(table, TASKS) if text)


def refreshed(text: str) -> str:
    """Return the README with a fresh table."""
    return re.sub(f"{START}.*?{END}", lambda _: f"{START}\n{tables()}\n{END}", text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text()))
