"""Latency of every packaged int8 file and of other projects' networks, interleaved on one machine.

    python benchmarks/latency.py
    python benchmarks/latency.py --threads 4
    python benchmarks/latency.py --files mobilenet_split_224=mine.tflite

The network alone, from its input tensor to its output tensors, and the decoding of its outputs are timed apart.
Other networks are looked for in POSEZOO_SHARED (peers/, tools/teachers/models); what is absent is named and left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from peers import DETECTOR, LATENCY_ONLY, PEERS, YARDSTICK, Peer, TFLiteFile, TinyPose, peer_path, present
from report import IMAGES, RESULTS, SHARED, environment, machine_line, markdown_table, write_results

import posezoo
from posezoo.cards.card import InputSpec
from posezoo.commands.display import track
from posezoo.evaluation.latency import Contender, Timing, measure
from posezoo.evaluation.plots import pyplot
from posezoo.files import replacing

#: Accuracy that the picture shows: no flip test, as the latency is of one forward pass.
PLOTTED_DATASET = "coco_people"


def own_contender(name: str, threads: int, weights: str = "default") -> tuple[Contender, dict]:
    """A packaged file, or one of the user's own, with its decoding."""
    model = posezoo.load(name, runtime="tflite", weights=weights, threads=threads)
    tensor = model.runner.prepare(sample_input(model.card.input))
    height, width, _ = model.card.input.shape

    def decode(raw):
        return model.decode(model.runner.finish(raw))

    path = Path(weights) if weights != "default" else None
    size = path.stat().st_size if path else model.card.weights["int8"].bytes
    about = {"kind": "posezoo", "precision": "int8", "input": f"{height}x{width}", "bytes": size}
    return Contender(lambda: model.runner.invoke(tensor), decode), about


def peer_contender(name: str, folder: Path, threads: int) -> tuple[Contender, dict]:
    """A pose network of another project with its decoding, or a file that is only run."""
    if name in PEERS:
        peer = Peer(name, folder, threads=threads)
        file, decode, precision = peer.file, peer.decode, peer.spec.precision
        tensor = peer.spec.prepare(sample_picture((peer.spec.crop_px, peer.spec.crop_px)))
    else:
        file, decode = TFLiteFile(peer_path(folder, name), threads=threads), None
        precision = "int8" if name == DETECTOR else "float32"
        tensor = file.blank()
    _, height, width, _ = file.input_shape
    about = {"kind": "peer", "precision": precision, "input": f"{height}x{width}", "bytes": file.bytes}
    return Contender(lambda: file.invoke(tensor), decode), about


def tiny_pose_contender(teacher: TinyPose) -> tuple[Contender, dict]:
    """PP-TinyPose on onnxruntime with its decoding."""
    tensor = teacher.prepare(sample_picture(teacher.input_wh)[None])

    def decode(outputs):
        return teacher.codec.decode(outputs[0].transpose(0, 2, 3, 1))

    width, height = teacher.input_wh
    about = {"kind": "peer", "precision": "float32", "input": f"{height}x{width}", "bytes": teacher.bytes}
    return Contender(lambda: teacher.invoke(tensor), decode), about


