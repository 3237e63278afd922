"""DTensor runs operators on fake tensors of global shape to learn shapes, under the mode that is active."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

from .. import _C

__all__ = ["propagation_unnoticed"]

_METHOD = "_propagate_tensor_meta_non_cached"


@contextlib.contextmanager
def propagation_unnoticed() -> Iterator[None]:
    """Keep from the ledger what DTensor computes to learn shapes: no program has tensors of that memory."""
    module = sys.modules.get("torch.distributed.tensor._sharding_prop")
    if module is None:
        yield
        return
    propagator: Any = module.ShardingPropagator
    propagate = getattr(propagator, _METHOD)

    @functools.wraps(propagate)
    def unnoticed(*args: Any, **kwargs: Any) -> Any:
        with _C.MemoryUnnoticed():
            return propagate(*args, **kwargs)

    setattr(propagator, _METHOD, unnoticed)
    try:
        yield
    finally:
        if getattr(propagator, _METHOD) is unnoticed:
            setattr(propagator, _METHOD, propagate)
