"""Comparing an answer from the cache with a computed one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.meta_utils import assert_eq, assert_metadata_eq
from torch.types import IntLikeType, py_sym_types

__all__ = ["compare"]


def compare(name: str, args: Sequence[Any], cached: Sequence[Any], computed: Sequence[Any]) -> None:
    """Raise if two lists of results of one call differ.

    Args:
        name: the operator.
        args: its arguments, for the message.
        cached: the results from the cache.
        computed: the results of computing the call again.

    Raises:
        RuntimeError: they differ; the cause tells where.
    """
    try:
        _check_same(list(computed), list(cached))
    except Exception as difference:
        raise RuntimeError(f"FakeTensor cache crosscheck failure: func={name}, args={args}") from difference


def _check_same(computed: object, cached: object) -> None:
    if isinstance(computed, list | tuple):
        if type(cached) is not type(computed) or len(cached) != len(computed):
            raise AssertionError(f"expected {computed}, got {cached}")
        for one, other in zip(computed, cached, strict=True):
            _check_same(one, other)
    elif isinstance(computed, Tensor):
        if not isinstance(cached, Tensor):
            raise AssertionError(f"Expected Tensor, got {type(cached)}")
        assert_metadata_eq(assert_eq, computed, cached, skip_symbolic=True)
        if computed.layout == torch.strided:
            _check_same(_integers(computed), _integers(cached))
    elif isinstance(computed, py_sym_types):
        if type(cached) is not type(computed) or not cached.node._value_eq(computed.node):
            raise AssertionError(f"SymType mismatch: {computed} != {cached}")
    elif type(cached) is not type(computed) or not _same_value(cached, computed):
        raise AssertionError(f"expected {computed}, got {cached}")


def _integers(tensor: Tensor) -> list[IntLikeType]:
    return [*tensor.shape, *tensor.stride(), tensor.storage_offset(), tensor.untyped_storage().nbytes()]


def _same_value(one: Any, other: Any) -> bool:
    return bool(one == other) or (isinstance(one, float | complex) and one != one and other != other)
