"""One call on its way through the miss path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils import _pytree as pytree

from ..fake_tensor import FakeTensor

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode
    from .real_propagation import RealRun

__all__ = ["NOT_HANDLED", "Call"]


class _NotHandled:
    """The type of NOT_HANDLED."""

    def __repr__(self) -> str:
        return "NOT_HANDLED"


# What a step returns when the next one is to try. None and NotImplemented are results of their own.
NOT_HANDLED: Final = _NotHandled()


class Call:
    """An operator with its arguments, flat and nested.

    Attributes:
        mode: the mode under which the call runs.
        func: the operator.
        flat_args: the leaves of all arguments, in order.
        args_spec: how the leaves nest.
        args: positional arguments.
        kwargs: keyword arguments.
        fake_args: the leaves that are fake tensors of the mode.
        has_symbolic_sizes: a fake argument has symbolic sizes or strides, or a leaf is a SymInt.
        real_run: the call on real tensors that is propagated to the results. A step whose results are not
            to be compared with real ones sets it to None.
    """

    __slots__ = (
        "args",
        "args_spec",
        "fake_args",
        "flat_args",
        "func",
        "has_symbolic_sizes",
        "kwargs",
        "mode",
        "real_run",
    )

    def __init__(self, mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Flatten the arguments."""
        self.mode = mode
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.flat_args, self.args_spec = pytree.tree_flatten((args, kwargs))
        self.fake_args = [leaf for leaf in self.flat_args if mode.is_our_fake(leaf)]
        self.has_symbolic_sizes = any(t._has_symbolic_sizes_strides for t in self.fake_args) or any(
            isinstance(leaf, torch.SymInt) for leaf in self.flat_args
        )
        self.real_run: RealRun | None = None

    def replace_args(self, flat_args: list[Any], fake_args: list[FakeTensor]) -> None:
        """Take other leaves in the place of the present ones, nested alike."""
        self.flat_args = flat_args
        self.fake_args = fake_args
        self.args, self.kwargs = self.nest(flat_args)

    def nest(self, leaves: Sequence[Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Nest ``leaves`` as the arguments of this call are: positional and keyword ones."""
        args, kwargs = pytree.tree_unflatten(leaves, self.args_spec)
        return args, kwargs
