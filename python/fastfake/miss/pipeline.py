"""The order of the steps. It is torch's, since results depend on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import (
    constants,
    conversion,
    decomposition,
    fake_implementations,
    higher_order,
    higher_order_cache,
    jit_tracing,
    known_values,
    meta_kernel,
    real_propagation,
    subclasses,
    unknown_items,
)
from .call import NOT_HANDLED, Call
from .operator_traits import OperatorTraits, is_higher_order, traits_of

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode

__all__ = ["run"]


def run(mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """Compute the fake results of one call.

    Returns NotImplemented if a tensor subclass among the arguments is to be asked first.
    """
    result = jit_tracing.run(mode, func, args, kwargs)
    if result is not NOT_HANDLED:
        return result
    call = Call(mode, func, args, kwargs)
    if subclasses.found_in(call.flat_args):
        return NotImplemented
    if is_higher_order(func):
        return higher_order_cache.cached(call, lambda: _run_higher_order(call))
    traits = traits_of(func)

    result = constants.lift_numbers(call, traits)
    if result is not NOT_HANDLED:
        return result
    _convert_arguments(call)
    if unknown_items.is_item(func):
        return unknown_items.number_of(call, lambda: _with_values(call, traits))
    return _with_values(call, traits)


def _with_values(call: Call, traits: OperatorTraits) -> object:
    """Compute the results and what is known of their values: as `known_values` does, or as torch, in `constants`."""
    if known_values.are_followed(call):
        return known_values.follow(call, traits, lambda: _computed(call, traits))
    result = constants.fold_known_values(call, traits)
    if result is not NOT_HANDLED:
        return result
    constants.forget_written(call.mode, call.func, call.fake_args, call.args, call.kwargs)
    return _computed(call, traits)


def _computed(call: Call, traits: OperatorTraits) -> object:
    call.real_run = real_propagation.run_for_real(call)
    return real_propagation.propagate(call, _fake_results(call, traits))


def _fake_results(call: Call, traits: OperatorTraits) -> object:
    """Try the ways to compute on fake tensors one after the other."""
    for step in (
        lambda: decomposition.fast_implementation(call),
        lambda: decomposition.dense_of_mkldnn(call),
        lambda: decomposition.decompose(call, traits),
        lambda: fake_implementations.prim_meta(call, traits),
        lambda: fake_implementations.operator_profile(call),
        lambda: real_propagation.infer_missing_fake_kernel(call),
        lambda: fake_implementations.registered_by_user(call),
        lambda: fake_implementations.memory_of_accelerators(call),
        lambda: fake_implementations.special_cased_by_torch(call),
    ):
        result = step()
        if result is not NOT_HANDLED:
            return result
    return meta_kernel.run(call)


def _run_higher_order(call: Call) -> object:
    _convert_arguments(call)
    # What it computes is not what happens: of `cond` both branches, of a loop one iteration.
    with known_values.unfollowed() if known_values.are_followed(call) else nullcontext():
        return higher_order.run(call)


def _convert_arguments(call: Call) -> None:
    if sum(isinstance(leaf, Tensor) for leaf in call.flat_args) == len(call.fake_args):
        return
    call.replace_args(
        *conversion.convert_real_tensors(
            call.mode, call.func, call.mode.fake_tensor_converter, call.flat_args, call.args_spec
        )
    )
