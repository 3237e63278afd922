"""Modes work whatever was installed or uninstalled since they were made, in threads, children and exit handlers too."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import pytest
import torch
import torch._subclasses.fake_tensor as torch_fake_tensor

import fastfake
from fastfake import in_use

pytestmark = pytest.mark.usefixtures("uninstalled")


def run_program(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def outliving_mode() -> fastfake.FakeTensorMode:
    with fastfake.install_temporarily():
        mode = fastfake.FakeTensorMode(allow_non_fake_inputs=True)
    assert not fastfake.is_installed()
    return mode


def enter_and(make: Callable[[], torch.Tensor]) -> Callable[[fastfake.FakeTensorMode], torch.Tensor]:
    def use(mode: fastfake.FakeTensorMode) -> torch.Tensor:
        with mode:
            return make()

    return use


USES: dict[str, Callable[[fastfake.FakeTensorMode], torch.Tensor]] = {
    "a factory": enter_and(lambda: torch.empty(2, 3)),
    "a known value": enter_and(lambda: torch.tensor(3)),
    "a real tensor": enter_and(lambda: torch.add(torch.ones(2), 1)),
    "a module": enter_and(lambda: torch.nn.Linear(2, 3)(torch.empty(1, 2))),
    "a conversion": lambda mode: mode.from_tensor(torch.ones(2)),
}


@pytest.mark.parametrize("use", USES)
def test_a_mode_that_outlives_the_installation_installs_again_when_it_is_used(use: str) -> None:
    mode = outliving_mode()
    made = USES[use](mode)
    assert type(made) is fastfake.FakeTensor and made.fake_mode is mode
    assert fastfake.is_installed()
    assert isinstance(made, torch_fake_tensor.FakeTensor)


def test_a_fake_tensor_that_outlives_the_installation_installs_again_when_it_is_used() -> None:
    with fastfake.install_temporarily(), fastfake.FakeTensorMode():
        x = torch.empty(2, requires_grad=True)
    fastfake.FakeTensorMode.cache_clear()
    y = (x.sinh() * 2).sum()
    assert type(y) is fastfake.FakeTensor and fastfake.is_installed()


def test_uninstalling_under_a_mode_lasts_until_the_next_call() -> None:
    fastfake.FakeTensorMode.cache_clear()
    with fastfake.FakeTensorMode() as mode:
        fastfake.uninstall()
        assert not fastfake.is_installed()
        assert torch.tensor(3).add(1).fake_mode is mode
        fastfake.uninstall()
        assert torch.empty(5).cosh().fake_mode is mode
    assert fastfake.is_installed()


def test_a_mode_of_ours_says_why_it_does_not_work_where_installing_is_forbidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mode = outliving_mode()
    monkeypatch.setenv("FASTFAKE_DISABLE", "1")
    for use in USES.values():
        with pytest.raises(RuntimeError, match="FASTFAKE_DISABLE, which was set"):
            use(mode)
    with pytest.raises(RuntimeError, match="FASTFAKE_DISABLE, which was set"):
        fastfake.FakeTensorMode()
    assert torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is None


@pytest.mark.exhaustive
def test_threads_use_modes_while_another_installs_and_uninstalls() -> None:
    shared = fastfake.FakeTensorMode(allow_non_fake_inputs=True)
    done = threading.Event()

    def use_modes(own: bool) -> int:
        mode = fastfake.FakeTensorMode(allow_non_fake_inputs=True) if own else shared
        mode.cache_enabled = False
        uses = 0
        while not done.is_set():
            for use in USES.values():
                made = use(mode)
                assert type(made) is fastfake.FakeTensor and made.fake_mode is mode
                assert (made + 1).shape == made.shape
                uses += 1
        return uses

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use_modes, number % 2 == 0) for number in range(4)]
        try:
            for _ in range(25):
                fastfake.uninstall()
                fastfake.install()
        finally:
            done.set()
        assert all(user.result() for user in users)


def test_uninstalling_waits_for_what_another_thread_computes() -> None:
    computing, may_end = threading.Event(), threading.Event()
    with torch.library._scoped_library("fastfake_in_use", "FRAGMENT") as library:
        library.define("slow(Tensor x) -> Tensor")

        def slow(x: torch.Tensor) -> torch.Tensor:
            computing.set()
            assert may_end.wait(60)
            return torch.empty_like(x)

        library.impl("slow", slow, "Meta")
        mode = fastfake.FakeTensorMode()

        def compute() -> torch.Tensor:
            with mode:
                return torch.ops.fastfake_in_use.slow(torch.empty(2))

        with ThreadPoolExecutor(2) as pool:
            computed = pool.submit(compute)
            assert computing.wait(60)
            uninstalled = pool.submit(fastfake.uninstall)
            with pytest.raises(TimeoutError):
                uninstalled.result(timeout=0.1)
            may_end.set()
            assert computed.result().fake_mode is mode
            uninstalled.result(timeout=60)
    assert not fastfake.is_installed()


def test_a_fake_tensor_that_outlives_the_installation_can_be_printed() -> None:
    with fastfake.install_temporarily(), fastfake.FakeTensorMode():
        x = torch.empty(2, 3)
    assert not fastfake.is_installed()
    assert repr(x) == "FakeTensor(..., size=(2, 3))"
    assert fastfake.is_installed()


def test_uninstalling_lets_a_thread_that_computes_make_calls_inside() -> None:
    fastfake.install()
    mode = fastfake.FakeTensorMode(allow_non_fake_inputs=True)
    waits, ended = threading.Event(), threading.Event()

    @in_use.computes
    def compute() -> None:
        in_use.begin()
        waits.set()
        while not in_use._is_closing:
            time.sleep(0.001)
        mode.from_tensor(torch.ones(2))
        ended.set()

    with ThreadPoolExecutor(1) as pool:
        computed = pool.submit(compute)
        assert waits.wait(60)
        fastfake.uninstall()
        assert ended.is_set()
        computed.result()
    assert not fastfake.is_installed()


def test_who_is_interrupted_while_uninstalling_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    fastfake.install()
    may_end, begun = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        computed = pool.submit(compute_until, may_end, begun)
        assert begun.wait(60)
        with monkeypatch.context() as patch:
            patch.setattr(in_use.time, "sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                fastfake.uninstall()
        may_end.set()
        computed.result()
        assert pool.submit(use_factory).result(timeout=60).shape == (2,)


def use_factory() -> torch.Tensor:
    with fastfake.FakeTensorMode():
        return torch.empty(2)


@in_use.computes
def compute_until(may_end: threading.Event, begun: threading.Event) -> None:
    in_use.begin()
    begun.set()
    assert may_end.wait(60)


def test_uninstalling_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_use, "_PATIENCE_IN_SECONDS", 0.05)
    fastfake.install()
    with ThreadPoolExecutor(1) as pool:
        may_end, begun = threading.Event(), threading.Event()
        computed = pool.submit(compute_until, may_end, begun)
        assert begun.wait(60)
        fastfake.uninstall()
        assert not fastfake.is_installed()
        may_end.set()
        computed.result()


def test_a_child_forked_while_another_thread_installs_makes_fake_tensors() -> None:
    program = """
