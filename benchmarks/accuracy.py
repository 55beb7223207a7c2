"""PCK of every released model and of other projects' networks, on the same crops, in one run.

    python benchmarks/accuracy.py
    python benchmarks/accuracy.py --models "mobilenet_split_*" --plot

Data sets are looked for in POSEZOO_SHARED/data (COCO people kept for validation, LSPet's 500 validation pictures),
the other networks in POSEZOO_SHARED/peers and (PP-TinyPose) POSEZOO_SHARED/tools/teachers/models;
what is absent is named and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from peers import PEERS, YARDSTICK, Decoded, Peer, TinyPose, present
from released import finds_people, released
from report import IMAGES, RESULTS, SHARED, environment, machine_line, markdown_table, write_results

from posezoo.commands.display import track
from posezoo.data import KeypointSet
from posezoo.data.pipeline import PADDING, PersonCrops
from posezoo.data.readers import read
from posezoo.evaluation.coco import Known, oks_ap
from posezoo.evaluation.pck import LIMB_JOINTS, PCK, pck, torso_size
from posezoo.evaluation.top_down import by_name, labels_of, predict_crops
from posezoo.inference.poses import Poses
from posezoo.skeletons import COCO17, Skeleton, joint_kind

THRESHOLD = 0.2
#: Of people whose area is below COCO's limits, AP is told apart by size.
SIZES = ("ap", "ap_medium", "ap_large")
METRIC = f"PCK@{THRESHOLD} of left shoulder to right hip, 12 limb joints"


# ------------------------------------------------------------------------------------------------------ data


def lspet(shared: Path) -> KeypointSet:
    """LSPet's validation pictures."""
    return read("lsp", shared / "data" / "lspet", "val")


def limb_columns(skeleton: Skeleton) -> list[int]:
    """Columns of the joints that count."""
    return [i for i, k in enumerate(skeleton.keypoints) if joint_kind(k) in LIMB_JOINTS]


def coco_people(shared: Path) -> KeypointSet:
    """COCO people kept for validation, with their annotated boxes; hidden keypoints do not count for PCK."""
    return read("coco", shared / "data" / "coco_people", "val")


@dataclasses.dataclass(frozen=True)
class Measured:
    """How a data set is measured.

    Attributes:
        read: Function from the shared folder to its people.
        about: What the labels are to our models.
        box: What crops are laid around, see `PersonCrops`.
        visible: Whether hidden keypoints are left out of PCK.
        oks: Whether the average precision with given boxes is told too.
        domain: What the set is to posezoo's models, for cards.
    """

    read: Callable[[Path], KeypointSet]
    about: str
    box: str = "keypoints"
    visible: bool = False
    oks: bool = False
    domain: str = "not trained on"

    @property
    def protocol(self) -> str:
        """How crops are made and what counts, for cards."""
        box = "person" if self.box == "annotated" else "keypoint"
        return f"{box} box x {PADDING[self.box]}, {'visible keypoints, ' * self.visible}{self.domain}"


DATASETS = {
    "coco_people": Measured(
        coco_people,
        "COCO people that posezoo's models did not learn from; person boxes; PCK of visible keypoints, AP of labelled",
        box="annotated", visible=True, oks=True,
    ),
    "lspet": Measured(
        lspet,
        "Validation pictures of LSPet, in-domain for posezoo's models: they learnt from its other pictures",
        domain="in-domain",
    ),
}  # fmt: skip


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
    person_box: float = PADDING["annotated"]


