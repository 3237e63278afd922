"""Plain records of what a call gave back: metadata of every tensor involved and how they alias each other.

A record holds no tensor, so one made with torch's FakeTensor outlives the exchange of the classes and can be
compared with a record made afterwards, or with one of the real eager run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import sympy
import torch
from torch.types import py_sym_types

# ("tensor", 3) names a tensor of the record, (class name, (children...)) a container, (class name, repr) another value.
Structure = tuple[str, object]

# A symbolic number is its expression and the value of it, or None where there is no value to know. Expressions of two
# ShapeEnvs are equal when their symbols have the same names and assumptions.
Symbolic = tuple[sympy.Basic, int | float | bool | None]
Size = int | Symbolic


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """Everything observable about one tensor except its data."""

    cls: str
    is_parameter: bool
    shape: tuple[Size, ...]
    stride: tuple[Size, ...] | None
    dtype: str
    device: str
    layout: str
    storage_offset: Size | None
    storage_bytes: Size | None
    requires_grad: bool
    is_leaf: bool
    grad_fn: str | None
    is_conj: bool
    is_neg: bool
    is_inference: bool
    is_view: bool
    # Inference tensors count no versions.
    version: int | None
    # (coalesced, sparse dimensions, dense dimensions) of sparse tensors
    sparse: tuple[bool, int, int] | None
    has_constant: bool
    # Numbers of the first tensor of the record with the same storage, and of the gradient.
    shares_storage_with: int | None
    grad: int | None


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error by the names of its class and of the class's bases, and by its text without addresses."""

    types: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class CallRecord:
    """Inputs and results after a call, numbered in one sequence: equal numbers mean the same object."""

    tensors: tuple[TensorRecord, ...]
    inputs: Structure
    result: Structure | None
    error: ErrorRecord | None


# Only what differs between two equal runs, or between the two implementations of one class, is taken out of a text.
_MODE_REPR = re.compile(r"<[\w.]*FakeTensorMode object at 0x[0-9a-f]+>")
_ADDRESS = re.compile(r"(\bat |\[)0x[0-9a-f]+")
# Errors of C++ list the frames between the call and the place that raised.
_MORE_THAN_TORCH_SAYS = ": the value of a fake tensor is asked for"  # see tests/test_unknown_items.py
_NATIVE_FRAMES = re.compile(r"\nException raised from .*", re.DOTALL)


def normalised(text: str) -> str:
    text = text.partition(_MORE_THAN_TORCH_SAYS)[0]
    return _NATIVE_FRAMES.sub("", _ADDRESS.sub(r"\g<1>0x", _MODE_REPR.sub("<FakeTensorMode>", text)))


def error_record(error: BaseException) -> ErrorRecord:
    """Modules are left out of the names: the same class may live in torch's package or in ours."""
    bases = tuple(base.__qualname__ for base in type(error).__mro__)
    return ErrorRecord(bases, normalised(str(error)))


class Recorder:
    """Numbers the tensors of one call in the order in which it meets them."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._number_of: dict[int, int] = {}
        # A gradient can be a fresh Python object on each access: one access per tensor keeps identities stable.
        self._grad_of: dict[int, int] = {}

    def structure(self, value: object) -> Structure:
        if isinstance(value, torch.Tensor):
            return ("tensor", self._number(value))
        if isinstance(value, Mapping):
            items = tuple((repr(key), self.structure(item)) for key, item in value.items())
            return (_class_name(value), items)
        if isinstance(value, (tuple, list)):
            return (_class_name(value), tuple(self.structure(item) for item in value))
        if isinstance(value, ErrorRecord):
            return ("error", value)
        if isinstance(value, py_sym_types):
            return (_class_name(value), symbolic(value))
        return (_class_name(value), normalised(repr(value)))

    def tensor_records(self) -> tuple[TensorRecord, ...]:
        first_with_storage: dict[int, int] = {}
        records = []
        for number, tensor in enumerate(self._tensors):
            storage = None if _has_no_storage(tensor) else tensor.untyped_storage()
            shared = None if storage is None else first_with_storage.setdefault(storage._cdata, number)
            records.append(_tensor_record(tensor, storage, shared, self._grad_of.get(number)))
        return tuple(records)

    def _number(self, tensor: torch.Tensor) -> int:
        known = self._number_of.get(id(tensor))
        if known is not None:
            return known
        number = self._number_of[id(tensor)] = len(self._tensors)
        self._tensors.append(tensor)
        if _grad_fn_name(tensor) is None and tensor.grad is not None:
            self._grad_of[number] = self._number(tensor.grad)
        return number


def record_call(
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    context: AbstractContextManager[object],
) -> CallRecord:
    """Call the function within the context and describe arguments and result as they are afterwards."""
    result: object = None
    error: ErrorRecord | None = None
    # The text of an error is made within the context too: it can print fake tensors.
    with context:
        try:
            result = function(*args, **kwargs)
        except Exception as raised:
            error = error_record(raised)
    recorder = Recorder()
    inputs = recorder.structure((*args, dict(kwargs)))
    described = None if error is not None else recorder.structure(result)
    return CallRecord(recorder.tensor_records(), inputs, described, error)


def symbolic(number: torch.SymInt | torch.SymFloat | torch.SymBool) -> Symbolic:
    """Read without a guard, which comparing or printing the value would make."""
    return number.node.expr, number.node.hint if number.node.has_hint() else None


def _size(size: torch.types.IntLikeType) -> Size:
    return symbolic(size) if isinstance(size, torch.SymInt) else size


def _class_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _has_no_storage(tensor: torch.Tensor) -> bool:
    return tensor.layout != torch.strided


def _grad_fn_name(tensor: torch.Tensor) -> str | None:
    """The class of the function that made a tensor, or why torch forbids to ask after certain writes to views."""
    try:
        return None if tensor.grad_fn is None else type(tensor.grad_fn).__name__
    except RuntimeError as error:
        return normalised(str(error))


def _tensor_record(
    tensor: torch.Tensor, storage: torch.UntypedStorage | None, shared: int | None, grad: int | None
) -> TensorRecord:
    strided = tensor.layout == torch.strided
    grad_fn = _grad_fn_name(tensor)
    coordinates = tensor.layout == torch.sparse_coo
    return TensorRecord(
        cls=type(tensor).__qualname__,
        is_parameter=isinstance(tensor, torch.nn.Parameter),
        shape=tuple(map(_size, tensor.shape)),
        stride=tuple(map(_size, tensor.stride())) if strided else None,
        dtype=str(tensor.dtype),
        device=str(tensor.device),
        layout=str(tensor.layout),
        storage_offset=_size(tensor.storage_offset()) if strided else None,
        storage_bytes=None if storage is None else _size(storage.nbytes()),
        requires_grad=tensor.requires_grad,
        is_leaf=grad_fn is None,
        grad_fn=grad_fn,
        is_conj=tensor.is_conj(),
        is_neg=tensor.is_neg(),
        is_inference=tensor.is_inference(),
        is_view=tensor._is_view(),
        version=None if tensor.is_inference() else tensor._version,
        sparse=(tensor.is_coalesced(), tensor.sparse_dim(), tensor.dense_dim()) if coordinates else None,
        has_constant=getattr(tensor, "constant", None) is not None,
        shares_storage_with=shared,
        grad=grad,
    )
