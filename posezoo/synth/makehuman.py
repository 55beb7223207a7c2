"""People from MakeHuman's CC0 mesh, rig, shape targets and clothes, read from a folder of the user's.

    people = MakeHumanPeople("data/makehuman_cc0")
    body = people.random(np.random.default_rng(1))

The folder holds `3dobjs/base.obj`, `rigs/default.mhskel`, `rigs/default_weights.mhw`, `targets/` (gzipped or not)
and, if people are to be dressed, `clothes/*/*.mhclo` with their `.obj`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from posezoo.errors import UserError
from posezoo.synth.body import LANDMARKS, Body, girth_of, vertex_normals
from posezoo.synth.posed import PARTS
from posezoo.synth.procedural import HAIR_COLOURS, SKIN_COLOURS, random_colour
from posezoo.synth.rig import FINGERS, Driver, Rig

_PART = {name: k for k, name in enumerate(PARTS)}
_UNIT_M = 0.1  # MakeHuman counts in decimetres


class MakeHumanError(UserError, ValueError):
    """The folder lacks a file, or a file is damaged."""


# ---- files


def _text(path: Path) -> str:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.exists():
            data = candidate.read_bytes()
            try:
                return (gzip.decompress(data) if candidate.suffix == ".gz" else data).decode("utf-8", "replace")
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise MakeHumanError(f"{candidate}: damaged gzip data ({error}); get the file again") from None
    raise MakeHumanError(f"{path}: no such file; the folder must hold MakeHuman's data as posezoo's docs list them")


def _json(path: Path) -> dict:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise MakeHumanError(f"{path}: damaged ({error}); get the file again") from None


@dataclass(frozen=True)
class ObjMesh:
    """Vertices `(V, 3)` and, by group, triangles `(F, 3)` of a Wavefront OBJ file."""

    vertices: np.ndarray
    groups: dict[str, np.ndarray]

    @property
    def faces(self) -> np.ndarray:
        """The triangles of all groups."""
        return np.concatenate(list(self.groups.values()))


def parse_obj(text: str, source: str = "OBJ") -> ObjMesh:
    """Parse a Wavefront OBJ file's vertices and faces; polygons are split into triangles.

    Raises:
        MakeHumanError: A line is damaged, or a face names a vertex that is not there.
    """
    vertices: list[list[str]] = []
    groups: dict[str, list[list[int]]] = {}
    group = groups.setdefault("", [])
    try:
        for line in text.splitlines():
            if line.startswith("v "):
                vertices.append(line.split()[1:4])
            elif line.startswith("f "):
                corners = [int(w.partition("/")[0]) for w in line.split()[1:]]
                if len(corners) < 3:
                    raise ValueError("a face with fewer than 3 corners")
                group += [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]
            elif line.startswith("g "):
                group = groups.setdefault(line[2:].strip(), [])
        points = np.array(vertices, float).reshape(-1, 3)
    except ValueError as error:
        raise MakeHumanError(f"{source}: damaged ({error}); get the file again") from None
    out = {name: np.array(rows, np.int32) - 1 for name, rows in groups.items() if rows}
    if not len(points) or not out:
        raise MakeHumanError(f"{source}: expected lines 'v x y z' and 'f a b c'; found none. Is it an OBJ file?")
    if max(f.max() for f in out.values()) >= len(points) or min(f.min() for f in out.values()) < 0:
        raise MakeHumanError(f"{source}: faces name vertices that are not there; the file is cut off")
    return ObjMesh(points, out)


@dataclass(frozen=True)
class Garment:
    """Cloth fitted to the base mesh.

    Attributes:
        name: Of the file.
        faces: `(F, 3)`.
        corners: `(n, 3)` base vertices that hold each vertex.
        shares: `(n, 3)` their weights.
        offsets: `(n, 3)` displacement, in units of `scales`.
        scales: Per axis: two base vertices and the distance between them at which the scale is 1.
        hides: Base vertices that the garment covers.
    """

    name: str
    faces: np.ndarray
    corners: np.ndarray
    shares: np.ndarray
    offsets: np.ndarray
    scales: tuple[tuple[int, int, float] | None, ...]
    hides: np.ndarray

    def fitted(self, base: np.ndarray) -> np.ndarray:
        """Return the garment's vertices `(n, 3)` on a base mesh `(V, 3)` of any shape."""
        scale = np.ones(3)
        for axis, row in enumerate(self.scales):
            if row:
                scale[axis] = abs(base[row[0], axis] - base[row[1], axis]) / row[2]
        return np.einsum("nk,nkc->nc", self.shares, base[self.corners]) + self.offsets * scale


