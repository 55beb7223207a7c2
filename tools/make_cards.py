"""Fill in what code can know on the cards: sizes, file sizes and hashes. Measurements are left alone.

python tools/make_cards.py            # rewrite the cards that are out of date
python tools/make_cards.py --check    # only say which are
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

import posezoo
from posezoo import counts
from posezoo.cards.card import FOLDER
from posezoo.weights import PACKAGED, sha256


def refreshed(card: dict) -> dict:
    """Return the card with `size` and `weights` as the network and the files have them."""
    network = posezoo.build(card["name"])
    card = {**card, "size": {"params": counts.params(network), "macs": counts.macs(network)}}
    card["weights"] = {
        precision: {
            **entry,
            "bytes": (PACKAGED / entry["file"]).stat().st_size,
            "sha256": sha256(PACKAGED / entry["file"]),
        }
        for precision, entry in (card.get("weights") or {}).items()
    }
    return card


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args(argv)
    stale = []
    for path in sorted(Path(FOLDER).glob("*.yaml")):
        card = yaml.safe_load(path.read_text())
        new = refreshed(card)
        if new != card:
            stale.append(path.name)
            if not arguments.check:
                path.write_text(yaml.safe_dump(new, sort_keys=False, allow_unicode=True, width=110))
    print(f"{len(stale)} card(s) {'are' if arguments.check else 'were'} out of date: {', '.join(stale) or 'none'}")
    return bool(stale and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
