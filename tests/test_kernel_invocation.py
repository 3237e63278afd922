"""The state in which fake tensors call themselves meta tensors."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from both_sides import assert_same

import fastfake
from fastfake import _C


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


def keys() -> tuple[str, str, bool]:
    included, excluded = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    return str(included), str(excluded), _C.in_kernel_invocation()


@pytest.mark.parametrize("entered", [0, 1])
def test_leaving_it_more_often_than_it_was_entered_is_an_error(entered: int) -> None:
    outside = keys()
    context = fastfake.in_kernel_invocation_manager(fastfake.FakeTensorMode())
    for _ in range(entered):
        with context:
            pass
    for _ in range(2):
        with pytest.raises(RuntimeError, match="left on a thread that is not in it"):
            context.__exit__(None, None, None)
    assert keys() == outside


def test_it_cannot_be_left_by_another_thread() -> None:
    outside, inside = keys(), []
    context = fastfake.in_kernel_invocation_manager(fastfake.FakeTensorMode())
    errors: list[type[BaseException]] = []

    def leave() -> None:
        before = keys()
        try:
            context.__exit__(None, None, None)
        except RuntimeError as error:
            errors.append(type(error))
        inside.append(keys() == before)

    with context:
        within = keys()
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        assert keys() == within != outside
    assert errors == [RuntimeError] and inside == [True]
    assert keys() == outside


def test_two_threads_in_one_context_leave_it_each_for_itself() -> None:
    outside = keys()
    context = fastfake.in_kernel_invocation_manager(fastfake.FakeTensorMode())
    entered, left, states = threading.Event(), threading.Event(), []

    def enter_and_leave() -> None:
        with context:
            entered.set()
            left.wait()
        states.append(keys())

    thread = threading.Thread(target=enter_and_leave)
    with context:
        thread.start()
        entered.wait()
    assert keys() == outside
    left.set()
    thread.join()
    assert states == [outside]


def test_contexts_that_are_left_in_another_order_leave_nothing_behind() -> None:
    outside = keys()
    first, second, third = (_C.KernelInvocation() for _ in range(3))
    for context in (first, second, third):
        context.__enter__()
    within = keys()
    second.__exit__(None, None, None)
    first.__exit__(None, None, None)
    assert keys() == within
    third.__exit__(None, None, None)
    assert keys() == outside


def test_a_context_that_is_dropped_is_left() -> None:
    outside = keys()
    context = _C.KernelInvocation()
    context.__enter__()
    context.__enter__()
    assert keys() != outside
    del context
    assert keys() == outside


def test_an_assigned_value_belongs_to_the_mode_on_which_it_was_set() -> None:
    def program(fakes: Any) -> Any:
        (mode, fake), (other, stranger) = new(fakes), new(fakes)
        mode.in_kernel_invocation = True
        inside = fake.device, stranger.device, mode.in_kernel_invocation, other.in_kernel_invocation
        other.in_kernel_invocation = True
        mode.in_kernel_invocation = False
        return inside, fake.device, stranger.device, mode.in_kernel_invocation, other.in_kernel_invocation

    assert_same(program)


@pytest.mark.exhaustive
def test_an_assigned_value_ends_with_the_mode() -> None:
    # As one of torch's own tests of fake tensors leaves it.
    def leave_it_set(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        mode.in_kernel_invocation = True
        return mode.in_kernel_invocation

    def program(fakes: Any) -> Any:
        seen = []
        for _ in range(5):  # so that a mode gets the memory of one that is gone
            seen.append(leave_it_set(fakes))
            gc.collect()
            mode, fake = new(fakes)
            seen.append((mode.in_kernel_invocation, fake.device))
            with fakes.in_kernel_invocation_manager(mode):
                seen.append((mode.in_kernel_invocation, fake.device))
        return seen

    assert_same(program)


def test_an_assigned_value_is_not_seen_by_other_threads() -> None:
    mode, fake = new(fastfake)
    seen: list[object] = []
    mode.in_kernel_invocation = True
    thread = threading.Thread(target=lambda: seen.extend([fake.device.type, mode.in_kernel_invocation]))
    thread.start()
    thread.join()
    assert seen == ["cpu", False]
    assert fake.device.type == "meta"


@pytest.mark.parametrize("call", [lambda t: t + t, lambda t: t.sin(), torch.empty_like])
def test_what_is_computed_while_it_is_assigned_is_not_the_answer_afterwards(call: Callable[..., torch.Tensor]) -> None:
    fastfake.FakeTensorMode.cache_clear()
    mode = fastfake.FakeTensorMode()
    with mode:
        fake = torch.empty(3)
        mode.in_kernel_invocation = True
        call(fake)
        mode.in_kernel_invocation = False
        assert call(fake).device.type == "cpu"
        assert call(fake).device.type == "cpu"
