"""Deep copies under FakeCopyMode."""

from __future__ import annotations

import copy
from typing import Any

import torch
from both_sides import assert_same


class Tied(torch.nn.Module):
    """A module whose parameters and buffers share objects and storages."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.weight = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
        self.tied = self.weight
        self.register_buffer("strided", torch.arange(6).view(2, 3).t())
        self.buffer = torch.nn.Buffer(torch.ones(1), persistent=False)
        self.plain = torch.rand(10, 2)
        self.row = self.plain[0]


def test_a_copied_module_is_fake_and_keeps_what_is_shared() -> None:
    def program(fakes: Any) -> Any:
        module, mode = Tied(), fakes.FakeTensorMode()
        with fakes.FakeCopyMode(mode):
            copied = copy.deepcopy(module)
        tensors = [*copied.parameters(), *copied.buffers(), copied.plain, copied.row]
        return (
            tensors,
            [isinstance(t, torch.nn.Parameter) for t in tensors],
            [t.fake_mode is mode for t in tensors],
            copied.tied is copied.weight,
            copied.plain.untyped_storage()._cdata == copied.row.untyped_storage()._cdata,
            list(copied.state_dict()),
        )

    described = assert_same(program)
    assert {tensor[0] for tensor in described[0]} == {"FakeTensor"}


def test_the_module_itself_stays_real() -> None:
    def program(fakes: Any) -> Any:
        module = Tied()
        with fakes.FakeCopyMode(fakes.FakeTensorMode()):
            copy.deepcopy(module)
        return {type(t).__name__ for t in (*module.parameters(), *module.buffers())}

    assert_same(program)


def test_a_clone_is_fake_and_other_operators_are_real() -> None:
    def program(fakes: Any) -> Any:
        with fakes.FakeCopyMode(fakes.FakeTensorMode()):
            return torch.ones(2).clone(), torch.ones(2, requires_grad=True).clone(), torch.ones(3) + 1

    assert [tensor[0] for tensor in assert_same(program)] == ["FakeTensor", "FakeTensor", "Tensor"]


def test_containers_are_copied_too() -> None:
    def program(fakes: Any) -> Any:
        shared = torch.ones(2)
        with fakes.FakeCopyMode(fakes.FakeTensorMode()):
            copied = copy.deepcopy({"one": shared, "list": [shared, 3]})
        return copied, copied["one"] is copied["list"][0]

    assert assert_same(program)[1] is True
