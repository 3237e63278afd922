"""Storages that Python resizes, of which no operator knows: FSDP2 frees and allocates whole parameters so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from .. import _C

__all__ = ["resizing_noticed"]


@contextlib.contextmanager
def resizing_noticed() -> Iterator[None]:
    """Let ``UntypedStorage.resize_`` tell the ledger."""
    resize = torch.UntypedStorage.resize_

    def resize_and_tell(self: torch.UntypedStorage, size: int) -> object:
        result = resize(self, size)
        _C.memory_note_size(self)
        return result

    torch.UntypedStorage.resize_ = resize_and_tell  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        # Another one put on top meanwhile still calls this one, which then tells nobody.
        if torch.UntypedStorage.resize_ is resize_and_tell:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
