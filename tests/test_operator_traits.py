"""Facts of operators."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from both_sides import assert_same

from fastfake import FakeTensorMode

aten = torch.ops.aten
OPERATORS = [
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.detach.default,
    aten.empty.memory_format,
    aten.lift_fresh.default,
    aten.view.default,
    aten.view_copy.default,
]


def test_the_schema_tells_what_is_written_to_and_is_analysed_once() -> None:
    def program(fakes: Any) -> Any:
        info = fakes.get_schema_info(aten.add_.Tensor)
        writes = [info.is_mutable(name) for name in ("self", "other", "alpha")]
        return info.is_mutable(), writes, info.has_argument("input"), info is fakes.get_schema_info(aten.add_.Tensor)

    assert assert_same(program) == (True, [True, False, False], False, True)


@pytest.mark.parametrize("func", OPERATORS, ids=str)
def test_which_meta_kernels_take_symbols_is_torchs_answer(func: Any) -> None:
    assert_same(lambda fakes: fakes.FakeTensorMode().cpp_meta_supports_symint(func))


def test_the_lift_operators_are_torchs() -> None:
    assert_same(lambda fakes: [str(func) for func in fakes.FakeTensorMode.lift_fns])


def test_an_operator_of_a_library_that_is_gone_is_forgotten(mode: FakeTensorMode) -> None:
    with torch.library._scoped_library("fastfake_traits", "FRAGMENT") as library:
        library.define("custom(Tensor x) -> Tensor")
        torch.library.register_fake("fastfake_traits::custom", torch.empty_like, lib=library)
        operator = torch.ops.fastfake_traits.custom.default
        with FakeTensorMode(known_values=True):
            operator(torch.zeros(3))
        operator(torch.empty(3))
        reference = weakref.ref(operator)
        del operator
    gc.collect()
    assert reference() is None
