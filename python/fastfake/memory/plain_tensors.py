"""The tensors that have the memory of a tensor subclass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..fake_tensor import FakeTensor

__all__ = ["plain_tensors"]


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Give a fake tensor itself, and of a wrapper such as DTensor the tensors inside, of any depth."""
    if isinstance(tensor, FakeTensor):
        yield tensor
    elif is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from plain_tensors(getattr(tensor, name))
