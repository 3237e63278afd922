"""Which decompositions are trusted with strides and aliasing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from both_sides import assert_same

aten = torch.ops.aten


OPERATORS = [aten.huber_loss.default, aten.native_layer_norm.default, aten.addcmul.default]


@pytest.mark.parametrize("func", OPERATORS, ids=str)
def test_it_is_those_that_torch_trusts(func: Any) -> None:
    assert_same(lambda fakes: fakes.torch_decomp_decompositions(func))
