"""Suite: torch's compilers on models with small widths, with torch's FakeTensor and with fastfake's import shim.

Every compilation happens in a process of its own, after one of a smaller model; the sides take turns. With --twice a
process compiles the model at once, and then a second time; both are reported. Times are the processor's, up to the code
being ready: what running the program takes is measured by running it again, and taken out.
torch.compile's targets have a forward and a backward graph, make_fx traces both into one, and export has no backward.
Inductor compiles with its caches disabled and up to the call of the C++ compiler, which is left out. "dynamic" and
"symbolic" targets have a symbol for each size of the inputs.

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
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from rich.progress import Progress, TaskID
from rich.table import Table

from bench import report
from bench.alternate import Measured, measured
from bench.compile_models import MODELS
from bench.compile_targets import DEFAULT_TARGETS, TARGETS
from bench.workers import WorkerError, run_worker

SIDES = ("torch", "fastfake")


class DifferentGraphsError(Exception):
    """The processes of one target did not make the same graphs."""


@dataclass(frozen=True)
class Compiled:
    """What is compiled for which target.

    Attributes:
        model: The model's name.
        layers: Its layers.
        target: The target's name.
    """

    model: str
    layers: int
    target: str


@dataclass(frozen=True)
class Outcome:
    """What the processes of one target found about one compilation.

    Attributes:
        compiled: What was compiled.
        compilation: Which compilation of the process it was: `warm`, `first` or `second`.
        measured: The processor's time on either side.
        clock_seconds: The median of the time on the clock, on either side.
        nodes: The nodes of each graph; the same in all processes.
        share: The share of fake dispatch in torch's time.
        collecting_share: The part of torch's time that the garbage collector took during fake dispatch.
    """

    compiled: Compiled
    compilation: str
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


class Processes:
    """Runs the processes of one target and keeps what they print."""

    def __init__(self, compiled: Compiled, twice: bool, progress: Progress, task: TaskID) -> None:
        self._compiled = compiled
        self._options = ["--twice"] if twice else []
        self._progress = progress
        self._task = task
        # For every kind of process, the list of its compilations from each.
        self._answers: dict[str, list[list[dict[str, Any]]]] = {}

    def run(self, side: str, *options: str) -> None:
        """Compiles in a fresh process."""
        compiled = self._compiled
        arguments = (compiled.model, compiled.target, side, "--layers", str(compiled.layers))
        answer = run_worker("compile_worker", *arguments, *self._options, *options)
        self._answers.setdefault(" ".join((side, *options)), []).append(answer["compilations"])
        self._progress.advance(self._task)

    def values(self, kind: str, number: int, name: str) -> list[Any]:
        """Returns what all processes of one kind found of their compilation with this number."""
        return [compilations[number][name] for compilations in self._answers[kind]]

    def nodes(self, number: int) -> list[int]:
        """Returns the nodes of each graph.

        Raises:
            DifferentGraphsError: They are not the same in all processes.
        """
        found = {kind: {tuple(nodes) for nodes in self.values(kind, number, "nodes")} for kind in self._answers}
        nodes = set.union(*found.values())
        if len(nodes) > 1:
            described = "; ".join(f"{kind}: {sorted(nodes)}" for kind, nodes in found.items())
            compiled = f"{self._compiled.model}, {self._compiled.target}"
            raise DifferentGraphsError(f"{compiled}: the numbers of graph nodes differ: {described}")
        return list(nodes.pop())


def measure_target(
    compiled: Compiled, twice: bool, rounds: int, probe_rounds: int, progress: Progress, task: TaskID
) -> list[Outcome]:
    """Measures one target on both sides in alternation, and then the share of fake dispatch."""
    processes = Processes(compiled, twice, progress, task)
    for _ in range(rounds):
        for side in SIDES:
            processes.run(side)
    for _ in range(probe_rounds):
        processes.run("torch", "--probe")
    outcomes = []
    for number, compilation in enumerate(("first", "second") if twice else ("warm",)):
        seconds = {side: processes.values(side, number, "processor_seconds") for side in SIDES}
        outcomes.append(
            Outcome(
                compiled,
                compilation,
                measured(f"{compiled.model}, {compiled.target}", compilation, seconds, {}),
                {side: median(processes.values(side, number, "clock_seconds")) for side in SIDES},
                processes.nodes(number),
                median(processes.values("torch --probe", number, "share")),
                median(processes.values("torch --probe", number, "collecting_share")),
            )
        )
    return outcomes


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status: 2 if a process failed or the graphs of the sides differ, otherwise 0.
    """
    options = _parser().parse_args(argv)
    models = options.model or ["llama"]
    if any(MODELS[model].is_of_transformers for model in models) and find_spec("transformers") is None:
        return report.fail("these models need transformers: pip install 'fastfake[bench]'")
    all_compiled = [
        Compiled(model, options.layers or MODELS[model].layers, target)
        for model in models
        for target in options.target or DEFAULT_TARGETS
    ]
    outcomes: list[Outcome] = []
    failures = []
    with report.progress() as progress:
        processes = options.rounds * len(SIDES) + options.probe_rounds
        task = progress.add_task("", total=len(all_compiled) * processes)
        for compiled in all_compiled:
            progress.update(task, description=f"{compiled.model}, {compiled.target}")
            try:
                outcomes += measure_target(
                    compiled, options.twice, options.rounds, options.probe_rounds, progress, task
                )
            except (WorkerError, DifferentGraphsError) as error:
                failures.append(str(error))
    if outcomes:
        _show(outcomes)
    if options.json:
        settings = {"twice": options.twice, "rounds": options.rounds, "probe_rounds": options.probe_rounds}
        content = {"targets": [_described(outcome) for outcome in outcomes], "geometric_means": _means(outcomes)}
        report.write_json(options.json, "compile", settings, content)
    # Last, so that hours of measuring are not lost for one of the targets.
    return max((report.fail(failure) for failure in failures), default=0)


