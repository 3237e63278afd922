"""Whatever Python does, mode stack, thread-local dispatch state and cache are as they were."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from unittest import mock

import psutil
import pytest
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from fastfake import _C, FakeTensor, FakeTensorMode
from fastfake.miss import meta_kernel

aten = torch.ops.aten


@pytest.fixture
def mode() -> Iterator[FakeTensorMode]:
    FakeTensorMode.cache_clear()
    return FakeTensorMode()


def state() -> tuple[object, ...]:
    """Everything of the thread's dispatch state that a call could leave behind."""
    return (
        tuple(_get_current_dispatch_mode_stack()),
        str(torch._C._dispatch_tls_local_include_set()),
        str(torch._C._dispatch_tls_local_exclude_set()),
        _C.in_kernel_invocation(),
        torch._C._only_lift_cpu_tensors(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


class Interruption(KeyboardInterrupt):
    """A KeyboardInterrupt of our own, so that a real one is not swallowed."""


def test_an_interrupt_inside_a_kernel_leaves_everything_as_it_was(
    mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = state()
    with mode:
        inside = state()
        x = torch.empty(3)
        size = FakeTensorMode.cache_info().size

        def interrupted(*args: object) -> object:
            raise Interruption

        monkeypatch.setattr(meta_kernel, "wrap_results", interrupted)
        with pytest.raises(Interruption):
            x.sin()
        monkeypatch.undo()
        assert state() == inside
        assert FakeTensorMode.cache_info().size == size
        assert x.sin().shape == (3,)
        assert [entry[:3] for entry in mode.enter_stack] == [(True, None, False)]
    assert state() == outside


@pytest.mark.parametrize("error", [Interruption, ValueError, SystemExit, MemoryError])
def test_an_error_in_a_fake_implementation_leaves_everything_as_it_was(
    mode: FakeTensorMode, error: type[BaseException]
) -> None:
    with torch.library._scoped_library("fastfake_robust", "FRAGMENT") as library:
        library.define("fails(Tensor x) -> Tensor")

        @torch.library.register_fake("fastfake_robust::fails", lib=library)
        def fails(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x.sin()
                raise error("on purpose")

        outside = state()
        with mode:
            inside = state()
            x = torch.empty(3)
            for _ in range(2):
                with pytest.raises(error, match="on purpose"):
                    torch.ops.fastfake_robust.fails(x)
                assert state() == inside
            assert (x + 1).shape == (3,)
        assert state() == outside


def test_an_error_in_a_mode_above_leaves_everything_as_it_was(mode: FakeTensorMode) -> None:
    class Fails(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            func(*args, **(kwargs or {}))
            raise Interruption

    with mode:
        x = torch.empty(3)
        inside = state()
        with pytest.raises(Interruption), Fails():
            x.sin()
        assert state() == inside


def test_an_error_in_an_autograd_hook_leaves_everything_as_it_was(mode: FakeTensorMode) -> None:
    def fails(grad: torch.Tensor) -> None:
        raise Interruption

    with mode:
        x = torch.empty(3, requires_grad=True)
        y = x.sin()
        y.register_hook(fails)
        inside = state()
        with pytest.raises(Interruption):
            (y * 2).sum().backward()
        assert state() == inside
        x.cos().sum().backward()
        assert x.grad.shape == (3,)


def test_an_error_while_entering_a_block_leaves_no_mode_behind(mode: FakeTensorMode) -> None:
    outside = state()
    other = FakeTensorMode()
    with pytest.raises(Interruption), mode, other, mode:
        torch.empty(3).sin()
        raise Interruption
    assert state() == outside
    assert mode.enter_stack == other.enter_stack == []


def test_a_mode_of_a_user_outlasts_a_fake_mode_inside_it(mode: FakeTensorMode) -> None:
    class Forwards(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    outside = state()
    with Forwards() as forwards:
        with mode:
            assert _get_current_dispatch_mode_stack() == [mode, forwards]
        assert _get_current_dispatch_mode_stack() == [forwards]
    assert state() == outside


def test_a_signal_interrupts_a_loop_of_hits_and_the_mode_still_works() -> None:
    program = """
import os, signal, threading, torch, fastfake
# A process begun in the background ignores interrupts unless it says otherwise.
signal.signal(signal.SIGINT, signal.default_int_handler)
mode = fastfake.FakeTensorMode()
with mode:
    x = torch.empty(3)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        while True:
            x = x.sin() + 1
    except KeyboardInterrupt:
        pass
    assert torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is mode
    print((x + x).shape)
assert torch._C._len_torch_dispatch_stack() == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "torch.Size([3])", done.stderr


def test_bad_arguments_get_an_error_and_no_harm(mode: FakeTensorMode) -> None:
    with mode:
        x = torch.empty(3)
        inside = state()
        bad: list[Callable[[], object]] = [
            lambda: x.view(7),
            lambda: torch.ops.aten.add.Tensor(x, "text"),
            lambda: torch.cat([x, torch.empty(2, 2)]),
            lambda: x.transpose(0, 5),
            lambda: torch.empty(-1),
            lambda: x.to("nonsense"),
        ]
        for call in bad:
            with pytest.raises((RuntimeError, IndexError, TypeError)):
                call()
            assert state() == inside


def test_incomplete_and_spoilt_fake_tensors_do_no_harm(mode: FakeTensorMode) -> None:
    hollow = torch.Tensor._make_subclass(FakeTensor, torch.empty(3, device="meta"))
    with mode:
        spoilt_device, spoilt_constant, spoilt_mode = torch.empty(3), torch.empty(3), torch.empty(3)
        spoilt_device._fake_device = "not a device"
        spoilt_constant.constant = object()
        spoilt_mode.fake_mode = "not a mode"
        x = torch.empty(3)
        inside = state()
        for broken in (hollow, spoilt_device, spoilt_constant, spoilt_mode):
            for call in (
                lambda t=broken: t + x,
                lambda t=broken: t.device,
                lambda t=broken: t.detach(),
                lambda t=broken: repr(t),
                lambda t=broken: t.nonzero_memo,
                lambda t=broken: torch.cat([x, t]),
            ):
                # Some of this works and some does not. What counts is that it ends, and what it leaves.
                with contextlib.suppress(AttributeError, AssertionError, RuntimeError, TypeError):
                    call()
                assert state() == inside
                assert (x + 1).shape == (3,)
        with pytest.raises((AttributeError, AssertionError, RuntimeError)):
            hollow + x


@pytest.mark.parametrize("field", ["fake_mode", "_fake_device"])
def test_gradients_of_what_lost_a_field_are_errors_where_torchs_fake_tensor_takes_the_process_down(
    field: str, mode: FakeTensorMode
) -> None:
    with mode:
        spoilt = torch.empty(3, requires_grad=True)
        delattr(spoilt, field)
        inside = state()
        for call in (lambda: spoilt + 1, lambda: torch.empty(3) + spoilt, spoilt.sum, spoilt.t, spoilt.detach):
            with pytest.raises((AttributeError, AssertionError)):
                call()
            assert state() == inside
    program = f"""
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    spoilt = torch.empty(3, requires_grad=True)
    del spoilt.{field}
    spoilt + 1
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert done.returncode < 0


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def test_dropped_tensors_return_their_memory(mode: FakeTensorMode) -> None:
    with mode:
        x = torch.empty(64, 64, requires_grad=True)

        def forward_and_backward(count: int) -> None:
            for _ in range(count):
                (x.view(-1).sin() * 2).sum().backward()
                x.grad = None

        forward_and_backward(500)
        before = resident_bytes()
        forward_and_backward(5_000)
        assert resident_bytes() - before < 2 << 20


def test_tensors_may_outlive_their_mode_and_the_installation() -> None:
    program = """
import gc, torch, fastfake
with fastfake.FakeTensorMode():
    x = torch.empty(3, requires_grad=True)
    y = (x * 2).sum()
gc.collect()
y.backward()
assert x.grad.shape == (3,)
fastfake.uninstall()
assert (x + 1).device.type == "cpu" and x.detach().shape == (3,)
keep = [x, y]
import atexit
atexit.register(lambda: print(keep[0].device, (keep[0] + 1).shape))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "cpu torch.Size([3])"


def test_threads_with_a_mode_each_and_with_one_shared_mode_agree() -> None:
    def program() -> list[tuple[object, ...]]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
        shapes: list[tuple[object, ...]] = []
        for batch in range(1, 30):
            out = model(torch.empty(batch, 4))
            out.sum().backward()
            shapes.append((out.shape, out.device, model[0].weight.grad.shape, model[0].weight.grad.device))
        return shapes

    with FakeTensorMode():
        expected = program()
    shared = FakeTensorMode()
    for make in (FakeTensorMode, lambda: shared):
        FakeTensorMode.cache_clear()
        results: list[object] = []

        def run(make: Callable[[], FakeTensorMode] = make, results: list[object] = results) -> None:
            try:
                with make():
                    results.append(program())
            except BaseException as error:  # a failing thread must fail the test
                results.append(error)

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [expected] * 6


def test_a_forked_process_goes_on_with_the_mode(mode: FakeTensorMode) -> None:
    with mode:
        x = torch.empty(3)
        x.sin()
        child = os.fork()
        if child == 0:
            os._exit(0 if x.sin().shape == (3,) and x.cos().shape == (3,) else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert signal.getsignal(signal.SIGINT) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [("allow_non_fake_inputs", True), ("cache_enabled", False), ("epoch", 3), ("shape_env", ShapeEnv())],
)
def test_attributes_of_a_mode_are_patched_for_a_while_as_torch_does(name: str, value: object) -> None:
    mode = FakeTensorMode()
    before = getattr(mode, name)
    with mock.patch.object(mode, name, value):
        assert getattr(mode, name) is value
    assert getattr(mode, name) is before


def test_results_are_on_the_storage_that_the_argument_had_at_the_call(
    mode: FakeTensorMode, observe: Callable[[Callable[[torch.Tensor], object]], None]
) -> None:
    with mode:
        torch.empty(8, 8).split(1)
        x, other = torch.empty(8, 8), torch.empty(8, 8)
        strangers: list[torch.Tensor] = []

        def give_up_the_storage(first: torch.Tensor) -> None:
            with no_dispatch():
                first.set_(other)
                x.set_(other)
            # If the storage was freed, one of these gets its memory.
            strangers.extend(torch.empty(5) for _ in range(64))

        observe(give_up_the_storage)
        hits = FakeTensorMode.cache_info().hits
        pieces = x.split(1)[1:]
        assert FakeTensorMode.cache_info().hits > hits
        storages = {piece.untyped_storage()._cdata for piece in pieces}
        assert len(storages) == 1
        assert storages.isdisjoint(t.untyped_storage()._cdata for t in [other, *strangers])
        assert pieces[0].untyped_storage().nbytes() == 256


def test_an_operator_that_gives_its_argument_another_storage_is_computed_each_time(mode: FakeTensorMode) -> None:
    library = torch.library.Library("aten", "FRAGMENT")
    library.define("fastfake_swaps(Tensor(a!) x) -> Tensor(a!)")

    def swap(x: torch.Tensor) -> torch.Tensor:
        x.set_(torch.empty_like(x))
        return x.view(-1)

    library.impl("fastfake_swaps", swap, "Meta")
    try:
        with mode:
            for _ in range(3):
                x = torch.empty(2, 3)
                before = x.untyped_storage()._cdata
                view = torch.ops.aten.fastfake_swaps(x)
                assert x.untyped_storage()._cdata == view.untyped_storage()._cdata != before
        assert FakeTensorMode.cache_info().bypasses["arguments changed"] == 3
    finally:
        library._destroy()


@pytest.mark.parametrize("call", [lambda x: [x.sin()], lambda x: x.split(1)], ids=["one result", "several results"])
def test_a_mode_lives_as_long_as_a_call_that_is_answered_for_it(
    mode: FakeTensorMode,
    observe: Callable[[Callable[[torch.Tensor], object]], None],
    call: Callable[[torch.Tensor], list[torch.Tensor]],
) -> None:
    with mode:
        call(torch.empty(8, 8))
        x = torch.empty(8, 8)
    used = FakeTensorMode()
    x.fake_mode = used
    last_reference = weakref.ref(used)
    del used

    def take_the_mode_away(first: torch.Tensor) -> None:
        first.fake_mode = x.fake_mode = mode
        gc.collect()
        alive.append(last_reference() is not None)

    alive: list[bool] = []
    observe(take_the_mode_away)
    call(x)
    assert alive == [True]


def test_a_mode_lives_as_long_as_a_tensor_of_it_is_detached(mode: FakeTensorMode) -> None:
    with mode:
        x = torch.empty(3, requires_grad=True)
    used = FakeTensorMode()
    x.fake_mode = used
    last_reference = weakref.ref(used)

    class TakesTheModeWhenCollected:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            x.fake_mode = mode

    del used
    gc.collect()
    threshold = gc.get_threshold()
    gc.disable()
    TakesTheModeWhenCollected()
    gc.set_threshold(1)
    try:
        gc.enable()
        alias = x.data  # the collector runs inside, before CPython 3.12
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
    assert alias.fake_mode is last_reference()


def test_apply_is_refused_where_torchs_fake_tensor_takes_the_process_down(mode: FakeTensorMode) -> None:
    with mode:
        tensor = torch.ones(3, 4)
    for context in (contextlib.nullcontext(), mode):
        with context, pytest.raises(RuntimeError, match="apply_ is not supported for tensor subclasses"):
            tensor.apply_(lambda value: value)
    program = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    torch.ones(3, 4).apply_(lambda value: value)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert done.returncode < 0
