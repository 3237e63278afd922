"""The search for the largest batch that fits."""

from __future__ import annotations

import pytest

from fastfake.memory.fit import MOST_SAMPLES, Attempt, largest_batch

MEMORY = 10**9


class Program:
    """One that takes the same for each sample, of which the memory holds a number; it can waste a share of it."""

    def __init__(self, holds: int, waste: float) -> None:
        self.holds = holds
        self.for_each = MEMORY / (holds + 0.5) * (1 - waste)
        self.tried: list[int] = []

    def attempt(self, batch: int) -> Attempt:
        self.tried.append(batch)
        return Attempt(batch, batch <= self.holds, int(self.for_each * batch))


@pytest.mark.parametrize("waste", [0, 0.05, 0.3, -0.1])
@pytest.mark.parametrize("holds", [0, 1, 2, 5, 17, 1137, 40000, MOST_SAMPLES, 10**9])
@pytest.mark.parametrize("known", [1, 2, 3, 64, 5000])
def test_the_largest_batch_is_found_in_few_attempts(known: int, holds: int, waste: float) -> None:
    program = Program(holds, waste)
    first = program.attempt(known)
    assert largest_batch(program.attempt, first, MEMORY) == min(holds, MOST_SAMPLES)
    assert len(program.tried) == len(set(program.tried)) <= 24


def test_a_straight_line_leads_to_the_largest_batch_in_four_attempts() -> None:
    program = Program(6, 0)
    assert largest_batch(program.attempt, program.attempt(2), MEMORY) == 6
    assert program.tried == [2, 4, 6, 7]


def test_a_program_that_takes_the_same_for_any_batch_ends_the_search() -> None:
    assert largest_batch(lambda batch: Attempt(batch, True, 5), Attempt(1, True, 5), MEMORY) == MOST_SAMPLES
    assert largest_batch(lambda batch: Attempt(batch, False, 5), Attempt(9, False, 5), MEMORY) == 0
