"""A program's allocations, run through the allocator of a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .allocator import CONTEXT_BYTES, CachingAllocator, Fragmentation, OutOfMemory
from .allocator_settings import AllocatorSettings
from .timeline import Timeline

__all__ = ["Simulation", "cuda_device", "replay", "simulate"]


@dataclass(frozen=True)
class Simulation:
    """What the allocator made of a timeline.

    Attributes:
        device: Such as ``cuda:0``.
        settings: How the allocator was set.
        memory: Bytes of the device, or None if it was to have as much as is asked for.
        context: Bytes of them that tensors cannot have.
        curve: For each moment at which something happened on the device: the moment, the bytes that are allocated and
            the bytes that are reserved from then on.
        peak_allocated: The most that was allocated, as in ``torch.cuda.max_memory_allocated``.
        peak_reserved: The most that was reserved, as in ``torch.cuda.max_memory_reserved``.
        peak_moment: The first moment at which the most was reserved.
        at_peak: How well it was used then.
        retries: How often everything that was cached was given back to make a request fit: each makes the device wait.
        out_of_memory: What did not fit, and when; None if all did. The program ends there.
    """

    device: str
    settings: AllocatorSettings
    memory: int | None
    context: int
    curve: tuple[tuple[int, int, int], ...]
    peak_allocated: int
    peak_reserved: int
    peak_moment: int
    at_peak: Fragmentation
    retries: int
    out_of_memory: OutOfMemory | None

    @property
    def fits(self) -> bool:
        """Whether all that the program allocated fitted."""
        return self.out_of_memory is None


def simulate(
    timeline: Timeline,
    device: str | None = None,
    settings: AllocatorSettings | str | None = None,
    memory: int | None = None,
    context: int = CONTEXT_BYTES,
) -> Simulation:
    """Run the allocations of a program on a device through the allocator.

    Args:
        timeline: The allocations.
        device: Such as ``cuda:0``. If it is left out, the CUDA device with the highest peak.
        settings: Settings or their text, see AllocatorSettings.parse. By default those of the environment.
        memory: Bytes of the device, or None for a device that never runs out.
        context: Bytes of them that tensors cannot have.

    Raises:
        ValueError: If settings are not possible, the device is not a CUDA one, none is named and there is none, or it
            has less than the context takes.
    """
    device = cuda_device(timeline, device)
    allocator = CachingAllocator(settings, memory, context)
    curve: list[tuple[int, int, int]] = []
    peak_reserved = peak_moment = 0
    out_of_memory = None
    try:
        for moment in replay(timeline, device, allocator):
            curve.append((moment, allocator.allocated, allocator.reserved))
            if allocator.peak_reserved > peak_reserved:
                peak_reserved, peak_moment = allocator.peak_reserved, moment
    except OutOfMemory as error:
        assert error.moment is not None
        out_of_memory = error
        curve.append((error.moment, allocator.allocated, allocator.reserved))
        if allocator.peak_reserved > peak_reserved:
            peak_moment = error.moment
    return Simulation(
        device,
        allocator.settings,
        memory,
        context,
        tuple(curve),
        allocator.peak_allocated,
        allocator.peak_reserved,
        peak_moment,
        allocator.at_peak,
        allocator.retries,
        out_of_memory,
    )


def cuda_device(timeline: Timeline, device: str | None = None) -> str:
    """Give the device to look at.

    Args:
        timeline: The allocations.
        device: Such as ``cuda:0``. If it is left out, the CUDA device with the highest peak.

    Raises:
        ValueError: If the device is not a CUDA one, or none is named and there is none.
    """
    if device is None:
        found = [name for name in timeline.devices if name.startswith("cuda")]
        if not found:
            raise ValueError("nothing was allocated on a CUDA device")
        return max(found, key=lambda name: max(timeline.curve(name))[0])
    if device.partition(":")[0] != "cuda":
        raise ValueError(f"the allocator is that of CUDA devices, not of {device}")
    return device if ":" in device else f"{device}:0"


def replay(timeline: Timeline, device: str, allocator: CachingAllocator) -> Iterator[int]:
    """Make the allocations of a program on a device, and give them back; after each the moment is given.

    Args:
        timeline: The allocations.
        device: Such as ``cuda:0``.
        allocator: What makes them. Allocations are the owners of their blocks.

    Raises:
        OutOfMemory: With the moment and the allocation, if one does not fit.
    """
    addresses: dict[int, int] = {}
    for moment, is_birth, allocation in timeline.events(device):
        if is_birth:
            try:
                addresses[allocation.number] = allocator.malloc(allocation.size, allocation)
            except OutOfMemory as error:
                error.moment, error.allocation = moment, allocation
                raise
        else:
            allocator.free(addresses.pop(allocation.number))
        yield moment
