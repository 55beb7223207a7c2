"""What several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from posezoo.inference.poses import Poses

DEFAULT_MODEL = "mobilenet_split_224"

# Exit codes, as `posezoo --help` explains them.
DONE, SOME_FAILED, REFUSED = 0, 1, 2


class CommandError(Exception):
    """What the user must change, in one line."""


class Command(Protocol):
    """Adds a command to the parser: its name, what it does, one line about it and its manual."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], int], summary: str, manual: str
    ) -> argparse.ArgumentParser: ...


def model_argument(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Add MODEL, or --model with a default."""
    told = "a name from 'posezoo list'"
    if positional:
        parser.add_argument("model", help=told)
    else:
        parser.add_argument("--model", default=DEFAULT_MODEL, help=f"{told} (default: %(default)s)")


def runtime_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --runtime."""
    parser.add_argument(
        "--runtime", choices=("keras", "tflite", "onnx", "openvino", "auto"), default=default,
        help="keras: float network; tflite: int8 file, no TensorFlow needed; onnx, openvino: files of your own; "
        "auto: keras where installed (default: %(default)s)",
    )  # fmt: skip


def dataset_arguments(
    parser: argparse.ArgumentParser, split: str, layouts: Sequence[str] = ("lsp", "flic", "coco")
) -> None:  # fmt: skip
    """Add --dataset and --split."""
    parser.add_argument(
        "--dataset", choices=layouts, default="lsp", help="the data set's layout (default: %(default)s)"
    )
    parser.add_argument("--split", default=split, help="train, val, test or all, as it has them (default: %(default)s)")


def find_pictures(patterns: Sequence[str]) -> list[Path]:
    """Return the pictures that files, folders and globs name, each once.

    Raises:
        CommandError: A pattern names nothing, or a folder holds no picture.
    """
    import glob

    from posezoo.inference.images import SUFFIXES

    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise CommandError(f"{path}: the folder holds no picture ({', '.join(s[1:] for s in SUFFIXES)})")
        elif path.exists():
            inside = [path]
        else:
            inside = sorted(Path(p) for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
            if not inside:
                raise CommandError(f"{pattern}: no such file or folder")
        found |= dict.fromkeys(inside)
    return list(found)


def write_annotated(
    target: Path, image: np.ndarray, people: Poses, threshold: float, *, depths: bool = False
) -> None:  # fmt: skip
    """Draw poses on a picture, with their depths where wanted, and write it."""
    from posezoo.inference.drawing import draw, draw_depths, write_picture

    write_picture(target, (draw_depths if depths else draw)(image, people, threshold=threshold))
