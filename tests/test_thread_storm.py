"""Threads go on computing what one computes while others change what all share.

`STORM_SECONDS=600 ./run-tests -m exhaustive tests/test_thread_storm.py` storms for so long; `STORM_SEED` begins
elsewhere. `python -m storm SECONDS SEED` in tests/ is the same without pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.exhaustive

SECONDS = os.environ.get("STORM_SECONDS", "20")


def test_threads_compute_what_one_computes_whatever_others_change_meanwhile() -> None:
    storm = [sys.executable, "-X", "faulthandler", "-m", "storm", SECONDS, os.environ.get("STORM_SEED", "0")]
    # A storm that hangs ends by itself, and says where each thread was.
    done = subprocess.run(storm, cwd=os.path.dirname(__file__), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
