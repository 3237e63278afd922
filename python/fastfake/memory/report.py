"""Shows what was found out as tables, and writes it down as JSON."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastfake import __version__

from .estimate import Estimate, Verdict
from .fit import MOST_SAMPLES
from .timeline import Allocation, Usage

__all__ = ["as_json", "facts", "print_estimate", "readable"]

_DEPTH = 4
_SHOWN = 10
_IN_JSON = 100
_WRAPPER = "_checkpoint_wrapped_module"
_UNITS = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))
_COUNT_UNITS = (("P", 10**15), ("T", 10**12), ("G", 10**9), ("M", 10**6))


def print_estimate(estimate: Estimate, console: Console) -> None:
    """Print everything that was found out; the last line says whether it fits.

    Args:
        estimate: What was found out.
        console: Where to print it.
    """
    usage = estimate.timeline.peak(estimate.verdict.device)
    console.print(Text(estimate.title, style="bold"))
    console.print(_peak_table(estimate, usage))
    console.print(_module_table(usage))
    culprit = at_peak(usage)
    if culprit is not None:
        console.print(Text(f"At the peak: {_described(culprit)}"), soft_wrap=True)
    counts = estimate.counts
    if counts is not None:
        console.print(
            f"A step computes {_count(counts.flops)}FLOP: {_count(counts.forward_flops)}FLOP forward and "
            f"{_count(counts.backward_flops)}FLOP backward.",
            highlight=False,
        )
        if counts.collectives:
            console.print(_collective_table(estimate))
    style = "green" if estimate.verdict.fits else "red"
    console.print(Text(verdict_line(estimate), style=style), soft_wrap=True)


def verdict_line(estimate: Estimate) -> str:
    """Say whether it fits, and what would."""
    verdict, largest = estimate.verdict, estimate.largest_batch
    memory = readable(verdict.memory)
    line = f"Fits in {memory}" if verdict.fits else f"Does not fit in {memory}: {verdict.failure}"
    if largest is None:
        return f"{line}."
    if largest == 0:
        return f"{line}. Not even a batch of 1 does."
    if largest >= MOST_SAMPLES:
        return f"{line}, as does any batch up to {MOST_SAMPLES}."
    return f"{line}. The largest batch that does is {largest}."


def facts(estimate: Estimate) -> list[tuple[str, str]]:
    """Put the numbers that belong to the whole in words.

    Args:
        estimate: What was found out.

    Returns:
        Their names and values.
    """
    found = [("reserved", readable(estimate.verdict.reserved))]
    if estimate.largest_batch is not None:
        found.append(("largest batch that fits", str(estimate.largest_batch)))
    if estimate.counts is not None:
        found.append(("step", f"{_count(estimate.counts.flops)}FLOP"))
    return found


def readable(size: int) -> str:
    """Put bytes in words, such as ``1.50 GiB``."""
    return next((f"{size / unit:.2f} {name}" for name, unit in _UNITS if size >= unit), f"{size} bytes")


def at_peak(usage: Usage) -> Allocation | None:
    """Give the allocation that made the peak."""
    return next((made for made in reversed(usage.allocations) if made.born == usage.moment), None)


def as_json(estimate: Estimate) -> dict[str, Any]:
    """Return what was found out as plain dictionaries and lists, sizes in bytes.

    Args:
        estimate: What was found out.
    """
    usage = estimate.timeline.peak(estimate.verdict.device)
    culprit = at_peak(usage)
    counts = estimate.counts
    return {
        "title": estimate.title,
        "steps": estimate.steps,
        "batch": estimate.batch,
        "largest_batch": estimate.largest_batch,
        **asdict(estimate.verdict),
        "peak": {
            "moment": usage.moment,
            "by_category": usage.by("category"),
            "by_phase": usage.by("phase"),
            "by_module": usage.by(lambda allocation: module_name(allocation.module)),
            "by_operator": usage.by("operator"),
            "reached_by": None if culprit is None else _row(culprit),
            "largest": [_row(allocation) for allocation in usage.largest()[:_IN_JSON]],
        },
        "flops": None
        if counts is None
        else {"step": counts.flops, "forward": counts.forward_flops, "backward": counts.backward_flops},
        "collectives": None if counts is None else [asdict(collective) for collective in counts.collectives],
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "fastfake": __version__},
    }


def module_name(name: str) -> str:
    """Leave the wrappers of checkpoints out of a module's name."""
    return ".".join(part for part in name.split(".") if part != _WRAPPER)


