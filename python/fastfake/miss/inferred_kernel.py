"""Fake results made up from real ones, for operators whose fake implementation is missing or wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch._library.fake_impl import allocate_size
from torch.types import IntLikeType
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode

__all__ = ["infer_result", "infer_tensor"]


def infer_result(mode: FakeTensorMode, op: OpOverload, real_out: Any) -> Any:
    """Make fake tensors like the real tensors that ``op`` returned.

    Args:
        mode: the mode of the fake tensors, which needs a ShapeEnv: their sizes become unbacked symbols.
        op: the operator, for messages.
        real_out: its real result, nested in any containers.

    Raises:
        RuntimeError: the result holds something else than tensors, or tensors that cannot be described by
            their sizes alone.
    """
    if mode.shape_env is None:
        raise AssertionError("mode.shape_env must not be None")
    leaves, spec = pytree.tree_flatten(real_out)
    # Numbers would be burnt into a compiled program.
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise RuntimeError(
            f"propagate_real_tensors: we don't support operators that return non-Tensors. Got {op._schema}"
        )
    return pytree.tree_unflatten([infer_tensor(mode, op, leaf) for leaf in leaves], spec)


def infer_tensor(mode: FakeTensorMode, op: OpOverload, real_out: Tensor) -> Tensor:
    """Make a fake tensor like one real result of ``op``, with the same rank and order of strides.

    Each size becomes a symbol of its own, since nothing tells which sizes depend on data. The strides are
    products of the sizes: compilers make little of strides that are symbols.

    Raises:
        RuntimeError: the tensor does not start at its storage's start, or has gaps.
    """
    if real_out.storage_offset() != 0:
        _refuse(op, f"a return has a non-zero storage offset {real_out.storage_offset()}")
    sizes = [allocate_size(mode.shape_env) for _ in range(real_out.dim())]
    strides = _dense_strides(op, real_out, sizes)
    with mode:
        return torch.empty_strided(sizes, strides, device=real_out.device, dtype=real_out.dtype, layout=real_out.layout)


def _dense_strides(op: OpOverload, real_out: Tensor, sizes: list[torch.SymInt]) -> list[IntLikeType]:
    """Return the strides of a dense tensor of ``sizes`` whose dimensions lie in memory as those of ``real_out``."""
    strides: list[IntLikeType] = [-1] * real_out.dim()
    # Innermost first; of equal strides, which dimensions of size one have, the last dimension.
    innermost_first = sorted(range(real_out.dim()), key=lambda dim: (real_out.stride(dim), -dim))
    expected, stride = 1, 1
    for dim in innermost_first:
        if real_out.stride(dim) != expected:
            layout = f"(sizes {real_out.shape} strides {real_out.stride()})"
            _refuse(op, f"a return was not dense in memory {layout}")
        strides[dim] = stride
        expected *= real_out.shape[dim]
        stride = stride * sizes[dim]  # type: ignore[assignment]
    return strides


def _refuse(op: OpOverload, reason: str) -> NoReturn:
    raise RuntimeError(
        f"propagate_real_tensors: we cannot infer a Fake kernel (meta kernel) for operator {op._name} "
        f"because {reason}. Please use torch.library.register_fake to add a Fake kernel."
    )
