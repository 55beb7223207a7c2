"""`posezoo train` and `posezoo import-torch`: where weights come from."""

from __future__ import annotations

import argparse
import runpy
import shlex
import sys
from pathlib import Path

from posezoo.commands.common import DONE, Command, CommandError, model_argument
from posezoo.files import replacing
from posezoo.zoo import info


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
    from posezoo.zoo import build

    out = Path(arguments.out)
    if not out.name.endswith(".weights.h5"):
        raise CommandError(f"{out}: the file's name must end in .weights.h5, as Keras asks")
    card = info(arguments.model)
    state = read_checkpoint(arguments.checkpoint)
    changes = {"skeleton": arguments.skeleton} if arguments.skeleton else {}
    network = build(card.name, **changes)
    load_torch(network, state, family=card.family)
    with replacing(out) as path:
        network.save_weights(path)
    print(f"written: {out}; load it with posezoo.load({card.name!r}, weights={str(out)!r})")
    return DONE


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

        example:
          posezoo import-torch efficienthrnet_h-2.pth --model efficienthrnet_h-2 -o h-2.weights.h5
    """)  # fmt: skip
    parser.add_argument("checkpoint", help="a .pth, .pt or .safetensors file")
    parser.add_argument("--model", required=True, help="the network it belongs to, a name from 'posezoo list'")
    parser.add_argument("-o", "--out", required=True, help="the .weights.h5 to write")
    parser.add_argument("--skeleton", help="keypoints of the checkpoint where they are not the card's")
