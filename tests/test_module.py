"""What the native module offers, called in the wrong order, on the wrong thread, twice or with garbage: no crash."""

from __future__ import annotations

import contextvars
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from forked_process import attempt, survives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastfake
from fastfake import _C, FakeTensor, FakeTensorMode, cache_entries

aten = torch.ops.aten

FUNCTIONS = sorted(
    name for name, value in vars(_C).items() if callable(value) and not isinstance(value, type) and name[0] != "_"
)
ATTRIBUTES = sorted(name for name in vars(_C.ModeState) if not name.startswith("__"))


class Evil:
    """Lies about everything that it is asked, or raises."""

    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")

    def __len__(self) -> int:
        return -1

    def __index__(self) -> int:
        return 1 << 80

    def __hash__(self) -> int:
        raise TypeError("no hash")

    def __getitem__(self, item: object) -> object:
        raise RuntimeError("no item")

    @property
    def settings(self) -> object:
        return self


def garbage() -> list[object]:
    """Values that a function of the module may meet, few of which it expects."""
    mode = FakeTensorMode()
    with mode:
        fake = torch.empty(2, 3)
        fake.sin()
        constant = torch.tensor(3)
    hollow = torch.Tensor._make_subclass(FakeTensor, torch.empty(3, device="meta"))
    unmade: Any = FakeTensorMode.__new__(FakeTensorMode)
    spoilt = mode.from_tensor(torch.ones(2))
    spoilt.fake_mode = None
    spoilt._fake_device = torch.device("cuda:7")
    key = [int(word) for word in cache_entries.key_of_call(mode, aten.sin.default, [fake], {}).key[1:]]
    (words,) = [words for name, _, words in _C.cache_keys() if name == "aten::sin"]
    return [
        None,
        0,
        -1,
        1 << 63,
        1 << 64,
        1.5,
        True,
        "text",
        "aten::sin",
        "aten::add",
        "Tensor",
        "",
        b"",
        (),
        [],
        {},
        {"self": fake},
        [fake],
        [fake, constant, hollow, spoilt],
        [None, Evil()],
        Evil(),
        object(),
        type,
        torch.Tensor,
        FakeTensor,
        FakeTensorMode,
        _C.ModeState,
        _C.ModeState.__new__(_C.ModeState),
        mode,
        unmade,
        fake,
        hollow,
        spoilt,
        torch.ones(2),
        torch.empty(2, layout=torch.sparse_coo),
        torch.device("cuda"),
        torch.device("meta", 127),
        contextvars.ContextVar("unset"),
        (contextvars.ContextVar("unset"),),
        (contextvars.ContextVar("unset"),) * 9,
        (1, 2),
        words,
        words[:-1],
        [*words, 0],
        key,
        [1 << 63] * 300,
        lambda *args: 1 / 0,
        print,
    ]


# Modules that are collected after this one are to find torch's own classes.
with fastfake.install_temporarily():
    VALUES = garbage()
value = st.integers(0, len(VALUES) - 1).map(VALUES.__getitem__)


def call_function(name: str, args: tuple[Any, ...]) -> Callable[[], object]:
    return lambda: getattr(_C, name)(*args)


def set_attribute(mode: Any, name: str, new: object) -> Callable[[], object]:
    return lambda: setattr(mode, name, new)


actions = st.one_of(
    st.builds(call_function, st.sampled_from(FUNCTIONS), st.tuples()),
    st.builds(call_function, st.sampled_from(FUNCTIONS), st.lists(value, min_size=1, max_size=5).map(tuple)),
    st.builds(set_attribute, st.sampled_from([v for v in VALUES if isinstance(v, _C.ModeState)]),
              st.sampled_from(ATTRIBUTES), value),
    st.builds(lambda mode, name: lambda: delattr(mode, name), value, st.sampled_from(ATTRIBUTES)),
    st.builds(lambda name: name, st.sampled_from([fastfake.install, fastfake.uninstall, gc.collect])),
    st.builds(lambda modes: lambda: [program(mode) for mode in modes], st.lists(value, max_size=2)),
)  # fmt: skip


def program(mode: Any) -> None:
    """Misses, hits, views, lists of results and a conversion, under anything that may be a mode."""
    with mode:
        for _ in range(2):
            x = torch.empty(4, 4)
            x.sin().t().split(1)
            x.add_(1)
            mode.from_tensor(torch.ones(2))
            x.detach()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(actions, min_size=1, max_size=25), st.booleans())
