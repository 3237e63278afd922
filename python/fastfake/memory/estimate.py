"""Everything that ``python -m fastfake memory`` finds out about a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .checkpointing import Checkpointing
from .counts import Counts, count
from .errors import MemoryCommandError
from .fit import MOST_SAMPLES, Attempt, largest_batch
from .simulation import Simulation, simulate
from .timeline import Timeline
from .tracker import track
from .training import Training

__all__ = ["Estimate", "Verdict", "estimate", "judge"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """Whether a device holds what a program allocates.

    Attributes:
        device: Such as ``cuda:0``.
        allocated: The most bytes that were allocated at a time.
        reserved: The most that the caching allocator had reserved; on the CPU, which has none, what was allocated.
        memory: Bytes of the device.
        fits: Whether they were enough.
        failure: Where they were not, what happened.
    """

    device: str
    allocated: int
    reserved: int
    memory: int
    fits: bool
    failure: str = ""


@dataclass(frozen=True)
class Estimate:
    """What was found out.

    Attributes:
        title: What was trained, and how.
        timeline: The allocations of the steps.
        steps: How many steps the optimizer took.
        verdict: Whether they fit.
        batch: Samples of a step; None for a script, which is asked nothing.
        largest_batch: Samples of the largest step that fits, likewise.
        counts: What a step computes and sends, likewise.
    """

    title: str
    timeline: Timeline
    steps: int
    verdict: Verdict
    batch: int | None = None
    largest_batch: int | None = None
    counts: Counts | None = None


def judge(timeline: Timeline, memory: int) -> Verdict:
    """Find out whether a device holds what a program allocates.

    Args:
        timeline: The allocations.
        memory: Bytes of the device. Some of those of a CUDA device are taken, see `fastfake.memory.allocator`.

    Raises:
        MemoryCommandError: that is less than what is taken, or the environment has settings that are not possible.
    """
    device = timeline.main_device()
    if not device.startswith("cuda"):
        peak = timeline.peak(device).bytes
        return Verdict(device, peak, peak, memory, peak <= memory, "" if peak <= memory else "more than there is")
    within = _simulated(timeline, device, memory)
    if within.out_of_memory is None:
        return Verdict(device, within.peak_allocated, within.peak_reserved, memory, True)
    # What it would take.
    boundless = _simulated(timeline, device, None)
    return Verdict(device, boundless.peak_allocated, boundless.peak_reserved, memory, False, str(within.out_of_memory))


def estimate(training: Training, batch: int, steps: int, progress: Progress) -> Estimate:
    """Train some steps and find out what memory they take, and how large a batch could be.

    Args:
        training: What to train; `prepared` gives one.
        batch: Samples of a step.
        steps: How many steps to train.
        progress: Called with what is being done.

    Raises:
        MemoryCommandError: the model raised an error.
    """
    memory = training.setup.device_memory
    progress(f"{_plural(steps, 'step')} of batch {batch}")
    timeline = timeline_of(training, batch, steps)
    progress("floating point operations and collectives")
    counts = count(training, batch)
    verdict = judge(timeline, memory)

    def attempt(samples: int) -> Attempt:
        progress(f"batch {samples}")
        # A step for which the optimizer has its state already takes the most.
        return _attempt(samples, timeline_of(training, samples, 1, is_first=steps == 1), memory)

    largest = largest_batch(attempt, Attempt(batch, verdict.fits, verdict.allocated), memory)
    # In all steps from the first one on, the allocator may come to other segments.
    while 0 < largest < MOST_SAMPLES and largest != batch:
        progress(f"{_plural(steps, 'step')} of batch {largest}")
        if _attempt(largest, timeline_of(training, largest, steps), memory).fits:
            break
        largest -= 1
    return Estimate(_title(training, batch), timeline, steps, verdict, batch, largest, counts)


def timeline_of(training: Training, batch: int, steps: int, is_first: bool = True) -> Timeline:
    """Train some steps on so many samples, and give their allocations.

    Before them there are parameters, sharded where they are to be, and nothing else; unless the steps are not the first
    ones, then the optimizer's state is there too.
    """
    if is_first:
        training.forget()
    with track(training.model, training.optimizer, mode=training.mode) as tracker:
        for _ in range(steps):
            training.step(batch)
    return tracker.timeline


def _attempt(batch: int, timeline: Timeline, memory: int) -> Attempt:
    device = timeline.main_device()
    allocated = timeline.peak(device).bytes
    fits = allocated <= memory
    if fits and device.startswith("cuda"):
        fits = _simulated(timeline, device, memory).fits
    return Attempt(batch, fits, allocated)


def _simulated(timeline: Timeline, device: str, memory: int | None) -> Simulation:
    try:
        return simulate(timeline, device, memory=memory)
    except ValueError as error:  # of the settings in the environment, or the size of the device
        raise MemoryCommandError(str(error)) from error


def _title(training: Training, batch: int) -> str:
    setup = training.setup
    parts = [setup.program.title, f"batch {batch}", setup.precision.value, setup.optimizer]
    if setup.checkpointing is not Checkpointing.NONE:
        parts.append(f"{setup.checkpointing.value} checkpointing")
    if setup.parallelism.fsdp > 1:
        parts.append(f"FSDP2 over {setup.parallelism.fsdp}")
    if setup.parallelism.tensor > 1:
        parts.append(f"tensor parallelism over {setup.parallelism.tensor}")
    if setup.parallelism.ranks > 1:
        parts.append(f"rank {setup.parallelism.rank}")
    return ", ".join(parts)


def _plural(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"
