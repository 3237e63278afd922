"""Which calls on symbols are not remembered, and which are not answered."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.fx.experimental._config as experimental_config
from symbolic_tensors import (
    assert_as_computed,
    describe,
    dynamic,
    hits,
    hits_in,
    known_to,
    misses,
    operator_that_asks,
    shape_env_of,
    size,
    symbolic_mode,
    unbacked,
)
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fastfake import _C, FakeTensorMode

aten = torch.ops.aten

# On a tensor of sizes (s0, s1), hinted 4 and 4: these add a guard at the first time.
TEACHING: dict[str, Callable[[torch.Tensor], Any]] = {
    "equal sizes": lambda x: x + x.t(),
    "specialisation": lambda x: x.split([1, 3]),
    "number of rows": lambda x: x.unbind(0),
    "divisibility": lambda x: x.view(2, -1),
}


def bypasses() -> dict[str, int]:
    return FakeTensorMode.cache_info().bypasses


@pytest.mark.parametrize("name", TEACHING)
def test_a_call_that_adds_a_guard_is_remembered_only_when_it_adds_none(name: str) -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 4)
        FakeTensorMode.cache_clear()
        TEACHING[name](x)
        guards = len(shape_env_of(mode).guards)
        assert guards > 0
        assert bypasses()["guards added"] > 0
        assert TEACHING[name](x) is not None
        assert hits_in(lambda: TEACHING[name](x)) > 0
        assert len(shape_env_of(mode).guards) == guards


@pytest.mark.parametrize("name", TEACHING)
def test_a_second_shape_env_is_taught_as_well(name: str) -> None:
    learned = []
    for _ in range(2):
        mode = symbolic_mode()
        with mode:
            x = dynamic(mode, 4, 4)
            for _ in range(3):
                TEACHING[name](x)
        learned.append(known_to(shape_env_of(mode)))
    assert learned[0] == learned[1]
    assert learned[0]["guards"]


def suppressed(mode: FakeTensorMode) -> AbstractContextManager[None]:
    return shape_env_of(mode).suppress_guards()


def freezing(mode: FakeTensorMode) -> AbstractContextManager[None]:
    class Frozen(AbstractContextManager[None]):
        def __enter__(self) -> None:
            shape_env_of(mode).frozen = True

        def __exit__(self, *error: object) -> None:
            shape_env_of(mode).frozen = False

    return Frozen()


@pytest.mark.parametrize("unlearning", [suppressed, freezing])
@pytest.mark.parametrize("name", TEACHING)
def test_a_guard_that_was_suppressed_is_added_later(
    name: str, unlearning: Callable[[FakeTensorMode], AbstractContextManager[None]]
) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 4)
        for _ in range(2):
            with unlearning(mode):
                result = TEACHING[name](x)
            yield result
        # torch counts a guard that comes when it is frozen, and adds it all the same.
        assert unlearning is freezing or known_to(shape_env_of(mode))["guards"] == []
        for _ in range(3):
            yield TEACHING[name](x)
        assert known_to(shape_env_of(mode))["guards"] != []

    counts = assert_as_computed(program)
    assert counts[0] == 0 < counts[-1]


@pytest.mark.parametrize("unlearning", [suppressed, freezing])
def test_while_nothing_is_learned_nothing_is_remembered_but_what_is_known_is_answered(
    unlearning: Callable[[FakeTensorMode], AbstractContextManager[None]],
) -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 4)
        entries, before = size(), hits()
        with unlearning(mode):
            for _ in range(2):
                x.sin()
        assert (size(), hits()) == (entries, before)
        x.sin()
        assert size() > entries
        with unlearning(mode):
            assert hits_in(lambda: x.sin()) == 1


def test_another_threads_guards_are_not_suppressed() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 4)
    seen: list[int] = []

    def other() -> None:
        with mode:
            x.sin()
            seen.append(hits_in(lambda: x.sin()))

    with shape_env_of(mode).suppress_guards():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [1]


def test_an_error_on_new_guards_comes_each_time_until_the_guard_stands() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 4)
        entries = size()
        for _ in range(2):
            with shape_env_of(mode).error_on_new_guards(), pytest.raises(Exception, match="guards are frozen"):
                x.unbind(0)
        assert size() == entries
        for _ in range(2):
            assert len(x.unbind(0)) == 4
        with shape_env_of(mode).error_on_new_guards():
            assert len(x.unbind(0)) == 4
        assert hits_in(lambda: x.unbind(0)) == 1


def test_an_error_leaves_the_mode_and_the_cache_as_they_were() -> None:
    with symbolic_mode() as mode:
        x, y = dynamic(mode, 4, 6), dynamic(mode, 5, 6, name="y")
        for _ in range(3):
            with pytest.raises(RuntimeError):
                x + y
            with pytest.raises(RuntimeError):
                x @ y
        assert torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is mode
        x.sin()
        assert hits_in(lambda: x.sin()) == 1


@pytest.mark.parametrize("flag", ["translation_validation", "should_record_events"])
def test_a_shape_env_that_wants_to_see_all_operations_sees_them(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    if flag == "translation_validation":
        # It takes z3 to make one, but not to have the flag.
        mode = symbolic_mode(cached=False)
        x = dynamic(mode, 4, 6)
        x = x.as_strided([2], [1])  # with whose numbers nothing is to be computed
        monkeypatch.setattr(shape_env_of(mode), "_translation_validation_enabled", True)
        mode.cache_enabled = True
    else:
        mode = FakeTensorMode(shape_env=ShapeEnv(should_record_events=True))
        x = dynamic(mode, 4, 6)
        assert shape_env_of(mode).should_record_events
    with mode:
        entries, before = size(), hits()
        for _ in range(3):
            x.sin()
        assert (size(), hits()) == (entries, before)
        plain = torch.empty(3)
        plain.sin()
        assert hits_in(lambda: plain.sin()) == 1


# What tells calls apart


def test_an_integer_among_symbols_tells_calls_apart() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 6)
        for columns in (3, 5, 3, 5):
            yield x.as_strided([x.shape[0], columns], [columns, 1]) + 1

    assert sum(assert_as_computed(program)) > 0


def test_a_symbol_in_a_shape_tells_calls_apart() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 4)
        for _ in range(2):
            for rows in x.shape:
                yield x.as_strided([rows], [1]) + 1

    assert sum(assert_as_computed(program)) > 0


def test_a_number_that_equals_the_number_of_a_symbol_is_none() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        rows, columns = x.shape
        x.new_empty(rows, columns)
        alike = columns.node._fastfake_symbol
        for size in (alike, columns, alike, columns):
            result = x.as_strided([rows, size], [0, 0]).t()
            assert describe(result.shape[0]) == describe(size)


# Which ShapeEnv


def test_a_mode_without_a_shape_env_computes_with_symbols() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        shape_env, mode.shape_env = mode.shape_env, None
        before = hits(), misses(), size()
        for _ in range(2):
            assert describe(x.sin().shape) == describe(x.shape)
        assert (hits(), misses(), size()) == before
        mode.shape_env = shape_env
        assert hits_in(lambda: x.sin()) == 1


def test_symbols_of_a_shape_env_that_was_replaced_are_computed_with() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        old, mode.shape_env = mode.shape_env, ShapeEnv()
        before = hits()
        for _ in range(2):
            result = x.sin()
            assert result.shape[0].node.shape_env is old
        assert hits() == before
        y = dynamic(mode, 4, 6)
        y.sin()
        assert hits_in(lambda: y.sin()) == 1
        assert y.sin().shape[0].node.shape_env is mode.shape_env


def test_two_shape_envs_of_one_mode_do_not_answer_for_each_other() -> None:
    with symbolic_mode() as mode:
        first = shape_env_of(mode)
        x = dynamic(mode, 4, 6)
        second = ShapeEnv(duck_shape=False)
        mode.shape_env = second
        y = dynamic(mode, 5, 7)
        assert str(x.shape[0].node.expr) == str(y.shape[0].node.expr)
        for shape_env, tensor in [(first, x), (second, y)] * 3:
            mode.shape_env = shape_env
            result = tensor[1:]
            assert result.shape[0].node.shape_env is shape_env
            assert result.shape[0].node.hint == tensor.shape[0].node.hint - 1
        mode.shape_env = first
        assert hits_in(lambda: x[1:]) == 1
        mode.shape_env = second
        assert hits_in(lambda: y[1:]) == 1
        assert y.shape[0] == 5
        mode.shape_env = first
        assert hits_in(lambda: x[1:]) == 1


def test_modes_that_share_a_shape_env_share_its_answers() -> None:
    first = symbolic_mode()
    second = FakeTensorMode(shape_env=first.shape_env)
    with first:
        x = torch.empty(dynamic(first, 4, 6).shape)
        for _ in range(2):
            x[1:]
    with second:
        y = torch.empty(x.shape)
        before = hits()
        result = y[1:]
        assert hits() == before + 1
    assert result.fake_mode is second
    assert result.shape[0].node.shape_env is first.shape_env
    assert result.shape[1].node is y.shape[1].node


def test_modes_of_other_flags_that_share_a_shape_env_do_not_share_its_answers() -> None:
    first = symbolic_mode()
    second = FakeTensorMode(shape_env=first.shape_env, allow_fallback_kernels=False)
    with first:
        x = torch.empty(dynamic(first, 4, 6).shape)
        for _ in range(2):
            x[1:]
    with second:
        y = torch.empty(x.shape)
        assert hits_in(lambda: y[1:]) == 0
        assert hits_in(lambda: y[1:]) == 1


def test_a_deep_copy_of_a_shape_env_has_answers_of_its_own() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x[1:]
        original = shape_env_of(mode)
        twin, sizes = copy.deepcopy((original, [size.node for size in x.shape]))
        assert sizes[0].shape_env is twin is not original
        mode.shape_env = twin
        y = torch.empty([torch.SymInt(node) for node in sizes])
        before = hits()
        assert y[1:].shape[0].node.shape_env is twin
        assert hits() == before
        # What one of them learns is nothing to the other.
        int(y.shape[0])
        assert y[1:].untyped_storage().nbytes() is not None
        mode.shape_env = original
        assert hits_in(lambda: x[1:]) == 1
        assert known_to(original)["replacements"] == {}
        assert known_to(twin)["replacements"] != {}


def test_shape_envs_are_compared_without_what_the_cache_keeps() -> None:
    used, unused = symbolic_mode(), symbolic_mode(cached=False)
    for mode in (used, unused):
        x = dynamic(mode, 4, 6)
        with mode:
            for _ in range(3):
                x[1:].sin()
    shape_env_of(used).check_equal(shape_env_of(unused))
    assert vars(used.shape_env).keys() == vars(unused.shape_env).keys()


# Other surroundings


@pytest.mark.parametrize(
    ("flag", "off", "on"),
    [
        ("backed_size_oblivious", False, True),
        ("aggressive_guard_free_semantics", 0, 2),
        ("unify_view_symbols_bso_meta", False, True),
    ],
)
def test_a_flag_of_torch_that_decides_conditions_is_taken_into_account(flag: str, off: object, on: object) -> None:
    """torch remembers what it decided, but only the last 256 decisions."""

    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = torch.empty(unbacked(mode, 2, 100))
        for value in (off, on, off, on):
            for _ in range(3):
                with experimental_config.patch(flag, value):
                    result = asks(x, lambda x: getattr(experimental_config, flag))
                assert result.shape == (2 if value == on else 1,)
                yield result

    with operator_that_asks() as asks:
        assert assert_as_computed(program)[-1] == 1


def test_what_a_tensor_knows_about_its_strides_tells_calls_on_unbacked_symbols_apart() -> None:
    """Questions without a known answer are answered by what was found when they were asked first."""

    def key(x: torch.Tensor) -> object:
        return _C.cache_key(x.fake_mode, "aten::clone", "", [x], {})

    with symbolic_mode() as mode:
        sizes = [unbacked(mode, 0, 100), unbacked(mode, 0, 100)]
        asked, unasked = (torch.empty(10_000).as_strided(sizes, [sizes[1], 1]) for _ in range(2))
        assert key(asked) == key(unasked)
        assert aten.sym_is_contiguous.default(asked)
        assert key(asked) != key(unasked)
        # With hints, the hints decide.
        asked, unasked = (torch.empty(dynamic(mode, 4, 6).shape).t() for _ in range(2))
        asked = unasked.new_empty(unasked.shape)
        unasked = asked.new_empty(asked.shape)
        assert asked.is_contiguous()
        assert key(asked) == key(unasked)


def test_fresh_symbols_are_made_each_time() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 6)
        u = unbacked(mode, 2, 100)
        y = torch.empty(u, 3)
        for _ in range(3):
            yield x.nonzero(), x.clone().nonzero()
            yield y[1:-1], y[:5]
            yield x.sum().item()
            yield torch.arange(3)[x.new_empty(3, dtype=torch.bool)]

    assert_as_computed(program)


def test_tensors_that_were_given_plain_sizes_are_answered_also_without_symbols() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        plain = torch.empty(2, 3)
        for _ in range(4):
            x = dynamic(mode, 4, 6, name="x")
            x.set_(plain)
            assert x._has_symbolic_sizes_strides
            assert not any(isinstance(each, torch.SymInt) for each in (*x.shape, *x.stride()))
            yield x, x.sin(), x.detach(), x.view(-1), x.t(), x.is_contiguous()

    counts = assert_as_computed(program)
    assert counts[-1] >= 4


def test_tensors_of_many_dimensions_are_computed_with() -> None:
    """A key has a word for which of 64 integers are symbols."""
    with symbolic_mode() as mode:
        x = dynamic(mode, 4)
        several = x.reshape([1] * 30 + [x.shape[0]])
        many = x.reshape([1] * 40 + [x.shape[0]])
        for _ in range(3):
            assert several.sin().shape[-1].node.hint == many.sin().shape[-1].node.hint == 4
        for tensor, bypassed in ((several, False), (many, True)):
            before = bypasses().get("symbolic shape", 0)
            tensor.sin()
            assert (bypasses().get("symbolic shape", 0) > before) is bypassed


# Tracing


def traced(program: Callable[..., Any], *args: torch.Tensor, cached: bool, **settings: Any) -> tuple[str, object]:
    before = FakeTensorMode.cache_info().hits
    with unset_fake_temporarily():
        mode = symbolic_mode(cached=cached)
        fakes = [dynamic(mode, *arg.shape, name=f"t{number}") for number, arg in enumerate(args)]
        graph = make_fx(program, tracing_mode="real", **settings)
        code = _trace(mode, graph, fakes)
    assert cached or FakeTensorMode.cache_info().hits == before
    return code, known_to(shape_env_of(mode))


def _trace(mode: FakeTensorMode, graph: Callable[..., Any], fakes: list[torch.Tensor]) -> str:
    with mode:
        return str(graph(*fakes).code)


def sizes_and_views(x: torch.Tensor, y: torch.Tensor) -> object:
    rows, columns = x.shape
    results: list[Any] = []
    for _ in range(3):
        part = x[1:]
        results += [part, part.shape[0] * 2, x.view(-1), x.new_empty(rows + columns), x.t() @ y]
        results += [torch.cat([x, y]), x + 1, (x + 1).view(-1).shape[0] + rows, *x.max(1)]
    return results


def convolutions(x: torch.Tensor, y: torch.Tensor) -> object:
    images = x[None, None]
    for _ in range(3):
        images = torch.nn.functional.max_pool2d(torch.relu(images), 2, 1)
    return images.flatten(1), images.shape[2] + y.shape[0]


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("program", [sizes_and_views, convolutions])
def test_a_traced_graph_is_the_same_with_and_without_a_cache(program: Callable[..., Any], pre_dispatch: bool) -> None:
    args = torch.empty(5, 7), torch.empty(5, 7)
    expected = traced(program, *args, cached=False, pre_dispatch=pre_dispatch)
    assert traced(program, *args, cached=True, pre_dispatch=pre_dispatch) == expected
    assert "sym_size" in expected[0]


def test_a_traced_graph_is_the_same_when_everything_was_remembered_before() -> None:
    mode = symbolic_mode()
    x, y = dynamic(mode, 5, 7, name="t0"), dynamic(mode, 5, 7, name="t1")
    with mode:
        for _ in range(3):
            sizes_and_views(x, y)
        before = hits()
        again = str(make_fx(sizes_and_views)(x, y).code)
        assert hits() > before + 10
    mode = symbolic_mode(cached=False)
    x, y = dynamic(mode, 5, 7, name="t0"), dynamic(mode, 5, 7, name="t1")
    with mode:
        for _ in range(3):
            sizes_and_views(x, y)
        assert str(make_fx(sizes_and_views)(x, y).code) == again


def test_nothing_is_answered_while_a_proxy_mode_sees_each_number() -> None:
    mode = symbolic_mode()
    x = dynamic(mode, 5, 7)
    counts: list[int] = []

    def program(y: torch.Tensor) -> torch.Tensor:
        # Below the tracer, which still is active.
        before = hits()
        with pytest.raises(RuntimeError, match="is not tracked with proxy"):
            mode.dispatch(aten.slice.Tensor, (), (x, 0, 1), {})
        counts.append(hits() - before)
        return y + 1

    with mode:
        for _ in range(2):
            x[1:]
        assert hits_in(lambda: x[1:]) == 1
    make_fx(program)(torch.ones(3))
    assert counts == [0]


# Python code in the middle


MEDDLING: dict[str, Callable[[FakeTensorMode, torch.Tensor], object]] = {
    "clears the cache": lambda mode, x: FakeTensorMode.cache_clear(),
    "takes the ShapeEnv away": lambda mode, x: (setattr(mode, "shape_env", None), gc.collect()),
    "exchanges the ShapeEnv": lambda mode, x: (setattr(mode, "shape_env", ShapeEnv()), gc.collect()),
    "learns": lambda mode, x: int(x.shape[0]),
    "resizes the argument": lambda mode, x: x.as_strided_([2], [1]),
    "gives the argument another storage": lambda mode, x: x.set_(x.clone()),
    "calls": lambda mode, x: [x.sin(), x[1:], x.view(-1)],
}


@pytest.mark.parametrize("name", MEDDLING)
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: x.sin(), id="one result"),
        pytest.param(lambda x: aten.max_pool2d_with_indices(x[None], [2, 2]), id="two results"),
        pytest.param(lambda x: x.unbind(0), id="list of views"),
        pytest.param(lambda x: aten.view.default(x, [-1]), id="flat view"),
    ],
)
def test_python_code_in_the_middle_of_a_hit_does_no_harm(
    observe: Callable[[Callable[[torch.Tensor], object]], None], name: str, call: Callable[[torch.Tensor], Any]
) -> None:
    mode = symbolic_mode()
    x = dynamic(mode, 4, 6)
    with mode:
        for _ in range(3):
            expected = describe(call(x))
    observe(lambda first: MEDDLING[name](mode, x))
    before = hits()
    result = call(x)
    assert name == "clears the cache" or hits() > before
    shape_env = None
    for tensor in result if isinstance(result, (tuple, list)) else [result]:
        for number in tensor.shape:
            if isinstance(number, torch.SymInt):
                shape_env = number.node.shape_env
    assert shape_env is not None
    if name not in ("learns", "resizes the argument", "gives the argument another storage"):
        assert describe(result) == expected
    with mode:
        assert torch.empty(3).sin().shape == (3,)


def test_a_shape_env_lives_as_long_as_a_call_that_is_answered_for_it(
    observe: Callable[[Callable[[torch.Tensor], object]], None],
) -> None:
    mode = symbolic_mode()
    x = dynamic(mode, 4, 6)
    with mode:
        for _ in range(3):
            x.unbind(0)
    alive = weakref.ref(shape_env_of(mode))

    def take_it_away(first: torch.Tensor) -> None:
        mode.shape_env = None
        gc.collect()
        seen.append(alive() is not None)

    seen: list[bool] = []
    observe(take_it_away)
    assert len(x.unbind(0)) == 4
    assert seen == [True]


def test_remembering_makes_no_replacement_before_torch_does() -> None:
    """torch gives a symbol the range of the one that takes its place when it makes the replacement, and only then."""

    def program(mode: FakeTensorMode) -> Iterator[object]:
        x, y, z = (dynamic(mode, 4, name=name) for name in "xyz")
        assert x.shape[0] == z.shape[0]
        assert z.shape[0] == y.shape[0]
        replacements = shape_env_of(mode).replacements
        assert any(by in replacements for by in replacements.values()), "nothing is left to be replaced again"
        for tensor in (x, y, z):
            tensor.detach()
        assert y.shape[0] > 2
        yield x.shape[0]

    assert_as_computed(program)
