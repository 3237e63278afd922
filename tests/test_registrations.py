"""What is registered with torch at run time decides the next call's results, also where others were cached before."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import fake_impls
from torch.library import _scoped_library

import fastfake
from fastfake import _C, FakeTensor, FakeTensorMode

aten = torch.ops.aten
# One of few whose Meta kernel is in C++. Where it is in Python, torch goes on to call one that is gone in its place.
OPERATOR = aten.hash_tensor.default


def other(x: torch.Tensor, *_: object) -> torch.Tensor:
    return x.new_empty(7)


@contextlib.contextmanager
def meta_kernel() -> Iterator[None]:
    with _scoped_library("aten", "IMPL") as library:
        library.impl("hash_tensor", other, "Meta")
        yield


@contextlib.contextmanager
def meta_kernel_of_a_library_that_is_collected() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    library.impl("hash_tensor", other, "Meta")
    yield
    del library
    gc.collect()


@contextlib.contextmanager
def fake_implementation() -> Iterator[None]:
    with _scoped_library("aten", "IMPL") as library:
        # Refused for operators that have a Meta kernel unless overriding is allowed.
        torch.library.register_fake("aten::hash_tensor", other, lib=library, allow_override=True)
        yield


@contextlib.contextmanager
def exact(decomposition: Any) -> Iterator[None]:
    """Have a function count among those of torch that are exact for static sizes too, which are in this module."""
    decomposition.__module__ = torch._decomp.decompositions.__name__
    with mock.patch.object(torch._decomp.decompositions, "other", decomposition, create=True):
        yield


@contextlib.contextmanager
def registered_decomposition() -> Iterator[None]:
    with exact(other):
        torch._decomp.register_decomposition(OPERATOR)(other)
        try:
            yield
        finally:
            del torch._decomp.decomposition_table[OPERATOR]


@contextlib.contextmanager
def assigned_decomposition() -> Iterator[None]:
    table = torch._decomp.global_decomposition_table["post_autograd"]
    with exact(other), mock.patch.dict(table, {OPERATOR: other}):
        yield


@contextlib.contextmanager
def rule_for_the_operator() -> Iterator[None]:
    fake_impls.register_op_impl(OPERATOR)(lambda mode, func, *_: torch.empty(7))
    try:
        yield
    finally:
        fake_impls._deregister_op_impl(OPERATOR)


@contextlib.contextmanager
def rule_for_what_a_function_accepts() -> Iterator[None]:
    rule = (lambda func: func is OPERATOR, lambda mode, func, *_: torch.empty(7))
    fake_impls.register_op_impl(rule[0])(rule[1])
    try:
        yield
    finally:
        fake_impls.op_implementations_checks.remove(rule)


@contextlib.contextmanager
def rule_that_comes_before(asked: type, sizes: Iterator[int] | None = None) -> Iterator[None]:
    def answer(_asked: object, _func: object, _types: object, args: Any, _kwargs: object) -> torch.Tensor:
        x: torch.Tensor = args[0]
        return x.new_empty(7 if sizes is None else next(sizes))

    with _scoped_library("aten", "IMPL") as library:
        torch.library.register_torch_dispatch("aten::hash_tensor", asked, answer, lib=library)
        yield


WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "Meta kernel": meta_kernel,
    "Meta kernel until collected": meta_kernel_of_a_library_that_is_collected,
    "fake implementation": fake_implementation,
    "decomposition": registered_decomposition,
    "assigned decomposition": assigned_decomposition,
    "rule": rule_for_the_operator,
    "rule with a condition": rule_for_what_a_function_accepts,
    "rule that comes before the mode": lambda: rule_that_comes_before(FakeTensorMode),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.*[Oo]verriding a previously registered kernel")
def test_calls_cached_before_a_registration_and_within_it_are_computed_anew(way: str) -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4)
        for _ in range(2):
            assert OPERATOR(x).shape == ()
        for _ in range(2):
            with WAYS[way]():
                for _ in range(2):
                    assert OPERATOR(x).shape == (7,)
            for _ in range(2):
                assert OPERATOR(x).shape == ()


def test_a_rule_that_comes_before_the_mode_is_asked_at_each_call() -> None:
    with FakeTensorMode(), rule_that_comes_before(FakeTensorMode, iter((7, 8, 9))):
        x = torch.empty(3, 4)
        assert [OPERATOR(x).shape for _ in range(3)] == [(7,), (8,), (9,)]


def test_a_rule_that_comes_before_fake_tensors_counts_where_no_mode_is_active() -> None:
    x = FakeTensorMode().from_tensor(torch.empty(3, 4))
    for _ in range(2):
        for _ in range(2):
            assert OPERATOR(x).shape == ()
        with rule_that_comes_before(FakeTensor):
            for _ in range(2):
                assert OPERATOR(x).shape == (7,)


def test_a_decomposition_that_takes_the_place_of_another_counts() -> None:
    def larger(x: torch.Tensor, *_: object) -> torch.Tensor:
        return x.new_empty(8)

    larger.__name__ = other.__name__
    with registered_decomposition(), exact(larger), FakeTensorMode():
        x = torch.empty(3, 4)
        assert OPERATOR(x).shape == (7,)
        with mock.patch.dict(torch._decomp.decomposition_table, {OPERATOR: larger}):
            assert OPERATOR(x).shape == (8,)
        assert OPERATOR(x).shape == (7,)


def test_a_python_kernel_of_an_operator_counts_under_the_python_dispatcher() -> None:
    with FakeTensorMode(), enable_python_dispatcher():
        x = torch.empty(3, 4)
        assert OPERATOR(x).shape == ()
        OPERATOR.py_impl(torch._C.DispatchKey.Meta)(other)
        try:
            assert OPERATOR(x).shape == (7,)
        finally:
            del OPERATOR.py_kernels[torch._C.DispatchKey.Meta]
            OPERATOR._dispatch_cache.clear()
            _C.note_registration()
        assert OPERATOR(x).shape == ()


@pytest.mark.filterwarnings("ignore:.*[Oo]verriding a previously registered kernel")
def test_an_operator_that_calls_the_registered_one_is_computed_anew() -> None:
    caller = aten.special_bessel_j0.default
    fake_impls.register_op_impl(caller)(lambda mode, func, x: _called_under(mode, x))
    try:
        with FakeTensorMode():
            x = torch.empty(3, 4)
            for _ in range(2):
                assert caller(x).shape == ()
            with meta_kernel():
                assert caller(x).shape == (7,)
            assert caller(x).shape == ()
    finally:
        fake_impls._deregister_op_impl(caller)


def _called_under(mode: FakeTensorMode, x: torch.Tensor) -> torch.Tensor:
    with mode:
        return OPERATOR(x)


@pytest.mark.filterwarnings("ignore:.*[Oo]verriding a previously registered kernel")
def test_what_was_computed_across_a_registration_is_not_kept() -> None:
    with contextlib.ExitStack() as registered, FakeTensorMode():
        x = torch.empty(3, 4)

        def register_meanwhile(mode: object, func: object, x: torch.Tensor) -> torch.Tensor:
            registered.enter_context(meta_kernel())
            fake_impls._deregister_op_impl(OPERATOR)
            return torch.empty(5)

        fake_impls.register_op_impl(OPERATOR)(register_meanwhile)
        assert OPERATOR(x).shape == (5,)
        assert OPERATOR(x).shape == (7,)


def test_registrations_while_fastfake_is_not_installed_count_too() -> None:
    was_installed = fastfake.is_installed()
    mode = FakeTensorMode()
    with mode:
        x = torch.empty(3, 4)
        assert OPERATOR(x).shape == ()
    fastfake.uninstall()
    try:
        with rule_for_the_operator(), fastfake.install_temporarily(), mode:
            assert OPERATOR(x).shape == (7,)
    finally:
        if was_installed:
            fastfake.install()


def test_calls_that_register_nothing_leave_the_number_of_registrations_alone() -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4)
        x.sin()
        before = _C.registrations()
        torch.nn.functional.layer_norm(x, (4,)).sum()
        torch.nn.Linear(4, 4)(x).softmax(-1)
        assert _C.registrations() == before


def test_tables_are_watched_once() -> None:
    with pytest.raises(ValueError, match="watched already"):
        _C.watch_tables((), [], lambda name: False)
