"""How much memory a program on fake tensors takes: what is alive when, what for, and whether a device can hold it."""

import fastfake

if not hasattr(fastfake, "_C"):
    raise ImportError("fastfake.memory needs native code, which this fastfake has none of for the torch that runs")

from .allocator import CONTEXT_BYTES, CachingAllocator, Fragmentation, OutOfMemory
from .allocator_settings import AllocatorSettings
from .simulation import Simulation, simulate
from .snapshot import write_snapshot
from .timeline import Allocation, Category, Phase, Timeline, Usage
from .tracker import Tracker, track

__all__ = [
    "CONTEXT_BYTES",
    "Allocation",
    "AllocatorSettings",
    "CachingAllocator",
    "Category",
    "Fragmentation",
    "OutOfMemory",
    "Phase",
    "Simulation",
    "Timeline",
    "Tracker",
    "Usage",
    "simulate",
    "track",
    "write_snapshot",
]
