"""Suite: what a training step costs that is watched for its memory, by fastfake.memory and by torch's trackers.

A Llama with 4 layers and AdamW, alone and sharded with FSDP2 over 8 ranks of a fake process group. Warm steps of four
kinds take turns: on fastfake alone, under `fastfake.memory.track`, and under torch's MemTracker (of a sharded model,
FSDPMemTracker) on torch's own FakeTensor and on fastfake. Steps on fake tensors wait for nothing, so that what is
measured is the time that they had the processor, which other processes on the machine change least. A tracked step
should cost at most 1.3 times the untracked one, and torch's tracker on torch's FakeTensor at least 12 times the tracked
step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

import fastfake.memory
from bench import report
from bench.alternate import Measure, Measured, alternate
from bench.bypass_programs import WORLD_SIZE, Step, llama, mesh, sharded_llama, training_step
from bench.garbage import no_garbage
from bench.sides import FakeSide, Fastfake, Torch

RANKS = 8
# The first step makes the state of the optimizer, the second is the first of its kind.
STEPS_BEFORE = 3
# In a round. Those under torch's trackers take too long for more.
STEPS, STEPS_UNDER_TORCHS = 5, 1
UNTRACKED, TRACKED, TORCH, TORCH_ON_FASTFAKE = "untracked", "tracked", "MemTracker, torch", "MemTracker, fastfake"
RATIOS = ((TRACKED, UNTRACKED), (TORCH, TRACKED), (TORCH_ON_FASTFAKE, TRACKED))


@dataclass(frozen=True)
class Prepared:
    """A program under the mode that was active when it was made."""

    model: nn.Module
    inputs: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    step: Step


Watch = Callable[[Prepared], AbstractContextManager[Any]]


def _llama() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return llama()


def _fsdp2() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return sharded_llama(mesh(("replicas", WORLD_SIZE // RANKS), ("data", RANKS))["data"])


PROGRAMS: dict[str, Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]] = {
    "llama": _llama,
    f"FSDP2 of {RANKS}": _fsdp2,
}


def _prepare(name: str) -> Prepared:
    model, inputs = PROGRAMS[name]()
    optimizer = torch.optim.AdamW(model.parameters())
    prepared = Prepared(model, inputs, optimizer, training_step(model, inputs, optimizer))
    for _ in range(STEPS_BEFORE):
        prepared.step()
    return prepared


def _ours(prepared: Prepared) -> AbstractContextManager[Any]:
    return fastfake.memory.track(prepared.model, prepared.optimizer, *prepared.inputs.values())


def _torchs(prepared: Prepared) -> AbstractContextManager[Any]:
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.distributed.fsdp import FSDPModule

    if isinstance(prepared.model, FSDPModule):
        sharded = FSDPMemTracker(prepared.model, prepared.optimizer)
        sharded.track_inputs((prepared.inputs,))
        return sharded
    tracker = MemTracker()
    tracker.track_external(prepared.model, prepared.optimizer, *prepared.inputs.values())
    return tracker


def _timed(side: FakeSide, prepared: Prepared, watch: Watch, steps: int) -> Measure:
    def seconds() -> list[float]:
        with side.entered(), watch(prepared) as tracker:
            # Entering assigns names in torch's modules, and the interpreter has to specialize the code that reads them.
            prepared.step()
            return [_step(prepared, tracker) for _ in range(steps)]

    return seconds


def _step(prepared: Prepared, tracker: Any) -> float:
    if hasattr(tracker, "reset_mod_stats"):
        tracker.reset_mod_stats()
    with no_garbage():
        start = time.process_time()
        prepared.step()
        return time.process_time() - start


def measure(name: str, rounds: int) -> Measured:
    """Measures a warm step of a program in all four ways, in alternation."""
    theirs, ours = Torch(), Fastfake()
    with theirs.entered():
        on_torch = _prepare(name)
    with ours.entered():
        on_ours = _prepare(name)
    measures = {
        UNTRACKED: _timed(ours, on_ours, lambda _: nullcontext(), STEPS),
        TRACKED: _timed(ours, on_ours, _ours, STEPS),
        TORCH: _timed(theirs, on_torch, _torchs, STEPS_UNDER_TORCHS),
        TORCH_ON_FASTFAKE: _timed(ours, on_ours, _torchs, STEPS_UNDER_TORCHS),
    }
    return alternate(name, "step", measures, rounds, {})


def ratios(case: Measured) -> dict[str, dict[str, float]]:
    """Divides the medians, and the fastest steps, of the sides that are compared."""
    by_statistic = {"median": case.medians, "minimum": case.minima}
    return {
        f"{above} / {below}": {name: seconds[above] / seconds[below] for name, seconds in by_statistic.items()}
        for above, below in RATIOS
    }


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    names = options.program or list(PROGRAMS)
    measured = [measure(name, options.rounds) for name in report.in_turn(names)]
    _show(measured)
    if options.json:
        cases = report.described(measured, overall=False)["cases"]
        assert isinstance(cases, list)
        for case, found in zip(cases, measured, strict=True):
            case["ratios"] = ratios(found)
        report.write_json(options.json, "memory", {"rounds": options.rounds}, {"cases": cases})
    if options.pyperf:
        report.write_pyperf(options.pyperf, measured)
    return 0


def _show(measured: Sequence[Measured]) -> None:
    steps = Table(title="processor time of a warm step: median, minimum")
    steps.add_column("program")
    for side in (UNTRACKED, TRACKED, TORCH, TORCH_ON_FASTFAKE):
        steps.add_column(side, justify="right")
    for case in measured:
        steps.add_row(case.name, *(f"{report.time(case, s)}, {report.least_time(case, s)}" for s in case.benchmarks))
    report.show(steps)

    quotients = Table(title="ratios: of medians, of minima")
    quotients.add_column("program")
    for above, below in RATIOS:
        quotients.add_column(f"{above} / {below}", justify="right")
    for case in measured:
        quotients.add_row(case.name, *(f"{r['median']:.2f}, {r['minimum']:.2f}" for r in ratios(case).values()))
    report.show(quotients)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", action="append", choices=list(PROGRAMS), help="a program to run; repeatable")
    parser.add_argument("--rounds", type=report.several, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--pyperf", type=Path, metavar="FILE", help="write every round's values in pyperf's format")
    return parser
