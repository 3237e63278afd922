"""The memory that a program on real tensors asks for, from torch.profiler, and its comparison with our timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._profiler import _EventType

from fastfake.memory import Timeline

NUMBER = "a number"
"""What stands for an operator where Python made a tensor of a number, to call an operator with."""


@dataclass(frozen=True)
class Event:
    """Memory that was asked for or given back.

    Attributes:
        bytes: How much, negative where it was given back.
        operators: Those that were running, innermost first.
        other: Where in the list the other end of the allocation is, or None if there is none.
    """

    bytes: int
    operators: tuple[str, ...]
    other: int | None


def profile(step: Callable[[], object]) -> list[Event]:
    """Run a step on real tensors on the CPU, and give its allocations that have a size."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    found = [
        event
        for root in tree
        for event in _all(root)
        if event.tag == _EventType.Allocation and event.extra_fields.device.type == "cpu"
    ]
    found.sort(key=lambda event: event.start_time_ns)
    others: dict[int, int] = {}
    born: dict[int, int] = {}
    for index, event in enumerate(found):
        fields = event.extra_fields
        if fields.alloc_size > 0:
            born[fields.ptr] = index
        elif fields.ptr in born:
            others[index] = born.pop(fields.ptr)
            others[others[index]] = index
    return [
        Event(event.extra_fields.alloc_size, tuple(_operators(event)), others.get(index))
        for index, event in enumerate(found)
    ]


def _all(event: Any) -> Iterator[Any]:
    pending = [event]
    while pending:
        event = pending.pop()
        yield event
        pending += event.children


def _operators(event: Any) -> Iterator[str]:
    while event.parent is not None:
        event = event.parent
        if event.name.startswith("aten::"):
            yield event.name


def scratch(events: Sequence[Event], index: int) -> str:
    """Name the operator that gave memory back before it returned. Empty if none did."""
    event = events[index]
    if event.other is None:
        return ""
    end = events[event.other].operators
    # The frames that are common to both ends are the outermost ones.
    inside = end and event.operators[-len(end) :] == end
    if inside:
        return end[0]
    return NUMBER if event.bytes == 8 and event.other - index <= 6 else ""


@dataclass(frozen=True)
class Comparison:
    """What is left when our timeline is taken out of the events of the real program.

    Attributes:
        scratch: The bytes that operators took for themselves, by operator.
        difference: The first event that is not the same, in words; empty if there is none.
        peak: The most bytes that were alive in the real program over those at its beginning.
        peak_without_scratch: The same without what operators took for themselves.
        our_peak: The most bytes that were alive in ours over those at its beginning.
    """

    scratch: Counter[str]
    difference: str
    peak: int
    peak_without_scratch: int
    our_peak: int


def compare(events: Sequence[Event], timeline: Timeline, before: int) -> Comparison:
    """Go through both, event by event.

    Args:
        events: Those of the real program.
        timeline: That of the program on fake tensors.
        before: How many allocations of the timeline were there when the program began.
    """
    ours = [
        (-allocation.bytes if not is_birth else allocation.bytes, allocation)
        for _, is_birth, allocation in timeline.events("cpu")
        if allocation.bytes and not (is_birth and allocation.number < before)
    ]
    spans: dict[int, int] = {}
    for index, (size, allocation) in enumerate(ours):
        spans[allocation.number] = index - spans[allocation.number] if size < 0 else index
        if size > 0 and allocation.died is None:
            spans[allocation.number] = len(ours)
    found: Counter[str] = Counter()
    skipped: set[int] = set()
    live = live_without_scratch = our_live = peak = peak_without_scratch = our_peak = position = 0
    difference = ""
    for index, event in enumerate(events):
        live += event.bytes
        peak = max(peak, live)
        if event.bytes < 0 and event.other in skipped:
            continue
        name = scratch(events, index) if event.bytes > 0 else ""
        fits = position < len(ours) and ours[position][0] == event.bytes
        if name and fits:
            assert event.other is not None
            fits = spans[ours[position][1].number] <= event.other - index
        if name and not fits:
            found[name] += event.bytes
            skipped.add(index)
            continue
        live_without_scratch += event.bytes
        peak_without_scratch = max(peak_without_scratch, live_without_scratch)
        if not fits:
            there = ours[position] if position < len(ours) else "nothing"
            difference = f"event {index}, {event}, is in ours, at {position}, {there}"
            break
        our_live += ours[position][0]
        our_peak = max(our_peak, our_live)
        position += 1
    if not difference and position < len(ours):
        difference = f"ours goes on with {ours[position]}"
    return Comparison(found, difference, peak, peak_without_scratch, our_peak)
