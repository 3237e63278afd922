"""What torch overrides for a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from both_sides import assert_same


@contextmanager
def override(fakes: Any, value: bool | None) -> Iterator[None]:
    state = fakes.fake_tensor_tls
    before, state.allow_non_fake_inputs_override = state.allow_non_fake_inputs_override, value
    try:
        yield
    finally:
        state.allow_non_fake_inputs_override = before


@pytest.mark.parametrize("allowed_by_mode", [True, False])
@pytest.mark.parametrize("value", [True, False, None])
def test_the_override_wins_over_the_modes_setting(value: bool | None, allowed_by_mode: bool) -> None:
    def program(fakes: Any) -> Any:
        real = torch.ones(2)
        with override(fakes, value), fakes.FakeTensorMode(allow_non_fake_inputs=allowed_by_mode):
            return real + 1

    assert_same(program)


def test_the_override_belongs_to_the_thread() -> None:
    def program(fakes: Any) -> Any:
        seen = []
        with override(fakes, True):
            thread = threading.Thread(target=lambda: seen.append(fakes.fake_tensor_tls.allow_non_fake_inputs_override))
            thread.start()
            thread.join()
        return seen

    assert assert_same(program) == [None]
