"""Operators without a meta kernel: run for real, on zeros, to see what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._library import utils as library_utils
from torch._subclasses.meta_utils import is_sparse_any
from torch.utils import _pytree as pytree

from .. import _C
from ..errors import UnsupportedOperatorException
from ..real_computation import no_dispatch
from .call import Call

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.utils._pytree import TreeSpec

    from ..fake_mode import FakeTensorMode

__all__ = ["is_allowed", "run_fallback_kernel", "run_for_want_of_meta"]

# The namespaces whose kernels are known not to misbehave on zeros. Kernels of others may crash on them.
_NAMESPACES_THAT_MAY_RUN_ON_ZEROS = frozenset(
    {"aten", "debugprims", "prims", "quantized", "torchaudio", "torchtext", "vision", "xla"}
)


def is_allowed(mode: FakeTensorMode, func: OpOverload) -> bool:
    """Whether ``func`` may run on zeros under ``mode``."""
    if not mode.allow_fallback_kernels:
        return False
    return func.namespace in _NAMESPACES_THAT_MAY_RUN_ON_ZEROS or func.name() == "fbgemm::gmm"


def run_for_want_of_meta(call: Call, error: RuntimeError | None = None) -> object:
    """Get the results of an operator that has no meta kernel.

    Args:
        call: the call.
        error: what to raise if the operator turns out not to be able to run on zeros.

    Raises:
        UnsupportedOperatorException: the operator may not run on zeros, or sizes are symbolic.
    """
    func = call.func
    # Custom operators that return nothing, or only arguments, have nothing to compute.
    if library_utils.can_generate_trivial_fake_impl(func):
        return library_utils.generate_trivial_fake_impl(func, *call.args, **call.kwargs)
    if call.has_symbolic_sizes or not is_allowed(call.mode, func):
        raise UnsupportedOperatorException(func)
    return run_fallback_kernel(
        call.mode, func, call.flat_args, call.args_spec, error or UnsupportedOperatorException(func)
    )


def run_fallback_kernel(
    fake_mode: FakeTensorMode,
    func: OpOverload,
    flat_args: Sequence[object],
    args_spec: TreeSpec,
    orig_not_implemented_exception: RuntimeError,
) -> Any:
    """Run ``func`` on zeros of the arguments' shapes and convert what it returns.

    Zeros for tensors on devices that are not there are on the CPU, and so is the computation, except with sparse ones.
    Where the CPU lacks the operator, the error is what torch says of zeros on the first such device.

    Args:
        fake_mode: the mode of arguments and results.
        func: the operator.
        flat_args: its arguments, nested containers flattened; fake tensors with static shapes.
        args_spec: how they nest.
        orig_not_implemented_exception: raised where the results cannot be told this way: the operator changes
            the metadata of an argument, or a result is a view of one.
    """
    if torch.Tag.inplace_view in func.tags:
        raise orig_not_implemented_exception
    fake_of_zeros: dict[int, Tensor] = {}
    absent: set[torch.device] = set()
    is_sparse = any(isinstance(arg, Tensor) and is_sparse_any(arg) for arg in flat_args)

    def present(device: torch.device) -> torch.device:
        if is_sparse or not _C.is_absent(device):
            return device
        absent.add(device)
        return torch.device("cpu")

    def zeros_for(arg: object) -> object:
        if isinstance(arg, torch.device):
            return present(arg)
        if not fake_mode.is_our_fake(arg):
            return arg
        zeros = torch.zeros_like(arg, device=present(arg.fake_device))
        if arg.is_sparse:
            zeros._coalesced_(arg.is_coalesced())
        fake_of_zeros[id(zeros)] = arg
        return zeros

    # Without dispatch and not in a kernel invocation: this computes with data.
    with no_dispatch():
        real_args = [zeros_for(arg) for arg in flat_args]
        args, kwargs = pytree.tree_unflatten(real_args, args_spec)
        try:
            results = func(*args, **kwargs)
        except NotImplementedError:
            for arg in flat_args:
                if fake_mode.is_our_fake(arg) and arg.fake_device in absent:
                    torch.zeros_like(arg, device=arg.fake_device)
            raise

    storages_of_args = {_storage_id(t) for t in real_args if isinstance(t, Tensor) and not is_sparse_any(t)}

    def convert(t: Tensor) -> Tensor:
        argument = fake_of_zeros.get(id(t))
        if argument is not None:
            return argument
        if not is_sparse_any(t) and _storage_id(t) in storages_of_args:
            raise orig_not_implemented_exception
        if len(absent) > 1 or (absent and is_sparse_any(t)):
            raise orig_not_implemented_exception
        fake: Tensor = fake_mode.fake_tensor_converter.from_real_tensor(fake_mode, t)
        for device in absent:
            with fake_mode:
                fake = torch.empty_strided(fake.size(), fake.stride(), dtype=fake.dtype, device=device)
        return fake

    return pytree.tree_map_only(Tensor, convert, results)


def _storage_id(t: Tensor) -> int:
    return t._typed_storage()._cdata
