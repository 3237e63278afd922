"""Rules of higher-order operators for fake modes, under a mode that follows values.

torch calls such a rule itself, without asking the mode. What a rule computes is not what happens: of `cond` both
branches, of a loop one iteration. So it has to be told to give no values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from . import known_values

__all__ = ["give_no_values", "original"]

_ORIGINAL = "_fastfake_original_rule"


def give_no_values(mode_class: type) -> None:
    """Have the rules for ``mode_class`` that are registered by now give no values. Doing so twice is doing it once."""
    for operator in list(torch._ops._higher_order_ops.values()):
        rule = operator.python_key_table.get(mode_class)
        if rule is not None and not hasattr(rule, _ORIGINAL):
            operator.python_key_table[mode_class] = _without_values(rule)
            operator._dispatch_cache.clear()


def original(rule: Any) -> Any:
    """Return the rule that torch was given in the place of one that was made to give no values."""
    return getattr(rule, _ORIGINAL, rule)


def _without_values(rule: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(rule)
    def without_values(mode: Any, *args: Any, **kwargs: Any) -> Any:
        if mode.known_values is None:
            return rule(mode, *args, **kwargs)
        with known_values.unfollowed():
            return rule(mode, *args, **kwargs)

    setattr(without_values, _ORIGINAL, rule)
    return without_values
