"""PCK of every released model and of other projects' networks, on the same crops, in one run.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --models "mobilenet_split_*" --plot

Data sets are looked for in POSEZOO_SHARED/data (LSPet's 500 validation pictures, a few COCO people), the other
networks in POSEZOO_SHARED/peers; what is absent is named and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from peers import PEERS, YARDSTICK, Decoded, Peer, present
from released import finds_people, released
from report import IMAGES, RESULTS, SHARED, environment, machine_line, markdown_table, write_results

from posezoo.commands.display import track
from posezoo.data import KeypointSet
from posezoo.data.pipeline import PersonCrops
from posezoo.data.readers import read
from posezoo.evaluation.pck import LIMB_JOINTS, PCK
from posezoo.evaluation.top_down import evaluate_pck
from posezoo.skeletons import Skeleton, joint_kind

THRESHOLD = 0.2
ENLARGE = 1.35
MIN_LIMB_JOINTS = 6
METRIC = f"PCK@{THRESHOLD} of left shoulder to right hip, 12 limb joints"


# ------------------------------------------------------------------------------------------------------ data


def lspet(shared: Path) -> KeypointSet:
    """LSPet's validation pictures."""
    return read("lsp", shared / "data" / "lspet", "val")


def coco_mini(shared: Path) -> KeypointSet:
    """The COCO people whose torso and enough of whose limbs are labelled."""
    return with_enough_labels(read("coco", shared / "data" / "coco_mini", "all"))


def with_enough_labels(people: KeypointSet, *, min_limb_joints: int = MIN_LIMB_JOINTS) -> KeypointSet:
    """Keep people whose torso's two ends and at least `min_limb_joints` limb joints are labelled."""
    ends = [people.skeleton.index(k) for k in people.skeleton.torso]
    limbs = limb_columns(people.skeleton)
    records = []
    for record in people.records:
        labelled = record.keypoints[..., 2] > 0
        keep = labelled[:, ends].all(axis=1) & (labelled[:, limbs].sum(axis=1) >= min_limb_joints)
        if keep.any():
            chosen = {name: getattr(record, name)[keep] for name in ("keypoints", "boxes", "areas")}
            records.append(dataclasses.replace(record, **chosen, annotation_ids=()))
    return KeypointSet(people.name, people.skeleton, records, people.problems)


def limb_columns(skeleton: Skeleton) -> list[int]:
    """Columns of the joints that count."""
    return [i for i, k in enumerate(skeleton.keypoints) if joint_kind(k) in LIMB_JOINTS]


#: Folder -> reader, and what the labels are to our models.
DATASETS: dict[str, tuple[Callable[[Path], KeypointSet], str]] = {
    "lspet": (
        lspet,
        "Validation pictures of LSPet, in-domain for posezoo's models: they learnt from its other pictures",
    ),
    "coco_mini": (coco_mini, "People of COCO 2017 with labelled torso and at least 6 labelled limb joints"),
}


