"""Custom operators whose calls the dispatch cache may answer, since somebody vouches for them.

torch's cache leaves out every operator that is not torch's own: its fake implementation is a function of the user's
that could depend on anything. Most depend on the call alone, and whoever knows that can say so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload

from . import _C, config

__all__ = ["cache_operator", "cache_operators_temporarily", "watch"]

_Operator = TypeVar("_Operator", bound="OpOverload | CustomOpDef")

_in_scope: ContextVar[frozenset[int]] = ContextVar("fastfake_operators_in_scope", default=frozenset())


def cache_operator(operator: _Operator) -> _Operator:
    """Let the cache answer calls of a custom operator, from now on and under every mode.

    This vouches for the fake implementation: the shapes, strides, dtypes, devices and aliases of its results depend on
    its arguments' and on numbers, texts and truth values among them, and it does nothing else that matters. Arguments
    of other kinds are not cached, nor is a call that makes a size that depends on data. Whatever is registered with
    torch afterwards, such as another fake implementation, makes earlier answers unreachable.

    Args:
        operator: one overload, such as ``torch.ops.mylib.scale.default``, or what `torch.library.custom_op` gave. It is
            cached as long as it is registered.

    Returns:
        The operator, so that this can decorate one.

    Raises:
        TypeError: it is not an overload; ``torch.ops.mylib.scale`` stands for several.
        ValueError: calls of this operator are never cached; the text says why.
    """
    overload = _overload_of(operator)
    if _facts(overload)[1]:
        _C.vouch_for_operator(*_name_of(overload))
    return operator


@contextmanager
def cache_operators_temporarily(*operators: OpOverload | CustomOpDef) -> Iterator[None]:
    """Let the cache answer calls of custom operators in the body of a ``with``, and in nothing that runs beside it.

    A scope inside of another adds to it. Threads and tasks have it as they have any context variable.

    Args:
        operators: as for `cache_operator`, which also says what is vouched for.

    Raises:
        TypeError: one of them is not an overload.
        ValueError: calls of one of them are never cached.
    """
    ids = frozenset(_facts(_overload_of(operator))[0] for operator in operators)
    token = _in_scope.set(_in_scope.get() | ids)
    try:
        yield
    finally:
        _in_scope.reset(token)


def _overload_of(operator: object) -> OpOverload:
    if isinstance(operator, CustomOpDef):
        return operator._opoverload
    if not isinstance(operator, OpOverload):
        raise TypeError(
            "expected one overload of an operator, such as torch.ops.mylib.scale.default, "
            f"but got {type(operator).__name__}"
        )
    return operator


def _facts(overload: OpOverload) -> tuple[int, bool]:
    """The id that native code knows the operator by, and whether it is cached only if somebody vouches for it."""
    watch()
    number, is_custom, bypass = _C.operator_facts(*_name_of(overload))
    if bypass is not None and not is_custom:
        raise ValueError(f"calls of {overload} are never cached: {bypass}")
    return number, is_custom


def _name_of(overload: OpOverload) -> tuple[str, str]:
    return overload._schema.name, overload._schema.overload_name


@functools.cache
def watch() -> None:
    """Tell native code what decides about custom operators; this imports torch's settings, which takes long."""
    _C.watch_vouched_operators(_in_scope, *config.custom_ops_profile_override())
