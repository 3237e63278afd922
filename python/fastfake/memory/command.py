"""The ``memory`` subcommand: its arguments and its exit codes."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastfake.demo.command import positive

from .errors import MemoryCommandError

if TYPE_CHECKING:
    from .estimate import Estimate
    from .training import Setup

__all__ = ["ParserWithRun", "add_parser"]

DONE = 0
UNUSABLE = 2
INTERRUPTED = 130

_PRECISIONS = ("mixed", "float32", "bfloat16", "float16")


class ParserWithRun(argparse.ArgumentParser):
    """A parser that another one takes the place of if the first argument is ``run``, as it may be anything else."""

    of_run: argparse.ArgumentParser | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments."""
        if self.of_run is not None and args and args[0] == "run":
            return self.of_run.parse_known_args(args[1:], namespace)
        return super().parse_known_args(args, namespace)


def add_parser(subcommands: argparse._SubParsersAction[ParserWithRun]) -> None:
    """Add ``memory`` to the subcommands of ``python -m fastfake``.

    Args:
        subcommands: What ``ArgumentParser.add_subparsers`` returned.
    """
    from . import script

    parser = subcommands.add_parser(
        "memory",
        help="tell what memory a training step takes, and whether it fits",
        usage="python -m fastfake memory [OPTION ...] (--config FILE | MODULE:FUNCTION)\n"
        "       python -m fastfake memory run [OPTION ...] (-m MODULE | SCRIPT) [ARGUMENT ...]",
        description="Trains a model for some steps on fake tensors, and tells what memory that takes, what it computes "
        "and sends, whether it fits, and the largest batch that does. 'memory run' does so for a script, unchanged; "
        "see 'memory run --help'.",
        epilog="FUNCTION takes no arguments. It returns a pair of a model and a function loss(batch), which makes "
        "inputs of so many samples and returns the loss, a scalar; with --sequence it is called as loss(batch, "
        "sequence). Or it returns a model of transformers. Exit codes: 0 done, whether it fits or not; 2 what was "
        "asked for cannot be run; 130 interrupted.",
    )
    program = parser.add_argument_group("what is trained")
    program.add_argument(
        "function", nargs="?", metavar="MODULE:FUNCTION", help="a function of yours; or FILE.py:FUNCTION"
    )
    program.add_argument("--config", type=Path, metavar="FILE", help="a Hugging Face config.json (needs transformers)")
    program.add_argument("--batch", type=positive, default=1, metavar="N", help="samples in a step (default: 1)")
    program.add_argument(
        "--sequence",
        type=positive,
        metavar="N",
        help="tokens in a sample (default with --config: 4096, or as many as the model has positions for)",
    )
    program.add_argument(
        "--dtype",
        choices=_PRECISIONS,
        help="types of parameters, gradients and the optimizer's state; mixed: those in float32, computed in bfloat16, "
        "by FSDP2's policy or else by autocast (default: mixed with --config, float32 with a function)",
    )
    program.add_argument(
        "--optimizer",
        default="adamw",
        metavar="NAME[:FORM]",
        help="adamw, adam, sgd, sgd-momentum, adagrad, adafactor, rmsprop and others of torch.optim; FORM is foreach, "
        "fused or for-loop (default: adamw, in the form that torch chooses, which is foreach on CUDA)",
    )
    program.add_argument(
        "--checkpointing",
        choices=("none", "full", "selective"),
        default="none",
        help="compute each layer again in the backward pass; selective keeps results of attention, of collectives that "
        "reduce and of every second matrix product (default: none)",
    )
    ranks = parser.add_argument_group("ranks")
    ranks.add_argument("--fsdp", type=positive, default=1, metavar="N", help="shard over N ranks by FSDP2")
    ranks.add_argument("--tensor-parallel", type=positive, default=1, metavar="N", help="split layers over N ranks")
    ranks.add_argument("--rank", type=int, default=0, metavar="R", help="the rank that is looked at (default: 0)")
    add_common_arguments(parser)
    parser.set_defaults(run=run)
    parser.of_run = script.make_parser()


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``memory`` and ``memory run`` share.

    Args:
        parser: The parser of one of them.
    """
    device = parser.add_argument_group("the device, and how long to train")
    device.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="what to train on; it need not be there (default: cuda)",
    )
    device.add_argument(
        "--device-memory",
        type=amount,
        default=amount("80GB"),
        metavar="SIZE",
        help="what one device has, such as 24GB; a GB is 1024**3 bytes, as memory is sold (default: 80GB)",
    )
    device.add_argument(
        "--steps",
        type=positive,
        default=2,
        metavar="N",
        help="steps of the optimizer; the first makes its state (default: 2)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="also write everything to this file; - prints that alone")
    output.add_argument("--html", type=Path, metavar="FILE", help="write a page that shows the timeline")
    output.add_argument("--snapshot", type=Path, metavar="FILE", help="write a snapshot for pytorch.org/memory_viz")


def amount(text: str) -> int:
    """Parse an amount of memory given on the command line.

    Args:
        text: What was typed.

    Raises:
        argparse.ArgumentTypeError: it is no amount.
    """
    from fastfake.pretend import parse_memory

    try:
        size = parse_memory(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size < 1:
        raise argparse.ArgumentTypeError(f"has to be more than nothing, not {text!r}")
    return size


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m fastfake memory``.

    Args:
        arguments: Parsed arguments, as :func:`add_parser` defines them.

    Returns:
        The exit code.
    """
    return with_exit_codes(lambda: _run(arguments))


