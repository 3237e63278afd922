"""Putting fastfake's classes in the place of torch's, and back.

torch's own code recognises fake tensors by class. While installed, what refers to one of torch's objects refers
to ours, whether a global variable or a registry, a tuple, a closure; operators that have rules for FakeTensorMode
have them for ours; modules loaded later import ours; and native code takes the dispatches of our modes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch._subclasses.fake_impls  # a first import after installing would bind ours for good
import torch._subclasses.fake_tensor as torch_fake_tensor
from torch._ops import OperatorBase

from . import _C, backward, fast_detach, holders, in_use, rebinding, registrations, symbols, traced_constants
from .fake_tensor import FakeTensor
from .in_use import is_installed
from .miss import higher_order_rules

__all__ = ["install", "install_temporarily", "is_disabled", "is_installed", "uninstall"]

_PACKAGE = __name__.partition(".")[0]

log = logging.getLogger(_PACKAGE)

_interpreter_is_ending = False


@atexit.register
def _leave_the_interpreter_to_torch() -> None:
    """Take the hook away before the interpreter goes; modes of exit handlers that run later do without."""
    global _interpreter_is_ending
    _interpreter_is_ending = True
    _C.remove_interpreter_hook()


class _Exchange:
    """The objects of torch that have a counterpart here.

    Attributes:
        configs: torch's class of settings and ours.
        theirs: torch's objects.
        ours: their counterparts, in the same order.
        search: looks for what refers to those of them that programs keep in registries and tuples: the public classes.
            The time that it takes grows with their number.
        counterparts: ours of those, in the same order.
        ours_of: our counterpart of each of torch's objects, by id.
        theirs_of: the other way round.
        unknown: names that torch's module defines and that this version does not know.
    """

    def __init__(self) -> None:
        from . import namespace

        ours = namespace.replacements()
        names = [name for name in ours if hasattr(torch_fake_tensor, name)]
        self.configs = (torch_fake_tensor.FakeTensorConfig, ours["FakeTensorConfig"])
        self.theirs = [*(getattr(torch_fake_tensor, name) for name in names), fast_detach.TORCHS]
        self.ours = [*(ours[name] for name in names), fast_detach.fast_detach]
        public = [name for name in names if isinstance(ours[name], type) and not name.startswith("_")]
        self.search = holders.Search([getattr(torch_fake_tensor, name) for name in public])
        self.counterparts = [ours[name] for name in public]
        self.ours_of = {id(theirs): our for theirs, our in zip(self.theirs, self.ours, strict=True)}
        self.theirs_of = {id(our): theirs for theirs, our in zip(self.theirs, self.ours, strict=True)}
        self.unknown = sorted(
            name
            for name, value in vars(torch_fake_tensor).items()
            if getattr(value, "__module__", None) == torch_fake_tensor.__name__
            and name not in ours
            and name not in namespace.STAY_TORCHS
        )


@functools.cache
def _exchange() -> _Exchange:
    return _Exchange()


# What takes the changes of `install` back.
_undos: list[rebinding.Undo] = []


def is_disabled() -> bool:
    """Whether the environment variable FASTFAKE_DISABLE, read at each call, asks to leave everything to torch."""
    return os.environ.get("FASTFAKE_DISABLE", "0") not in ("", "0")


def install() -> None:
    """Put fastfake's classes in the place of torch's. Doing so twice is doing it once.

    Fake tensors that torch's own classes made before stay what they are, and torch no longer takes them for fake
    tensors; a warning tells how many there are. With FASTFAKE_DISABLE=1 in the environment nothing happens.
    """
    # Modes that threads make at the same time install together once.
    with in_use.changing:
        if is_installed():
            return
        if is_disabled():
            log.warning("FASTFAKE_DISABLE is set: torch's own fake tensors stay in place")
        else:
            try:
                _put_ours_in_place()
            except BaseException:
                # An interrupt, say. Half of an exchange would be neither torch nor fastfake.
                _put_torchs_back()
                raise


def _put_ours_in_place() -> None:
    exchange = _exchange()
    if exchange.unknown:
        log.warning("torch's fake tensor module has names unknown to fastfake: %s", ", ".join(exchange.unknown))
    registrations.watch_kernels()
    _carry_settings(*exchange.configs)
    _rebind_rule_tables(exchange.ours_of)
    # First, as what takes changes back refers to torch's objects too.
    instances = rebinding.everywhere(exchange.search, exchange.counterparts, _own_holders(), _undos)
    rebinding.in_namespaces([vars(module) for module in _modules()], exchange.ours_of, _undos)
    _forget_tables_of_dynamo()
    backward.put_in_place(_undos)
    traced_constants.put_in_place(_undos)
    symbols.remember_if_wanted()
    if not _interpreter_is_ending:
        _C.install_interpreter_hook()
    in_use.set_installed(True)
    log.info("installed: %d references to torch's fake tensor system lead to fastfake's now", len(_undos))
    fake_tensor = exchange.theirs_of[id(FakeTensor)]
    living = sum(type(instance) is fake_tensor for instance in instances)
    if living:
        warnings.warn(
            f"{living} fake tensors of torch's own class exist already; with fastfake installed, torch does not "
            "recognise them. Install fastfake before the first fake tensor is made.",
            stacklevel=3,  # whoever called `install`
        )


def uninstall() -> None:
    """Put torch's own classes back.

    Everything that `install` changed gets its old value, unless somebody assigned to it since, and but for autograd's
    engine where there were fake tensors on devices that are not there: they may meet it at any time. Modules of
    torch that were imported meanwhile get torch's classes. Other modules keep what they imported meanwhile:
    it cannot be told whether they asked torch for it or fastfake.

    Calls that other threads compute under modes of fastfake come to their end first. Whoever uses such a mode
    afterwards installs again.
    """
    with in_use.changing:
        in_use.wait_for_others()
        if is_installed():
            _put_torchs_back()


def _put_torchs_back() -> None:
    in_use.set_installed(False)
    _C.remove_interpreter_hook()
    _C.remove_node_methods()
    _carry_settings(*reversed(_exchange().configs))
    # The latest first: a later change may have been made in the result of an earlier one.
    while _undos:
        # Done before it is forgotten, since an interrupt may come between the two. Doing it twice does no harm.
        _undos[-1]()
        _undos.pop()
    theirs_of = _exchange().theirs_of
    of_torch = [vars(module) for module in _modules() if module.__name__.partition(".")[0] == "torch"]
    rebinding.in_namespaces(of_torch, theirs_of, [])
    _rebind_rule_tables(theirs_of)
    _forget_tables_of_dynamo()


@contextlib.contextmanager
def install_temporarily() -> Iterator[None]:
    """Install for a while. Restores what was before: nested uses do not uninstall early."""
    before = is_installed()
    install()
    try:
        yield
    finally:
        if not before:
            uninstall()


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


def _own_holders() -> list[object]:
    """What refers to torch's objects by intention."""
    exchange = _exchange()
    own: list[object] = [exchange.configs, exchange.theirs, exchange.theirs_of]
    own += [vars(module) for name, module in list(sys.modules.items()) if name.partition(".")[0] == _PACKAGE]
    return own


