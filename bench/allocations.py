"""Suite: what one warm call allocates through Python's allocator, against the objects that it returns.

A fake tensor is a Python object, so that a call cannot do without one block for each tensor that it returns, one for
a tuple of them, and two for a list. `needed` adds that up, and `blocks` counts what is still allocated while the
results are alive. `temporary` counts the bytes that were allocated on top of that at the same time and are free again
when the call returns; what torch's bindings themselves allocate for the arguments is part of it on every side, eager
included. What is freed before the result is allocated shows only as far as it is larger than the result, so that
calls that return no new object, such as in-place ones, show most.
"""

from __future__ import annotations

import argparse
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table

from bench import report
from bench.cases import Case, select
from bench.garbage import no_garbage
from bench.sides import Eager, Fastfake, Side, Torch

WARM_CALLS = 256
# At most as many as the integers that the interpreter never allocates, since the loop counts with them.
COUNTED_CALLS = 128
# The least of them counts: the interpreter's own caches may grow during any of them.
REPETITIONS = 3


@dataclass(frozen=True)
class Allocations:
    """What one warm call allocates on one side.

    Attributes:
        objects: The new objects that the call returns.
        expected_blocks: The blocks that these objects cannot do without.
        blocks: The blocks that are allocated while the result is alive.
        temporary_bytes: The bytes that were needed on top of that during the call.
    """

    objects: float
    expected_blocks: float
    blocks: float
    temporary_bytes: int


def count(case: Case, side: Side) -> Allocations:
    """Counts what a warm call of a case allocates on a side."""
    with side.entered():
        names = case.namespace(side.sizes)
        known = {id(known) for operand in names.values() for known in _objects(operand)}
        # Compiled among its operands: a function that takes them would add its arguments to what is counted.
        exec(f"def call(): return {case.call}", names)
        call = names["call"]
        for _ in range(WARM_CALLS):
            call()
        blocks, results = min((_kept_blocks(call) for _ in range(REPETITIONS)), key=lambda counted: counted[0])
        temporary = min(_temporary_bytes(call) for _ in range(REPETITIONS))
    new = {id(value): value for result in results for value in _objects(result) if id(value) not in known}
    expected = sum(2 if isinstance(value, list) else 1 for value in new.values())
    return Allocations(len(new) / COUNTED_CALLS, expected / COUNTED_CALLS, round(blocks / COUNTED_CALLS, 1), temporary)


def _kept_blocks(call: Callable[[], object]) -> tuple[int, list[object]]:
    results: list[object] = [None] * COUNTED_CALLS
    # A full collection also empties the interpreter's free lists, whose objects would otherwise be handed out again
    # without being counted. The call after it puts its temporary objects there again, as every call does.
    with no_garbage():
        call()
        before = sys.getallocatedblocks()
        for index in range(COUNTED_CALLS):
            results[index] = call()
        return sys.getallocatedblocks() - before, results


def _temporary_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        # Once more under tracemalloc, whose own first steps allocate as well.
        call()
        tracemalloc.reset_peak()
        result = call()
        kept, peak = tracemalloc.get_traced_memory()
        del result
        return peak - kept
    finally:
        tracemalloc.stop()


def bindings_bytes() -> int:
    """Counts what torch's bindings allocate to recognize one argument of a subclass of Tensor.

    They ask `isinstance`, which makes a bound method for a class like Tensor that has a metaclass. Arguments of the
    class itself are recognized without, so that eager torch's figures do not include it.
    """

    class Subclass(torch.Tensor):
        pass

    argument = torch.empty(1).as_subclass(Subclass)
    return _temporary_bytes(lambda: isinstance(argument, torch.Tensor))


def _objects(value: object) -> list[object]:
    if isinstance(value, (list, tuple)):
        return [value, *(item for element in value for item in _objects(element))]
    return [value] if isinstance(value, torch.Tensor) else []


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status: 1 with `--check` if a call on fastfake allocates more than its results, otherwise 0.
    """
    options = _parser().parse_args(argv)
    try:
        cases = select(options.case)["static"]
    except LookupError as error:
        return report.fail(str(error.args[0]))
    sides = (Torch(), Fastfake(), Eager())
    counted = {}
    for case in report.in_turn(cases, name=lambda case: case.name):
        counted[case] = {side.name: count(case, side) for side in sides}
    recognition = bindings_bytes()
    only_results = {case: _nothing_but_the_result(found, recognition) for case, found in counted.items()}
    _show(counted, only_results)
    if options.json:
        content = [
            {
                "name": case.name,
                "kind": case.kind,
                "call": case.call,
                "allocations": {name: asdict(found) for name, found in found_by_side.items()},
                "nothing_but_the_result": only_results[case],
            }
            for case, found_by_side in counted.items()
        ]
        settings = {"counted_calls": COUNTED_CALLS, "bindings_bytes": recognition}
        report.write_json(options.json, "allocations", settings, {"cases": content})
    return 1 if options.check and not all(only_results.values()) else 0


def _nothing_but_the_result(found: dict[str, Allocations], recognition: int) -> bool:
    ours, eager = found["fastfake"], found["eager"]
    return ours.blocks <= ours.expected_blocks and ours.temporary_bytes <= max(eager.temporary_bytes, recognition)


def _show(counted: dict[Case, dict[str, Allocations]], only_results: dict[Case, bool]) -> None:
    sides = list(next(iter(counted.values())))
    table = Table(title="one warm call: blocks while its result is alive, and temporary bytes besides")
    table.add_column("kind")
    table.add_column("case")
    table.add_column("objects", justify="right")
    table.add_column("needed", justify="right")
    for side in sides:
        table.add_column(f"{side} blocks", justify="right")
        table.add_column("temporary", justify="right")
    table.add_column("nothing but the result")
    for case, found in counted.items():
        ours = found["fastfake"]
        figures = [f"{figure:.4g}" for side in found.values() for figure in (side.blocks, side.temporary_bytes)]
        verdict = "yes" if only_results[case] else "NO"
        table.add_row(case.kind, case.name, f"{ours.objects:g}", f"{ours.expected_blocks:g}", *figures, verdict)
    report.show(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench allocations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", default=[], metavar="PATTERN", help="a case or kind; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a call allocates more than its result")
    return parser
