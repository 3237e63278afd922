"""``item()`` on a tensor whose value is not known: an error that says what to do about it, or a number instead."""

from __future__ import annotations

import functools
import math
import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import DataDependentOutputException

if TYPE_CHECKING:
    from ..fake_mode import FakeTensorMode
    from .call import Call

__all__ = ["checked_stand_in", "is_item", "number_of"]


def is_item(func: object) -> bool:
    """Whether an operator makes a number of a tensor's only element: ``item()``, ``int()``, ``bool()`` and others."""
    return func is torch.ops.aten._local_scalar_dense.default


def checked_stand_in(number: object) -> int | float | None:
    """Return ``number`` if it may stand for unknown ones.

    Raises:
        TypeError: it is no real number.
        ValueError: it is not finite, so that there is no integer for it.
    """
    if number is None:
        return None
    if not isinstance(number, int | float):
        raise TypeError(f"unknown_items must be a real number or None, not {type(number).__name__}")
    if not math.isfinite(number):
        raise ValueError(f"unknown_items must be finite, not {number}")
    return number


def number_of(call: Call, compute: Callable[[], object]) -> object:
    """Return what ``compute`` gives for ``item()``: a symbol, or a number that is known, or else the stand-in.

    Raises:
        DataDependentOutputException: there is neither.
    """
    try:
        return compute()
    except DataDependentOutputException as error:
        t = call.args[0]
        if call.mode.unknown_items is not None and isinstance(t, Tensor):
            return _as_number_of(t.dtype, call.mode.unknown_items)
        error.args = (f"{call.func}: {_explanation(call.mode)}",)
        raise


def _as_number_of(dtype: torch.dtype, number: int | float) -> bool | int | float | complex:
    """Return ``number`` in the Python type that ``item()`` gives for ``dtype``."""
    if dtype == torch.bool:
        return bool(number)
    if dtype.is_complex:
        return complex(number)
    return float(number) if dtype.is_floating_point else int(number)


def _explanation(mode: FakeTensorMode) -> str:
    """Say where the program is, what it asked for, and what can be done about it."""
    line = _line_of_user()
    where = "" if line is None else f" at {line}"
    limit = mode.known_values
    known = (
        "values of small tensors are kept by a mode made with known_values=True"
        if limit is None
        else "this mode keeps values of tensors that are made of numbers and have at most known_values="
        f"{limit} elements, until something random or unknown is written to them"
    )
    return (
        f"the value of a fake tensor is asked for{where}, and it is not known. If it follows from numbers in the "
        f"program, {known}. If any number will do, as for a loss that is only logged, make the mode with "
        "unknown_items=0.0."
    )


def _line_of_user() -> str | None:
    """Return file and line of the innermost frame of a program, as opposed to torch, fastfake and Python."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(("<frozen", *_not_of_users())):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


@functools.cache
def _not_of_users() -> tuple[str, ...]:
    standard = Path(sysconfig.get_path("stdlib"))
    installed = ("site-packages", "dist-packages")
    directories = [Path(torch.__file__).parent, Path(__file__).parent.parent]
    if standard.is_dir():
        directories += [path for path in standard.iterdir() if path.is_dir() and path.name not in installed]
    files = [str(path) for path in standard.glob("*.py")]
    return (*(f"{path}{os.sep}" for path in directories), *files)
