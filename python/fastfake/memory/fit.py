"""The largest batch of which a step fits on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["MOST_SAMPLES", "Attempt", "largest_batch"]

MOST_SAMPLES = 65536
"""Where the search ends: some programs take no more memory for more samples."""


@dataclass(frozen=True)
class Attempt:
    """What is known of a batch.

    Attributes:
        batch: Samples.
        fits: Whether a step on them fits.
        allocated: Bytes that are allocated at the peak of the step, if there is memory enough.
    """

    batch: int
    fits: bool
    allocated: int


def largest_batch(attempt: Callable[[int], Attempt], first: Attempt, memory: int) -> int:
    """Find the largest batch that fits, between one that does and one that does not.

    Programs take about the same for each sample, so a straight line through two attempts tells where it may be. From
    there, steps that double lead to the other side, and bisection to the end.

    Args:
        attempt: Tries a batch. If one fits, a smaller one is taken to fit too.
        first: What is known at the beginning.
        memory: Bytes of the device.

    Returns:
        The largest batch, `MOST_SAMPLES` if that fits, and 0 if not even one sample does.
    """
    fitting, failing = (first.batch, MOST_SAMPLES + 1) if first.fits else (0, first.batch)

    def tried(batch: int) -> Attempt:
        nonlocal fitting, failing
        made = attempt(min(max(batch, fitting + 1), failing - 1))
        fitting, failing = (made.batch, failing) if made.fits else (fitting, made.batch)
        return made

    if failing - fitting > 1:
        second = tried(2 * first.batch if first.fits else first.batch // 2)
        if failing - fitting > 1:
            guess = last = tried(_on_the_line(first, second, memory))
            step = max(1, guess.batch // 64)
            while failing - fitting > 1 and last.fits is guess.fits:
                last = tried(last.batch + step if last.fits else last.batch - step)
                step *= 2
    while failing - fitting > 1:
        tried((fitting + failing) // 2)
    return fitting


def _on_the_line(one: Attempt, other: Attempt, memory: int) -> int:
    """Give the batch that takes all memory."""
    for_each = (other.allocated - one.allocated) / (other.batch - one.batch)
    if for_each <= 0:
        return MOST_SAMPLES
    return int(other.batch + (memory - other.allocated) / for_each)
