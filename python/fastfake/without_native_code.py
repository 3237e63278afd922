"""The functions that torch has no counterpart of, for where there is no native code for the torch that runs.

All other names of the package are torch's own then, so that a program that names fastfake's classes, or imports
`fastfake.shim`, runs as if it had named torch's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TypeVar

__all__ = [
    "bypassed_operators",
    "cache_limit",
    "cache_operator",
    "cache_operators_temporarily",
    "declined_calls",
    "install",
    "install_temporarily",
    "is_installed",
    "pretend",
    "set_cache_limit",
    "uninstall",
]

_Operator = TypeVar("_Operator")


def install() -> None:
    """Do nothing, as the warning at the import said."""


def uninstall() -> None:
    """Do nothing: nothing was installed."""


def is_installed() -> bool:
    """Whether fastfake's classes are in the place of torch's: they never are."""
    return False


@contextlib.contextmanager
def install_temporarily() -> Iterator[None]:
    """Do nothing for a while."""
    yield


@contextlib.contextmanager
def pretend(*arguments: object, **settings: object) -> Iterator[None]:
    """Do nothing for a while: torch's own fake tensors cannot be trained on devices that are not there."""
    yield


def bypassed_operators() -> dict[str, dict[str, int]]:
    """Which operators' calls were not cached: torch's own cache does not tell."""
    return {}


def declined_calls() -> int:
    """How many calls were left to another class: torch does not tell them from others."""
    return 0


def cache_limit() -> int:
    """How many bytes the dispatch cache may hold: torch's own has no limit."""
    return sys.maxsize


def set_cache_limit(limit: int) -> None:
    """Do nothing: torch's own cache has no limit."""


def cache_operator(operator: _Operator) -> _Operator:
    """Do nothing: torch's own cache leaves custom operators out."""
    return operator


@contextlib.contextmanager
def cache_operators_temporarily(*operators: object) -> Iterator[None]:
    """Do nothing for a while."""
    yield