import os, signal, threading, time, torch, fastfake
from fastfake import rebinding
begun, everywhere = threading.Event(), rebinding.everywhere
def slowly(*arguments):
    begun.set()
    time.sleep(0.3)
    return everywhere(*arguments)
rebinding.everywhere = slowly
installing = threading.Thread(target=fastfake.install)
installing.start()
begun.wait()
if os.fork() == 0:
    signal.alarm(60)  # ends a child that waits for ever
    with fastfake.FakeTensorMode():
        made = torch.tensor(3) + 1
    os._exit(0 if type(made) is fastfake.FakeTensor else 1)
print(os.wait()[1])
installing.join()
"""
    assert run_program(program) == "0\n"


@pytest.mark.exhaustive
def test_a_child_forked_while_another_thread_computes_uninstalls_at_once() -> None:
    program = """
import os, threading, time, torch, fastfake
from fastfake import in_use
begun, ended = threading.Event(), threading.Event()
@in_use.computes
def compute():
    in_use.begin()
    begun.set()
    ended.wait()
thread = threading.Thread(target=compute)
thread.start()
begun.wait()
if os.fork() == 0:
    start = time.monotonic()
    fastfake.uninstall()
    os._exit(0 if time.monotonic() - start < 5 else 1)
print(os.wait()[1])
ended.set()
"""
    assert run_program(program) == "0\n"


@pytest.mark.exhaustive
def test_a_child_forked_by_a_thread_that_is_interrupted_meanwhile_uses_modes() -> None:
    program = """
import os, signal, sys, threading, time, torch, fastfake
from fastfake import in_use
sys.unraisablehook = lambda unraisable: print(type(unraisable.exc_value).__name__)
def interrupt(number, frame):
    raise InterruptedError
signal.signal(signal.SIGALRM, interrupt)
holds, may_end = threading.Event(), threading.Event()
def hold():
    with in_use.changing:
        holds.set()
        may_end.wait()
thread = threading.Thread(target=hold)
thread.start()
holds.wait()
signal.setitimer(signal.ITIMER_REAL, 0.2)
child = os.fork()
if child == 0:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)  # ends a child that waits for ever
    with fastfake.FakeTensorMode():
        made = torch.empty(3) + 1
    os._exit(0 if type(made) is fastfake.FakeTensor else 1)
print(os.waitpid(child, 0)[1], flush=True)
may_end.set()
"""
    assert run_program(program) == "InterruptedError\n0\n"


@pytest.mark.exhaustive
def test_exit_handlers_that_run_after_ours_use_modes_without_installing_twice() -> None:
    program = """
import atexit
def use_modes():
    references = len(installation._undos)
    for each in (mode, fastfake.FakeTensorMode()):
        with each:
            print(type(torch.empty(2).sin()).__module__, type(torch.tensor(1)).__module__)
    print(len(installation._undos) == references, fastfake.is_installed())
    fastfake.uninstall()
    print(len(installation._undos), fastfake.is_installed(), torch_fake_tensor.FakeTensor.__module__)
atexit.register(use_modes)
import torch, torch._subclasses.fake_tensor as torch_fake_tensor
import fastfake
from fastfake import installation
mode = fastfake.FakeTensorMode()
"""
    ours = "fastfake.fake_tensor fastfake.fake_tensor\n"
    assert run_program(program) == ours * 2 + "True True\n0 False torch._subclasses.fake_tensor\n"


@pytest.mark.exhaustive
def test_the_first_mode_of_a_late_exit_handler_works() -> None:
    program = """
import atexit
def use_mode():
    with fastfake.FakeTensorMode():
        print(type(torch.empty(2).sin()).__module__)
atexit.register(use_mode)
# Torch cannot be imported further in an exit handler.
import torch, torch._dynamo, fastfake
"""
    assert run_program(program) == "fastfake.fake_tensor\n"
