"""Record traces.json: what torch's own allocator does in random programs, for where it cannot be had.

    PYTHONPATH=tests python -m allocator.record SITE_PACKAGES

SITE_PACKAGES has a torch for CUDA in it. The programs are made so that a device runs out in some of them.
"""

from __future__ import annotations

import json
import pathlib
import random
import sys
import tempfile

from allocator.random_traces import SETTINGS, draw_memory, draw_operations
from allocator.real_allocator import ROOM, RealAllocator

TRACES = ROOM / "traces.json"


def main(packages: str) -> None:
    draw = random.Random(13)
    with tempfile.TemporaryDirectory() as folder:
        allocator = RealAllocator(pathlib.Path(packages), pathlib.Path(folder))
        if allocator.why_not:
            sys.exit(allocator.why_not)
        allocator.build()
        traces = []
        for settings in SETTINGS:
            memory, available = draw_memory(draw)
            operations = draw_operations(draw, 60, memory * 3 // 4)
            trace = allocator.replay(operations, settings, memory, available)
            traces.append(
                {
                    "settings": settings,
                    "memory": memory,
                    "available": available,
                    "operations": operations,
                    "steps": trace.steps,
                    "segments": trace.segments,
                }
            )
    lines = ",\n".join(json.dumps(trace) for trace in traces)
    TRACES.write_text(f"[\n{lines}\n]\n")
    failed = sum(step.startswith("oom") for trace in traces for step in trace["steps"])
    print(f"{len(traces)} programs, {failed} requests that did not fit: {TRACES}")


if __name__ == "__main__":
    main(*sys.argv[1:])
