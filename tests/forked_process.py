"""Running a function in a copy of this process, so that a crash of it is a failed test and not the end of all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable


def survives(function: Callable[[], object], *, seconds: int = 60) -> None:
    """Fail unless the function returns, in time, in a process that then ends by itself.

    What it writes to standard error is where pytest looks for it. Backward passes have no place in it: autograd's
    threads do not survive a fork.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        gc.freeze()  # a collection need not look at what the tests before made, and so need not copy it
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        try:
            function()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code >= 0, f"the process was ended by {signal.Signals(-code).name}"
    assert code == 0, "the process raised an error or was ended by a sanitizer, see standard error"


def attempt(calls: Iterable[Callable[[], object]]) -> None:
    """Make each call and let it raise whatever error of Python it likes."""
    for call in calls:
        try:
            call()
        except Exception:  # any error is right where a crash would be wrong
            continue
