"""Subinterpreters are refused, and processes end as they should, children of forks among them, whatever is going on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

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


# How often `fork_while` forks.
FORKS_WHILE = 4

# What the parent does. The child of `fork`, which may be called on any thread, goes on where it was called.
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
    "while another thread installs and uninstalls": """
fork_while(lambda: (fastfake.uninstall(), fastfake.install()))
""",
    "while another thread clears and fills the cache": """
def refill():
    fastfake.FakeTensorMode.cache_clear()
    with fastfake.FakeTensorMode():
        torch.empty(3, 4).cosh().add(1)
fork_while(refill)
""",
    "while another thread compiles": """
def compile():
    torch.compile(lambda x: x.cosh() + len(threads), backend="eager", dynamic=True)(real)
    torch._dynamo.reset()
fastfake.install()
fork_while(compile)
""",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("state", STATES)
def test_the_child_of_a_fork_computes_right_and_exits(state: str) -> None:
    before = """
import os, random, signal, threading, time, torch, fastfake
from torch.utils import _python_dispatch
begun, ended, threads, statuses = threading.Event(), threading.Event(), [], []
real = torch.ones(2, 3)
library = torch.library.Library("exits", "FRAGMENT")
library.define("slow(Tensor x) -> Tensor")
def in_thread(function):
    threads.append(threading.Thread(target=function))
    threads[0].start()
    assert begun.wait(60)
def fork_while(change):
    def repeat():
        change()
        begun.set()
        while not ended.is_set():
            change()
    in_thread(repeat)
    for _ in range(FORKS_WHILE):
        time.sleep(random.random() / 20)
        fork()
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

    forks = FORKS_WHILE if "fork_while(" in STATES[state] else 1
    assert run_program(f"FORKS_WHILE = {FORKS_WHILE}{before}" + STATES[state] + after) == f"{[0] * forks}\n"


# What daemon threads repeat in a mode until the interpreter ends under them.
DAEMONS = {
    "hits": "x.add(1).cosh()",
    "misses": "x.new_empty(next(numbers), 3).add(1)",
    "errors": """
    with contextlib.suppress(RuntimeError):
        x @ x
""",
    "a fake implementation": "torch.ops.exits.registered(x)",
    "backward passes": "torch.empty(2, 4, requires_grad=True).sin().cosh().sum().backward()",
    "conversions": "mode.from_tensor(torch.ones(2, next(numbers) % 99))",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("call", DAEMONS)
def test_daemon_threads_stop_when_the_interpreter_ends(call: str) -> None:
    """Up to CPython 3.13 torch ends the process, with real tensors too: docs/promises.md tells how.

    Kernels written in Python for meta tensors are left out. A thread that is unwound out of one gives back, in torch's
    frame around it, the lock that the main thread has, so that any end is possible.
    """
    # Each child of a fork ends as a program does, without importing torch anew.
    program = f"""
import contextlib, itertools, os, signal, sys, threading, time, torch, fastfake
library = torch.library.Library("exits", "FRAGMENT")
library.define("registered(Tensor x) -> Tensor")
def slow(x):
    for _ in range(200):
        time.sleep(0.001)
    return torch.empty_like(x)
torch.library.register_fake("exits::registered", slow, lib=library)
numbers = itertools.count()
def repeat():
    with fastfake.FakeTensorMode() as mode:
        x = torch.empty(3, 4)
        x.add(1).cosh(), torch.ops.exits.registered(x)
        begun.wait()
        while True:
{textwrap.indent(DAEMONS[call].strip(), " " * 12)}
def warm_up():
    with fastfake.FakeTensorMode() as mode:
        mode.from_tensor(torch.ones(2)).add(1).cosh(), torch.empty(2, requires_grad=True).sin().sum().backward()
warm_up()  # rather than in each child
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        begun = threading.Barrier(4)
        for _ in range(3):
            threading.Thread(target=repeat, daemon=True).start()
        begun.wait()
        time.sleep(0.03)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    statuses = [int(line) for line in run_program(program).splitlines()]
    expected = {0} if sys.version_info >= (3, 14) else {0, -signal.SIGABRT}
    assert len(statuses) == 5 and set(statuses) <= expected, statuses


# Programs, each with the status that it has to end with, and what it has to write.
PROGRAMS: dict[str, tuple[str, int, str]] = {
    "a tracker is on": (
        """
fastfake.FakeTensorMode().__enter__()
tracker = fastfake.memory.track(torch.nn.Linear(2, 3)).__enter__()
kept = [torch.empty(10), torch.nn.Linear(2, 3)(torch.empty(1, 2))]
""",
        0,
        "",
    ),
    "global variables refer to everything": (
        """
from torch.fx.experimental.symbolic_shapes import ShapeEnv
mode = fastfake.FakeTensorMode(shape_env=ShapeEnv())
with mode:
    x = torch.empty(4, requires_grad=True)
    graph = (x * 2).sin().sum()
    known = torch.tensor(3)
symbolic = mode.from_tensor(torch.ones(5, 6))
size, storage, view = symbolic.shape[0] * 2, x.untyped_storage(), x.detach()[1:]
""",
        0,
        "",
    ),
    "reference cycles keep everything": (
        """
import gc
gc.disable()
class Cycle: pass
with fastfake.FakeTensorMode() as mode:
    cycle = Cycle()
    cycle.all = [cycle, mode, torch.empty(3), torch.nn.Linear(2, 3), fastfake.memory.track()]
    cycle.all[2].back = cycle.all[3].back = cycle
del cycle, mode
""",
        0,
        "",
    ),
    "a kernel that C++ keeps refers to fake tensors": (
        """
import ctypes
mode = fastfake.FakeTensorMode()
with mode:
    kept = torch.empty(3, requires_grad=True) * 2
raw = torch._C._dispatch_library("FRAGMENT", "exits_kept", "")
raw.define("f(Tensor x) -> Tensor")
raw.impl("f", "CompositeExplicitAutograd", lambda x, kept=kept, mode=mode: x + kept)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(raw))
""",
        0,
        "",
    ),
    "an object computes as it dies with the module": (
        """
