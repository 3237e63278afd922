"""The statistics of the dispatch cache."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from both_sides import assert_same

import fastfake
from fastfake import cache


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
            torch.tensor(1)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="torch._subclasses.fake_tensor"):
        cache.dump_cache_stats()
    lines = [record.getMessage().split(":")[0].strip() for record in caplog.records]
    assert lines[:4] == ["FakeTensor cache stats", "cache_hits", "cache_misses", "cache_bypasses"]
    assert lines.index("lift") < lines.index("inplace view")


def test_the_statistics_are_logged_once_at_exit() -> None:
    program = "import torch, fastfake\nwith fastfake.FakeTensorMode(): [torch.empty(2).sin() for _ in range(5)]\n"
    environment = os.environ | {"TORCH_LOGS": "torch._subclasses.fake_tensor"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert ended.stderr.count("cache_hits: 8") == 1
    assert ended.stderr.count("cache_misses: 2") == 1
