"""Keeping fastfake's own frames out of what torch traces, and out of what it tells users about their programs.

torch does the same for the files of its own fake tensors.
"""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["hide_from_dynamo", "hide_from_symbols"]


@functools.cache
def hide_from_dynamo() -> None:
    """Let Dynamo run fastfake's functions as they are, where it would look into them.

    To be called when a mode is made: Dynamo makes one before it traces anything. Not only what a program calls is
    traced, but also what runs between its graphs, such as the conversions in a ``backward()`` under compiled autograd.
    """
    from torch._dynamo import trace_rules

    trace_rules.add(__name__.partition(".")[0])


@functools.cache
def hide_from_symbols() -> None:
    """Let symbols and guards name the user's line, or torch's, as their origin.

    To be called before the first symbol is made.
    """
    from torch.fx.experimental.symbolic_shapes import uninteresting_files

    uninteresting_files().update(str(path) for path in Path(__file__).parent.rglob("*.py"))
