"""Suite: what the import shim costs a program that makes no fake tensors.

`import` is the processor's time of `import fastfake.shim` after `import torch`. `add` is an addition of two tiny eager
tensors, with the shim and without. Both are measured in fresh processes, so that a process without the shim has nothing
of fastfake in it, and the sides take turns. An addition's figure is the fastest of many in a process, and the median of
that over the processes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.table import Table

from bench import report
from bench.alternate import alternate
from bench.workers import WorkerError, run_worker

# What the project promises.
MOST_SECONDS_OF_IMPORT = 0.150
MOST_ADD_RATIO = 1.02


def main(argv: Sequence[str]) -> int:
    """Runs the suite.

    Args:
        argv: The suite's options.

    Returns:
        The exit status: 2 if a process failed; 1 with `--check` if a figure is above its limit; otherwise 0.
    """
    options = _parser().parse_args(argv)
    with report.progress() as progress:
        task = progress.add_task("", total=3 * options.rounds)

        def measure(what: str) -> list[float]:
            progress.update(task, description=what, advance=1)
            return [run_worker("overheads_worker", what)["seconds"]]

        try:
            imported = alternate("import", "shim", {"fastfake": partial(measure, "import")}, options.rounds, {})
            measures = {side: partial(measure, side) for side in ("torch", "fastfake")}
            added = alternate("add", "shim", measures, options.rounds, {})
        except WorkerError as error:
            return report.fail(str(error))
    import_seconds = imported.medians["fastfake"]
    add_ratio = added.medians["fastfake"] / added.medians["torch"]

    table = Table(title="the import shim in a program without fake tensors")
    for column in ("", "torch", "min", "fastfake", "min", "fastfake/torch", "at most"):
        table.add_column(column, justify="right" if column else "left")
    for name, case, ratio, most in (
        ("import fastfake.shim", imported, "", f"{MOST_SECONDS_OF_IMPORT * 1e3:.0f} ms"),
        ("eager torch.add", added, f"{add_ratio:.4f}", f"{MOST_ADD_RATIO:.2f}"),
    ):
        times = (text for side in measures for text in (report.time(case, side), report.least_time(case, side)))
        table.add_row(name, *times, ratio, most)
    report.show(table)
    if options.json:
        content = {
            "import_median_seconds": import_seconds,
            "add_median_seconds": added.medians,
            "add_deviation_seconds": added.deviations,
            "add_ratio": add_ratio,
        }
        report.write_json(options.json, "overheads", {"rounds": options.rounds}, content)
    above = import_seconds > MOST_SECONDS_OF_IMPORT or add_ratio > MOST_ADD_RATIO
    return 1 if options.check and above else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench overheads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=report.several, default=9, help="processes per figure (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is above its limit")
    return parser