def test_any_sequence_of_calls_with_any_arguments_ends_in_errors_at_worst(
    calls: list[Callable[[], object]], in_a_thread: bool
) -> None:
    def run() -> None:
        attempt(calls)
        attempt([lambda: program(FakeTensorMode())])
        gc.collect()

    def run_in_a_thread() -> None:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    survives(run_in_a_thread if in_a_thread else run)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_takes_each_value_as_any_of_its_arguments(name: str) -> None:
    def run() -> None:
        attempt(call_function(name, (first,) * count) for first in VALUES for count in range(6))
        attempt(call_function(name, (VALUES[28], "aten::sin", "", [last], {})) for last in VALUES)
        attempt([lambda: program(FakeTensorMode())])

    survives(run)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_of_a_mode_takes_each_value(name: str) -> None:
    def run() -> None:
        for mode in [value for value in VALUES if isinstance(value, _C.ModeState)]:
            for new in VALUES:
                attempt(
                    [
                        set_attribute(mode, name, new),
                        lambda mode=mode: program(mode),
                        lambda mode=mode: delattr(mode, name),
                        lambda mode=mode: getattr(mode, name),
                        lambda mode=mode: program(mode),
                    ]
                )

    survives(run)


@pytest.mark.parametrize(
    "steps",
    [
        ["exit"],
        ["enter", "exit", "exit"],
        ["enter", "enter", "exit", "exit", "exit"],
        ["exit", "enter", "exit"],
        ["enter", "enter"],
    ],
    ids="-".join,
)
@pytest.mark.parametrize("thread", ["same thread", "exits on another thread", "enters on another thread"])
def test_kernel_invocations_left_too_often_or_elsewhere_do_no_harm(steps: list[str], thread: str) -> None:
    def run() -> None:
        contexts: list[Any] = [_C.KernelInvocation()]

        def step(name: str) -> None:
            (context,) = contexts
            attempt([context.__enter__ if name == "enter" else lambda: context.__exit__(None, None, None)])

        for name in steps:
            if thread.startswith(name):
                other = threading.Thread(target=step, args=(name,))
                other.start()
                other.join()
            else:
                step(name)
        contexts.clear()
        gc.collect()
        torch.empty(3).sin()

    survives(run)


def test_contexts_made_around_their_constructor_do_no_harm() -> None:
    def run() -> None:
        context: Any = _C.KernelInvocation.__new__(_C.KernelInvocation)
        attempt([context.__enter__, lambda: context.__exit__(None, None, None), lambda: context.__exit__(1)])
        attempt([lambda: _C.KernelInvocation.__exit__(None), lambda: _C.KernelInvocation.__enter__(3)])

    survives(run)


def test_a_mode_made_around_its_constructor_gives_errors() -> None:
    def run() -> None:
        mode: Any = FakeTensorMode.__new__(FakeTensorMode)
        attempt([lambda: program(mode), lambda: repr(mode), lambda: mode.from_tensor(torch.ones(2))])
        attempt([lambda: FakeTensor(mode, torch.empty(2, device="meta"), torch.device("cpu")).sin()])
        state: Any = _C.ModeState()
        attempt([lambda: program(state), lambda: setattr(state, "shape_env", Evil())])
        attempt([lambda: FakeTensor(state, torch.empty(2, device="meta"), torch.device("cpu")).sin()])

    survives(run)


@pytest.mark.exhaustive
def test_before_anything_was_registered_the_module_gives_errors() -> None:
    program = f"""
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("fastfake._C", {_C.__file__!r})
_C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(_C)

def attempt(call, *args):
    try:
        call(*args)
    except Exception as error:
        pass

state = _C.ModeState()
x = torch.empty(3)
values = [None, 0, "aten::sin", "", [], [x], {{}}, (), state, x, torch.device("cpu"), torch.Tensor, type(state), print]
for name, function in sorted(vars(_C).items()):
    if callable(function) and not isinstance(function, type) and name[0] != "_" and name != "register_classes":
        for value in values:
            for count in range(6):
                attempt(function, *(value,) * count)
attempt(_C.cache_key, state, "aten::sin", "", [x], {{}})
_C.install_interpreter_hook()

class Subclass(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return torch.ones(1)

from torch.utils._python_dispatch import TorchDispatchMode

class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {{}}))

subclass = torch.Tensor._make_subclass(Subclass, torch.empty(3, device="meta"))
subclass + 1, subclass.detach(), subclass.device
with Mode():
    x + 1
attempt(_C.register_classes, torch.Tensor, type(state), None)
attempt(_C.register_classes, Subclass, Mode, print)
x + 1, subclass + 1
print("survived")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "survived", done.stderr


def test_classes_and_settings_are_registered_once() -> None:
    def run() -> None:
        for register in (
            lambda: _C.register_classes(FakeTensor, FakeTensorMode, print, print, print, print),
            lambda: _C.watch_settings((contextvars.ContextVar("another"),)),
        ):
            with pytest.raises(RuntimeError, match="already"):
                register()
        program(FakeTensorMode())

    survives(run)
