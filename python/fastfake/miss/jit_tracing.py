"""Convolutions while `torch.jit.trace` notes down what a program does.

Other calls are noted down by a dispatch key above Python's, which suspends tracing until they are computed. While there
is tracing sizes are tensors in Python, with which torch's fake tensors fail: "Expected bool".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .call import NOT_HANDLED

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode

__all__ = ["run"]

_TRACER = "Tracer"
_CONVOLUTION = torch.ops.aten.convolution.default


def run(mode: FakeTensorMode, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """Compute a convolution that is traced by the operator that it consists of, which is what shall be noted down."""
    if func is not _CONVOLUTION or torch._C._get_tracing_state() is None:
        return NOT_HANDLED
    with _noting_down(), mode:
        return torch.ops.aten._convolution.default(
            *args,
            torch.backends.cudnn.benchmark,
            torch._C._get_deterministic_algorithms(),
            torch._C._get_cudnn_enabled(),
            torch._C._get_cudnn_allow_tf32(),
            **kwargs,
        )


@contextmanager
def _noting_down() -> Iterator[None]:
    """Let the tracer see calls, as it does not below the dispatch key of Python."""
    excluded = torch._C._dispatch_tls_is_dispatch_key_excluded(_TRACER)
    torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, False)
    try:
        yield
    finally:
        torch._C._dispatch_tls_set_dispatch_key_excluded(_TRACER, excluded)
