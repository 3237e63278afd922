"""What memory is for under FSDP2, which gathers parameters and scatters gradients in buffers of its own."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .roles import note_role, note_role_of_argument
from .timeline import Category

__all__ = ["roles_under_fsdp"]


@contextlib.contextmanager
def roles_under_fsdp() -> Iterator[None]:
    """Tell the ledger of whole parameters, gradients and shards when FSDP2 has made them."""
    module = sys.modules.get("torch.distributed.fsdp._fully_shard._fsdp_param_group")
    if module is None:
        yield
        return
    note_role_of_argument("c10d::_allgather_base_", 0, Category.ALL_GATHER)
    note_role_of_argument("c10d::_reduce_scatter_base_", 1, Category.REDUCE_SCATTER)
    group = module.FSDPParamGroup
    with (
        _around(group, "wait_for_unshard", after=_note_gathered_parameters),
        _around(group, "post_backward", before=_note_whole_gradients, after=_note_shards_of_gradients),
    ):
        yield


def _note_gathered_parameters(group: Any) -> None:
    for parameter in group.fsdp_params:
        whole = getattr(parameter, "_unsharded_param", None)
        if whole is not None:
            note_role(whole, Category.GATHERED_PARAMETER)


def _note_whole_gradients(group: Any) -> None:
    for parameter in group.fsdp_params:
        whole = getattr(parameter, "_unsharded_param", None)
        if whole is not None and whole.grad is not None:
            note_role(whole.grad, Category.WHOLE_GRADIENT)


def _note_shards_of_gradients(group: Any) -> None:
    for parameter in group.fsdp_params:
        if parameter.sharded_param.grad is not None:
            note_role(parameter.sharded_param.grad, Category.GRADIENT)


def _nothing(group: Any) -> None:
    pass


@contextlib.contextmanager
def _around(
    owner: Any,
    name: str,
    *,
    before: Callable[[Any], None] = _nothing,
    after: Callable[[Any], None] = _nothing,
) -> Iterator[None]:
    method = getattr(owner, name)

    @functools.wraps(method)
    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        before(self)
        result = method(self, *args, **kwargs)
        after(self)
        return result

    setattr(owner, name, told)
    try:
        yield
    finally:
        if getattr(owner, name) is told:
            setattr(owner, name, method)
