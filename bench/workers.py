"""Processes that measure one thing and print it as JSON, for what can be measured only once in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# In the environment it would turn fastfake's side into torch's.
DISABLING = "FASTFAKE_DISABLE"


class WorkerError(Exception):
    """A process failed; the message is what it printed."""


def run_worker(module: str, *arguments: str) -> dict[str, Any]:
    """Runs a module of this package in a fresh process.

    Args:
        module: The module's name.
        arguments: Its command line.

    Returns:
        What it printed.

    Raises:
        WorkerError: It ended with another status than 0.
    """
    # Compilers leave code and other artifacts in a folder, where a later process would find them.
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = {name: value for name, value in os.environ.items() if name != DISABLING}
        finished = subprocess.run(
            [sys.executable, "-m", f"bench.{module}", *arguments],
            cwd=ROOT,
            # One thread within operators, as in the suites' own process.
            env={**environment, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if finished.returncode:
        raise WorkerError(f"{module} {' '.join(arguments)} failed:\n{finished.stderr}")
    return dict(json.loads(finished.stdout))
