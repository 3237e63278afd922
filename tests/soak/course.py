"""Calling something many times while what the process holds is read, and telling what grew."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .gauges import Gauges

READINGS = 9


@dataclass(frozen=True)
class Growth:
    """What there is more of after each call."""

    what: str
    per_call: float


@dataclass(frozen=True)
class Course:
    """What was measured of one kind of call."""

    calls: int
    seconds: float
    bytes_per_call: float
    grown: list[Growth]
    numbers: dict[str, list[int]]


def run(
    call: Callable[[int], object],
    calls: int,
    seconds: float,
    cache_sizes: Callable[[], dict[str, int]],
    expected_bytes: float = 0,
) -> Course:
    """Make calls, and readings at equal distances; fewer calls if they would take too long.

    Args:
        call: Is given the number of the call.
        calls: How many.
        seconds: About how long they may take.
        cache_sizes: Gives what the cache holds.
        expected_bytes: How many bytes may stay after each call.
    """
    # An eighth of the calls come first: what is made once is made then, and a container that grows by doubling does so
    # three times later on.
    number = 0
    ends = time.perf_counter() + seconds / (READINGS - 1)
    while number < max(calls // (READINGS - 1), 1) and (number == 0 or time.perf_counter() < ends):
        call(number)
        number += 1
    between = number
    gauges = Gauges(READINGS, cache_sizes)
    gauges.read()
    took = 0.0
    for _ in range(READINGS - 1):
        start = time.perf_counter()
        for each in range(number, number + between):
            call(each)
        number += between
        took += time.perf_counter() - start
        gauges.read()
    numbers = gauges.numbers()
    made = number - between
    grown = growths(numbers, between, expected_bytes)
    return Course(made, took, slope(numbers["bytes"], between), grown, numbers)


def growths(numbers: dict[str, list[int]], between: int, expected_bytes: float = 0) -> list[Growth]:
    """Tell what grows, steepest first.

    Args:
        numbers: Readings, by what was read.
        between: How many calls there were between two readings.
        expected_bytes: How many bytes may stay after each call.
    """
    calls = between * (READINGS - 1)
    slopes = [Growth(what, slope(readings, between)) for what, readings in numbers.items()]
    grown = [each for each in slopes if each.per_call > allowed(each.what, calls, expected_bytes)]
    return sorted(grown, key=lambda each: -each.per_call)


def slope(readings: Sequence[int], between: int) -> float:
    """Give the growth per call: the median of what each two readings say of it, so that a few odd ones do not count.

    What grows ever less settles, as memos and the C library's remainders of blocks do. So the lesser growth of all
    readings and of the later half of them is taken.
    """
    return min(_median_slope(readings, between), _median_slope(readings[len(readings) // 2 :], between))


def _median_slope(readings: Sequence[int], between: int) -> float:
    pairs = itertools.combinations(enumerate(readings), 2)
    return statistics.median((later - earlier) / ((j - i) * between) for (i, earlier), (j, later) in pairs)


def allowed(what: str, calls: int, expected_bytes: float = 0) -> float:
    """Give the growth per call that is taken for noise: memos, free lists and buffers, which do not depend on calls."""
    if what == "bytes":
        return expected_bytes + 0.5 + (192 << 10) / calls
    return 0.01 + 20 / calls
