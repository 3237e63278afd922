"""The command line: ``python -m fastfake``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fastfake import __version__, run
from fastfake import memory_command as memory
from fastfake.demo import command as demo


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m fastfake``; each subcommand's arguments name the function that runs it."""
    parser = argparse.ArgumentParser(prog="python -m fastfake", description="Fake tensors for torch, natively.")
    parser.add_argument("--version", action="version", version=f"fastfake {__version__}")
    subcommands: argparse._SubParsersAction[Any] = parser.add_subparsers(
        title="subcommands", metavar="COMMAND", parser_class=memory.ParserWithRun
    )
    demo.add_parser(subcommands)
    memory.add_parser(subcommands)
    run.add_parser(subcommands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``python -m fastfake``; by default the process's own arguments.

    Returns:
        The exit code: 2 where no subcommand is named, else the subcommand's.

    Raises:
        SystemExit: argparse ends the process itself for wrong arguments (code 2), help and version (code 0).
    """
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    if "run" not in parsed:
        parser.print_help(sys.stderr)
        return 2
    code: int = parsed.run(parsed)
    return code


if __name__ == "__main__":
    sys.exit(main())
