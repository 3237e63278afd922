"""Refusing to be imported in a subinterpreter before torch is, which hangs or crashes there."""

from __future__ import annotations

import importlib
import sys

__all__: list[str] = []


def _is_main() -> bool:
    # CPython's own module for them, which is built in.
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    try:
        interpreters = importlib.import_module(name)
    except ImportError:
        return True  # without it nobody can tell
    return interpreters.get_current() == interpreters.get_main()


if not _is_main():
    raise ImportError("fastfake works in the main interpreter only: torch does not support subinterpreters")
