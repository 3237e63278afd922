"""How much of a program's time torch spends in fake dispatch, measured from within."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from timeit import Timer
from typing import Any

# torch's classes: the probe is for processes without fastfake.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

CALIBRATION_CALLS = 50_000


@dataclass
class Tally:
    """What a probe saw.

    Attributes:
        outermost: The number of calls that were made from outside of fake dispatch.
        nested: The number of calls that were made from within.
        seconds: The time of the outermost calls.
        collecting: How much of it the garbage collector took. A full collection is charged to whoever makes the object
            that is one too many, and would have come without fake dispatch too, if later.
    """

    outermost: int = 0
    nested: int = 0
    seconds: float = 0.0
    collecting: float = 0.0


class Probe:
    """Times the outermost calls of torch's two `__torch_dispatch__` methods, with everything that they call.

    What torch does in C++ before such a method is entered is not seen, so that the share found is rather too small.
    What the probe itself costs is measured when it is made, and taken out of the share.
    """

    def __init__(self) -> None:
        self._tally = Tally()
        self._inside = False
        self._collection_start = 0.0
        self._calibrate()
        gc.callbacks.append(self._note_collection)
        FakeTensorMode.__torch_dispatch__ = self._timed(FakeTensorMode.__torch_dispatch__)  # type: ignore[method-assign]
        method = self._timed(vars(FakeTensor)["__torch_dispatch__"].__func__)
        FakeTensor.__torch_dispatch__ = classmethod(method)  # type: ignore[assignment, method-assign]

    def take(self) -> Tally:
        """Returns what was seen since the last time, and starts anew."""
        tally, self._tally = self._tally, Tally()
        return tally

    def share(self, tally: Tally, seconds: float) -> float:
        """Returns the share of fake dispatch in a program that took `seconds` with the probe in place."""
        inside = tally.seconds - tally.outermost * self._seconds_inside - tally.nested * self._seconds_nested
        whole = seconds - tally.outermost * self._seconds_outermost - tally.nested * self._seconds_nested
        return inside / whole

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            if self._inside:
                self._tally.nested += 1
                return method(*arguments, **keywords)
            self._inside = True
            start = perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                self._tally.seconds += perf_counter() - start
                self._tally.outermost += 1
                self._inside = False

        return timed

    def _note_collection(self, phase: str, _: object) -> None:
        if phase == "start":
            self._collection_start = perf_counter()
        elif self._inside:
            self._tally.collecting += perf_counter() - self._collection_start

    def _calibrate(self) -> None:
        """Finds what a call costs that does nothing, as far as the probe is to blame for it."""

        def method(*_: object) -> None:
            pass

        def seconds_of(call: Callable[..., None]) -> float:
            return Timer("call(1, 2, 3, 4, 5)", globals={"call": call}).timeit(CALIBRATION_CALLS) / CALIBRATION_CALLS

        timed = self._timed(method)
        bare = seconds_of(method)
        self._seconds_outermost = seconds_of(timed) - bare
        self._seconds_inside = self.take().seconds / CALIBRATION_CALLS - bare
        self._inside = True
        self._seconds_nested = seconds_of(timed) - bare
        self._inside = False
        self.take()
