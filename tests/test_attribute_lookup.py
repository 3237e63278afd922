"""Attributes of fake tensors that C code asks for by C string."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._mode_utils import no_dispatch

from fastfake import FakeTensor, FakeTensorMode

_get = ctypes.pythonapi.PyObject_GetAttrString
_get.restype = ctypes.py_object
_get.argtypes = [ctypes.py_object, ctypes.c_char_p]


def look_up(tensor: torch.Tensor, name: str) -> Any:
    """Ask as C code does, which goes through `tp_getattr` where a class has one."""
    return _get(tensor, name.encode())


@pytest.fixture
def mode() -> Iterator[FakeTensorMode]:
    with FakeTensorMode() as mode:
        yield mode


def make(cls: type[FakeTensor], mode: FakeTensorMode) -> FakeTensor:
    with no_dispatch():
        return cls(mode, torch.empty(3, device="meta"), "cpu")


@pytest.mark.parametrize("name", ["shape", "fake_mode", "__torch_function__", "__class__", "nonzero_memo"])
def test_answers_are_those_of_python(mode: FakeTensorMode, name: str) -> None:
    tensor = torch.empty(3)
    assert look_up(tensor, name) == getattr(tensor, name)


def test_what_is_absent_raises(mode: FakeTensorMode) -> None:
    tensor = torch.empty(3)
    for name in ("no_such_attribute", "", "é"):
        with pytest.raises(AttributeError):
            look_up(tensor, name)


def test_instance_attributes_and_patches_of_the_class_count(
    mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.empty(3)
    tensor.__torch_function__ = "of the instance"
    assert look_up(tensor, "__torch_function__") == "of the instance"
    other = torch.empty(3)
    seen = []

    def spy(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        seen.append(func)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(FakeTensor, "__torch_function__", classmethod(spy))
    torch.add(other, other)
    assert seen == [torch.add]
    monkeypatch.undo()
    torch.add(other, other)
    assert seen == [torch.add]


def test_derived_classes_answer_for_themselves(mode: FakeTensorMode) -> None:
    class Odd(FakeTensor):
        def __getattribute__(self, name: str) -> Any:
            return "odd" if name == "__torch_function__" else super().__getattribute__(name)

    class Lazy(FakeTensor):
        def __getattr__(self, name: str) -> Any:
            if name == "late":
                return "found"
            raise AttributeError(name)

    class Failing(FakeTensor):
        def __getattribute__(self, name: str) -> Any:
            if name == "__torch_function__":
                raise KeyError(name)
            return super().__getattribute__(name)

    assert look_up(make(Odd, mode), "__torch_function__") == "odd"
    assert look_up(make(Lazy, mode), "late") == "found"
    with pytest.raises(AttributeError):
        look_up(make(Lazy, mode), "later")
    with pytest.raises(KeyError):
        look_up(make(Failing, mode), "__torch_function__")


def test_a_getattr_that_comes_later_and_goes_again_counts(mode: FakeTensorMode) -> None:
    tensor = torch.empty(3)
    FakeTensor.__getattr__ = lambda self, name: f"made up: {name}"  # type: ignore[attr-defined]
    try:
        assert look_up(tensor, "no_such_attribute") == "made up: no_such_attribute"
        assert look_up(tensor, "shape") == (3,)
    finally:
        del FakeTensor.__getattr__  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        look_up(tensor, "no_such_attribute")
    assert look_up(tensor, "__torch_function__") is torch._C._disabled_torch_function_impl
