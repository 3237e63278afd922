"""The exceptions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from both_sides import assert_same

FUNC = torch.ops.aten.add.Tensor
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "DataDependentOutputException": (FUNC,),
    "DynamicOutputShapeException": (FUNC,),
    "FakeTensorDeviceMismatchError": (FUNC, torch.device("cpu"), torch.device("cuda")),
    "MetadataMismatchError": ("because",),
    "UnsupportedFakeTensorException": ("because",),
    "UnsupportedMutationAliasingException": ("because",),
    "UnsupportedOperatorException": (FUNC,),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_text_fields_and_equality_are_torchs(name: str) -> None:
    def program(fakes: Any) -> Any:
        error, same = (getattr(fakes, name)(*ARGUMENTS[name]) for _ in range(2))
        return repr(error), str(error), error.args, vars(error), error == same, copy.copy(error).args

    if name == "FakeTensorDeviceMismatchError":  # cannot be copied, since it takes more than its text
        assert_same(lambda fakes: (str(e := getattr(fakes, name)(*ARGUMENTS[name])), e.args, vars(e)))
    else:
        assert_same(program)
