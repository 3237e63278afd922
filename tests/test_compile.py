"""torch.compile, torch.export, make_fx and torch's tools make of a program what they make of it without fastfake."""

from __future__ import annotations

import difflib
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compile import describe, programs

TESTS = Path(__file__).parent
MORE = [name for name in programs.PROGRAMS if name not in programs.QUICK + programs.FAMILIES]


@functools.cache
def texts(side: str, *names: str) -> dict[str, str]:
    """What the compilers made of the programs on a side, by name. All run in one process, other than this one."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "compile.child", side, *names]
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


def assert_same_but_for_storage_sizes(expected: str, actual: str) -> None:
    assert_same(describe.without_storage_sizes(expected), describe.without_storage_sizes(actual))


@pytest.mark.parametrize("name", programs.QUICK)
def test_graphs_metadata_guards_and_symbols_are_those_of_torch(name: str) -> None:
    expected, actual = texts("torch", *programs.QUICK), texts("fastfake", *programs.QUICK)
    assert_same_but_for_storage_sizes(expected[name], actual[name])


@pytest.mark.parametrize("name", programs.QUICK)
def test_installing_after_compiling_and_uninstalling_again_changes_nothing(name: str) -> None:
    expected, actual = texts("torch", *programs.QUICK), texts("switching", *programs.QUICK)
    assert_same_but_for_storage_sizes(expected[name], actual[name])
    assert_same_but_for_storage_sizes(expected[name], actual[f"{name} after uninstalling"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MORE)
def test_more_programs_are_compiled_as_by_torch(name: str) -> None:
    assert_same_but_for_storage_sizes(texts("torch", *MORE)[name], texts("fastfake", *MORE)[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.QUICK + MORE)
def test_storages_have_the_sizes_that_torch_computes(name: str) -> None:
    names = programs.QUICK if name in programs.QUICK else MORE
    assert_same(texts("torch-without-cache", *names)[name], texts("fastfake", *names)[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.FAMILIES)
def test_model_families_are_compiled_as_by_torch(name: str) -> None:
    pytest.importorskip("transformers")
    assert_same_but_for_storage_sizes(texts("torch", name)[name], texts("fastfake", name)[name])