def parse_mhclo(text: str, mesh: ObjMesh, *, name: str, base_vertices: int, source: str = "mhclo") -> Garment:
    """Parse how a garment's mesh is fitted to the base mesh.

    Raises:
        MakeHumanError: The file does not match its mesh or the base mesh.
    """
    scales: list[tuple[int, int, float] | None] = [None, None, None]
    rows: list[list[float]] = []
    hides: list[int] = []
    section = ""
    try:
        for line in text.splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("x_scale", "y_scale", "z_scale"):
                scales["xyz".index(words[0][0])] = (int(words[1]), int(words[2]), float(words[3]))
            elif words[0] == "verts":
                section = "verts"
            elif words[0] == "delete_verts":
                section = "delete"
            elif section == "verts" and (words[0].lstrip("-").isdigit()):
                if len(words) not in (1, 6, 9):
                    raise ValueError(f"a vertex line of {len(words)} numbers")
                rows.append([float(w) for w in words])
            elif section == "delete" and words[0].isdigit():
                numbers = " ".join(words).replace(" - ", "-").split()
                for word in numbers:
                    first, _, last = word.partition("-")
                    hides += range(int(first), int(last or first) + 1)
            elif section == "delete":
                section = ""
    except (ValueError, IndexError) as error:
        raise MakeHumanError(f"{source}: damaged ({error}); get the file again") from None
    if len(rows) != len(mesh.vertices):
        raise MakeHumanError(
            f"{source}: fits {len(rows)} vertices, but its mesh has {len(mesh.vertices)}; "
            "the files do not belong together"
        )
    table = np.zeros((len(rows), 9))
    for k, row in enumerate(rows):
        table[k, : len(row)] = row
        if len(row) == 1:
            table[k, 3] = 1
    corners = table[:, :3].astype(int)
    if corners.max(initial=0) >= base_vertices:
        raise MakeHumanError(f"{source}: names base vertex {corners.max()}; the base mesh has {base_vertices}")
    hidden = np.array([h for h in hides if h < base_vertices], int)
    return Garment(name, mesh.faces, corners, table[:, 3:6], table[:, 6:], tuple(scales), hidden)


def parse_target(text: str, source: str = "target") -> tuple[np.ndarray, np.ndarray]:
    """Parse a shape target: vertex numbers `(n,)` and displacements `(n, 3)`, decimetres.

    Raises:
        MakeHumanError: A line is not 'index dx dy dz'.
    """
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    try:
        table = np.array(" ".join(lines).split(), float).reshape(-1, 4)
        if len(table) != len([line for line in lines if line.strip()]):
            raise ValueError("lines of other than 4 numbers")
    except ValueError as error:
        raise MakeHumanError(f"{source}: expected lines 'index dx dy dz' ({error}); get the file again") from None
    return table[:, 0].astype(int), table[:, 1:].astype(np.float32)


# ---- rig

_FINGER_NUMBER = {finger: n for n, finger in enumerate(FINGERS, 1)}


def _kept_joints() -> dict[str, Driver]:
    """Return the bones that are kept (the face's and others' weights go to their nearest kept ancestor)."""
    kept = {
        "root": Driver("pelvis"),
        "spine05": Driver("pelvis", "spine", 0.5),
        "spine04": Driver("spine"),
        "spine03": Driver("spine", "chest", 0.5),
        "spine02": Driver("chest"),
        "spine01": Driver("chest"),
        "neck01": Driver("chest", "neck", 0.5),
        "neck02": Driver("neck"),
        "neck03": Driver("neck", "head", 0.5),
        "head": Driver("head"),
    }
    for side, s in (("left", "L"), ("right", "R")):
        kept |= {
            f"clavicle.{s}": Driver(f"{side}_clavicle"),
            f"shoulder01.{s}": Driver(f"{side}_clavicle"),
            f"upperarm01.{s}": Driver(f"{side}_upper_arm", f"{side}_clavicle", 0.6, twist_only=True),
            f"upperarm02.{s}": Driver(f"{side}_upper_arm"),
            f"lowerarm01.{s}": Driver(f"{side}_forearm"),
            f"lowerarm02.{s}": Driver(f"{side}_forearm", f"{side}_hand", 0.7, twist_only=True),
            f"wrist.{s}": Driver(f"{side}_hand"),
            f"upperleg01.{s}": Driver(f"{side}_thigh", "pelvis", 0.6, twist_only=True),
            f"upperleg02.{s}": Driver(f"{side}_thigh"),
            f"lowerleg01.{s}": Driver(f"{side}_shin"),
            f"lowerleg02.{s}": Driver(f"{side}_shin"),
            f"foot.{s}": Driver(f"{side}_foot"),
            **{f"toe{n}-1.{s}": Driver(f"{side}_toes") for n in range(1, 6)},
        }
        for finger, n in _FINGER_NUMBER.items():
            kept |= {f"finger{n}-{k}.{s}": Driver(f"{side}_{finger}{k}") for k in (1, 2, 3)}
    return kept


