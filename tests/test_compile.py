"""torch.compile, torch.export, make_fx and torch's tools make of a program what they make of it without fastfake."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compile import programs

TESTS = Path(__file__).parent


def run(names: list[str], *options: str) -> dict[str, str]:
    """What the compilers made of the programs, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "compile.child", *options, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


def assert_same(expected: str, actual: str) -> None:
    assert not expected.startswith("NOT RUN"), expected
    assert len(expected) > 100, f"nothing to compare: {expected}"
    if actual != expected:
        difference = difflib.unified_diff(
            expected.splitlines(), actual.splitlines(), "torch", "fastfake", "", "", 1, ""
        )
        pytest.fail("\n".join(line[:500] for line in list(difference)[:60]), pytrace=False)


@pytest.fixture(scope="module")
def quick() -> tuple[dict[str, str], dict[str, str]]:
    return run(programs.QUICK), run(programs.QUICK, "--shim")


@pytest.mark.parametrize("name", programs.QUICK)
def test_graphs_metadata_guards_and_symbols_are_those_of_torch(
    name: str, quick: tuple[dict[str, str], dict[str, str]]
) -> None:
    expected, actual = quick
    assert_same(expected[name], actual[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in programs.PROGRAMS if name not in programs.QUICK + programs.FAMILIES])
def test_more_programs_are_compiled_as_by_torch(name: str) -> None:
    assert_same(run([name])[name], run([name], "--shim")[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.FAMILIES)
def test_model_families_are_compiled_as_by_torch(name: str) -> None:
    pytest.importorskip("transformers")
    assert_same(run([name])[name], run([name], "--shim")[name])
