"""Whether fastfake is installed, and which threads are computing fake results that need it to be.

torch's code and ours name each other's classes, so a computation fails if the classes are exchanged while it runs.
Uninstalling waits for the computations of other threads, and each computation begins by installing if need be.

That a thread computes is read off its frames. Nothing is counted, so that no interrupt can leave a count wrong.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, TypeVar

from . import _C

__all__ = ["begin", "changing", "computes", "ensure_installed", "is_installed", "set_installed", "wait_for_others"]

_F = TypeVar("_F", bound=Callable[..., Any])

# Held while classes are exchanged, and while a thread that is about to compute installs.
changing = threading.RLock()

_computing: set[CodeType] = set()

_installed = False

# Whether a thread waits for others, to uninstall then.
_is_closing = False

# How long uninstalling waits. What it waits for may itself wait for the thread that uninstalls.
_PATIENCE_IN_SECONDS = 10.0


def is_installed() -> bool:
    """Whether fastfake's classes are in the place of torch's."""
    return _installed


def set_installed(installed: bool) -> None:
    """Say that classes were exchanged, or exchanged back; to be called while `changing` is held."""
    global _installed, _is_closing
    _installed, _is_closing = installed, False


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


def computes(function: _F) -> _F:
    """Declare that a function computes fake results after it called `begin`."""
    _computing.add(function.__code__)
    return function


def begin() -> None:
    """Keep fastfake installed until the calling function, one that `computes`, ends.

    Raises:
        RuntimeError: it is not installed, and the environment variable FASTFAKE_DISABLE forbids it.
    """
    # Whoever uninstalls says so first and looks at the frames then: one of the two sees the other. What a thread calls
    # while it computes goes on, since the one that uninstalls waits for it.
    while not _installed or (_is_closing and not _compute(_frames(sys._getframe(1).f_back))):
        _wait_and_install()


def _wait_and_install() -> None:
    global _is_closing
    with changing:
        _is_closing = False  # which somebody left who was interrupted
        ensure_installed()


def _frames(innermost: FrameType | None) -> Iterator[FrameType]:
    while innermost is not None:
        yield innermost
        innermost = innermost.f_back


def _compute(frames: Iterator[FrameType]) -> bool:
    """Whether a function among those that run computes. One that waits in `begin` does not yet."""
    for frame in frames:
        if frame.f_code is _wait_and_install.__code__:
            return False
        if frame.f_code in _computing:
            return True
    return False


def wait_for_others() -> None:
    """Wait until no other thread computes; to be called while `changing` is held, so that none begins."""
    global _is_closing
    _is_closing = True
    this_thread = threading.get_ident()
    deadline = time.monotonic() + _PATIENCE_IN_SECONDS
    while time.monotonic() < deadline and any(
        thread != this_thread and _compute(_frames(frame)) for thread, frame in sys._current_frames().items()
    ):
        time.sleep(0.001)


def _acquire() -> None:
    changing.acquire()


def _release() -> None:
    with contextlib.suppress(RuntimeError):  # an interrupt ended the wait, and the process forked without the lock
        changing.release()


def _forget_other_threads() -> None:
    global changing
    changing = threading.RLock()  # rather than released, for the same reason
    _C.forget_entries_of_other_threads()


# A child has the one thread that forked: the lock is taken before, so that no exchange is half-done.
os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_forget_other_threads)
