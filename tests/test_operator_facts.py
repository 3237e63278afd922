"""Operators of which no call is cached, each for a reason that is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch

from fastfake import FakeTensorMode

aten = torch.ops.aten


# By the rule that speaks against it: a call, and the reason.
NEVER_CACHED: dict[str, tuple[Callable[[torch.Tensor], object], str]] = {
    "rule: attribute queries": (aten.storage_offset.default, "attribute query"),
    "rule: autograd's records": (aten._version.default, "state outside of the key"),
    "rule: data-dependent results": (aten._local_scalar_dense.default, "data dependent output"),
    "rule: dynamic shapes": (aten.nonzero.default, "dynamic output shape"),
    "rule: views in place": (aten.t_.default, "inplace view"),
    "rule: lifting": (aten.lift_fresh.default, "lift"),
}


@pytest.mark.parametrize("rule", NEVER_CACHED)
def test_calls_of_operators_that_a_key_does_not_describe_are_computed_each_time(
    mode: FakeTensorMode, rule: str
) -> None:
    call, reason = NEVER_CACHED[rule]
    with torch.inference_mode():
        x = torch.empty(1, 1)
        FakeTensorMode.cache_clear()
        for count in (1, 2):
            with contextlib.suppress(RuntimeError):  # where the result depends on data
                call(x)
            assert FakeTensorMode.cache_info().bypasses == {reason: count}


def test_calls_of_custom_operators_are_computed_each_time(mode: FakeTensorMode) -> None:
    with torch.library._scoped_library("fastfake_facts", "FRAGMENT") as library:
        library.define("any(Tensor x) -> Tensor")
        sizes = iter((1, 2))
        library.impl("any", lambda x: x.new_empty(next(sizes)), "Meta")
        x = torch.empty(3)
        assert [torch.ops.fastfake_facts.any(x).shape for _ in range(2)] == [(1,), (2,)]
    assert FakeTensorMode.cache_info().bypasses == {"non-builtin": 2}


def test_another_operator_at_the_address_of_one_that_is_gone_has_facts_of_its_own(mode: FakeTensorMode) -> None:
    x = torch.empty(3)
    for _ in range(3):
        for arguments, size in (("Tensor x", 1), ("Tensor x, Tensor y", 2)):
            library = torch.library.Library("aten", "FRAGMENT")
            library.define(f"fastfake_test_facts({arguments}) -> Tensor")
            library.impl("fastfake_test_facts", lambda x, *rest, size=size: x.new_empty(size), "Meta")
            operator = torch.ops.aten.fastfake_test_facts.default
            # Answered from the cache the second time, which takes as many arguments off the stack as there are.
            assert [operator(*[x] * arguments.count("Tensor")).shape for _ in range(2)] == [(size,)] * 2
            library._destroy()