@dataclass(frozen=True)
class _Data:
    """What the folder holds, parsed."""

    folder: Path
    base: np.ndarray  # (V, 3) decimetres, helpers included
    skin: np.ndarray  # (F, 3)
    joints: tuple[str, ...]
    parents: np.ndarray
    ends: dict[str, tuple[np.ndarray, np.ndarray]]  # bone -> base vertices whose mean is its head, its tail
    weights: sparse.csr_matrix  # (V, J)
    strongest: np.ndarray  # (V,) the joint with the largest weight
    targets: dict[str, Path]
    details: dict[str, list[str]]  # what shape details change -> their targets
    garments: dict[str, tuple[Path, Path]]

    def target(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return _target(self.targets[name], len(self.base))

    def garment(self, name: str) -> Garment:
        return _garment(*self.garments[name], len(self.base))


@lru_cache(maxsize=600)
def _target(path: Path, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    index, moves = parse_target(_text(path), str(path))
    if len(index) and index.max() >= vertices:
        raise MakeHumanError(f"{path}: moves vertex {index.max()}; the base mesh has {vertices}")
    return index, moves


@lru_cache(maxsize=100)
def _garment(fit: Path, mesh: Path, vertices: int) -> Garment:
    return parse_mhclo(_text(fit), parse_obj(_text(mesh), str(mesh)), name=fit.stem, base_vertices=vertices,
                       source=str(fit))  # fmt: skip


@lru_cache(maxsize=4)
def _load(folder: Path) -> _Data:
    if not folder.is_dir():
        raise MakeHumanError(f"{folder}: no such folder; expected one with MakeHuman's 3dobjs, rigs and targets")
    obj = folder / "3dobjs" / "base.obj"
    mesh = parse_obj(_text(obj), str(obj))
    if "body" not in mesh.groups:
        raise MakeHumanError(f"{obj}: has no group 'body'; expected MakeHuman's base mesh")
    rig_path = folder / "rigs" / "default.mhskel"
    skeleton = _json(rig_path)
    weights_path = folder / "rigs" / "default_weights.mhw"
    table = _json(weights_path).get("weights", {})
    kept = _kept_joints()
    bones, points = skeleton.get("bones", {}), skeleton.get("joints", {})
    lacking = [name for name in kept if name not in bones]
    if lacking:
        raise MakeHumanError(f"{rig_path}: lacks the bones {', '.join(lacking[:5])}; expected MakeHuman's default rig")

    def carrier(bone: str) -> str | None:
        while bone is not None and bone not in kept:
            bone = bones[bone]["parent"]
        return bone

    order: list[str] = []
    waiting = list(kept)
    while waiting:
        ready = [n for n in waiting if (p := bones[n]["parent"]) is None or carrier(p) in order]
        if not ready:
            raise MakeHumanError(f"{rig_path}: the bones {', '.join(waiting[:5])} do not hang on the root")
        order += ready
        waiting = [n for n in waiting if n not in ready]
    number = {n: k for k, n in enumerate(order)}
    parents = np.array([-1 if bones[n]["parent"] is None else number[str(carrier(bones[n]["parent"]))] for n in order])
    ends = {}
    for name, bone in bones.items():
        try:
            ends[name] = (np.array(points[bone["head"]]), np.array(points[bone["tail"]]))
        except KeyError as error:
            raise MakeHumanError(f"{rig_path}: bone {name} names the unknown joint {error}") from None
    rows, columns, values = [], [], []
    for bone, pairs in table.items():
        if bone in bones and pairs:
            index, amount = np.array(pairs, float).T
            rows.append(index.astype(int))
            columns.append(np.full(len(index), number[str(carrier(bone))]))
            values.append(amount)
    if not rows:
        raise MakeHumanError(f"{weights_path}: holds no weights of the rig's bones")
    count = len(mesh.vertices)
    weights = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
                                (count, len(order)))  # fmt: skip
    total = np.asarray(weights.sum(1)).ravel()
    if (total[np.unique(mesh.groups["body"])] < 1e-6).any():
        raise MakeHumanError(f"{weights_path}: some of the skin's vertices have no weights; the file is cut off")
    weights = (sparse.diags(1 / np.where(total > 0, total, 1)) @ weights).tocsr().astype(np.float32)

    targets = {
        str(path.relative_to(folder / "targets")).removesuffix(".gz").removesuffix(".target"): path
        for path in sorted((folder / "targets").rglob("*.target*"))
    }
    needed = [n for e in ("african", "asian", "caucasian") for g in ("male", "female") for a in ("young", "old")
              if (n := f"macrodetails/{e}-{g}-{a}") not in targets]  # fmt: skip
    if needed:
        raise MakeHumanError(
            f"{folder / 'targets'}: lacks {len(needed)} shape targets, first '{needed[0]}.target'; "
            "copy MakeHuman's folder data/targets"
        )
    garments = {}
    for fit in sorted((folder / "clothes").glob("*/*.mhclo")):
        mesh_path = next((p for p in (fit.with_suffix(".obj"), fit.with_suffix(".obj.gz")) if p.exists()), None)
        if mesh_path is None:
            raise MakeHumanError(f"{fit}: its mesh {fit.with_suffix('.obj').name} is not beside it")
        garments[fit.stem] = (fit, mesh_path)
    details: dict[str, list[str]] = {}
    for name in targets:
        if not name.startswith("macrodetails/"):
            details.setdefault(_detail(name), []).append(name)
    return _Data(
        folder=folder, base=mesh.vertices, skin=mesh.groups["body"], joints=tuple(order), parents=parents, ends=ends,
        weights=weights, strongest=_strongest(weights), targets=targets, details=details, garments=garments,
    )  # fmt: skip


def _strongest(weights: sparse.spmatrix) -> np.ndarray:
    """Return the column `(V,)` of each row's largest weight."""
    return weights.toarray().argmax(1)


def _graded(value: float) -> dict[str, float]:
    """Return the weights of min, average and max at 0..1."""
    return {"min": max(0.0, 1 - 2 * value), "average": 1 - abs(2 * value - 1), "max": max(0.0, 2 * value - 1)}


@dataclass(frozen=True)
class LeftArm:
    """A bare left arm from the elbow on, at rest, metres, in the person's axes.

    Attributes:
        vertices: `(V, 3)`.
        faces: `(F, 3)`, open at the elbow.
        weights: `(V, 18)` over two halves of the forearm, hand, three bones of each finger from the thumb on.
        heads: `(18, 3)` where these bones begin.
        tips: `(5, 3)` of the fingers.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    heads: np.ndarray
    tips: np.ndarray


@dataclass(frozen=True)
class MakeHumanPeople:
    """Random people of MakeHuman's mesh.

    Attributes:
        folder: With MakeHuman's data.
        clothes: Dress them in the folder's clothes, or in cloth laid on the skin.

    Raises:
        MakeHumanError: On the first person, when the folder is incomplete.
    """

    folder: str | Path
    clothes: bool = True

    def random(self, rng: np.random.Generator) -> Body:
        """Return a random person; the same generator state gives the same person."""
        return self.person(rng, **self._traits(rng))

    @staticmethod
    def _traits(rng: np.random.Generator) -> dict[str, Any]:
        """Draw what `person` takes."""
        female = rng.random() < 0.5
        gender = float(np.clip(rng.normal(0.06, 0.08), 0, 0.3))
        shape = {
            "gender": gender if female else 1 - gender,
            "age": float(rng.beta(1.2, 2.0)),
            "muscle": float(np.clip(rng.normal(0.52, 0.18), 0.02, 0.98)),
            "weight": float(np.clip(rng.normal(0.52, 0.20), 0.02, 0.98)),
            "height": float(np.clip(rng.normal(0.5, 0.12), 0.15, 0.85)),
            "proportions": float(np.clip(rng.normal(0.5, 0.2), 0, 1)),
        }
        height = float(np.clip(rng.normal(1.64 if female else 1.77, 0.075), 1.42, 2.02))
        ethnic = rng.dirichlet((0.5, 0.5, 0.5))
        return {"shape": shape, "ethnic": ethnic, "height_m": height}

    def left_arm(self, rng: np.random.Generator) -> LeftArm:
        """Return a random person's bare left arm from the elbow on, at rest."""
        data = _load(Path(self.folder).resolve())
        traits = self._traits(rng)
        base = _tall(self.shaped(rng, shape=traits["shape"], ethnic=traits["ethnic"]), data, traits["height_m"])
        bones = [f"lowerarm0{k}.L" for k in (1, 2)] + ["wrist.L"]
        bones += [f"finger{n}-{k}.L" for n in _FINGER_NUMBER.values() for k in (1, 2, 3)]
        columns = [data.joints.index(name) for name in bones]
        chosen = np.isin(data.strongest, columns)
        faces = data.skin[chosen[data.skin].all(axis=1)]
        used, faces = np.unique(faces, return_inverse=True)
        weights = data.weights[used][:, columns].toarray()
        heads = np.stack([base[data.ends[name][0]].mean(0) for name in bones])
        tips = np.stack([base[data.ends[f"finger{n}-3.L"][1]].mean(0) for n in _FINGER_NUMBER.values()])
        return LeftArm(base[used], faces.reshape(-1, 3), weights / weights.sum(1, keepdims=True), heads, tips)

    def shaped(self, rng: np.random.Generator, *, shape: Mapping[str, float], ethnic: np.ndarray) -> np.ndarray:
        """Return the base mesh `(V, 3)` in decimetres, helpers included, after shape targets (see `person`)."""
        data = _load(Path(self.folder).resolve())
        amounts: dict[str, float] = {}

        def add(name: str, amount: float) -> None:
            if amount > 1e-4 and name in data.targets:
                amounts[name] = amounts.get(name, 0.0) + amount

        sexes = {"male": shape["gender"], "female": 1 - shape["gender"]}
        ages = {"young": 1 - shape["age"], "old": shape["age"]}
        tall = _graded(shape["height"])
        ideal = {"uncommon": max(0.0, 1 - 2 * shape["proportions"]), "ideal": max(0.0, 2 * shape["proportions"] - 1)}
        for sex, s in sexes.items():
            for age, a in ages.items():
                for name, e in zip(("african", "asian", "caucasian"), ethnic):
                    add(f"macrodetails/{name}-{sex}-{age}", s * a * float(e))
                for muscle, m in _graded(shape["muscle"]).items():
                    for weight, w in _graded(shape["weight"]).items():
                        build = f"{sex}-{age}-{muscle}muscle-{weight}weight"
                        add(f"macrodetails/universal-{build}", s * a * m * w)
                        for end in ("min", "max"):
                            add(f"macrodetails/height/{build}-{end}height", s * a * m * w * tall[end])
                        for kind, p in ideal.items():
                            add(f"macrodetails/proportions/{build}-{kind}proportions", s * a * m * w * p)
        details = sorted(data.details)
        for pick in rng.choice(len(details), min(14, len(details)), replace=False) if details else ():
            amount = float(np.clip(rng.normal(0, 0.3), -0.7, 0.7))
            for name in data.details[details[pick]]:
                if _sign(name) * amount > 0:
                    add(name, abs(amount))
        out = data.base.copy()
        for name, amount in amounts.items():
            index, moves = data.target(name)
            out[index] += amount * moves
        return out

    def person(
        self, rng: np.random.Generator, *, shape: Mapping[str, float], ethnic: np.ndarray, height_m: float
    ) -> Body:
        """Return a person of given build, with random details, clothes and colours.

        Args:
            rng: For details, clothes and colours.
            shape: `gender` (0 female, 1 male), `age` (0 young adult, 1 old), `muscle`, `weight`, `height` (relative
                lengths) and `proportions`, each 0..1.
            ethnic: `(3,)` shares of African, Asian and Caucasian looks.
            height_m: From the soles to the top of the head.
        """
        data = _load(Path(self.folder).resolve())
        base = self.shaped(rng, shape=shape, ethnic=ethnic)
        base = _tall(base, data, height_m)
        heads = {n: base[e[0]].mean(0) for n, e in data.ends.items()}
        tails = {n: base[e[1]].mean(0) for n, e in data.ends.items()}
        rig = _rig(data, heads, tails)
        landmarks, carriers = _landmarks(data, base, heads, tails)
        dresser = _Dresser(rng, data, base, landmarks, female=shape["gender"] < 0.5, scale=height_m / 1.72)
        dresser.hair()
        if self.clothes:
            dresser.dress()
        vertices, weights, faces, parts, colours, albedo = dresser.finished()
        radii, _ = cKDTree(vertices).query(landmarks)
        # The mesh has a mouth's inside, which is nearer to the head's centre than its surface.
        at = dict(zip(LANDMARKS, landmarks))
        head = LANDMARKS.index("head")
        radii[head] = max(radii[head], 0.95 * np.linalg.norm(at["head"] - at["left_ear"]))
        return Body(
            rig=rig,
            vertices=vertices.astype(np.float32),
            weights=weights,
            faces=faces.astype(np.int32),
            parts=parts.astype(np.uint8),
            colours=np.clip(colours, 0, 1).astype(np.float32),
            albedo=np.clip(albedo, 0, 1).astype(np.float32),
            landmarks=landmarks,
            carriers=carriers,
            radii=radii.astype(np.float32),
            girth=girth_of(rig, vertices),
            about={"height_m": height_m, "shape": dict(shape)} | dresser.about,
        )


def _tall(base: np.ndarray, data: _Data, height_m: float) -> np.ndarray:
    """Return a base mesh `(V, 3)` in metres, as tall as given, the soles at 0."""
    used = np.unique(data.skin)
    low, high = base[used, 1].min(), base[used, 1].max()
    return (base - (0, low, 0)) * (height_m / (high - low))


def _detail(name: str) -> str:
    """Return what a detail target changes: both directions and both sides together."""
    for ending in ("-decr", "-incr", "-in", "-out", "-up", "-down", "-forward", "-backward"):
        name = name.removesuffix(ending)
    folder, _, stem = name.rpartition("/")
    return f"{folder}/{stem[2:] if stem.startswith(('l-', 'r-')) else stem}"


def _sign(name: str) -> int:
    """Return which direction a target is of its pair; 1 for those that have only one."""
    return -1 if name.endswith(("-decr", "-in", "-down", "-backward")) else 1


def _rig(data: _Data, heads: Mapping[str, np.ndarray], tails: Mapping[str, np.ndarray]) -> Rig:
    anchors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    across: dict[str, np.ndarray] = {}
    for side, s in (("left", "L"), ("right", "R")):
        toes = (heads[f"toe2-1.{s}"] + heads[f"toe3-1.{s}"]) / 2
        points = {
            "upper_arm": (heads[f"upperarm01.{s}"], heads[f"lowerarm01.{s}"]),
            "forearm": (heads[f"lowerarm01.{s}"], heads[f"wrist.{s}"]),
            "hand": (heads[f"wrist.{s}"], heads[f"finger3-1.{s}"]),
            "thigh": (heads[f"upperleg01.{s}"], heads[f"lowerleg01.{s}"]),
            "shin": (heads[f"lowerleg01.{s}"], heads[f"foot.{s}"]),
            "foot": (heads[f"foot.{s}"], toes),
            "toes": (toes, toes + (toes - heads[f"foot.{s}"]) * (1, 0, 1)),
        }
        for finger, n in _FINGER_NUMBER.items():
            for k in (1, 2, 3):
                points[f"{finger}{k}"] = (heads[f"finger{n}-{k}.{s}"], tails[f"finger{n}-{k}.{s}"])
        anchors |= {f"{side}_{name}": ends for name, ends in points.items()}
        across[f"{side}_hand"] = heads[f"finger2-1.{s}"] - heads[f"finger5-1.{s}"]
    kept = _kept_joints()
    rest = np.stack([heads[n] for n in data.joints])
    return Rig(data.joints, data.parents, rest, tuple(kept[n] for n in data.joints), anchors, across)


def _landmarks(data: _Data, base, heads, tails) -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks `(K, 3)` at rest and the joints `(K,)` that carry them."""
    skin = base[np.unique(data.skin)]
    eye = (heads["eye.L"] + heads["eye.R"]) / 2
    unit = (skin[:, 1].max() - eye[1]) / 0.11  # 1 for an average head
    top = skin[skin[:, 1].argmax()]
    middle = skin[(np.abs(skin[:, 0]) < 0.012) & (skin[:, 1] < eye[1]) & (skin[:, 1] > eye[1] - 0.07 * unit)]
    nose = middle[middle[:, 2].argmax()]
    shoulders = (heads["upperarm01.L"] + heads["upperarm01.R"]) / 2
    at: dict[str, tuple[np.ndarray, str]] = {
        "neck": (np.array([0, shoulders[1] + 0.024 * unit, (shoulders[2] + heads["neck01"][2]) / 2]), "spine01"),
        "head": (np.array([0, eye[1] + 0.004, eye[2] - 0.075 * unit]), "head"),
        "head_top": (np.array([0, top[1], top[2]]), "head"),
        "nose": (nose - (0, 0, 0.004), "head"),
    }
    for side, s, out in (("left", "L", 1), ("right", "R", -1)):
        beside = skin[(np.abs(skin[:, 1] - eye[1] + 0.01) < 0.04 * unit) & (skin[:, 2] < eye[2] - 0.03 * unit)
                      & (skin[:, 1] > heads["head"][1])]  # fmt: skip
        ear = beside[np.argsort(beside[:, 0] * -out)[:8]].mean(0)
        at[f"{side}_ear"] = (ear, "head")
        at[f"{side}_eye"] = (heads[f"eye.{s}"] + (0, 0, 0.008), "head")
        for name, bone in (("shoulder", "upperarm01"), ("elbow", "lowerarm01"), ("wrist", "wrist"),
                           ("hand_root", "wrist"), ("hip", "upperleg01"), ("knee", "lowerleg01"),
                           ("ankle", "foot")):  # fmt: skip
            at[f"{side}_{name}"] = (heads[f"{bone}.{s}"], f"{bone}.{s}")
        foot = skin[(skin[:, 0] * out > 0) & (skin[:, 1] < 0.06)]
        at[f"{side}_heel"] = (foot[foot[:, 2].argmin()] + (0, 0, 0.012), f"foot.{s}")
        at[f"{side}_big_toe"] = (tails[f"toe1-1.{s}"], f"toe1-1.{s}")
        at[f"{side}_small_toe"] = (tails[f"toe5-1.{s}"], f"toe5-1.{s}")
        for finger, name in (("thumb", "thumb"), ("index", "forefinger"), ("middle", "middle_finger"),
                             ("ring", "ring_finger"), ("little", "pinky_finger")):  # fmt: skip
            n = _FINGER_NUMBER[finger]
            for k in (1, 2, 3):
                at[f"{side}_{name}{k}"] = (heads[f"finger{n}-{k}.{s}"], f"finger{n}-{k}.{s}")
            at[f"{side}_{name}4"] = (tails[f"finger{n}-3.{s}"], f"finger{n}-3.{s}")
    number = {n: k for k, n in enumerate(data.joints)}
    return np.stack([at[n][0] for n in LANDMARKS]), np.array([number[at[n][1]] for n in LANDMARKS])


_PART_OF_JOINT = {
    "root": "pelvis", "spine": "torso", "neck": "neck", "head": "head", "clavicle": "torso", "shoulder": "torso",
    "upperarm": "upper_arm", "lowerarm": "forearm", "wrist": "hand", "finger": "hand", "upperleg": "thigh",
    "lowerleg": "shin", "foot": "foot", "toe": "foot",
}  # fmt: skip


def _part_of_joint(name: str) -> int:
    kind = next(part for start, part in _PART_OF_JOINT.items() if name.startswith(start))
    if name.startswith("spine05"):
        kind = "pelvis"
    side = {"L": "left_", "R": "right_"}.get(name.rpartition(".")[2], "") if "." in name else ""
    return _PART[kind if kind in _PART else side + kind]


class _Dresser:
    """Hair, clothes and colours of one person."""

    def __init__(self, rng, data: _Data, base, landmarks, *, female: bool, scale: float) -> None:
        self.rng, self.data, self.base, self.female, self.scale = rng, data, base, female, scale
        self.at = dict(zip(LANDMARKS, landmarks))
        used = np.unique(data.skin)
        self.count = int(used.max()) + 1
        self.skin = base[: self.count].copy()
        self.faces = data.skin
        self.normals = vertex_normals(self.skin, self.faces)
        self.vertex_parts = np.array([_part_of_joint(n) for n in data.joints])[data.strongest[: self.count]]
        eye, nose = (self.at["left_eye"] + self.at["right_eye"]) / 2, self.at["nose"]
        self.unit = (self.at["head_top"][1] - eye[1]) / 0.11
        local = (self.skin - eye) / self.unit
        on_head = self.vertex_parts == _PART["head"]
        face = on_head & (local[:, 2] > -0.05) & (local[:, 1] < 0.045)
        self.vertex_parts = np.where(face, _PART["face"], self.vertex_parts)
        self.local = local
        self.nose = (nose - eye) / self.unit
        self.offset = np.zeros(self.count)
        self.layer = np.zeros(self.count, int)
        tone = SKIN_COLOURS[rng.integers(len(SKIN_COLOURS))] * rng.uniform(0.92, 1.06)
        self.materials = [(tone, rng.uniform(0.48, 0.62))]
        self.hidden = np.zeros(len(base), bool)
        self.garments: list[tuple[Garment, tuple[int, int]]] = []
        self.about: dict[str, object] = {}

    def material(self, colour: np.ndarray, albedo: float) -> int:
        self.materials.append((colour, albedo))
        return len(self.materials) - 1

    def cloth(self) -> int:
        return self.material(random_colour(self.rng), self.rng.uniform(0.15, 0.9))

    def cover(self, where: np.ndarray, thickness_m: float, material: int) -> None:
        self.offset = np.where(where, thickness_m * self.scale, self.offset)
        self.layer = np.where(where, material, self.layer)

    def hair(self) -> None:
        rng, p = self.rng, self.local
        colour = HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))] * rng.uniform(0.7, 1.3)
        hair = self.material(np.clip(colour, 0.02, 0.95), rng.uniform(0.12, 0.45))
        if rng.random() < (0.02 if self.female else 0.15):
            self.about["hair"] = "bald"
            return
        line = np.interp(
            p[:, 1], (-0.10, -0.05, -0.01, 0.03, 0.055, 0.09), (-0.125, -0.105, -0.075, -0.045, -0.01, 0.05)
        )
        ear = (np.abs(p[:, 0]) > 0.072) & (np.abs(p[:, 1] + 0.012) < 0.036)
        grown = np.isin(self.vertex_parts, (_PART["head"], _PART["face"])) & (p[:, 2] < line) & (p[:, 1] > -0.10) & ~ear
        self.cover(grown, rng.choice((rng.uniform(0.005, 0.012), rng.uniform(0.015, 0.035))), hair)
        self.about["hair"] = "short"

    def dress(self) -> None:
        rng = self.rng
        names = list(self.data.garments)
        suits = [n for n in names if "suit" in n and n.startswith("female") == self.female]
        shoes = [n for n in names if "shoe" in n]
        hats = [n for n in names if "fedora" in n]
        if suits and rng.random() < 0.7:
            suit = str(rng.choice(suits))
            self.about["clothes"] = suit
            self.wear(suit, self.cloth(), self.cloth() if rng.random() < 0.85 else len(self.materials) - 1)
        else:
            self.painted()
        if shoes and rng.random() < 0.8:
            shoe = self.cloth()
            self.wear(str(rng.choice(shoes)), shoe, shoe)
        if hats and rng.random() < 0.08:
            felt = self.cloth()
            self.wear(str(rng.choice(hats)), felt, felt)

    def painted(self) -> None:
        """Lay tight cloth on the skin: a shirt and trousers or shorts."""
        rng, at = self.rng, self.at
        top, bottom = self.cloth(), self.cloth()
        parts = self.vertex_parts
        kind = np.array(PARTS, object)[parts]
        plain = np.array([k.partition("_")[2] if k.startswith(("left", "right")) else k for k in kind])
        hip, knee, ankle = (at[f"left_{n}"][1] for n in ("hip", "knee", "ankle"))
        hem = rng.choice((ankle, ankle + 0.03, (hip + knee) / 2, knee, hip - 0.1))
        waist = hip + rng.uniform(0.0, 0.14)
        below = np.isin(plain, ("torso", "pelvis")) & (self.skin[:, 1] < waist + 0.03)
        legs = np.isin(plain, ("thigh", "shin")) & (self.skin[:, 1] > hem)
        self.cover(below | legs, rng.uniform(0.004, 0.014), bottom)
        low_neck = at["neck"][1] + rng.uniform(-0.01, 0.05)
        trunk = np.isin(plain, ("torso", "pelvis", "neck")) & (self.skin[:, 1] > waist) & (self.skin[:, 1] < low_neck)
        sleeve = rng.choice((0.0, 0.5, 1.0, 2.0))
        thick = rng.uniform(0.004, 0.016)
        for side in ("left", "right"):
            shoulder, elbow, wrist = (at[f"{side}_{n}"] for n in ("shoulder", "elbow", "wrist"))
            upper = (self.skin - shoulder) @ (elbow - shoulder) / ((elbow - shoulder) @ (elbow - shoulder))
            fore = 1 + (self.skin - elbow) @ (wrist - elbow) / ((wrist - elbow) @ (wrist - elbow))
            trunk |= (kind == f"{side}_upper_arm") & (upper < sleeve) & (sleeve > 0)
            trunk |= (kind == f"{side}_forearm") & (fore < sleeve)
        self.cover(trunk, thick, top)
        self.about["clothes"] = "tight"

    def wear(self, name: str, upper: int, lower: int) -> None:
        garment = self.data.garment(name)
        self.hidden[garment.hides] = True
        self.garments.append((garment, (upper, lower)))

    def finished(self):
        """Return vertices, weights, faces, parts, colours, albedo."""
        data = self.data
        keep = ~self.hidden[: self.count][self.faces].all(1)
        faces = [self.faces[keep]]
        vertices = [self.skin + self.normals * self.offset[:, None]]
        weights = [data.weights[: self.count]]
        parts = [np.sort(self.vertex_parts[faces[0]], axis=1)[:, 1]]
        layers = [np.sort(self.layer[faces[0]], axis=1)[:, 1]]
        colours = [self._painted_face(faces[0], np.array([c for c, _ in self.materials])[layers[0]], layers[0])]
        by_joint = np.array([_part_of_joint(n) for n in data.joints])
        low = [_PART[n] for n in PARTS if n.endswith(("pelvis", "thigh", "shin", "foot"))]
        count = self.count
        for garment, (upper, lower) in self.garments:
            points = garment.fitted(self.base)
            n = len(points)
            hold = sparse.csr_matrix(
                (np.maximum(garment.shares, 0).ravel(), (np.repeat(np.arange(n), 3), garment.corners.ravel())),
                (n, len(self.base)),
            )
            share = (hold @ data.weights).tocsr()
            share = sparse.diags(1 / np.maximum(np.asarray(share.sum(1)).ravel(), 1e-6)) @ share
            labels = by_joint[_strongest(share)]
            face_parts = np.sort(labels[garment.faces], axis=1)[:, 1]
            layer = np.where(np.isin(face_parts, low), lower, upper)
            vertices.append(points)
            weights.append(share.astype(np.float32))
            faces.append(garment.faces + count)
            parts.append(face_parts)
            layers.append(layer)
            colours.append(np.array([c for c, _ in self.materials])[layer])
            count += n
        all_faces = np.concatenate(faces)
        used, all_faces_new = np.unique(all_faces, return_inverse=True)
        albedo = np.array([a for _, a in self.materials])[np.concatenate(layers)]
        table = sparse.vstack(weights, format="csr")[used].astype(np.float32)
        return (np.concatenate(vertices)[used], table, all_faces_new.reshape(-1, 3), np.concatenate(parts),
                np.concatenate(colours), albedo)  # fmt: skip

    def _painted_face(self, faces: np.ndarray, colours: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """Paint lips, brows and eyes on bare skin."""
        at = self.local[faces].mean(1)
        colours = np.array(colours)
        bare = layers == 0
        away = at - self.nose
        lips = bare & (np.abs(away[:, 0]) < 0.024) & (np.abs(away[:, 1] + 0.036) < 0.008) & (away[:, 2] > -0.04)
        colours[lips] *= (0.95, 0.68, 0.68)
        for side in (1, -1):
            brow = (
                bare & (np.abs(at[:, 0] - side * 0.033) < 0.020) & (np.abs(at[:, 1] - 0.018) < 0.005) & (at[:, 2] > 0)
            )
            colours[brow] = self.materials[1][0] * 0.8
            eye = bare & (np.abs(at[:, 0] - side * 0.031) < 0.013) & (np.abs(at[:, 1]) < 0.007) & (at[:, 2] > -0.012)
            colours[eye] = 0.25
        return colours
