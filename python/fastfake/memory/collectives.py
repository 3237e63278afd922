"""The ledger of the collectives of a step: which, in which group, on what, and how many bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Collective", "CollectiveCounter"]

_NAMESPACES = {"c10d", "_c10d_functional", "_c10d_functional_autograd"}
# These move nothing.
_MARKS = {"wait_tensor", "barrier", "monitored_barrier_", "_wrap_tensor_autograd"}


@dataclass(frozen=True)
class Collective:
    """Calls of one collective that are alike.

    Attributes:
        operator: Such as ``c10d::_allgather_base_``.
        group: The dimension of the mesh, or the name of the group if it is none.
        ranks: How many ranks are in the group.
        dtype: Element type, such as ``bfloat16``.
        calls: How many calls there were.
        bytes: Bytes of all messages together. A message is the larger one of what goes in and what comes out: the
            result of an all-gather, and what a reduce-scatter reduces.
    """

    operator: str
    group: str
    ranks: int
    dtype: str
    calls: int
    bytes: int


class CollectiveCounter(TorchDispatchMode):
    """Writes down each collective that is called while the ``with`` lasts."""

    def __init__(self, groups: Mapping[str, str] | None = None) -> None:
        """Take what groups are to be called, by the name that torch has for them."""
        super().__init__()
        self._called = dict(groups or {})
        self._calls: Counter[tuple[str, str, int, str]] = Counter()
        self._bytes: Counter[tuple[str, str, int, str]] = Counter()

    @property
    def collectives(self) -> list[Collective]:
        """What there was, most bytes first."""
        found = [Collective(*key, calls, self._bytes[key]) for key, calls in self._calls.items()]
        return sorted(found, key=lambda collective: -collective.bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the call, and make it. DTensors make calls of their own, on what this rank has of them."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        if func.namespace in _NAMESPACES and func._opname not in _MARKS:
            self._count(func.name().partition(".")[0], [*args, *(kwargs or {}).values()], result)
        return result

    def _count(self, operator: str, arguments: Sequence[Any], result: Any) -> None:
        # Operators of c10d write to an argument, which may be a list of tensors; the functional ones give new tensors.
        messages = [_tensors(value) for value in (*arguments, result)]
        sizes = [sum(tensor.numel() * tensor.element_size() for tensor in message) for message in messages]
        dtypes = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for message in messages for tensor in message)
        name, ranks = _group(arguments)
        key = operator, self._called.get(name, name), ranks, ", ".join(dtypes)
        self._calls[key] += 1
        self._bytes[key] += max(sizes)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _group(arguments: Sequence[Any]) -> tuple[str, int]:
    """Find the group among the arguments: c10d's operators take the object, the functional ones its name last."""
    for value in arguments:
        if isinstance(value, torch.distributed.ProcessGroup):
            return value.group_name, value.size()
        if isinstance(value, torch.ScriptObject) and str(value._type()).endswith("ProcessGroup"):
            group = torch.distributed.ProcessGroup.unbox(value)
            return group.group_name, group.size()
    name: Any = next(value for value in reversed(arguments) if isinstance(value, str))
    return name, torch.distributed.distributed_c10d._resolve_process_group(name).size()
