"""Allocator snapshots, as of ``torch.cuda.memory._snapshot``: for torch's tool, and the page that it draws them on.

Read them with ``python -m torch.cuda._memory_viz trace_plot FILE -o page.html``, or ``segment_plot``, ``segments``,
``memory``, ``stats`` or ``trace``, or drop the file on https://pytorch.org/memory_viz.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Iterator
from typing import Any

from .allocator import CONTEXT_BYTES, CachingAllocator, OutOfMemory, Segment, SegmentBlock
from .allocator_settings import AllocatorSettings
from .simulation import cuda_device, replay
from .timeline import Allocation, Timeline

__all__ = ["make_snapshot", "write_snapshot"]

PROTOCOL = 4
"""The page reads pickles of protocols 2 to 4."""
DEFAULT_POOL = (0, 0)
STREAM = 0
"""The default one; all allocations are on it."""


def write_snapshot(
    timeline: Timeline,
    path: str | os.PathLike[str],
    device: str | None = None,
    settings: AllocatorSettings | str | None = None,
    memory: int | None = None,
    context: int = CONTEXT_BYTES,
) -> None:
    """Write what the allocator makes of a program as a snapshot.

    Args:
        timeline: The allocations.
        path: Of the file, a pickle.
        device: Such as ``cuda:0``. If it is left out, the CUDA device with the highest peak.
        settings: Of the allocator, or their text, see AllocatorSettings.parse. By default those of the environment.
        memory: Bytes of the device, or None for a device that never runs out. Where it does, the snapshot ends.
        context: Bytes of them that tensors cannot have.

    Raises:
        ValueError: If settings are not possible, the device is not a CUDA one, or none is named and there is none.
    """
    found = make_snapshot(timeline, device, settings, memory, context)
    with open(path, "wb") as file:
        pickle.dump(found, file, protocol=PROTOCOL)


def make_snapshot(
    timeline: Timeline,
    device: str | None = None,
    settings: AllocatorSettings | str | None = None,
    memory: int | None = None,
    context: int = CONTEXT_BYTES,
) -> dict[str, Any]:
    """Give what ``write_snapshot`` writes.

    The layout is that of ``torch.cuda.memory._snapshot``. The time of an event is its moment in the timeline. The
    frames of an allocation say, from the inside out, what allocated it, the user's line, the module, the phase and the
    category, so that flame graphs are grouped by category, phase and module; the page colors allocations by category.

    Args:
        timeline: The allocations.
        device: Such as ``cuda:0``. If it is left out, the CUDA device with the highest peak.
        settings: Of the allocator, or their text, see AllocatorSettings.parse. By default those of the environment.
        memory: Bytes of the device, or None for a device that never runs out. Where it does, the snapshot ends.
        context: Bytes of them that tensors cannot have.

    Raises:
        ValueError: If settings are not possible, the device is not a CUDA one, or none is named and there is none.
    """
    device = cuda_device(timeline, device)
    index = int(device.partition(":")[2])
    frames = _Frames()
    events: list[dict[str, Any]] = []

    def record(action: str, address: int, size: int, owner: object) -> None:
        events.append(_event(action, address, size, frames.of(owner)))
        if action == "alloc" and isinstance(owner, Allocation):
            events[-1]["category"] = owner.category.value

    allocator = CachingAllocator(settings, memory, context, record)
    dated = 0

    def date(moment: int) -> None:
        nonlocal dated
        for event in events[dated:]:
            event["time_us"] = moment
        dated = len(events)

    try:
        for moment in replay(timeline, device, allocator):
            date(moment)
    except OutOfMemory as error:
        assert error.moment is not None
        date(error.moment)
    # The page wants one event of this category where any has one.
    events.append({**_event("snapshot", 0, 0, []), "time_us": timeline.moments, "category": "unknown"})
    return {
        "segments": [_segment(segment, index, frames) for segment in allocator.segments()],
        "device_traces": [[] for _ in range(index)] + [events],
        "allocator_settings": _settings(allocator.settings),
        "external_annotations": [],
    }


def _event(action: str, address: int, size: int, frames: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "action": action,
        # Of an allocation that did not fit, torch says what the device had left.
        "device_free" if action == "oom" else "addr": address,
        "size": size,
        "stream": STREAM,
        "pool_id": DEFAULT_POOL,
        "frames": frames,
        "user_metadata": "",
    }


def _segment(segment: Segment, device: int, frames: _Frames) -> dict[str, Any]:
    in_use = [block for block in segment.blocks if block.is_allocated]
    allocated = sum(block.size for block in in_use)
    return {
        "device": device,
        "address": segment.address,
        "total_size": segment.size,
        "allocated_size": allocated,
        "active_size": allocated,
        "requested_size": sum(block.requested for block in in_use),
        "stream": STREAM,
        "segment_type": "small" if segment.is_small else "large",
        "segment_pool_id": DEFAULT_POOL,
        "is_expandable": segment.is_expandable,
        "frames": [],
        "blocks": [_block(block, frames) for block in segment.blocks],
    }


def _block(block: SegmentBlock, frames: _Frames) -> dict[str, Any]:
    return {
        "address": block.address,
        "size": block.size,
        "requested_size": block.requested if block.is_allocated else 0,
        "state": "active_allocated" if block.is_allocated else "inactive",
        "frames": frames.of(block.owner),
    }


def _settings(settings: AllocatorSettings) -> dict[str, Any]:
    unlimited = settings.max_split_size == sys.maxsize
    return {
        "PYTORCH_CUDA_ALLOC_CONF": settings.text,
        "max_split_size": -1 if unlimited else settings.max_split_size,
        "garbage_collection_threshold": settings.garbage_collection_threshold,
        "expandable_segments": settings.expandable_segments,
        "roundup_power2_divisions": {
            str(1 << interval): divisions for interval, divisions in enumerate(settings.roundup_power2_divisions)
        },
    }


class _Frames:
    """The frames of allocations, made once for each."""

    def __init__(self) -> None:
        self._known: dict[int, list[dict[str, Any]]] = {}

    def of(self, owner: object) -> list[dict[str, Any]]:
        if not isinstance(owner, Allocation):
            return []
        found = self._known.get(owner.number)
        if found is None:
            found = self._known[owner.number] = list(_frames(owner))
        return found


_LINE = re.compile(r"(?P<filename>.*):(?P<line>\d+)(?: in (?P<name>.*))?")
"""As Allocation.line is written."""


def _frames(allocation: Allocation) -> Iterator[dict[str, Any]]:
    """Give the frames of an allocation from the inside out. What is no line of Python has its kind as its file."""
    if allocation.operator:
        yield _frame("operator", allocation.operator)
    if line := _LINE.fullmatch(allocation.line):
        yield {"filename": line["filename"], "line": int(line["line"]), "name": line["name"] or ""}
    if allocation.module:
        yield _frame("module", allocation.module)
    yield _frame("phase", allocation.phase.value)
    yield _frame("category", allocation.category.value)


def _frame(kind: str, name: str) -> dict[str, Any]:
    return {"filename": kind, "line": 0, "name": name}
