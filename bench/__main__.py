"""Command line of the benchmarks: picks a suite and hands it the remaining arguments."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# Suites are imported only when they are asked for, so that the help needs neither torch nor the extra packages.
SUITES = {
    "dispatch": "one operator call on warm caches: torch's FakeTensor, fastfake and eager in alternation",
    "model": "forward, loss and backward of transformers models under torch's FakeTensor and under fastfake",
    "bypasses": "which calls of distributed and other programs the dispatch cache does not answer, and why",
    "memory": "a training step that is watched for its memory, by fastfake.memory and by torch's trackers",
    "compile": "torch.compile, torch.export and make_fx with the import shim and without, and what it could gain",
    "overheads": "what the import shim costs a program that makes no fake tensors",
    "allocations": "Python memory blocks that one warm call allocates, against the objects it returns",
}
REQUIREMENTS = {
    "fastfake": "install the project, or put its python folder on PYTHONPATH",
    "pyperf": "pip install 'fastfake[bench]'",
    "rich": "pip install 'fastfake[bench]'",
    "transformers": "pip install 'fastfake[bench]'",
}


def main(argv: Sequence[str]) -> int:
    """Runs the suite named by the first argument.

    Args:
        argv: The command line without the program's name.

    Returns:
        The exit status: 0 when the suite ran, 2 when it is unknown or one of its requirements is missing.
    """
    suites = "\n".join(f"  {name:<14}{summary}" for name, summary in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Benchmarks of fastfake against torch's FakeTensor.",
        epilog=f"suites:\n{suites}\n\npython -m bench SUITE --help lists a suite's options.",
    )
    parser.add_argument("suite", choices=SUITES, metavar="SUITE", help="the suite to run")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="options of the suite")
    arguments = parser.parse_args(argv)
    try:
        suite = importlib.import_module(f"bench.{arguments.suite}")
    except ModuleNotFoundError as error:
        if error.name not in REQUIREMENTS:
            raise
        print(f"bench {arguments.suite} needs {error.name}: {REQUIREMENTS[error.name]}", file=sys.stderr)
        return 2
    import torch

    # Small operators gain nothing from further threads, which would make figures depend on how many cores are free.
    torch.set_num_threads(1)
    return int(suite.main(arguments.options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
