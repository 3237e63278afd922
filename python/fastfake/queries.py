"""Questions about fake tensors and the active mode, and ways to step out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from . import _C
from .fake_tensor import FakeTensor
from .torch_version import AT_LEAST_2_14, of_torch

if TYPE_CHECKING:
    from .fake_mode import FakeTensorMode

__all__ = [
    "disable_fake_tensor_cache",
    "get_plain_tensors",
    "is_fake",
    "is_fake_tensor",
    "maybe_get_fake_constant",
    "maybe_get_fake_device",
    "maybe_get_fake_mode",
    "maybe_get_real_tensor",
    "ordered_set",
    "tree_flatten_only",
    "unset_fake_temporarily",
]

_T = TypeVar("_T")
# What else than tensors a wrapper may hold.
_CUSTOM_CLASS: type = (
    of_torch("torch._custom_class_base", "CustomClassBase")
    if AT_LEAST_2_14
    else of_torch("torch._opaque_base", "OpaqueBase")
)


def unset_fake_temporarily() -> AbstractContextManager[TorchDispatchMode | None]:
    """Return a context in which the fake mode of this thread is inactive. It gives the mode; None if there was none."""
    return _C.FakeModeRemoval()


@contextlib.contextmanager
def disable_fake_tensor_cache(fake_mode: FakeTensorMode) -> Iterator[None]:
    """Compute every call under ``fake_mode`` anew for a while."""
    before = fake_mode.cache_enabled
    fake_mode.cache_enabled = False
    try:
        yield
    finally:
        fake_mode.cache_enabled = before


def get_plain_tensors(subclass: Tensor, *, out: list[Any]) -> list[Any]:
    """Append to ``out`` what a tensor wrapper holds, wrappers inside it unwrapped too, in order.

    Args:
        subclass: a traceable wrapper subclass, or anything else, which is appended itself.
        out: the list to append to, which is also returned.
    """
    if not is_traceable_wrapper_subclass(subclass):
        out.append(subclass)
        return out
    names, _ = subclass.__tensor_flatten__()
    for name in names:
        get_plain_tensors(getattr(subclass, name), out=out)
    return out


def is_fake_tensor(x: object) -> TypeGuard[Tensor]:
    """Whether ``x`` itself is a fake tensor, not a wrapper around some."""
    return isinstance(x, FakeTensor)


def maybe_get_real_tensor(x: object) -> Tensor | None:
    """Return the real tensor computed along with a fake one, if any."""
    return x.real_tensor if isinstance(x, FakeTensor) else None


def maybe_get_fake_device(x: object) -> torch.device | None:
    """Return the device that a fake tensor imitates; None for anything else."""
    return x.fake_device if isinstance(x, FakeTensor) else None


def maybe_get_fake_constant(x: object) -> Tensor | None:
    """Return the known value of a fake tensor, if any."""
    return x.constant if isinstance(x, FakeTensor) else None


def is_fake(x: object) -> TypeGuard[Tensor]:
    """Whether ``x`` is a fake tensor or a wrapper around fake tensors.

    Raises:
        AssertionError: a wrapper holds both fake and real tensors.
    """
    if isinstance(x, FakeTensor):
        return True
    if is_traceable_wrapper_subclass(x):
        answers = {is_fake(inner) for inner in _inner_tensors(x)}
        if len(answers) > 1:
            raise AssertionError("got mixed fake and real tensors!")
        return answers == {True}
    inner = _unwrap(x)
    return inner is not None and is_fake(inner)


def maybe_get_fake_mode(t: object) -> FakeTensorMode | None:
    """Return the mode of a fake tensor, or of the fake tensors that a wrapper holds; None for real tensors.

    Raises:
        AssertionError: a wrapper holds fake tensors of several modes.
    """
    if isinstance(t, FakeTensor):
        return t.fake_mode
    if is_traceable_wrapper_subclass(t):
        mode: FakeTensorMode | None = None
        for inner in _inner_tensors(t):
            inner_mode = maybe_get_fake_mode(inner)
            if mode is not None and inner_mode is not mode:
                raise AssertionError("All fake tensor modes must be the same")
            mode = inner_mode
        return mode
    wrapped = _unwrap(t)
    return None if wrapped is None else maybe_get_fake_mode(wrapped)


def _inner_tensors(wrapper: Any) -> Iterator[Tensor]:
    names, _ = wrapper.__tensor_flatten__()
    for name in names:
        inner = getattr(wrapper, name)
        if isinstance(inner, Tensor):
            yield inner
        elif not isinstance(inner, _CUSTOM_CLASS):
            raise AssertionError(f"expected Tensor or {_CUSTOM_CLASS.__name__}, got {type(inner)}")


def _unwrap(x: object) -> Tensor | None:
    """Return the tensor inside a functional or functorch wrapper, None for anything else."""
    if isinstance(x, FunctionalTensor):
        return x.elem
    if not isinstance(x, Tensor):
        return None
    if torch._is_functional_tensor(x):
        reapply_views = torch._C._functionalization_reapply_views_tls()
        return torch._C._functorch._unwrap_functional_tensor(x, reapply_views)
    if is_functorch_wrapped_tensor(x):
        return torch._C._functorch.get_unwrapped(x)
    return None


def tree_flatten_only(ty: type[_T], tree: object) -> list[_T]:
    """Return the leaves of a pytree that are of type ``ty``."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, ty)]


def ordered_set(*items: _T) -> dict[_T, bool]:
    """Return a dictionary that serves as a set with an order: each item maps to True."""
    return dict.fromkeys(items, True)
