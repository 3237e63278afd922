"""The contents of the dispatch cache as Python objects, under torch's names.

Native code neither makes nor reads these: its keys are arrays of words and its entries recipes. They are
translated when someone asks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from . import _C
from .cache import cache_info
from .fake_tensor import FakeTensor
from .metadata import TensorMetadata, extract_tensor_metadata
from .miss import higher_order_cache
from .real_computation import no_dispatch

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from .fake_mode import FakeTensorMode

__all__ = [
    "CacheView",
    "SingletonConstant",
    "_BypassDispatchCache",
    "_DispatchCacheBypassEntry",
    "_DispatchCacheEntryOutputInfo",
    "_DispatchCacheKey",
    "_DispatchCacheValidEntry",
    "evict_fake_tensor_cache_key",
    "key_of_call",
]


@dataclass(slots=True, init=False)
class _DispatchCacheKey:
    """The key of a call: the operator, and the words to which native code reduces the rest.

    Attributes:
        key: the operator first.
        hashvalue: the hash of ``key``.
    """

    key: tuple[object, ...]
    hashvalue: int

    def __init__(self, tup: tuple[object, ...]) -> None:
        """Keep ``tup`` and hash it once."""
        self.key, self.hashvalue = tup, hash(tup)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _DispatchCacheKey) and other.key == self.key

    def __hash__(self) -> int:
        return self.hashvalue


class SingletonConstant:
    """Stands for "no constant" in `_DispatchCacheEntryOutputInfo`, where None is a constant."""


@dataclass(frozen=True, slots=True)
class _DispatchCacheEntryOutputInfo:
    """How one result is made: an argument again, a new tensor, or a constant.

    Attributes:
        inplace_idx: which of the call's tensors the result is.
        metadata: of a new tensor.
        view_idx: on the storage of which of the call's tensors a new one is.
        constant_value: a result that is no tensor.
    """

    inplace_idx: int | None
    metadata: TensorMetadata | None
    view_idx: int | None
    constant_value: Any = SingletonConstant


@dataclass(frozen=True, slots=True)
class _DispatchCacheValidEntry:
    """An entry that answers calls.

    Attributes:
        output_infos: one for each tensor or constant among the results, those in lists included.
        is_output_tuple: whether the call gives several results.
    """

    output_infos: tuple[_DispatchCacheEntryOutputInfo, ...]
    is_output_tuple: bool = False


@dataclass(frozen=True, slots=True)
class _DispatchCacheBypassEntry:
    """An entry that remembers why calls have to be computed each time."""

    reason: str


@dataclass
class _BypassDispatchCache(Exception):
    """A call cannot be cached, for ``reason``."""

    reason: str


@dataclass(frozen=True, slots=True)
class SymbolStub:
    """Stands for a symbolic integer in an entry, which keeps no ShapeEnv.

    Attributes:
        source: ``"argument"`` for a symbol among the arguments, ``"numel"`` for the number of elements of a tensor
            among them, ``"new"`` for one that each answer makes anew.
        number: which of that kind.
    """

    source: str
    number: int


# As native code describes it: a number, or the fields of a SymbolStub.
_Integer = int | tuple[str, int]


def _stubs(described: Any) -> Any:
    """Turn descriptions of symbols, in a tuple or alone, into stubs."""
    if not isinstance(described, tuple):
        return described
    if described and isinstance(described[0], str):
        return SymbolStub(*described)
    return tuple(map(_stubs, described))


_Entry = _DispatchCacheValidEntry | _DispatchCacheBypassEntry


class CacheView(Mapping[_DispatchCacheKey, _Entry]):
    """The process's dispatch cache, entries of higher-order operators included, as a mapping not to be written to."""

    def __len__(self) -> int:
        return cache_info().size

    def __iter__(self) -> Iterator[_DispatchCacheKey]:
        for name, overload, words in _C.cache_keys():
            yield _DispatchCacheKey((_operator(name, overload), *words))
        yield from map(_DispatchCacheKey, higher_order_cache.contents())

    def __getitem__(self, key: _DispatchCacheKey) -> _Entry:
        entry = _C.cache_entry(_words(key)) or higher_order_cache.contents().get(key.key)
        if entry is None:
            raise KeyError(key)
        if isinstance(entry, str):
            return _DispatchCacheBypassEntry(entry)
        return _valid_entry(entry)


