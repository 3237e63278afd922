"""Rules for single operators: those of primitives, of users, and of torch for its own."""

from __future__ import annotations

import torch
from torch._library.fake_impl import FakeImplCtx, set_ctx_getter
from torch._library.fake_profile import MissingOpProfile
from torch._library.simple_registry import singleton as registry

from .. import config
from .call import NOT_HANDLED, Call
from .operator_traits import OperatorTraits
from .real_propagation import infer_fake_kernel

__all__ = ["memory_of_accelerators", "operator_profile", "prim_meta", "registered_by_user", "special_cased_by_torch"]


def prim_meta(call: Call, traits: OperatorTraits) -> object:
    """Run the meta function of a primitive, which takes and gives fake tensors."""
    if traits.prim_meta is None:
        return NOT_HANDLED
    with call.mode:
        return traits.prim_meta(*call.args, **call.kwargs)


def operator_profile(call: Call) -> object:
    """Use what was recorded of a custom operator on real tensors, if the user configured a profile."""
    profiles = config.custom_ops_profile()
    if profiles is None or call.func not in profiles.data:
        return NOT_HANDLED
    call.real_run = None
    return profiles.generic_fake_kernel(call.func, call.mode, *call.args, **call.kwargs)


def registered_by_user(call: Call) -> object:
    """Run the implementation given to `torch.library.register_fake`.

    One that torch generated from profiles knows the arguments profiled and no others. For others the result
    is inferred from the real one, if there is one.
    """
    implementation = registry.find(call.func.name()).fake_impl.kernel
    if implementation is None:
        return NOT_HANDLED
    context = FakeImplCtx(call.mode, call.func)
    try:
        with set_ctx_getter(lambda: context), call.mode:
            return implementation(*call.args, **call.kwargs)
    except MissingOpProfile:
        result = infer_fake_kernel(call)
        if result is NOT_HANDLED:
            raise
        return result


def memory_of_accelerators(call: Call) -> object:
    """Run `Tensor.pin_memory` and `Tensor.record_stream`, which torch raises for; its rule for the former is to raise.

    A fake tensor does not tell whether it is pinned.
    """
    if call.func is torch.ops.aten._pin_memory.default:
        tensor = call.args[0]
        with call.mode:
            return tensor.new_empty_strided(tensor.size(), tensor.stride())
    if call.func is torch.ops.aten.record_stream.default:
        return None
    return NOT_HANDLED


def special_cased_by_torch(call: Call) -> object:
    """Run torch's own rule for the operator (`torch._subclasses.fake_impls`), the first that takes the call."""
    checks = torch._subclasses.fake_impls.op_implementations_checks
    for applies_to, implementation in checks:
        if applies_to(call.func):
            result = implementation(call.mode, call.func, *call.args, **call.kwargs)
            if result is not NotImplemented:
                return result
    return NOT_HANDLED
