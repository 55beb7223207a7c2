"""Time of grouping keypoints into people, one core: 30 people by tags on maps of 256x256, by fields on maps of 56x46.

    python benchmarks/grouping.py
    python benchmarks/grouping.py --people 4 --input-px 384

Maps are drawn, no network runs. In the first case the people stand apart and all of them come out; in the others they
lie in each other, and come out in more pieces. Those differ in noise, in the share of keypoints that are missing, in
the mirrored pass (two tags instead of one), and in where tags are those of a person: all over the body, as networks
tend to paint them, or only around its keypoints. The search for missing keypoints is hardest in the last. Part affinity
fields are grouped on the small maps, and as the papers do on maps enlarged to the input.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from report import RESULTS, environment, machine_line, markdown_table, write_results

from posezoo.codecs import AssociativeEmbeddingCodec, PartAffinityCodec
from posezoo.codecs.associative_embedding import Maps
from posezoo.commands.display import track
from posezoo.skeletons import COCO17, DEPTH17, Skeleton

#: Distance of two people's tags: above the threshold, so that a perfect network's people stay apart.
TAG_STEP = 1.7


@dataclass(frozen=True)
class Case:
    """One kind of maps.

    Attributes:
        apart: Whether people stand in cells of a grid; else anywhere, over each other.
        noise: Standard deviation of the noise on every map.
        missing: Share of keypoints that no heatmap shows.
        tags: `body`: every pixel has the tag of the nearest person; `keypoints`: only those around its own.
        mirrored: Whether the mirrored pass adds a second tag.
        upsample: Whether the maps are enlarged to the input's size first.
    """

    apart: bool = False
    noise: float = 0.0
    missing: float = 0.0
    tags: str = "body"
    mirrored: bool = False
    upsample: bool = False


CASES = {
    "apart, 5 % noise": Case(apart=True, noise=0.05),
    "clean": Case(),
    "5 % noise": Case(noise=0.05),
    "5 % noise, half missing": Case(noise=0.05, missing=0.5),
    "5 % noise, half missing, tags at keypoints only": Case(noise=0.05, missing=0.5, tags="keypoints"),
    "5 % noise, half missing, mirrored pass": Case(noise=0.05, missing=0.5, mirrored=True),
    "5 % noise, half missing, enlarged": Case(noise=0.05, missing=0.5, upsample=True),
}


#: Input of the pose machines, whose maps have 56x46 pixels.
FIELDS_WH = (448, 368)

#: Part affinity fields: the codec, and the noise on its maps.
FIELD_CASES = {
    "small maps, clean": (PartAffinityCodec(FIELDS_WH), 0.0),
    "small maps, 2 % noise": (PartAffinityCodec(FIELDS_WH), 0.02),
    "small maps, 5 % noise": (PartAffinityCodec(FIELDS_WH), 0.05),
    "enlarged, idiap's parameters, 2 % noise": (PartAffinityCodec.idiap(FIELDS_WH), 0.02),
    "enlarged, OpenPose's parameters, 2 % noise": (PartAffinityCodec.openpose(FIELDS_WH), 0.02),
}


def scene(
    count: int,
    size: int | tuple[int, int],
    missing: float,
    rng: np.random.Generator,
    skeleton: Skeleton = COCO17,
    *,
    apart: bool = False,
) -> np.ndarray:
    """People `(count, K, 3)` spread over a picture, some of their keypoints unlabelled."""
    people = np.ones((count, skeleton.num_keypoints, 3), np.float32)
    if apart:
        side = int(np.ceil(np.sqrt(count)))
        cells = rng.permutation(side * side)[:count]
        centres = (np.stack(np.divmod(cells, side), axis=-1)[:, None] + 0.5) / side
        offsets = rng.uniform(-0.4, 0.4, people[..., :2].shape) / side
    else:
        centres = rng.uniform(0.1, 0.9, (count, 1, 2))
        offsets = rng.normal(0, 0.07, people[..., :2].shape)
    people[..., :2] = np.clip((centres + offsets) * size, 0, np.array(size) - 1)
    people[..., 2] = rng.random(people.shape[:2]) >= missing
    return people


def draw_outputs(codec: AssociativeEmbeddingCodec, people: np.ndarray, case: Case, rng: np.random.Generator) -> dict:
    """What a network would give for the people: their target maps, their tags, and noise."""
    targets = codec.targets(people)
    maps = {name: targets[name] for name in ("heatmaps", "heatmaps_low")}
    height, width, joints = maps["heatmaps_low"].shape
    tags = np.zeros((height, width, joints), np.float32)
    if case.tags == "body":
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1) * codec.low_stride
        distance = np.linalg.norm(grid[:, :, None] - people[..., :2].mean(axis=1), axis=-1)
        tags[:] = TAG_STEP * distance.argmin(axis=-1)[..., None]
    for i, person in enumerate(targets["tags"][: len(people)]):
        for k, (x, y, labelled) in enumerate(person.astype(int)):
            if labelled:
                tags[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3, k] = TAG_STEP * i
    maps["tags"] = tags
    return {name: (m + rng.normal(0, case.noise, m.shape)).astype(np.float32) for name, m in maps.items()}


def merged_maps(codec: AssociativeEmbeddingCodec, case: Case, count: int, rng: np.random.Generator) -> Maps:
    """The maps of one random scene after `merge`."""
    people = scene(count, min(codec.input_wh), case.missing, rng, apart=case.apart)
    maps = codec.merge(draw_outputs(codec, people, case, rng))
    if not case.mirrored:
        return maps
    again = codec.merge(draw_outputs(codec, people, case, rng))
    return Maps((maps.heatmaps + again.heatmaps) / 2, np.concatenate([maps.tags, again.tags]))


def milliseconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of one call; they differ where other processes take the core."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def measure(input_px: int, count: int, runs: int) -> list[dict]:
    """One row per case: medians over `runs` scenes, the cases in turns."""
    rng = np.random.default_rng(0)
    base = AssociativeEmbeddingCodec((input_px, input_px))
    codecs = {name: replace(base, upsample=case.upsample) for name, case in CASES.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    found: dict[str, list[int]] = {name: [] for name in CASES}
    for _ in track(range(runs), "measuring"):
        for name, case in CASES.items():
            maps = merged_maps(base, case, count, rng)
            decode = codecs[name].decode
            found[name].append(len(decode(maps, COCO17)[0]))  # and warms the caches up
            times[name].append(milliseconds(lambda decode=decode, maps=maps: decode(maps, COCO17)))
    return _rows(times, found)


def _rows(times: dict[str, list[tuple[float, float]]], found: dict[str, list[int]]) -> list[dict]:
    rows = []
    for name in times:
        wall, cpu = np.median(times[name], axis=0)
        row = {"case": name, "wall_ms": round(float(wall), 2), "cpu_ms": round(float(cpu), 2)}
        row["fastest_ms"] = round(float(np.min(times[name])), 2)
        rows.append({**row, "found": float(np.median(found[name]))})
    return rows


def measure_fields(count: int, runs: int) -> list[dict]:
    """As `measure`, for part affinity fields, and a row for drawing the targets of four people."""
    rng = np.random.default_rng(0)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*FIELD_CASES, DRAWING)}
    found: dict[str, list[int]] = {name: [] for name in times}
    for _ in track(range(runs), "measuring fields"):
        for name, (codec, noise) in FIELD_CASES.items():
            targets = codec.targets(scene(count, FIELDS_WH, 0, rng, DEPTH17), skeleton=DEPTH17)
            maps = codec.merge({k: (v + rng.normal(0, noise, v.shape)).astype(np.float32) for k, v in targets.items()})
            found[name].append(len(codec.decode(maps, DEPTH17)[0]))
            times[name].append(milliseconds(lambda codec=codec, maps=maps: codec.decode(maps, DEPTH17)))
        four = scene(4, FIELDS_WH, 0, rng, DEPTH17)
        draw = next(iter(FIELD_CASES.values()))[0].targets
        found[DRAWING].append(4)
        times[DRAWING].append(milliseconds(lambda four=four, draw=draw: draw(four, skeleton=DEPTH17)))
    return _rows(times, found)


#: Name of the row that times targets instead of grouping.
DRAWING = "drawing the targets of 4 people"


def markdown(record: dict) -> str:
    """The rows as tables."""
    columns = ("maps", "ms", "processor ms", "fastest ms", "people found")
    tables = [
        markdown_table(columns, [
            (r["case"], f"{r['wall_ms']:.2f}", f"{r['cpu_ms']:.2f}", f"{r['fastest_ms']:.2f}", f"{r['found']:g}")
            for r in record[kind]
        ]) for kind in ("rows", "fields")
    ]  # fmt: skip
    return "\n".join(
        [
            "# Grouping\n",
            f"{record['people']} people: merged maps to people, one thread. Medians of {record['runs']} scenes. Made "
            f"by `{record['command']}` on {machine_line(record['environment'])}.\n",
            f"Associative embedding, {COCO17.num_keypoints} keypoints, input {record['input_px']} px:\n",
            tables[0],
            f"\nPart affinity fields, {DEPTH17.num_keypoints} keypoints, {len(DEPTH17.limbs)} limbs, input "
            f"{FIELDS_WH[0]}x{FIELDS_WH[1]} px. The scenes are random clouds of keypoints, harder than bodies: people "
            "come apart where limbs of one kind lie on each other.\n",
            tables[1],
        ]
    )


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=30, help="in each scene (default: %(default)s)")
    parser.add_argument("--input-px", type=int, default=512, help="side of the input (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=50, help="scenes per case (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for grouping.json and .md")
    arguments = parser.parse_args(argv)
    if arguments.people < 1 or arguments.runs < 1:
        parser.error("--people and --runs must be at least 1")
    cv2.setNumThreads(1)
    settings = {"people": arguments.people, "input_px": arguments.input_px, "runs": arguments.runs}
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    record = {
        "command": f"python benchmarks/grouping.py {flags}",
        **settings,
        "environment": environment("numpy", "scipy", "opencv-python-headless"),
        "rows": measure(arguments.input_px, arguments.people, arguments.runs),
        "fields": measure_fields(arguments.people, arguments.runs),
    }
    text = markdown(record)
    print(text)
    write_results(arguments.out, "grouping", record, text)
    return record


if __name__ == "__main__":
    main()
