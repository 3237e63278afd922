"""What a ShapeEnv learns between two calls drops the answers that it is about, and no others."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from symbolic_tensors import (
    Asks,
    Question,
    assert_as_computed,
    describe,
    dynamic,
    hits,
    hits_in,
    known_to,
    node_of,
    operator_that_asks,
    shape_env_of,
    size,
    symbolic_mode,
    unbacked,
)
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import (
    ShapeEnv,
    _constrain_range_for_size,
    guard_size_oblivious,
    statically_known_true,
)

from fastfake import FakeTensorMode
from fastfake.knowledge import Knowledge, news


@pytest.fixture(scope="module")
def asks() -> Iterator[Asks]:
    with operator_that_asks() as operator:
        yield operator


def known(condition: Callable[[Any, Any], Any]) -> Question:
    return lambda x: statically_known_true(condition(*x.shape[:2]))


def has_guards(x: torch.Tensor) -> object:
    """For facts that torch remembers not to have known until something else is learned."""
    return len(env(x).guards) > 0


def env(x: torch.Tensor) -> ShapeEnv:
    return shape_env_of(x.fake_mode)


def replace_settings(x: torch.Tensor) -> None:
    env(x).settings = dataclasses.replace(env(x).settings, specialize_zero_one=False)


def learn_value(x: torch.Tensor) -> None:
    env(x).set_real_tensor_prop_unbacked_vals(node_of(x.shape[0]).expr, 7)


def pop_guard(x: torch.Tensor) -> None:
    env(x).guards.pop()


# Of a matrix of sizes (s0, s1), hinted 4 and 4: what happens, and a question with another answer afterwards.
BACKED: dict[str, tuple[Callable[[torch.Tensor], object], Question]] = {
    "specialisation": (lambda x: int(x.shape[0]), known(lambda a, b: a == 4)),
    "specialisation by a condition": (lambda x: bool(x.shape[0] == 4), known(lambda a, b: a == 4)),
    "equality": (lambda x: bool(x.shape[0] == x.shape[1]), known(lambda a, b: a == b)),
    "equality of an expression": (lambda x: bool(x.shape[0] * 2 == x.shape[1] + 4), has_guards),
    "upper bound": (lambda x: torch._check(x.shape[0] < 10), known(lambda a, b: a < 11)),
    "lower bound": (lambda x: bool(x.shape[0] > 3), known(lambda a, b: a > 2)),
    "bound of a multiple": (lambda x: bool(x.shape[0] * 3 < 100), has_guards),
    "inequality": (lambda x: bool(x.shape[0] != 9), has_guards),
    "order": (lambda x: bool(x.shape[0] <= x.shape[1]), has_guards),
    "bound of a sum": (lambda x: bool(x.shape[0] + x.shape[1] > 5), has_guards),
    "bound of a product": (lambda x: bool(x.shape[0] * x.shape[1] < 99), has_guards),
    "divisibility": (lambda x: bool(x.shape[0] % 2 == 0), known(lambda a, b: a % 2 == 0)),
    "divisibility of a product": (lambda x: bool((x.shape[0] * x.shape[1]) % 8 == 0), has_guards),
    "quotient": (lambda x: bool(x.shape[0] // 3 == 1), has_guards),
    "other settings": (replace_settings, lambda x: env(x).settings.specialize_zero_one is False),
    "a replacement by itself": (
        lambda x: env(x).replacements.update({node_of(x.shape[0]).expr: node_of(x.shape[1]).expr}),
        lambda x: bool(env(x).replacements),
    ),
}

# The same of symbols without a hint, between 2 and 100.
UNBACKED: dict[str, tuple[Callable[[torch.Tensor], object], Question]] = {
    "value": (lambda x: torch._check(x.shape[0] == 5), known(lambda a, b: a == 5)),
    "equality": (lambda x: torch._check(x.shape[0] == x.shape[1]), lambda x: env(x).num_deferred_runtime_asserts > 4),
    "upper bound": (lambda x: torch._check(x.shape[0] < 10), known(lambda a, b: a < 11)),
    "range": (
        lambda x: _constrain_range_for_size(x.shape[0], 3, 20),
        lambda x: env(x).var_to_range[node_of(x.shape[0]).expr].lower > 2,
    ),
    "assertion about both": (
        lambda x: torch._check(x.shape[0] + x.shape[1] > 9),
        lambda x: env(x).num_deferred_runtime_asserts > 4,
    ),
    "divisibility": (lambda x: torch._check(x.shape[0] % 3 == 0), known(lambda a, b: a % 3 == 0)),
    "value of a real tensor": (learn_value, lambda x: bool(env(x).real_tensor_prop_unbacked_vals)),
}


def follow(
    asks: Asks, x: torch.Tensor, learn: Callable[[torch.Tensor], object], question: Question
) -> Iterator[object]:
    for _ in range(3):
        yield asks(x, question)
    learn(x)
    for _ in range(4):
        yield asks(x, question)


def assert_noticed(counts: list[int], answers: list[int]) -> None:
    assert answers[0] == answers[2] != answers[3] == answers[-1]
    assert counts[2] == 1, "the call was answered before"
    assert counts[3] == 0, "but not from what was known before"
    assert counts[-1] == 1, "and again afterwards"


@pytest.mark.parametrize("name", BACKED)
def test_what_is_learned_about_a_symbol_is_taken_into_account(asks: Asks, name: str) -> None:
    learn, question = BACKED[name]
    answers: list[int] = []

    def program(mode: FakeTensorMode) -> Iterator[object]:
        for result in follow(asks, dynamic(mode, 4, 4), learn, question):
            answers.append(result.shape[0])  # type: ignore[attr-defined]
            yield result

    assert_noticed(assert_as_computed(program), answers[::2])


@pytest.mark.parametrize("name", UNBACKED)
def test_what_is_learned_about_a_symbol_without_a_hint_is_taken_into_account(asks: Asks, name: str) -> None:
    learn, question = UNBACKED[name]
    answers: list[int] = []

    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = torch.empty(unbacked(mode, 2, 100), unbacked(mode, 2, 100))
        for result in follow(asks, x, learn, question):
            answers.append(result.shape[0])  # type: ignore[attr-defined]
            yield result

    assert_noticed(assert_as_computed(program), answers[::2])


@pytest.mark.filterwarnings("ignore:_check_is_size will be removed")
def test_that_a_symbol_is_marked_as_a_size_is_taken_into_account(asks: Asks) -> None:
    answers: list[int] = []

    def program(mode: FakeTensorMode) -> Iterator[object]:
        number = shape_env_of(mode).create_unbacked_symint()
        torch._check(number >= 0)
        shape_env_of(mode).pending_fresh_unbacked_symbols.clear()
        x = torch.empty(3).as_strided([1, number], [1, 0])
        if number.node.expr in shape_env_of(mode).size_like:
            shape_env_of(mode).size_like.clear()

        def question(x: torch.Tensor) -> object:
            return number.node.expr in shape_env_of(mode).size_like

        for result in follow(asks, x, lambda x: torch._check_is_size(number), question):
            answers.append(result.shape[0])  # type: ignore[attr-defined]
            yield result

    assert_noticed(assert_as_computed(program), answers[::2])


@pytest.mark.parametrize("value", [2, 100])
def test_what_a_size_turns_out_to_be_changes_the_shape_of_results(value: int) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        u = unbacked(mode, 0, 100)
        x = torch.empty(u, 3)
        before: Any = None
        for _ in range(3):
            results = [x.squeeze(0), x + 1, x.t().contiguous(), x.expand(u, 3), x.sum(0)]
            before = describe(results)
            yield results
        torch._check(u == value)
        for _ in range(3):
            again = [x.squeeze(0), x + 1, x.t().contiguous(), x.expand(u, 3), x.sum(0)]
            yield again
        assert describe(again) != before

    assert sum(assert_as_computed(program)) >= 10


def test_sizes_that_turn_out_equal_share_a_symbol_in_results() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 4)
        for _ in range(3):
            results = x.new_empty(x.shape[0] * x.shape[1]), x + 1, x[1:, 1:]
            before = describe(results)
            yield results
        assert x.shape[0] == x.shape[1]
        for _ in range(3):
            after = x.new_empty(x.shape[0] * x.shape[1]), x + 1, x[1:, 1:]
            yield after
        assert describe(after) != before

    assert sum(assert_as_computed(program)) >= 10


def test_numbers_of_remembered_results_have_replacements_that_were_found_since() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 4)
        results = [x[1:, 1:] for _ in range(3)]
        yield results
        assert x.shape[0] == x.shape[1]
        yield results
        assert x.shape[0] == 4
        yield results
        yield [x[1:, 1:] for _ in range(3)]
        yield [result + 1 for result in results]

    assert sum(assert_as_computed(program)) >= 4


def test_what_is_forgotten_is_taken_into_account(asks: Asks) -> None:
    answers: list[int] = []

    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 4)
        assert x.shape[0] + x.shape[1] > 5
        for result in follow(asks, x, pop_guard, lambda x: bool(env(x).guards)):
            answers.append(result.shape[0])  # type: ignore[attr-defined]
            yield result

    assert_noticed(assert_as_computed(program), answers[::2])


@pytest.mark.parametrize("name", ["replacements", "axioms", "var_to_range", "divisible"])
def test_a_collection_that_is_exchanged_is_taken_into_account(asks: Asks, name: str) -> None:
    answers: list[int] = []

    def empty(x: torch.Tensor) -> None:
        setattr(env(x), name, type(getattr(env(x), name))())

    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 4)
        assert x.shape[0] % 2 == 0 and x.shape[1] == 4
        for result in follow(asks, x, empty, lambda x: bool(getattr(env(x), name))):
            answers.append(result.shape[0])  # type: ignore[attr-defined]
            yield result

    assert_noticed(assert_as_computed(program), answers[::2])


# What leaves answers alone

NEWS_ABOUT_TWO: dict[str, Callable[[Any, Any], object]] = {
    "equality": lambda a, b: bool(a == b),
    "order": lambda a, b: bool(a <= b),
    "bound of a sum": lambda a, b: bool(a + b > 5),
    "divisibility": lambda a, b: bool((a * b) % 8 == 0),
    "specialisation": lambda a, b: (int(a), int(b)),
}


@pytest.mark.parametrize("name", NEWS_ABOUT_TWO)
def test_news_about_other_symbols_keeps_an_answer(name: str) -> None:
    with symbolic_mode() as mode:
        x, y = dynamic(mode, 4, 4), dynamic(mode, 4, 4, name="y")
        for _ in range(2):
            x.sin(), y.sin()
        entries = size()
        NEWS_ABOUT_TWO[name](*y.shape)
        assert hits_in(lambda: x.sin()) == 1
        assert size() < entries
        assert hits_in(lambda: y.sin()) == 0


@pytest.mark.parametrize("name", ["order", "bound of a sum", "divisibility"])
def test_news_about_two_symbols_together_keeps_the_answers_about_one_of_them(name: str) -> None:
    with symbolic_mode() as mode:
        x, y = dynamic(mode, 4, 4), dynamic(mode, 4, 4, name="y")
        both = x.new_empty(x.shape[0], y.shape[0])
        for tensor in (x, y, both):
            tensor.sin()
        guards = len(shape_env_of(mode).guards)
        NEWS_ABOUT_TWO[name](x.shape[0], y.shape[0])
        assert len(shape_env_of(mode).guards) == guards + 1
        assert [hits_in(lambda tensor=tensor: tensor.sin()) for tensor in (x, y, both)] == [1, 1, 0]


def test_an_answer_is_about_the_symbols_that_replace_those_of_its_arguments(asks: Asks) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x, y = dynamic(mode, 4, name="x"), dynamic(mode, 4, name="y")
        assert x.shape[0] == y.shape[0]
        # Which of the two replaces the other does not matter: the call is about either.
        for tensor in (x, y):
            for _ in range(3):
                yield asks(tensor, lambda x: statically_known_true(x.shape[0] < 50))
        kept = next(symbol for symbol in (x.shape[0], y.shape[0]) if str(symbol.node._expr) == str(symbol.node.expr))
        assert kept < 50
        for tensor in (x, y):
            for _ in range(3):
                yield asks(tensor, lambda x: statically_known_true(x.shape[0] < 50))

    counts = assert_as_computed(program)
    assert counts == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1]


def test_answers_without_symbols_stay_whatever_is_learned() -> None:
    with symbolic_mode() as mode:
        plain, x = torch.empty(3), dynamic(mode, 4, 4)
        for _ in range(2):
            plain.sin(), x.sin()
        int(x.shape[0])
        assert hits_in(lambda: plain.sin()) == 1


def test_new_symbols_keep_answers() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 4)
        for _ in range(2):
            x.sin()
        for number in range(5):
            dynamic(mode, 4, 4, name=f"new{number}")
            unbacked(mode, 2, 100)
            assert hits_in(lambda: x.sin()) == 1


def test_a_hundred_news_leave_no_answer_behind_that_is_not_of_now(asks: Asks) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 400, 6)
        for bound in range(100):
            assert x.shape[0] > bound + 200
            for _ in range(2):
                yield asks(x, lambda x: statically_known_true(x.shape[0] > bound + 200))  # noqa: B023
                yield asks(x, lambda x: statically_known_true(x.shape[0] > bound + 200))  # noqa: B023

    before = size()
    assert sum(assert_as_computed(program)) == 300
    assert size() - before < 10


# The function that tells what changed


def about(mode: FakeTensorMode, learn: Callable[[], object]) -> set[frozenset[str]] | None:
    """The symbols that what is learned is about."""
    before, _ = news(shape_env_of(mode), None)
    learn()
    _, found = news(shape_env_of(mode), before)
    return None if found is None else {frozenset(map(str, symbols)) for symbols in found}


def test_at_first_everything_is_new() -> None:
    knowledge, found = news(shape_env_of(symbolic_mode()), None)
    assert found is None
    assert isinstance(knowledge, Knowledge)


def test_nothing_new_is_about_nothing() -> None:
    mode = symbolic_mode()
    dynamic(mode, 4, 6)
    assert about(mode, lambda: None) == set()


def test_each_change_is_about_its_symbols() -> None:
    mode = symbolic_mode()
    x = dynamic(mode, 4, 6)
    a, b = x.shape
    names = [str(size.node.expr) for size in (a, b)]
    assert about(mode, lambda: bool(a + b > 5)) == {frozenset(names)}
    assert about(mode, lambda: bool(a < 50)) == {frozenset(names[:1])}
    assert frozenset(names[1:]) in (about(mode, lambda: int(b)) or ())
    u = unbacked(mode, 2, 100)
    symbol = str(u.node.expr)
    assert about(mode, lambda: _constrain_range_for_size(u, 3, 50)) == {frozenset([symbol])}
    assert about(mode, lambda: shape_env_of(mode).size_like.clear()) == {frozenset([symbol])}
    found = about(mode, lambda: torch._check(u + a > 7))
    assert found is not None and frozenset([symbol, names[0]]) in found


def test_other_settings_and_fewer_guards_are_about_anything() -> None:
    mode = symbolic_mode()
    x = dynamic(mode, 4, 6)
    assert x.shape[0] > 3
    assert about(mode, lambda: replace_settings(x)) is None
    assert about(mode, lambda: pop_guard(x)) is None


def test_the_knowledge_keeps_no_shape_env_alive() -> None:
    mode = symbolic_mode()
    x = dynamic(mode, 4, 6)
    assert x.shape[0] > 3
    knowledge, _ = news(shape_env_of(mode), None)
    holders = [getattr(knowledge, field.name) for field in dataclasses.fields(knowledge)]
    assert not any(holder is shape_env_of(mode) for holder in holders)
    assert knowledge.replacements is not shape_env_of(mode).replacements
    assert knowledge.ranges is not shape_env_of(mode).var_to_range


def test_an_error_while_the_news_are_told_leaves_no_answer_from_before() -> None:
    """A guard whose expression cannot be read stops the call; later ones are answered for what is known then."""
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        guards = shape_env_of(mode).guards
        guards.append(None)  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            x.sin()
        guards.pop()
        int(x.shape[0])
        before = hits()
        assert describe(x.sin().untyped_storage().nbytes())[1] == str(x.shape[1].node.expr * 16)
        assert hits() == before
        assert hits_in(lambda: x.sin()) == 1


class Interrupting:
    """Looks like a symbol; comparing it with one is interrupted."""

    def __init__(self, symbol: object) -> None:
        self.symbol = symbol

    def __hash__(self) -> int:
        return hash(self.symbol)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Interrupting):
            return self.symbol == other.symbol
        raise KeyboardInterrupt


def test_news_are_not_lost_when_dropping_answers_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        int(x.shape[0])
        with monkeypatch.context() as patch:
            interrupting = lambda symbols=(): frozenset(map(Interrupting, symbols))  # noqa: E731
            patch.setattr("fastfake.knowledge.frozenset", interrupting, raising=False)
            with pytest.raises(KeyboardInterrupt):
                x.sin()
        assert describe(x.sin().untyped_storage().nbytes())[1] == str(x.shape[1].node.expr * 16)


def test_a_shape_env_that_lacks_an_attribute_is_computed_with() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        entries = size()
        kept = shape_env_of(mode).size_like
        del shape_env_of(mode).size_like
        for _ in range(2):
            assert hits_in(lambda: x.sin()) == 0
        assert size() < entries
        shape_env_of(mode).size_like = kept
        assert hits_in(lambda: x.sin()) == 0
        assert hits_in(lambda: x.sin()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("replacements", []), ("guards", {}), ("num_deferred_runtime_asserts", 1.5), ("divisible", None)],
)
def test_an_attribute_of_another_kind_is_computed_with(name: str, value: object) -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        kept = getattr(shape_env_of(mode), name)
        setattr(shape_env_of(mode), name, value)
        try:
            before = hits()
            for _ in range(2):
                with contextlib.suppress(AttributeError, TypeError):  # torch's own code needs it
                    x.sin()
            assert hits() == before
        finally:
            setattr(shape_env_of(mode), name, kept)
        assert describe(x.sin().shape) == describe(x.shape)


@pytest.mark.filterwarnings("ignore:guard_size_oblivious will be removed")
def test_conditions_are_asked_in_sizes_of_any_oblivion(asks: Asks) -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = torch.empty(unbacked(mode, 0, 100), unbacked(mode, 0, 100))
        _constrain_range_for_size(x.shape[0], 0, 100)
        for _ in range(3):
            yield asks(x, lambda x: guard_size_oblivious(x.shape[0] == 1))
        torch._check(x.shape[0] == 1)
        for _ in range(3):
            yield asks(x, lambda x: guard_size_oblivious(x.shape[0] == 1))

    assert sum(assert_as_computed(program)) >= 2


def test_facts_are_read_also_of_tensors_of_no_mode_in_between() -> None:
    with symbolic_mode() as mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        with unset_fake_temporarily():
            int(x.shape[0])
        assert known_to(shape_env_of(mode))["replacements"] != {}
        assert hits_in(lambda: x.sin()) == 0
