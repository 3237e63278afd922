"""The ``demo`` subcommand: its arguments and its exit codes."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastfake.demo.workload import Workload

SAME = 0
DIFFERENT = 1
UNUSABLE = 2
INTERRUPTED = 130


def add_parser(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` to the subcommands of ``python -m fastfake``.

    Args:
        subcommands: What ``ArgumentParser.add_subparsers`` returned.
    """
    parser = subcommands.add_parser(
        "demo",
        help="run a 70-billion-parameter model on torch's fake tensors and on fastfake's, and compare",
        description="Builds a decoder of Llama 3 70B's shape on torch's fake tensors and on fastfake's, runs forward, "
        "loss and backward on both in alternation, checks that the metadata of every module's outputs and every "
        "gradient agree, and shows the times.",
        epilog="Exit codes: 0 the metadata agree; 1 they differ, or fastfake failed where torch did not; 2 what was "
        "asked for cannot be run; 130 interrupted.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a Hugging Face config.json (needs transformers)")
    parser.add_argument("--layers", type=positive, metavar="N", help="layers of the model (default: all)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="samples in the batch (default: 1)")
    parser.add_argument(
        "--sequence",
        type=positive,
        metavar="N",
        help="tokens in a sample (default: 4096, or as many as the model of --config has positions for)",
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="warm rounds per side (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    """Parse a size given on the command line.

    Args:
        text: What was typed.

    Returns:
        An integer of at least 1.

    Raises:
        argparse.ArgumentTypeError: The text is no such integer.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"has to be a positive integer, not {text!r}")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m fastfake demo``.

    Args:
        arguments: Parsed arguments, as :func:`add_parser` defines them.

    Returns:
        The exit code.
    """
    from fastfake.demo.errors import DemoError, SideFailure

    try:
        return _run(arguments)
    except DemoError as error:
        print(f"fastfake demo: {error}", file=sys.stderr)
        return UNUSABLE
    except SideFailure as error:
        # This is a bug in fastfake, and a report of it needs the traceback.
        traceback.print_exception(error.__cause__)
        print(f"fastfake demo: {error}", file=sys.stderr)
        return DIFFERENT
    except KeyboardInterrupt:
        print("fastfake demo: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    # Torch takes seconds to import, which nobody should wait for to read the help.
    import fastfake
    from fastfake.demo.errors import DemoError

    if not hasattr(fastfake, "_C"):
        raise DemoError("fastfake has no native code for the torch that is installed, so there is nothing to compare")

    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise DemoError("prints its tables with rich, which is not installed: pip install 'fastfake[demo]'") from None
    from fastfake.demo.alternation import Plan, run_alternately
    from fastfake.demo.measure import SideRun
    from fastfake.demo.report import print_peak, print_table, print_verdict, write_json
    from fastfake.demo.side import FASTFAKE

    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise DemoError(f"{arguments.json}: cannot write the figures: no such folder")
    plan = Plan(_workload(arguments), arguments.rounds)
    figures = run_alternately(plan, progress_console=Console(stderr=True))
    console = Console()
    print_table(figures, console)
    print_verdict(figures, console)
    if arguments.json is not None:
        write_json(figures, arguments.json)
    watched = SideRun(FASTFAKE, plan.workload)
    watched.cold()
    print_peak(watched.peak(), console)
    return DIFFERENT if figures.differences else SAME


def _workload(arguments: argparse.Namespace) -> Workload:
    if arguments.config is not None:
        from fastfake.demo.huggingface import load_workload

        return load_workload(
            arguments.config, layers=arguments.layers, batch=arguments.batch, sequence=arguments.sequence
        )
    from fastfake.demo.model import DecoderConfig
    from fastfake.demo.workload import DecoderWorkload

    config = DecoderConfig() if arguments.layers is None else DecoderConfig(layers=arguments.layers)
    return DecoderWorkload(config, arguments.batch, arguments.sequence or 4096)
