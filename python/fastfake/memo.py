"""Numbers that a fake tensor remembers about its unknown data.

``x.nonzero()`` of a fake tensor has an unknown number of rows, an unbacked symbol. Asking twice must give
the same symbol, so the tensor keeps it until its data or the trace changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from .torch_version import AT_LEAST_2_14

if TYPE_CHECKING:
    from .fake_tensor import FakeTensor

__all__ = ["SymNumberMemoDescriptor"]

_Number = torch.SymInt | torch.SymFloat | torch.SymBool | int | float


class _Remembered(NamedTuple):
    number: _Number
    version: int | None
    epoch: int


class SymNumberMemoDescriptor:
    """An attribute of FakeTensor that holds one remembered number.

    It reads as None once the tensor was written to, or the mode's ``epoch`` advanced, since it was set.
    A symbol that has a hint stands for an input and outlives both. A nested int names the offsets of a
    jagged tensor rather than their data, and is kept too.

    All memos of a tensor share the dictionary in its ``_memos`` slot, made when the first is set.
    """

    def __init__(self, *, is_nested_int: bool = False) -> None:
        """Make a memo; ``is_nested_int`` makes one that neither writes nor epochs invalidate."""
        self._is_nested_int = is_nested_int
        self._name = ""

    def __set_name__(self, owner: type[FakeTensor], name: str) -> None:
        """Take the attribute's name as the key in the dictionary of memos."""
        self._name = name

    def __get__(self, obj: FakeTensor, objtype: type[FakeTensor] | None = None) -> _Number | None:
        """Return the number while it is valid, else None."""
        memos = obj._memos or {}
        remembered = memos.get(self._name)
        if remembered is None:
            return None
        number, version, epoch = remembered
        if self._is_nested_int:
            return number
        written = not obj.is_inference() and version != obj._version
        if AT_LEAST_2_14 and written:
            del memos[self._name]
            return None
        if isinstance(number, torch.SymFloat) and number.node.hint is not None:
            return number
        if written or epoch != obj.fake_mode.epoch:
            del memos[self._name]
            return None
        return number

    def __set__(self, obj: FakeTensor, value: _Number | None) -> None:
        """Remember ``value``; None forgets. Inference tensors have no version, so they remember nothing."""
        if value is None:
            if obj._memos is not None:
                obj._memos.pop(self._name, None)
            return
        unversioned = self._is_nested_int or obj.is_inference()
        if obj.is_inference() and not self._is_nested_int and not AT_LEAST_2_14:
            return
        if obj._memos is None:
            obj._memos = {}
        version = None if unversioned else obj._version
        obj._memos[self._name] = _Remembered(value, version, obj.fake_mode.epoch)