def sample_picture(wh: tuple[int, int]) -> np.ndarray:
    """A smooth random picture `(height, width, 3)`: latency does not depend on what is seen."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, wh, interpolation=cv2.INTER_LINEAR)


def sample_input(spec: InputSpec) -> np.ndarray:
    """A picture of the kind that a network looks at."""
    picture = sample_picture(spec.wh)
    if spec.depth:
        return picture[..., :1] / np.float32(64) + np.float32(1)
    return picture[..., :1] if spec.amplitude else picture


def rows_of(timings: dict[str, Timing], about: dict[str, dict]) -> list[dict]:
    """One row per network, fastest first, with its ratio to the yardstick where that ran."""
    base = timings[YARDSTICK].network_ms if YARDSTICK in timings else None
    rows = []
    for name, timing in sorted(timings.items(), key=lambda item: item[1].network_ms):
        row = {"model": name, **about[name]}
        row["network_ms"] = round(timing.network_ms, 3)
        row["quartile_spread_ms"] = round(timing.spread_ms, 3)
        row["decode_ms"] = None if timing.decode_ms is None else round(timing.decode_ms, 3)
        row["ratio"] = None if base is None else round(timing.network_ms / base, 3)
        row["runs"] = timing.runs
        rows.append(row)
    return rows


def markdown(record: dict) -> str:
    """The rows as a table."""
    columns = ("network", "precision", "input", "file MB", "network ms", "quartile spread", "decode ms", "ratio")
    rows = []
    for r in record["rows"]:
        decode = "none" if r["decode_ms"] is None else f"{r['decode_ms']:.2f}"
        ratio = None if r["ratio"] is None else f"{r['ratio']:.2f}"
        rows.append(
            (
                f"`{r['model']}`", r["precision"], r["input"], f"{r['bytes'] / 1e6:.2f}",
                f"{r['network_ms']:.2f}", f"{r['quartile_spread_ms']:.2f}", decode, ratio,
            )
        )  # fmt: skip
    runs = record["rows"][0]["runs"]
    return "\n".join(
        [
            f"# Latency, {record['threads']} thread{'s' if record['threads'] > 1 else ''}\n",
            f"Medians of {runs} interleaved runs; ratio of the network's time to that of `{YARDSTICK}`. Made by "
            f"`{record['command']}` on {machine_line(record['environment'])}.\n",
            markdown_table(columns, rows),
        ]
    )


# --------------------------------------------------------------------------------------------------- picture


def points(latency: Sequence[dict], accuracy: Sequence[dict]) -> list[dict]:
    """Join both tables: one point per network that has a latency and an accuracy of the same precision."""
    pck = {
        (r["model"], r["precision"]): r["value"] for r in accuracy if r["dataset"] == PLOTTED_DATASET and not r["flip"]
    }
    joined = []
    for row in latency:
        value = pck.get((row["model"], row["precision"]))
        if value is not None:
            total = row["network_ms"] + (row["decode_ms"] or 0)
            joined.append({"model": row["model"], "kind": row["kind"], "total_ms": total, "pck": value})
    return joined


def plot(joined: Sequence[dict], path: Path, *, threads: int, where: str) -> None:
    """Draw accuracy against latency with a label at each point.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    plt = pyplot()

    figure, axis = plt.subplots(figsize=(8, 5) if len(joined) < 10 else (10, 6.5))
    looks = {"posezoo": ("o", "tab:blue", "posezoo"), "peer": ("s", "0.45", "other projects")}
    for kind, (marker, colour, label) in looks.items():
        chosen = [p for p in joined if p["kind"] == kind]
        axis.scatter([p["total_ms"] for p in chosen], [p["pck"] for p in chosen], marker=marker, c=colour, label=label)
    axis.set_xscale("log")
    times, values = [p["total_ms"] for p in joined], [p["pck"] for p in joined]
    axis.set_xlim(min(times) / 1.25, max(times) * 1.25)
    margin = 0.08 * (max(values) - min(values)) + 0.01
    axis.set_ylim(min(values) - margin, max(values) + margin)
    ticks = [t for t in (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500) if min(times) / 1.25 <= t]
    axis.set_xticks([t for t in ticks if t <= max(times) * 1.25])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(plt.NullLocator())
    axis.set_xlabel(f"network + decoding, ms (median, {threads} thread{'s' if threads > 1 else ''}, {where})")
    axis.set_ylabel("PCK@0.2 on COCO people kept for validation")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    place_labels(figure, axis, joined)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as target:
        figure.savefig(target, dpi=120)
    plt.close(figure)


