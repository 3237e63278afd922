"""What fastfake cannot work with is refused at the import, with one line that tells what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import fastfake

# Gives torch's interpreter another table, as a release of torch with another number of methods would have.
EXCHANGE_TABLE = """
import ctypes, torch
library = ctypes.CDLL(torch._C.__file__.rpartition("/")[0] + "/lib/libtorch_python.so")
library._Z16getPyInterpreterv.restype = ctypes.POINTER(ctypes.c_void_p)
interpreter = library._Z16getPyInterpreterv()
methods = ctypes.cast(interpreter[0], ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
entries = []
while methods[len(entries)]:
    entries.append(methods[len(entries)])
entries += entries[-1:] * {more}
table = (ctypes.c_void_p * (len(entries) + 1))(*entries, None)
object_with_table = (ctypes.c_void_p * 1)(ctypes.addressof(table))
interpreter[0] = ctypes.addressof(object_with_table)
"""

IMPORT = """
try:
    import fastfake
except ImportError as error:
    print(error)
else:
    with fastfake.FakeTensorMode():
        print(torch.empty(2).sin())
"""


def printed(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


RELEASE = fastfake.__version__
BUILT_FOR = fastfake._C.built_for_torch
WORKS = "FakeTensor(..., size=(2,))"


def test_another_minor_version_of_torch_is_refused() -> None:
    expected = f"fastfake {RELEASE} is built for torch 2.13, but torch 2.14.0 is installed"
    assert printed("import torch; torch.__version__ = '2.14.0'" + IMPORT) == expected


@pytest.mark.exhaustive
def test_another_patch_release_works_if_its_interpreter_table_has_as_many_methods() -> None:
    assert torch.__version__.partition("+")[0] == BUILT_FOR
    assert printed("import torch; torch.__version__ = '2.13.99'" + IMPORT) == WORKS


def test_another_patch_release_is_refused_if_its_interpreter_table_has_more_methods() -> None:
    program = EXCHANGE_TABLE.format(more=1) + "torch.__version__ = '2.13.99'" + IMPORT
    expected = (
        f"fastfake {RELEASE} was built with torch {BUILT_FOR}, and torch 2.13.99, which is installed, "
        "differs where fastfake hooks into it: build fastfake again"
    )
    assert printed(program) == expected


def test_a_copy_of_the_table_with_the_same_methods_is_taken() -> None:
    assert printed(EXCHANGE_TABLE.format(more=0) + "torch.__version__ = '2.13.99'" + IMPORT) == WORKS


@pytest.mark.exhaustive
def test_an_interpreter_without_its_global_lock_is_refused() -> None:
    expected = (
        f"fastfake {RELEASE} needs the global interpreter lock, which is off: leave PYTHON_GIL unset, or set it to 1"
    )
    assert printed("import sys, torch; sys._is_gil_enabled = lambda: False" + IMPORT) == expected
    assert printed("import sys, torch; sys._is_gil_enabled = lambda: True" + IMPORT) == WORKS
