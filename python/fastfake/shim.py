"""Putting fastfake's classes in the place of torch's, and back.

torch's own code recognises fake tensors by class. While installed, every global variable of a loaded module
that refers to one of torch's objects refers to ours, operators that have rules for FakeTensorMode have them
for ours, modules loaded later import ours, and native code takes the dispatches of our modes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch._subclasses.fake_impls  # a first import after installing would bind ours for good
import torch._subclasses.fake_tensor as torch_fake_tensor
from torch._ops import OperatorBase

from . import _C

__all__ = ["ensure_installed", "install", "installed", "is_installed", "uninstall"]

_PACKAGE = __name__.partition(".")[0]


# Leaves the virtual table of the interpreter to torch before the interpreter goes.
atexit.register(_C.remove_interpreter_hook)


@functools.cache
def _replacements() -> dict[str, tuple[Any, Any]]:
    """Map each replaced name in torch's module to torch's object and ours."""
    from . import namespace

    ours = namespace.replacements()
    return {name: (getattr(torch_fake_tensor, name), ours[name]) for name in ours if hasattr(torch_fake_tensor, name)}


# The global variables that `install` changed: whose they are, their names, what they were and what they became.
_changed: list[tuple[dict[str, Any], str, Any, Any]] = []


def is_installed() -> bool:
    """Whether fastfake's classes are in the place of torch's."""
    return _C.interpreter_hook_installed()


def install() -> None:
    """Put fastfake's classes in the place of torch's. Doing so twice is doing it once."""
    if is_installed():
        return
    _carry_settings(*_replacements()["FakeTensorConfig"])
    ours_of = {id(theirs): ours for theirs, ours in _replacements().values()}
    for module in _modules():
        _changed.extend(_rebind_globals(vars(module), ours_of))
    _rebind_rule_tables(ours_of)
    _forget_dynamo_types()
    _C.install_interpreter_hook()


def uninstall() -> None:
    """Put torch's own classes back.

    Every variable that `install` changed gets its old value, unless somebody assigned to it since. Modules of
    torch that were imported meanwhile get torch's classes. Other modules keep what they imported meanwhile:
    it cannot be told whether they asked torch for it or fastfake.
    """
    if not is_installed():
        return
    _C.remove_interpreter_hook()
    theirs_config, our_config = _replacements()["FakeTensorConfig"]
    _carry_settings(our_config, theirs_config)
    theirs_of = {id(ours): theirs for theirs, ours in _replacements().values()}
    for namespace, name, theirs, ours in _changed:
        if namespace.get(name) is ours:
            namespace[name] = theirs
    _changed.clear()
    for module in _modules():
        if module.__name__.partition(".")[0] == "torch":
            _rebind_globals(vars(module), theirs_of)
    _rebind_rule_tables(theirs_of)
    _forget_dynamo_types()


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


def _modules() -> list[ModuleType]:
    """The loaded modules, fastfake's own excepted."""
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and name.partition(".")[0] != _PACKAGE
    ]


def _rebind_globals(namespace: dict[str, Any], new_of: dict[int, Any]) -> list[tuple[dict[str, Any], str, Any, Any]]:
    """Replace, among a module's global variables, the objects with the given ids; return what was changed.

    A tuple that contains some of them, which `isinstance` and `except` take, is replaced by one with the new ones.
    """
    changed = []
    for name, value in list(namespace.items()):
        new = new_of.get(id(value))
        if type(value) is tuple and any(id(item) in new_of for item in value):
            new = tuple(new_of.get(id(item), item) for item in value)
        if new is not None:
            namespace[name] = new
            changed.append((namespace, name, value, new))
    return changed


def _rebind_rule_tables(new_of: dict[int, Any]) -> None:
    """Replace FakeTensorMode and FakeTensor as keys of the tables in which operators keep rules for them."""
    for operator in _operators_with_rules():
        table = operator.python_key_table
        for key in [key for key in table if id(key) in new_of]:
            table[new_of[id(key)]] = table.pop(key)
            # What was looked up for the old class.
            operator._dispatch_cache.clear()


def _operators_with_rules() -> Iterator[OperatorBase]:
    """Yield the operators that anyone used so far and that have rules for classes."""
    for operator in torch._ops._higher_order_ops.values():
        if operator.python_key_table:
            yield operator
    for namespace in vars(torch.ops).values():
        if not isinstance(namespace, torch._ops._OpNamespace):
            continue
        for packet in vars(namespace).values():
            if not isinstance(packet, torch._ops.OpOverloadPacket):
                continue
            for overload in vars(packet).values():
                if isinstance(overload, torch._ops.OpOverload) and overload.python_key_table:
                    yield overload


def _forget_dynamo_types() -> None:
    """Let Dynamo make its table of Python types, with FakeTensor in it, anew if it has made one."""
    builder = getattr(sys.modules.get("torch._dynamo.variables.builder"), "VariableBuilder", None)
    if builder is not None:
        builder._type_dispatch_impl.cache_clear()
