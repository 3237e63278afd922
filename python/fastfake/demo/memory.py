"""Measures the resident memory that one side needs, in a process that runs nothing else."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fastfake.demo.errors import SideFailure, one_line
from fastfake.demo.measure import SideRun
from fastfake.demo.side import SIDES, Side
from fastfake.demo.workload import Workload

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class MemoryUse:
    """Resident memory of a process that ran one side.

    Attributes:
        total_bytes: All of it after the first round, Python and torch included.
        growth_bytes: What building the model and running the first round added.
    """

    total_bytes: int
    growth_bytes: int


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes; its peak where the system tells no more."""
    if _STATM.exists():
        return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_in_fresh_process(side: Side, workload: Workload) -> MemoryUse:
    """Measure a process that builds a model on one side and runs one round of it.

    Memory that the other side has given back would hide what this side takes, so each side is measured in a
    fresh process, after its imports.

    Args:
        side: The side to run.
        workload: What to run; it is sent to the process by pickling.

    Returns:
        The memory after the first forward and backward pass.

    Raises:
        SideFailure: The process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(side.name, workload, sender), daemon=True)
    # A child inherits the blocked signal, so Ctrl-C is this process's to report and the child stays quiet.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        raise SideFailure(f"the process that measures {side.name}'s memory ended without an answer") from None
    finally:
        process.kill()
        process.join()
    if isinstance(answer, str):
        raise SideFailure(f"the process that measures {side.name}'s memory failed: {answer}")
    assert isinstance(answer, MemoryUse)
    return answer


def _measure(side_name: str, workload: Workload, sender: Connection) -> None:
    try:
        side = SIDES[side_name]
        SideRun(side, workload.rehearsal()).cold()
        gc.collect()
        before = resident_bytes()
        run = SideRun(side, workload)
        run.cold()
        gc.collect()
        after = resident_bytes()
        sender.send(MemoryUse(total_bytes=after, growth_bytes=after - before))
        # The model is part of what is measured, so it has to live until here.
        del run
    except Exception as error:
        sender.send(one_line(error))