def key_of_call(
    mode: FakeTensorMode, func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]
) -> _DispatchCacheKey:
    """Return the key of a call of ``func`` under ``mode``.

    Raises:
        _BypassDispatchCache: the call is not cached.
    """
    schema = func._schema
    words = _C.cache_key(mode, schema.name, schema.overload_name, args, dict(kwargs))
    if isinstance(words, str):
        raise _BypassDispatchCache(words)
    if words is None:
        # Nobody can call the operator so, which is why native code has no words for it and no entry this key.
        return _DispatchCacheKey((func, _by_value(mode, tuple(args)), _by_value(mode, dict(kwargs))))
    return _DispatchCacheKey((func, *words))


def _by_value(mode: FakeTensorMode, argument: object) -> tuple[object, ...]:
    """Return what tells an argument from others, hashable unless a value in it is not."""
    if isinstance(argument, list | tuple):
        return type(argument), *(_by_value(mode, element) for element in argument)
    if isinstance(argument, dict):
        return dict, *((key, _by_value(mode, value)) for key, value in argument.items())
    if isinstance(argument, FakeTensor):
        if not mode.is_our_fake(argument):
            raise _BypassDispatchCache("not our fake")
        metadata = extract_tensor_metadata(argument)
        return FakeTensor, *(getattr(metadata, field.name) for field in dataclasses.fields(metadata))
    if isinstance(argument, torch.Tensor):
        raise _BypassDispatchCache("non-fake tensor")
    return type(argument), argument


def evict_fake_tensor_cache_key(key: _DispatchCacheKey) -> None:
    """Drop the entry of one call, if there is one."""
    _C.cache_erase(_words(key))


def _words(key: object) -> list[int]:
    """Return the words in a native key; none for a key of another kind, which no native entry has."""
    words = key.key[1:] if isinstance(key, _DispatchCacheKey) else ()
    numbers = [word for word in words if isinstance(word, int)]
    return numbers if len(numbers) == len(words) else []


def _operator(name: str, overload: str) -> object:
    """Find an operator by name; one that was deregistered since is only a name."""
    namespace, _, operator = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), operator, None)
    return getattr(packet, overload or "default", f"{name}.{overload}")


def _valid_entry(steps: Sequence[tuple[Any, ...]]) -> _DispatchCacheValidEntry:
    made: list[_DispatchCacheEntryOutputInfo] = []
    infos: list[_DispatchCacheEntryOutputInfo] = []
    for kind, *fields in steps:
        if kind == "tensor":
            made.append(_output_info(*fields))
            infos.append(made[-1])
        elif kind == "metadata":
            infos.append(_DispatchCacheEntryOutputInfo(inplace_idx=None, metadata=fields[0], view_idx=None))
        elif kind == "argument":
            infos.append(_DispatchCacheEntryOutputInfo(inplace_idx=fields[0], metadata=None, view_idx=None))
        elif kind == "result":
            infos.append(made[fields[0]])
        elif kind == "constant":
            infos.append(_DispatchCacheEntryOutputInfo(None, None, None, constant_value=fields[0]))
        elif kind == "symbol":
            infos.append(_DispatchCacheEntryOutputInfo(None, None, None, constant_value=_stubs(fields[0])))
    return _DispatchCacheValidEntry(tuple(infos), is_output_tuple=len(steps) > 1)


def _output_info(
    dtype: torch.dtype,
    geometry: tuple[tuple[_Integer, ...], tuple[_Integer, ...], _Integer],
    device: torch.device,
    storage_bytes: _Integer,
    is_conj: bool,
    is_neg: bool,
    is_inference: bool,
    view_idx: int | None,
) -> _DispatchCacheEntryOutputInfo:
    shape, stride, offset = (_stubs(part) for part in geometry)
    is_symbolic = any(isinstance(size, SymbolStub) for size in (*shape, *stride, offset))
    # A meta tensor of these sizes knows in which memory format it is contiguous.
    with no_dispatch():
        model = torch.empty((), dtype=dtype, device="meta")
        metadata = extract_tensor_metadata(model if is_symbolic else model.new_empty_strided(shape, stride))
    metadata = dataclasses.replace(
        metadata,
        shape=shape if is_symbolic else metadata.shape,
        stride=stride if is_symbolic else metadata.stride,
        memory_format=None if is_symbolic else metadata.memory_format,
        device=device,
        storage_offset=offset,
        storage_bytes=_stubs(storage_bytes),
        is_conj=is_conj,
        is_neg=is_neg,
        is_inference=is_inference,
    )
    return _DispatchCacheEntryOutputInfo(inplace_idx=None, metadata=metadata, view_idx=view_idx)
