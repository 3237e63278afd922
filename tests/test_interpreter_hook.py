"""The hook shares the interpreter's table with the hooks of others."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._subclasses.fake_tensor as torch_fake_tensor

import fastfake
from fastfake import _C

_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_python.so"))
_library._Z16getPyInterpreterv.restype = ctypes.POINTER(ctypes.c_void_p)
# Points to the address of the table's object, whose first word is the address of the methods.
INTERPRETER = _library._Z16getPyInterpreterv()


@pytest.fixture(autouse=True)
def table_as_before(uninstalled: None) -> Iterator[None]:
    before = INTERPRETER[0]
    yield
    fastfake.uninstall()
    INTERPRETER[0] = before


# Objects that the interpreter was pointed to stay where they are.
_decorators: list[ctypes.Array[ctypes.c_void_p]] = []


def decorate() -> int:
    """Put another hook on top of ours: a copy of ours, whose second word is what it forwards to."""
    below = INTERPRETER[0]
    words = ctypes.cast(below, ctypes.POINTER(ctypes.c_void_p))
    _decorators.append((ctypes.c_void_p * 3)(words[0], below, words[2]))
    INTERPRETER[0] = ctypes.addressof(_decorators[-1])
    return INTERPRETER[0]


def class_of_a_tensor_under(mode: type) -> type:
    with mode():
        return type(torch.empty(3).sin())


def test_uninstalling_puts_torchs_classes_back_also_below_the_hook_of_another() -> None:
    fastfake.install()
    top = decorate()
    theirs = {fastfake.FakeTensor}
    fastfake.uninstall()
    assert not fastfake.is_installed()
    assert INTERPRETER[0] == top
    made = class_of_a_tensor_under(torch_fake_tensor.FakeTensorMode)
    assert made not in theirs and made is torch_fake_tensor.FakeTensor


def test_installing_again_below_the_hook_of_another_leaves_it_on_top() -> None:
    fastfake.install()
    top = decorate()
    for _ in range(3):
        fastfake.uninstall()
        fastfake.install()
        assert INTERPRETER[0] == top
        assert _C.interpreter_hook_installed()
        assert class_of_a_tensor_under(fastfake.FakeTensorMode) is fastfake.FakeTensor


def test_a_hook_that_was_there_before_ours_stays_below_it() -> None:
    fastfake.install()
    hook = INTERPRETER[0]
    fastfake.uninstall()
    torchs_table = INTERPRETER[0]
    # A copy of torch's own table at another address stands for a decorator.
    _decorators.append((ctypes.c_void_p * 1)(ctypes.cast(torchs_table, ctypes.POINTER(ctypes.c_void_p))[0]))
    INTERPRETER[0] = other = ctypes.addressof(_decorators[-1])
    fastfake.install()
    assert INTERPRETER[0] == hook
    assert class_of_a_tensor_under(fastfake.FakeTensorMode) is fastfake.FakeTensor
    fastfake.uninstall()
    assert INTERPRETER[0] == other
