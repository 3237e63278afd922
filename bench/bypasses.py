"""Suite: which calls of programs the dispatch cache does not answer, by reason and operator.

Each program runs a few steps on warm caches; counted are the calls of the last one. A warm step of the distributed
programs, on a fake process group of 64, is also measured against torch's FakeTensor. `declined` are calls on tensors of
a class that is asked before the mode, such as DTensor: the mode computes nothing for them, so that they are no part of
the calls of which a share is given. Programs of a package that is not installed are left out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyperf
from rich.table import Table

import fastfake
from bench import report
from bench.alternate import Measure, Measured, alternate
from bench.bypass_programs import PROGRAMS, Program, Step
from bench.garbage import no_garbage
from bench.sides import FakeSide, Fastfake, Torch

# The first step makes what later ones find, such as the state of an optimizer. The second is the first of its kind.
STEPS_BEFORE = 3


@dataclass(frozen=True)
class Counted:
    """What the cache did in one warm step.

    Attributes:
        hits: Calls answered.
        misses: Calls computed and remembered.
        declined: Calls left to another class among the arguments.
        bypasses: For each reason, how many calls of each operator were computed and not remembered.
    """

    hits: int
    misses: int
    declined: int
    bypasses: dict[str, dict[str, int]]

    @property
    def bypassed(self) -> int:
        """How many calls were computed and not remembered."""
        return sum(sum(operators.values()) for operators in self.bypasses.values())

    @property
    def calls(self) -> int:
        """How many calls were answered or computed."""
        return self.hits + self.misses + self.bypassed


def count(program: Program) -> Counted:
    """Counts the calls of a warm step of a program."""
    with Fastfake().entered():
        step = _warm(program)
        before, declined = fastfake.FakeTensorMode.cache_info(), fastfake.declined_calls()
        operators_before = fastfake.bypassed_operators()
        step()
        after, declined = fastfake.FakeTensorMode.cache_info(), fastfake.declined_calls() - declined
        operators_after = fastfake.bypassed_operators()
    bypasses = {
        reason: dict(Counter(operators) - Counter(operators_before.get(reason, {})))
        for reason, operators in operators_after.items()
    }
    return Counted(
        after.hits - before.hits,
        after.misses - before.misses,
        declined,
        {reason: operators for reason, operators in bypasses.items() if operators},
    )


def _warm(program: Program) -> Step:
    step = program.prepare()
    for _ in range(STEPS_BEFORE):
        step()
    return step


def measure(program: Program, rounds: int) -> Measured:
    """Measures a warm step of a program on both sides in alternation."""
    measures = {}
    for side in (Torch(), Fastfake()):
        with side.entered():
            measures[side.name] = _timed(side, _warm(program))
    return alternate(program.name, program.kind, measures, rounds, {})


def _timed(side: FakeSide, step: Step) -> Measure:
    def seconds() -> list[float]:
        with side.entered():
            # Entering assigns names in torch's modules, and the interpreter has to specialize the code that reads them.
            step()
            with no_garbage():
                start = pyperf.perf_counter()
                step()
                return [float(pyperf.perf_counter() - start)]

    return seconds


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    names = options.program or [name for name, program in PROGRAMS.items() if program.is_available]
    for name in names:
        if not PROGRAMS[name].is_available:
            return report.fail(f"bench bypasses needs {PROGRAMS[name].requires} for {name}")
    counted: dict[str, Counted] = {}
    measured: list[Measured] = []
    for name in report.in_turn(names):
        program = PROGRAMS[name]
        counted[name] = count(program)
        if program.is_timed and options.rounds:
            measured.append(measure(program, options.rounds))
    _show(counted, options.operators)
    if measured:
        report.show_measured("a warm step", measured, overall=False)
    if options.json:
        content = {"programs": [{"name": name, "kind": PROGRAMS[name].kind, **asdict(counted[name])} for name in names]}
        described = report.described(measured, overall=False)
        report.write_json(options.json, "bypasses", {"rounds": options.rounds}, {**content, **described})
    return 0


def _show(counted: dict[str, Counted], most_operators: int) -> None:
    programs = Table(title="calls of a warm step")
    programs.add_column("kind")
    programs.add_column("program")
    for column in ("calls", "bypassed", "share", "declined"):
        programs.add_column(column, justify="right")
    programs.add_column("by reason")
    for name, found in counted.items():
        reasons = Counter({reason: sum(operators.values()) for reason, operators in found.bypasses.items()})
        programs.add_row(
            PROGRAMS[name].kind,
            name,
            str(found.calls),
            str(found.bypassed),
            f"{found.bypassed / max(1, found.calls):.1%}",
            str(found.declined),
            ", ".join(f"{number} {reason}" for reason, number in reasons.most_common()),
        )
    report.show(programs)

    total = Table(title=f"bypassed calls of all these programs, of {sum(found.calls for found in counted.values())}")
    total.add_column("reason")
    total.add_column("calls", justify="right")
    total.add_column("operators")
    by_reason: dict[str, Counter[str]] = {}
    for found in counted.values():
        for reason, operators in found.bypasses.items():
            by_reason.setdefault(reason, Counter()).update(operators)
    for reason, operators in sorted(by_reason.items(), key=lambda item: -item[1].total()):
        first = ", ".join(f"{number} {operator}" for operator, number in operators.most_common(most_operators))
        total.add_row(reason, str(operators.total()), first)
    report.show(total)


def _rounds(text: str) -> int:
    return 0 if text == "0" else report.several(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench bypasses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", action="append", choices=list(PROGRAMS), help="a program to run; repeatable")
    parser.add_argument("--rounds", type=_rounds, default=5, help="rounds of the timed programs (default: %(default)s)")
    parser.add_argument("--operators", type=int, default=6, help="operators shown for a reason (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    return parser
