"""Programs' allocations run through the allocator of a device."""

from __future__ import annotations

import pytest
from made_up_timelines import timeline_of

from fastfake.memory import CONTEXT_BYTES, Timeline, simulate

pytestmark = pytest.mark.usefixtures("no_allocator_settings")

MIB = 1 << 20

PROGRAM = timeline_of((30 * MIB, 0, 3), (5 * MIB, 1, None), (0, 2, 4), (40 * MIB, 5, 7), (100, 6, None))


def test_a_timeline_gives_the_curve_of_what_is_reserved() -> None:
    found = simulate(PROGRAM)
    assert found.fits
    assert found.curve == (
        (0, 30 * MIB, 30 * MIB),
        (1, 35 * MIB, 50 * MIB),
        (2, 35 * MIB, 50 * MIB),
        (3, 5 * MIB, 50 * MIB),
        (4, 5 * MIB, 50 * MIB),
        (5, 45 * MIB, 90 * MIB),
        (6, 45 * MIB + 512, 92 * MIB),
        (7, 5 * MIB + 512, 92 * MIB),
    )
    assert (found.peak_allocated, found.peak_reserved, found.peak_moment) == (45 * MIB + 512, 92 * MIB, 6)
    assert (found.device, found.at_peak.segments, found.at_peak.unused) == ("cuda:0", 4, 47 * MIB - 512)
    assert found.peak_allocated == PROGRAM.peak().bytes


def test_a_program_runs_out_at_a_moment_with_an_allocation() -> None:
    found = simulate(PROGRAM, memory=59 * MIB + CONTEXT_BYTES)
    assert not found.fits
    error = found.out_of_memory
    assert error is not None
    assert (error.moment, error.allocation) == (5, PROGRAM.allocations[3])
    # The 30 MiB that were free are given back, which is not enough.
    assert found.curve[-1] == (5, 5 * MIB, 20 * MIB)
    assert (error.free, found.peak_reserved, found.peak_moment, found.retries) == (39 * MIB, 50 * MIB, 1, 1)


def test_what_fits_once_something_is_given_back_is_a_retry() -> None:
    found = simulate(PROGRAM, memory=70 * MIB, context=0)
    assert (found.fits, found.retries, found.peak_reserved) == (True, 1, 62 * MIB)


def test_the_cuda_device_with_the_highest_peak_is_meant() -> None:
    first = timeline_of((30 * MIB, 0, None), device="cuda:1").allocations
    second = timeline_of((40 * MIB, 1, None), device="cuda:3").allocations
    third = timeline_of((50 * MIB, 2, None), device="cpu").allocations
    timeline = Timeline([*first, *second, *third], 3)
    assert simulate(timeline).device == "cuda:3"
    assert simulate(timeline, "cuda:1").peak_reserved == 30 * MIB
    assert simulate(timeline, "cuda").peak_reserved == 0
    with pytest.raises(ValueError, match="the allocator is that of CUDA devices, not of cpu"):
        simulate(timeline, "cpu")
    with pytest.raises(ValueError, match="nothing was allocated on a CUDA device"):
        simulate(Timeline(third, 3))
