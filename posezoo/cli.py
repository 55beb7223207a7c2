"""The `posezoo` command: its parser, and what becomes of errors."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import textwrap
from collections.abc import Sequence

from posezoo import __version__
from posezoo.commands import bench, catalogue, demo, evaluate, export, predict, training
from posezoo.commands.common import REFUSED, CommandError
from posezoo.commands.display import track
from posezoo.synth import command as synth


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="posezoo",
        description="Human-pose networks for phones, Coral, Myriad and Jetson.",
        epilog=(
            "Exit codes: 0 all done; 1 some pictures failed, the others are written; 2 nothing was done, one line on "
            "the standard error says why. 'posezoo COMMAND --help' is the manual of a command."
        ),
    )
    parser.add_argument("--version", action="version", version=f"posezoo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, run, summary, manual):
        sub = commands.add_parser(
            name, help=summary, description=textwrap.dedent(manual).strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(run=run)
        sub.add_argument("-v", "--verbose", action="store_true", help="say more, and show where an error came from")
        return sub

    for module in (predict, demo, catalogue, evaluate, training, export):
        module.add_to(command)
    synth.add_arguments(command("synth", lambda arguments: synth.run(arguments, track), synth.SUMMARY, synth.MANUAL))
    bench.add_to(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    from posezoo.errors import UserError

    parser = _parser()
    arguments, flags = parser.parse_known_args(argv)
    if flags and arguments.run is not training.train:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    arguments.flags = flags
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.ERROR, format="%(message)s")
    if not arguments.verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return arguments.run(arguments)
    except (CommandError, UserError, FileNotFoundError, ImportError) as error:
        if arguments.verbose:
            raise
        print(f"posezoo: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("posezoo: interrupted; files that were written are whole", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
