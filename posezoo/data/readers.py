"""One way to every reader, so that a recipe needs one `--dataset` flag."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from posezoo.data.coco import read_coco
from posezoo.data.depth import read_dih, read_itop, read_panoptic_depth, read_utd_mhad
from posezoo.data.flic import read_flic
from posezoo.data.lsp import read_lsp
from posezoo.data.sample import KeypointSet, keypoint_columns
from posezoo.skeletons import COCO17, Skeleton

VAL_FRACTION = 0.1

#: How COCO names lists of pictures without annotations, and that of its test set.
UNLABELLED_FILE = "image_info_"
TEST_DEV = f"{UNLABELLED_FILE}test-dev2017.json"


def read(dataset: str, root: Path | str, split: str, skeleton: Skeleton | None = None) -> KeypointSet:
    """Read a split of a data set.

    Args:
        dataset: `lsp` (also its extended set), `flic`, `coco`; depth: `utd_mhad`, `dih`, `panoptic_depth`, `itop`.
        root: The data set's folder, see its reader. For `coco`: the official one
            (`annotations/person_keypoints_train2017.json` and `train2017/`, the same for `val`), or one
            with an annotation file, or one per split with the split in its name, and `images/`. A single
            file is divided by `split.json` (`val` lists file names), else its last tenth is validation.
        split: `train`, `val`, or another that the reader knows. COCO's `test` is test-dev: its pictures have no
            labels.
        skeleton: The keypoints to read, all of which the data set must have; by default all it has,
            COCO's 17 for `coco`.

    Raises:
        FileNotFoundError: No annotations in `root`.
        ValueError: An unknown data set or split, or keypoints that the data set does not have.
    """
    if dataset not in READERS:
        raise ValueError(f"unknown data set '{dataset}'; expected one of {', '.join(READERS)}")
    return READERS[dataset](Path(root), split, skeleton)


def _read_lsp(root: Path, split: str, skeleton: Skeleton | None) -> KeypointSet:
    return _select(read_lsp(root, split), skeleton)


def _read_flic(root: Path, split: str, skeleton: Skeleton | None) -> KeypointSet:
    return _select(read_flic(root, split), skeleton)


def _depth(reader: Callable[[Path, str], KeypointSet]) -> Callable[[Path, str, Skeleton | None], KeypointSet]:
    return lambda root, split, skeleton: _select(reader(root, split), skeleton)


def _select(people: KeypointSet, skeleton: Skeleton | None) -> KeypointSet:
    """Keep a skeleton's keypoints of a set; boxes and areas stay those of the whole person."""
    if skeleton is None:
        return people
    columns = keypoint_columns(people.skeleton.keypoints, skeleton, people.name)
    for record in people.records:
        record.keypoints = record.keypoints[:, columns]
        record.weights = None if record.weights is None else record.weights[:, columns]
    people.skeleton = skeleton
    return people


def _read_coco(root: Path, split: str, skeleton: Skeleton | None, *, keep_empty: bool = False) -> KeypointSet:
    path, whole = coco_annotations(root, split)
    labelled = not path.name.startswith(UNLABELLED_FILE)
    people = read_coco(
        path, _images(root, split), skeleton=skeleton or COCO17, keep_empty=keep_empty, labelled=labelled
    )  # fmt: skip
    return people if whole or split == "all" else _divide(people, root, split)


def read_coco_pictures(root: Path | str, split: str) -> tuple[KeypointSet, Path | None]:
    """Read every picture of a COCO-style set, also those without people, as COCO's evaluation needs.

    Args:
        root: As for `read`.
        split: `train`, `val`, `test` or `all`.

    Returns:
        The pictures and the annotation file; None for test pictures, whose labels COCO keeps.

    Raises:
        FileNotFoundError: No annotations in `root`.
        ValueError: An unknown split.
    """
    people, path = _read_coco(Path(root), split, None, keep_empty=True), coco_annotations(Path(root), split)[0]
    return people, None if path.name.startswith(UNLABELLED_FILE) else path


def coco_annotations(root: Path, split: str) -> tuple[Path, bool]:
    """Find the annotation file of a split; see `read`.

    Returns:
        The file, and whether all of it is the split; else it holds every split.

    Raises:
        FileNotFoundError: There is none, or it is not clear which.
        ValueError: An unknown split.
    """
    if split not in ("train", "val", "test", "all"):
        raise ValueError(f"unknown split '{split}'; expected train, val, test or all")
    found = sorted(p for folder in (root, root / "annotations") for p in folder.glob("*.json*"))
    found = [p for p in found if p.name.endswith((".json", ".json.gz")) and p.name != "split.json"]
    wanted = TEST_DEV if split == "test" else f"person_keypoints_{split}2017.json"
    official = [p for p in found if p.name.startswith(wanted)]
    of_split = official or [p for p in found if (len(found) > 1 or split == "test") and split in p.name]
    if len(of_split) == 1:
        return of_split[0], True
    if split != "test":
        found = [p for p in found if not p.name.startswith(UNLABELLED_FILE)]
    if len(found) != 1 or split == "test":
        listed = ", ".join(p.name for p in found) or "no .json"
        alone = "" if split == "test" else "one .json, "
        raise FileNotFoundError(
            f"{root}: found {listed}; expected annotations/{wanted}, {alone}or exactly one with '{split}' in its name"
        )
    if found[0].name.startswith("person_keypoints_") and "2017.json" in found[0].name:
        raise FileNotFoundError(f"{root}: has {found[0].name} but not person_keypoints_{split}2017.json")
    return found[0], False


def _images(root: Path, split: str) -> Path:
    """Return the folder of a split's pictures."""
    candidates = [root / f"{split}2017", root / split, root / "images" / split, root / "images"]
    return next((folder for folder in candidates if folder.is_dir()), root)


def _divide(people: KeypointSet, root: Path, split: str) -> KeypointSet:
    names = [record.path.name for record in people.records]
    if (root / "split.json").exists():
        validation = set(json.loads((root / "split.json").read_text())["val"])
    else:
        validation = set(names[int(len(names) * (1 - VAL_FRACTION)) :])
    people.records = [r for r in people.records if (r.path.name in validation) == (split == "val")]
    people.name = f"{people.name}-{split}"
    return people


#: Name -> function of (root, split, skeleton or None).
READERS = {
    "lsp": _read_lsp, "flic": _read_flic, "coco": _read_coco, "utd_mhad": _depth(read_utd_mhad),
    "dih": _depth(read_dih), "panoptic_depth": _depth(read_panoptic_depth), "itop": _depth(read_itop),
}  # fmt: skip
