"""Noticing what programs register with torch while they run, since the answers in the cache depend on it.

Kernels, fake implementations and rules of any operator may change what another operator answers. Native code drops
all answers when a table of rules changes; of kernels it has to be told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch._decomp
import torch._library.custom_ops
import torch._library.utils
import torch._subclasses.fake_impls as fake_impls
from torch._library import simple_registry

from . import _C

__all__ = ["RULES", "TABLES", "has_dispatch_rule", "watch_kernels"]

# The decompositions, Python's meta functions, and torch's own rules for fake tensors.
TABLES: tuple[dict[Any, Any], ...] = (
    torch._decomp.decomposition_table,
    torch._decomp.meta_table,
    fake_impls.op_implementations_dict,
)
RULES: list[Any] = fake_impls.op_implementations_checks

# What torch.library.Library calls, also when it goes.
_OF_A_LIBRARY = ("impl", "impl_t_t", "impl_with_aoti_compile", "fallback", "fallback_fallthrough", "reset")
_WAYS_TO_REGISTER = (
    (torch._C._DispatchModule, _OF_A_LIBRARY),
    (torch._library.utils.RegistrationHandle, ("destroy",)),
    (torch._ops._Ops, ("load_library",)),
    (simple_registry.GenericTorchDispatchRuleHolder, ("register",)),
    # It exchanges the fake implementation within what is registered.
    (torch._library.custom_ops.CustomOpDef, ("register_fake",)),
)


def has_dispatch_rule(name: str) -> bool:
    """Whether an operator has rules that `torch.library.register_torch_dispatch` was given, for any class.

    Args:
        name: as ``aten::add.Tensor``, or ``aten::sin`` where the overload has no name.
    """
    entry = simple_registry.singleton._data.get(name)
    return entry is not None and bool(entry.torch_dispatch_rules._data)


@functools.cache
def watch_kernels() -> None:
    """Have torch's ways to register kernels tell of it, from now on: answers outlive an uninstallation."""
    for owner, names in _WAYS_TO_REGISTER:
        for name in names:
            setattr(owner, name, _noted(getattr(owner, name)))
    operator_base: Any = torch._ops.OperatorBase
    operator_base.py_impl = _noted_decorator(operator_base.py_impl)


def _noted(register: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(register)
    def register_and_note(*args: Any, **kwargs: Any) -> Any:
        try:
            return register(*args, **kwargs)
        finally:
            _C.note_registration()

    return register_and_note


def _noted_decorator(decorator: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(decorator)
    def make_noted(*args: Any, **kwargs: Any) -> Any:
        return _noted(decorator(*args, **kwargs))

    return make_noted
