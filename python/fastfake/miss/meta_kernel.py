"""The operator's own meta kernel, with the results put on the right device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.meta_utils import is_sparse_any
from torch.utils._pytree import tree_map_only

from .. import devices
from ..converter import fake_on_meta
from ..fake_tensor import FakeTensor
from ..kernel_invocation import in_kernel_invocation_manager
from ..logs import log
from ..torch_version import AT_LEAST_2_14, AT_LEAST_2_15
from .call import Call
from .fallback_kernel import run_for_want_of_meta

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode

__all__ = ["run", "wrap_results"]

# Since torch 2.14: an alias of an MKLDNN tensor is one.
_KEEP_DISPATCH_KEYS = frozenset({torch.ops.aten.alias.default, torch.ops.aten.detach.default})


def run(call: Call) -> object:
    """Run the meta kernel of the operator; without one, run it on zeros where that is allowed."""
    from torch._subclasses.fake_impls import has_meta

    # Asked first because an operator without a meta kernel takes long to fail.
    if not has_meta(call.func):
        return run_for_want_of_meta(call)
    try:
        with in_kernel_invocation_manager(call.mode), _no_checks_of_indices(call):
            results = call.func(*call.args, **call.kwargs)
    except NotImplementedError as error:
        call.real_run = None
        return run_for_want_of_meta(call, error)
    except Exception:
        log.exception("failed while attempting to run meta for %s", call.func)
        raise
    return wrap_results(call.mode, results, call.func, call.flat_args, call.kwargs.get("device"))


def _no_checks_of_indices(call: Call) -> AbstractContextManager[object]:
    """Since torch 2.15: the checks of sparse tensors read indices, which meta tensors do not have."""
    checks = torch.sparse.check_sparse_tensor_invariants
    if AT_LEAST_2_15 and checks.is_enabled() and any(is_sparse_any(t) for t in call.fake_args):
        return checks(False)
    return nullcontext()


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
    keys = None
    if AT_LEAST_2_14 and func in _KEEP_DISPATCH_KEYS and len(flat_args) == 1 and isinstance(flat_args[0], FakeTensor):
        keys = flat_args[0].dispatch_keys

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
            if keys is not None:
                t.dispatch_keys = keys
            return t
        if only_numbers:
            # An operator on numbers gives a real tensor.
            return mode.fake_tensor_converter.from_real_tensor(mode, t)
        # Not through the converter's memo: the meta tensor is fresh, and the memo's weak reference would keep
        # `torch.utils.swap_tensors`, and so `Module.to`, from working on the result.
        if id(t) not in made:
            made[id(t)] = fake_on_meta(mode, t, device or common, dispatch_keys=keys)
        return made[id(t)]

    return tree_map_only(Tensor, wrap, results)
