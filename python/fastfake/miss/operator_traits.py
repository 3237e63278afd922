"""What the miss path needs to know of an operator, decided once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import HigherOrderOperator, OpOverload

from ..torch_version import AT_LEAST_2_14, AT_LEAST_2_15, of_torch
from .operator_memo import decided_once

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = [
    "LIFT_OPERATORS",
    "RUN_DIRECTLY",
    "OperatorTraits",
    "cpp_meta_supports_symint",
    "schema_info",
    "traits_of",
]

aten = torch.ops.aten

# What `torch.tensor` calls on the tensor that it made from Python numbers.
LIFT_OPERATORS = dict.fromkeys((aten.lift_fresh.default, aten.lift_fresh_copy.default), True)

# Simple queries that any fake tensor answers itself, as a meta tensor.
RUN_DIRECTLY = frozenset(
    {
        aten.is_coalesced.default,
        aten.dense_dim.default,
        aten.sparse_dim.default,
        torch.ops.profiler._record_function_exit._RecordFunction,
    }
)

# torch 2.13's C++ meta kernels that compute with symbolic sizes, besides those of all view_copy operators.
_CPP_META_SUPPORTS_SYMINT = frozenset(
    {
        aten._sparse_coo_tensor_with_dims_and_tensors.default,
        aten.as_strided.default,
        aten.as_strided_.default,
        aten.as_strided_scatter.default,
        aten.detach.default,
        aten.empty.memory_format,
        aten.empty_strided.default,
        aten.set_.source_Storage_storage_offset,
        aten.view_as_complex.default,
        aten.view_as_real.default,
        aten.zeros.default,
    }
)

# Operators with fake implementations that know about unbacked sizes, where decompositions do not.
_HANDLE_UNBACKED_SIZES = frozenset({aten.view.default, aten._unsafe_view.default, aten.slice.Tensor})


def cpp_meta_supports_symint(func: OpOverload) -> bool:
    """Whether the C++ meta kernel of ``func`` takes symbolic sizes."""
    return torch.Tag.view_copy in func.tags or func in _cpp_meta_supports_symint_ops()


@functools.cache
def _cpp_meta_supports_symint_ops() -> Collection[OpOverload]:
    if AT_LEAST_2_15:
        in_torch: Collection[OpOverload] = of_torch("torch._meta_registrations", "cpp_meta_supports_symint_ops")
        return in_torch
    return _CPP_META_SUPPORTS_SYMINT | ({aten.stack.default} if AT_LEAST_2_14 else set())


@decided_once
def schema_info(func: OpOverload) -> Any:
    """Return torch's analysis of the schema of ``func``: which arguments it writes to and aliases."""
    return torch._C._SchemaInfo(func._schema)


@dataclass(frozen=True, slots=True)
class OperatorTraits:
    """Facts of one operator that do not change while the process runs.

    Attributes:
        is_lift: it turns a fresh tensor of Python numbers into one of the mode.
        is_inplace_view: it changes the metadata of its argument.
        is_random: its result depends on a random state.
        may_fold: its result may be computed from known values.
        may_decompose: there is no C++ meta that takes symbols, which makes decomposing needless.
        handles_unbacked_sizes: with symbolic sizes its fake implementation goes before decompositions.
        prim_meta: the meta function of a primitive, which wraps its own results.
    """

    is_lift: bool
    is_inplace_view: bool
    is_random: bool
    may_fold: bool
    may_decompose: bool
    handles_unbacked_sizes: bool
    prim_meta: Callable[..., Any] | None


@decided_once
def traits_of(func: OpOverload) -> OperatorTraits:
    """Decide the traits of ``func``."""
    tags = func.tags
    inplace_view = torch.Tag.inplace_view in tags
    is_random = torch.Tag.nondeterministic_seeded in tags
    # The shape of a folded result must be that of the fake one, and an operator that restrides its
    # argument would do so to the value only. detach_ restrides nothing.
    keeps_shapes = not inplace_view or func is aten.detach_.default
    is_prim = "prims::" in func._schema.name
    return OperatorTraits(
        is_lift=func in LIFT_OPERATORS,
        is_inplace_view=inplace_view,
        is_random=is_random,
        may_fold=not is_random and keeps_shapes and func is not aten._nested_tensor_from_tensor_list.default,
        may_decompose=not cpp_meta_supports_symint(func),
        handles_unbacked_sizes=func in _HANDLE_UNBACKED_SIZES,
        prim_meta=getattr(func, "prim_meta_impl", None) if is_prim else None,
    )


def is_higher_order(func: object) -> bool:
    """Whether ``func`` takes functions, like ``cond``; such operators have no schema to analyse."""
    return isinstance(func, HigherOrderOperator)
