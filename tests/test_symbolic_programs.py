"""Random programs with symbolic sizes see the same with a cache as without, whatever their ShapeEnvs learn."""

from __future__ import annotations

import pytest
from random_symbolic_programs import run

from fastfake import FakeTensorMode

pytestmark = pytest.mark.usefixtures("quiet_fake_tensor_log")


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_programs_are_the_same_with_and_without_a_cache(first: int) -> None:
    FakeTensorMode.cache_clear()
    assert sum(run(seed) for seed in range(first, first + 10)) > 50


@pytest.mark.parametrize(
    "first",
    [
        *(pytest.param(first, marks=pytest.mark.exhaustive) for first in (1_000, 1_250)),
        *(pytest.param(first, marks=pytest.mark.nightly) for first in (1_500, 1_750)),
    ],
)
def test_a_thousand_random_programs_are_the_same_with_and_without_a_cache(first: int) -> None:
    FakeTensorMode.cache_clear()
    assert sum(run(seed) for seed in range(first, first + 250)) > 1_250
