"""One process of the overheads suite: measures what the import shim costs and prints it as JSON."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Sequence
from timeit import Timer

import torch

# Installing assigns names in torch's modules, and the interpreter has to specialize the code that reads them once more.
WARM_CALLS = 1000
# So short that most of them are over before the scheduler gives the core to something else.
LOOPS = 500
MEASUREMENTS = 400


def import_seconds() -> float:
    """Measures the processor's time of importing the shim; torch is imported already."""
    start = time.process_time()
    import fastfake.shim  # noqa: F401

    return time.process_time() - start


def add_seconds(shim: bool) -> float:
    """Measures one eager addition of tiny tensors: the fastest of many, which a busy machine spoils least."""
    if shim:
        import fastfake.shim  # noqa: F401
    timer = Timer("add(a, b)", globals={"add": torch.add, "a": torch.ones(2), "b": torch.ones(2)})
    gc.collect()
    timer.timeit(WARM_CALLS)
    return min(timer.repeat(MEASUREMENTS, LOOPS)) / LOOPS


def main(argv: Sequence[str]) -> int:
    """Measures `import`, `torch` or `fastfake`: the import, or an addition without the shim or with it."""
    (what,) = argv
    seconds = import_seconds() if what == "import" else add_seconds(what == "fastfake")
    json.dump({"seconds": seconds, "threads": torch.get_num_threads()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
