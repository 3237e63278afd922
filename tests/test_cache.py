"""The statistics of the dispatch cache."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from both_sides import assert_same
from malloc_info import bytes_in_use

import fastfake
from fastfake import _C, cache


def statistics(fakes: Any) -> Any:
    cls = fakes.FakeTensorMode
    cls.cache_clear()
    with cls():
        fake = torch.empty(2, 3)
        for _ in range(3):
            fake.sin()
        fake.unsqueeze_(0)
    return cls


def test_hits_misses_and_bypasses_are_counted_as_in_torch() -> None:
    def program(fakes: Any) -> Any:
        cls = statistics(fakes)
        info = cls.cache_info()
        return info.hits, info.misses, info.bypasses, cls.cache_hits, cls.cache_misses, dict(cls.cache_bypasses)

    assert assert_same(program)[:3] == (2, 2, {"inplace view": 1})


def test_a_reason_that_never_occurred_counts_zero() -> None:
    assert assert_same(lambda fakes: statistics(fakes).cache_bypasses["never"]) == 0


def test_clearing_forgets_everything() -> None:
    def program(fakes: Any) -> Any:
        cls = statistics(fakes)
        cls.cache_clear()
        info = cls.cache_info()
        return info.hits, info.misses, info.bypasses, info.size, len(cls.cache)

    assert assert_same(program) == (0, 0, {}, 0, 0)


def test_the_information_is_a_value() -> None:
    def program(fakes: Any) -> Any:
        info = statistics(fakes).cache_info()
        before = info == fakes.FakeTensorMode.cache_info()
        fakes.FakeTensorMode.cache_clear()
        return before, info == fakes.FakeTensorMode.cache_info()

    assert assert_same(program) == (True, False)


def test_the_log_lists_reasons_by_frequency(caplog: pytest.LogCaptureFixture) -> None:
    fastfake.install()
    statistics(fastfake)
    with fastfake.FakeTensorMode():
        for _ in range(2):
            torch.tensor(1) + torch.tensor(1)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="torch._subclasses.fake_tensor"):
        cache.dump_cache_stats()
    lines = [record.getMessage().split(":")[0].strip() for record in caplog.records]
    assert lines[:4] == ["FakeTensor cache stats", "cache_hits", "cache_misses", "cache_bypasses"]
    assert lines.index("constant attribute") < lines.index("inplace view")


@pytest.mark.exhaustive
def test_the_statistics_are_logged_once_at_exit() -> None:
    program = "import torch, fastfake\nwith fastfake.FakeTensorMode(): [torch.empty(2).sin() for _ in range(5)]\n"
    environment = os.environ | {"TORCH_LOGS": "torch._subclasses.fake_tensor"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert ended.stderr.count("cache_hits: 8") == 1
    assert ended.stderr.count("cache_misses: 2") == 1


@pytest.fixture
def limit() -> Iterator[int]:
    before = fastfake.cache_limit()
    yield before
    fastfake.set_cache_limit(before)
    fastfake.FakeTensorMode.cache_clear()


def test_the_limit_is_a_quarter_of_a_gibibyte_unless_set(limit: int) -> None:
    assert limit == 256 << 20
    fastfake.set_cache_limit(1 << 20)
    assert fastfake.cache_limit() == 1 << 20


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (1 << 63, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError)]
)
def test_a_limit_that_is_no_number_of_bytes_is_refused(limit: int, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        fastfake.set_cache_limit(value)
    assert fastfake.cache_limit() == limit


def test_a_lower_limit_takes_effect_at_once(limit: int) -> None:
    with fastfake.FakeTensorMode():
        for size in range(5_000):
            torch.empty(size)
        assert _C.cache_bytes() > 1 << 20
        for lower in (1 << 20, 64 << 10, 0):
            fastfake.set_cache_limit(lower)
            assert _C.cache_bytes() <= lower
        assert fastfake.FakeTensorMode.cache_info().size == 0
        fastfake.set_cache_limit(64 << 10)
        torch.empty(3)
        assert fastfake.FakeTensorMode.cache_info().size == 1


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x, n: torch.empty(n), id="factory"),
        pytest.param(lambda x, n: x.add(n), id="number"),
        pytest.param(lambda x, n: x.split_with_sizes([n, (1 << 20) - n]), id="list"),
        pytest.param(lambda x, n: torch.empty(1, 1, 1, 1, 1, 1, n), id="many dimensions"),
        pytest.param(lambda x, n: torch.add(x[:n], 1, out=torch.empty(0)), id="not cacheable"),
    ],
)
@pytest.mark.parametrize("count", [3_000, pytest.param(30_000, marks=pytest.mark.exhaustive)])
def test_the_entries_hold_the_memory_that_is_accounted_for_them(
    limit: int, call: Callable[[torch.Tensor, int], object], count: int
) -> None:
    fastfake.FakeTensorMode.cache_clear()
    with fastfake.FakeTensorMode():
        x = torch.empty(1 << 20)
        call(x, 1)  # what is made once
        gc.collect()
        before, accounted_before = bytes_in_use(), _C.cache_bytes()
        for n in range(2, count):
            call(x, n)
        gc.collect()
        held, accounted = bytes_in_use() - before, _C.cache_bytes() - accounted_before
    assert accounted > 100 * count
    assert accounted == pytest.approx(held, rel=0.03)


@pytest.mark.exhaustive
def test_dropping_entries_one_by_one_does_not_look_at_all_others(limit: int) -> None:
    def seconds_to_drop(count: int) -> float:
        fastfake.FakeTensorMode.cache_clear()
        with fastfake.FakeTensorMode():
            for size in range(count):
                torch.empty(size)
        keys = _C.cache_keys()
        start = time.perf_counter()
        for _, _, words in keys[::-1][:1_000]:
            _C.cache_erase(words)
        return time.perf_counter() - start

    # A search takes forty times as long among forty times as many.
    few = min(seconds_to_drop(1_000) for _ in range(3))
    assert seconds_to_drop(40_000) < 10 * few
