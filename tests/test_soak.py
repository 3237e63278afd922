"""However many calls a program makes, of whatever kind, nothing stays behind.

`python -m soak` in tests/ makes millions; see `soak.__main__` for its options.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from soak import course
from soak.kinds import KINDS

CLEAN = [name for name, kind in KINDS.items() if not kind.leaks and not kind.as_torch]
AS_TORCH = [name for name, kind in KINDS.items() if kind.as_torch]

# What is counted of the kinds of which something stays behind with torch, too.
COMPARED = (".FakeTensor", ".FakeTensorMode", ".FakeTensorConverter", ".ShapeEnv", ".OpOverload", ".GraphModule")


def told(*arguments: str) -> dict[str, Any]:
    """What the kinds, each in a process of its own, tell of themselves, by name."""
    command = [sys.executable, "-m", "soak", "--json", *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=1_200, check=False
    )
    courses = [json.loads(line) for line in done.stdout.splitlines()]
    assert courses, done.stderr[-5000:]
    return {each["kind"]: each | {"errors": done.stderr[-2000:]} for each in courses}


# One test, as each worker of pytest-xdist would soak all kinds for its share of the tests.
@pytest.mark.exhaustive
def test_nothing_stays_behind() -> None:
    found = told(*CLEAN)
    assert {name: found[name]["errors"] for name in CLEAN if "ended" in found[name]} == {}
    assert {name: found[name]["numbers"] for name in CLEAN if found[name].get("grown") != []} == {}


def per_call(found: dict[str, Any], kind: str) -> float:
    """How many objects of a class, torch's or ours, stay behind."""
    readings = [each for what, each in found["numbers"].items() if what.startswith("objects: ") and what.endswith(kind)]
    return sum(course.slope(each, found["calls"] // (course.READINGS - 1)) for each in readings)


@pytest.mark.exhaustive
def test_no_more_stays_behind_than_of_torchs_own_fake_tensors() -> None:
    on_torch, on_fastfake = (told("--side", side, *AS_TORCH) for side in ("torch", "fastfake"))
    for name in AS_TORCH:
        theirs, ours = on_torch[name], on_fastfake[name]
        assert "ended" not in theirs, theirs["errors"]
        assert "ended" not in ours, ours["errors"]
        allowed = course.allowed("bytes", ours["calls"])
        assert ours["bytes_per_call"] < 1.1 * theirs["bytes_per_call"] + allowed, name
        for kind in COMPARED:
            assert per_call(ours, kind) <= per_call(theirs, kind) + 0.1, (name, kind)


@functools.cache
def leaking_kinds() -> dict[str, Any]:
    return told("leaks", "hit: pointwise")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leaks an object", "objects: builtins.list"),
        ("leaks a tensor", "objects: fastfake.fake_tensor.FakeTensor"),
        ("leaks a reference", "references: torch.float32"),
        ("leaks 16 bytes", "bytes"),
        ("leaks an entry of the cache", "cache: entries"),
    ],
)
def test_a_leak_is_noticed(name: str, expected: str) -> None:
    found = leaking_kinds()[name]
    assert "ended" not in found, found["errors"]
    grown = {each["what"].split(" #")[0]: each["per_call"] for each in found["grown"]}
    least, most = (16, 48) if expected == "bytes" else (0.9, 1.1)
    assert least <= grown[expected] <= most


@pytest.mark.exhaustive
def test_a_call_that_leaks_nothing_is_not_accused() -> None:
    found = leaking_kinds()["hit: pointwise"]
    assert "ended" not in found, found["errors"]
    assert (found["grown"], found["calls"]) == ([], KINDS["hit: pointwise"].calls)


@pytest.mark.parametrize(
    ("readings", "per_call"),
    [
        pytest.param([5, 5, 5, 5, 5, 5, 5, 5, 5], 0, id="flat"),
        pytest.param([0, 90, 100, 100, 100, 100, 100, 100, 100], 0, id="a step"),
        pytest.param([0, 80, 120, 140, 150, 150, 151, 150, 150], 0, id="settles"),
        pytest.param([0, 10, 20, 30, 40, 50, 60, 70, 80], 1, id="grows"),
        pytest.param([0, 10, 20, 30, 400, 50, 60, 70, 80], 1, id="grows, with an odd reading"),
    ],
)
def test_the_slope_is_that_of_most_readings_and_of_the_later_ones(readings: list[int], per_call: float) -> None:
    assert course.slope(readings, 10) == pytest.approx(per_call, abs=0.06)
