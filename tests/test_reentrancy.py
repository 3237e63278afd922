"""Python code that runs in the middle of a call, and what it does to the cache, the installation and the arguments."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
from forked_process import survives
from torch.utils._python_dispatch import TorchDispatchMode

import fastfake
from fastfake import _C, FakeTensorConfig, FakeTensorMode, cache_entries

aten = torch.ops.aten


def call(x: torch.Tensor) -> list[torch.Tensor]:
    """Operators whose answers are lists, views of an argument and of one another, and writes."""
    pieces = list(x.split(1))
    return [*pieces, *torch._foreach_add([x, pieces[0]], 1.0), x.max(dim=1).values, x.add_(1), x.t(), x.detach()]


def check(results: list[torch.Tensor], x: torch.Tensor) -> None:
    # What runs in the middle may write to its own tensors and to the cache, never to what a call returns.
    shapes = [tuple(result.shape) for result in results]
    assert shapes == [(1, 4)] * 4 + [(4, 4), (1, 4), (4,), (4, 4), (4, 4), (4, 4)]
    assert [result.device.type for result in results] == ["cpu"] * 10
    assert results[7] is x
    for piece in results[:4]:
        assert piece.untyped_storage()._cdata == x.untyped_storage()._cdata


def insert_others() -> None:
    """Enough new entries to make the native table grow, so that it moves what it holds."""
    mode = FakeTensorMode()
    with mode:
        for size in range(50):
            torch.empty(size).sin()


def call_operators() -> None:
    with FakeTensorMode():
        call(torch.empty(4, 4))


def evict_all() -> None:
    for key in list(FakeTensorMode.cache):
        cache_entries.evict_fake_tensor_cache_key(key)


def drop_all_by_the_limit() -> None:
    limit = _C.cache_limit()
    _C.set_cache_limit(0)
    _C.set_cache_limit(limit)


def reinstall() -> None:
    fastfake.uninstall()
    fastfake.install()


def change_settings() -> None:
    with functorch_config.patch(fake_tensor_prefer_device_type="cuda"):
        call_operators()


ACTIONS = [
    call_operators,
    insert_others,
    FakeTensorMode.cache_clear,
    evict_all,
    drop_all_by_the_limit,
    reinstall,
    change_settings,
    gc.collect,
]


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """What the first mode imports is loaded before processes are forked, and is not what is interrupted."""
    repeat(1)


@pytest.fixture(params=ACTIONS, ids=lambda action: action.__qualname__)
def action(request: pytest.FixtureRequest) -> Callable[[], object]:
    """What to do in the middle of a call; nothing in the middle of itself, nor when it was done often enough."""
    fastfake.install()
    left = 3 if request.param is reinstall else 20
    running = False

    def act() -> None:
        nonlocal left, running
        if running or left == 0:
            return
        running = True
        left -= 1
        try:
            request.param()
        finally:
            running = False

    return act


@contextlib.contextmanager
def observed_by(observer: Callable[[torch.Tensor], object]) -> Iterator[None]:
    _C.observe_new_tensors(observer)
    try:
        yield
    finally:
        _C.observe_new_tensors(None)


@contextlib.contextmanager
def collecting_all_the_time() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


class Finalizer:
    """Garbage that does something when it is collected."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.itself = self

    def __del__(self) -> None:
        self.action()


def repeat(calls: int = 20) -> None:
    with FakeTensorMode():
        for _ in range(calls):
            x = torch.empty(4, 4)
            check(call(x), x)


def test_observers_of_new_tensors_may_do_anything(action: Callable[[], object]) -> None:
    def run() -> None:
        repeat(2)
        with observed_by(lambda tensor: action()):
            repeat(4)

    survives(run)


def test_finalizers_may_do_anything(action: Callable[[], object]) -> None:
    def run() -> None:
        repeat(2)
        with collecting_all_the_time(), FakeTensorMode():
            for _ in range(20):
                Finalizer(action)
                x = torch.empty(4, 4)
                check(call(x), x)

    survives(run)