def _rebind_rule_tables(new_of: dict[int, Any]) -> None:
    """Replace FakeTensorMode and FakeTensor as keys of the tables in which operators keep rules for them.

    Meanwhile a signal handler, a profiler or another thread may register rules or install, too.
    """
    for operator in _operators_with_rules():
        table = operator.python_key_table
        for key in list(table):
            rule = table.get(key)
            if id(key) not in new_of or rule is None:
                continue
            # In this order: another thread may be looking for either.
            table[new_of[id(key)]] = higher_order_rules.original(rule)
            table.pop(key, None)
            # What was looked up for the old class.
            operator._dispatch_cache.clear()


def _operators_with_rules() -> Iterator[OperatorBase]:
    """Yield the operators that anyone used so far and that have rules for classes."""
    # From copies of torch's dictionaries: the next use of an operator adds to them.
    for operator in list(torch._ops._higher_order_ops.values()):
        if operator.python_key_table:
            yield operator
    for namespace in list(vars(torch.ops).values()):
        if not isinstance(namespace, torch._ops._OpNamespace):
            continue
        for packet in list(vars(namespace).values()):
            if not isinstance(packet, torch._ops.OpOverloadPacket):
                continue
            for overload in list(vars(packet).values()):
                if isinstance(overload, torch._ops.OpOverload) and overload.python_key_table:
                    yield overload


def _forget_tables_of_dynamo() -> None:
    """Let Dynamo make its table of Python types, with FakeTensor in it, anew if it has made one."""
    builder = getattr(sys.modules.get("torch._dynamo.variables.builder"), "VariableBuilder", None)
    if builder is not None:
        builder._type_dispatch_impl.cache_clear()
