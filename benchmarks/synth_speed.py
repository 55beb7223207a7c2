"""Synthetic pictures per second on one core, stage by stage, and the renderers that could draw them.

    python benchmarks/synth_speed.py
    python benchmarks/synth_speed.py --quick

Whole samples with the built-in people: one to four of them, a furnished room, 320x240, the sensor's noise, packing
into a shard. Hands as `posezoo synth --hands` makes them, 224x168, with their share of the backgrounds. The renderers
draw the people's scenes; handing over the triangles and building a hierarchy counts, since people change with every
picture. Rounds of all variants take turns, so that a noisy moment of the machine touches all of them alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from report import RESULTS, environment, machine_line, markdown_table, write_results

from posezoo.commands.display import track
from posezoo.synth import scene as scenes
from posezoo.synth.camera import Intrinsics
from posezoo.synth.crowd import body_source
from posezoo.synth.hand_frames import BLOCK, HandJob
from posezoo.synth.hand_frames import pack as pack_hands
from posezoo.synth.render import visible_triangles
from posezoo.synth.scene import Recipe, Scene, compose, label, make_sample
from posezoo.synth.sensor import SENSORS, drop_silhouette, read_view
from posezoo.synth.write import pack

WHOLE = "whole sample"
PEOPLE_SENSORS = ("kinect1", "kinect2", "d435")


def stages_of(number: int, sensor_name: str, bodies, size: tuple[int, int]) -> tuple[dict[str, float], dict[str, int]]:
    """Make one sample; return seconds per stage, and how many people and triangles there were."""
    recipe = Recipe(sensor=sensor_name, width=size[0], height=size[1])
    sensor = SENSORS[sensor_name]
    intrinsics = sensor.intrinsics.resized(*size)
    rng = np.random.default_rng((1, number))
    spent = 0.0

    def timed_bodies(rng):
        nonlocal spent
        start = time.perf_counter()
        made = bodies(rng)
        spent += time.perf_counter() - start
        return made

    times = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        times[name] = now - clock
        clock = now

    scene = compose(rng, timed_bodies, intrinsics, recipe.scene)
    lap("placing")
    times["people"] = spent
    times["placing"] -= spent
    view = scenes.render([*scene.bodies, *scene.scenery], scene.camera)
    lap("visible triangles")
    sample = label(scene, view, recipe.scene)
    lap("depth and labels")
    sample.depth = drop_silhouette(rng, read_view(rng, view, sensor), sample.people)
    lap("sensor")
    pack([sample])
    lap("packing")
    start = time.perf_counter()
    pack([make_sample(np.random.default_rng((1, number)), bodies, recipe)])
    times[WHOLE] = time.perf_counter() - start
    facts = {"people": len(scene.bodies), "triangles": sum(len(m.faces) for m in (*scene.bodies, *scene.scenery))}
    return times, facts


def hands_speed(count: int) -> dict:
    """Make and pack frames of hands as a data set has them; return times per frame and the bytes that one takes.

    Times are processor time: the frames share backgrounds, so no single one could be timed, and a busy machine must not
    count.
    """
    job = HandJob(count, seed=1, shard_size=BLOCK)
    job.sample(count + BLOCK)  # builds what is built once per process
    spent, packing, size = [], [], 0
    for shard in track(range(job.shards), "hands"):
        start = time.process_time()
        frames = [job.sample(number) for number in job.numbers(shard)]
        middle = time.process_time()
        arrays = pack_hands(frames, job.recipe)
        packing.append((time.process_time() - middle) / len(frames))
        spent.append((time.process_time() - start) / len(frames))
        size += sum(a.nbytes for a in arrays.values())
    ms = 1e3 * float(np.median(spent))
    return {
        "images": count, "width": job.recipe.width, "height": job.recipe.height, "ms": round(ms, 2),
        "images_per_s": round(1e3 / ms, 1), "packing_ms": round(1e3 * float(np.median(packing)), 2),
        "kilobytes": round(size / count / 1000, 1),
    }  # fmt: skip


def renderers() -> dict[str, Callable[[np.ndarray, np.ndarray, Intrinsics], np.ndarray]]:
    """Return what is installed: functions from vertices and faces to the number of the visible triangle per pixel."""
    found: dict[str, Callable] = {"OpenCV's rasteriser (in use)": visible_triangles}
    try:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh

        def by_embree(vertices, faces, intrinsics):
            scene = rtcore_scene.EmbreeScene()
            TriangleMesh(scene, vertices, faces)
            rays = np.ascontiguousarray(intrinsics.rays.reshape(-1, 3))
            return scene.run(np.zeros_like(rays), rays).reshape(intrinsics.height, intrinsics.width)

        found["Embree through embreex"] = by_embree
    except ImportError:
        return found
    try:
        import trimesh

        def by_trimesh(vertices, faces, intrinsics):
            mesh = trimesh.Trimesh(vertices, faces, process=False)
            rays = intrinsics.rays.reshape(-1, 3)
            cast = trimesh.ray.ray_pyembree.RayMeshIntersector(mesh)
            return cast.intersects_first(np.zeros_like(rays), rays).reshape(intrinsics.height, intrinsics.width)

        found["Embree through trimesh"] = by_trimesh
    except ImportError:
        pass
    return found


def mesh_of(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return a scene's vertices in camera space, and its faces."""
    meshes = [*scene.bodies, *scene.scenery]
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes])
    vertices = np.concatenate([scene.camera.to_camera(m.vertices) for m in meshes])
    return vertices, np.concatenate([m.faces + start for m, start in zip(meshes, starts)]).astype(np.int32)


