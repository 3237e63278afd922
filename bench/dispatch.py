"""Suite: one operator call on warm caches, under torch's FakeTensor, under fastfake and in eager torch."""

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

from bench import profile, report
from bench.alternate import Measured, alternate, calibrated_loops
from bench.cases import Case, select
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
        timer = Timer(case.call, timer=pyperf.perf_counter, globals=case.namespace())
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


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        cases = select(options.case)
        profiled = select([options.profile]) if options.profile else []
    except LookupError as error:
        return report.fail(str(error.args[0]))
    if options.list:
        for case in cases:
            print(f"{case.kind:<12}{case.name:<32}{case.call}")
        return 0

    if profiled:
        return _profile(profiled[0])

    sides = (Torch(), Fastfake(), Eager())
    measured = []
    with report.progress() as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=case.name)
            measured.append(measure_case(case, sides, options.rounds, options.seconds))
            progress.advance(task)
    report.show_measured("one call, median over all rounds", measured, overall=True)
    settings: dict[str, Any] = {
        "rounds": options.rounds,
        "measurements_per_round": MEASUREMENTS_PER_ROUND,
        "seconds": options.seconds,
        "warm_calls": WARM_CALLS,
    }
    if options.json:
        report.write_measured(options.json, "dispatch", settings, measured, overall=True)
    if options.pyperf:
        report.write_pyperf(options.pyperf, measured)
    return 0


def _profile(case: Case) -> int:
    perf = shutil.which("perf")
    if perf is None:
        return report.fail("--profile needs the Linux tool perf on the PATH, and there is none")
    side = Fastfake()
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
    parser = argparse.ArgumentParser(prog="python -m bench dispatch", description=__doc__)
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
