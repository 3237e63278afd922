"""Real tensors among the arguments: converted where allowed, refused otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._utils import render_call
from torch.utils import _pytree as pytree

from .. import in_use
from ..errors import UnsupportedFakeTensorException
from ..fake_tensor import FakeTensor
from ..thread_state import fake_tensor_tls

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.utils._pytree import TreeSpec

    from ..converter import FakeTensorConverter
    from ..fake_mode import FakeTensorMode

__all__ = ["convert_for_cache", "convert_real_tensors"]

_PLAIN_CLASSES = (Tensor, torch.nn.Parameter)


def convert_real_tensors(
    mode: FakeTensorMode,
    func: OpOverload,
    converter: FakeTensorConverter,
    leaves: Sequence[object],
    args_spec: TreeSpec,
) -> tuple[list[object], list[FakeTensor]]:
    """Replace the tensors among ``leaves`` that are not fake tensors of ``mode``.

    Returns:
        The arguments, and those of them that are fake tensors.

    Raises:
        AssertionError: real tensors are not allowed, or the operator would change the metadata of one, or a
            fake tensor belongs to another mode.
    """
    converted: list[object] = []
    fakes: list[FakeTensor] = []
    for arg in leaves:
        if isinstance(arg, Tensor):
            if not mode.is_our_fake(arg):
                _check_may_convert(mode, func, arg, leaves, args_spec)
                arg = converter.from_real_tensor(mode, arg)
            fakes.append(arg)
        converted.append(arg)
    return converted, fakes


@in_use.computes
def convert_for_cache(mode: FakeTensorMode, tensors: list[Tensor]) -> list[Tensor] | None:
    """Convert real tensors, which are arguments beside fake ones, before the cache is asked. No mode is active.

    It is what computing the call begins with, so that the call has the same effects whether it is answered or computed.

    Returns:
        The fake tensors, or None if the call has to be computed with the real ones: it may raise an error, or a fake
        tensor has a value with it that the cache does not look at.
    """
    if not _allows_real_tensors(mode) or any(type(t) not in _PLAIN_CLASSES or t.is_quantized for t in tensors):
        return None
    in_use.begin()
    try:
        fakes = [mode.fake_tensor_converter.from_real_tensor(mode, t) for t in tensors]
    except UnsupportedFakeTensorException:
        return None
    return None if any(fake._memos for fake in fakes) else list(fakes)


def _allows_real_tensors(mode: FakeTensorMode) -> bool:
    override = fake_tensor_tls.allow_non_fake_inputs_override
    return mode.allow_non_fake_inputs if override is None else override


def _check_may_convert(
    mode: FakeTensorMode, func: OpOverload, t: Tensor, flat_args: Sequence[object], args_spec: TreeSpec
) -> None:
    def rendered() -> Any:
        args, kwargs = pytree.tree_unflatten(flat_args, args_spec)
        return render_call(func, args, kwargs)

    if torch.Tag.inplace_view in getattr(func, "tags", ()):
        raise AssertionError(f"Can't call metadata mutating ops on non-Fake Tensor inputs. Found in {rendered()}")
    if _allows_real_tensors(mode):
        return
    if isinstance(t, FakeTensor):
        raise AssertionError(f"Mixing fake modes NYI x.fake_mode={t.fake_mode} vs self={mode}")
    raise AssertionError(
        "Please convert all Tensors to FakeTensors first or instantiate FakeTensorMode "
        f"with 'allow_non_fake_inputs'. Found in {rendered()}"
    )
