"""Suite: one operator call on warm caches, under torch's FakeTensor, under fastfake and in eager torch.

It has two halves: in the static one the sizes of tensors are numbers, in the symbolic one all of them are symbols of a
ShapeEnv. Eager torch has no symbolic sizes, so that the symbolic half has no such side. The first call on symbols may
add guards to the ShapeEnv, and fastfake remembers the next one; both sides make the same calls before they are
measured.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from timeit import Timer
from typing import Any

import pyperf
from rich.progress import Progress

from bench import profile, report
from bench.alternate import Measured, alternate, calibrated_loops
from bench.cases import HALVES, Case, select
from bench.sides import Eager, Fastfake, Side, Torch

# Installing and uninstalling assigns names in torch's modules, and the interpreter has to specialize the code that
# reads them once more. It does so within some dozens of calls.
WARM_CALLS = 128
# Entering a side takes far longer than a measurement. Several short ones are better than a long one: each is so short
# that most of them are over before the scheduler gives the core to something else.
MEASUREMENTS_PER_ROUND = 5


@dataclass(frozen=True)
class Prepared:
    """A case on one side: its operands are made, its caches are warm, and its loops are calibrated."""

    side: Side
    timer: Timer
    loops: int
    cache_use: str

    def measure(self) -> list[float]:
        """Enters the side and returns the seconds of one call, averaged over the loops, several times."""
        with self.side.entered():
            self.timer.timeit(WARM_CALLS)
            return [self.timer.timeit(self.loops) / self.loops for _ in range(MEASUREMENTS_PER_ROUND)]


def prepare(case: Case, side: Side, seconds: float) -> Prepared:
    """Makes the operands of a case on a side, warms its caches, and calibrates its loops to last `seconds`."""
    with side.entered():
        # The timer compiles the call into its own loop and turns the garbage collector off while it runs.
        timer = Timer(case.call, timer=pyperf.perf_counter, globals=case.namespace(side.sizes))
        timer.timeit(WARM_CALLS)
        loops = calibrated_loops(timer, seconds)
    return Prepared(side, timer, loops, side.cache_use(lambda: timer.timeit(1)))


def measure_case(case: Case, sides: Sequence[Side], rounds: int, seconds: float) -> Measured:
    """Measures one case on all sides in alternation."""
    prepared = {side.name: prepare(case, side, seconds) for side in sides}
    cache_use = {name: entry.cache_use for name, entry in prepared.items() if entry.cache_use}
    return alternate(
        case.name,
        case.kind,
        {name: entry.measure for name, entry in prepared.items()},
        rounds,
        {"inputs": case.inputs, "call": case.call, "cache": cache_use},
        {name: entry.loops for name, entry in prepared.items()},
    )


def sides_of(half: str) -> list[Side]:
    """Makes the sides that a case of this half is measured on."""
    if half == "static":
        return [Torch(), Fastfake(), Eager()]
    return [Torch(symbolic=True), Fastfake(symbolic=True)]


def measure_half(half: str, cases: Sequence[Case], rounds: int, seconds: float, progress: Progress) -> list[Measured]:
    """Measures the cases of one half, and prints what came out."""
    measured = []
    task = progress.add_task("", total=len(cases))
    for case in cases:
        progress.update(task, description=f"{half}: {case.name}")
        # With sides of its own, so that the guards that a case adds are of no concern to the next.
        measured.append(measure_case(case, sides_of(half), rounds, seconds))
        progress.advance(task)
    progress.remove_task(task)
    report.show_measured(f"one call on {half} sizes, median over all rounds", measured, overall=True)
    report.show_cache_use(f"not answered from the cache, {half} sizes", measured)
    return measured


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    halves = [options.sizes] if options.sizes else list(HALVES)
    try:
        selected = select(options.case, halves)
        profiled = select([options.profile], halves) if options.profile else {}
    except LookupError as error:
        return report.fail(str(error.args[0]))
    if options.list:
        for half, cases in selected.items():
            for case in cases:
                print(f"{half:<10}{case.kind:<12}{case.name:<32}{case.call}")
        return 0

    for half, cases in profiled.items():
        if cases:
            return _profile(cases[0], half)

    measured = {}
    with report.progress() as progress:
        for half, cases in selected.items():
            if cases:
                measured[half] = measure_half(half, cases, options.rounds, options.seconds, progress)
    settings: dict[str, Any] = {
        "rounds": options.rounds,
        "measurements_per_round": MEASUREMENTS_PER_ROUND,
        "seconds": options.seconds,
        "warm_calls": WARM_CALLS,
    }
    if options.json:
        described = {half: report.described(found, overall=True) for half, found in measured.items()}
        report.write_json(options.json, "dispatch", settings, described)
    if options.pyperf:
        report.write_pyperf(options.pyperf, [case for found in measured.values() for case in found])
    return 0


def _profile(case: Case, half: str) -> int:
    perf = shutil.which("perf")
    if perf is None:
        return report.fail("--profile needs the Linux tool perf on the PATH, and there is none")
    side = Fastfake(symbolic=half == "symbolic")
    prepared = prepare(case, side, 0.01)
    seconds_per_call = median(prepared.measure())
    # Long enough for some thousand samples.
    loops = max(1, round(2 / seconds_per_call))
    try:
        with side.entered():
            shares = profile.record(perf, lambda: prepared.timer.timeit(loops))
    except profile.ProfileError as error:
        return report.fail(f"perf cannot profile this process: {error}")
    profile.show(f"fastfake: {case.call}", shares, seconds_per_call)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench dispatch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", choices=list(HALVES), help="run one half only")
    parser.add_argument("--case", action="append", default=[], metavar="PATTERN", help="a case or kind; repeatable")
    parser.add_argument("--list", action="store_true", help="list the cases and run none")
    parser.add_argument("--rounds", type=report.several, default=15, help="rounds per case (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0005,
        help="how long one measurement lasts (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--pyperf", type=Path, metavar="FILE", help="write every round's values in pyperf's format")
    parser.add_argument("--profile", metavar="CASE", help="show where fastfake's time goes in one case, using perf")
    return parser
