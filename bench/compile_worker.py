"""One process of the compile suite: compiles a model and prints what that took as JSON.

Everything happens in the same order with the shim and without. A model of other widths is compiled first, so that
what torch imports and looks up at the first use is not counted on either side; unless that is to be measured too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from bench.compile_models import MODELS
from bench.compile_targets import TARGETS, Job

if TYPE_CHECKING:
    from bench.fake_dispatch_probe import Probe


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
        answer = measure(options.model, options.target, options.layers, options.twice, options.probe)
    json.dump(answer, sys.stdout)
    return 0


def measure(model: str, target: str, layers: int, twice: bool, probed: bool) -> dict[str, object]:
    """Compiles the model.

    Args:
        model: What to compile.
        target: What to compile for.
        layers: The layers of the model.
        twice: Whether to measure the first two compilations of the process, instead of one after a smaller model's.
        probed: Whether to measure the share of fake dispatch instead of times that are worth reporting.

    Returns:
        For each compilation the time, the size of the graphs, and what the probe found.
    """
    prepare = TARGETS[target]
    probe = None
    if probed:
        from bench.fake_dispatch_probe import Probe

        probe = Probe()
    if not twice:
        prepare(*MODELS[model].build_small()).compile()

    program = MODELS[model].build(layers)
    compilations = []
    for _ in range(2 if twice else 1):
        torch._dynamo.reset()
        compilations.append(_measure_job(prepare(*program), probe))
    return {"compilations": compilations}


def _measure_job(job: Job, probe: Probe | None) -> dict[str, object]:
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
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("side", choices=["torch", "fastfake"])
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--twice", action="store_true", help="measure the first two compilations of the process")
    parser.add_argument("--probe", action="store_true", help="measure the share of fake dispatch; on torch's side")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