def test_modes_above_may_do_anything(action: Callable[[], object]) -> None:
    class Acts(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
            action()
            result = func(*args, **(kwargs or {}))
            action()
            return result

    def run() -> None:
        with FakeTensorMode(), Acts():
            for _ in range(4):
                x = torch.empty(4, 4)
                check(call(x), x)

    survives(run)


def test_profilers_may_do_anything_before_each_python_function_of_a_miss(action: Callable[[], object]) -> None:
    def run() -> None:
        FakeTensorMode.cache_clear()
        count = 0

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += 1
            if count % 200 == 0:
                sys.setprofile(None)
                action()
                sys.setprofile(profile)

        sys.setprofile(profile)
        try:
            repeat(2)
        finally:
            sys.setprofile(None)

    survives(run)


def test_signal_handlers_may_do_anything(action: Callable[[], object]) -> None:
    def run() -> None:
        signal.signal(signal.SIGVTALRM, lambda number, frame: action())
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
        try:
            repeat(40)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    survives(run)


# Other threads that install and uninstall meanwhile are a matter of the modes that they take away.
@pytest.mark.parametrize("action", [action for action in ACTIONS if action is not reinstall], indirect=True)
def test_other_threads_may_do_anything(action: Callable[[], object]) -> None:
    def run() -> None:
        done = threading.Event()
        errors: list[BaseException] = []

        def meanwhile() -> None:
            try:
                while not done.is_set():
                    action()
                    time.sleep(0)
            except BaseException as error:  # a failing thread must fail the test
                errors.append(error)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        thread = threading.Thread(target=meanwhile)
        thread.start()
        try:
            repeat(40)
        finally:
            done.set()
            thread.join()
            sys.setswitchinterval(interval)
        assert errors == []

    survives(run)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_error_of_an_observer_ends_the_call_and_nothing_else(error: type[BaseException]) -> None:
    def run() -> None:
        repeat(2)
        with FakeTensorMode():
            x = torch.empty(4, 4)
            for failing_at in range(1, 5):
                made = 0

                def observer(tensor: torch.Tensor) -> None:
                    nonlocal made
                    made += 1
                    if made == failing_at:  # noqa: B023
                        raise error("on purpose")

                with observed_by(observer), pytest.raises(error, match="on purpose"):
                    x.split(1)
                assert [piece.shape for piece in x.split(1)] == [(1, 4)] * 4
        repeat(2)

    survives(run)


def test_observers_may_change_the_arguments_of_the_call_that_they_see() -> None:
    def run() -> None:
        with FakeTensorMode():
            for _ in range(2):
                x, other = torch.empty(4, 4), torch.empty(4, 4)
                x.split(1)

            def observer(tensor: torch.Tensor) -> None:
                _C.observe_new_tensors(None)
                x.set_(other)
                gc.collect()
                # Takes the place of the storage that nobody but the key knows now.
                for _ in range(50):
                    torch.empty(4, 4)

            with observed_by(observer):
                pieces = x.split(1)
            assert len({piece.untyped_storage()._cdata for piece in pieces}) == 1
            assert [piece.sin().shape for piece in pieces] == [(1, 4)] * 4

    survives(run)


def test_observers_may_drop_the_mode_and_the_arguments() -> None:
    def run() -> None:
        mode = FakeTensorMode()
        with mode:
            tensors = [torch.empty(4, 4)]
            tensors[0].split(1)
            tensors[0].detach()
        modes = [mode]
        del mode

        def observer(tensor: torch.Tensor) -> None:
            modes.clear()
            tensors.clear()
            tensor.fake_mode = None
            gc.collect()

        for function in (torch.Tensor.detach, lambda tensor: tensor.split(1)[0], lambda tensor: tensor + 1):
            modes.append(FakeTensorMode())
            tensors.append(modes[0].from_tensor(torch.ones(4, 4)))
            with observed_by(observer), contextlib.suppress(Exception):
                function(tensors[0])

    survives(run)


def test_the_observer_may_replace_itself() -> None:
    def run() -> None:
        class Observer:
            def __call__(self, tensor: torch.Tensor) -> None:
                _C.observe_new_tensors(Observer())
                gc.collect()
                assert type(self) is Observer

        with observed_by(Observer()):
            repeat(3)

    survives(run)


def test_the_debug_switch_may_change_in_the_middle() -> None:
    def run() -> None:
        with FakeTensorMode():
            x = torch.empty(4, 4)
            for debug in (True, False, True, False):
                FakeTensorConfig.debug = debug
                x.split(1)

    survives(run)


def test_values_of_settings_may_run_operators_when_they_are_hashed_compared_or_dropped() -> None:
    def run() -> None:
        depth = 0

        class Setting(str):
            __slots__ = ()

            def operate(self) -> None:
                nonlocal depth
                if depth < 3:
                    depth += 1
                    call_operators()
                    depth -= 1

            def __hash__(self) -> int:
                self.operate()
                return super().__hash__()

            def __eq__(self, other: object) -> bool:
                self.operate()
                return super().__eq__(other)

            def __del__(self) -> None:
                self.operate()

        for name in ("cpu", "cuda", "cpu"):
            with functorch_config.patch(fake_tensor_prefer_device_type=Setting(name)), FakeTensorMode():
                devices = [torch.ones(2) + torch.ones(2, device="cuda") for _ in range(2)]
            assert [tensor.device.type for tensor in devices] == [name] * 2
        repeat(2)

    survives(run)


def test_a_setting_that_is_dropped_may_run_operators_under_the_next_one() -> None:
    def run() -> None:
        found: list[str] = []

        class Dropped(str):
            __slots__ = ()

            def __del__(self) -> None:
                with FakeTensorMode():
                    found.append((torch.ones(2) + torch.ones(2, device="cuda")).device.type)

        with FakeTensorMode():
            with functorch_config.patch(fake_tensor_prefer_device_type=Dropped("cuda")):
                torch.ones(2) + torch.ones(2, device="cuda")
            with functorch_config.patch(fake_tensor_prefer_device_type="cpu"):
                gc.collect()
                assert (torch.ones(2) + torch.ones(2, device="cuda")).device.type == "cpu"
        assert set(found) <= {"cpu"}

    survives(run)


def test_the_settings_of_a_shape_env_may_be_a_property_that_does_anything() -> None:
    def run() -> None:
        mode: Any = FakeTensorMode()

        class Env:
            calls = 0

            @property
            def settings(self) -> int:
                Env.calls += 1
                if Env.calls < 4:
                    mode.shape_env = Env()
                    repeat(1)
                    gc.collect()
                return 3

        with contextlib.suppress(Exception):
            mode.shape_env = Env()
        mode.shape_env = None
        repeat(2)

    survives(run)


@pytest.mark.exhaustive
def test_saved_tensor_hooks_may_do_anything() -> None:
    program = """
import torch, fastfake, gc
from fastfake import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

def act(tensor):
    with FakeTensorMode() as other:
        torch.empty(4, 4).sin().split(1)
    FakeTensorMode.cache_clear()
    fastfake.uninstall()
    fastfake.install()
    gc.collect()
    return tensor

with FakeTensorMode():
    for _ in range(3):
        x = torch.empty(4, 4, requires_grad=True)
        x.register_hook(act)
        with saved_tensors_hooks(act, act):
            y = (x.sin() @ x).split(1)
        y[0].register_hook(act)
        sum(piece.sum() for piece in y).backward()
        assert x.grad.shape == (4, 4)
print("survived")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "survived", done.stderr
