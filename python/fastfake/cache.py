"""The dispatch cache's statistics: a native table, and one in Python for higher-order operators.

`cache_entries` shows what is in them.
"""

from __future__ import annotations

import operator
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _C
from .logs import log
from .miss import higher_order_cache

__all__ = [
    "DispatchCacheInfo",
    "bypassed_operators",
    "cache_clear",
    "cache_info",
    "cache_limit",
    "declined_calls",
    "dump_cache_stats",
    "set_cache_limit",
]


@dataclass(frozen=True, slots=True)
class DispatchCacheInfo:
    """What the dispatch cache did since it was last cleared.

    Attributes:
        hits: calls answered from the cache.
        misses: calls computed and then recorded.
        bypasses: calls that cannot be cached, counted by reason.
        size: entries, those that remember a reason not to cache included.
    """

    hits: int
    misses: int
    bypasses: dict[str, int]
    size: int


def cache_info() -> DispatchCacheInfo:
    """Return the statistics of the process's cache."""
    hits, misses, _, bypasses, size = _C.cache_statistics()
    graphs = higher_order_cache.statistics()
    all_bypasses = dict(Counter(bypasses) + graphs.bypasses)
    return DispatchCacheInfo(hits + graphs.hits, misses + graphs.misses, all_bypasses, size + graphs.size)


def bypassed_operators() -> dict[str, dict[str, int]]:
    """Return which operators' calls were not cached since the cache was last cleared.

    Returns:
        For each reason in `cache_info`, how many calls of each operator it kept from the cache. Operators have names
        such as ``aten::index.Tensor``. Higher-order operators are not among them.
    """
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for reason, operator_name, count in _C.bypassed_operators():
        found[reason][operator_name] = count
    return dict(found)


def declined_calls() -> int:
    """Return how many calls were left to another class among the arguments since the cache was last cleared.

    Such a class, DTensor for one, is asked before the mode. The calls count as nothing else; those that the class makes
    on its inner tensors are answered or computed.
    """
    return _C.cache_statistics()[2]


def cache_clear() -> None:
    """Drop all entries and set the statistics to zero."""
    _C.cache_clear()
    higher_order_cache.clear()


def cache_limit() -> int:
    """Return the most memory that the entries of the dispatch cache may hold, in bytes; 256 MiB unless set."""
    return _C.cache_limit()


def set_cache_limit(limit: int) -> None:
    """Set the most memory that the entries of the dispatch cache may hold, for all modes of the process.

    Surplus entries go at once, those that answered no call lately first. With a limit of 0 nothing is kept. The few
    entries of higher-order operators go with their graphs and do not count.

    Args:
        limit: the limit in bytes.

    Raises:
        TypeError: ``limit`` is no integer.
        ValueError: ``limit`` is negative or beyond what the machine can address.
    """
    limit = operator.index(limit)
    if not 0 <= limit <= sys.maxsize:
        raise ValueError(f"the limit of the dispatch cache must be a number of bytes, not {limit}")
    _C.set_cache_limit(limit)


def dump_cache_stats() -> None:
    """Log the statistics, the most frequent reasons not to cache first.

    This happens at exit without a registration here: torch registered its own function of this name, which
    reads the figures from the class that it finds in its module, and that is ours while installed.
    """
    info = cache_info()
    log.info("FakeTensor cache stats:")
    log.info("  cache_hits: %s", info.hits)
    log.info("  cache_misses: %s", info.misses)
    if not info.bypasses:
        return
    log.info("  cache_bypasses:")
    width = 1 + max(map(len, info.bypasses))
    for reason in sorted(info.bypasses, key=info.bypasses.__getitem__, reverse=True):
        log.info("    %-*s %s", width, f"{reason}:", info.bypasses[reason])


class Statistic:
    """A class attribute that reads a figure of the cache, under the name by which torch keeps it."""

    def __init__(self, read: Callable[[DispatchCacheInfo], Any]) -> None:
        """Read with ``read``."""
        self._read = read

    def __get__(self, instance: object, owner: type) -> Any:
        """Return the figure now."""
        return self._read(cache_info())


def bypasses_or_zero(info: DispatchCacheInfo) -> defaultdict[str, int]:
    """Return the bypasses by reason; a reason that never occurred counts as zero."""
    return defaultdict(int, info.bypasses)
