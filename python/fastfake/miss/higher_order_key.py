"""What the results of a call of a higher-order operator depend on."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch._higher_order_ops.auto_functionalize import FunctionalCallableWithEpilogue
from torch._higher_order_ops.utils import SubgraphCallableWrapper
from torch._subclasses.meta_utils import is_sparse_any
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.fx.experimental.sym_node import SymNode
from torch.utils.weak import WeakIdRef

from .. import _C
from ..fake_tensor import FakeTensor
from ..metadata import extract_tensor_metadata
from .call import Call

if TYPE_CHECKING:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["BypassError", "CallKey"]


class _NoGraph:
    """Stands for the graph of calls that have none."""


_NO_GRAPH = _NoGraph()


class BypassError(Exception):
    """A call cannot be cached. The text is the reason under which it is counted."""


class _SymbolicInt:
    """A SymInt in a key. Two are equal if expression, hint and type are."""

    __slots__ = ("node",)

    def __init__(self, node: SymNode) -> None:
        self.node = node

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SymbolicInt) and self.node._value_eq(other.node)

    def __hash__(self) -> int:
        return self.node._value_hash()


class CallKey:
    """What the results of a call depend on.

    Attributes:
        graph: the first object that stands in the key by identity; entries live as long as it.
        tensors: the fake tensors among the arguments.
        symbols: the distinct SymInts among the arguments and their sizes.
        words: the key proper.
    """

    def __init__(self, call: Call) -> None:
        """Make the key of a call.

        Raises:
            BypassError: an argument cannot stand in a key.
        """
        self.graph: object = _NO_GRAPH
        self.tensors: list[FakeTensor] = []
        self.symbols: list[SymInt] = []
        self._mode = call.mode
        self._index_of_node: dict[int, int] = {}
        shape_env = call.mode.shape_env
        self._words: list[Any] = [
            call.func,
            torch.get_default_dtype(),
            torch._C._get_default_device(),
            torch.is_inference_mode_enabled(),
            torch.is_grad_enabled(),
            None if shape_env is None else shape_env.settings,
            get_proxy_mode() is not None,
            _C.registrations(),
        ]
        self._add(call.args)
        self._add(call.kwargs)
        if self.symbols:
            self._words.append(call.mode.epoch)
        self.words: tuple[Hashable, ...] = tuple(self._words)
        try:
            hash(self.words)
        except TypeError as error:
            raise BypassError("unhashable argument") from error

    def index_of(self, tensor: object) -> int | None:
        """Return which argument ``tensor`` is, the first if it is several; None if it is none."""
        return next((index for index, argument in enumerate(self.tensors) if argument is tensor), None)

    def shape_env(self) -> ShapeEnv | None:
        """Return the ShapeEnv of the symbols; None without symbols."""
        return self.symbols[0].node.shape_env if self.symbols else None

    def _add(self, value: Any) -> None:
        if isinstance(value, list | tuple | dict):
            self._words += [type(value), len(value)]
            if isinstance(value, dict):
                self._words += value.keys()
                value = value.values()
            for element in value:
                self._add(element)
        elif isinstance(value, Tensor):
            self._add_tensor(value)
        elif isinstance(value, SymInt):
            self._add_symbolic(value)
        elif isinstance(value, SymBool | SymFloat):
            raise BypassError("symbolic shape")
        elif isinstance(value, types.FunctionType | types.MethodType):
            # A function may read variables that change.
            raise BypassError("function argument")
        elif isinstance(value, SubgraphCallableWrapper):
            self._add_graph(SubgraphCallableWrapper, value.subgraph)
        elif isinstance(value, FunctionalCallableWithEpilogue):
            self._add_graph(type(value), value.orig_callable)
        elif _stands_by_identity(value):
            self._add_graph(type(value), value)
        else:
            # With the type, because 1, 1.0 and True are equal.
            self._words += [type(value), value]

    def _add_graph(self, kind: type, graph: object) -> None:
        if self.graph is _NO_GRAPH:
            self.graph = graph
        self._words += [kind, WeakIdRef(graph)]

    def _add_tensor(self, tensor: Tensor) -> None:
        if not isinstance(tensor, FakeTensor):
            raise BypassError("non-fake tensor")
        if not self._mode.is_our_fake(tensor):
            raise BypassError("not our fake")
        if tensor.constant is not None:
            raise BypassError("constant attribute")
        if is_sparse_any(tensor):
            raise BypassError(f"{tensor.layout} tensor")
        # A graph that returns an argument returns the same one only for calls that repeat alike.
        self._words += [FakeTensor, self.index_of(tensor), tensor.dim()]
        self.tensors.append(tensor)
        metadata = extract_tensor_metadata(tensor)
        for field in dataclasses.fields(metadata):
            value = getattr(metadata, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, SymInt):
                    self._add_symbolic(number)
                else:
                    self._words.append(number)

    def _add_symbolic(self, value: SymInt) -> None:
        if not isinstance(value.node, SymNode):
            raise BypassError("symbolic shape")
        index = self._index_of_node.setdefault(id(value.node), len(self.symbols))
        if index == len(self.symbols):
            self.symbols.append(value)
            self._words.append(_SymbolicInt(value.node))
        else:
            self._words += [_SymbolicInt, index]


def _stands_by_identity(value: object) -> bool:
    """Whether ``value`` equals nothing but itself and can die while its key lives."""
    kind: Any = type(value)
    return kind.__hash__ is object.__hash__ and kind.__weakrefoffset__ != 0
