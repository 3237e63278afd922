"""What fastfake needs of torch and of the interpreter, so that what it lacks is one clear error at the import."""

from __future__ import annotations

import sys

import torch

from .version import __version__

__all__ = ["check_before_native_code", "check_native_code"]

_TORCH = "2.13"


def check_before_native_code() -> None:
    """Check what the native module needs to be loaded at all.

    Raises:
        ImportError: torch is of another minor version, to whose binary interface the module was not built.
    """
    if torch.__version__.split(".")[:2] != _TORCH.split("."):
        raise ImportError(
            f"fastfake {__version__} is built for torch {_TORCH}, but torch {torch.__version__} is installed"
        )


def check_native_code() -> None:
    """Check what the native module needs to do its work.

    Raises:
        ImportError: the interpreter runs without its global lock, which guards the cache; or torch is another
            patch release than the module was built for, and has another table of the interpreter.
    """
    from . import _C

    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError(
            f"fastfake {__version__} needs the global interpreter lock, which is off: "
            "leave PYTHON_GIL unset, or set it to 1"
        )
    if torch.__version__.partition("+")[0] != _C.built_for_torch and not _C.interpreter_table_fits():
        raise ImportError(
            f"fastfake {__version__} was built with torch {_C.built_for_torch}, and torch {torch.__version__}, which "
            "is installed, differs where fastfake hooks into it: build fastfake again"
        )
