"""Which compiled module goes with the torch that runs, and what it needs of torch and of the interpreter.

The package holds a module for each minor release of torch that it was built for, in ``native/torch_<major>_<minor>``:
the interfaces that it uses change from one to the next. The one that fits becomes `fastfake._C`.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from typing import Any

import torch

from .torch_version import MINOR
from .version import __version__

__all__ = ["load_native_code"]

_PACKAGE = __name__.rpartition(".")[0]

log = logging.getLogger(_PACKAGE)

_DIRECTORY = Path(__file__).parent / "native"
_NAME = f"{_PACKAGE}._C"


def load_native_code() -> bool:
    """Load the compiled module as `fastfake._C`.

    Returns:
        Whether there is one that works with the torch that runs. If not, a line in the log said why, and what to do.

    Raises:
        ImportError: the interpreter runs without its global lock, which guards the cache; or the module is broken.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError(
            f"fastfake {__version__} needs the global interpreter lock, which is off: "
            "leave PYTHON_GIL unset, or set it to 1"
        )
    path = _compiled_module()
    if path is None:
        return _leave_to_torch(f"has no native code for torch {torch.__version__}, only for {_releases()}")
    native = _loaded(path)
    if torch.__version__.partition("+")[0] != native.built_for_torch:
        if not native.interpreter_table_fits():
            return _leave_to_torch(
                f"was built with torch {native.built_for_torch}, and torch {torch.__version__}, which is installed, "
                "differs where fastfake hooks into it"
            )
        log.warning(
            "fastfake %s was built with torch %s and runs with torch %s: if it misbehaves, build it for this one",
            __version__,
            native.built_for_torch,
            torch.__version__,
        )
    # As the import system does with a module that it finds by name.
    sys.modules[_NAME] = vars(sys.modules[_PACKAGE])["_C"] = native
    return True


def _compiled_module() -> Path | None:
    directory = _DIRECTORY / "torch_{}_{}".format(*MINOR)
    candidates = (directory / f"_C{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.exists()), None)


def _loaded(path: Path) -> Any:
    loader = ExtensionFileLoader(_NAME, str(path))
    spec = ModuleSpec(_NAME, loader, origin=str(path))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _releases() -> str:
    """The minor releases of torch that the package has native code for, in words."""
    numbers = sorted(tuple(map(int, path.name.split("_")[1:])) for path in _DIRECTORY.glob("torch_*_*"))
    return ", ".join(f"{major}.{minor}" for major, minor in numbers) or "none"


def _leave_to_torch(reason: str) -> bool:
    log.warning(
        "fastfake %s %s: torch's own fake tensors stay in place. Install a fastfake for this torch, or build one: "
        "pip install --no-deps --force-reinstall --no-binary fastfake fastfake",
        __version__,
        reason,
    )
    return False