# ------------------------------------------------------------------------------------------------ contenders


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the table: what is run, on crops of which size."""

    model: str
    precision: str
    flip: bool
    input_wh: tuple[int, int]
    skeleton: Skeleton
    codec: object
    run: Callable


def entries(pattern: str, shared: Path, threads: int | None) -> Iterator[Entry]:
    """Load one network after the other: the peers, then the released models with and without flip test."""
    for name in present(PEERS, shared / "peers"):
        peer = Peer(name, shared / "peers", threads=threads)
        spec = peer.spec
        yield Entry(name, spec.precision, False, (spec.crop_px, spec.crop_px), spec.skeleton, Decoded, peer)
    for name, precision, model in released(pattern, threads=threads, wanted=lambda card: not finds_people(card)):
        for flip in (False, True):
            yield Entry(name, precision, flip, model.card.input.wh, model.card.skeleton, model.codec, model.runner)


# --------------------------------------------------------------------------------------------------- results


def standard_error(scores: PCK, threshold: float = THRESHOLD) -> float:
    """Standard error of the PCK, people (not joints) being the independent draws."""
    distances = scores.distances[:, limb_columns(scores.skeleton)]
    counted = ~np.isnan(distances)
    right = (np.nan_to_num(distances, nan=np.inf) < threshold).sum(axis=1)
    residual = right - right.sum() / counted.sum() * counted.sum(axis=1)
    return float(np.sqrt((residual**2).sum()) / counted.sum())


def measure(entry: Entry, people: KeypointSet, dataset: str) -> tuple[dict, PCK]:
    """Run one entry over one set; return its row and its distances."""
    crops = PersonCrops(people, entry.input_wh, enlarge=ENLARGE)
    scores = evaluate_pck(
        entry.run, crops, entry.codec, skeleton=entry.skeleton, flip=entry.flip, workers=1,
        progress=lambda rows: track(rows, f"{entry.model} on {dataset}", total=len(crops)),
    )  # fmt: skip
    counted = ~np.isnan(scores.distances[:, limb_columns(scores.skeleton)])
    row = {
        "model": entry.model,
        "precision": entry.precision,
        "flip": entry.flip,
        "dataset": dataset,
        "metric": METRIC,
        "value": round(scores.at(THRESHOLD), 4),
        "standard_error": round(standard_error(scores), 4),
        "value_at_0.1": round(scores.at(0.1), 4),
        "people": len(crops),
        "counted_people": int(counted.any(axis=1).sum()),
        "counted_joints": int(counted.sum()),
        "per_joint": {kind: round(v, 4) for kind, v in scores.per_joint(THRESHOLD).items() if kind in LIMB_JOINTS},
    }
    return row, scores


def markdown(record: dict) -> str:
    """The measured rows as one table per data set."""
    text = [
        "# Accuracy\n",
        f"{record['metric']}. {record['protocol']} ± is one standard error over people. Made by "
        f"`{record['command']}` on {machine_line(record['environment'])}.",
    ]
    for dataset, about in record["datasets"].items():
        rows = [
            (
                f"`{r['model']}`", r["precision"], "yes" if r["flip"] else "no",
                f"{r['value']:.3f}", f"{r['standard_error']:.3f}", f"{r['value_at_0.1']:.3f}",
                *(f"{r['per_joint'][kind]:.2f}" for kind in LIMB_JOINTS),
            )
            for r in record["rows"] if r["dataset"] == dataset
        ]  # fmt: skip
        told = (
            f"{about['people']} people, of whom {about['counted_people']} have both ends of the torso labelled and "
            f"count, with {about['counted_joints']} joints"
        )
        columns = ("model", "precision", "flip test", "PCK@0.2", "±", "PCK@0.1", *LIMB_JOINTS)
        text += [f"\n## {dataset}\n", f"{about['what']}. {told}.\n"]
        text.append(markdown_table(columns, rows))
    return "\n".join(text)


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: every released model)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of data/ and peers/ (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=0, help="take only so many pictures of each set; 0 for all")
    parser.add_argument("--threads", type=int, help="threads of the TFLite runtime")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for accuracy.json and .md")
    parser.add_argument(
        "--plot", type=Path, nargs="?", const=IMAGES, metavar="FOLDER",
        help="draw PCK over thresholds as pck_DATASET.png (default folder: docs/images)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)

    sets = {}
    for name, (reader, _) in DATASETS.items():
        if (arguments.shared / "data" / name).is_dir():
            sets[name] = reader(arguments.shared)
            sets[name].records = sets[name].records[: arguments.pictures or None]
        else:
            print(f"left out: no {arguments.shared / 'data' / name}")
    if not sets:
        raise SystemExit(f"{arguments.shared}/data has none of {', '.join(DATASETS)}; set POSEZOO_SHARED or --shared")

    command = ["python", "benchmarks/accuracy.py"]
    command += ["--models", arguments.models] if arguments.models != "*" else []
    command += ["--pictures", str(arguments.pictures)] if arguments.pictures else []
    record = {
        "metric": METRIC,
        "protocol": f"Ground-truth boxes: axis-aligned box of the labelled keypoints x {ENLARGE}, square, no rotation. "
        "Hidden joints count where they are labelled.",
        "command": shlex.join(command),
        "environment": environment("ai-edge-litert", "keras", "tensorflow", "torch"),
        "datasets": {},
        "rows": [],
    }
    curves: dict[str, dict[str, PCK]] = {name: {} for name in sets}
    for entry in entries(arguments.models, arguments.shared, arguments.threads):
        for dataset, people in sets.items():
            row, scores = measure(entry, people, dataset)
            record["rows"].append(row)
            about = {key: row[key] for key in ("people", "counted_people", "counted_joints")}
            record["datasets"].setdefault(dataset, {"what": DATASETS[dataset][1], **about})
            if not entry.flip and (entry.model in PEERS or entry.precision == "int8"):
                curves[dataset][entry.model] = scores
            told = f"{entry.model} {entry.precision}{' flip' if entry.flip else ''}"
            print(f"{told:52} {dataset:10} {row['value']:.3f} ± {row['standard_error']:.3f}", flush=True)
    if not record["rows"]:
        raise SystemExit(f"nothing to measure: no peers, and no released model is called '{arguments.models}'")
    write_results(arguments.out, "accuracy", record, markdown(record))
    if arguments.plot:
        from posezoo.evaluation.plots import plot_pck

        arguments.plot.mkdir(parents=True, exist_ok=True)
        for dataset, results in curves.items():
            path = arguments.plot / f"pck_{dataset}.png"
            plot_pck(results, path, title=f"{dataset}: {record['datasets'][dataset]['counted_people']} people")
            print(f"written: {path}")
    yardstick = [r for r in record["rows"] if r["model"] == YARDSTICK]
    print("yardstick: " + (", ".join(f"{r['dataset']} {r['value']:.3f}" for r in yardstick) or "not measured"))
    return record


if __name__ == "__main__":
    main()
