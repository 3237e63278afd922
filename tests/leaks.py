"""Runs tests, and tells what nothing leads to any more after them: ``python -m leaks PYTEST_ARGUMENT...``.

For a process that has LeakSanitizer, see ``scripts/sanitize --leaks``. It is asked while the interpreter lives: at the
interpreter's end, what is still in use loses the objects that led to it, and torch and numpy free nothing then.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections import Counter
from types import FrameType
from typing import NoReturn

LEAKED = 23  # the exit code of LeakSanitizer itself

# Where a frame object points to the frame since CPython 3.11, and the words of a frame before its variables, or more.
_PLACE = 3 * ctypes.sizeof(ctypes.c_void_p)
_HEADER = 16

# By inverted address of the object: a dictionary keeps the hashes of its keys, and that of an address would count as a
# pointer.
_types: dict[int, str] = {}
_report = os.memfd_create("report")


def end(status: int = 0) -> NoReturn:
    """End this process, with the code `LEAKED` if there are leaks and the given one is 0."""
    _show_variables()
    gc.collect()
    gc.disable()
    _forget_containers()
    sys.stdout.flush()
    if _ask():
        print(_told(_what_was_said().decode()), file=sys.stderr)
        status = status or LEAKED
    sys.stderr.flush()
    # Without the garbage collector's lists the interpreter cannot end in order.
    os._exit(status)


def _show_variables() -> None:
    """Make known where Python keeps the variables of running functions, a place that malloc knows nothing of."""
    register = ctypes.CDLL(None).__lsan_register_root_region
    register.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    for frame in sys._current_frames().values():
        each: FrameType | None = frame
        while each is not None:
            code = each.f_code
            words = code.co_nlocals + len(code.co_cellvars) + len(code.co_freevars) + code.co_stacksize
            register(
                ctypes.c_void_p.from_address(id(each) + _PLACE), (words + _HEADER) * ctypes.sizeof(ctypes.c_void_p)
            )
            each = each.f_back


def _forget_containers() -> None:
    """Take all objects from the garbage collector's lists, which lead to each of them, the lost ones too."""
    objects = gc.get_objects()
    for each in objects:
        _types[~id(each)] = f"{type(each).__module__}.{type(each).__qualname__}"
    untrack = ctypes.pythonapi.PyObject_GC_UnTrack
    # By addresses: ctypes would look at the objects, some of which warn of that.
    untrack.argtypes = [ctypes.c_void_p]
    for inverted in _types:
        untrack(~inverted)


def _ask() -> bool:
    sanitizer = ctypes.CDLL(None)
    before = os.dup(2)

    # Where it cannot stop the threads of this process, as when a debugger has them, LeakSanitizer says so and ends it.
    @ctypes.CFUNCTYPE(None)
    def tell_why() -> None:
        os.write(before, _what_was_said())

    sanitizer.__sanitizer_set_death_callback(tell_why)
    os.dup2(_report, 2)
    found = sanitizer.__lsan_do_recoverable_leak_check()
    os.dup2(before, 2)
    return bool(found)


def _what_was_said() -> bytes:
    return os.pread(_report, os.fstat(_report).st_size, 0)


def _told(report: str) -> str:
    """The report with the types of what leaked instead of the addresses."""

    def types(addresses: re.Match[str]) -> str:
        blocks = [int(address, 16) for address in re.findall(r"^0x\w+", addresses[0], re.MULTILINE)]
        counted = Counter(_type_in(block) for block in blocks)
        return "".join(f"    {count} x {name}\n" for name, count in counted.most_common(10))

    return re.sub(r"^Objects leaked above:\n(0x\w+ .*\n)+", types, report, flags=re.MULTILINE)


def _type_in(block: int) -> str:
    # Before an object are what the garbage collector keeps of it, and where its attributes and weak references are.
    return _types.get(~(block + 16)) or _types.get(~(block + 32)) or "block that is no container of Python"


if __name__ == "__main__":
    import pytest

    end(pytest.main(sys.argv[1:]))
