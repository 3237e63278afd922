"""Threads, with a mode each or with one mode, compute what one thread computes; torch's own need not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch._subclasses.fake_tensor as fake_tensor
from opinfo.compare import differences
from opinfo.record import CallRecord, record_call
from opinfo.sides import ours, torchs_own
from torch import nn

from fastfake import FakeTensorMode

THREADS = 6


def forward_and_backward() -> list[object]:
    """Misses and hits, views, in-place writes, known values, random operators, errors and a backward pass."""
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))
    results: list[object] = []
    for batch in range(1, 12):
        x = torch.randn(batch, 4)
        out = model(x)
        out.sum().backward()
        x.t().add_(1)
        known = (torch.tensor(batch) + 1).item()
        results += [x, out.detach(), known, torch.tensor([1.0], device="cuda"), x.to("cuda")]
        with pytest.raises(RuntimeError):
            x @ torch.ones(5)
    return [results, list(model.parameters())]


def record(context: Any) -> CallRecord:
    return record_call(forward_and_backward, (), {}, context)


def in_threads(work: Callable[[], object], count: int = THREADS) -> list[Any]:
    """What the threads return, all started at once; an error in one is raised here."""
    start = threading.Barrier(count)

    def run() -> object:
        start.wait()
        return work()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]


@pytest.mark.usefixtures("quiet_fake_tensor_log")
@pytest.mark.parametrize("shared", [False, True], ids=["a mode each", "one mode"])
@pytest.mark.parametrize("cleared", [False, True], ids=["cache kept", "cache cleared meanwhile"])
def test_many_threads_compute_what_one_computes(shared: bool, cleared: bool) -> None:
    with ours():
        FakeTensorMode.cache_clear()
        expected = record(FakeTensorMode())
        FakeTensorMode.cache_clear()
        mode = FakeTensorMode()
        done = threading.Event()

        def clear_often() -> None:
            while not done.wait(0.001):
                FakeTensorMode.cache_clear()

        clearing = threading.Thread(target=clear_often)
        if cleared:
            clearing.start()
        try:
            records = in_threads(lambda: record(mode if shared else FakeTensorMode()))
        finally:
            done.set()
            if cleared:
                clearing.join()
    assert expected.error is None
    for actual in records:
        assert not differences(expected, actual)


def test_the_smallest_cache_serves_many_threads() -> None:
    from fastfake import _C

    with ours():
        expected = record(FakeTensorMode())
        limit = _C.cache_limit()
        _C.set_cache_limit(20_000)
        try:
            records = in_threads(lambda: record(FakeTensorMode()))
        finally:
            _C.set_cache_limit(limit)
    for actual in records:
        assert not differences(expected, actual)


def test_a_graph_made_by_one_thread_is_differentiated_by_another() -> None:
    with ours():
        mode = FakeTensorMode()
        with mode:
            leaves = [torch.ones(3, requires_grad=True) for _ in range(20)]
            losses = [(leaf.sin() * leaf).sum() for leaf in leaves]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda loss: loss.backward(), losses))
        assert all(leaf.grad.shape == (3,) and leaf.grad.fake_mode is mode for leaf in leaves)


def test_threads_that_convert_the_same_tensors_get_the_same_fake_tensors() -> None:
    tensors = [torch.ones(2, size) for size in range(1, 200)]
    views = [tensor[1] for tensor in tensors]
    with ours():
        mode = FakeTensorMode()
        converted = in_threads(lambda: [mode.from_tensor(t) for t in (*tensors, *views)])
    for fakes in converted[1:]:
        assert all(one is other for one, other in zip(converted[0], fakes, strict=True))
    for real, fake in zip((*tensors, *views), converted[0], strict=True):
        assert fake.shape == real.shape
    for base, view in zip(converted[0], converted[0][len(tensors) :], strict=False):
        assert view.untyped_storage()._cdata == base.untyped_storage()._cdata


class Turns:
    """Has two threads run the steps of one script alternately, so that their order is the same each time."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def _event(self, name: str) -> threading.Event:
        return self._events.setdefault(name, threading.Event())

    def reach(self, name: str) -> None:
        self._event(name).set()

    def wait_for(self, name: str) -> None:
        assert self._event(name).wait(60), f"the other thread never reached {name!r}"


