"""Operators computed through others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch._subclasses.meta_utils import is_sparse_any

from ..torch_version import AT_LEAST_2_14, of_torch
from .call import NOT_HANDLED, Call
from .operator_traits import OperatorTraits

if TYPE_CHECKING:
    from torch._ops import OpOverload

__all__ = ["decompose", "dense_of_mkldnn", "fast_implementation", "torch_decomp_decompositions"]


def torch_decomp_decompositions(func: OpOverload) -> bool:
    """Whether the decomposition of ``func`` is one of ``torch._decomp.decompositions``.

    Those are known to get strides and aliasing right, where some of the references do not.
    """
    decomposition = torch._decomp.decomposition_table[func]
    from_package = decomposition.__module__.startswith("torch._decomp")
    return from_package and hasattr(torch._decomp.decompositions, decomposition.__name__)


def fast_implementation(call: Call) -> object:
    """Run torch's shortcut for a common operator on symbolic sizes, if there is one."""
    if not call.has_symbolic_sizes:
        return NOT_HANDLED
    from torch._subclasses.fake_impls import get_fast_op_impls

    implementation = get_fast_op_impls().get(call.func)
    if implementation is None:
        return NOT_HANDLED
    return implementation(call.mode, *call.args, **call.kwargs)


def dense_of_mkldnn(call: Call) -> object:
    """Make an MKLDNN tensor dense; the composite kernel would see the strided tensor that it is inside."""
    if not AT_LEAST_2_14 or call.func is not torch.ops.aten.to_dense.default:
        return NOT_HANDLED
    to_dense = of_torch("torch._subclasses.fake_impls", "maybe_to_dense_mkldnn")
    dtype = call.args[1] if len(call.args) > 1 else call.kwargs.get("dtype")
    result = to_dense(call.mode, call.args[0], dtype=dtype, masked_grad=call.kwargs.get("masked_grad"))
    return NOT_HANDLED if result is NotImplemented else result


def decompose(call: Call, traits: OperatorTraits) -> object:
    """Run the Python decomposition of the operator, or the composite kernel that it is made of.

    With static sizes only decompositions that are known to be exact are run, and none on sparse tensors.
    """
    func = call.func
    # Python's meta functions go before decompositions.
    if not traits.may_decompose or func in torch._decomp.meta_table:
        return NOT_HANDLED
    if call.has_symbolic_sizes and traits.handles_unbacked_sizes:
        return NOT_HANDLED
    decomposition = torch._decomp.decomposition_table.get(func)
    if decomposition is not None:
        exact = torch_decomp_decompositions(func) and not any(is_sparse_any(t) for t in call.fake_args)
        if call.has_symbolic_sizes or exact:
            with call.mode:
                return decomposition(*call.args, **call.kwargs)
    with call.mode:
        result = func.decompose(*call.args, **call.kwargs)
    return NOT_HANDLED if result is NotImplemented else result
