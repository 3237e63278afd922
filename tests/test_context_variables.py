"""Settings that torch keeps in context variables are in the key of a call, in whatever way they came to be."""

from __future__ import annotations

import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._functorch.config as functorch_config

from fastfake import _C, FakeTensorMode

UNRELATED: contextvars.ContextVar[object] = contextvars.ContextVar("unrelated")
SETTING = functorch_config._config["fake_tensor_prefer_device_type"].user_override


class Value:
    pass


@pytest.fixture
def key() -> Iterator[Callable[[], object]]:
    """The key of one call at a time."""
    with FakeTensorMode() as mode:
        x = torch.empty(2)
        yield lambda: _C.cache_key(mode, "aten::sin", "", (x,), {})


def test_a_value_that_is_set_and_reset_changes_the_key_and_changes_it_back(key: Callable[[], object]) -> None:
    before = key()
    token = SETTING.set("cuda")
    within = key()
    assert within != before and key() == within
    SETTING.reset(token)
    assert key() == before
    token = SETTING.set("cuda")
    assert key() == within
    SETTING.reset(token)


def test_other_variables_do_not_change_the_key(key: Callable[[], object]) -> None:
    before = key()
    token = UNRELATED.set(1)
    assert key() == before
    inner = SETTING.set("cuda")
    within = key()
    UNRELATED.set(2)
    assert key() == within != before
    SETTING.reset(inner)
    UNRELATED.reset(token)
    assert key() == before


def test_each_context_has_its_own_key(key: Callable[[], object]) -> None:
    before = key()

    def within() -> object:
        inner = key()
        SETTING.set("cuda")
        assert key() != inner
        return inner

    context = contextvars.copy_context()
    assert context.run(within) == before
    assert key() == before
    assert context.run(key) != before
    # An empty one can differ from the context of the test, in which other tests set and reset values.
    assert contextvars.Context().run(key) == contextvars.Context().run(key)
    assert key() == before


def test_each_thread_has_its_own_key(key: Callable[[], object]) -> None:
    before = key()
    keys: list[object] = []
    turns = threading.Barrier(2, timeout=30)

    def work() -> None:
        turns.wait()
        keys.append(key())
        SETTING.set("cuda")
        keys.append(key())
        turns.wait()
        turns.wait()
        keys.append(key())

    thread = threading.Thread(target=work)
    thread.start()
    turns.wait()
    turns.wait()
    assert key() == before
    token = SETTING.set("xpu")
    here = key()
    turns.wait()
    thread.join()
    SETTING.reset(token)
    assert keys[1] == keys[2] != here != before
    assert key() == before


def test_a_context_that_died_is_not_taken_for_one_in_its_place(key: Callable[[], object]) -> None:
    before = contextvars.Context().run(key)

    def within(value: object) -> object:
        SETTING.set(value)
        return key()

    for _ in range(100):
        assert contextvars.Context().run(within, "cuda") == contextvars.Context().run(within, "cuda") != before
        assert contextvars.Context().run(within, None) == before


def test_values_of_other_variables_die_when_the_program_drops_them(key: Callable[[], object]) -> None:
    value = Value()
    token = UNRELATED.set(value)
    key()
    died = weakref.ref(value)
    UNRELATED.reset(token)
    del value, token
    gc.collect()
    assert died() is None
