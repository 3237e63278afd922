"""Remembering what is decided of an operator, for as long as there is one.

``functools.cache`` would keep the operators of libraries that are gone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch._ops import OpOverload

__all__ = ["decided_once"]

_Answer = TypeVar("_Answer")


def decided_once(decide: Callable[[OpOverload], _Answer]) -> Callable[[OpOverload], _Answer]:
    """Call a function once for each operator; what it returns must not hold the operator."""
    answers: WeakKeyDictionary[OpOverload, _Answer] = WeakKeyDictionary()

    @functools.wraps(decide)
    def decided(func: OpOverload) -> _Answer:
        try:
            return answers[func]
        except KeyError:
            return answers.setdefault(func, decide(func))

    return decided
