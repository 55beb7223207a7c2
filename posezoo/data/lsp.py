"""Leeds Sports Pose and its extended set (Johnson & Everingham, BMVC 2010 and CVPR 2011).

Two layouts are read: the original one (`joints.mat` and `images/imNNNN.jpg`), and a subset with
`annotations.json` (`joint_names`, `items` of `file, width, height, joints[14][x, y, visible]`) and an
optional `split.json` whose `val` lists the validation files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from posezoo.data.sample import KeypointSet, keypoint_columns
from posezoo.skeletons import LSP14

SPLITS = ("train", "val", "all")


def read_lsp(root: Path | str, split: str = "all", *, val_fraction: float = 0.1) -> KeypointSet:
    """Read LSP or LSPet.

    Args:
        root: Folder with `images/` and either `joints.mat` or `annotations.json`.
        split: `train`, `val` or `all`. Without a `split.json`, LSP (2,000 pictures) is divided as
            published, first half for training; LSPet's last `val_fraction` is validation.
        val_fraction: See above.

    Raises:
        FileNotFoundError: No annotation file in `root`.
        ValueError: An unknown split.
    """
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; expected one of {', '.join(SPLITS)}")
    if (root / "annotations.json").exists():
        names, joints = _read_json(root)
    elif (root / "joints.mat").exists():
        names, joints = _read_mat(root)
    else:
        raise FileNotFoundError(f"{root}: no joints.mat and no annotations.json; expected the LSP or LSPet folder")
    validation = _validation_names(root, names, val_fraction)
    people = KeypointSet(f"{root.name}-{split}", LSP14)
    for name, person in zip(names, joints, strict=True):
        if split == "all" or (name in validation) == (split == "val"):
            people.add(root / "images" / name, person[None], image_id=len(people.records))
    return people


def _read_json(root: Path):
    annotations = json.loads((root / "annotations.json").read_text())
    names = [_long(name) for name in annotations["joint_names"]]
    order = keypoint_columns(names, LSP14, str(root / "annotations.json"))
    files, joints = [], []
    for item in annotations["items"]:
        try:
            person = np.array(item["joints"], np.float32).reshape(len(names), 3)[order]
        except (TypeError, ValueError):  # not numbers, or not as many: the set leaves the picture out by name
            person = np.full((len(LSP14.keypoints), 3), np.nan, np.float32)
        person[:, 2] = np.where(person[:, 2] > 0, 2, 0)
        files.append(item["file"])
        joints.append(person)
    return files, joints


def _long(name: str) -> str:
    side = {"l_": "left_", "r_": "right_"}.get(name[:2])
    return side + name[2:] if side else name


def _read_mat(root: Path):
    """`joints` is 3x14xN in LSP and 14x3xN in LSPet; LSP's third row is 1 where a joint is hidden."""
    from scipy.io import loadmat

    joints = loadmat(root / "joints.mat")["joints"].astype(np.float32)
    if joints.shape[0] == 3:
        joints = np.moveaxis(joints, -1, 0).transpose(0, 2, 1).copy()
        joints[..., 2] = np.where(joints[..., 2] > 0, 1, 2)
    else:
        joints = np.moveaxis(joints, -1, 0).copy()
        joints[..., 2] = np.where(joints[..., 2] > 0, 2, 0)
    digits = 5 if len(joints) > 2000 else 4
    return [f"im{i:0{digits}d}.jpg" for i in range(1, len(joints) + 1)], joints


def _validation_names(root: Path, names: list[str], val_fraction: float) -> set[str]:
    if (root / "split.json").exists():
        return set(json.loads((root / "split.json").read_text())["val"])
    first = len(names) // 2 if len(names) == 2000 else int(len(names) * (1 - val_fraction))
    return set(names[first:])
