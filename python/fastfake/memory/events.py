"""From what the native ledger noted to a timeline."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .roles import role_of
from .timeline import Allocation, Category, Phase, Timeline

__all__ = ["timeline_of"]

# As csrc/memory/ledger.h has them.
_BIRTH, _RESIZE, _DEATH, _ROLE, _PHASE = range(5)
_PHASES = tuple(Phase)

# kind, storage, bytes, detail, device, operator, module, line, phase, step
_Event = tuple[int, int, int, int, torch.device, int, int, int, int, int]

_RESIZED = "UntypedStorage.resize_"  # by no operator

_ROUNDING = 512  # of the caching allocator of CUDA


@dataclass
class _Storage:
    """What was noted of one storage: its roles, and the spans of time in which it had memory."""

    roles: list[tuple[int, Category]] = field(default_factory=list)
    module: int = 0  # which a role named
    spans: list[_Span] = field(default_factory=list)


@dataclass
class _Span:
    event: _Event
    device: torch.device
    size: int
    born: int
    died: int | None = None


def timeline_of(
    events: Sequence[_Event], operators: Mapping[int, str], modules: Sequence[str], lines: Sequence[str]
) -> Timeline:
    """Put together what was noted.

    Args:
        events: As the ledger gives them, in the order of time; each is a moment.
        operators: The names of the operators that events name by number.
        modules: Those of modules.
        lines: The lines of Python.
    """
    storages: dict[int, _Storage] = {}
    devices: dict[int, torch.device] = {}
    begins_backward: list[int] = []
    for moment, event in enumerate(events):
        kind, number, size, detail = event[:4]
        if kind == _PHASE:
            if _PHASES[detail] is Phase.BACKWARD:
                begins_backward.append(moment)
            continue
        storage = storages.setdefault(number, _Storage())
        if kind == _ROLE:
            storage.roles.append((moment, role_of(detail)))
            storage.module = event[6] or storage.module
            continue
        if kind == _BIRTH:
            devices[number] = event[4]
        if kind != _BIRTH and storage.spans and storage.spans[-1].died is None:
            storage.spans[-1].died = moment
        if kind != _DEATH and size > 0:
            storage.spans.append(_Span(event, devices[number], size, moment))

    def allocation(storage: _Storage, span: _Span) -> Allocation:
        operator, module, line, phase, step = span.event[5:]
        return Allocation(
            number=0,
            device=str(span.device),
            bytes=_counted(span.device, span.size),
            size=span.size,
            born=span.born,
            died=span.died,
            operator=operators.get(operator, _RESIZED if span.event[0] == _RESIZE else ""),
            module=modules[storage.module or module],
            line=lines[line],
            phase=_PHASES[phase],
            category=storage.roles[-1][1] if storage.roles else _made_for(_PHASES[phase], span, begins_backward),
            step=step,
            roles=tuple(storage.roles),
        )

    return Timeline(
        _numbered(allocation(storage, span) for storage in storages.values() for span in storage.spans), len(events)
    )


def _numbered(allocations: Iterable[Allocation]) -> list[Allocation]:
    in_order = sorted(allocations, key=lambda allocation: allocation.born)
    for number, allocation in enumerate(in_order):
        object.__setattr__(allocation, "number", number)  # nobody has seen it yet
    return in_order


def _counted(device: torch.device, size: int) -> int:
    return -(-size // _ROUNDING) * _ROUNDING if device.type == "cuda" else size


def _made_for(phase: Phase, span: _Span, begins_backward: Sequence[int]) -> Category:
    """Tell an activation by its being alive when the backward pass, for which it was kept, goes on."""
    if phase in (Phase.FORWARD, Phase.RECOMPUTATION):
        index = bisect.bisect(begins_backward, span.born)
        if index < len(begins_backward) and (span.died is None or span.died > begins_backward[index]):
            return Category.ACTIVATION
    return Category.TEMPORARY
