"""The state in which fake tensors call themselves meta tensors."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from both_sides import assert_same

import fastfake


def new(fakes: Any) -> tuple[Any, Any]:
    mode = fakes.FakeTensorMode()
    return mode, mode.from_tensor(torch.ones(2))


def test_calls_reach_meta_kernels() -> None:
    def program(fakes: Any) -> Any:
        mode, fake = new(fakes)
        with fakes.in_kernel_invocation_manager(mode):
            made, computed = torch.empty(2), fake + 1
            return type(made).__name__, type(computed).__name__, computed.device, mode.in_kernel_invocation

    assert_same(program)


def test_it_nests() -> None:
    def program(fakes: Any) -> Any:
        mode, fake = new(fakes)
        devices = [fake.device]
        with fakes.in_kernel_invocation_manager(mode):
            with fakes.in_kernel_invocation_manager(mode):
                devices.append(fake.device)
            devices.append(fake.device)
        return [*devices, fake.device]

    assert [device.type for device in assert_same(program)] == ["cpu", "meta", "meta", "cpu"]


def test_an_exception_ends_it() -> None:
    def program(fakes: Any) -> Any:
        mode, fake = new(fakes)
        with pytest.raises(KeyError), fakes.in_kernel_invocation_manager(mode):
            raise KeyError
        return fake.device, mode.in_kernel_invocation, torch._C._meta_in_tls_dispatch_include()

    assert_same(program)


def test_assigning_the_modes_attribute_enters_and_leaves_it() -> None:
    def program(fakes: Any) -> Any:
        mode, fake = new(fakes)
        mode.in_kernel_invocation = True
        inside = fake.device
        mode.in_kernel_invocation = False
        return inside, fake.device

    assert_same(program)


def test_other_threads_on_the_same_mode_are_not_in_it() -> None:
    mode, fake = new(fastfake)
    seen: list[torch.device] = []
    with fastfake.in_kernel_invocation_manager(mode):
        thread = threading.Thread(target=lambda: seen.append(fake.device))
        thread.start()
        thread.join()
    assert seen == [torch.device("cpu")]
