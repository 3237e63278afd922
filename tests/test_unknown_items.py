"""`item()` on what is not known says where and what to do; with a stand-in it gives a number."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fastfake import DataDependentOutputException, FakeTensorMode

READS = {
    "item": lambda t: t.item(),
    "int": lambda t: int(t),
    "bool": lambda t: bool(t),
    "condition": lambda t: 1 if t > 0 else 2,
    "tolist": lambda t: t.tolist(),
    "size": lambda t: torch.empty(t.sum().long()),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("limit", [None, 8])
def test_the_error_names_the_line_of_the_program_and_both_remedies(name: str, limit: int | None) -> None:
    with FakeTensorMode(known_values=limit), pytest.raises(DataDependentOutputException) as caught:
        READS[name](torch.empty(1))
    error = caught.value
    assert error.func is torch.ops.aten._local_scalar_dense.default
    text = str(error)
    assert text.startswith("aten._local_scalar_dense.default: ")
    assert "known_values=" in text and "unknown_items=0.0" in text
    _, first = inspect.getsourcelines(READS[name])
    assert f" at {__file__}:{first}" in text
    assert ("=8 elements" in text) == (limit is not None)


def test_the_line_is_the_programs_also_where_torch_or_python_asks() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException) as caught:
        parameter = torch.nn.Parameter(torch.empty(2))
        parameter.grad = torch.empty(2)
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_([parameter], 1.0, error_if_nonfinite=True)
    assert f" at {__file__}:{line}, " in str(caught.value)


NUMBERS = [
    (torch.float32, 1.5, float),
    (torch.bfloat16, 1.5, float),
    (torch.int64, 1, int),
    (torch.uint8, 1, int),
    (torch.bool, True, bool),
    (torch.complex64, 1.5 + 0j, complex),
]


@pytest.mark.parametrize(("dtype", "expected", "kind"), NUMBERS)
def test_a_stand_in_comes_in_the_type_of_a_real_item(dtype: torch.dtype, expected: Any, kind: type) -> None:
    with FakeTensorMode(unknown_items=1.5):
        t = torch.empty(1, dtype=dtype)
        assert type(t.item()) is kind is type(torch.ones(1, dtype=dtype).item())
        assert t.item() == expected
        assert t.tolist() == [expected]


def test_a_program_that_logs_its_loss_goes_on() -> None:
    with FakeTensorMode(unknown_items=0) as mode:
        assert mode.unknown_items == 0
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        logged = []
        for _ in range(2):
            loss = model(torch.randn(3, 4)).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            logged.append(f"{loss.item():.2f} {loss:.1f} {loss}")
    assert logged == ["0.00 0.0 0.0"] * 2


def test_a_tensor_is_formatted_as_its_number_where_it_has_one() -> None:
    with FakeTensorMode(known_values=True):
        assert f"{torch.ones(2).sum():.2f} {torch.tensor(3)}" == "2.00 3"
        assert f"{torch.empty(())}" == "FakeTensor(..., size=())"
    with FakeTensorMode(unknown_items=0):
        assert f"{torch.empty(2)}" == "FakeTensor(..., size=(2,))"
    with FakeTensorMode(), pytest.raises(TypeError, match="unsupported format string"):
        f"{torch.empty(()):.2f}"


def test_what_is_known_comes_before_the_stand_in() -> None:
    with FakeTensorMode(known_values=True, unknown_items=9):
        assert torch.ones(2).sum().item() == 2
        assert torch.empty(()).item() == 9
    with FakeTensorMode(unknown_items=9):
        assert torch.tensor(3).item() == 3


def test_symbols_come_before_the_stand_in() -> None:
    with FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=True), unknown_items=9):
        assert isinstance(torch.empty((), dtype=torch.long).item(), torch.SymInt)
    with FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=False), unknown_items=9):
        assert torch.empty((), dtype=torch.long).item() == 9


def test_only_items_have_a_stand_in() -> None:
    with FakeTensorMode(unknown_items=1.0), pytest.raises(DataDependentOutputException) as caught:
        torch.equal(torch.empty(2), torch.empty(2))
    assert str(caught.value) == "aten.equal.default"


@pytest.mark.parametrize(
    ("wrong", "error"), [("0", TypeError), (1j, TypeError), (float("nan"), ValueError), (float("inf"), ValueError)]
)
def test_what_cannot_stand_for_every_kind_of_number_is_refused(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="unknown_items must be"):
        FakeTensorMode(unknown_items=wrong)
    mode = FakeTensorMode()
    with pytest.raises(error, match="unknown_items must be"):
        mode.unknown_items = wrong
    assert mode.unknown_items is None
