"""Keeping the garbage collector out of what is measured."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Collects garbage on the way in and not again before the way out, so that no collection is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
