"""LeakSanitizer notices fake tensors and modes that are lost."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "__lsan_do_recoverable_leak_check"),
    reason="LeakSanitizer is in processes that scripts/sanitize starts",
)

PROGRAM = """
import ctypes, leaks, torch
from fastfake import FakeTensorMode

def lose(thing):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))

def use():
    with FakeTensorMode() as mode:
        x = torch.empty(3) + 1
        {statement}

for _ in range(20):
    use()
{last}
leaks.end()
"""


def report(statement: str, last: str = "") -> tuple[int, str]:
    options = f"{os.environ.get('ASAN_OPTIONS', '')}:detect_leaks=1:leak_check_at_exit=0"
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement, last=last)],
        env={**os.environ, "ASAN_OPTIONS": options, "LSAN_OPTIONS": "report_objects=1"},
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    return ended.returncode, ended.stderr


def test_calls_and_modes_lose_nothing() -> None:
    assert report("pass") == (0, "")


def test_a_lost_tensor_is_told_with_its_type_and_the_native_code_that_allocated_it() -> None:
    code, told = report("lose(x)")
    assert code == 23
    assert "fastfake.fake_tensor.FakeTensor\n" in told
    assert "/csrc/" in told


def test_a_lost_mode_is_told() -> None:
    code, told = report("lose(mode)")
    assert code == 23
    assert "fastfake.fake_mode.FakeTensorMode\n" in told


# A child follows this process as a debugger does, so that LeakSanitizer cannot.
FOLLOWED = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
until_parent_ends, ends = os.pipe()
following, follows = os.pipe()
if os.fork() == 0:
    os.close(ends)
    followed = libc.ptrace(0x4206, os.getppid(), None, None)  # PTRACE_SEIZE
    os.write(follows, str(followed).encode())
    os.read(until_parent_ends, 1)
    os._exit(0)
assert os.read(following, 2) == b"0"
"""


def test_where_threads_cannot_be_stopped_it_is_told() -> None:
    code, told = report("pass", FOLLOWED)
    assert code not in {0, 23}
    assert "LeakSanitizer has encountered a fatal error" in told
