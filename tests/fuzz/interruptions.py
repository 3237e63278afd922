"""Interrupting a program while it is in one of its lines, and nowhere else, in every way that there is."""

from __future__ import annotations

import _thread
import ctypes
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_SIGNAL = signal.SIGVTALRM
_SHORTLY = 1e-4  # seconds
# Python's and torch's own contexts are Python functions. One that is interrupted puts the state of the thread back when
# its object dies, out of turn: with real tensors, too. The event loop, if it is interrupted, forgets the task that it
# was about to run, and waits for it for ever.
_SPARED = (
    "/contextlib.py",
    "/torch/autograd/grad_mode.py",
    "/torch/utils/_python_dispatch.py",
    "/asyncio/base_events.py",
    "/asyncio/events.py",
)
# Printing keeps functorch's dispatch keys excluded for as long as its frame lives. Where an error keeps the frame alive
# longer than the call in which it printed, all that was excluded there stays so for good: with real tensors, too.
_SPARED_WITH_ALL_BELOW = "/torch/_tensor_str.py"


class Interruption(BaseException):
    """What is raised, wherever the program is."""


class Interruptions:
    """Those of the thread that makes this."""

    def __init__(self) -> None:
        """Begin without any."""
        self._thread = threading.get_ident()
        self._is_in_line = False
        self._places = 0
        self._senders: list[threading.Thread] = []
        self._is_over = threading.Event()

    def run(self, line: CodeType, names: dict[str, Any]) -> None:
        """Run a line. It may be interrupted up to the end of this, where nothing of the program runs any more."""
        self._is_in_line = True
        try:
            if self._places != 0:
                sys.setprofile(self._count_places)
            exec(line, names)
        finally:
            self._is_in_line = False
            sys.setprofile(None)

    def start(self, thread: threading.Thread) -> None:
        """Start a thread without being interrupted.

        Until CPython 3.11 at least, a thread that begins is for a moment taken for the one that starts it: it gets the
        exception that `PyThreadState_SetAsyncExc` is to raise in that one, ends, and `start` waits for it for ever.
        """
        is_in_line, self._is_in_line = self._is_in_line, False
        try:
            thread.start()
        finally:
            self._is_in_line = is_in_line

    def close(self) -> None:
        """Let none come any more."""
        self._places = 0
        self._is_over.set()
        while self._senders:
            self._senders.pop().join()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def by_timer(self, tenths: int) -> None:
        """Send a signal after some tenths of a millisecond of processor time."""
        self._receive()
        signal.setitimer(signal.ITIMER_VIRTUAL, (tenths + 1) * _SHORTLY)

    def at_place(self, number: int) -> None:
        """Raise in later lines at the place with this number: a place is where Python looks for signals."""
        self._places = number

    def from_thread(self, tenths: int, way: int) -> None:
        """Have another thread interrupt this one after some tenths of a millisecond."""
        self._receive()
        send = (self._raise_in_thread, self._send_signal, self._simulate_signal)[way % 3]

        def wait_and_send() -> None:
            delay = (tenths + 1) * _SHORTLY
            while not self._is_over.wait(delay):
                if send():
                    return
                delay = _SHORTLY

        if len(self._senders) < 2:
            self._senders.append(threading.Thread(target=wait_and_send))
            self.start(self._senders[-1])

    def _raise_in_thread(self, set_exception: Callable[..., int] = ctypes.pythonapi.PyThreadState_SetAsyncExc) -> bool:
        thread, exception = ctypes.c_ulong(self._thread), ctypes.py_object(Interruption)
        # The other thread, which has just begun to wait for its turn, raises where it stands; and, as no thread runs
        # between the last two, before it ends its line.
        if not _is_spared(sys._current_frames().get(self._thread)) and self._is_in_line:
            set_exception(thread, exception)
            return True
        return False

    def _send_signal(self) -> bool:
        signal.raise_signal(_SIGNAL)
        return True

    def _simulate_signal(self) -> bool:
        _thread.interrupt_main(_SIGNAL)
        return True

    def _receive(self) -> None:
        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._is_in_line and not _is_spared(frame):
                raise Interruption
            if not self._is_over.is_set():
                signal.setitimer(signal.ITIMER_VIRTUAL, _SHORTLY)

        signal.signal(_SIGNAL, interrupt)

    def _count_places(self, frame: FrameType, event: str, argument: object) -> None:
        # It looks at the start of each Python function and after each call of a native one.
        if event in ("call", "c_return"):
            self._places -= 1
            if self._places <= 0 and not _is_spared(frame):
                sys.setprofile(None)
                self._places = 0
                raise Interruption


def _is_spared(frame: FrameType | None) -> bool:
    """Whether a frame is a context's that is entered or left, or its generator's, an event loop's, or in printing."""
    if frame is None:
        return False
    files = [caller.f_code.co_filename for caller, _ in traceback.walk_stack(frame)]
    in_context = any(file.endswith(_SPARED) for file in files[:2])
    return in_context or any(file.endswith(_SPARED_WITH_ALL_BELOW) for file in files)
