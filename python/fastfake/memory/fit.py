"""The largest batch of which a step fits on the device."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MOST_SAMPLES", "largest_batch"]

MOST_SAMPLES = 65536
"""Where the search ends: some programs take no more memory for more samples."""


def largest_batch(fits: Callable[[int], bool], known: int, known_fits: bool) -> int:
    """Find the largest batch that fits, by doubling or halving and then by bisection.

    Args:
        fits: Tells whether a batch fits. If one does, a smaller one is taken to fit too.
        known: A batch of which that is known.
        known_fits: Whether it fits.

    Returns:
        The largest batch, `MOST_SAMPLES` if that fits, and 0 if not even one sample does.
    """
    fitting, failing = (known, 0) if known_fits else (0, known)
    while not failing:
        if fitting >= MOST_SAMPLES:
            return fitting
        attempt = min(2 * fitting, MOST_SAMPLES)
        fitting, failing = (attempt, 0) if fits(attempt) else (fitting, attempt)
    while not fitting and failing > 1:
        attempt = failing // 2
        fitting, failing = (attempt, failing) if fits(attempt) else (0, attempt)
    while failing - fitting > 1:
        attempt = (fitting + failing) // 2
        fitting, failing = (attempt, failing) if fits(attempt) else (fitting, attempt)
    return fitting
