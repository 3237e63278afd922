"""Tensor subclasses among the arguments: their own `__torch_dispatch__` goes first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..fake_tensor import FakeTensor
from ..logs import not_implemented_log

__all__ = ["found_in"]


def found_in(flat_args: Sequence[object]) -> bool:
    """Whether an argument is of a subclass that must be asked before the fake mode.

    A subclass usually unwraps itself into ordinary tensors. Were the mode to take the call, it would
    mistake the wrapper for a real tensor that someone forgot to convert.
    """
    strangers = [type(arg) for arg in flat_args if _goes_first(arg)]
    if strangers:
        not_implemented_log.debug("FakeTensorMode unrecognized subclass(es): %s", strangers)
    return bool(strangers)


def _goes_first(arg: object) -> bool:
    if not isinstance(arg, Tensor) or isinstance(arg, FakeTensor) or type(arg) is Tensor:
        return False
    # Parameters only mark tensors, unless the class behind the mark dispatches. The concrete class decides:
    # `isinstance` holds for any tensor that was marked.
    kind = type(arg)
    only_marks = issubclass(kind, torch.nn.Parameter) and kind.__torch_dispatch__ is Tensor.__torch_dispatch__
    return not only_marks
