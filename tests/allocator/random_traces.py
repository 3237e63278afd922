"""Programs for the allocator, drawn at random, and what the model makes of them."""

from __future__ import annotations

import random

from allocator.real_allocator import Operation, Trace
from fastfake.memory.allocator import CachingAllocator, OutOfMemory

MIB = 1 << 20

SETTINGS = [
    "",
    "expandable_segments:True",
    "max_split_size_mb:20",
    "max_split_size_mb:50,max_non_split_rounding_mb:30",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:[1:8,4:2,16:4,>:1]",
    "garbage_collection_threshold:0.6,per_process_memory_fraction:0.9",
    "garbage_collection_threshold:0.3,per_process_memory_fraction:0.7",
    "max_split_size_mb:40,garbage_collection_threshold:0.5,per_process_memory_fraction:0.95",
    "expandable_segments:True,garbage_collection_threshold:0.5,per_process_memory_fraction:0.8",
    "expandable_segments:True,max_split_size_mb:32",
    "large_segment_size_mb:32",
    "expandable_segments:True,large_segment_size_mb:50,roundup_power2_divisions:8",
    "max_split_size_mb:14,large_segment_size_mb:12",
    "throw_on_cudamalloc_oom:True",
    "throw_on_cudamalloc_oom:True,expandable_segments:True",
    "throw_on_cudamalloc_oom:True,per_process_memory_fraction:0.9",
]


def draw_memory(draw: random.Random) -> tuple[int, int]:
    """Draw the bytes of a device and how many of them the allocator can have."""
    memory = draw.choice([300 * MIB, 1024 * MIB, 4096 * MIB])
    return memory, memory - draw.choice([0, 10 * MIB, 64 * MIB])


def draw_operations(draw: random.Random, length: int, largest: int) -> list[Operation]:
    """Draw a program that comes back to some sizes, and frees in and out of order."""
    favorites = [_draw_size(draw, largest) for _ in range(12)]
    operations: list[Operation] = []
    live: list[int] = []
    growth = draw.uniform(0.4, 0.7)
    for number in range(1, length + 1):
        if live and draw.random() > (growth if len(live) < 60 else 0.45):
            place = draw.randrange(len(live)) if draw.random() < 0.5 else -1
            operations.append(("free", live.pop(place), 0))
        elif draw.random() < 0.01:
            operations.append(("empty_cache", 0, 0))
        else:
            live.append(number)
            size = draw.choice(favorites) if draw.random() < 0.5 else _draw_size(draw, largest)
            operations.append(("malloc", number, size))
    return operations


def _draw_size(draw: random.Random, largest: int) -> int:
    kind = draw.random()
    if kind < 0.3:
        return draw.randint(1, 2000)
    if kind < 0.5:
        return draw.randint(1, MIB)
    if kind < 0.75:
        return draw.randint(MIB, 12 * MIB)
    if kind < 0.9:
        return draw.choice([1, 2, 3, 4, 5, 8, 10, 16, 20, 24, 32, 48, 64]) * MIB
    return draw.randint(10 * MIB, largest)


def model(operations: list[Operation], settings: str, memory: int, available: int) -> Trace:
    """Have the model do what RealAllocator.replay has the real one do."""
    allocator = CachingAllocator(settings, memory, memory - available)
    addresses: dict[int, int] = {}
    steps = []
    for name, number, size in operations:
        outcome, address = "ok", 0
        if name == "malloc":
            try:
                address = addresses[number] = allocator.malloc(size)
            except OutOfMemory:
                outcome = "oom"
        elif name == "free":
            allocator.free(addresses.pop(number, 0))
        else:
            allocator.empty_cache()
        # torch counts no expandable segments.
        segments = 0 if allocator.settings.expandable_segments else allocator.fragmentation().segments
        numbers = (address, allocator.allocated, allocator.reserved, allocator.inactive_split, segments)
        steps.append(" ".join([outcome, *map(str, numbers), str(allocator.retries)]))
    lines = []
    for segment in allocator.segments():
        kinds = ["small" if segment.is_small else "large", "expandable" if segment.is_expandable else "fixed"]
        blocks = [f"{block.size}{'A' if block.is_allocated else ''}" for block in segment.blocks]
        lines.append(" ".join(["segment", str(segment.address), *kinds, *blocks]))
    return Trace(steps, sorted(lines))
