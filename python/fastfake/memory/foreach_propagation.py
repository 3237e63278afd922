"""How DTensor learns the sharding of operators on lists of tensors, in a time that grows with their number alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from torch.distributed.tensor import _sharding_prop

__all__ = ["arguments_searched_once"]

_SEARCH = "_propagate_use_strided_shard_flag"


@contextlib.contextmanager
def arguments_searched_once() -> Iterator[None]:
    """Look through an operator's arguments once for what DTensor looks for once for each tensor in them.

    That is strided shards, which few programs have. On the hundreds of parameters of a large model, the first step of
    an optimizer takes half the time so.
    """
    search = getattr(_sharding_prop, _SEARCH, None)
    if search is None:
        yield
        return
    searched: Any = None
    finds_some = False

    def search_once(strategy: Any, schema: Any) -> None:
        nonlocal searched, finds_some
        if searched is not schema:
            searched = schema
            finds_some = any(
                isinstance(placement, _sharding_prop._StridedShard)
                for spec in schema.args_spec
                for placement in spec.placements
            )
        if finds_some:
            search(strategy, schema)

    with mock.patch.object(_sharding_prop, _SEARCH, search_once):
        yield
