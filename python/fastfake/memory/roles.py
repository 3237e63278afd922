"""Telling the ledger what memory is for."""

from __future__ import annotations

from torch import Tensor, nn

from .. import _C
from ..fake_tensor import FakeTensor
from .plain_tensors import plain_tensors
from .timeline import Category

__all__ = ["note_gradient", "note_role", "note_role_of_argument", "role_of"]

# The ledger keeps a number, and 0 for none.
_CATEGORIES = tuple(Category)
_NUMBERS = {category: number for number, category in enumerate(_CATEGORIES, start=1)}
_GRADIENT = _NUMBERS[Category.GRADIENT]


def note_role(
    tensor: Tensor, category: Category, *, unless_it_has_one: bool = False, module: nn.Module | None = None
) -> None:
    """Say what the storage of a tensor is for; of a wrapper, those of the tensors inside.

    Args:
        tensor: Any tensor; if it is not fake, nothing is said.
        category: What it is for.
        unless_it_has_one: Whether what was said before stays.
        module: The module that it is for, where it is a parameter's or a buffer.
    """
    number = _NUMBERS[category]
    if isinstance(tensor, FakeTensor):
        _C.memory_note_role(tensor, number, unless_it_has_one, module)
        return
    for plain in plain_tensors(tensor):
        _C.memory_note_role(plain, number, unless_it_has_one, module)


def note_gradient(tensor: Tensor) -> None:
    """Say that a tensor is the gradient of a parameter."""
    if isinstance(tensor, FakeTensor):
        _C.memory_note_role(tensor, _GRADIENT)
    else:
        note_role(tensor, Category.GRADIENT)


def note_role_of_argument(operator: str, index: int, category: Category) -> None:
    """Say what an argument of each call of an operator is for, until the tracker is off.

    Args:
        operator: Its name, with the namespace; its overload has none.
        index: Of the argument in the schema.
        category: What it is for.
    """
    _C.memory_watch_argument(operator, "", index, _NUMBERS[category])


def role_of(number: int) -> Category:
    """Give the category that the ledger has a number for."""
    return _CATEGORIES[number - 1]
