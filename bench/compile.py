"""Suite: torch's compilers on a Llama with small widths, with torch's FakeTensor and with fastfake's import shim.

Every compilation happens in a process of its own, after one of a smaller model; the sides take turns. Times are the
processor's, up to the code being ready: what running the program takes is measured by running it again, and taken out.
torch.compile's targets have a forward and a backward graph, make_fx traces both into one, and export has no backward.
Inductor compiles with its caches disabled and up to the call of the C++ compiler, which is left out.

Further processes measure which share of torch's time is spent in fake dispatch: in the outermost calls of
`FakeTensorMode.__torch_dispatch__` and `FakeTensor.__torch_dispatch__`, with everything that they call. What torch does
in C++ before it enters them counts as being outside, so that the share is rather too small. `bound` is the ratio that
fake dispatch which takes no time at all would reach, and `saved` the part of torch's fake dispatch that fastfake saves.

The share includes the garbage collections that began in fake dispatch; `gc` is their part of torch's time. One full
collection of what a compiler keeps takes long, and one more or less of them in fake dispatch is a matter of chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import Progress, TaskID
from rich.table import Table

from bench import report
from bench.alternate import Measured, alternate
from bench.compile_targets import TARGETS
from bench.workers import WorkerError, run_worker

SIDES = ("torch", "fastfake")


class DifferentGraphsError(Exception):
    """The processes of one target did not make the same graphs."""


@dataclass(frozen=True)
class Outcome:
    """What the processes of one target found.

    Attributes:
        measured: The processor's time on either side.
        clock_seconds: The median of the time on the clock, on either side.
        nodes: The nodes of each graph; the same in all processes.
        share: The share of fake dispatch in torch's time.
        collecting_share: The part of torch's time that the garbage collector took during fake dispatch.
    """

    measured: Measured
    clock_seconds: dict[str, float]
    nodes: list[int]
    share: float
    collecting_share: float

    @property
    def ratio(self) -> float:
        """How many times as long as fastfake torch takes."""
        return self.measured.medians["torch"] / self.measured.medians["fastfake"]

    @property
    def clock_ratio(self) -> float:
        """The same of the time on the clock."""
        return self.clock_seconds["torch"] / self.clock_seconds["fastfake"]

    @property
    def bound(self) -> float:
        """The ratio that fake dispatch in no time at all would reach, by Amdahl's law."""
        return 1 / (1 - self.share)

    @property
    def saved(self) -> float:
        """The part of torch's fake dispatch that fastfake saves; negative where fastfake takes longer."""
        return (1 - 1 / self.ratio) / self.share


class Compilations:
    """Runs the processes of one target and keeps what they print."""

    def __init__(self, target: str, layers: int, progress: Progress, task: TaskID) -> None:
        self._target = target
        self._layers = layers
        self._progress = progress
        self._task = task
        self.answers: dict[str, list[dict[str, Any]]] = {}

    def run(self, side: str, *options: str) -> list[float]:
        """Compiles once and returns the processor's time."""
        key = " ".join((side, *options))
        answer = run_worker("compile_worker", self._target, side, "--layers", str(self._layers), *options)
        self.answers.setdefault(key, []).append(answer)
        self._progress.advance(self._task)
        return [answer["processor_seconds"]]

    def nodes(self) -> list[int]:
        """Returns the nodes of each graph.

        Raises:
            DifferentGraphsError: They are not the same in all processes.
        """
        found = {key: {tuple(answer["nodes"]) for answer in answers} for key, answers in self.answers.items()}
        if len(set.union(*found.values())) > 1:
            described = "; ".join(f"{key}: {sorted(nodes)}" for key, nodes in found.items())
            raise DifferentGraphsError(f"{self._target}: the numbers of graph nodes differ: {described}")
        return list(self.answers["torch"][0]["nodes"])


def measure_target(
    target: str, layers: int, rounds: int, probe_rounds: int, progress: Progress, task: TaskID
) -> Outcome:
    """Measures one target on both sides in alternation, and then the share of fake dispatch."""
    compilations = Compilations(target, layers, progress, task)
    measured = alternate(target, "compile", {side: partial(compilations.run, side) for side in SIDES}, rounds, {})
    for _ in range(probe_rounds):
        compilations.run("torch", "--probe")
    answers = compilations.answers
    probed = answers["torch --probe"]
    return Outcome(
        measured,
        {side: median(answer["clock_seconds"] for answer in answers[side]) for side in SIDES},
        compilations.nodes(),
        median(answer["share"] for answer in probed),
        median(answer["collecting_share"] for answer in probed),
    )


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status: 2 if a process failed or the graphs of the sides differ, otherwise 0.
    """
    options = _parser().parse_args(argv)
    targets = options.target or list(TARGETS)
    outcomes = []
    with report.progress() as progress:
        processes = options.rounds * len(SIDES) + options.probe_rounds
        task = progress.add_task("", total=len(targets) * processes)
        for target in targets:
            progress.update(task, description=target)
            try:
                outcomes.append(
                    measure_target(target, options.layers, options.rounds, options.probe_rounds, progress, task)
                )
            except (WorkerError, DifferentGraphsError) as error:
                return report.fail(str(error))
    _show(f"compiling a Llama of {options.layers} layers, medians of the processor's time", outcomes)
    if options.json:
        settings = {"layers": options.layers, "rounds": options.rounds, "probe_rounds": options.probe_rounds}
        report.write_json(options.json, "compile", settings, {"targets": [_described(outcome) for outcome in outcomes]})
    return 0


def _described(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.measured.name,
        "nodes": outcome.nodes,
        "median_seconds": outcome.measured.medians,
        "minimum_seconds": outcome.measured.minima,
        "deviation_seconds": outcome.measured.deviations,
        "clock_median_seconds": outcome.clock_seconds,
        "ratio": outcome.ratio,
        "clock_ratio": outcome.clock_ratio,
        "share": outcome.share,
        "collecting_share": outcome.collecting_share,
        "bound": outcome.bound,
        "ratio_to_bound": outcome.ratio / outcome.bound,
        "saved": outcome.saved,
    }


def _show(title: str, outcomes: Sequence[Outcome]) -> None:
    table = Table(title=title)
    table.add_column("target")
    times = [column for side in SIDES for column in (side, "min")]
    for column in ("nodes", *times, "ratio", "on the clock", "share", "gc", "bound", "ratio/bound", "saved"):
        table.add_column(column, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.measured.name,
            "+".join(str(count) for count in outcome.nodes),
            *(
                text
                for side in SIDES
                for text in (report.time(outcome.measured, side), report.least_time(outcome.measured, side))
            ),
            f"{outcome.ratio:.2f}",
            f"{outcome.clock_ratio:.2f}",
            f"{outcome.share:.1%}",
            f"{outcome.collecting_share:.1%}",
            f"{outcome.bound:.2f}",
            f"{outcome.ratio / outcome.bound:.1%}",
            f"{outcome.saved:.1%}",
        )
    report.show(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench compile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="what to compile for; repeatable")
    parser.add_argument("--layers", type=int, default=16, help="decoder layers of the model (default: %(default)s)")
    parser.add_argument("--rounds", type=report.several, default=5, help="rounds per target (default: %(default)s)")
    parser.add_argument(
        "--probe-rounds",
        type=report.positive,
        default=3,
        help="processes that measure the share of fake dispatch, per target (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    return parser