def place_labels(figure, axis, joined: Sequence[dict]) -> None:
    """Write each point's name where it touches neither another name, another point nor the border."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    figure.tight_layout()
    frame = axis.get_window_extent(renderer)
    centres = [axis.transData.transform((p["total_ms"], p["pck"])) for p in joined]
    taken = [axis.get_legend().get_window_extent(renderer)]
    angles = np.deg2rad([0, 180, 90, -90, 45, 135, -45, -135, 67, 113, -67, -113])
    places = [(d * np.cos(a), d * np.sin(a) - 3) for d in (7, 13, 20, 30, 42, 56, 72, 90) for a in angles]
    for p in sorted(joined, key=lambda p: -p["pck"]):
        best = None
        for dx, dy in places:
            side = "center" if abs(dx) < 5 else "left" if dx > 0 else "right"
            text = axis.annotate(
                p["model"], (p["total_ms"], p["pck"]), (dx, dy), textcoords="offset points", ha=side, fontsize=7,
                arrowprops={"arrowstyle": "-", "color": "0.7", "lw": 0.5} if np.hypot(dx, dy + 3) > 12 else None,
            )  # fmt: skip
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # an annotation's own extent includes its line to the point
            clashes = sum(box.overlaps(other) for other in taken)
            clashes += sum(box.x0 - 3 < x < box.x1 + 3 and box.y0 - 3 < y < box.y1 + 3 for x, y in centres)
            clashes += 10 * (box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1)
            if best is None or clashes < best[0]:
                if best:
                    best[1].remove()
                best = (clashes, text, box)
            else:
                text.remove()
            if best[0] == 0:
                break
        taken.append(best[2])


# ------------------------------------------------------------------------------------------------------ main


def parse_file(text: str) -> tuple[str, str]:
    """Read `NAME=PATH`.

    Raises:
        argparse.ArgumentTypeError: It has another form, or there is no such file.
    """
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=PATH, such as mobilenet_split_224=mine.tflite")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path}: no such file; expected a TFLite file of model '{name}'")
    return name, path


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: every packaged file)")
    parser.add_argument(
        "--files", type=parse_file, nargs="*", default=[], metavar="NAME=PATH",
        help="further files of your own, each of a model that 'posezoo list' names",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of every network alike (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=100, help="measured rounds (default: %(default)s)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of peers/ (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for latency.json and .md")
    parser.add_argument("--accuracy", type=Path, default=RESULTS / "accuracy.json", help="what accuracy.py wrote")
    parser.add_argument("--picture", type=Path, default=IMAGES / "accuracy_latency.png", help="the scatter plot")
    arguments = parser.parse_args(argv)
    if arguments.threads < 1 or arguments.runs < 1:
        parser.error("--threads and --runs must be at least 1")
    cv2.setNumThreads(1)

    record = {
        "command": f"python benchmarks/latency.py --threads {arguments.threads} --runs {arguments.runs}",
        "threads": arguments.threads,
        "environment": environment("ai-edge-litert"),
    }
    made = {}
    for name in posezoo.list_models(arguments.models, runtime="tflite"):
        made[name] = own_contender(name, arguments.threads)
    for name, path in arguments.files:
        label = f"{name} ({Path(path).name})" if name in made else name
        made[label] = own_contender(name, arguments.threads, path)
    for name in present((*PEERS, *LATENCY_ONLY), arguments.shared / "peers"):
        made[name] = peer_contender(name, arguments.shared / "peers", arguments.threads)
    if (teacher := TinyPose.find(arguments.shared, threads=arguments.threads)) is not None:
        made[TinyPose.name] = tiny_pose_contender(teacher)
    if not made:
        raise SystemExit("nothing to time: no packaged file, no --files, and no peers in POSEZOO_SHARED")
    contenders = {name: contender for name, (contender, _) in made.items()}
    timings = measure(contenders, runs=arguments.runs, progress=lambda rounds: track(rounds, "measuring"))
    record["rows"] = rows_of(timings, {name: about for name, (_, about) in made.items()})
    text = markdown(record)
    print(text)
    write_results(arguments.out, "latency", record, text)

    if arguments.accuracy.is_file():
        accuracy = json.loads(arguments.accuracy.read_text())["rows"]
        joined = points(record["rows"], accuracy)
        if joined:
            plot(joined, arguments.picture, threads=arguments.threads, where=record["environment"]["cpu"])
            print(f"written: {arguments.picture}")
        else:
            print(f"no picture: {arguments.accuracy} has no accuracy on {PLOTTED_DATASET} of a network timed here")
    else:
        print(f"no picture: no {arguments.accuracy}; python benchmarks/accuracy.py makes it")
    return record


if __name__ == "__main__":
    main()
