"""Keeping fastfake's own frames out of what torch tells users about their programs."""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["hide_own_files"]


@functools.cache
def hide_own_files() -> None:
    """Let symbols and guards name the user's line, or torch's, as their origin.

    To be called before the first symbol is made. torch does the same for the files of its own fake tensors.
    """
    from torch.fx.experimental.symbolic_shapes import uninteresting_files

    uninteresting_files().update(str(path) for path in Path(__file__).parent.rglob("*.py"))
