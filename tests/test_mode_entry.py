"""Entering and leaving a mode happens as a whole or not at all, whenever an interrupt comes."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import fresh_process
import pytest
import torch
import torch.utils._python_dispatch as torch_modes
from both_sides import assert_same, on_ours, on_torch

import fastfake
from fastfake import _C, in_use

FAKE = torch._C._TorchDispatchModeKey.FAKE
REAL = torch.ones(3)


class InterruptedAt:
    """Raises KeyboardInterrupt as a signal would: where the interpreter looks for signals, the nth time it does so.

    It looks for them at the start of each Python function and after each call of a native one. Left out are torch's
    contexts for autograd: interrupted in one, a thread gets a state back late and out of turn, with real tensors, too.
    """

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_return") and not frame.f_code.co_filename.endswith("/grad_mode.py"):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


def state_of_thread() -> tuple[object, ...]:
    active = torch._C._get_dispatch_mode(FAKE)
    flags = torch_modes.is_in_torch_dispatch_mode(), torch_modes.is_in_torch_dispatch_mode(False)
    keys = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    flags_of_calls = _C.in_kernel_invocation(), _C.following()
    return active, torch._C._only_lift_cpu_tensors(), flags_of_calls, flags, tuple(map(str, keys))


def enters_its_mode_again(x: torch.Tensor) -> object:
    return torch.nn.functional.logsigmoid(x)


def converts_a_real_tensor(x: torch.Tensor) -> object:
    return x + REAL


def computes_with_known_values(x: torch.Tensor) -> object:
    return (torch.tensor([1, 2]) * 3).tolist()


def leaves_its_mode_for_a_while(x: torch.Tensor) -> object:
    with fastfake.unset_fake_temporarily():
        return REAL.sum()


def interrupts_that_leave_traces(
    call: Callable[[torch.Tensor], object],
) -> tuple[int, list[tuple[int, tuple[object, ...]]], float]:
    """Interrupt a call that is computed at each place.

    Returns:
        How many places there are, those with traces, and how long another thread then takes to uninstall.
    """
    mode = fastfake.FakeTensorMode(allow_non_fake_inputs=True, known_values=True)
    with mode:
        x = torch.empty(3)
        call(x)
    # What it writes about errors of generators is no part of the test.
    sys.unraisablehook = lambda unraisable: None
    before = state_of_thread()
    traces: list[tuple[int, tuple[object, ...]]] = []
    for nth in itertools.count(1):
        fastfake.FakeTensorMode.cache_clear()
        interruption = InterruptedAt(nth)
        sys.setprofile(interruption)
        try:
            with mode:
                call(x)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        if (state_of_thread(), mode.enter_stack) != (before, []):
            traces.append((nth, state_of_thread()))
        if interruption.left > 0:
            start = time.monotonic()
            uninstalling = threading.Thread(target=fastfake.uninstall)
            uninstalling.start()
            uninstalling.join()
            return nth, traces, time.monotonic() - start
    raise AssertionError("unreachable")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("call", "fewest_places"),
    [
        (enters_its_mode_again, 200),
        (computes_with_known_values, 200),
        (converts_a_real_tensor, 200),
        (leaves_its_mode_for_a_while, 20),
    ],
)
def test_no_interrupt_leaves_a_mode_entered_or_ends_the_process(
    call: Callable[[torch.Tensor], object], fewest_places: int
) -> None:
    places, traces, seconds_to_uninstall = fresh_process.call(interrupts_that_leave_traces, call)
    assert places > fewest_places
    assert traces == []
    assert seconds_to_uninstall < in_use._PATIENCE_IN_SECONDS / 2


def test_an_error_before_a_mode_is_entered_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bool:
        raise ValueError("on purpose")

    mode = fastfake.FakeTensorMode()
    before = state_of_thread()
    monkeypatch.setattr(fastfake.FakeTensorMode, "avoid_device_init", property(lambda mode: fail()))
    with pytest.raises(ValueError, match="on purpose"), mode:
        raise AssertionError("unreachable")
    assert (state_of_thread(), mode.enter_stack) == (before, [])


def test_leaving_a_mode_that_was_not_entered_raises_what_torchs_does() -> None:
    def program(fakes: Any) -> None:
        fakes.FakeTensorMode().__exit__(None, None, None)

    assert assert_same(program).kind == "IndexError"


def test_leaving_a_mode_that_somebody_took_off_raises_and_restores_the_rest() -> None:
    mode = fastfake.FakeTensorMode()
    before = state_of_thread()
    with pytest.raises(RuntimeError, match="Attempted to unset FakeTensorMode, but there wasn't one active"), mode:
        torch._C._unset_dispatch_mode(FAKE)
    assert (state_of_thread(), mode.enter_stack) == (before, [])


@pytest.mark.parametrize("times", [1, 2])
def test_modes_left_in_the_order_in_which_they_were_entered_leave_none_active(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch does: the second finds none active, and does not bring the first one back, which is done with."""

    def program(fakes: Any) -> object:
        first, second = fakes.FakeTensorMode(), fakes.FakeTensorMode()
        first.__enter__()
        for _ in range(times):
            second.__enter__()
        first.__exit__(None, None, None)
        for _ in range(times - 1):
            second.__exit__(None, None, None)
        with pytest.raises(RuntimeError, match="there wasn't one active"):
            second.__exit__(None, None, None)
        return torch._C._get_dispatch_mode(FAKE), torch._C._only_lift_cpu_tensors()

    for flag in (
        "_is_in_torch_dispatch_mode",
        "_is_in_non_infra_torch_dispatch_mode",
        "_is_in_any_mode_without_ignore_compile_internals",
    ):
        monkeypatch.setattr(torch_modes, flag, getattr(torch_modes, flag))  # torch's modes put back what they found
    lifted = torch._C._only_lift_cpu_tensors()
    try:
        assert_same(program)
    finally:
        torch._C._unset_dispatch_mode(FAKE)
        torch._C._set_only_lift_cpu_tensors(lifted)


def test_the_flag_for_new_tensors_is_restored_by_the_entry_that_set_it() -> None:
    mode = fastfake.FakeTensorMode()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_dispatch_mode(mode)
    try:
        with mode:
            assert torch._C._only_lift_cpu_tensors() == mode.avoid_device_init
        assert torch._C._only_lift_cpu_tensors() == before
    finally:
        torch._C._unset_dispatch_mode(FAKE)
        torch._C._set_only_lift_cpu_tensors(before)


def test_threads_that_leave_modes_in_the_order_in_which_they_entered_them_leave_no_flag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's modes put back what they found, which is what the other thread had set."""

    def program(fakes: Any) -> Any:
        turns = [threading.Event() for _ in range(4)]

        def enter_and_leave(at: int) -> None:
            assert turns[at].wait(60)
            with fakes.FakeTensorMode():
                turns[at + 1].set()
                assert turns[at + 2].wait(60)
                seen.append(torch_modes.is_in_torch_dispatch_mode())
            if at == 0:
                turns[3].set()

        seen: list[bool] = []
        threads = [threading.Thread(target=enter_and_leave, args=(at,)) for at in (0, 1)]
        for thread in threads:
            thread.start()
        turns[0].set()
        for thread in threads:
            thread.join()
        return seen, torch_modes.is_in_torch_dispatch_mode()

    for flag in ("_is_in_torch_dispatch_mode", "_is_in_non_infra_torch_dispatch_mode"):
        monkeypatch.setattr(torch_modes, flag, getattr(torch_modes, flag))
    assert on_ours(program) == ([True, True], False)
    assert on_torch(program) == ([True, False], True)
