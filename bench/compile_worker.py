"""One process of the compile suite: compiles the model once and prints what that took as JSON.

Everything happens in the same order with the shim and without. A model of other widths is compiled first, so that
what torch imports and looks up at the first use is not counted on either side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence

import torch

from bench.compile_targets import TARGETS
from bench.llama import Shape, model

WARM_UP = Shape(layers=1, heads=2, head_width=12, vocabulary=40, batch=3, length=10)


def main(argv: Sequence[str]) -> int:
    """Compiles the model for one target.

    Args:
        argv: The worker's options.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    if options.side == "fastfake":
        import fastfake.shim

        if not fastfake.is_installed():
            print("fastfake is disabled", file=sys.stderr)
            return 1
    # Standard output is for the answer; compilers may print there too.
    with contextlib.redirect_stdout(sys.stderr):
        answer = measure(options.target, options.layers, options.probe)
    json.dump(answer, sys.stdout)
    return 0


def measure(target: str, layers: int, probed: bool) -> dict[str, object]:
    """Compiles the model once.

    Args:
        target: What to compile for.
        layers: The decoder layers of the model.
        probed: Whether to measure the share of fake dispatch instead of a time that is worth reporting.

    Returns:
        The time, the size of the graphs, and what the probe found.
    """
    prepare = TARGETS[target]
    probe = None
    if probed:
        from bench.fake_dispatch_probe import Probe

        probe = Probe()
    prepare(*model(WARM_UP)).compile()
    torch._dynamo.reset()

    job = prepare(*model(Shape(layers)))
    if probe:
        probe.take()
    processor, clock = _seconds(job.compile)
    tally = probe.take() if probe else None
    nodes = list(job.nodes)
    if job.runs:
        # Once more with the code at hand, to take out what running the program takes.
        processor_to_run, clock_to_run = _seconds(job.compile)
        processor, clock = processor - processor_to_run, clock - clock_to_run
        if nodes != job.nodes:
            raise RuntimeError("the second call compiled again")
    answer: dict[str, object] = {"processor_seconds": processor, "clock_seconds": clock, "nodes": nodes}
    if probe and tally:
        answer |= {"share": probe.share(tally, clock), "collecting_share": tally.collecting / clock}
    return answer


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Returns the processor's time and the clock's that a call takes."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.process_time() - processor, time.perf_counter() - clock


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.compile_worker", description=__doc__)
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("side", choices=["torch", "fastfake"])
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--probe", action="store_true", help="measure the share of fake dispatch; on torch's side")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
