"""Rounds that alternate between the sides, and the statistics over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from timeit import Timer

import pyperf

Measure = Callable[[], list[float]]
"""Enters a side, measures there once or several times, and returns the seconds that one call took each time."""


@dataclass(frozen=True)
class Measured:
    """What the rounds found for one case.

    Attributes:
        name: The case's name.
        kind: The group that the case is summed up with.
        benchmarks: The values of every side, under the side's name.
        notes: Further facts for the JSON report.
    """

    name: str
    kind: str
    benchmarks: Mapping[str, pyperf.Benchmark]
    notes: Mapping[str, object]

    @cached_property
    def medians(self) -> dict[str, float]:
        """The median of every side, in seconds per call."""
        return {side: float(benchmark.median()) for side, benchmark in self.benchmarks.items()}

    @cached_property
    def minima(self) -> dict[str, float]:
        """The fastest measurement of every side, in seconds per call: what a busy machine spoils least."""
        return {side: float(min(benchmark.get_values())) for side, benchmark in self.benchmarks.items()}

    @cached_property
    def deviations(self) -> dict[str, float]:
        """The median absolute deviation of every side, in seconds per call."""
        return {side: float(benchmark.median_abs_dev()) for side, benchmark in self.benchmarks.items()}

    def ratio(self, above: str, below: str) -> float | None:
        """Divides the medians of two sides, if both were measured."""
        if above not in self.medians or below not in self.medians:
            return None
        return self.medians[above] / self.medians[below]


def alternate(
    name: str,
    kind: str,
    measures: Mapping[str, Measure],
    rounds: int,
    notes: Mapping[str, object],
    loops: Mapping[str, int] | None = None,
) -> Measured:
    """Measures every side once a round, one after the other, so that a slow spell of the machine hits them alike.

    Args:
        name: The case's name.
        kind: The group that the case is summed up with.
        measures: What to run for every side.
        rounds: How often every side is entered.
        notes: Further facts for the JSON report.
        loops: How many calls one measurement averages over, for every side; one where it is left out.

    Returns:
        The values of all rounds.
    """
    values: dict[str, list[float]] = {side: [] for side in measures}
    for _ in range(rounds):
        for side, measure in measures.items():
            values[side] += measure()
    return measured(name, kind, values, notes, loops)


def measured(
    name: str,
    kind: str,
    values: Mapping[str, list[float]],
    notes: Mapping[str, object],
    loops: Mapping[str, int] | None = None,
) -> Measured:
    """Puts together what was measured of a case; the arguments are those of `alternate`, with the values in seconds."""
    benchmarks = {
        side: _benchmark(f"{name} [{kind}] {side}", seconds, loops[side] if loops else 1)
        for side, seconds in values.items()
    }
    return Measured(name, kind, benchmarks, notes)


def _benchmark(name: str, seconds: list[float], loops: int) -> pyperf.Benchmark:
    metadata = {"name": name, "loops": loops, "unit": "second"}
    # The report holds the machine's metadata once; collecting them for every run takes longer than the run.
    return pyperf.Benchmark([pyperf.Run(seconds, metadata=metadata, collect_metadata=False)])


def calibrated_loops(timer: Timer, seconds: float) -> int:
    """Doubles the number of calls until they take at least `seconds` together."""
    loops = 1
    while timer.timeit(loops) < seconds:
        loops *= 2
    return loops
