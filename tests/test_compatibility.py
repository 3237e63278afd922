"""Under a torch that fastfake has no native code for, one line says so and what to do, and torch's classes stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
try:
    import fastfake
except ImportError as error:
    print(error)
else:
    with fastfake.FakeTensorMode():
        print(torch.empty(2).sin())
    print("installed" if fastfake.is_installed() else "not installed")
"""


def printed(program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


RELEASE = fastfake.__version__
BUILT_FOR = fastfake._C.built_for_torch
MINOR = BUILT_FOR.rpartition(".")[0]
OTHER_PATCH = f"{MINOR}.99"
A_FAKE_TENSOR = "FakeTensor(..., size=(2,))"
REMEDY = (
    "torch's own fake tensors stay in place. Install a fastfake for this torch, or build one: "
    "pip install --no-deps --force-reinstall --no-binary fastfake fastfake"
)


def test_under_a_torch_without_native_code_one_line_says_so_and_torchs_classes_stay() -> None:
    modules = Path(fastfake.__file__).parent.glob("native/torch_*")
    minors = sorted(path.name.removeprefix("torch_").replace("_", ".") for path in modules)
    assert MINOR in minors
    expected = f"fastfake {RELEASE} has no native code for torch 2.99.0, only for {', '.join(minors)}: {REMEDY}"
    assert printed("import torch; torch.__version__ = '2.99.0'" + IMPORT).splitlines() == [
        expected,
        A_FAKE_TENSOR,
        "not installed",
    ]


@pytest.mark.exhaustive
def test_all_that_the_package_offers_is_there_without_native_code() -> None:
    program = """
import torch
torch.__version__ = "2.99.0"
import fastfake, fastfake.shim
fastfake.install()
fastfake.uninstall()
with fastfake.install_temporarily():
    assert not fastfake.is_installed()
fastfake.set_cache_limit(fastfake.cache_limit() // 2)
import torch._subclasses.fake_tensor as torchs
assert fastfake.FakeTensorMode is torchs.FakeTensorMode
print(*fastfake.__all__)
"""
    assert printed(program) == " ".join(fastfake.__all__)


@pytest.mark.exhaustive
def test_a_program_runs_and_the_demo_does_not_without_native_code(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import torch, fastfake.shim\nprint(fastfake.is_installed())")
    program = """
import sys, torch
torch.__version__ = "2.99.0"
from fastfake.__main__ import main
print(main({arguments!r}))
"""
    run = ["run", "--stats", str(tmp_path / "program.py")]
    assert printed(program.format(arguments=run)).splitlines() == ["False", "0"]
    assert printed(program.format(arguments=["demo", "--layers", "1"])) == "2"


@pytest.mark.exhaustive
def test_another_patch_release_works_if_its_interpreter_table_has_as_many_methods() -> None:
    assert torch.__version__.partition("+")[0] == BUILT_FOR
    assert printed(f"import torch; torch.__version__ = '{OTHER_PATCH}'" + IMPORT).splitlines() == [
        f"fastfake {RELEASE} was built with torch {BUILT_FOR} and runs with torch {OTHER_PATCH}: "
        "if it misbehaves, build it for this one",
        A_FAKE_TENSOR,
        "installed",
    ]


def test_under_another_patch_release_whose_interpreter_table_has_more_methods_torchs_classes_stay() -> None:
    program = EXCHANGE_TABLE.format(more=1) + f"torch.__version__ = '{OTHER_PATCH}'" + IMPORT
    expected = (
        f"fastfake {RELEASE} was built with torch {BUILT_FOR}, and torch {OTHER_PATCH}, which is installed, "
        f"differs where fastfake hooks into it: {REMEDY}"
    )
    assert printed(program).splitlines() == [expected, A_FAKE_TENSOR, "not installed"]


@pytest.mark.exhaustive
def test_a_copy_of_the_table_with_the_same_methods_is_taken() -> None:
    program = EXCHANGE_TABLE.format(more=0) + f"torch.__version__ = '{OTHER_PATCH}'" + IMPORT
    assert printed(program).splitlines()[1:] == [A_FAKE_TENSOR, "installed"]


@pytest.mark.exhaustive
def test_an_interpreter_without_its_global_lock_is_refused() -> None:
    expected = (
        f"fastfake {RELEASE} needs the global interpreter lock, which is off: leave PYTHON_GIL unset, or set it to 1"
    )
    assert printed("import sys, torch; sys._is_gil_enabled = lambda: False" + IMPORT) == expected
    assert printed("import sys, torch; sys._is_gil_enabled = lambda: True" + IMPORT) == f"{A_FAKE_TENSOR}\ninstalled"
