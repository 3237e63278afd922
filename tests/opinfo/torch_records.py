"""Torch's answers, recorded before ours take their place."""

from __future__ import annotations

from typing import Protocol, TypeVar

import fastfake

from .sides import torchs_own

# Jobs recorded before the classes are exchanged; the exchange takes as long as a few operators.
RECORDED_AT_ONCE = 16

R = TypeVar("R", covariant=True)


class Job(Protocol[R]):
    """Calls that belong together; hashable."""

    def record(self) -> R:
        """Makes the calls on whatever classes are in place."""


class TorchRecords:
    """Torch's answers, recorded for some jobs ahead in the order in which the tests ask for them."""

    def __init__(self, jobs: list[Job[object]]) -> None:
        self._jobs = jobs
        self._recorded: dict[Job[object], object] = {}

    def of(self, job: Job[R]) -> R:
        if job not in self._recorded:
            first = self._jobs.index(job)
            with torchs_own():
                self._recorded = {ahead: ahead.record() for ahead in self._jobs[first : first + RECORDED_AT_ONCE]}
            # Stays until the next recording; each test enters again, which costs nothing then.
            fastfake.install()
        return self._recorded.pop(job)  # type: ignore[return-value]
