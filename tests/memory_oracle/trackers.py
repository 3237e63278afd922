"""torch's memory trackers, and what they would say of the allocations of ours."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import torch
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker

from memory_oracle.programs import Case, Program

Bytes = dict[str, int]
"""The bytes of each of torch's categories, without those that have none."""
TOTAL = "Total"


class CompilingMemTracker(MemTracker):
    """Lets models be compiled that it watches: under torch's own, their frames run as they are written."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Dynamo asks this of each mode that is active."""
        return True


def torch_tracker(case: Case, program: Program) -> MemTracker:
    """Make torch's tracker for a program, which is given all that there is before."""
    if case.sharded:
        tracker: MemTracker = FSDPMemTracker(program.model, program.optimizer)
        tracker.track_inputs((program.inputs,))
        return tracker
    tracker = CompilingMemTracker() if case.compiled else MemTracker()
    tracker.track_external(program.model, program.optimizer, *program.inputs.values())
    return tracker


def snapshot(tracker: MemTracker, device: str, kind: str) -> Bytes:
    """Give what one of torch's trackers counts on a device now, or did at the peak."""
    found: Bytes = {}
    for name, by_category in tracker.get_tracker_snapshot(kind).items():
        if name == torch.device(device):
            found = {getattr(category, "value", category): size for category, size in by_category.items() if size}
    return found


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from freeing tensors in cycles at moments that depend on what else runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
