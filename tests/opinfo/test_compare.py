"""The comparison itself: it sees each kind of difference, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from .compare import differences
from .record import CallRecord, TensorRecord, normalised, record_call


def recorded(function: Callable[..., object], *args: object) -> CallRecord:
    return record_call(function, args, {}, nullcontext())


def places(expected: CallRecord, actual: CallRecord) -> set[str]:
    return {difference.where for difference in differences(expected, actual)}


def test_two_runs_of_the_same_call_do_not_differ():
    x = torch.zeros(2, 3, requires_grad=True)
    assert differences(recorded(lambda t: [t * 2, t.view(-1)], x), recorded(lambda t: [t * 2, t.view(-1)], x)) == []


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TensorRecord)])
def test_a_change_of_any_field_of_any_tensor_is_a_difference(field: str):
    expected = recorded(torch.neg, torch.zeros(2))
    changed = dataclasses.replace(expected.tensors[1], **{field: "changed"})
    actual = dataclasses.replace(expected, tensors=(expected.tensors[0], changed))
    assert places(expected, actual) == {f"tensor 1 {field}"}


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        (lambda x: x.view(4), lambda x: x.clone().view(4), "tensor 1 shares_storage_with"),
        (lambda x: x.add_(1), lambda x: x + 1, "result"),
        (lambda x: x.add_(1), lambda x: x.add_(1).add_(1), "tensor 0 version"),
        (lambda x: x, lambda x: x.t_(), "tensor 0 version"),
        (lambda x: x.resize_(8), lambda x: x.resize_(9), "tensor 0 storage_bytes"),
        (lambda x: x.t(), lambda x: x.view(2, 2), "tensor 1 stride"),
        (lambda x: [x.clone()], lambda x: (x.clone(),), "result"),
        (lambda x: x.max(0), lambda x: tuple(x.max(0)), "result"),
        (lambda x: {"a": x}, lambda x: {"b": x}, "result"),
        (lambda x: 1, lambda x: 1.0, "result"),
        (lambda x: x.view(5), lambda x: x.view(4), "error"),
        (lambda x: x.view(5), lambda x: x.view(7), "error"),
        (lambda x: x[5], lambda x: [x][5], "error"),
    ],
)
def test_calls_that_differ_are_told_apart(one, other, where):
    assert where in places(recorded(one, torch.zeros(2, 2)), recorded(other, torch.zeros(2, 2)))


def test_gradients_belong_to_the_record_of_their_tensor():
    def backward(x: torch.Tensor) -> None:
        x.sum().backward()

    with_grad = recorded(backward, torch.zeros(2, requires_grad=True))
    without = recorded(lambda x: None, torch.zeros(2, requires_grad=True))
    assert places(without, with_grad) == {"number of tensors", "tensor 0 grad"}


def test_only_addresses_and_the_home_of_the_mode_are_taken_out_of_texts():
    ours = normalised("x.fake_mode=<fastfake.fake_mode.FakeTensorMode object at 0x7f00> of size 0x10")
    torchs = normalised("x.fake_mode=<torch._subclasses.fake_tensor.FakeTensorMode object at 0x7f11> of size 0x10")
    assert ours == torchs == "x.fake_mode=<FakeTensorMode> of size 0x10"
    assert normalised("<Foo object at 0x12ab>") == "<Foo object at 0x>"
