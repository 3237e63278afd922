"""Values that are known although the tensors are fake.

``torch.tensor(3)`` under a mode is a fake tensor with a known value, so that ``.item()`` on it works. Values
are kept for tensors of one element, computed through operators whose arguments are all known, and forgotten
when a tensor that shares their storage is written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.meta_utils import is_sparse_any
from torch.fx.operator_schemas import normalize_function
from torch.utils import _pytree as pytree

from .. import devices
from ..converter import FakeTensorConverter
from ..fake_tensor import FakeTensor
from ..real_computation import no_dispatch
from . import known_values
from .call import NOT_HANDLED, Call
from .operator_traits import OperatorTraits, schema_info

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode

__all__ = ["fold_known_values", "forget_written", "is_given_back", "lift_numbers", "lift_plain", "may_be_remembered"]

aten = torch.ops.aten


def may_be_remembered(mode: FakeTensorMode, t: Tensor) -> bool:
    """Whether ``t`` is a real tensor small enough to keep as a known value."""
    if t.numel() > known_values.limit_of(mode):
        return False
    return not is_sparse_any(t) and not mode.is_our_fake(t) and t.device.type != "meta"


def _takes_an_absent_device(call: Call) -> bool:
    """Whether computing the call for real would touch an accelerator that this machine lacks."""
    if not call.mode.avoid_device_init:
        return False
    if call.func is torch.ops.prims.device_put.default or call.kwargs.get("pin_memory"):
        return True
    device = call.kwargs.get("device")
    if device is None or device.type == "cpu":
        return False
    return call.func is aten._to_copy.default or device.type != "meta"


def lift_numbers(call: Call, traits: OperatorTraits) -> object:
    """Compute calls that have no fake tensors among their arguments for real: their value is known.

    These are ``torch.tensor(numbers)``, and operators like ``torch.add(1, 2)`` that take numbers for tensors.
    """
    if call.fake_args:
        return NOT_HANDLED
    if not traits.is_lift:
        if not devices.should_allow_numbers_as_tensors(call.func) or call.has_symbolic_sizes:
            return NOT_HANDLED
        copies_meta = (
            call.func is aten._to_copy.default
            and isinstance(call.args[0], Tensor)
            and call.args[0].device.type == "meta"
        )
        if copies_meta or _takes_an_absent_device(call):
            return NOT_HANDLED
    out = call.func(*call.args, **call.kwargs)
    kept = known_values.keep_lifted(call.mode, out)
    if kept is not NOT_HANDLED:
        return kept
    # Exactly a Tensor: cloning a wrapper subclass without dispatch would touch data that it does not have.
    if type(out) is Tensor and may_be_remembered(call.mode, out):
        with no_dispatch():
            value = out.clone()
        return call.mode.fake_tensor_converter.from_real_tensor(call.mode, value, make_constant=True)
    if traits.is_lift:
        return _lift_unknown(call)
    return NOT_HANDLED


def lift_plain(mode: FakeTensorMode, t: Tensor) -> FakeTensor | None:
    """Do as `lift_numbers` with a plain tensor on the CPU that no Python code has seen, and does not see hereafter.

    Native code calls it, with dispatch to modes disabled. None if it takes `lift_numbers`.
    """
    converter = mode.fake_tensor_converter
    if type(converter) is not FakeTensorConverter:
        return None
    is_known = t.numel() <= known_values.limit_of(mode)
    return converter.from_plain_tensor(mode, t.clone() if is_known else t, make_constant=is_known)


def _lift_unknown(call: Call) -> object:
    """Convert a tensor from ``torch.tensor`` that is too large for its value to be kept."""
    if call.kwargs or len(call.args) != 1:
        raise AssertionError(f"Expected exactly one arg for lift func, got args={call.args} kwargs={call.kwargs}")
    if type(call.args[0]) is Tensor:
        return call.mode.fake_tensor_converter.from_real_tensor(call.mode, call.args[0])
    return NOT_HANDLED


def fold_known_values(call: Call, traits: OperatorTraits) -> object:
    """Compute a call all of whose tensor arguments have known values.

    Where the results are too large to keep, the call goes on with fake tensors; constants that alias the
    results are forgotten, since the results may be written to without the constants' knowing.
    """
    if not call.fake_args or call.has_symbolic_sizes or not traits.may_fold:
        return NOT_HANDLED
    if any(t.constant is None for t in call.fake_args) or _takes_an_absent_device(call):
        return NOT_HANDLED
    mode, converter = call.mode, call.mode.fake_tensor_converter
    args, kwargs = call.nest([leaf.constant if mode.is_our_fake(leaf) else leaf for leaf in call.flat_args])
    with no_dispatch():
        out = call.func(*args, **kwargs)
    tensors = [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
    if all(may_be_remembered(mode, t) for t in tensors):
        return pytree.tree_map_only(Tensor, lambda t: converter.from_real_tensor(mode, t, make_constant=True), out)
    for t in tensors:
        converter.invalidate_constant_aliases(t)
    return NOT_HANDLED


def is_given_back(mode: FakeTensorMode, fake: FakeTensor) -> bool:
    """Whether `fold_known_values` gives ``fake`` itself for a call that writes to its value and returns it.

    The value, if there is one, is a strided tensor on the CPU.
    """
    value = fake.constant
    if value is None or value.numel() > known_values.limit_of(mode):
        return False
    return mode.fake_tensor_converter.known_fake(value) is fake


def forget_written(
    mode: FakeTensorMode,
    func: OpOverload,
    fake_args: Sequence[FakeTensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    """Forget the known values of arguments that ``func`` writes to, and of everything on their storage."""
    if all(t.constant is None for t in fake_args):
        return
    info = schema_info(func)
    if not info.is_mutable():
        return
    normalized = normalize_function(func, tuple(args), dict(kwargs), normalize_to_only_use_kwargs=True)
    if normalized is None:
        return
    for name, value in normalized.kwargs.items():
        # normalize_function renames `self`.
        argument = "self" if name == "input" and not info.has_argument(name) else name
        if mode.is_our_fake(value) and value.constant is not None and info.is_mutable(argument):
            mode.fake_tensor_converter.invalidate_constant_aliases(value.constant)
