"""What is logged, to the loggers that torch's settings address."""

from __future__ import annotations

import logging

import pytest
import torch
import torch._subclasses.fake_tensor as torch_fake_tensor

import fastfake
from fastfake import logs


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    fastfake.install()
    fastfake.FakeTensorMode.cache_clear()
    caplog.set_level(logging.DEBUG, logger="torch._subclasses.fake_tensor")
    return caplog


def test_the_loggers_are_torchs() -> None:
    assert logs.log is torch_fake_tensor.log
    assert logs.not_implemented_log is torch_fake_tensor.not_implemented_log


def test_a_new_mode_is_logged(debug: pytest.LogCaptureFixture) -> None:
    mode = fastfake.FakeTensorMode()
    assert f"create_mode 0x{id(mode):x}" in debug.messages


def test_a_computed_call_is_logged_with_its_arguments(debug: pytest.LogCaptureFixture) -> None:
    with fastfake.FakeTensorMode():
        torch.empty(2, 3).sin()
    assert "aten.sin.default (FakeTensor(..., size=(2, 3)),) {}" in debug.messages
    assert "FakeTensorMode.__torch_dispatch__: aten.sin.default" in debug.messages


def test_a_call_inside_another_is_indented(debug: pytest.LogCaptureFixture) -> None:
    with fastfake.FakeTensorMode():
        torch.nn.functional.smooth_l1_loss(torch.empty(2, 3), torch.empty(2, 3))
    lines = [message for message in debug.messages if "__torch_dispatch__" in message]
    assert any(line.startswith(" ") for line in lines)
    assert torch_fake_tensor.RECURSION_COUNT == 0


def test_without_a_reader_nothing_is_formatted_or_counted() -> None:
    assert logs.log_call(torch.ops.aten.sin.default, (), {}) is None


def test_a_count_ends_with_its_object() -> None:
    before = torch_fake_tensor.RECURSION_COUNT
    count = logs.IncrementRecursionCount()
    assert before + 1 == torch_fake_tensor.RECURSION_COUNT
    del count
    assert before == torch_fake_tensor.RECURSION_COUNT