def leave_in_the_order_of_entering() -> tuple[list[bool], list[bool]]:
    """Two threads in one mode, of which the first replaced another mode by it and leaves first.

    Returns of each thread whether it is in the replaced mode, in the shared one or in none afterwards.
    """
    outer, shared, turns = fake_tensor.FakeTensorMode(), fake_tensor.FakeTensorMode(), Turns()
    key = torch._C._TorchDispatchModeKey.FAKE

    def active() -> list[bool]:
        now = torch._C._get_dispatch_mode(key)
        return [now is outer, now is shared, now is None]

    def first() -> list[bool]:
        outer.__enter__()
        with shared:
            turns.reach("first entered")
            turns.wait_for("second entered")
        found = active()
        torch._C._unset_dispatch_mode(key)
        turns.reach("first left")
        return found

    def second() -> list[bool]:
        turns.wait_for("first entered")
        with shared:
            turns.reach("second entered")
            turns.wait_for("first left")
        found = active()
        torch._C._unset_dispatch_mode(key)
        return found

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(second)
        return one.result(), other.result()


def test_a_thread_that_leaves_a_shared_mode_undoes_its_own_entry_and_not_anothers() -> None:
    with ours():
        first, second = leave_in_the_order_of_entering()
    assert first == [True, False, False]
    assert second == [False, False, True]


def test_torchs_own_mode_undoes_the_entry_of_another_thread() -> None:
    with torchs_own():
        first, second = leave_in_the_order_of_entering()
    assert first == [False, False, True]
    assert second == [True, False, False]


def device_seen_while_a_kernel_of_the_mode_runs_elsewhere() -> str:
    """The device of a CPU tensor, asked for by one thread while another computes metadata under the same mode."""
    turns = Turns()
    with torch.library._scoped_library("fastfake_threads", "FRAGMENT") as library:
        library.define("slow(Tensor x) -> Tensor")

        def slow(x: torch.Tensor) -> torch.Tensor:
            turns.reach("in the kernel")
            turns.wait_for("device asked for")
            return torch.empty_like(x)

        library.impl("slow", slow, "Meta")
        mode = fake_tensor.FakeTensorMode()
        with mode:
            x, y = torch.ones(2), torch.ones(2)

        def compute() -> torch.Tensor:
            with mode:
                return torch.ops.fastfake_threads.slow(x)

        def ask() -> str:
            turns.wait_for("in the kernel")
            try:
                return str(y.device)
            finally:
                turns.reach("device asked for")

        with ThreadPoolExecutor(2) as pool:
            computed, asked = pool.submit(compute), pool.submit(ask)
            assert computed.result().shape == (2,)
            return asked.result()


def test_a_kernel_in_one_thread_does_not_change_the_device_that_another_sees() -> None:
    with ours():
        assert device_seen_while_a_kernel_of_the_mode_runs_elsewhere() == "cpu"
    with torchs_own():
        assert device_seen_while_a_kernel_of_the_mode_runs_elsewhere() == "meta"


def test_a_thread_starts_without_the_modes_and_overrides_of_the_others() -> None:
    with ours():
        mode = FakeTensorMode()
        with mode:
            assert len(mode.enter_stack) == 1
            assert in_threads(lambda: (list(mode.enter_stack), type(torch.ones(1))), 1) == [([], torch.Tensor)]
        assert mode.enter_stack == []


def test_an_error_in_one_thread_leaves_the_mode_to_the_others() -> None:
    with ours(), nullcontext(FakeTensorMode()) as mode:

        def fails(size: int) -> bool:
            with mode:
                if size % 2:
                    raise KeyError(size)
                return torch.ones(size).add_(1).shape == (size,) and mode.enter_stack[0][0]

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(fails, size) for size in range(40)]
        assert [future.exception() is None for future in futures] == [size % 2 == 0 for size in range(40)]
        assert all(future.result() for future in futures[::2])
        assert in_threads(lambda: list(mode.enter_stack)) == [[]] * THREADS
