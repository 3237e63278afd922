"""One conversion of a real tensor at a time.

torch's meta converter looks a tensor up, makes its fake tensor and remembers it, and numbers tensors with a
counter. Two threads at once could make two fake tensors for one real tensor, or give one number to two.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

__all__ = ["held"]

# Of the process, not of a converter: converters are copied with their mode, which locks cannot be.
_lock = threading.RLock()


def held() -> AbstractContextManager[bool]:
    """Return a context in which no other thread converts; conversions of the same thread may nest."""
    return _lock


def _renew() -> None:
    global _lock
    _lock = threading.RLock()


# The thread that holds the lock does not exist in the child.
os.register_at_fork(after_in_child=_renew)
