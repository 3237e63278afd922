"""Custom operators are answered from the cache where somebody vouches for them, and nowhere else."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from symbolic_tensors import dynamic, shape_env_of, symbolic_mode
from torch.library import Library, get_ctx

import fastfake
from fastfake import FakeTensorMode

custom = torch.ops.fastfake_cached


@pytest.fixture
def library() -> Iterator[Library]:
    with torch.library._scoped_library("fastfake_cached", "FRAGMENT") as scoped:
        yield scoped


class Define:
    """Defines operators and counts how often their fake implementations run."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.computed = 0

    def __call__(self, schema: str, fake: Callable[..., Any], tags: tuple[torch.Tag, ...] = ()) -> Any:
        self.library.define(schema, tags=tags)
        name = schema.partition("(")[0]

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.computed += 1
            return fake(*args, **kwargs)

        torch.library.register_fake(f"fastfake_cached::{name}", counted, lib=self.library)
        packet, _, overload = name.partition(".")
        return getattr(getattr(custom, packet), overload or "default")


@pytest.fixture
def define(library: Library) -> Define:
    return Define(library)


def like_first(x: torch.Tensor, *_others: object, **_named: object) -> torch.Tensor:
    return torch.empty_like(x)


def describe(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device


def test_calls_of_an_operator_that_somebody_vouches_for_are_answered_from_the_cache(
    define: Define, mode: FakeTensorMode
) -> None:
    operator = define("scale(Tensor x, Tensor y, *, float by, str? how=None, int[] sizes=[]) -> Tensor", like_first)
    x, y = torch.empty(3, 4, device="cuda").T, torch.empty(4, dtype=torch.int8, device="cuda")
    computed = describe(operator(x, y, by=2.0, sizes=[1]))
    assert fastfake.cache_operator(operator) is operator
    FakeTensorMode.cache_clear()
    for _ in range(3):
        assert describe(operator(x, y, by=2.0, sizes=[1])) == computed
    assert define.computed == 2
    # Each of these is another call.
    for call in (
        lambda: operator(x, y, by=3.0, sizes=[1]),
        lambda: operator(x, y, by=2.0, how="so", sizes=[1]),
        lambda: operator(x, y, by=2.0, sizes=[1, 1]),
        lambda: operator(y, x, by=2.0, sizes=[1]),
    ):
        before = define.computed
        first, second = describe(call()), describe(call())
        assert first == second
        assert define.computed == before + 1


def test_the_other_overloads_of_the_operator_are_computed_each_time(define: Define, mode: FakeTensorMode) -> None:
    one, other = (define(f"twice{overload}(Tensor x) -> Tensor", like_first) for overload in ("", ".other"))
    fastfake.cache_operator(one)
    x = torch.empty(3)
    for operator, computed in ((one, 1), (other, 3)):
        define.computed = 0
        for _ in range(3):
            operator(x)
        assert define.computed == computed


def test_within_a_scope_and_only_there_calls_are_answered_from_the_cache(define: Define, mode: FakeTensorMode) -> None:
    outer, inner = (define(f"{name}(Tensor x) -> Tensor", like_first) for name in ("outer", "inner"))
    x = torch.empty(3)

    def computed_of(operator: Any) -> int:
        before = define.computed
        for _ in range(2):
            operator(x)
        return define.computed - before

    assert (computed_of(outer), computed_of(inner)) == (2, 2)
    with fastfake.cache_operators_temporarily(outer):
        assert (computed_of(outer), computed_of(inner)) == (1, 2)
        with pytest.raises(KeyError), fastfake.cache_operators_temporarily(inner):
            assert (computed_of(outer), computed_of(inner)) == (0, 1)
            raise KeyError
        assert (computed_of(outer), computed_of(inner)) == (0, 2)
    assert (computed_of(outer), computed_of(inner)) == (2, 2)
    with fastfake.cache_operators_temporarily(outer, inner):
        assert (computed_of(outer), computed_of(inner)) == (0, 0)


def test_a_scope_is_that_of_its_thread(define: Define, mode: FakeTensorMode) -> None:
    operator = define("threaded(Tensor x) -> Tensor", like_first)
    x = torch.empty(3)

    def call_twice() -> None:
        with mode:
            operator(x), operator(x)

    with fastfake.cache_operators_temporarily(operator):
        call_twice()
        assert define.computed == 1
        # A context of its own, as threads had up to CPython 3.13.
        thread = threading.Thread(target=lambda: contextvars.Context().run(call_twice))
        thread.start()
        thread.join()
    assert define.computed == 3


def test_what_torch_makes_of_a_function_can_be_vouched_for_by_a_decorator(mode: FakeTensorMode) -> None:
    @fastfake.cache_operator
    @torch.library.custom_op("fastfake_cached::decorated", mutates_args=())
    def decorated(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @decorated.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(1)

    x = torch.empty(3)
    assert [decorated(x).shape for _ in range(2)] == [(1,)] * 2
    assert mode.cache_info().hits

    @decorated.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(2)

    assert [decorated(x).shape for _ in range(2)] == [(2,)] * 2


def test_another_implementation_of_the_operator_is_asked_as_soon_as_it_is_registered(mode: FakeTensorMode) -> None:
    x = torch.empty(3)
    with torch.library._scoped_library("fastfake_cached", "DEF") as definitions:
        definitions.define("replaced(Tensor x) -> Tensor")
        operator = custom.replaced.default
        fastfake.cache_operator(operator)

        def register_fake(size: int) -> Library:
            implementations = Library("fastfake_cached", "IMPL")
            torch.library.register_fake(
                "fastfake_cached::replaced", lambda x: x.new_empty(size), lib=implementations, allow_override=True
            )
            return implementations

        def shapes() -> list[torch.Size]:
            return [operator(x).shape for _ in range(2)]

        first = register_fake(1)
        assert shapes() == [(1,)] * 2
        second = register_fake(2)
        assert shapes() == [(2,)] * 2
        second._destroy()
        assert shapes() == [(1,)] * 2
        torch.library.register_torch_dispatch(
            "fastfake_cached::replaced",
            FakeTensorMode,
            lambda mode, func, types, args, kwargs: x.new_empty(3),
            lib=definitions,
        )
        assert shapes() == [(3,)] * 2
        first._destroy()


def test_an_operator_that_was_defined_anew_has_to_be_vouched_for_again(mode: FakeTensorMode) -> None:
    x = torch.empty(3)
    for _ in range(2):
        with torch.library._scoped_library("fastfake_cached", "FRAGMENT") as library:
            define = Define(library)
            operator = define("again(Tensor x) -> Tensor", like_first)
            operator(x), operator(x)
            assert define.computed == 2
            fastfake.cache_operator(operator)
            operator(x), operator(x)
            assert define.computed == 3


def test_a_call_that_makes_a_size_that_depends_on_data_makes_one_each_time(define: Define) -> None:
    def nonzero(x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(get_ctx().new_dynamic_size(), 2)

    def unseen(x: torch.Tensor) -> torch.Tensor:
        get_ctx().new_dynamic_size()
        return x.new_empty(2)

    operators = [
        define("nonzero(Tensor x) -> Tensor", nonzero),
        define("unseen(Tensor x) -> Tensor", unseen),
    ]
    with symbolic_mode() as mode:
        for operator in operators:
            fastfake.cache_operator(operator)
            x = torch.empty(3, 4)
            before = len(shape_env_of(mode).var_to_range)
            results = [operator(x) for _ in range(3)]
            assert len(shape_env_of(mode).var_to_range) == before + 3
            assert len({str(result.shape) for result in results}) == (3 if operator is operators[0] else 1)


def test_under_a_shape_env_that_records_what_it_is_asked_calls_are_computed(define: Define) -> None:
    operator = define("recorded(Tensor x) -> Tensor", like_first)
    fastfake.cache_operator(operator)
    with symbolic_mode(should_record_events=True):
        x = torch.empty(3, 4)
        operator(x), operator(x)
    assert define.computed == 2


def test_symbolic_sizes_are_answered_from_the_cache(define: Define) -> None:
    operator = define("joined(Tensor x, Tensor y) -> Tensor", lambda x, y: torch.cat([x, y]).t())
    fastfake.cache_operator(operator)
    with symbolic_mode() as mode:
        x, y = (dynamic(mode, size, 4, name=f"x{size}", static=(1,)) for size in (3, 5))
        results = [operator(x, y) for _ in range(3)]
        assert define.computed == 1
        other = operator(y, x)
    assert define.computed == 2
    for result in (*results, other):
        assert result.shape == (4, x.shape[0] + y.shape[0])
        assert result.stride() == (1, 4)


def test_results_alias_what_the_computed_ones_alias(define: Define, mode: FakeTensorMode) -> None:
    view = define("view(Tensor(a) x) -> Tensor(a)", lambda x: x[1:])
    parts = define("parts(Tensor x) -> Tensor[]", lambda x: [x.new_empty(1), x.new_empty(2)])
    pair = define("pair(Tensor x) -> (Tensor, Tensor, int)", lambda x: (x.new_empty(2), x.new_empty(2, 3), 7))
    write = define("write(Tensor(a!) x) -> ()", lambda x: None)
    x = torch.empty(3, 4)
    for operator in (view, parts, pair, write):
        fastfake.cache_operator(operator)
        define.computed = 0
        results = [operator(x) for _ in range(3)]
        assert define.computed == 1
        shapes = torch.utils._pytree.tree_map_only(torch.Tensor, describe, results)
        assert shapes[1:] == shapes[:-1]
    on_storage_of_x = [view(x).untyped_storage()._cdata == x.untyped_storage()._cdata for _ in range(2)]
    assert on_storage_of_x == [True] * 2


def test_gradients_reach_the_formula_of_the_operator(mode: FakeTensorMode) -> None:
    @fastfake.cache_operator
    @torch.library.custom_op("fastfake_cached::differentiable", mutates_args=())
    def differentiable(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    differentiable.register_fake(like_first)
    formula_runs = []
    differentiable.register_autograd(lambda ctx, grad: formula_runs.append(1) or grad)
    x = torch.empty(3, requires_grad=True)
    for count in (1, 2, 3):
        differentiable(x).sum().backward()
        assert len(formula_runs) == count
        assert x.grad is not None
        assert x.grad.shape == (3,)


def test_objects_among_the_arguments_are_not_cached(define: Define, mode: FakeTensorMode) -> None:
    operator = define("configured(Tensor x, __torch__.torch.classes.profiler._RecordFunction f) -> Tensor", like_first)
    fastfake.cache_operator(operator)
    x, function = torch.empty(3), torch.ops.profiler._record_function_enter_new.default("name", None)
    operator(x, function), operator(x, function)
    assert define.computed == 2
    assert mode.cache_info().bypasses["argument kind"] == 2


def test_profiles_of_operators_come_before_the_cache(define: Define, mode: FakeTensorMode) -> None:
    operator = define("profiled(Tensor x) -> Tensor", like_first)
    fastfake.cache_operator(operator)
    x = torch.empty(3)
    profiles = SimpleNamespace(
        data=[operator], generic_fake_kernel=lambda func, mode, *args, **kwargs: args[0].new_empty(9)
    )
    shapes = [operator(x).shape]
    with torch._dynamo.config.patch(_custom_ops_profile=profiles):
        shapes += [operator(x).shape for _ in range(2)]
    assert mode.cache_info().bypasses == {"operator profiles": 2}
    shapes.append(operator(x).shape)
    assert shapes == [(3,), (9,), (9,), (3,)]
    assert define.computed == 1


def test_a_fake_implementation_that_raises_is_asked_again(define: Define, mode: FakeTensorMode) -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no")

    operator = define("refused(Tensor x) -> Tensor", refuse)
    fastfake.cache_operator(operator)
    x = torch.empty(3)
    for count in (1, 2):
        with pytest.raises(ValueError, match="no"):
            operator(x)
        assert define.computed == count


@pytest.mark.parametrize(
    "vouch", [fastfake.cache_operator, lambda op: fastfake.cache_operators_temporarily(op).__enter__()]
)
def test_what_cannot_be_cached_is_refused(define: Define, vouch: Callable[[Any], object]) -> None:
    operator = define("tagged(Tensor x) -> Tensor", like_first, tags=(torch.Tag.dynamic_output_shape,))
    with pytest.raises(ValueError, match=r"calls of fastfake_cached\.tagged\.default are never cached: dynamic output"):
        vouch(operator)
    with pytest.raises(ValueError, match=r"calls of aten\.item\.default are never cached: data dependent output"):
        vouch(torch.ops.aten.item.default)
    for several in (custom.tagged, "fastfake_cached::tagged", None):
        with pytest.raises(TypeError, match=r"expected one overload of an operator, .* but got"):
            vouch(several)
    # It is cached anyway.
    vouch(torch.ops.aten.add.Tensor)