def compare_renderers(bodies, count: int, rounds: int) -> list[dict]:
    """Time the installed renderers on scenes; say at how many pixels they agree with the one in use."""
    intrinsics = SENSORS["kinect1"].intrinsics.resized(320, 240)
    drawn = [compose(np.random.default_rng((2, i)), bodies, intrinsics) for i in range(count)]
    stacks = [mesh_of(s) for s in drawn]
    chosen = renderers()
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in track(range(rounds), "renderers"):
        for vertices, faces in stacks:
            for name, draw in chosen.items():
                start = time.perf_counter()
                draw(vertices, faces, intrinsics)
                times[name].append(time.perf_counter() - start)
    rows = []
    for name, draw in chosen.items():
        same = []
        for vertices, faces in stacks:
            one, other = (
                depth_of(vertices[faces], d(vertices, faces, intrinsics), intrinsics) for d in (draw, visible_triangles)
            )
            same.append((np.abs(one - other) < 1e-3).mean())
        rows.append(
            {
                "renderer": name, "ms": round(1e3 * float(np.median(times[name])), 1),
                "triangles": int(np.median([len(f) for _, f in stacks])), "same_depth": round(float(np.mean(same)), 5),
            }
        )  # fmt: skip
    return rows


def depth_of(triangles: np.ndarray, face: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return the depth of given triangles at the pixels, 0 where there is none."""
    a, b, c = np.moveaxis(triangles[np.maximum(face, 0)], 2, 0)
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (normal * a).sum(-1) / (normal * intrinsics.rays).sum(-1)
    return np.where(face >= 0, depth, 0)


def markdown(record: dict) -> str:
    """Three tables: whole samples by stage, hands, renderers."""
    settings = record["settings"]
    stages = [s for s in record["samples"][0]["ms"] if s != WHOLE]
    rows = [
        (r["sensor"], f"{r['images_per_s']:.1f}", f"{r['ms'][WHOLE]:.1f}", *(f"{r['ms'][s]:.1f}" for s in stages))
        for r in record["samples"]
    ]
    first, hands = record["samples"][0], record["hands"]
    text = [
        "# Synthetic pictures per second\n",
        f"One core, {settings['width']}x{settings['height']}, built-in people, {first['people']:.1f} of them and "
        f"{first['triangles']:.0f} triangles in a picture on average; means of {settings['images']} pictures. Made by "
        f"`{record['command']}` on {machine_line(record['environment'])}.\n",
        markdown_table(("sensor", "images/s", "ms", *(f"{s}, ms" for s in stages)), rows),
        "\n## Hands\n\n"
        f"Built-in hands, {hands['width']}x{hands['height']}, one core's processor time with the backgrounds' share; "
        f"medians over blocks of {BLOCK} of {hands['images']} frames.\n",
        markdown_table(
            ("frames/s", "ms", "packing, ms", "kB a frame"),
            [(f"{hands['images_per_s']:.1f}", *(f"{hands[k]:.1f}" for k in ("ms", "packing_ms", "kilobytes")))],
        ),
        "\n## Renderers\n\nThe visible triangle at every pixel of 320x240, hierarchy included; medians.\n",
        markdown_table(
            ("renderer", "triangles", "ms", "share of pixels with the same depth"),
            [(r["renderer"], r["triangles"], f"{r['ms']:.1f}", f"{r['same_depth']:.5f}") for r in record["renderers"]],
        ),
    ]
    return "\n".join(text)


def main(argv=None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="pictures per sensor (default: %(default)s)")
    parser.add_argument("--size", default="320x240", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the renderers over 10 scenes (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 pictures, one round")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for synth_speed.json and .md")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.images, arguments.rounds = 3, 1
    cv2.setNumThreads(1)
    width, height = (int(v) for v in arguments.size.split("x"))
    bodies = body_source(["builtin"])
    bodies(np.random.default_rng(0))  # builds the body's template, once per process
    taken: dict[str, list[tuple[dict, dict]]] = {name: [] for name in PEOPLE_SENSORS}
    for number in track(range(arguments.images), "samples"):
        for name in PEOPLE_SENSORS:
            taken[name].append(stages_of(number, name, bodies, (width, height)))
    samples = []
    for name, measured in taken.items():
        ms = {s: round(1e3 * float(np.mean([t[s] for t, _ in measured])), 2) for s in measured[0][0]}
        facts = {f: float(np.mean([facts[f] for _, facts in measured])) for f in ("people", "triangles")}
        samples.append({"sensor": name, "images_per_s": round(1e3 / ms[WHOLE], 2), "ms": ms, **facts})
    record = {
        "command": f"python benchmarks/synth_speed.py --images {arguments.images} --size {arguments.size}",
        "settings": {"images": arguments.images, "width": width, "height": height, "rounds": arguments.rounds},
        "environment": environment("numpy", "opencv-python-headless", "embreex", "trimesh"),
        "samples": samples,
        "hands": hands_speed(BLOCK if arguments.quick else 10 * BLOCK),
        "renderers": compare_renderers(bodies, 3 if arguments.quick else 10, arguments.rounds),
    }
    text = markdown(record)
    print(text)
    write_results(arguments.out, "synth_speed", record, text)
    return record


if __name__ == "__main__":
    main()
