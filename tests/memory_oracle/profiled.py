"""The memory that a program on real tensors asks for, from torch.profiler, and its comparison with our timeline."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
    return NUMBER if event.bytes == 8 else ""


@dataclass(frozen=True)
class Comparison:
    """What is left when our timeline is taken out of the events of the real program.

    Attributes:
        scratch: The bytes that operators took for themselves in the real program, by operator.
        in_place: The bytes that ours took for results that take the place of what they are computed from in the real
            program, by operator.
        largest_in_place: The most that one of these took.
        difference: The first event that is not the same, in words; empty if there is none.
        peak: The most bytes that were alive in the real program, over those at its beginning.
        peak_without_scratch: The same without what operators took for themselves.
        our_peak: The most bytes that were alive in ours, over those at its beginning.
    """

    scratch: Counter[str]
    in_place: Counter[str]
    largest_in_place: int
    difference: str
    peak: int
    peak_without_scratch: int
    our_peak: int


@dataclass(frozen=True)
class _Ours:
    """A birth or a death in our timeline."""

    bytes: int
    number: int
    operator: str


@dataclass
class _State:
    """How far two lists of events were gone through, and what was found to be the same."""

    index: int = 0
    position: int = 0
    taken: frozenset[int] = frozenset()
    scratch: tuple[int, ...] = ()
    numbers: dict[int, int] = field(default_factory=dict)
    in_place: Counter[str] = field(default_factory=Counter)
    largest_in_place: int = 0

    def copy(self) -> _State:
        """Give one that goes on by itself."""
        return replace(self, numbers=dict(self.numbers), in_place=Counter(self.in_place))


def compare(events: Sequence[Event], timeline: Timeline, before: int) -> Comparison:
    """Go through both, event by event.

    Args:
        events: Those of the real program.
        timeline: That of the program on fake tensors.
        before: How many allocations of the timeline were there when the program began.
    """
    ours = [
        _Ours(
            allocation.bytes if is_birth else -allocation.bytes,
            allocation.number,
            allocation.operator,
        )
        for _, is_birth, allocation in timeline.events("cpu")
        if not (is_birth and allocation.number < before)
    ]
    state, difference = _align(events, ours)
    scratch_of: Counter[str] = Counter()
    for index in state.scratch:
        scratch_of[scratch(events, index)] += events[index].bytes
    skipped = {*state.scratch, *(events[index].other for index in state.scratch)}
    return Comparison(
        scratch_of,
        state.in_place,
        state.largest_in_place,
        difference,
        _highest(event.bytes for event in events),
        _highest(event.bytes for index, event in enumerate(events) if index not in skipped),
        _highest(event.bytes for event in ours),
    )


def _highest(changes: Iterable[int]) -> int:
    return max(itertools.accumulate(changes), default=0)


def _align(events: Sequence[Event], ours: Sequence[_Ours], tries: int = 10000) -> tuple[_State, str]:
    """Find out which real allocations are ours, and which are an operator's own."""
    state = _State()
    others: list[_State] = []
    furthest, difference = state, ""
    while tries:
        problem = _advance(state, events, ours, others)
        if not problem:
            return state, ""
        if not difference or state.index > furthest.index:
            furthest, difference = state, problem
        if not others:
            break
        state = others.pop()
        tries -= 1
    return furthest, difference


def _advance(state: _State, events: Sequence[Event], ours: Sequence[_Ours], others: list[_State]) -> str:
    """Go on until the end or the first difference, and note where something else was possible."""
    while state.index < len(events):
        event = events[state.index]
        while state.position in state.taken:
            state.taken -= {state.position}
            state.position += 1
        if event.bytes < 0 and event.other in state.scratch:
            state.index += 1
            continue
        ways = []
        match = _match(state, event, ours)
        if match is not None:
            ways.append(_matched(state, event, match, ours))
        if event.bytes > 0 and scratch(events, state.index):
            way = state.copy()
            way.scratch = (*state.scratch, state.index)
            way.index += 1
            ways.append(way)
        ways += _replacements(state, ours)
        if event.bytes > 0 and match is None:
            # Some are called by another name, such as what `torch.tensor` calls.
            match = _match(state, event, ours, by_name=False)
            if match is not None:
                ways.append(_matched(state, event, match, ours))
        if not ways:
            there = ours[state.position] if state.position < len(ours) else "nothing"
            return f"event {state.index}, {event}, is in ours, at {state.position}, {there}"
        others += reversed(ways[1:])
        state.__dict__.update(ways[0].__dict__)
    rest = [ours[index] for index in range(state.position, len(ours)) if index not in state.taken]
    return f"ours goes on with {rest[0]}" if rest else ""


def _matched(state: _State, event: Event, match: int, ours: Sequence[_Ours]) -> _State:
    way = state.copy()
    if event.bytes > 0:
        way.numbers[state.index] = ours[match].number
    way.taken |= {match}
    way.index += 1
    return way


def _replacements(state: _State, ours: Sequence[_Ours]) -> Iterator[_State]:
    """Take the next birth in ours for a write to what goes right after it.

    Autograd, where gradients come together, and some operators that are made of others write to a tensor that nobody
    else has, but to no fake one: of that they compute a new one.
    """
    if state.position >= len(ours) or (born := ours[state.position]).bytes < 0:
        return
    for index in range(state.position + 1, len(ours)):
        if index in state.taken:
            continue
        died = ours[index]
        if died.bytes > 0:
            return
        real = next((real for real, number in state.numbers.items() if number == died.number), None)
        if died.bytes == -born.bytes and died.number != born.number and real is not None:
            way = state.copy()
            way.taken |= {state.position, index}
            way.numbers[real] = born.number
            way.in_place[born.operator] += born.bytes
            way.largest_in_place = max(way.largest_in_place, born.bytes)
            yield way


def _match(state: _State, event: Event, ours: Sequence[_Ours], by_name: bool = True) -> int | None:
    """Find the event in ours: the next one, or of those that come together another one, in whatever order they come."""
    first: _Ours | None = None
    for index in range(state.position, len(ours)):
        if index in state.taken:
            continue
        candidate = ours[index]
        if first is None:
            first = candidate
        elif (first.bytes > 0) != (candidate.bytes > 0) or (first.bytes > 0 and first.operator != candidate.operator):
            return None
        if candidate.bytes != event.bytes:
            continue
        if event.bytes > 0:
            # The operator of ours, without its overload, is one of those that were running.
            if not by_name or candidate.operator.split(".")[0] in event.operators:
                return index
        elif event.other is None or state.numbers.get(event.other) == candidate.number:
            return index
    return None
