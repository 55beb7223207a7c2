"""Fill in what code can know on the cards: sizes, file sizes, hashes, and the benchmarks' latest results.

python tools/make_cards.py            # rewrite the cards that are out of date
python tools/make_cards.py --check    # only say which are
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import yaml

import posezoo
from posezoo import counts
from posezoo.cards.card import FOLDER
from posezoo.weights import PACKAGED, sha256
from posezoo.zoo import released_card

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
QAT = {"precision": "int8-qat", "value": None}
#: Key of a row of `benchmarks/hands.py`, data set on the card, metric.
HANDS = (
    ("pck", "rendered hands", "PCK@0.1 of the longer side of the hand's box, seen keypoints"),
    ("error_px", "rendered hands, error", "mean error of seen keypoints in input pixels"),
)
F_SCORE = "F-score of landmarks, kappa 0.05 to 0.15 of the person's height"
#: Key of a row of `benchmarks/multi_person.py`, data set, protocol's key there, and the metric's name.
MULTI_PERSON = (
    ("lspet_pck", "lspet", "lspet", "PCK@0.2 of the best-scoring person, 12 limb joints"),
    ("canvases_ap", "lspet canvases", "canvases", "OKS-AP, 12 limb joints"),
    ("coco_ap", "coco_people", "coco_people", "COCO AP"),
)


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
    if card["weights"]:
        name = card["name"]
        card["accuracy"] = accuracy_of(name)
        benchmarks = ("efficienthrnet_speed", "pose_machines_speed", "hand_speed", "latency")
        card["latency"] = next(filter(None, (measured_latency(name, b) for b in benchmarks)), [])
    return card


def accuracy_of(name: str) -> list[dict]:
    """Return a card's accuracy rows: the benchmarks', and those of `recipes/` that compress in their own places."""
    rows = [*single_person_accuracy(name), *multi_person_accuracy(name), *depth_accuracy(name), *hand_accuracy(name)]
    compressed = compressed_accuracy(name)
    measured = {row["precision"] for row in compressed}
    return [*(row for row in rows if row["value"] is not None or row["precision"] not in measured), *compressed]


def compressed_accuracy(name: str) -> list[dict]:
    """Return the card's rows from the recipes that compress: what float32 reached on the same examples is told.

    Their `int8` is a file that calibration made; the released one, which the card calls so, may be trained to rounding.
    """
    return [
        {
            "precision": "int8-ptq" if row["precision"] == "int8" else row["precision"],
            "dataset": row["dataset"], "metric": row["metric"], "value": row["value"],
            "people": row["people"], "protocol": f"{row['protocol']}; float32 there {row['float32']:.3f}",
            "command": row["command"],
        }
        for row in results_of("compression").get("rows", ())
        if row["model"] == name and row["precision"] != "float32"
    ]  # fmt: skip


def results_of(benchmark: str) -> dict:
    """Return what a benchmark wrote; no rows where it never ran."""
    path = RESULTS / f"{benchmark}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def single_person_accuracy(name: str) -> list[dict]:
    """Return the card's accuracy rows from `benchmarks/accuracy.py`, and a row for what is not measured yet."""
    results = results_of("accuracy")
    rows = []
    for row in results.get("rows", ()):
        if row["model"] == name:
            shared = {key: row[key] for key in ("precision", "dataset", "people", "flip", "protocol")}
            shared["command"] = results["command"]
            rows.append({**shared, "metric": row["metric"], "value": row["value"]})
            if "ap" in row:
                rows.append({**shared, "metric": "COCO AP, boxes given", "value": row["ap"]})
    return [*rows, {**QAT, "dataset": "lspet", "metric": rows[0]["metric"]}] if rows else []


def multi_person_accuracy(name: str) -> list[dict]:
    """Return the card's accuracy rows from `benchmarks/multi_person.py`, and a row for what is not measured yet."""
    results = results_of("multi_person")
    rows = [
        {
            "precision": row["precision"], "dataset": dataset, "metric": metric, "value": row[key],
            "flip": row["flip"], "protocol": results["protocol"][protocol],
            "command": results.get("commands", {}).get(protocol, results["command"]),
        }
        for row in results.get("rows", ())
        if row["model"] == name
        for key, dataset, protocol, metric in MULTI_PERSON
        if key in row
    ]  # fmt: skip
    return [*rows, {**QAT, "dataset": "lspet", "metric": rows[0]["metric"]}] if rows else []


def depth_accuracy(name: str) -> list[dict]:
    """Return the card's accuracy rows from `benchmarks/pose_machines.py`, and a row for what is not measured yet."""
    results = results_of("pose_machines")
    rows = [
        {
            "precision": row["precision"], "dataset": row["dataset"], "metric": F_SCORE, "value": row["all_f"],
            "people": row["frames"], "protocol": results["protocol"][row["dataset"]], "command": results["command"],
        }
        for row in results.get("rows", ())
        if row["model"] == name
    ]  # fmt: skip
    return [*rows, {**QAT, "dataset": rows[0]["dataset"], "metric": F_SCORE}] if rows else []


def hand_accuracy(name: str) -> list[dict]:
    """Return the card's accuracy rows from `benchmarks/hands.py`."""
    results = results_of("hands")
    return [
        {
            "precision": row["precision"], "dataset": dataset, "metric": metric, "value": row["parts"]["all"][key],
            "people": row["parts"]["all"]["frames"], "protocol": results["protocol"], "command": results["command"],
        }
        for row in results.get("rows", ())
        if row["model"] == name
        for key, dataset, metric in HANDS
    ]  # fmt: skip


def measured_latency(name: str, benchmark: str) -> list[dict]:
    """Return the card's latency rows from `benchmarks/latency.py` or the family's own benchmark.

    Of a network that was measured at several sizes, those at its released weights' size.
    """
    results = results_of(benchmark)
    height, width, _ = released_card(name).input.shape
    where = results.get("environment")
    yardstick = results.get("yardstick", "MoveNet Lightning int8")

    def ms(value: float | None) -> float | None:
        return None if value is None else round(value, 2)

    return [
        {
            "precision": row["precision"], "device": where["cpu"],
            "runtime": f"LiteRT {where['versions']['ai-edge-litert']}",
            "threads": results["threads"], "network_ms": ms(row["network_ms"]), "decode_ms": ms(row["decode_ms"]),
            "date": where["date"], "command": results["command"],
            "relative": f"{row['ratio']:.2f}x {yardstick}" if row["ratio"] else "",
        }
        for row in results.get("rows", results.get("latency", ()))
        if row["model"] == name and row.get("input", f"{height}x{width}") == f"{height}x{width}"
    ]  # fmt: skip


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
