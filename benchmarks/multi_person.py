"""Whole pictures of several people: every released bottom-up network, detector and single-person networks, others.

    python benchmarks/multi_person.py
    python benchmarks/multi_person.py --models "efficienthrnet_lite_*"
    python benchmarks/multi_person.py --datasets coco_people

Three questions: of LSPet's validation pictures, seen whole, is the best-scoring person the labelled one (PCK)? On
fixed canvases of two to four pasted validation people, how many are found (average precision over the limb joints)?
On COCO pictures kept for validation, what is COCO's own average precision? Single-person networks are run in the boxes
of PicoDet-S and on COCO pictures alone. What --datasets leaves out keeps its numbers and its command. Data sets are
looked for in POSEZOO_SHARED/data, PoseNet in POSEZOO_SHARED/peers, PicoDet and PP-TinyPose in
POSEZOO_SHARED/tools/teachers/models; what is absent is named and left out.
"""

from __future__ import annotations

import argparse
import heapq
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from peers import POSENET_SIZE, PicoDet, TFLiteFile, TinyPose, TwoStage, peer_path
from released import finds_people, released
from report import RESULTS, SHARED, environment, machine_line, markdown_table, write_results

from posezoo.commands.display import track
from posezoo.data.canvases import read_lspet_coco17, validation_canvases
from posezoo.data.readers import read, read_coco_pictures
from posezoo.data.scenes import Scene
from posezoo.evaluation.bottom_up import best_person_pck, finding_everybody, limb_joints, mostly_ignored, score_scenes
from posezoo.evaluation.coco import evaluate_coco, predict_pictures
from posezoo.geometry import apply, invert
from posezoo.inference.bottom_up import fit
from posezoo.inference.images import crop
from posezoo.inference.poses import Poses
from posezoo.skeletons import COCO17

POSENET = "posenet_mbv1_075_353_481_quant_nodecoder"
#: Side of the validation canvases in pixels.
CANVAS_PX = 384
CANVASES = 200
#: Data set of whole pictures.
COCO = "coco_people"

Model = Callable[[np.ndarray], Poses]


# ----------------------------------------------------------------------------------------------- PoseNet