def entries(pattern: str, shared: Path, threads: int | None) -> Iterator[Entry]:
    """Load one network after the other: the peers, then the released models with and without flip test."""
    for name in present(PEERS, shared / "peers"):
        peer = Peer(name, shared / "peers", threads=threads)
        spec = peer.spec
        crop_wh = (spec.crop_px, spec.crop_px)
        yield Entry(name, spec.precision, False, crop_wh, spec.skeleton, Decoded, peer, spec.person_box)
    teacher = TinyPose.find(shared, threads=threads)
    if teacher is not None:
        yield Entry(TinyPose.name, "float32", False, teacher.input_wh, COCO17, teacher.codec, teacher)
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
    about = DATASETS[dataset]
    enlarge = entry.person_box if about.box == "annotated" else None
    crops = PersonCrops(people, entry.input_wh, box=about.box, enlarge=enlarge)
    predicted, confidence = predict_crops(
        entry.run, crops, entry.codec, skeleton=entry.skeleton, flip=entry.flip, workers=1,
        progress=lambda rows: track(rows, f"{entry.model} on {dataset}", total=len(crops)),
    )  # fmt: skip
    labelled = people.skeleton
    truth, _ = labels_of(crops)
    matched = by_name(predicted, entry.skeleton, labelled)
    judged = np.where(truth[..., 2:] == 2, truth, 0) if about.visible else truth
    scores = pck(matched, judged, torso_size(truth, labelled), labelled)
    counted = ~np.isnan(scores.distances[:, limb_columns(scores.skeleton)])
    row = {
        "model": entry.model,
        "precision": entry.precision,
        "flip": entry.flip,
        "dataset": dataset,
        "protocol": about.protocol,
        "metric": METRIC,
        "value": round(scores.at(THRESHOLD), 4),
        "standard_error": round(standard_error(scores), 4),
        "value_at_0.1": round(scores.at(0.1), 4),
        "people": len(crops),
        "counted_people": int(counted.any(axis=1).sum()),
        "counted_joints": int(counted.sum()),
        "per_joint": {kind: round(v, 4) for kind, v in scores.per_joint(THRESHOLD).items() if kind in LIMB_JOINTS},
    }
    if about.oks and set(labelled.keypoints) <= set(entry.skeleton.keypoints):
        precision = dataclasses.asdict(given_boxes_ap(crops, matched, confidence, entry.skeleton))
        row |= {name: round(precision[name], 4) for name in SIZES}
    return row, scores


def given_boxes_ap(crops: PersonCrops, keypoints, confidence, skeleton: Skeleton):
    """COCO's average precision where every labelled person's box is given.

    Args:
        crops: The people.
        keypoints: `(N, K, 2)` in the pictures' pixels, in the order of the set's skeleton.
        confidence: `(N, K)` in the order of the network's.
        skeleton: The network's.
    """
    labelled = crops.people.skeleton
    scores = np.clip(confidence[:, [skeleton.index(k) for k in labelled.keypoints]], 0, 1)
    found: dict[int, list[int]] = {}
    for i, (record, _) in enumerate(crops.index):
        found.setdefault(id(record), []).append(i)
    known = []
    for rows in found.values():
        record = crops.index[rows[0]][0]
        people = [person for _, person in (crops.index[i] for i in rows)]
        poses = Poses(np.nan_to_num(keypoints[rows]), scores[rows], labelled, scores[rows].mean(axis=1))
        known.append(Known(poses, record.keypoints[people], record.areas[people]))
    return oks_ap(known)


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
                *((f"{r[name]:.3f}" if name in r else None for name in SIZES) if DATASETS[dataset].oks else ()),
            )
            for r in record["rows"] if r["dataset"] == dataset
        ]  # fmt: skip
        told = (
            f"{about['people']} people, of whom {about['counted_people']} have both ends of the torso labelled and "
            f"count, with {about['counted_joints']} joints"
        )
        columns = ["model", "precision", "flip test", "PCK@0.2", "±", "PCK@0.1", *LIMB_JOINTS]
        columns += ["AP", "AP medium", "AP large"] if DATASETS[dataset].oks else []
        text += [f"\n## {dataset}\n", f"{about['what']}. {told}.\n"]
        text.append(markdown_table(columns, rows))
    return "\n".join(text)


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: every released model)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of data/ and peers/ (default: %(default)s)")
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS), help="(default: all)")
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
    for name in arguments.datasets:
        if (arguments.shared / "data" / name).is_dir():
            sets[name] = DATASETS[name].read(arguments.shared)
            sets[name].records = sets[name].records[: arguments.pictures or None]
        else:
            print(f"left out: no {arguments.shared / 'data' / name}")
    if not sets:
        raise SystemExit(f"{arguments.shared}/data has none of {', '.join(DATASETS)}; set POSEZOO_SHARED or --shared")

    command = ["python", "benchmarks/accuracy.py"]
    command += ["--models", arguments.models] if arguments.models != "*" else []
    command += ["--datasets", *arguments.datasets] if len(arguments.datasets) < len(DATASETS) else []
    command += ["--pictures", str(arguments.pictures)] if arguments.pictures else []
    record = {
        "metric": METRIC,
        "protocol": "Ground-truth boxes, in the network's aspect, no rotation: the annotated person's box x "
        f"{PADDING['annotated']} for coco_people (MoveNet has the factor that suits it), else the axis-aligned box of "
        f"the labelled keypoints x {PADDING['keypoints']}. Hidden joints count where labelled, but for coco_people.",
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
            record["datasets"].setdefault(dataset, {"what": DATASETS[dataset].about, **about})
            if not entry.flip and (entry.model in (*PEERS, TinyPose.name) or entry.precision == "int8"):
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
