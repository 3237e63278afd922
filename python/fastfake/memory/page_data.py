"""What the page of a timeline is told: the curve of each category, phases, steps, and allocations, as JSON has them."""

from __future__ import annotations

from collections.abc import Sequence

from .timeline import Allocation, Category, Phase, Timeline

__all__ = ["MOST_SAMPLES", "STACK", "page_data", "thin"]

MOST_SAMPLES = 100_000
"""How many moments a page holds at most. With more it would take a browser seconds to open."""

STACK = (
    Category.PARAMETER,
    Category.BUFFER,
    Category.OPTIMIZER_STATE,
    Category.GRADIENT,
    Category.GATHERED_PARAMETER,
    Category.WHOLE_GRADIENT,
    Category.ALL_GATHER,
    Category.REDUCE_SCATTER,
    Category.INPUT,
    Category.ACTIVATION,
    Category.TEMPORARY,
)
"""The categories from the bottom of the chart to its top: what stays below what comes and goes."""

_PHASES = tuple(Phase)


def page_data(timeline: Timeline, device: str, *, most_samples: int = MOST_SAMPLES) -> dict[str, object]:
    """Describe what happened on a device.

    Args:
        timeline: What to describe.
        device: One of the timeline's devices.
        most_samples: How many moments to describe at most, about. Of more, those are chosen that :func:`thin` keeps.

    Returns:
        What ``json.dumps`` takes. All bytes are exact. Columns stand for rows: the n-th sample is the n-th element of
        each list in ``samples``. The keys:

        ``device``, ``moments``
            The device, and the number of moments of the timeline.
        ``categories``, ``phases``
            Names. Elsewhere, a category or phase is its place in here.
        ``samples``
            ``moment``, ``allocation`` (its place in ``allocations``), ``birth`` (whether it was made then).
        ``series``
            For each category the samples at which its bytes changed, and what they changed to.
        ``bands``
            ``moment``, ``phase``, ``step``: where another phase or step began, on any device.
        ``peak``
            ``sample``, ``moment``, ``bytes``: the first moment at which the most is alive.
        ``texts``
            Texts. In ``allocations`` an operator, module or line is its place in here.
        ``allocations``
            Those of the samples, and those alive at the peak: the columns are attributes of Allocation.
        ``complete``
            Whether those are all allocations, so that what is alive at any moment can be found.
    """
    events = list(timeline.events(device))
    used = {allocation.category for _, _, allocation in events}
    categories = [category for category in STACK if category in used]
    place = {category: index for index, category in enumerate(categories)}

    live, totals = 0, []
    for _, is_birth, allocation in events:
        live += allocation.bytes if is_birth else -allocation.bytes
        totals.append(live)
    kept: Sequence[int] = range(len(events)) if len(events) <= most_samples else thin(totals, most_samples)

    peak = max(kept, key=lambda event: totals[event])
    alive_at_peak = timeline.at(events[peak][0], device).allocations
    described = {allocation.number: allocation for allocation in alive_at_peak}
    described |= {events[event][2].number: events[event][2] for event in kept}
    allocations = [described[number] for number in sorted(described)]
    row = {allocation.number: index for index, allocation in enumerate(allocations)}

    return {
        "device": device,
        "moments": timeline.moments,
        "categories": [category.value for category in categories],
        "phases": [phase.value for phase in _PHASES],
        "samples": {
            "moment": [events[event][0] for event in kept],
            "allocation": [row[events[event][2].number] for event in kept],
            "birth": [int(events[event][1]) for event in kept],
        },
        "series": _series(events, kept, place),
        "bands": _bands(timeline.allocations),
        "peak": {"sample": list(kept).index(peak), "moment": events[peak][0], "bytes": totals[peak]},
        **_columns(allocations, place),
        "complete": len(kept) == len(events),
    }


def thin(totals: Sequence[int], most: int) -> list[int]:
    """Choose points that stand for a whole curve.

    Args:
        totals: The curve.
        most: How many points to choose at most; at least 4.

    Returns:
        Places in ``totals``, ascending: of equally long pieces the first point, the first lowest, the first highest and
        the last. So the first highest point of all is among them.
    """
    pieces = max(1, most // 4)
    kept: set[int] = set()
    for piece in range(pieces):
        start, stop = (len(totals) * edge // pieces for edge in (piece, piece + 1))
        if start < stop:
            indices = range(start, stop)
            kept |= {start, stop - 1, min(indices, key=totals.__getitem__), max(indices, key=totals.__getitem__)}
    return sorted(kept)


def _series(
    events: Sequence[tuple[int, bool, Allocation]], kept: Sequence[int], place: dict[Category, int]
) -> list[dict[str, list[int]]]:
    """Give the kept events at which the bytes of a category changed since the kept one before, and the bytes."""
    series: list[dict[str, list[int]]] = [{"sample": [], "bytes": []} for _ in place]
    live, changed, done = [0] * len(place), set(), 0
    for sample, event in enumerate(kept):
        for _, is_birth, allocation in events[done : event + 1]:
            index = place[allocation.category]
            live[index] += allocation.bytes if is_birth else -allocation.bytes
            changed.add(index)
        done = event + 1
        for index in changed:
            series[index]["sample"].append(sample)
            series[index]["bytes"].append(live[index])
        changed.clear()
    return series


def _bands(allocations: Sequence[Allocation]) -> dict[str, list[int]]:
    bands: dict[str, list[int]] = {"moment": [], "phase": [], "step": []}
    before = None
    for allocation in allocations:
        now = (_PHASES.index(allocation.phase), allocation.step)
        if now != before:
            bands["moment"].append(allocation.born)
            bands["phase"].append(now[0])
            bands["step"].append(now[1])
            before = now
    return bands


def _columns(allocations: Sequence[Allocation], place: dict[Category, int]) -> dict[str, object]:
    texts: dict[str, int] = {}

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts))

    columns = {
        "number": [allocation.number for allocation in allocations],
        "bytes": [allocation.bytes for allocation in allocations],
        "size": [allocation.size for allocation in allocations],
        "born": [allocation.born for allocation in allocations],
        "died": [allocation.died for allocation in allocations],
        "operator": [text(allocation.operator) for allocation in allocations],
        "module": [text(allocation.module) for allocation in allocations],
        "line": [text(allocation.line) for allocation in allocations],
        "phase": [_PHASES.index(allocation.phase) for allocation in allocations],
        "category": [place[allocation.category] for allocation in allocations],
        "step": [allocation.step for allocation in allocations],
    }
    return {"texts": list(texts), "allocations": columns}
