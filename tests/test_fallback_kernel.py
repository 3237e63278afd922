"""Operators that run on zeros."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from both_sides import assert_same
from torch.utils import _pytree as pytree

aten = torch.ops.aten


@pytest.mark.parametrize("func", [aten.sin.default, aten.t.default, aten.sin_.default, aten.t_.default], ids=str)
def test_results_and_refusals_are_torchs(func: Any) -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        fake = mode.from_tensor(torch.ones(2, 3))
        leaves, spec = pytree.tree_flatten(((fake,), {}))
        result = fakes.run_fallback_kernel(mode, func, leaves, spec, RuntimeError("cannot"))
        return result, result is fake

    assert_same(program)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("name", ["aten::sin", "mylib::op", "quantized::add", "fbgemm::gmm"])
def test_which_operators_may_is_torchs_answer(name: str, allowed: bool) -> None:
    operator = SimpleNamespace(namespace=name.partition("::")[0], name=lambda: name)

    def program(fakes: Any) -> Any:
        return fakes.FakeTensorMode(allow_fallback_kernels=allowed).can_run_unsafe_fallback(operator)

    assert_same(program)