def _means(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """The geometric means of the ratios over all models, by compilation and target."""
    ratios: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        ratios.setdefault(outcome.compilation, {}).setdefault(outcome.compiled.target, []).append(outcome.ratio)
    return {
        compilation: {target: geometric_mean(values) for target, values in of_targets.items()}
        for compilation, of_targets in ratios.items()
    }


def _described(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.compiled.target,
        "model": outcome.compiled.model,
        "layers": outcome.compiled.layers,
        "compilation": outcome.compilation,
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


def _show(outcomes: Sequence[Outcome]) -> None:
    table = Table(title="compiling, medians of the processor's time")
    for column in ("model, layers", "target", "which"):
        table.add_column(column, no_wrap=True)
    times = [column for side in SIDES for column in (side, "min")]
    for column in ("nodes", *times, "ratio", "on the clock", "share", "gc", "bound", "ratio/bound", "saved"):
        table.add_column(column, justify="right")
    for outcome in outcomes:
        table.add_row(
            f"{outcome.compiled.model}, {outcome.compiled.layers}",
            outcome.compiled.target,
            outcome.compilation,
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
    if len({outcome.compiled.model for outcome in outcomes}) > 1:
        _show_means(outcomes)


def _show_means(outcomes: Sequence[Outcome]) -> None:
    table = Table(title="geometric means over models")
    table.add_column("target")
    table.add_column("which")
    table.add_column("ratio", justify="right")
    for compilation, of_targets in _means(outcomes).items():
        for target, mean in of_targets.items():
            table.add_row(target, compilation, f"{mean:.2f}")
    report.show(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench compile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target",
        action="append",
        choices=list(TARGETS),
        help="what to compile for; repeatable (default: all but the dynamic ones of Inductor and export)",
    )
    parser.add_argument(
        "--model", action="append", choices=list(MODELS), help="a model to compile; repeatable (default: llama)"
    )
    parser.add_argument("--layers", type=report.positive, help="layers of the models (default: what each usually has)")
    parser.add_argument("--twice", action="store_true", help="measure the first two compilations of a process")
    parser.add_argument("--rounds", type=report.several, default=5, help="rounds per target (default: %(default)s)")
    parser.add_argument(
        "--probe-rounds",
        type=report.positive,
        default=3,
        help="processes that measure the share of fake dispatch, per target (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    return parser
