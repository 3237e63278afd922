"""Keeping fastfake's own frames out of what torch tells users about their programs, and out of what it traces."""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["hide_own_files", "keep_dynamo_out"]


@functools.cache
def hide_own_files() -> None:
    """Let symbols and guards name the user's line, or torch's, as their origin.

    To be called before the first symbol is made. torch does the same for the files of its own fake tensors.
    """
    from torch.fx.experimental.symbolic_shapes import uninteresting_files

    uninteresting_files().update(str(path) for path in Path(__file__).parent.rglob("*.py"))


@functools.cache
def keep_dynamo_out() -> None:
    """Let Dynamo run fastfake's functions as they are instead of compiling them, as it does with torch's.

    Code between graph breaks runs under Dynamo's eye, and so does what fake tensors do there: compiled autograd
    makes some in ``backward()``.
    """
    from torch._dynamo import trace_rules

    trace_rules.add(__name__.partition(".")[0])
