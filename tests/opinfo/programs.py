"""Programs of many operators, run on torch's FakeTensor and on ours and compared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch._subclasses.fake_tensor as fake_tensor

from .compare import differences
from .record import CallRecord, ErrorRecord, error_record, record_call
from .sides import clear_cache, ours, torchs_own

# The first run fills the cache, the others read it.
RUNS = 3


def same_as_torch(
    program: Callable[[Any], object], *, ignored_fields: frozenset[str] = frozenset()
) -> Callable[[], None]:
    """Turns a function of a mode, not entered yet, into a test that compares what it returns."""

    def test() -> None:
        with torchs_own():
            clear_cache()
            expected = run(program)
        assert expected.error is None, f"the program fails on torch's own FakeTensor: {expected.error}"
        assert expected.result != ("NoneType", "None"), "the program returns nothing to compare"
        with ours():
            clear_cache()
            for number in range(1, RUNS + 1):
                found = differences(expected, run(program), ignored_fields)
                if found:
                    pytest.fail(f"run {number}\n  " + "\n  ".join(map(str, found)), pytrace=False)

    # functools.wraps would have pytest take the program's parameter for a fixture.
    test.__name__, test.__qualname__, test.__doc__ = program.__name__, program.__qualname__, program.__doc__
    return test


def run(program: Callable[[Any], object]) -> CallRecord:
    mode = fake_tensor.FakeTensorMode()
    return record_call(lambda: program(mode), (), {}, nullcontext())


def attempt(function: Callable[[], object]) -> object:
    """What the function returns, or the error that it raises: torch decides which of the two is right."""
    try:
        return function()
    except Exception as error:
        return error_record(error)


def error_of(function: Callable[[], object]) -> ErrorRecord:
    error = attempt(function)
    assert isinstance(error, ErrorRecord), "expected an error, but nothing was raised"
    return error
