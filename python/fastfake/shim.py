"""Putting fastfake's classes in the place of torch's, and back.

torch's own code recognises fake tensors by class. While installed, every global variable of a loaded module
that refers to one of torch's objects refers to ours, operators that have rules for FakeTensorMode have them
for ours, modules loaded later import ours, and native code takes the dispatches of our modes.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch._subclasses.fake_tensor as torch_fake_tensor

from . import _C

__all__ = ["ensure_installed", "install", "installed", "is_installed", "uninstall"]

_PACKAGE = __name__.partition(".")[0]


@functools.cache
def _replacements() -> dict[str, tuple[Any, Any]]:
    """Map each replaced name in torch's module to torch's object and ours."""
    from . import namespace

    ours = namespace.replacements()
    return {name: (getattr(torch_fake_tensor, name), ours[name]) for name in ours if hasattr(torch_fake_tensor, name)}


def is_installed() -> bool:
    """Whether fastfake's classes are in the place of torch's."""
    return _C.interpreter_hook_installed()


def install() -> None:
    """Put fastfake's classes in the place of torch's. Doing so twice is doing it once."""
    if is_installed():
        return
    _carry_settings(*_replacements()["FakeTensorConfig"])
    _rebind({id(theirs): ours for theirs, ours in _replacements().values()})
    _C.install_interpreter_hook()


def uninstall() -> None:
    """Put torch's own classes back."""
    if not is_installed():
        return
    _C.remove_interpreter_hook()
    theirs, ours = _replacements()["FakeTensorConfig"]
    _carry_settings(ours, theirs)
    _rebind({id(ours): theirs for theirs, ours in _replacements().values()})


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Install for a while. Restores what was before: nested uses do not uninstall early."""
    before = is_installed()
    install()
    try:
        yield
    finally:
        if not before:
            uninstall()


def ensure_installed() -> None:
    """Install at the first use of a mode, so that torch's helpers recognise its tensors."""
    if not is_installed():
        install()


def _carry_settings(old: Any, new: Any) -> None:
    """Keep settings that were made on the class which is about to be replaced."""
    if new.debug != old.debug:
        new.debug = old.debug


def _rebind(new_of: dict[int, Any]) -> None:
    """Replace, wherever torch and its users keep them, the objects with the given ids."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name != _PACKAGE and not name.startswith(f"{_PACKAGE}."):
            _rebind_values(vars(module), new_of)
    _rebind_rule_tables(new_of)


def _rebind_values(namespace: dict[str, Any], new_of: dict[int, Any]) -> None:
    for name, value in list(namespace.items()):
        new = new_of.get(id(value))
        if new is not None:
            namespace[name] = new


def _rebind_rule_tables(new_of: dict[int, Any]) -> None:
    """Replace FakeTensorMode and FakeTensor as keys of the operators' `python_key_table`s."""
    theirs = [_replacements()[name] for name in ("FakeTensorMode", "FakeTensor")]
    classes = [cls for pair in theirs for cls in pair if id(cls) in new_of]
    for holder in gc.get_referrers(*classes):
        if type(holder) is not dict:
            continue
        for cls in classes:
            # Dictionaries that hold a class as a value, namespaces among them, are not meant here.
            if cls in holder and holder is not new_of:
                holder[new_of[id(cls)]] = holder.pop(cls)
