"""The operator's own meta kernel, with the results put on the right device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .. import devices
from ..converter import fake_on_meta
from ..fake_tensor import FakeTensor
from ..kernel_invocation import in_kernel_invocation_manager
from ..logs import log
from .call import Call
from .fallback_kernel import run_for_want_of_meta

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode

__all__ = ["run", "wrap_results"]


def run(call: Call) -> object:
    """Run the meta kernel of the operator; without one, run it on zeros where that is allowed."""
    from torch._subclasses.fake_impls import has_meta

    # Asked first because an operator without a meta kernel takes long to fail.
    if not has_meta(call.func):
        return run_for_want_of_meta(call)
    try:
        with in_kernel_invocation_manager(call.mode):
            results = call.func(*call.args, **call.kwargs)
    except NotImplementedError as error:
        call.real_run = None
        return run_for_want_of_meta(call, error)
    except Exception:
        log.exception("failed while attempting to run meta for %s", call.func)
        raise
    return wrap_results(call.mode, results, call.func, call.flat_args, call.kwargs.get("device"))


def wrap_results(
    mode: FakeTensorMode,
    results: object,
    func: OpOverload,
    flat_args: Sequence[object],
    device: torch.device | None,
) -> Any:
    """Turn the meta tensors among ``results`` into fake tensors.

    Args:
        mode: the mode of the fake tensors.
        results: what the meta kernel returned, nested in any containers.
        func: the operator.
        flat_args: its arguments, which decide the device.
        device: the device asked for by keyword, which wins.
    """
    common: torch.device | None = None
    only_numbers = False
    made: dict[int, FakeTensor] = {}  # a meta tensor may occur twice among the results

    def wrap(t: Tensor) -> Tensor:
        nonlocal common, only_numbers
        if common is None:
            # Only now: without tensor results there may be no common device.
            common, only_numbers = devices.common_device(func, flat_args)
        if mode.is_our_fake(t):
            torch._check(
                t.device == common,
                lambda: f"FakeTensor is wrapped to wrong device, found {t.device}, expected {common}",
            )
            return t
        if only_numbers:
            # An operator on numbers gives a real tensor.
            return mode.fake_tensor_converter.from_real_tensor(mode, t)
        # Not through the converter's memo: the meta tensor is fresh, and the memo's weak reference would keep
        # `torch.utils.swap_tensors`, and so `Module.to`, from working on the result.
        if id(t) not in made:
            made[id(t)] = fake_on_meta(mode, t, device or common)
        return made[id(t)]

    return tree_map_only(Tensor, wrap, results)
