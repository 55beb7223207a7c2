"""Frames Labeled In Cinema (Sapp & Taskar, CVPR 2013), in its own layout: `examples.mat` and `images/`.

5,003 film frames with one labelled person each, 3,987 for training and 1,016 for testing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posezoo.data.sample import KeypointSet
from posezoo.skeletons import FLIC11

SPLITS = ("train", "test", "val", "all")

#: Column of `coords`, counted from 0, of every keypoint in use. The other columns are joints that
#: nearly no frame labels, or points computed from these.
COLUMNS = {
    "left_shoulder": 0, "left_elbow": 1, "left_wrist": 2,
    "right_shoulder": 3, "right_elbow": 4, "right_wrist": 5,
    "left_hip": 6, "right_hip": 9, "left_eye": 12, "right_eye": 13, "nose": 16,
}  # fmt: skip
NUM_COLUMNS = 29
FIELDS = ("filepath", "coords", "istrain", "istest")


def read_flic(root: Path | str, split: str = "all") -> KeypointSet:
    """Read FLIC.

    Coordinates become 0-based pixels; a joint that is NaN in the file is unlabelled. Boxes are those of
    the labelled joints: the file's `torsobox` is a detector's and is not read.

    Args:
        root: Folder with `examples.mat` and `images/`.
        split: `train`, `test` (`val` is the same) or `all`.

    Raises:
        FileNotFoundError: No `examples.mat` in `root`.
        ValueError: An unknown split, or an `examples.mat` of another layout.
    """
    from scipy.io import loadmat

    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; expected one of {', '.join(SPLITS)}")
    path = root / "examples.mat"
    if not path.exists():
        raise FileNotFoundError(f"{root}: no examples.mat; expected the FLIC folder, with examples.mat and images/")
    try:
        examples = loadmat(path, variable_names="examples")["examples"].ravel()
    except (KeyError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path}: no struct array 'examples' can be read from it ({error})") from error
    missing = [name for name in FIELDS if name not in (examples.dtype.names or ())]
    if missing:
        raise ValueError(f"{path}: 'examples' has no field {', '.join(missing)}; expected FLIC's own file")
    people = KeypointSet(f"{root.name}-{split}", FLIC11)
    columns = [COLUMNS[keypoint] for keypoint in FLIC11.keypoints]
    flag = "istrain" if split == "train" else "istest"
    for number, example in enumerate(examples, start=1):
        if split != "all" and not np.any(example[flag]):
            continue
        if not example["filepath"].size:
            people.leave_out(f"example {number}", "no file name")
            continue
        name, coords = str(example["filepath"].ravel()[0]), example["coords"]
        if coords.shape != (2, NUM_COLUMNS) or not np.issubdtype(coords.dtype, np.number):
            people.leave_out(name, f"coords of shape {coords.shape} where (2, {NUM_COLUMNS}) is expected")
            continue
        xy = coords.T[columns].astype(np.float32) - 1  # Matlab counts pixels from 1
        labelled = ~np.isnan(xy).any(axis=1)
        person = np.column_stack([np.where(labelled[:, None], xy, 0), 2.0 * labelled])
        people.add(root / "images" / name, person[None], image_id=number)
    return people
