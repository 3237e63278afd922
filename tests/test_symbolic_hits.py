"""Calls on symbolic shapes that the cache answers, and that the answers are those that computing gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from symbolic_tensors import (
    assert_as_computed,
    describe,
    dynamic,
    hits,
    hits_in,
    known_to,
    misses,
    node_of,
    shape_env_of,
    symbolic_mode,
    unbacked,
)
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.testing._internal.two_tensor import TwoTensor

from fastfake import FakeTensorMode

aten = torch.ops.aten

Call = Callable[[torch.Tensor], Any]

# Each takes a matrix of sizes (s0, s1), hinted 4 and 6.
CALLS: dict[str, Call] = {
    "elementwise": lambda x: x + x,
    "matrix product": lambda x: x @ x.t(),
    "transposed view": lambda x: x.t(),
    "flat view": lambda x: x.view(-1),
    "unsafe view": lambda x: aten._unsafe_view.default(x, [-1]),
    "slice": lambda x: x[1:, ::2],
    "select": lambda x: x[1],
    "expand": lambda x: x.expand(3, *x.shape),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "reduction": lambda x: x.sum(0, keepdim=True),
    "two results": lambda x: x.max(1),
    "concatenation": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack([x, x.clone()]),
    "foreach": lambda x: torch._foreach_add([x, x], 1.0),
    "list of views, numbers of sizes": lambda x: x.split([x.shape[0] - 1, 1]),
    "list of views of equal size": lambda x: x.chunk(2, 1),
    "list of rows": lambda x: x.unbind(1),
    "in place": lambda x: x.add_(1),
    "out=": lambda x: torch.add(x, 1, out=x.new_empty(x.shape)),
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
    "as strided": lambda x: x.as_strided([x.shape[1]], [x.shape[0]], x.shape[1] - 1),
    "integer": lambda x: x.narrow(1, 0, x.shape[1] - 2),
    "integers in a list": lambda x: x.new_empty([x.shape[0] * 2, x.shape[1] + 1, 3]),
    "factory": lambda x: torch.arange(x.shape[0], dtype=torch.int32),
    "integer as a number": lambda x: x + x.shape[0],
    "float as a number": lambda x: x * (x.shape[0] / 3),
    "float": lambda x: torch.full([3], x.shape[0] / 3),
    "truth value": lambda x: torch.full([3], x.shape[0] > 2, dtype=torch.bool),
    "index": lambda x: x[:, torch.arange(x.shape[1])],
    "convolution": lambda x: torch.conv2d(x[None, None], torch.empty(2, 1, 1, 1)),
    "other dtype": lambda x: x.view(torch.int32),
}


def matrix(mode: FakeTensorMode, **settings: Any) -> torch.Tensor:
    return dynamic(mode, 4, 6, **settings)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_computed_until_it_teaches_nothing_and_then_answered_alike(name: str) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode)
        for _ in range(4):
            yield CALLS[name](x)

    counts = assert_as_computed(program)
    # The first call adds the guards, the second is recorded.
    assert counts[-1] == counts[-2] > 0


@pytest.mark.parametrize("name", CALLS)
def test_a_hit_runs_no_computation_and_misses_nothing(name: str) -> None:
    mode = symbolic_mode()
    x = matrix(mode)
    with mode:
        for _ in range(3):
            CALLS[name](x)
        before = known_to(shape_env_of(mode)), misses(), FakeTensorMode.cache_info().bypasses
        assert hits_in(lambda: CALLS[name](x)) > 0
    assert (known_to(shape_env_of(mode)), misses(), FakeTensorMode.cache_info().bypasses) == before


@pytest.mark.parametrize("name", ["elementwise", "in place", "two results", "transposed view", "foreach", "detach"])
def test_a_hit_calls_no_python_function(name: str) -> None:
    mode = symbolic_mode()
    x = matrix(mode)
    called: list[str] = []
    with mode, torch.no_grad():
        for _ in range(3):
            CALLS[name](x)
        sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_name) if event == "call" else None)
        try:
            CALLS[name](x)
        finally:
            sys.setprofile(None)
    called.remove("<lambda>")
    assert called == []


@pytest.mark.parametrize(
    ("strides", "static"),
    [((6, 1), ()), ((1, 4), ()), ((12, 2), ()), ((6, 1), (0,)), ((6, 1), (1,)), ((0, 1), ()), ((1, 1), ())],
    ids=str,
)
def test_strides_storages_and_offsets_may_be_symbols_too(strides: tuple[int, int], static: tuple[int, ...]) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 6, strides=strides, static=static)
        shifted = x[1:, x.shape[1] - 2 :]
        for _ in range(4):
            yield [shifted + 1, shifted.t(), shifted.clone(), shifted.detach(), shifted.as_strided([2], [1])]

    assert assert_as_computed(program)[-1] >= 5


def test_a_plain_view_of_a_storage_of_symbolic_size_is_answered() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode)
        piece = x.as_strided([2, 2], [2, 1])
        assert not piece._has_symbolic_sizes_strides
        for _ in range(3):
            yield [piece.t(), piece + 1, piece.view(4)]

    assert assert_as_computed(program)[-1] == 3


def test_questions_about_the_results_have_the_computed_answers_and_add_the_computed_guards() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 2, 3, 4, 5)
        for _ in range(4):
            results = [x + 1, x.transpose(1, 2), x[:, 1:], x.contiguous(memory_format=torch.channels_last), x[0]]
            yield results
            for result in results:
                yield result.is_contiguous()
                yield result.dim() == 4 and result.is_contiguous(memory_format=torch.channels_last)
                yield aten.is_non_overlapping_and_dense.default(result)
                yield aten.sym_numel(result), aten.sym_size(result), aten.sym_stride(result)
                yield result.view(-1) if result.is_contiguous() else None

    assert sum(assert_as_computed(program)) > 15


def test_a_hit_says_of_its_sizes_and_strides_what_was_known_when_it_was_recorded() -> None:
    """So that nobody computes the number of elements and the contiguity again."""
    mode = symbolic_mode()
    x = matrix(mode)
    called: list[str] = []
    with mode, torch.no_grad():
        results = [x + 1 for _ in range(3)]
        assert results[0].is_contiguous()
        sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_name) if event == "call" else None)
        try:
            aten.sym_numel(results[-1])
        finally:
            sys.setprofile(None)
    assert not [name for name in called if "mul" in name]


@pytest.mark.parametrize("inference", [False, True])
def test_results_under_inference_mode_are_inference_tensors_again(inference: bool) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        with torch.inference_mode(inference):
            x = matrix(mode)
        for _ in range(3):
            with torch.inference_mode(inference):
                result = x.sin()
            assert result.is_inference() is inference
            yield result

    assert assert_as_computed(program)[-1] == 1


def test_autograd_forward_and_backward_are_answered() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode, requires_grad=True)
        for _ in range(4):
            y = (x.view(-1).sin() * x.shape[0]).sum() + (x @ x.t()).square().mean()
            (gradient,) = torch.autograd.grad(y, x)
            yield y, gradient

    counts = assert_as_computed(program)
    assert counts[-1] == counts[-2] > 15


def test_functionalisation_is_answered() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode)

        def mutates(x: torch.Tensor) -> torch.Tensor:
            y = x.clone()
            y[1:].add_(1)
            y.view(-1).mul_(2)
            return y.t()

        for _ in range(4):
            yield torch.func.functionalize(mutates)(x)

    counts = assert_as_computed(program)
    assert counts[-1] == counts[-2] > 5


def test_vmap_is_answered() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode)
        for _ in range(4):
            yield torch.func.vmap(lambda row: (row.sin() * row).sum())(x)

    counts = assert_as_computed(program)
    assert counts[-1] == counts[-2] > 1


def test_wrapper_subclasses_of_fakes_are_answered() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        inner = matrix(mode)
        x = TwoTensor(inner, inner.clone())
        for _ in range(4):
            result = (x + 1).t()
            assert type(result) is TwoTensor
            yield result.a, result.b

    counts = assert_as_computed(program)
    assert counts[-1] >= 4


def test_calls_outside_of_a_mode_are_answered() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode)
        for _ in range(4):
            yield x + 1, x.t(), x.view(-1), x.shape[0]

    assert assert_as_computed(program, entered=False)[-1] == 3


def test_symbols_that_have_no_hint_are_answered() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        u = unbacked(mode, 2, 100)
        x = torch.empty(u, 3)
        for _ in range(4):
            yield x + 1, x.t(), x.view(-1), x.sum(0), torch.cat([x, x]), x.new_empty(u + 1), x.is_contiguous()

    assert assert_as_computed(program)[-1] >= 6


def test_a_storage_of_a_hit_is_fresh_and_of_the_symbolic_size() -> None:
    mode = symbolic_mode()
    x = matrix(mode)
    with mode:
        results = [x + 1 for _ in range(4)]
    assert len({result.untyped_storage()._cdata for result in results}) == 4
    assert {str(describe(result.untyped_storage().nbytes())) for result in results} == {
        str(describe(4 * x.shape[0] * x.shape[1]))
    }


@pytest.mark.parametrize("call", [lambda x: x.t(), lambda x: aten._unsafe_view.default(x, [-1]), lambda x: x[1:]])
def test_views_from_the_cache_share_the_storage_of_their_argument(call: Call) -> None:
    mode = symbolic_mode()
    with mode:
        first = matrix(mode)
        for step in range(4):
            x = first.new_empty(*first.shape)
            before = hits()
            assert call(x).untyped_storage()._cdata == x.untyped_storage()._cdata
            assert step < 2 or hits() == before + 1


def test_what_was_remembered_of_one_tensor_answers_for_another_of_equal_symbols() -> None:
    mode = symbolic_mode()
    x = matrix(mode)
    with mode:
        x.sin()
        y = x.new_empty(x.shape[0], x.shape[1])
        assert hits_in(lambda: y.sin()) == 1
        # The same hints, but other symbols.
        other = dynamic(mode, 4, 6, name="other")
        assert hits_in(lambda: other.sin()) == 0
        assert describe(other.sin().shape) == describe(other.shape) != describe(x.shape)


def test_a_repeated_symbol_is_not_mistaken_for_two() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x, y = matrix(mode), dynamic(mode, 4, 6, name="y")
        for _ in range(3):
            for rows, columns in ((x.shape[0],) * 2, (x.shape[0], y.shape[0]), (y.shape[0],) * 2):
                yield x.new_empty(rows, columns)
                yield x.new_empty(rows, 4), x.new_empty(4, rows), x.new_empty(4, 4)

    assert sum(assert_as_computed(program)) > 6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(lambda x: x.shape[0], lambda x: x.shape[0] + 1, id="expression"),
        pytest.param(lambda x: x.shape[0], lambda x: 4, id="number of the same value"),
        pytest.param(lambda x: x.shape[0] * 1.0, lambda x: x.shape[0] / 1, id="two floats"),
        pytest.param(lambda x: x.shape[0] > 3, lambda x: x.shape[0] > 5, id="truth values"),
        pytest.param(lambda x: x.shape[0] > 3, lambda x: True, id="truth value and its hint"),
    ],
)
def test_other_numbers_are_other_calls(first: Call, second: Call) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode)
        for make in (first, second) * 3:
            number = make(x)
            yield torch.full([2], number), torch.full([2], number, dtype=torch.float64)
            if type(number) is not bool and not isinstance(number, torch.SymBool):
                yield x + number

    assert sum(assert_as_computed(program)) > 6


def test_a_float_that_is_zero_is_computed_each_time_since_its_sign_does_not_show() -> None:
    mode = symbolic_mode()
    x = matrix(mode)
    with mode:
        number = (x.shape[0] - 4) / 3
        if node_of(number).hint != 0.0:
            pytest.fail("the hint is to be zero")
        before = hits()
        for _ in range(3):
            torch.full([2], number)
        assert hits() == before


def test_detached_tensors_are_made_without_a_computation() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = matrix(mode, requires_grad=True)
        for _ in range(3):
            yield x.detach()
            yield x.data
            yield (x * 2).detach()
            yield x.detach().view(-1)

    assert sum(assert_as_computed(program)[-4:]) >= 4


def test_a_mode_that_crosschecks_agrees_with_every_answer() -> None:
    mode = symbolic_mode()
    mode.cache_crosscheck_enabled = True
    x = matrix(mode)
    with mode:
        for name, call in CALLS.items():
            for _ in range(4):
                call(x)
            assert hits_in(lambda call=call: call(x)) > 0, name  # type: ignore[misc]


def test_the_real_tensors_of_a_program_may_be_made_inside(mode: FakeTensorMode) -> None:
    """A mode without a ShapeEnv has no symbols, and its calls are as before."""
    with unset_fake_temporarily():
        real = torch.ones(3)
    fake = mode.from_tensor(real)
    assert hits_in(lambda: (fake.sin(), fake.sin())) == 1
