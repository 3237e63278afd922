"""The ``memory`` subcommand: its arguments and its exit codes."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastfake
from fastfake.demo.command import positive

if TYPE_CHECKING:
    from fastfake.memory.estimate import Estimate
    from fastfake.memory.training import Setup

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
    _add_common_arguments(parser)
    parser.set_defaults(run=run)
    parser.of_run = _make_run_parser()


def _make_run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastfake memory run",
        usage="python -m fastfake memory run [OPTION ...] (-m MODULE | SCRIPT) [ARGUMENT ...]",
        description="Runs a script or a module as python does, on fake tensors of devices that need not be there, "
        "until optimizers took some steps, and tells what memory that takes. Numbers that fake tensors do not know, "
        "such as the loss, are 0.",
        epilog="Exit codes: 0 done, whether it fits or not; 2 what was asked for cannot be run; 130 interrupted; the "
        "program's own if it ends with another one than 0, and 1 if it raises an error.",
    )
    _add_common_arguments(parser)
    ranks = parser.add_argument_group("ranks")
    ranks.add_argument(
        "--ranks",
        type=positive,
        metavar="N",
        help="have the program believe that torchrun started N such processes; their groups are torch's fake ones",
    )
    ranks.add_argument("--rank", type=int, default=0, metavar="R", help="which of them it is (default: 0)")
    parser.add_argument("-m", dest="module", nargs="...", help="a module, by name, and its arguments")
    parser.add_argument("script", nargs="...", metavar="SCRIPT", help="a script, by path, and its arguments")
    parser.set_defaults(run=run_script, parser=parser)
    return parser


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
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
    from fastfake.amounts import parse_memory

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
    return _with_exit_codes(arguments, lambda: _estimate_program(arguments))


def run_script(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m fastfake memory run``.

    Args:
        arguments: Parsed arguments, as :func:`add_parser` defines them.

    Returns:
        The exit code.

    Raises:
        BaseException: whatever the program raised.
    """
    if not (arguments.module or arguments.script):
        arguments.parser.error("name a script, or a module with -m")

    def estimate() -> Estimate | int:
        from fastfake.memory.script import estimate_script

        return estimate_script(arguments)

    return _with_exit_codes(arguments, estimate)


def _with_exit_codes(arguments: argparse.Namespace, estimate: Callable[[], Estimate | int]) -> int:
    if not hasattr(fastfake, "_C"):
        return _unusable("fastfake has no native code for the torch that is installed, which counts the memory")
    if (reason := _why_not_shown(arguments)) is not None:
        return _unusable(reason)
    from fastfake.memory.errors import MemoryCommandError

    try:
        found = estimate()
        if isinstance(found, int):
            return found
        _write_output(arguments, found)
    except MemoryCommandError as error:
        return _unusable(str(error))
    except KeyboardInterrupt:
        print("fastfake memory: interrupted", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _unusable(reason: str) -> int:
    print(f"fastfake memory: {reason}", file=sys.stderr)
    return UNUSABLE


def _why_not_shown(arguments: argparse.Namespace) -> str | None:
    """Find out, before the work is done, whether its result can be shown; give the reason if not."""
    if importlib.util.find_spec("rich") is None:
        return "prints its tables with rich, which is not installed: pip install 'fastfake[demo]'"
    if arguments.html is not None and importlib.util.find_spec("plotly") is None:
        return "--html draws its charts with plotly, which is not installed: pip install 'fastfake[html]'"
    if arguments.snapshot is not None and arguments.device != "cuda":
        return f"--snapshot is of CUDA's allocator; on --device {arguments.device} there is none"
    for path in (arguments.json, arguments.html, arguments.snapshot):
        if path not in (None, "-") and not Path(path).parent.is_dir():
            return f"{path}: cannot be written: no such folder"
    return None


def _estimate_program(arguments: argparse.Namespace) -> Estimate:
    from fastfake.memory.estimate import estimate
    from fastfake.memory.training import prepared

    with _few_collections() as imported, _progress_line() as progress:
        progress("reading the config")
        setup = _setup(arguments)
        progress("building the model")
        with prepared(setup) as training:
            imported()
            return estimate(training, arguments.batch, arguments.steps, progress)


@contextlib.contextmanager
def _few_collections() -> Iterator[Callable[[], None]]:
    """Keep the garbage collector from going through what torch and transformers are made of again and again.

    Yields:
        What to call when all is imported. From then on the collector runs as ever.
    """
    gc.disable()

    def imported() -> None:
        gc.freeze()
        gc.enable()

    try:
        yield imported
    finally:
        gc.unfreeze()
        gc.enable()


def _write_output(arguments: argparse.Namespace, found: Estimate) -> None:
    """Show what was found out in all the ways that were asked for."""
    from rich.console import Console

    from fastfake.memory.errors import MemoryCommandError
    from fastfake.memory.page import PageError
    from fastfake.memory.report import as_json, print_estimate
    from fastfake.memory.snapshot import write_snapshot

    if arguments.json == "-":
        print(json.dumps(as_json(found), indent=2))
    else:
        print_estimate(found, Console())
    try:
        if arguments.json not in (None, "-"):
            Path(arguments.json).write_text(json.dumps(as_json(found), indent=2) + "\n", encoding="utf-8")
        if arguments.html is not None:
            _write_page(arguments.html, found)
        if arguments.snapshot is not None:
            write_snapshot(found.timeline, arguments.snapshot, found.verdict.device)
    except (PageError, ValueError) as error:
        raise MemoryCommandError(str(error)) from error
    except OSError as error:
        raise MemoryCommandError(f"{error.filename}: cannot be written: {error.strerror}") from error


def _write_page(path: Path, found: Estimate) -> None:
    from fastfake.memory.page import write_page
    from fastfake.memory.report import facts

    verdict = found.verdict
    write_page(
        found.timeline,
        path,
        title=found.title,
        device=verdict.device,
        facts=facts(found),
        fits=verdict.fits,
        capacity=verdict.memory,
    )


@contextlib.contextmanager
def _progress_line() -> Iterator[Callable[[str], None]]:
    """Show what is being done, on the terminal if there is one; give what to call with that."""
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
    from fastfake.memory.checkpointing import Checkpointing
    from fastfake.memory.errors import MemoryCommandError
    from fastfake.memory.huggingface import load_program
    from fastfake.memory.parallel import Parallelism
    from fastfake.memory.program import FunctionProgram, Program, find_function
    from fastfake.memory.training import Precision, Setup

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