# PersonLab's tree (Papandreou et al. 2018, arXiv:1803.08225), parent before child: the order of its displacements.
TREE = (
    ("nose", "left_eye"), ("left_eye", "left_ear"), ("nose", "right_eye"), ("right_eye", "right_ear"),
    ("nose", "left_shoulder"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("left_shoulder", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
    ("nose", "right_shoulder"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("right_shoulder", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
)  # fmt: skip


@dataclass(frozen=True)
class PersonLab:
    """PersonLab's greedy decoding, with the values that its public demos use."""

    stride: int = 16
    threshold: float = 0.5
    radius_px: float = 20.0
    most: int = 20
    refinements: int = 2

    def decode(self, heatmaps, offsets, displacements) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find people.

        Args:
            heatmaps: `(height, width, 17)` before the sigmoid.
            offsets: `(height, width, 34)` pixels, all y then all x.
            displacements: `(height, width, 64)` pixels: to the children, y then x, then to the parents.

        Returns:
            Keypoints `(N, 17, 2)` in input pixels, scores `(N, 17)` and person scores `(N,)`.
        """
        height, width, count = heatmaps.shape
        scores = 1 / (1 + np.exp(-heatmaps))
        shift = offsets.reshape(height, width, 2, count)
        forward, backward = np.moveaxis(displacements.reshape(height, width, 2, 2, len(TREE)), 2, 0)
        edges = [(COCO17.index(a), COCO17.index(b)) for a, b in TREE]
        largest = cv2.dilate(scores, np.ones((3, 3), np.uint8))
        peaks = np.argwhere((scores == largest) & (scores >= self.threshold))
        queue = [(-float(scores[y, x, k]), int(y), int(x), int(k)) for y, x, k in peaks]
        heapq.heapify(queue)

        def cell(at):
            return tuple(np.clip(np.rint(at / self.stride).astype(int), 0, (height - 1, width - 1)))

        def follow(at, edge, target, field):
            at = at + field[cell(at)][:, edge]
            for _ in range(self.refinements):
                place = cell(at)
                at = np.array(place) * self.stride + shift[place][:, target]
            return at, scores[cell(at)][target]

        found: list[tuple[np.ndarray, np.ndarray]] = []
        people: list[float] = []
        while queue and len(found) < self.most:
            score, y, x, k = heapq.heappop(queue)
            at = np.array([y, x]) * self.stride + shift[y, x, :, k]
            if any(np.linalg.norm(points[k] - at) <= self.radius_px for points, _ in found):
                continue
            points, values = np.zeros((count, 2)), np.zeros(count)
            known = np.zeros(count, bool)
            points[k], values[k], known[k] = at, -score, True
            for edge in reversed(range(len(edges))):
                parent, child = edges[edge]
                if known[child] and not known[parent]:
                    points[parent], values[parent] = follow(points[child], edge, parent, backward)
                    known[parent] = True
            for edge, (parent, child) in enumerate(edges):
                if known[parent] and not known[child]:
                    points[child], values[child] = follow(points[parent], edge, child, forward)
                    known[child] = True
            free = [all(np.linalg.norm(p[j] - points[j]) > self.radius_px for p, _ in found) for j in range(count)]
            found.append((points, values))
            people.append(float((values * free).sum() / count))
        keypoints = np.array([p[:, ::-1] for p, _ in found], np.float32).reshape(-1, count, 2)
        return keypoints, np.array([v for _, v in found], np.float32).reshape(-1, count), np.array(people, np.float32)


class PoseNet:
    """PoseNet's file as a model: picture to poses."""

    def __init__(self, folder: Path, *, threads: int | None = None):
        self.file, self.decoder = TFLiteFile(peer_path(folder, POSENET), threads=threads), PersonLab()

    def __call__(self, image: np.ndarray) -> Poses:
        size = POSENET_SIZE[::-1]
        matrix = fit((image.shape[1], image.shape[0]), size)
        outputs = self.file.finish(self.file.invoke(crop(image, matrix, size)[None]))
        keypoints, scores, people = self.decoder.decode(*(value[0] for value in outputs[:3]))
        return Poses(apply(invert(matrix), keypoints), scores, COCO17, people)


# ------------------------------------------------------------------------------------------------ measuring


def finds_people_in_colour(card) -> bool:
    return finds_people(card) and card.input.colour == "RGB"


def finds_one_in_colour(card) -> bool:
    return not finds_people(card) and card.input.colour == "RGB" and card.skeleton.name == COCO17.name


def two_stage_entries(pattern: str, shared: Path, threads: int | None) -> Iterator[tuple[str, str, bool, Model]]:
    """As `entries`: single-person networks of COCO's keypoints in the boxes of PicoDet-S."""
    detector = PicoDet.find(shared, threads=threads)
    if detector is None:
        return
    if (teacher := TinyPose.find(shared, threads=threads)) is not None:
        yield f"{PicoDet.name} + {TinyPose.name}", "float32", False, TwoStage(detector, teacher)
    for name, precision, model in released(pattern, threads=threads, wanted=finds_one_in_colour):
        model.detector = detector
        yield f"{PicoDet.name} + {name}", precision, False, model


def entries(pattern: str, shared: Path, threads: int | None) -> Iterator[tuple[str, str, bool, Model]]:
    """Name, precision, flip test and model of everything that is measured."""
    if (shared / "peers" / f"{POSENET}.tflite").exists():
        yield POSENET, "int8", False, PoseNet(shared / "peers", threads=threads)
    else:
        print(f"left out: no {shared / 'peers' / POSENET}.tflite")
    for name, precision, model in released(pattern, threads=threads, wanted=finds_people_in_colour):
        for flip in (False, True):
            yield name, precision, flip, partial(finding_everybody(model), flip=flip)


def on_lspet(model: Model, shared: Path, limit: int) -> dict:
    people = read("lsp", shared / "data" / "lspet", "val")
    people.records = people.records[: limit or None]
    pck = best_person_pck(model, people, progress=lambda rows: track(rows, "LSPet"))
    return {"lspet_pck": round(pck.at(0.2), 4)}


def on_canvases(model: Model, shared: Path, limit: int) -> dict:
    canvases = validation_canvases(
        read_lspet_coco17(shared / "data" / "lspet", "val"), (CANVAS_PX, CANVAS_PX), length=limit or CANVASES
    )  # fmt: skip
    found: list[tuple[Scene, Poses]] = []
    for i in track(range(len(canvases)), "canvases"):
        scene = canvases.crop(i)
        poses = model(scene.image)
        found.append((scene, poses[~mostly_ignored(poses.keypoints, poses.scores, scene.ignore)]))
    scores = score_scenes(found, joints=limb_joints(COCO17))
    return {"canvases_ap": round(scores.ap, 4), "canvases_ap50": round(scores.ap50, 4)}


def on_coco(model: Model, shared: Path, limit: int) -> dict:
    people, annotations = read_coco_pictures(shared / "data" / COCO, "val")
    people.records = people.records[: limit or None]
    results, _ = predict_pictures(model, people, progress=lambda rows: track(rows, "COCO"))
    scores = evaluate_coco(results, annotations, image_ids=[r.image_id for r in people.records])
    told = {"ap": scores.ap, "ap50": scores.ap50, "ap_medium": scores.ap_medium, "ap_large": scores.ap_large}
    return {f"coco_{name}": round(value, 4) for name, value in told.items()}


#: Folder below data/ -> what is measured on it.
MEASURES = {"lspet": (on_lspet, on_canvases), COCO: (on_coco,)}
#: Folder -> the protocols that it has, and how its columns begin.
PROTOCOLS = {"lspet": ("lspet", "canvases"), COCO: (COCO,)}
PREFIXES = {"lspet": ("lspet", "canvases"), COCO: ("coco",)}
COLUMNS = {
    "lspet_pck": "LSPet, whole picture, best person: PCK@0.2",
    "canvases_ap": "canvases: AP",
    "canvases_ap50": "AP50",
    "coco_ap": "COCO pictures: AP",
    "coco_ap50": "AP50",
    "coco_ap_medium": "AP medium",
    "coco_ap_large": "AP large",
}


def markdown(record: dict) -> str:
    rows = [
        (f"`{r['model']}`", r["precision"], "yes" if r["flip"] else "no", *(r.get(c) for c in COLUMNS))
        for r in record["rows"]
    ]
    about = (
        f"LSPet: {record['protocol']['lspet']}. Canvases: {record['protocol']['canvases']}. COCO: "
        f"{record['protocol'][COCO]}. Made by {told_commands(record)} on {machine_line(record['environment'])}."
    )
    return "\n".join(
        ["# Several people\n", about, "", markdown_table(("model", "precision", "flip test", *COLUMNS.values()), rows)]
    )


def told_commands(record: dict) -> str:
    """The commands that measured what a record holds, each once."""
    return ", ".join(f"`{command}`" for command in dict.fromkeys(record["commands"].values()))


def kept_from(path: Path, sets: list[str]) -> dict:
    """Return what an earlier run measured on sets that this one leaves out: `rows` by name, and `commands`."""
    if not path.is_file() or not sets:
        return {"rows": {}, "commands": {}}
    earlier = json.loads(path.read_text())
    columns = [column for name in sets for column in COLUMNS if column.startswith(PREFIXES[name])]
    rows = {
        (r["model"], r["precision"], r["flip"]): {c: r[c] for c in columns if c in r} for r in earlier["rows"]
    }  # fmt: skip
    told = {name for folder in sets for name in PROTOCOLS[folder]}
    commands = earlier.get("commands") or dict.fromkeys(earlier["protocol"], earlier["command"])
    return {"rows": rows, "commands": {name: c for name, c in commands.items() if name in told}}


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="name with * and ? (default: every released bottom-up model)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of data/ and peers/ (default: %(default)s)")
    parser.add_argument("--datasets", nargs="+", choices=list(MEASURES), default=list(MEASURES), help="(default: all)")
    parser.add_argument("--pictures", type=int, default=0, help="take only so many pictures of each set; 0 for all")
    parser.add_argument("--threads", type=int, help="threads of the TFLite runtime")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for multi_person.json and .md")
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    present = [name for name in arguments.datasets if (arguments.shared / "data" / name).is_dir()]
    for name in set(arguments.datasets) - set(present):
        print(f"left out: no {arguments.shared / 'data' / name}")
    if not present:
        raise SystemExit(f"{arguments.shared}/data has none of {', '.join(MEASURES)}; set POSEZOO_SHARED or --shared")
    command = ["python", "benchmarks/multi_person.py"]
    command += ["--models", arguments.models] if arguments.models != "*" else []
    command += ["--datasets", *arguments.datasets] if len(arguments.datasets) < len(MEASURES) else []
    command += ["--pictures", str(arguments.pictures)] if arguments.pictures else []
    earlier = kept_from(arguments.out / "multi_person.json", [n for n in MEASURES if n not in arguments.datasets])
    record = {
        "protocol": {
            "lspet": "validation pictures seen whole, in-domain for posezoo's models",
            "canvases": f"{arguments.pictures or CANVASES} canvases of 2 to 4 validation people, {CANVAS_PX} px, "
            "12 limb joints, area 0.53 x joint box",
            COCO: "whole pictures kept for validation, crowds and unlabelled people ignored; PoseNet is COCO's own",
        },
        "command": shlex.join(command),
        "commands": earlier["commands"] | {name: shlex.join(command) for f in present for name in PROTOCOLS[f]},
        "environment": environment("ai-edge-litert", "keras", "tensorflow", "pycocotools"),
        "rows": [],
    }  # fmt: skip
    alone = [(entry, present) for entry in entries(arguments.models, arguments.shared, arguments.threads)]
    boxed = [(entry, [COCO]) for entry in two_stage_entries(arguments.models, arguments.shared, arguments.threads)]
    for (name, precision, flip, model), folders in [*alone, *boxed]:
        row = {"model": name, "precision": precision, "flip": flip}
        row |= earlier["rows"].get((name, precision, flip), {})
        for folder in folders:
            for measure in MEASURES[folder] if folder in present else ():
                row |= measure(model, arguments.shared, arguments.pictures)
        record["rows"].append(row)
        print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    if not record["rows"]:
        raise SystemExit(
            f"nothing to measure: no PoseNet, and no released bottom-up model is called '{arguments.models}'"
        )
    write_results(arguments.out, "multi_person", record, markdown(record))
    return record


if __name__ == "__main__":
    main()
