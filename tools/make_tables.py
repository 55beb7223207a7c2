"""Write the table of released models into the README, from the cards, and tables of results into their pages.

python tools/make_tables.py

Pages take theirs from benchmarks/results: the hands' from hands.json and hand_speed.json as their benchmarks write
them, and hand_ablation.json, the ablation.json of `recipes/train_hand25d.py --ablate`; compression's from
compression.json, the recipes' `--record`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from posezoo import counts
from posezoo.cards import Card, all_cards
from posezoo.zoo import build_released, released_card

ROOT = Path(__file__).parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
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
        (("coco_people", "COCO people PCK@0.2"), ("lspet", "LSPet PCK@0.2")),
    ),
    Task(
        "Several people in a whole picture",
        ("associative_embedding",),
        (("lspet", "LSPet PCK@0.2, best person"), ("lspet canvases", "canvases AP"), ("coco_people", "COCO AP")),
    ),
    Task(
        "Several people in a depth frame",
        ("part_affinity",),
        (("utd_mhad", "Kinect frames F-score"), ("synth", "rendered frames F-score")),
    ),
    Task(
        "Two hands in a depth camera's frame",
        ("hand",),
        (("rendered hands", "PCK@0.1 of the hand's box"), ("rendered hands, error", "error in pixels")),
    ),
)


def accuracy(card: Card, dataset: str) -> str:
    """The card's measurements of one forward pass: float, then int8."""
    return ", ".join(measured(card, dataset, precision) for precision in ("float32", "int8"))


def measured(card: Card, dataset: str, precision: str, *, absent: str = "not measured") -> str:
    """One of the card's measurements of one forward pass."""
    rows = [m for m in card.accuracy if (m.precision, m.dataset, m.flip) == (precision, dataset, False)]
    return printed(rows[0].value) if rows and rows[0].value is not None else absent


def printed(value: float) -> str:
    """A share with three decimals, pixels with two."""
    return f"{value:.2f}" if value > 1 else f"{value:.3f}"


