"""What gives the fake results of an operator: torch's kernels alone, or something that a program registered."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._library.simple_registry import singleton as registry
from torch._subclasses import fake_impls

from .registrations import has_dispatch_rule

__all__ = ["rules_of"]

# The bits that native code knows (csrc/cache/operator_rules.h).
_IS_COMPUTED_BY_TORCH = 1
_HAS_DISPATCH_RULE = 2
_HAS_NO_RULE_OF_PROGRAMS = 4

_TORCH = os.path.dirname(torch.__file__) + os.sep
# Where torch has its libraries of operators written in Python. A kernel that a program registers with a helper of
# torch.library seems to come from torch as well.
_LIBRARIES = (os.path.join(_TORCH, "distributed", ""), os.path.join(_TORCH, "ao", "quantization", ""))
# Of the kernel that counts; one that another took the place of is marked as inactive.
_META_KERNEL = re.compile(r"^Meta: registered at (.*):\d+ ::", re.MULTILINE)


def rules_of(name: str) -> int:
    """Return bits for what gives the fake results of an operator.

    Args:
        name: as ``aten::add.Tensor``, or ``aten::sin`` where the overload has no name.
    """
    if has_dispatch_rule(name):
        return _HAS_DISPATCH_RULE
    if not all(_file_of(rule).startswith(_TORCH) for rule in _rules(_overload(name))):
        return 0
    source = _source_of_fake_implementation(name)
    if source is None:
        kernel = _META_KERNEL.search(torch._C._dispatch_dump(name))
        is_torchs = kernel is not None and kernel[1].startswith(_LIBRARIES)
        return _HAS_NO_RULE_OF_PROGRAMS | (_IS_COMPUTED_BY_TORCH if is_torchs else 0)
    is_torchs = source.startswith(_LIBRARIES)
    return _HAS_NO_RULE_OF_PROGRAMS | _IS_COMPUTED_BY_TORCH if is_torchs else 0


def _rules(overload: Any) -> Iterator[Any]:
    """The functions in torch's tables that may give the operator's results in the place of a kernel."""
    yield from overload.py_kernels.values()
    if overload in decomposition_table:
        yield decomposition_table[overload]
    table = fake_impls.op_implementations_dict
    for applies_to, implementation in fake_impls.op_implementations_checks:
        if applies_to(overload):
            is_table = implementation is fake_impls.dispatch_to_op_implementations_dict
            yield table[overload] if is_table else implementation


def _file_of(function: Any) -> str:
    """The file in which a function is written."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return "" if code is None else str(code.co_filename)


def _source_of_fake_implementation(name: str) -> str | None:
    """Where `torch.library.register_fake` was given an implementation; None if it was not."""
    entry = registry._data.get(name)
    kernel = None if entry is None else entry.fake_impl.kernel
    return None if kernel is None else str(kernel.source)


def _overload(name: str) -> Any:
    namespace, _, rest = name.partition("::")
    operator, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), operator), overload or "default")
