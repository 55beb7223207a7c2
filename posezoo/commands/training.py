"""`posezoo train` and `posezoo import-torch`: where weights come from."""

from __future__ import annotations

import argparse
import importlib
import inspect
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posezoo.commands.common import (
    DONE,
    HELD,
    Command,
    CommandError,
    blaming_settings,
    builder_changes,
    model_argument,
    set_argument,
)
from posezoo.files import replacing
from posezoo.zoo import info

if TYPE_CHECKING:
    import keras


def train(arguments: argparse.Namespace) -> int:
    """Run the model's recipe with the card's settings and the flags given."""
    card = info(arguments.model)
    _, script, *settings = shlex.split(card.recipe)
    path = find_recipe(script)
    sys.argv = [str(path), *settings, *arguments.flags]
    runpy.run_path(str(path), run_name="__main__")
    return DONE


def find_recipe(script: str) -> Path:
    """Return a recipe's path: in the source tree, or where the package installed it.

    Raises:
        CommandError: Neither holds it.
    """
    for root in (Path(__file__).parents[2], Path(sys.prefix) / "share" / "posezoo"):
        if (root / script).is_file():
            return root / script
    raise CommandError(f"{script} is neither in the source tree nor installed; reinstall posezoo")


def import_torch(arguments: argparse.Namespace) -> int:
    """A PyTorch checkpoint as Keras weights."""
    from posezoo.torch_weights import load_torch, read_checkpoint

    out = Path(arguments.out)
    if not out.name.endswith(".weights.h5"):
        raise CommandError(f"{out}: the file's name must end in .weights.h5, as Keras asks")
    settings = [*arguments.set, *([f"skeleton={arguments.skeleton}"] if arguments.skeleton else [])]
    network, family, hint = network_to_fill(arguments.model, settings, str(out))
    load_torch(network, read_checkpoint(arguments.checkpoint), family=family)
    with replacing(out) as path:
        network.save_weights(path)
    print(f"written: {out}; load it with: {hint}")
    return DONE


def network_to_fill(model: str, settings: Sequence[str], weights: str) -> tuple[keras.Model, str, str]:
    """Build a model by its name, or a part of one by its builder, such as `hrnet.hrnetv2_head`.

    Returns:
        The network, its family, and the code that loads weights into it.

    Raises:
        CommandError: No such builder, or settings that it does not take.
    """
    from posezoo.commands.settings import read_settings
    from posezoo.zoo import build

    family, dot, function = model.partition(".")
    if dot:
        builder, card = _builder(family, function), None
        changes = read_settings(builder, settings, told=model, held=HELD[:1])
    else:
        card = info(model)
        family = card.family
        changes = builder_changes(model, settings)
    with blaming_settings(model):
        network = build(model, **changes) if card else builder(**changes)
    told = {name: getattr(value, "name", value) for name, value in changes.items()}
    code = ", ".join(f"{name}={value!r}" for name, value in told.items())
    fill = f"; network.load_weights({weights!r})"
    if card is None:
        start = f"from posezoo.models.{family} import {function}; network = {function}({code})"
        return network, family, start + fill
    if {"num_keypoints", "num_maps"} & set(changes):
        return network, family, f"network = posezoo.build({model!r}, {code})" + fill
    own = f", build={told!r}" if told else ""
    return network, family, f"model = posezoo.load({model!r}, weights={weights!r}{own})"


def _builder(family: str, function: str) -> Callable[..., keras.Model]:
    """Return a public function of a family's file that builds a network.

    Raises:
        CommandError: No such file or function; the message lists the file's.
    """
    import posezoo.models

    families = sorted(p.stem for p in Path(posezoo.models.__path__[0]).glob("[!_]*.py"))
    if family not in families:
        raise CommandError(f"unknown family '{family}'; expected a name from 'posezoo list', or one of {families}")
    module = importlib.import_module(f"posezoo.models.{family}")
    builders = {
        name: value for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        and value.__annotations__.get("return") == "keras.Model" and "network" not in value.__annotations__
    }  # fmt: skip
    if function not in builders:
        raise CommandError(f"{family} has no builder '{function}'; it has {', '.join(builders)}")
    return builders[function]


def add_to(command: Command) -> None:
    """Add `posezoo train` and `posezoo import-torch`."""
    parser = command("train", train, "retrain a model with its recipe", """
        Run the recipe of a model with the card's settings. Every further flag goes to the recipe and overrides them;
        'posezoo train MODEL --data x --help' is not needed: read 'python recipes/NAME.py --help'.

        example:
          posezoo train mobilenet_split_050_192 --dataset lsp --data lspet --out runs/mine
    """)  # fmt: skip
    model_argument(parser, positional=True)

    parser = command("import-torch", import_torch, "a PyTorch checkpoint as Keras weights", """
        Read a checkpoint of the public PyTorch code of a network and write Keras weights. Pickled code in the file is
        not run. A checkpoint that does not fit is refused with a list of what is missing, left over or of another
        shape.

        Forms of a network that have no name of their own come from its builder's arguments (--set; values are numbers,
        true or false, words, several by commas), parts of networks from the builder's name, FAMILY.BUILDER.

        examples:
          posezoo import-torch efficienthrnet_h-2.pth --model efficienthrnet_h-2 -o h-2.weights.h5
          posezoo import-torch rpm.pth --model rpm_2s --set features=128 -o rpm128.weights.h5
          posezoo import-torch body.pth --model hrnet_w32 --set num_keypoints=38 -o body38.weights.h5
          posezoo import-torch face.pth --model hrnet.hrnetv2 --set num_keypoints=68 -o face68.weights.h5
          posezoo import-torch hand.pth --model hrnet.hrnetv2_head --set num_keypoints=21 -o hand21.weights.h5
    """)  # fmt: skip
    parser.add_argument("checkpoint", help="a .pth, .pt or .safetensors file")
    parser.add_argument(
        "--model", required=True, help="the network it belongs to, a name from 'posezoo list', or FAMILY.BUILDER"
    )
    parser.add_argument("-o", "--out", required=True, help="the .weights.h5 to write")
    set_argument(parser, "arguments of the builder that differ from the card's, such as features=128")
    parser.add_argument("--skeleton", help="keypoints of the checkpoint where they are not the card's")