def row(card: Card, task: Task) -> tuple[str, ...]:
    height, width, _ = released_card(card.name).input.shape
    macs = counts.macs(build_released(card.name)) if card.released else card.size["macs"]
    latency = next((t for t in card.latency if t.precision == "int8" and t.network_ms is not None), None)
    return (
        f"`{card.name}`", f"{height}x{width}", f"{card.size['params'] / 1e6:.2f} M", f"{macs / 1e6:,.0f}",
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
    protocols = {
        (m.dataset, m.protocol, m.command)
        for card in cards for m in card.accuracy
        if m.command and m.protocol and m.precision in ("float32", "int8")
    }  # fmt: skip
    told = [f"{dataset}: {protocol} (`{command}`)." for dataset, protocol, command in sorted(protocols)]
    return "\n".join([*lines, "", " ".join(told)])


def tables() -> str:
    return "\n\n".join(text for text in map(table, TASKS) if text)


def refreshed(text: str) -> str:
    """Return the README with a fresh table."""
    return re.sub(f"{START}.*?{END}", lambda _: f"{START}\n{tables()}\n{END}", text, flags=re.DOTALL)


# ----------------------------------------------------------------------------------------------- hands


def hand_accuracy(record: dict) -> str:
    """Error and PCK of the released files, as `benchmarks/hands.py` measured them."""
    lines = ["| model | precision | frames | number | error px | PCK@0.1 | hidden px | hands right |", "|---" * 8 + "|"]
    for row in record["rows"]:
        for part, s in row["parts"].items():
            numbers = (s["error_px"], s["pck"], s["hidden_px"], s["hands"])
            told = ("not measured" if v is None else printed(v) for v in numbers)
            lines.append(f"| `{row['model']}` | {row['precision']} | {part} | {s['frames']:,} | {' | '.join(told)} |")
    return "\n".join([*lines, "", f"{record['protocol']} (`{record['command']}`)"])


def hand_sizes(record: dict) -> str:
    """Counts and latencies, as `benchmarks/hand_speed.py` measured them: the paper's table 2."""
    lines = ["| network | | precision | input | parameters | MMACs | file kB | ms | ratio |", "|---" * 9 + "|"]
    for r in record["rows"]:
        counted = ("", "") if r["params"] is None else (f"{r['params']:,}", f"{r['macs'] / 1e6:,.1f}")
        ratio = "not measured" if r["ratio"] is None else f"{r['ratio']:.2f}"
        lines.append(
            f"| `{r['model']}` | {r['told']} | {r['precision']} | {r['input']} | {' | '.join(counted)} | "
            f"{r['bytes'] / 1e3:,.0f} | {r['network_ms']:.2f} | {ratio} |"
        )
    (decode,) = (r for r in record["rows"] if (r["model"], r["precision"]) == ("hand25d", "int8"))
    about = (
        f"Medians of {record['runs']} interleaved runs on {record['threads']} thread of "
        f"{record['environment']['cpu']}; ratio to MediaPipe's hand landmarks. Decoding the int8 "
        f"`hand25d` takes {decode['decode_alone_ms']:.2f} ms by itself, and {decode['decode_ms']:.2f} ms in turn with "
        f"the networks, whose work empties the caches (`{record['command']}`)."
    )
    return "\n".join([*lines, "", about])


def hand_ablation(record: dict) -> str:
    """What each task and another backbone add, as the recipe's `--ablate` measured it: the paper's tables 1 and 2."""
    lines = ["| tasks | backbone | error px | PCK@0.1 |", "|---|---|---:|---:|"]
    lines += [f"| {r['tasks']} | `{r['backbone']}` | {r['error_px']:.2f} | {r['pck']:.3f} |" for r in record["rows"]]
    about = (
        f"{record['frames']:,} frames x {record['epochs']} epochs for each row, {record['input']} input, best of the "
        f"epochs on {record['val_frames']:,} frames of '{record['val']}'."
    )
    return "\n".join([*lines, "", about])


# ---------------------------------------------------------------------------------------- several people

#: Column of `benchmarks/multi_person.py` -> its title.
PEOPLE = {
    "lspet_pck": "LSPet, whole picture, best person: PCK@0.2",
    "canvases_ap": "canvases of 2 to 4 people: AP",
    "canvases_ap50": "AP50",
    "coco_ap": "COCO pictures: AP",
    "coco_ap50": "AP50",
    "coco_ap_medium": "AP medium",
    "coco_ap_large": "AP large",
}


def several_people(record: dict) -> str:
    """Accuracy of the released files and of the yardstick, as `benchmarks/multi_person.py` measured them."""
    lines = ["| " + " | ".join(("network", "file", "mirrored pass", *PEOPLE.values())) + " |"]
    lines.append("|---" * 3 + "|---:" * len(PEOPLE) + "|")
    for r in record["rows"]:
        numbers = ("not measured" if r.get(column) is None else f"{r[column]:.3f}" for column in PEOPLE)
        told = ("too" if r["flip"] else "no", *numbers)
        lines.append(f"| `{r['model']}` | {r['precision']} | {' | '.join(told)} |")
    commands = dict.fromkeys(record.get("commands", {"": record["command"]}).values())
    return "\n".join([*lines, "", f"Made by {', '.join(f'`{command}`' for command in commands)}."])


def sizes_speed(record: dict) -> str:
    """Latency and training speed of each size, as `benchmarks/efficienthrnet_speed.py` measured them."""
    found = {(r["model"], r["input"], r["precision"]): r for r in record["latency"]}
    trained = {r["model"]: r for r in record["training"]}
    lines = [
        "| network | input | float ms | int8 ms | decoding ms | pictures/s of training |",
        "|---|---" + "|---:" * 4 + "|",
    ]
    for model, size in dict.fromkeys((m, s) for m, s, _ in sorted(found) if m in trained):
        full, int8 = found[model, size, "float32"], found[model, size, "int8"]
        rates = [v for k, v in trained[model].items() if k != "model" and v is not None]
        ms = f"{full['network_ms']:.0f} | {int8['network_ms']:.1f} | {int8['decode_ms']:.1f}"
        lines.append(f"| `{model}` | {size} | {ms} | {f'{max(rates):.1f}' if rates else 'not measured'} |")
    about = (
        f"Medians of {record['runs']} interleaved runs on {record['threads']} thread; decoding is that of four people. "
        f"Training at 256 px on {record['training_threads']} threads. On {record['environment']['cpu']}, "
        f"`{record['command']}`; beside MoveNet and PoseNet in "
        "[its results](../benchmarks/results/efficienthrnet_speed.md)."
    )
    return "\n".join([*lines, "", about])


# ------------------------------------------------------------------------------------------------ depth


def depth_costs(record: dict) -> str:
    """What each depth network costs, and how good its released weights are: the paper's table I."""
    found: dict[str, dict[str, dict]] = {}
    for r in record["latency"]:
        found.setdefault(r["model"], {})[r["precision"]] = r
    lines = [
        "| network | parameters | GMACs | float ms | int8 ms | decoding ms | F, real frames | F, rendered frames |",
        "|---" + "|---:" * 7 + "|",
    ]
    for name, card in all_cards().items():
        if card.family != "pose_machines" or name not in found:
            continue
        full, int8 = found[name]["float32"], found[name]["int8"]
        ms = f"{full['network_ms']:.1f} | {int8['network_ms']:.1f}"
        decoding = "none" if int8["decode_ms"] is None else f"{int8['decode_ms']:.1f}"
        scores = (measured(card, dataset, "float32", absent="not trained") for dataset in ("utd_mhad", "synth"))
        told = " | ".join(scores)
        counted = f"{card.size['params']:,} | {card.size['macs'] / 1e9:.2f}"
        lines.append(f"| `{name}` | {counted} | {ms} | {decoding} | {told} |")
    about = (
        f"At the cards' inputs. Medians of {record['runs']} interleaved runs on {record['threads']} thread of "
        f"{record['environment']['cpu']} (`{record['command']}`); decoding is that of four people. F-scores "
        "in float are those of `python benchmarks/pose_machines.py`."
    )
    return "\n".join([*lines, "", about])


def distilled(record: dict) -> str:
    """Students alone and taught, over seeds, as `benchmarks/distillation.py` measured them: the paper's table V."""
    lines = ["| trained | seeds | AP | AR | F | upper F |", "|---|---:|---:|---:|---:|---:|"]
    for row in record["rows"]:
        scores = (row[key] for key in ("all_precision", "all_recall", "all_f", "upper_f"))
        cells = " | ".join(f"{s['mean']:.3f} ± {s['spread']:.3f}" for s in scores)
        lines.append(f"| {row['label']} | {len(row['seeds'])} | {cells} |")
    about = (
        f"`{record['model']}` at {record['input_px']} px; mean and standard deviation over seeds. {record['protocol']} "
        f"(`python benchmarks/distillation.py`)."
    )
    return "\n".join([*lines, "", about])


# ----------------------------------------------------------------------------------------- compression

#: Forms of a network in the order of their recipes -> what they are.
FORMS = {
    "float32": "float32",
    "int8": "int8 by calibration",
    "int8-mixed": "the worst layers in float32",
    "int16x8": "tensors of 16 bits",
    "int8-qat": "int8 by training",
    "float32-pruned": "pruned, float32",
    "int8-pruned": "pruned, int8 by calibration",
    "int8-pruned-qat": "pruned, int8 by training",
    "float32-2:4": "two of four zero, float32",
    "int8-2:4": "two of four zero, int8 by calibration",
    "int8-2:4-qat": "two of four zero, int8 by training",
}


def compressed(record: dict) -> str:
    """Scores and sizes of each network's forms, as the compression recipes measured them."""

    def megabytes(row: dict, key: str) -> str:
        return f"{row[key] / 1e6:.2f}" if row.get(key) else ""

    columns = "| network | form | score | | to float32 | examples | MB | MB gzip | zeros |"
    lines = [columns, "|---|---|---" + "|---:" * 6 + "|"]
    order = list(FORMS)
    for r in sorted(record["rows"], key=lambda r: (r["model"], order.index(r["precision"]))):
        zeros = f"{r['sparsity']:.0%}" if r.get("sparsity") else ""
        sizes = f"{megabytes(r, 'bytes')} | {megabytes(r, 'gzip_bytes')} | {zeros}"
        lines.append(
            f"| `{r['model']}` | {FORMS[r['precision']]} | {r['dataset']} {r['metric']} | {r['value']:.3f} | "
            f"{r['value'] - r['float32']:+.3f} | {r['people']:,} | {sizes} |"
        )
    commands = sorted({f"`{r['command']}`" for r in record["rows"]})
    return "\n".join([*lines, "", f"Each on the network's own validation examples. Made by {', '.join(commands)}."])


# ----------------------------------------------------------------------------------------- exported files


def exported(record: dict) -> str:
    """Latency and size in float32 and int8 on each runtime, as `benchmarks/export_speed.py` measured them."""
    by_model: dict[str, dict[str, dict]] = {}
    for row in record["rows"]:
        by_model.setdefault(row["model"], {})[row["target"]] = row
    pairs = record["pairs"]
    runtimes = " | | ".join(pairs).replace(" |", ": float32, int8, ms |", 1)
    lines = [
        f"| network | {runtimes} | | TFLite: float32, int8, MB | made in |",
        "|---|" + "---:|" * (2 * len(pairs) + 2),
    ]
    for name, rows in by_model.items():
        cells = [f"{rows[a]['ms']:.1f}, {rows[b]['ms']:.1f} | {rows[b]['of_float']:.2f}x" for a, b in pairs.values()]
        size = ", ".join(f"{rows[target]['bytes'] / 1e6:.2f}" for target in pairs["LiteRT"])
        lines.append(f"| `{name}` | {' | '.join(cells)} | {size} | {rows['tflite']['made_in_s']:.0f} s |")
    about = (
        f"Medians of {record['runs']} interleaved runs on {record['threads']} thread of "
        f"{record['environment']['cpu']}, one picture at a time, and what int8 takes of float32's time; the TFLite "
        "int8 file made with all gates, "
        f"calibrated on 8 pictures, in at most {record['peak_gb']:.1f} GB (`{record['command']}`)."
    )
    return "\n".join([*lines, "", about])


def converted(record: dict) -> str:
    """Time and memory of the export command, as `benchmarks/conversion_speed.py` measured them."""
    lines = ["| model | GMACs | seconds, median of runs | slowest | most memory |", "|---|" + "---:|" * 4]
    for row in record["rows"]:
        told = (
            f"{statistics.median(row['seconds']):.0f} s | {max(row['seconds']):.0f} s | {row['peak_gb']:.1f} GB"
            if "reason" not in row
            else f"no file: {row['reason']} | |"
        )
        lines.append(f"| `{row['model']}` | {row['macs'] / 1e9:.2f} | {told} |")
    machine = record["environment"]
    about = (
        f"On {machine['cpu']}, {machine['usable_cpus']} CPUs, each run a process of its own (`{record['command']}`)."
    )
    return "\n".join([*lines, "", about])


#: Page -> name of a place in it -> file of results, what makes it, and the table.
PLACES: dict[Path, dict[str, tuple[str, str, Callable[[dict], str]]]] = {
    ROOT / "docs" / "hand.md": {
        "accuracy": ("hands", "python benchmarks/hands.py --data hands/test", hand_accuracy),
        "sizes": ("hand_speed", "python benchmarks/hand_speed.py", hand_sizes),
        "ablation": ("hand_ablation", "python recipes/train_hand25d.py --ablate", hand_ablation),
    },
    ROOT / "docs" / "efficienthrnet.md": {
        "people": ("multi_person", "python benchmarks/multi_person.py", several_people),
        "speed": ("efficienthrnet_speed", "python benchmarks/efficienthrnet_speed.py", sizes_speed),
    },
    ROOT / "docs" / "pose_machines.md": {
        "costs": ("pose_machines_speed", "python benchmarks/pose_machines_speed.py", depth_costs),
        "distilled": ("distillation", "python benchmarks/distillation.py", distilled),
    },
    ROOT / "docs" / "compression.md": {
        "results": ("compression", "python recipes/quantize_qat.py", compressed),
    },
    ROOT / "docs" / "export_tflite.md": {
        "speed": ("export_speed", "python benchmarks/export_speed.py", exported),
        "conversion": ("conversion_speed", "python benchmarks/conversion_speed.py", converted),
    },
}


def filled(text: str, places: dict[str, tuple[str, str, Callable[[dict], str]]], results: Path = RESULTS) -> str:
    """Return a page with fresh tables; where there are no results yet it says so."""
    for name, (file, command, made) in places.items():
        path = results / f"{file}.json"
        told = made(json.loads(path.read_text())) if path.exists() else f"Not measured yet (`{command}`)."
        start, end = f"<!-- {name}: made by tools/make_tables.py -->", f"<!-- end of {name} -->"
        text = re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{told}\n{end}", text, flags=re.DOTALL)  # noqa: B023
    return text


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text()))
    for page, places in PLACES.items():
        page.write_text(filled(page.read_text(), places))
