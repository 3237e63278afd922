"""Runs a workload on both sides in alternation and collects the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastfake.demo.compare import differences
from fastfake.demo.errors import DemoError, SideFailure, one_line
from fastfake.demo.measure import SideRun, Timed
from fastfake.demo.memory import memory_in_fresh_process
from fastfake.demo.report import Figures, SideFigures
from fastfake.demo.side import FASTFAKE, TORCH, Side
from fastfake.demo.workload import Workload
from fastfake.logs import quiet_log

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Plan:
    """How much to run.

    Attributes:
        workload: The model and its loss.
        rounds: Number of warm rounds that are timed on each side.
    """

    workload: Workload
    rounds: int


def run_alternately(plan: Plan, progress_console: Console) -> Figures:
    """Run the plan's workload on torch's side and on fastfake's, one after the other in every step.

    Args:
        plan: What to run.
        progress_console: Where to show progress; nothing is shown unless it is a terminal.

    Returns:
        The figures of both sides and the differences in metadata.

    Raises:
        DemoError: torch's FakeTensor cannot run the workload.
        SideFailure: fastfake cannot run it although torch's FakeTensor can.
    """
    sides = (TORCH, FASTFAKE)
    bar = Progress(
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=progress_console,
        disable=not progress_console.is_terminal,
        transient=True,
        # A thread that redraws the bar would take its time from the work that is being timed.
        auto_refresh=False,
    )
    with bar, quiet_log():
        # Rehearsal, memory, cold run and inspection are the four steps before the rounds.
        task = bar.add_task("", total=len(sides) * (4 + plan.rounds))

        def step(side: Side, label: str, action: Callable[[], _Result]) -> _Result:
            bar.update(task, description=f"{side.name}: {label}", refresh=True)
            result = _attempt(side, plan.workload.title, action)
            bar.advance(task)
            return result

        # Torch imports much on first use. The rehearsal pays for that, so that it counts on nobody's cold run.
        for side in sides:
            step(side, "rehearsal", SideRun(side, plan.workload.rehearsal()).cold)
        memory = [step(side, "memory", partial(memory_in_fresh_process, side, plan.workload)) for side in sides]
        runs = [SideRun(side, plan.workload) for side in sides]
        cold = [step(side, "cold run", run.cold) for side, run in zip(sides, runs, strict=True)]
        inspections = [step(side, "inspection", run.inspect) for side, run in zip(sides, runs, strict=True)]
        warm: tuple[list[Timed], list[Timed]] = ([], [])
        for number in range(1, plan.rounds + 1):
            for side, run, timed in zip(sides, runs, warm, strict=True):
                timed.append(step(side, f"warm round {number}", run.warm))

    theirs, ours = (
        SideFigures(
            parameters=inspection.parameters,
            parameter_bytes=inspection.parameter_bytes,
            operators=inspection.operators,
            cold=cold_run,
            warm=tuple(timed),
            memory=memory_use,
        )
        for inspection, cold_run, timed, memory_use in zip(inspections, cold, warm, memory, strict=True)
    )
    torch_record, our_record = (inspection.record for inspection in inspections)
    return Figures(
        title=plan.workload.title,
        torch=theirs,
        fastfake=ours,
        tensors=len(torch_record.keys() | our_record.keys()),
        differences=differences(torch_record, our_record),
    )


def _attempt(side: Side, title: str, action: Callable[[], _Result]) -> _Result:
    try:
        return action()
    except Exception as error:
        if side is TORCH:
            raise DemoError(f"{title}: torch's FakeTensor cannot run it: {one_line(error)}") from error
        raise SideFailure(f"{title}: fastfake cannot run what torch's FakeTensor ran: {one_line(error)}") from error
