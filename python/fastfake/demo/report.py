"""Shows the demo's figures as a table and writes them as JSON."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from fastfake import __version__
from fastfake.demo.errors import DemoError
from fastfake.demo.measure import Timed
from fastfake.demo.memory import MemoryUse

if TYPE_CHECKING:
    from fastfake.memory import Usage

_MEBIBYTE = 1024**2


@dataclass(frozen=True)
class SideFigures:
    """What was measured on one side.

    Attributes:
        parameters: Number of the model's parameters.
        parameter_bytes: Bytes that they would take if they were real.
        operators: Operators that reached the fake mode in one forward and backward pass.
        cold: Build, first forward and backward pass, starting with an empty cache.
        warm: Each later forward and backward pass that was timed.
        memory: Resident memory of a process that runs this side only.
    """

    parameters: int
    parameter_bytes: int
    operators: int
    cold: Timed
    warm: tuple[Timed, ...]
    memory: MemoryUse

    @property
    def warm_seconds(self) -> float:
        """Median time of a warm round, in seconds."""
        return statistics.median(timed.seconds for timed in self.warm)


@dataclass(frozen=True)
class Figures:
    """What the demo found out.

    Attributes:
        title: The model and the input's sizes.
        torch: Figures of torch's side.
        fastfake: Figures of fastfake's side.
        tensors: Number of tensors whose metadata were compared.
        differences: One line for each tensor whose metadata differ.
    """

    title: str
    torch: SideFigures
    fastfake: SideFigures
    tensors: int
    differences: list[str]


def print_table(figures: Figures, console: Console) -> None:
    """Print the figures of both sides next to each other.

    Args:
        figures: What to print.
        console: Where to print it.
    """
    torch_side, ours = figures.torch, figures.fastfake
    table = Table(title=figures.title, title_justify="left", caption=_caption(figures), caption_justify="left")
    table.add_column("")
    for heading in ("torch", "fastfake", "torch / fastfake"):
        table.add_column(heading, justify="right")

    def counts(label: str, theirs: int, own: int) -> None:
        table.add_row(label, f"{theirs:,}", f"{own:,}")

    def seconds(label: str, theirs: float, own: float) -> None:
        table.add_row(f"[bold]{label}[/]", _duration(theirs), _duration(own), _ratio(theirs, own))

    def memory(label: str, theirs: int, own: int) -> None:
        sizes = (f"{size / _MEBIBYTE:,.1f} MiB" for size in (theirs, own))
        table.add_row(label, *sizes, _ratio(theirs, own))

    def cache(theirs: Timed, own: Timed) -> None:
        counts("  cache hits", theirs.cache.hits, own.cache.hits)
        counts("  cache misses", theirs.cache.misses, own.cache.misses)
        counts("  not cacheable", theirs.cache.bypasses, own.cache.bypasses)

    counts("parameters", torch_side.parameters, ours.parameters)
    counts("operators per round", torch_side.operators, ours.operators)
    table.add_section()
    seconds("cold: build + round", torch_side.cold.seconds, ours.cold.seconds)
    cache(torch_side.cold, ours.cold)
    table.add_section()
    seconds("warm: round (median)", torch_side.warm_seconds, ours.warm_seconds)
    seconds("  per operator", torch_side.warm_seconds / torch_side.operators, ours.warm_seconds / ours.operators)
    cache(torch_side.warm[-1], ours.warm[-1])
    table.add_section()
    memory("resident memory", torch_side.memory.total_bytes, ours.memory.total_bytes)
    memory("  from model and cache", torch_side.memory.growth_bytes, ours.memory.growth_bytes)
    console.print(table)


def print_verdict(figures: Figures, console: Console, *, shown: int = 20) -> None:
    """Print whether both sides agreed about every tensor, and where not.

    Args:
        figures: What was found out.
        console: Where to print it.
        shown: How many differences to print at most.
    """
    if not figures.differences:
        console.print(
            f"[green]Same metadata on both sides[/]: {figures.tensors:,} tensors compared (every module's outputs, "
            "every parameter, gradient and buffer)."
        )
        return
    console.print(f"[red]Metadata differ[/] for {len(figures.differences):,} of {figures.tensors:,} tensors:")
    for line in figures.differences[:shown]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if len(figures.differences) > shown:
        console.print(f"  and {len(figures.differences) - shown:,} more")


def print_peak(peak: Usage, console: Console) -> None:
    """Print what a round would take if its tensors were real.

    Args:
        peak: What is alive when the most is.
        console: Where to print.
    """
    from fastfake.memory.report import readable

    console.print(f"A round on real tensors would take, on {peak.device}:", highlight=False)
    table = Table()
    table.add_column("")
    table.add_column("bytes", justify="right")
    for category, size in peak.by("category").items():
        table.add_row(category, readable(size))
    table.add_section()
    table.add_row("[bold]at the peak[/]", readable(peak.bytes))
    console.print(table)


def write_json(figures: Figures, path: Path) -> None:
    """Write the figures to a file, times in seconds and sizes in bytes.

    Args:
        figures: What to write.
        path: The file; what it held is replaced.

    Raises:
        DemoError: The file cannot be written.
    """
    try:
        path.write_text(json.dumps(as_json(figures), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DemoError(f"{path}: cannot write the figures: {error.strerror}") from error


def as_json(figures: Figures) -> dict[str, Any]:
    """Return the figures as plain dictionaries, with ratios and the versions that they were taken with.

    Args:
        figures: What to convert.
    """
    torch_side, ours = figures.torch, figures.fastfake
    return {
        **asdict(figures),
        "median_warm_seconds": {"torch": torch_side.warm_seconds, "fastfake": ours.warm_seconds},
        "ratios": {
            "cold": torch_side.cold.seconds / ours.cold.seconds,
            "warm": torch_side.warm_seconds / ours.warm_seconds,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "fastfake": __version__,
        },
    }


def _caption(figures: Figures) -> str:
    gigabytes, rounds = figures.fastfake.parameter_bytes / 1e9, len(figures.fastfake.warm)
    return (
        f"Real parameters would take {gigabytes:,.1f} GB. A round is forward, loss and backward; its operators are "
        f"those that reach the fake mode. Cold starts with an empty cache. Warm is the median of {rounds} rounds, its "
        "cache figures are the last round's. Memory is measured in one process for each side, which builds the model "
        "and runs one round."
    )


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:,.2f} {unit}"
    return f"{seconds / 1e-6:,.2f} µs"


def _ratio(theirs: float, own: float) -> str:
    # A model that fits into memory the process already had makes it grow by nothing.
    return f"[bold]{theirs / own:,.1f}x[/]" if own > 0 else "-"
