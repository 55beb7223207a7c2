"""What several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from posezoo.errors import UserError
from posezoo.zoo import builder_of, info, load

if TYPE_CHECKING:
    import numpy as np

    from posezoo.inference.estimator import PoseModel
    from posezoo.inference.poses import Poses

DEFAULT_MODEL = "mobilenet_split_075_192"

#: Arguments of builders that a model's name settles.
HELD = ("name", "phi")

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
    """Add --runtime; without it files of the user's own choose theirs, see `load_model`."""
    parser.set_defaults(default_runtime=default)
    parser.add_argument(
        "--runtime", choices=("keras", "tflite", "onnx", "openvino", "auto"),
        help="keras: float network; tflite: int8 file, no TensorFlow needed; onnx, openvino: files of your own; "
        f"auto: keras where installed (default: {default}, or what --weights is for)",
    )  # fmt: skip


def network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --weights, --set, --codec and --threads: which network runs, and how its outputs are read."""
    parser.add_argument(
        "--weights", metavar="FILE", default="default",
        help="your own .weights.h5, .tflite, .onnx or OpenVINO .xml (default: the released file)",
    )  # fmt: skip
    set_argument(parser, "arguments of the model's builder with which --weights was made, such as features=128")
    parser.add_argument(
        "--codec", metavar="NAME=VALUE,...",
        help="change how outputs are decoded, such as upsample=true,detection_threshold=0.05; any parameter of the "
        "model's codec (posezoo.codecs)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="threads of the TFLite, ONNX and OpenVINO runtimes")


def set_argument(parser: argparse.ArgumentParser, told: str) -> None:
    """Add --set."""
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=told)


def scales_argument(parser: argparse.ArgumentParser) -> None:
    """Add --scales."""
    parser.add_argument(
        "--scales", metavar="LIST",
        help="bottom-up networks in Keras: short side at the network's own times each, such as 1 or 0.5,1,1.5 "
        "(default: fit the picture into the input)",
    )  # fmt: skip


def load_model(arguments: argparse.Namespace) -> PoseModel:
    """Return the model that MODEL and the arguments of `network_arguments` and `runtime_argument` name.

    Raises:
        CommandError: A setting that the builder or the codec does not take, or a file that does not fit.
    """
    from posezoo.codecs import CODECS
    from posezoo.commands.settings import read_settings, split_settings

    card, own = info(arguments.model), arguments.weights != "default"
    changes = builder_changes(card.name, arguments.set)
    codec: dict = {}
    if arguments.codec:
        kind = str(card.codec["type"])
        if kind not in CODECS:
            raise CommandError(f"{card.name} has no codec: it gives no poses")
        codec = read_settings(
            CODECS[kind], split_settings(arguments.codec), told=f"the codec '{kind}'", held=("input_wh",)
        )  # fmt: skip
    if own and not Path(arguments.weights).is_file():
        raise CommandError(f"{arguments.weights}: no such file")
    runtime = arguments.runtime or ("auto" if own else arguments.default_runtime)
    try:
        return load(
            card.name, runtime=runtime, weights=arguments.weights, threads=arguments.threads, build=changes, codec=codec
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


def builder_changes(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Return the settings of `--set` as arguments of a model's builder.

    Raises:
        CommandError: A setting that the builder does not take.
    """
    from posezoo.commands.settings import read_settings

    return read_settings(builder_of(name), settings, told=f"the builder of {name}", held=HELD) if settings else {}


@contextmanager
def blaming_settings(name: str) -> Iterator[None]:
    """Inside the block a network is built: what its builder refuses is the user's to change, and told in one line.

    Raises:
        CommandError: In place of the builder's `TypeError` or `ValueError`.
    """
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise CommandError(f"{name}: {error}") from error


def read_scales(given: str | None) -> tuple[float, ...] | None:
    """Return the numbers of `--scales`.

    Raises:
        CommandError: They are no numbers above 0.
    """
    if given is None:
        return None
    try:
        scales = tuple(float(s) for s in given.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < s < float("inf") for s in scales):
        raise CommandError(f"--scales {given}: expected numbers such as 0.5,1,1.5")
    return scales


def dataset_arguments(
    parser: argparse.ArgumentParser, split: str, layouts: Sequence[str] = ("lsp", "flic", "coco")
) -> None:  # fmt: skip
    """Add --dataset and --split."""
    parser.add_argument(
        "--dataset", choices=layouts, default="lsp", help="the data set's layout (default: %(default)s)"
    )
    parser.add_argument(
        "--split",
        default=split,
        help="train, val, test or all, as it has them; coco's test is test-dev, whose labels COCO keeps "
        "(default: %(default)s)",
    )


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
