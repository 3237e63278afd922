"""The cache of higher-order operators' results.

Higher-order operators do not pass through the native cache, since their arguments are graphs. A compiler
calls ``invoke_subgraph`` with the same graph once for each layer of a model, and running the graph anew each
time is slow. Graphs stand in keys by identity. The entries of a graph go when it dies. Entries with symbols
in their key belong to the symbols' ShapeEnv, on whose guards they rely.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import SymInt, Tensor
from torch._higher_order_ops.utils import hops_that_skip_faketensor_cache
from torch._subclasses.meta_utils import is_sparse_any
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.weak import WeakIdKeyDictionary

from ..fake_tensor import FakeTensor
from ..kernel_invocation import in_kernel_invocation_manager
from ..logs import hierarchical_compile_log
from ..metadata import TensorMetadata, extract_tensor_metadata
from . import crosscheck
from .call import Call
from .higher_order_key import BypassError, CallKey

if TYPE_CHECKING:
    from ..fake_mode import FakeTensorMode

__all__ = ["Statistics", "cached", "clear", "contents", "statistics"]


@dataclasses.dataclass(slots=True)
class Statistics:
    """What this cache did since it was last cleared; see `DispatchCacheInfo`."""

    hits: int = 0
    misses: int = 0
    bypasses: Counter[str] = dataclasses.field(default_factory=Counter)
    size: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Template:
    """How to make one tensor. A size is a number, or a _FromArguments."""

    metadata: TensorMetadata

    def build(self, mode: FakeTensorMode, key: CallKey) -> FakeTensor:
        def number(value: Any) -> Any:
            return key.symbols[value.index] if isinstance(value, _FromArguments) else value

        metadata = self.metadata
        with in_kernel_invocation_manager(mode), _without_guards(mode):
            meta = torch.empty_strided(
                [number(size) for size in metadata.shape],
                [number(stride) for stride in metadata.stride],
                dtype=metadata.dtype,
                device="meta",
                requires_grad=metadata.requires_grad,
            )
        if metadata.is_conj:
            torch._C._set_conj(meta, True)
        if metadata.is_neg:
            torch._C._set_neg(meta, True)
        return FakeTensor(mode, meta, metadata.device)


@dataclasses.dataclass(frozen=True, slots=True)
class _FromArguments:
    """A result that is one of the call's tensors, or a size that is one of its symbols."""

    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """What a call returns, or why that is not remembered.

    Attributes:
        results: for each result, how to make it, which argument it is, or its value.
        is_tuple: whether the results come in a tuple; if not, there is one.
        bypass: the reason; empty if there is none.
    """

    results: tuple[_Template | _FromArguments | int | None, ...] = ()
    is_tuple: bool = False
    bypass: str = ""

    def steps(self) -> list[tuple[str, Any]]:
        def step(result: _Template | _FromArguments | int | None) -> tuple[str, Any]:
            if isinstance(result, _Template):
                return "metadata", result.metadata
            return ("argument", result.index) if isinstance(result, _FromArguments) else ("constant", result)

        return [step(result) for result in self.results]

    def answer(self, mode: FakeTensorMode, key: CallKey) -> Any:
        def make(result: _Template | _FromArguments | int | None) -> Any:
            if isinstance(result, _Template):
                return result.build(mode, key)
            return key.tensors[result.index] if isinstance(result, _FromArguments) else result

        made = tuple(make(result) for result in self.results)
        return made if self.is_tuple else made[0]


class _Table:
    """Entries by graph, then by key."""

    def __init__(self) -> None:
        self._by_graph = WeakIdKeyDictionary()

    def entries(self, graph: object) -> dict[tuple[Hashable, ...], _Entry]:
        return self._by_graph.setdefault(graph, {})

    def items(self) -> Iterator[tuple[tuple[Hashable, ...], _Entry]]:
        for entries in list(self._by_graph.values()):
            yield from entries.items()

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._by_graph.values())


_table = _Table()
_statistics = Statistics()
# torch keeps this dictionary on a ShapeEnv for us and leaves it out where ShapeEnvs are compared or pickled.
_NAME_ON_SHAPE_ENV = "fastfake.higher_order"


def cached(call: Call, compute: Callable[[], Any]) -> Any:
    """Answer a call from the cache; compute and remember it if it is new."""
    if not call.mode.cache_enabled:
        return compute()
    try:
        key = CallKey(call)
    except BypassError as bypass:
        _count_bypass(call, str(bypass))
        return compute()
    entries = _table_of(key).entries(key.graph)
    entry = entries.get(key.words)
    if entry is None:
        result = compute()
        entry = _record(call, key, result)
        entries[key.words] = entry
        if entry.bypass:
            _count_bypass(call, entry.bypass)
        else:
            _statistics.misses += 1
        return result
    if entry.bypass:
        _count_bypass(call, entry.bypass)
        return compute()
    result = entry.answer(call.mode, key)
    _statistics.hits += 1
    if call.mode.cache_crosscheck_enabled:
        crosscheck.compare(str(call.func), call.args, _as_list(result), _as_list(_computed_anew(call, compute)))
    return result


def statistics() -> Statistics:
    """Return what the cache did. Entries that ShapeEnvs own are not counted as its size."""
    return dataclasses.replace(_statistics, bypasses=Counter(_statistics.bypasses), size=len(_table))


