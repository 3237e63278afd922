"""torch's memory trackers, and what they would say of our timeline."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping

import torch
from bench.garbage import no_garbage
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker

import fastfake
from fastfake.memory import Allocation, Category, Phase, Timeline
from memory_oracle.programs import Case, Program, prepare, process_group

Bytes = dict[str, int]
"""The bytes of each of torch's categories that has any, and their total."""

TOTAL = "Total"


class CompilingMemTracker(MemTracker):
    """Lets compiled models run as such: under torch's own class, Dynamo leaves their frames alone."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Dynamo asks this of each mode that is active."""
        return True


def torch_tracker(case: Case, program: Program) -> MemTracker:
    """Make torch's tracker for a program, which is told of all that there is before."""
    if case.sharded:
        tracker: MemTracker = FSDPMemTracker(program.model, program.optimizer)
        tracker.track_inputs((program.inputs,))
        return tracker
    tracker = CompilingMemTracker() if case.compiled else MemTracker()
    tracker.track_external(program.model, program.optimizer, *program.inputs.values())
    return tracker


def torch_bytes(tracker: MemTracker, device: str, kind: str) -> Bytes:
    """Give what one of torch's trackers counts on a device now, or counted at the peak."""
    for found, by_category in tracker.get_tracker_snapshot(kind).items():
        if found == torch.device(device):
            return {getattr(category, "value", category): size for category, size in by_category.items() if size}
    return {}


# Both hold the same: what a role is called by torch, and what memory is called that has none, by phase.
_PLAIN: Mapping[Category | Phase, str] = {
    Category.PARAMETER: "Parameter",
    Category.BUFFER: "Buffer",
    Category.GRADIENT: "Gradient",
    Category.OPTIMIZER_STATE: "Optstate",
    Category.INPUT: "Other",
    Phase.FORWARD: "Activation",
    Phase.RECOMPUTATION: "Activation",
    Phase.BACKWARD: "Temp",
    Phase.OPTIMIZER: "Optstate",
}
_SHARDED: Mapping[Category | Phase, str] = {
    **_PLAIN,
    Category.PARAMETER: "Sharded Param",
    Category.GATHERED_PARAMETER: "Unsharded Param",
    Category.GRADIENT: "Sharded Grad",
    Category.WHOLE_GRADIENT: "Unsharded Grad",
    Category.ALL_GATHER: "All Gather",
    Category.REDUCE_SCATTER: "Reduce Scatter",
    Category.OPTIMIZER_STATE: "OptState",
    Category.INPUT: "Inputs",
    Phase.OPTIMIZER: "OptState",
}


def torch_category(allocation: Allocation, moment: int, sharded: bool) -> str:
    """Name the category that an allocation has for torch's trackers at a moment.

    Ours has the one that it turned out to have, from its birth on; theirs changes as hooks are called.
    """
    names = _SHARDED if sharded else _PLAIN
    roles = [role for when, role in allocation.roles if when <= moment]
    # What an operator made is no input for theirs, whoever is called with it.
    if roles and not (roles[-1] is Category.INPUT and allocation.operator):
        return names[roles[-1]]
    return names[allocation.phase]


def our_bytes(timeline: Timeline, device: str, sharded: bool, moment: int | None = None) -> Bytes:
    """Add up our allocations on a device at a moment, or at the peak, by torch's categories."""
    usage = timeline.peak(device) if moment is None else timeline.at(moment, device)
    found: Bytes = {}
    for allocation in usage.allocations:
        name = torch_category(allocation, usage.moment, sharded)
        found[name] = found.get(name, 0) + allocation.bytes
    return {**found, TOTAL: usage.bytes} if found else {}


@contextlib.contextmanager
def surroundings(case: Case) -> Iterator[str]:
    """Have what a case runs in, on fake tensors: a mode, and the devices and ranks that it claims to have."""
    with contextlib.ExitStack() as stack:
        if case.device == "cuda":
            stack.enter_context(fastfake.pretend(count=8))
        stack.enter_context(process_group(case))
        stack.enter_context(fastfake.FakeTensorMode())
        stack.enter_context(no_garbage())
        yield "cuda:0" if case.device == "cuda" else case.device


@contextlib.contextmanager
def warm(case: Case) -> Iterator[tuple[Program, str]]:
    """Give a program and its device when another of the same kind has taken a step.

    By then DTensor has learnt the shapes of what it computes, for which it runs operators that are no part of the
    program. A model that is compiled or sharded has taken a step itself, with which the first one is different: it is
    compiled, and shards are put in the place of those that were there.
    """
    with surroundings(case) as device:
        prepare(case).step(lambda stage: None)
        gc.collect()
        program = prepare(case)
        if case.compiled or case.sharded:
            program.step(lambda stage: None)
            program.optimizer.state.clear()
        yield program, device


def compared(case: Case) -> list[tuple[str, Bytes, Bytes]]:
    """Run two steps under both trackers, and give what they say, torch's first, after each stage and of the peak."""
    with warm(case) as (program, device):
        found: list[tuple[str, Bytes, Bytes]] = []
        tracked = (program.model, program.optimizer, *program.inputs.values())
        # Theirs is made under ours: it keeps the function that resizes storages as it finds it.
        with fastfake.memory.track(*tracked) as ours, torch_tracker(case, program) as theirs:

            def stage(name: str) -> None:
                timeline = ours.timeline
                found.append(
                    (
                        name,
                        torch_bytes(theirs, device, "current"),
                        our_bytes(timeline, device, case.sharded, timeline.moments),
                    )
                )
                if name == "backward":
                    # It has a program call its model once until then.
                    theirs.reset_mod_stats()

            for step in ("first", "second"):
                theirs.reset_mod_stats()
                program.step(stage)
                found.append(
                    (
                        f"peak of the {step} step",
                        torch_bytes(theirs, device, "peak"),
                        our_bytes(ours.timeline, device, case.sharded),
                    )
                )
        return found
