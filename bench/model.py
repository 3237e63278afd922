"""Suite: forward, loss and backward of transformers models, under torch's FakeTensor and under fastfake.

Models have random weights and their real widths, but few layers: further layers repeat the same operators. Nothing is
downloaded. `cold` is a pass with an empty dispatch cache, `warm` one with everything cached.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyperf
import torch
import transformers

from bench import report
from bench.alternate import Measured, alternate
from bench.garbage import no_garbage
from bench.sides import Eager, Fastfake, Side, Torch
from bench.transformers_models import MODELS, Build, Inputs, Size, uninitialized


@dataclass(frozen=True)
class Prepared:
    """A model on one side, with its weights and inputs made there."""

    side: Side
    module: torch.nn.Module
    inputs: Inputs

    def run(self) -> float:
        """Runs forward, loss and backward once on the side that is entered, and returns the seconds."""
        self.module.zero_grad(set_to_none=True)
        start = pyperf.perf_counter()
        self.module(**self.inputs).loss.backward()
        return float(pyperf.perf_counter() - start)

    def cold(self) -> list[float]:
        """Measures one pass that starts with an empty dispatch cache."""
        self.side.forget()
        with self.side.entered(), no_garbage():
            return [self.run()]

    def warm(self) -> list[float]:
        """Measures one pass that finds everything cached."""
        with self.side.entered(), no_garbage():
            # Installing and uninstalling assigns names in torch's modules, and the interpreter has to specialize the
            # code that reads them once more.
            self.run()
            return [self.run()]


def measure_model(name: str, size: Size, sides: Sequence[Side], rounds: int, cold_rounds: int) -> list[Measured]:
    """Measures the warm and the cold passes of one model on all sides in alternation."""
    prepared = {side.name: _prepare(MODELS[name], size, side) for side in sides}
    warm_measures = {side: entry.warm for side, entry in prepared.items()}
    # Eager torch has no cache that could be cold.
    cold_measures = {side: entry.cold for side, entry in prepared.items() if not isinstance(entry.side, Eager)}
    notes = {"layers": size.layers, "narrow": size.narrow}
    cold = alternate(name, "cold", cold_measures, cold_rounds, notes)
    warm = alternate(name, "warm", warm_measures, rounds, notes)
    return [warm, cold]


def _prepare(build: Build, size: Size, side: Side) -> Prepared:
    with side.entered():
        torch.manual_seed(0)
        with uninitialized():
            prepared = Prepared(side, *build(size))
        prepared.module.train()
        # The very first pass imports modules of torch and of transformers, and would charge them to the first side.
        prepared.run()
    return prepared


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    transformers.logging.set_verbosity_error()
    size = Size(options.layers, options.eager)
    sides: list[Side] = [Torch(), Fastfake()]
    if options.eager:
        sides.append(Eager())
    names = options.model or list(MODELS)
    measured = []
    for name in report.in_turn(names):
        measured += measure_model(name, size, sides, options.rounds, options.cold_rounds)
    widths = "narrow" if size.narrow else "real"
    report.show_measured(f"forward, loss and backward, {size.layers} layers of {widths} width", measured, overall=False)
    if options.json:
        settings = {
            "rounds": options.rounds,
            "cold_rounds": options.cold_rounds,
            "layers": size.layers,
            "narrow": size.narrow,
            "transformers_version": transformers.__version__,
        }
        report.write_measured(options.json, "model", settings, measured, overall=False)
    if options.pyperf:
        report.write_pyperf(options.pyperf, measured)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench model", description=__doc__)
    parser.add_argument("--model", action="append", choices=list(MODELS), help="a model to run; repeatable")
    parser.add_argument("--layers", type=int, default=2, help="layers of each model (default: %(default)s)")
    parser.add_argument("--rounds", type=report.several, default=7, help="warm rounds (default: %(default)s)")
    parser.add_argument("--cold-rounds", type=report.several, default=3, help="cold rounds (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="add eager torch, with narrow widths on every side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--pyperf", type=Path, metavar="FILE", help="write every round's values in pyperf's format")
    return parser