class Computes:
    def __init__(self):
        with fastfake.FakeTensorMode():
            self.x = torch.empty(3, 4)
        self.x.add(1)
    def __del__(self, print=print):
        print(tuple(self.x.add(1).shape))
computes = Computes()
""",
        0,
        "ImportError",  # as of torch's own mode, whose Python modules are gone
    ),
    "handlers use, install and uninstall": (
        """
import atexit
@atexit.register
def last():
    fastfake.uninstall()
    fastfake.install()
    with fastfake.FakeTensorMode() as mode:
        x = torch.empty(2, device="cuda", requires_grad=True)
        x.sin().sum().backward()
        print(x.grad.device, tuple(mode.from_tensor(torch.ones(3)).add(1).shape))
@atexit.register
def first():
    with fastfake.FakeTensorMode():
        print(type(torch.empty(2).sin()).__name__)
    fastfake.uninstall()
""",
        0,
        "FakeTensor\ncuda:0 (3,)\n",
    ),
    "an exception": ("with fastfake.FakeTensorMode():\n    torch.empty(3).view(5)", 1, "RuntimeError"),
    "sys.exit in a mode": ("with fastfake.FakeTensorMode():\n    torch.empty(3)\n    sys.exit(3)", 3, ""),
    "sys.exit in a fake kernel": ("run_kernel(lambda: sys.exit(5))", 5, ""),
    "sys.exit in a hook of a backward pass": (
        """
with fastfake.FakeTensorMode():
    x = torch.empty(3, device="cuda", requires_grad=True)
    x.register_hook(lambda gradient: sys.exit(6))
    x.sum().backward()
""",
        6,
        "",
    ),
    "os._exit in a fake kernel": ("run_kernel(lambda: os._exit(7))", 7, ""),
    "SIGTERM in a fake kernel": ("run_kernel(lambda: os.kill(os.getpid(), signal.SIGTERM))", -signal.SIGTERM, ""),
    "SIGINT in a fake kernel": (
        """
try:
    run_kernel(lambda: os.kill(os.getpid(), signal.SIGINT))
except KeyboardInterrupt:
    print("interrupted")
""",
        0,
        "interrupted\n",
    ),
}


# Those of which another one that is always run is like.
RARER = {
    "global variables refer to everything",
    "reference cycles keep everything",
    "a kernel that C++ keeps refers to fake tensors",
    "an object computes as it dies with the module",
    "sys.exit in a mode",
    "sys.exit in a hook of a backward pass",
    "SIGINT in a fake kernel",
}


@pytest.fixture(scope="module")
def ends(request: pytest.FixtureRequest) -> dict[str, tuple[int, str]]:
    """How each of the programs ended. They are children of one process, so that torch is imported once."""
    here = [item for item in request.session.items if item.getparent(pytest.Module) is request.node]
    parameters = [item.callspec.params for item in here if hasattr(item, "callspec")]
    names = dict.fromkeys(found["program"] for found in parameters if "program" in found)
    program = f"""
import json, os, signal, sys, tempfile, torch, fastfake
import fastfake.memory, torch.fx.experimental.symbolic_shapes
library = torch.library.Library("exits", "FRAGMENT")
library.define("kernel(Tensor x) -> Tensor")
def run_kernel(kernel):
    library.impl("kernel", lambda x: (kernel(), torch.empty_like(x))[1], "Meta")
    with fastfake.FakeTensorMode():
        torch.ops.exits.kernel(torch.empty(2))
with fastfake.FakeTensorMode():  # what each program would import
    (torch.empty(2, device="cuda", requires_grad=True) * 2).sin().sum().backward()
ends = {{}}
for name, program in {[(name, PROGRAMS[name][0]) for name in names]}:
    written = tempfile.TemporaryFile()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
        break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    written.seek(0)
    ends[name] = (status, written.read().decode())
else:
    print(json.dumps(ends))
    sys.exit()
exec(program)
"""
    return {name: (status, written) for name, (status, written) in json.loads(run_program(program)).items()}


@pytest.mark.parametrize(
    "program", [pytest.param(name, marks=[pytest.mark.exhaustive] * (name in RARER)) for name in PROGRAMS]
)
def test_a_program_ends_with_its_status_and_writes_what_is_expected(
    program: str, ends: dict[str, tuple[int, str]]
) -> None:
    _, expected_status, expected = PROGRAMS[program]
    status, written = ends[program]
    assert status == expected_status, written
    if "Traceback" in written:
        written = written.splitlines()[-1].partition(":")[0]
    assert written == expected
