"""torch.compile, torch.export, make_fx and torch's tools make of a program what they make of it without fastfake."""

from __future__ import annotations

import difflib
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import fresh_process
import pytest
from compile import child, describe, programs

TESTS = Path(__file__).parent


@functools.cache
def quick_texts(side: str) -> dict[str, str]:
    """What the compilers made of the quick programs on a side, by name, in a process that had imported nothing."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "compile.child", side, *programs.QUICK]
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


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.QUICK)
def test_graphs_metadata_guards_and_symbols_are_those_of_torch(name: str) -> None:
    assert_same_but_for_storage_sizes(quick_texts("torch")[name], quick_texts("fastfake")[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.QUICK)
def test_installing_after_compiling_and_uninstalling_again_changes_nothing(name: str) -> None:
    expected, actual = quick_texts("torch")[name], quick_texts("switching")
    assert_same_but_for_storage_sizes(expected, actual[name])
    assert_same_but_for_storage_sizes(expected, actual[f"{name} after uninstalling"])


@functools.cache
def slow_text(side: str, name: str) -> str:
    text: str = fresh_process.call(child.texts_of_side, side, name)[name]
    return text


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.exhaustive] * (name != "perceptron"))
        for name in sorted(programs.PROGRAMS.keys() - {*programs.FAMILIES, *programs.CHANGED_BY_CACHE})
    ],
)
def test_all_programs_are_compiled_as_by_torch_with_storages_as_torch_computes_them(name: str) -> None:
    expected, actual = (slow_text(side, name) for side in ("torch", "fastfake"))
    assert_same_but_for_storage_sizes(expected, actual)
    if actual != expected:
        assert_same(slow_text("torch-without-cache", name), actual)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.CHANGED_BY_CACHE)
def test_graphs_that_torchs_cache_changes_are_those_of_torch_without_it(name: str) -> None:
    cached, uncached, actual = (slow_text(side, name) for side in ("torch", "torch-without-cache", "fastfake"))
    assert_same(uncached, actual)
    assert describe.without_storage_sizes(cached) != describe.without_storage_sizes(actual)


@pytest.mark.exhaustive
@pytest.mark.skipif(
    "max_pooling_before_average_pooling" not in programs.CHANGED_BY_CACHE,
    reason="the graphs of this torch do not depend on its cache here",
)
def test_what_torchs_cache_changes_about_pooling_is_two_numbers_in_names() -> None:
    cached, actual = (slow_text(side, "max_pooling_before_average_pooling") for side in ("torch", "fastfake"))
    for in_torch, here in (("sym_size_int_7", "sym_size_int_5"), ("sym_size_int_8", "sym_size_int_6")):
        assert here not in cached
        cached = cached.replace(in_torch, here)
    assert_same_but_for_storage_sizes(cached, actual)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", programs.FAMILIES)
def test_model_families_are_compiled_as_by_torch(name: str) -> None:
    pytest.importorskip("transformers")
    expected, actual = (slow_text(side, name) for side in ("torch", "fastfake"))
    assert_same_but_for_storage_sizes(expected, actual)
