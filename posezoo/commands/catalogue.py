"""`posezoo list` and `posezoo info`."""

from __future__ import annotations

import argparse
import textwrap

from posezoo.cards import Card
from posezoo.commands.common import DONE, Command, CommandError, model_argument
from posezoo.commands.display import print_table
from posezoo.zoo import info, list_models


def list_command(arguments: argparse.Namespace) -> int:
    """Models, their size and licences."""
    names = list_models(arguments.pattern, released=True if arguments.released else None)
    if not names:
        raise CommandError(f"no model is named like '{arguments.pattern}'; try: posezoo list")
    rows = []
    for name in names:
        card = info(name)
        height, width, _ = card.input.shape
        rows.append(
            (
                name, f"{height}x{width}", f"{card.size['params'] / 1e6:.2f}", f"{card.size['macs'] / 1e6:,.0f}",
                ", ".join(card.runtimes) or "none", *(card.licences[k] for k in ("code", "weights", "data")),
            )
        )  # fmt: skip
    columns = ("model", "input", "M params", "MMACs", "weights for", "code licence", "weights licence", "data licence")
    print_table(f"{len(rows)} model(s)", columns, rows)
    return DONE


def info_command(arguments: argparse.Namespace) -> int:
    """A model's card."""
    card = info(arguments.model)
    print(describe(card))
    return DONE


def describe(card: Card) -> str:
    """Return a card as text for a terminal."""

    def measured(value, form="{}"):
        return "not measured" if value is None else form.format(value)

    height, width, _ = card.input.shape
    lines = [
        f"{card.name}: {card.title}",
        "",
        f"  paper        {card.paper}",
        f"  input        {height}x{width} {card.input.colour}",
        f"  keypoints    {card.skeleton.name}: {', '.join(card.skeleton.keypoints)}",
        f"  size         {card.size['params']:,} parameters, {card.size['macs'] / 1e6:,.1f} MMACs",
        *(f"  licence      {part}: {card.licences[part]}" for part in ("code", "weights", "data")),
        f"  retrain      {card.recipe}",
        "",
        "  weights",
        *(f"    {k}: {w.file}, {w.bytes / 1e6:.2f} MB, SHA-256 {w.sha256[:16]}…" for k, w in card.weights.items()),
        *(f"    made with {name}={value}" for name, value in card.released.items()),
        *([] if card.weights else ["    none released; the recipe above makes them"]),
        "",
        "  accuracy",
        *(
            f"    {m.precision:8} {m.dataset}: {m.metric}{' with flip test' if m.flip else ''} "
            f"{measured(m.value, '{:.3f}')} ({m.protocol})"
            for m in card.accuracy
        ),
        *([] if card.accuracy else ["    not measured"]),
        "",
        "  latency",
        *(
            f"    {t.precision:8} {t.device}, {t.runtime}, {t.threads} thread(s), {t.date}: network "
            f"{measured(t.network_ms, '{:.1f} ms')}, decode {measured(t.decode_ms, '{:.2f} ms')}"
            f"{f', {t.relative}' if t.relative else ''}"
            for t in card.latency
        ),
        *([] if card.latency else ["    not measured"]),
        "",
        *textwrap.wrap(f"limits: {card.limits}", 100, initial_indent="  ", subsequent_indent="  "),
    ]
    return "\n".join(lines)


def add_to(command: Command) -> None:
    """Add `posezoo list` and `posezoo info`."""
    parser = command("list", list_command, "models, sizes, licences", """
        List models with their size and the licences of code, weights and training data.

        example:
          posezoo list "mobilenet*" --released
    """)  # fmt: skip
    parser.add_argument("pattern", nargs="?", default="*", help="name with * and ? (default: all)")
    parser.add_argument("--released", action="store_true", help="only models with released weights")

    parser = command("info", info_command, "everything about one model", """
        Show a model's card: source, size, licences, released files, measured accuracy and latency, limits.
    """)  # fmt: skip
    model_argument(parser, positional=True)
