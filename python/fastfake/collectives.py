"""The operators of torch.distributed, whose calls the dispatch cache may answer as long as torch's own kernels do.

A program may register a kernel of its own for one, to count what would be sent, say; it has to be asked each time.
"""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._library.simple_registry import singleton as registry
from torch._subclasses import fake_impls

from . import _C

__all__ = ["register"]

_TORCH = os.path.dirname(torch.__file__) + os.sep
# Of the kernel that counts; one that another took the place of is marked as inactive.
_META_KERNEL = re.compile(r"^Meta: registered at (.*):\d+ ::", re.MULTILINE)


def register() -> None:
    """Tell native code what it needs to know of these operators."""
    _C.register_collectives(_has_torchs_kernel, _new_work)


def _has_torchs_kernel(name: str) -> bool:
    """Whether a meta kernel that torch registered in Python gives the operator's fake results, and nothing else does.

    Args:
        name: as ``c10d::allreduce_``, or with an overload's name as ``c10d::allreduce_.other``.
    """
    kernel = _META_KERNEL.search(torch._C._dispatch_dump(name))
    if kernel is None or not kernel[1].startswith(_TORCH):
        return False
    entry = registry._data.get(name)
    if entry is not None and entry.fake_impl.kernel is not None:
        return False
    if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"):
        return False
    overload = _overload(name)
    if overload.py_kernels or overload in decomposition_table:
        return False
    return not any(applies_to(overload) for applies_to, _ in fake_impls.op_implementations_checks)


def _overload(name: str) -> Any:
    namespace, _, rest = name.partition("::")
    operator, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), operator), overload or "default")


def _new_work() -> object:
    """What torch's kernels return for a program to wait for: each has a number that torch draws at random."""
    import torch.distributed._meta_registrations as kernels

    return kernels.create_fakework((), return_first_arg=False)
