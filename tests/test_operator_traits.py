"""Facts of operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from both_sides import assert_same

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
