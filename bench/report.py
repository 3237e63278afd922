"""Tables for the terminal, a progress bar, and JSON for everything else."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import geometric_mean
from typing import Any, TypeVar

import pyperf
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.alternate import Measured
from bench.sides import RATIOS

_Item = TypeVar("_Item")

# Tables go to standard output, everything that only matters while the suite runs to standard error.
# Standard output gets room for whole lines where it is no terminal, whose width would be unknown.
_output = Console(width=None if sys.stdout.isatty() else 160)
_errors = Console(stderr=True)

# What a reader needs to judge the figures, without what names the machine or its user.
_METADATA = ("cpu_model_name", "cpu_count", "platform", "python_implementation", "python_version", "perf_version")


def progress() -> Progress:
    """Makes the progress bar of a suite; it shows nothing where standard error is no terminal."""
    return Progress(
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_errors,
        transient=True,
        disable=not _errors.is_terminal,
    )


def in_turn(items: Sequence[_Item], name: Callable[[_Item], str] = str) -> Iterator[_Item]:
    """Gives the items of a suite one after the other, and shows in a progress bar which one is at work."""
    with progress() as bar:
        task = bar.add_task("", total=len(items))
        for item in items:
            bar.update(task, description=name(item))
            yield item
            bar.advance(task)


def fail(message: str) -> int:
    """Prints why a suite cannot run and returns the exit status for it."""
    _errors.print(message, highlight=False, markup=False, soft_wrap=True)
    return 2


def several(text: str) -> int:
    """Parses a number of rounds: at least two, since a single one has no spread."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("at least 2 are needed")
    return number


def positive(text: str) -> int:
    """Parses a number of which at least one is needed."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return number


def show(table: Table) -> None:
    """Prints a table to standard output, with what it was measured on."""
    threads = torch.get_num_threads()
    table.caption = f"{_cpu()}, torch {torch.__version__}, {threads} intra-op thread{'s' if threads > 1 else ''}"
    _output.print(table)


def geometric_means(measured: Iterable[Measured]) -> dict[str, float]:
    """Returns the geometric mean of every ratio over the cases that have it."""
    cases = list(measured)
    means = {}
    for above, below in RATIOS:
        ratios = [ratio for case in cases if (ratio := case.ratio(above, below)) is not None]
        if ratios:
            means[f"{above}/{below}"] = geometric_mean(ratios)
    return means


def geometric_means_by_kind(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Returns the geometric means of every kind of cases."""
    kinds = dict.fromkeys(case.kind for case in measured)
    return {kind: geometric_means(case for case in measured if case.kind == kind) for kind in kinds}


def show_measured(title: str, measured: Sequence[Measured], overall: bool) -> None:
    """Prints the medians, minima and ratios of every case, and the geometric means.

    Args:
        title: The title of the table of cases.
        measured: The cases.
        overall: Whether a mean over all kinds has a meaning.
    """
    sides = list(dict.fromkeys(side for case in measured for side in case.benchmarks))
    ratios = list(geometric_means(measured))
    table = Table(title=title)
    table.add_column("kind")
    table.add_column("case")
    for side in sides:
        table.add_column(side, justify="right")
        table.add_column("min", justify="right")
    for ratio in ratios:
        table.add_column(ratio, justify="right")
    for case in measured:
        times = (text for side in sides for text in (time(case, side), least_time(case, side)))
        table.add_row(case.kind, case.name, *times, *_ratios(geometric_means([case]), ratios))
    show(table)

    summary = Table(title="geometric means")
    summary.add_column("kind")
    summary.add_column("cases", justify="right")
    for ratio in ratios:
        summary.add_column(ratio, justify="right")
    for kind, means in geometric_means_by_kind(measured).items():
        count = sum(case.kind == kind for case in measured)
        summary.add_row(kind, str(count), *_ratios(means, ratios))
    if overall:
        summary.add_section()
        summary.add_row("all", str(len(measured)), *_ratios(geometric_means(measured), ratios))
    show(summary)


def show_cache_use(title: str, measured: Sequence[Measured]) -> None:
    """Prints how the calls were served that a side did not answer from its cache alone, if there are any.

    Args:
        title: The title of the table.
        measured: Cases whose notes tell how each side's cache served them.
    """
    table = Table(title=title)
    for column in ("case", "side", "how"):
        table.add_column(column)
    for case in measured:
        cache_use = case.notes["cache"]
        assert isinstance(cache_use, Mapping)
        for side, use in cache_use.items():
            if use != "hit":
                table.add_row(case.name, side, use)
    if table.row_count:
        _output.print(table)


def time(case: Measured, side: str) -> str:
    """Writes the median of a side with its unit; nothing if the side was not measured."""
    return case.benchmarks[side].format_value(case.medians[side]) if side in case.medians else ""


def least_time(case: Measured, side: str) -> str:
    """Writes the fastest measurement of a side with its unit; nothing if the side was not measured."""
    return case.benchmarks[side].format_value(case.minima[side]) if side in case.minima else ""


def _ratios(means: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    return [f"{means[column]:.2f}" if column in means else "" for column in columns]


def write_measured(
    path: Path, suite: str, settings: Mapping[str, object], measured: Sequence[Measured], overall: bool
) -> None:
    """Writes the figures of a suite as JSON.

    Args:
        path: The file to write.
        suite: The suite's name.
        settings: The options that the suite ran with.
        measured: The cases.
        overall: Whether a mean over all kinds has a meaning.
    """
    write_json(path, suite, settings, described(measured, overall))


def described(measured: Sequence[Measured], overall: bool) -> dict[str, object]:
    """Returns the figures of cases as they go into JSON.

    Args:
        measured: The cases.
        overall: Whether a mean over all kinds has a meaning.
    """
    cases = [
        {
            "name": case.name,
            "kind": case.kind,
            **case.notes,
            "median_seconds": case.medians,
            "minimum_seconds": case.minima,
            "deviation_seconds": case.deviations,
            "loops": {side: benchmark.get_loops() for side, benchmark in case.benchmarks.items()},
            "measurements": {side: benchmark.get_nvalue() for side, benchmark in case.benchmarks.items()},
            "ratios": geometric_means([case]),
        }
        for case in measured
    ]
    means = geometric_means_by_kind(measured)
    if overall:
        means["all"] = geometric_means(measured)
    return {"cases": cases, "geometric_means": means}


def write_json(path: Path, suite: str, settings: Mapping[str, object], content: Mapping[str, object]) -> None:
    """Writes `content` as JSON, together with the suite, its settings and the machine that it ran on."""
    document = {"suite": suite, "metadata": _metadata(), "settings": dict(settings), **content}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def write_pyperf(path: Path, measured: Sequence[Measured]) -> None:
    """Writes the values of every round in pyperf's format, for `python -m pyperf stats` and its other commands."""
    benchmarks = [benchmark for case in measured for benchmark in case.benchmarks.values()]
    pyperf.BenchmarkSuite(benchmarks).dump(str(path), replace=True)


@functools.cache
def _collected() -> dict[str, Any]:
    return dict(pyperf.Run([1.0], metadata={"name": "machine"}, collect_metadata=True).get_metadata())


def _cpu() -> str:
    return str(_collected().get("cpu_model_name", "unknown CPU"))


def _metadata() -> dict[str, Any]:
    collected = _collected()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "torch_version": torch.__version__,
        "intra_op_threads": torch.get_num_threads(),
        **{name: collected[name] for name in _METADATA if name in collected},
    }
