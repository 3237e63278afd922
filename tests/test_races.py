"""ThreadSanitizer notices races, in a process that scripts/sanitize-threads starts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "__tsan_init"),
    reason="ThreadSanitizer is in processes that scripts/sanitize-threads starts",
)

# ctypes lets the GIL go while it calls C.
PROGRAM = """
import ctypes, threading
{lock}
memory = ctypes.create_string_buffer(1 << 16)
fill = ctypes.CDLL(None).memset
def write():
    for _ in range(1000):
        {call}(memory, 1, len(memory))
threads = [threading.Thread(target=write) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
GUARDED = """
lock = threading.Lock()
def locked(*args):
    with lock:
        fill(*args)
"""


def report(tmp_path: Path, lock: str, call: str) -> tuple[int, str]:
    options = f"{os.environ.get('TSAN_OPTIONS', '')}:log_path={tmp_path}/report"
    program = PROGRAM.format(lock=lock, call=call)
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | {"TSAN_OPTIONS": options}, check=False)
    return done.returncode, "".join(each.read_text() for each in tmp_path.glob("report.*"))


def test_two_threads_that_write_the_same_memory_without_the_gil_are_told(tmp_path: Path) -> None:
    code, told = report(tmp_path, "", "fill")
    assert code == 66
    assert "data race" in told


def test_a_lock_of_python_keeps_threads_apart(tmp_path: Path) -> None:
    assert report(tmp_path, GUARDED, "locked") == (0, "")


def test_the_gil_keeps_threads_apart(tmp_path: Path) -> None:
    """`PyDLL` keeps the GIL, which ThreadSanitizer sees to be handed over."""
    assert report(tmp_path, "fill_with_gil = ctypes.PyDLL(None).memset", "fill_with_gil") == (0, "")