def _row(allocation: Allocation) -> dict[str, Any]:
    row = asdict(allocation)
    return row | {
        "phase": allocation.phase.value,
        "category": allocation.category.value,
        "module": module_name(allocation.module),
    }


def _peak_table(estimate: Estimate, usage: Usage) -> Table:
    verdict = estimate.verdict
    table = Table(title=f"Peak on {verdict.device}, {_steps(estimate.steps)}", title_justify="left")
    table.add_column("")
    table.add_column("bytes", justify="right")
    table.add_column("share", justify="right")
    for category, size in usage.by("category").items():
        table.add_row(category, readable(size), _share(size, usage.bytes))
    table.add_section()
    table.add_row("[bold]allocated[/]", readable(verdict.allocated), "")
    table.add_row("[bold]reserved[/]", readable(verdict.reserved), _of_memory(verdict))
    return table


def _steps(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _of_memory(verdict: Verdict) -> str:
    return f"{_share(verdict.reserved, verdict.memory)} of {readable(verdict.memory)}"


def _share(size: int, whole: int) -> str:
    return f"{size / whole:.1%}" if whole else "-"


def _module_table(usage: Usage) -> Table:
    table = Table(title="Heaviest modules at the peak", title_justify="left")
    table.add_column("module")
    for heading in ("modules", "bytes", "share"):
        table.add_column(heading, justify="right")
    names: dict[str, set[str]] = {}
    for allocation in usage.allocations:
        names.setdefault(_pattern(allocation.module), set()).add(_shortened(allocation.module))
    sizes = usage.by(lambda allocation: _pattern(allocation.module))
    for pattern, size in list(sizes.items())[:_SHOWN]:
        shown = Text(pattern) if pattern else Text("outside of modules", style="italic")
        table.add_row(shown, str(len(names[pattern])) if pattern else "", readable(size), _share(size, usage.bytes))
    if len(sizes) > _SHOWN:
        others = sum(list(sizes.values())[_SHOWN:])
        table.add_row(
            Text(f"{len(sizes) - _SHOWN} others", style="italic"), "", readable(others), _share(others, usage.bytes)
        )
    return table


def _pattern(name: str) -> str:
    """Give layers that differ in their number one name."""
    return ".".join("*" if part.isdigit() else part for part in _shortened(name).split("."))


def _shortened(name: str) -> str:
    return ".".join(module_name(name).split(".")[:_DEPTH])


def _described(allocation: Allocation) -> str:
    where = f" in {module_name(allocation.module)}" if allocation.module else ""
    line = f", called at {allocation.line}" if allocation.line else ""
    operator, size = allocation.operator or "an allocation", readable(allocation.bytes)
    return f"{operator}{where} ({allocation.phase.value}), {size}{line}"


def _count(number: int) -> str:
    return next((f"{number / unit:.2f} {name}" for name, unit in _COUNT_UNITS if number >= unit), f"{number} ")


def _collective_table(estimate: Estimate) -> Table:
    assert estimate.counts is not None
    table = Table(title="Collectives of a step", title_justify="left")
    for heading in ("operator", "group", "dtype"):
        table.add_column(heading)
    for heading in ("calls", "bytes"):
        table.add_column(heading, justify="right")
    for collective in estimate.counts.collectives:
        group = f"{collective.group} of {collective.ranks}"
        table.add_row(
            Text(collective.operator),
            Text(group),
            collective.dtype,
            f"{collective.calls:,}",
            readable(collective.bytes),
        )
    return table
