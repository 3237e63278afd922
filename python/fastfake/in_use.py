"""Whether fastfake is installed, and which threads are computing fake results that need it to be.

torch's code and ours name each other's classes, so a computation fails if the classes are exchanged while it runs.
Uninstalling waits for the computations of other threads, and each computation begins by installing if need be.
"""

from __future__ import annotations

import os
import threading
import time

from . import _C

__all__ = ["begin", "changing", "end", "ensure_installed", "is_installed", "set_installed", "wait_for_others"]

# Held while classes are exchanged, and while a thread begins to compute.
changing = threading.RLock()

# How often each thread that computes has begun and not ended; each changes its own number only.
_depths: dict[int, int] = {}

_installed = False

# How long uninstalling waits. What it waits for may itself wait for the thread that uninstalls.
_PATIENCE_IN_SECONDS = 10.0


def is_installed() -> bool:
    """Whether fastfake's classes are in the place of torch's."""
    return _installed


def set_installed(installed: bool) -> None:
    """Say that classes were exchanged, or exchanged back; to be called while `changing` is held."""
    global _installed
    _installed = installed


def ensure_installed() -> None:
    """Install, unless that was done.

    Raises:
        RuntimeError: the environment variable FASTFAKE_DISABLE forbids it.
    """
    if _installed:
        return
    # Which imports all that uses this module.
    from .installation import install

    install()
    if not _installed:
        raise RuntimeError(
            "this FakeTensorMode is fastfake's, and FASTFAKE_DISABLE, which was set after fastfake was imported, "
            "forbids to install it"
        )


def begin() -> None:
    """Keep fastfake installed until `end` is called as often as this.

    Raises:
        RuntimeError: it is not installed, and the environment variable FASTFAKE_DISABLE forbids it.
    """
    thread = threading.get_ident()
    depth = _depths.get(thread, 0)
    if depth != 0 and _installed:
        _depths[thread] = depth + 1
        return
    with changing:
        ensure_installed()
        _depths[thread] = depth + 1


def end() -> None:
    """Undo one `begin` of this thread."""
    thread = threading.get_ident()
    depth = _depths[thread]
    if depth == 1:
        del _depths[thread]
    else:
        _depths[thread] = depth - 1


def wait_for_others() -> None:
    """Wait until no other thread computes; to be called while `changing` is held, so that none begins."""
    this_thread = {threading.get_ident()}
    deadline = time.monotonic() + _PATIENCE_IN_SECONDS
    while set(_depths) - this_thread and time.monotonic() < deadline:
        time.sleep(0.001)


def _forget_other_threads() -> None:
    changing.release()
    _C.forget_entries_of_other_threads()
    thread = threading.get_ident()
    for other in [other for other in _depths if other != thread]:
        del _depths[other]


# A child has the one thread that forked: the lock is taken before, so that it is nobody else's and no exchange is
# half-done.
os.register_at_fork(before=changing.acquire, after_in_parent=changing.release, after_in_child=_forget_other_threads)
