"""Subinterpreters are refused, and the child of a fork computes right and exits, whatever was going on."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run_program(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_subinterpreter_is_refused_before_torch_is_imported() -> None:
    program = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
script = '''
import sys
try:
    import fastfake
except ImportError as error:
    print(error, "torch" in sys.modules, flush=True)
'''
interpreters.run_string(interpreters.create(), script)
"""
    refusal = "fastfake works in the main interpreter only: torch does not support subinterpreters"
    assert run_program(program) == f"{refusal} False\n"


# What the parent does; `fork` is to be called once, on any thread, and its child goes on where it was called.
STATES = {
    "with a mode entered": """
with fastfake.FakeTensorMode():
    fork()
""",
    "another thread in a mode": """
def enter():
    with fastfake.FakeTensorMode():
        begun.set()
        ended.wait()
in_thread(enter)
fork()
""",
    "inside of a fake kernel": """
with fastfake.FakeTensorMode():
    torch.library.register_fake("exits::slow", lambda x: (fork(), torch.empty_like(x))[1], lib=library)
    torch.ops.exits.slow(torch.empty(2))
""",
    "while another thread is inside of a fake kernel": """
def slow(x):
    begun.set()
    ended.wait()
    return torch.empty_like(x)
library.impl("slow", slow, "Meta")
def compute():
    with fastfake.FakeTensorMode():
        torch.ops.exits.slow(torch.empty(2))
in_thread(compute)
fork()
""",
    "while another thread holds the lock of conversions": """
from fastfake import conversion_lock
def hold():
    with conversion_lock.held():
        begun.set()
        ended.wait()
in_thread(hold)
fork()
""",
    "while a tracker is on": """
with fastfake.FakeTensorMode(), fastfake.memory.track() as tracker:
    kept = torch.empty(10)
    fork()
""",
    "in a hook of a backward pass": """
with fastfake.FakeTensorMode():
    x = torch.empty(2, device="cuda", requires_grad=True)
    x.register_hook(lambda gradient: fork())
    x.sum().backward()
""",
    "while another thread goes backward": """
def backward():
    with fastfake.FakeTensorMode():
        x = torch.empty(2, device="cuda", requires_grad=True)
        x.register_hook(lambda gradient: (begun.set(), ended.wait())[:0] or None)
        x.sum().backward()
in_thread(backward)
fork()
""",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("state", STATES)
def test_the_child_of_a_fork_computes_right_and_exits(state: str) -> None:
    before = """
import os, signal, threading, torch, fastfake
from torch.utils import _python_dispatch
begun, ended, threads, statuses = threading.Event(), threading.Event(), [], []
real = torch.ones(2, 3)
library = torch.library.Library("exits", "FRAGMENT")
library.define("slow(Tensor x) -> Tensor")
def in_thread(function):
    threads.append(threading.Thread(target=function))
    threads[0].start()
    assert begun.wait(60)
def fork():
    is_in_mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
    child = os.fork()
    if child != 0:
        statuses.append(os.waitpid(child, 0)[1])
        return
    signal.alarm(60)
    try:
        assert is_in_mode or not threads or not _python_dispatch.is_in_torch_dispatch_mode()
        mode = fastfake.FakeTensorMode()
        fake = mode.from_tensor(real)
        with mode:
            results = torch.split(torch.mm(fake, torch.empty(3, 7)).cosh(), 3, dim=1)
        assert [tuple(result.shape) for result in results] == [(2, 3), (2, 3), (2, 1)]
        fastfake.FakeTensorMode.cache_clear()
        fastfake.uninstall()
        fastfake.install()
        with mode:
            assert (fake + 1).fake_mode is mode
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""
    after = """
ended.set()
for thread in threads:
    thread.join()
print(statuses)
"""
    assert run_program(before + STATES[state] + after) == "[0]\n"