def contents() -> dict[tuple[Hashable, ...], list[tuple[str, Any]] | str]:
    """Return for each key that no ShapeEnv owns how its results are made, or why they are computed each time."""
    return {words: entry.bypass or entry.steps() for words, entry in _table.items()}


def clear() -> None:
    """Drop the entries that no ShapeEnv owns, and the statistics."""
    global _table, _statistics
    _table, _statistics = _Table(), Statistics()


def _table_of(key: CallKey) -> _Table:
    shape_env = key.shape_env()
    if shape_env is None:
        return _table
    # Typed as torch's own entries are.
    tables: dict[str, _Table] = shape_env.fake_tensor_cache  # type: ignore[assignment]
    return tables.setdefault(_NAME_ON_SHAPE_ENV, _Table())


def _record(call: Call, key: CallKey, result: Any) -> _Entry:
    is_tuple = isinstance(result, tuple)
    results = result if is_tuple else (result,)
    try:
        if call.func in hops_that_skip_faketensor_cache:
            raise BypassError(f"{call.func} in hops_that_skip_faketensor_cache")
        _check_symbols(call, key, results)
        entry = _Entry(tuple(_record_result(call.mode, key, one) for one in results), is_tuple)
        _check_aliasing(key, results)
    except BypassError as bypass:
        return _Entry(bypass=str(bypass))
    return entry


def _record_result(mode: FakeTensorMode, key: CallKey, result: Any) -> _Template | _FromArguments | int | None:
    if result is None or isinstance(result, int):
        return result
    if not isinstance(result, FakeTensor):
        raise BypassError("non-FakeTensor output")
    index = key.index_of(result)
    if index is not None:
        return _FromArguments(index)
    if result.constant is not None:
        raise BypassError("constant attribute")
    if is_sparse_any(result):
        raise BypassError("sparse output")
    template = _Template(_with_symbols_of(key, extract_tensor_metadata(result)))
    _check_rebuilt(mode, result, template.build(mode, key))
    return template


def _with_symbols_of(key: CallKey, metadata: TensorMetadata) -> TensorMetadata:
    """Refer to the call's symbols where sizes are such: a later call has nodes of its own for them."""
    index_of_node = {id(symbol.node): index for index, symbol in enumerate(key.symbols)}

    def refer(value: Any) -> Any:
        index = index_of_node.get(id(value.node)) if isinstance(value, SymInt) else None
        return value if index is None else _FromArguments(index)

    return dataclasses.replace(
        metadata,
        shape=tuple(refer(size) for size in metadata.shape),
        stride=tuple(refer(stride) for stride in metadata.stride),
    )


def _check_rebuilt(mode: FakeTensorMode, result: FakeTensor, rebuilt: FakeTensor) -> None:
    """Check that a result made from its template is like the computed one; offset and kind of tensor may differ."""
    if torch._C._dispatch_key_set(rebuilt) != torch._C._dispatch_key_set(result):
        raise BypassError("dispatch_key_set mismatch")
    with _without_guards(mode):
        if extract_tensor_metadata(rebuilt) != extract_tensor_metadata(result):
            raise BypassError("metadata mismatch")


def _check_symbols(call: Call, key: CallKey, results: tuple[Any, ...]) -> None:
    """Check that the results' symbols are the arguments', and that nobody has to see them made."""
    from torch.fx.experimental.symbolic_shapes import _iterate_exprs, has_free_unbacked_symbols

    tensors = [result for result in results if isinstance(result, Tensor | SymInt)]
    if any(has_free_unbacked_symbols(tensor) for tensor in tensors):
        raise BypassError(f"unbacked symbol in HOP {call.func} output")
    symbols = {symbol for tensor in tensors for expr in _iterate_exprs(tensor) for symbol in expr.free_symbols}
    if symbols and get_proxy_mode() is not None:
        raise BypassError("Proxy mode with SymNode output")
    if symbols - {symbol for number in key.symbols for symbol in number.node.expr.free_symbols}:
        raise BypassError("unrepresented symbol in output")


def _check_aliasing(key: CallKey, results: tuple[Any, ...]) -> None:
    """Check that no two results share a storage, nor one with an argument that it is not."""
    new = [t for t in results if isinstance(t, Tensor) and key.index_of(t) is None]
    storages = [t.untyped_storage()._cdata for t in new]
    taken = {t.untyped_storage()._cdata for t in key.tensors}
    if len(set(storages)) < len(storages) or not taken.isdisjoint(storages):
        raise BypassError("aliasing output")


def _computed_anew(call: Call, compute: Callable[[], Any]) -> Any:
    # The operators of the graph are not to be answered from the cache either.
    call.mode.cache_enabled = False
    try:
        return compute()
    finally:
        call.mode.cache_enabled = True


def _count_bypass(call: Call, reason: str) -> None:
    _statistics.bypasses[reason] += 1
    if call.func.name() == "invoke_subgraph":
        hierarchical_compile_log.debug("Fake tensor cache failed: identifier = %s, reason = %s", call.args[1], reason)


def _without_guards(mode: FakeTensorMode) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if mode.shape_env is None else mode.shape_env.suppress_guards()


def _as_list(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]