def with_exit_codes(action: Callable[[], int]) -> int:
    """Do something, and report what it raises as the command does.

    Args:
        action: Returns an exit code.

    Returns:
        That, or the code of an error.
    """
    try:
        return action()
    except MemoryCommandError as error:
        print(f"fastfake memory: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("fastfake memory: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    check_output(arguments)
    from .estimate import estimate
    from .training import prepared

    setup = _setup(arguments)
    with progress_line() as progress:
        progress("building the model")
        with prepared(setup) as training:
            found = estimate(training, arguments.batch, arguments.steps, progress)
    write_output(arguments, found)
    return DONE


def check_output(arguments: argparse.Namespace) -> None:
    """Find out, before the work is done, whether its result can be shown.

    Args:
        arguments: Parsed arguments.

    Raises:
        MemoryCommandError: it cannot.
    """
    import fastfake

    if not hasattr(fastfake, "_C"):
        raise MemoryCommandError("fastfake has no native code for the torch that is installed, which counts the memory")
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError:
        raise MemoryCommandError(
            "prints its tables with rich, which is not installed: pip install 'fastfake[demo]'"
        ) from None
    for path in (arguments.json, arguments.html, arguments.snapshot):
        if path not in (None, "-") and not Path(path).parent.is_dir():
            raise MemoryCommandError(f"{path}: cannot be written: no such folder")


def write_output(arguments: argparse.Namespace, found: Estimate) -> None:
    """Show what was found out in all the ways that were asked for.

    Args:
        arguments: Parsed arguments.
        found: What was found out.

    Raises:
        MemoryCommandError: a file cannot be written.
    """
    import json

    from rich.console import Console

    from .report import as_json, print_estimate

    if arguments.json == "-":
        print(json.dumps(as_json(found), indent=2))
    else:
        print_estimate(found, Console())
    try:
        if arguments.json not in (None, "-"):
            Path(arguments.json).write_text(json.dumps(as_json(found), indent=2) + "\n", encoding="utf-8")
        if arguments.html is not None:
            from .page import write_page

            write_page(found.timeline, arguments.html, title=found.title, device=found.verdict.device)
        if arguments.snapshot is not None:
            from .snapshot import write_snapshot

            write_snapshot(found.timeline, arguments.snapshot)
    except OSError as error:
        raise MemoryCommandError(f"{error.filename}: cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Show what is being done, on the terminal if there is one.

    Yields:
        What to call with that.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    line = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with line:
        task = line.add_task("", total=None)
        yield lambda text: line.update(task, description=text)


def _setup(arguments: argparse.Namespace) -> Setup:
    from .checkpointing import Checkpointing
    from .huggingface import load_program
    from .parallel import Parallelism
    from .program import FunctionProgram, Program, find_function
    from .training import Precision, Setup

    if (arguments.config is None) == (arguments.function is None):
        raise MemoryCommandError("name what is to be trained: either --config FILE or MODULE:FUNCTION")
    parallelism = Parallelism(arguments.fsdp, arguments.tensor_parallel, arguments.rank)
    parallelism.check()
    program: Program
    if arguments.config is not None:
        program = load_program(arguments.config, arguments.sequence)
    else:
        program = FunctionProgram(arguments.function, find_function(arguments.function), arguments.sequence)
    precision = Precision(arguments.dtype or ("mixed" if arguments.config is not None else "float32"))
    return Setup(
        program,
        precision,
        arguments.optimizer,
        Checkpointing(arguments.checkpointing),
        parallelism,
        arguments.device,
        arguments.device_memory,
    )
