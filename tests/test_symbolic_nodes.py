"""Which SymNode objects the results of a hit have: torch's tracers tell numbers apart by them."""

from __future__ import annotations

import copy
import pickle
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
    symbolic_mode,
    unbacked,
)
from torch.fx.experimental.sym_node import SymNode

from fastfake import _C, FakeTensorMode

aten = torch.ops.aten


@pytest.fixture
def mode() -> Iterator[FakeTensorMode]:
    """An active mode with a ShapeEnv."""
    with symbolic_mode() as active:
        yield active


def nodes(x: torch.Tensor) -> list[Any]:
    """The nodes of sizes, strides, offset and bytes, None for plain numbers."""
    numbers = [*x.shape, *x.stride(), x.storage_offset(), x.untyped_storage().nbytes()]
    return [number.node if isinstance(number, torch.SymInt) else None for number in numbers]


def answered(call: Callable[[], Any]) -> Any:
    """The result of a call that is answered from the cache."""
    for _ in range(2):
        call()
    before = hits()
    result = call()
    assert hits() > before
    return result


def test_a_size_of_an_argument_is_the_very_same_node_in_the_result(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    rows, columns = nodes(x)[:2]
    result = answered(lambda: x.t())
    assert nodes(result)[0] is columns
    assert nodes(result)[1] is rows
    # As a stride, too.
    assert answered(lambda: x.unsqueeze(0)).shape[2].node is columns


def test_an_integer_among_the_arguments_is_the_very_same_node_in_the_result(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    for _ in range(3):
        wanted = x.shape[0] * 3
        before = hits()
        result = x.new_empty(wanted)
        assert result.shape[0].node is wanted.node
    assert hits() > before


@pytest.mark.parametrize("cached", [False, True])
def test_a_node_that_occurs_twice_in_results_is_one_object(cached: bool) -> None:
    with symbolic_mode(cached=cached) as mode:
        image = dynamic(mode, 2, 3, 8, 9)
        for _ in range(3):
            before = hits()
            values, indices = aten.max_pool2d_with_indices(image, [2, 2])
            sizes = nodes(values)[2:4]
            assert nodes(indices)[2:4] == sizes
            assert [id(node) for node in nodes(indices)[2:4]] == [id(node) for node in sizes]
            # Not merely equal: neither height nor width is among the arguments.
            assert not {id(node) for node in sizes} & {id(node) for node in nodes(image)}
        assert (hits() > before) is cached


def test_a_node_that_occurs_twice_in_one_result_is_one_object(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)

    def call() -> torch.Tensor:
        flat = x.new_empty(x.shape[0] + x.shape[1], 1, 1)
        return flat.expand(-1, 2, 3)

    def pattern(x: torch.Tensor) -> list[int]:
        seen: list[Any] = []
        for node in nodes(x):
            if node is not None and not any(node is other for other in seen):
                seen.append(node)
        return [next((i for i, other in enumerate(seen) if other is node), -1) for node in nodes(x)]

    call()  # records
    expected = pattern(call())
    with symbolic_mode(cached=False) as uncached:
        x = dynamic(uncached, 4, 6)
        assert pattern(call()) == expected


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: x[1:], id="slice"),
        pytest.param(lambda x: x.sum(0), id="bytes of a storage"),
        pytest.param(lambda x: torch.cat([x, x]), id="sum of sizes"),
        pytest.param(lambda x: aten.max_pool2d_with_indices(x, [2, 2])[1], id="second result"),
    ],
)
def test_no_two_hits_share_a_node_that_is_no_arguments(
    mode: FakeTensorMode, call: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = dynamic(mode, 5, 7, 8)
    given = {id(node) for node in nodes(x)}
    answered(lambda: call(x))
    first, second = call(x), call(x)
    fresh = [{id(node) for node in nodes(each) if node is not None} - given for each in (first, second)]
    assert fresh[0] and len(fresh[0]) == len(fresh[1])
    assert fresh[0].isdisjoint(fresh[1])
    assert describe(first) == describe(second)


def test_a_flat_view_has_the_node_that_its_argument_remembers_as_its_number_of_elements(mode: FakeTensorMode) -> None:
    first = dynamic(mode, 4, 6)
    numbers = []
    for step in range(4):
        x = first.new_empty(*first.shape)
        numbers.append(x.numel())
        before = hits()
        assert x.view(-1).shape[0].node is numbers[-1].node
        assert aten._unsafe_view.default(x, [-1]).shape[0].node is numbers[-1].node
        assert step == 0 or hits() - before == 2
    # Each tensor has its own.
    assert len({id(number.node) for number in numbers}) == 4


def test_a_flat_view_of_a_result_has_its_remembered_number_too(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    for _ in range(4):
        y = x + 1
        flat = y.view(-1)
        assert flat.shape[0].node is y.numel().node is y.view(-1).shape[0].node
        assert flat.numel() is not None


def test_a_node_of_a_hit_is_a_whole_symnode(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    computed, remembered = (x[1:].shape[0] for _ in range(2))
    made = remembered.node
    assert type(made) is SymNode
    assert made.shape_env is mode.shape_env
    assert made is not computed.node
    assert vars(made).keys() == vars(computed.node).keys()
    assert made._value_eq(computed.node) and made._value_hash() == computed.node._value_hash()
    assert (made.is_int(), made.is_float(), made.is_bool(), made.is_nested_int()) == (True, False, False, False)
    assert (made.has_hint(), made.hint, made.maybe_as_int()) == (True, 3, None)
    assert repr(remembered) == repr(computed)
    assert remembered.node._hint == 3 and str(made.expr) == str(computed.node.expr)


def test_arithmetic_with_numbers_of_hits_is_as_with_computed_ones() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 6)
        for _ in range(3):
            rows, columns = x[1:, 2:].shape
            yield rows + columns, rows * 2, 7 - columns, rows // 2, rows % 2, -rows, rows / columns
            yield (
                torch.sym_max(rows, columns),
                torch.sym_not(rows == 2),
                torch.sym_float(rows),
                torch.sym_ite(rows > 1, rows, columns),
            )
            yield rows < columns, rows == columns, rows != 3
            yield copy.copy(rows)
            yield torch.sym_sum([rows, columns, rows])
        yield bool(rows < columns)
        yield int(columns), hash(int(columns)), x[: int(columns)]

    assert sum(assert_as_computed(program)) > 3


def test_the_result_of_a_specialisation_of_a_number_of_a_hit_is_known_to_its_shape_env() -> None:
    def program(mode: FakeTensorMode) -> Iterator[object]:
        x = dynamic(mode, 4, 6)
        for _ in range(3):
            y = x[1:]
            yield y
        yield int(y.shape[0])
        yield x, y, x[1:], x + 1

    assert sum(assert_as_computed(program)) == 2


def test_numbers_of_hits_go_through_c_plus_plus_and_back(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    size = answered(lambda: x[1:]).shape[0]
    # Each look at a tensor's shape makes another SymInt of the same node.
    assert torch.empty(size, 2).shape[0].node is size.node
    assert aten.sym_size.int(torch.empty(size), 0).node is size.node


def test_symbolic_numbers_that_operators_return_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    library = torch.library.Library("aten", "FRAGMENT")
    library.define("fastfake_grows(Tensor x, SymInt by) -> (SymInt, SymInt, Tensor, SymInt[])")

    def grows(x: torch.Tensor, by: torch.SymInt) -> object:
        larger = x.shape[0] + 1
        return larger, by, x.new_empty(larger), [larger, by, 5, larger * 2]

    library.impl("fastfake_grows", grows, "Meta")
    try:

        def program(mode: FakeTensorMode) -> Iterator[object]:
            x = dynamic(mode, 4, 6)
            for _ in range(3):
                by = x.shape[1] * 2
                larger, same, tensor, several = torch.ops.aten.fastfake_grows(x, by)
                assert same.node is by.node is several[1].node
                assert larger.node is several[0].node is tensor.shape[0].node
                yield larger, same, tensor, several

        assert assert_as_computed(program) == [0, 1, 1]
    finally:
        library._destroy()


def test_a_copied_node_means_what_it_meant(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    rows = x.shape[0]
    answered(lambda: x.new_empty(rows))
    twin = copy.copy(rows.node)
    assert twin._fastfake_symbol is rows.node._fastfake_symbol
    before = hits()
    assert x.new_empty(torch.SymInt(twin)).shape[0].node is twin
    assert hits() == before + 1


def test_a_deep_copied_node_belongs_to_the_copied_shape_env(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    rows = x.shape[0]
    answered(lambda: x.new_empty(rows))
    twin = copy.deepcopy(rows.node)
    assert twin._fastfake_symbol == rows.node._fastfake_symbol
    assert twin.shape_env is not mode.shape_env
    with FakeTensorMode(shape_env=twin.shape_env):
        assert hits_in(lambda: torch.empty(torch.SymInt(twin))) == 0
        assert torch.empty(torch.SymInt(twin)).untyped_storage().nbytes().node.shape_env is twin.shape_env
        assert hits_in(lambda: torch.empty(torch.SymInt(twin))) == 1
    # It has a number of the copy by now.
    before = hits()
    assert x.new_empty(torch.SymInt(twin)).shape[0].node is twin
    assert hits() == before


def test_a_number_on_a_node_that_comes_out_of_a_pickle_is_not_believed(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    rows, columns = x.shape
    answered(lambda: x.new_empty(rows, columns))
    fields = [{**vars(size.node), "shape_env": None} for size in (rows, columns)]
    stamps = [pickle.loads(pickle.dumps(each["_fastfake_symbol"])) for each in fields]
    # As if another process had numbered them, in the other order.
    for size, stamp in zip((rows, columns), reversed(stamps), strict=True):
        size.node._fastfake_symbol = stamp
    result = x.new_empty(rows, columns)
    assert describe(result.shape) == describe(x.shape)
    assert [node._fastfake_symbol for node in nodes(result)[:2]] == stamps


@pytest.mark.parametrize("stamp", [None, "text", -1, 0, 1, 1 << 40, 1 << 70, (1 << 62) + 5, 1.5, [], True])
def test_whatever_lies_under_the_name_of_the_number_does_no_harm(mode: FakeTensorMode, stamp: object) -> None:
    x = dynamic(mode, 4, 6)
    answered(lambda: x[1:])
    x.shape[0].node._fastfake_symbol = stamp
    assert x[1:].shape[0].node.hint == 3
    assert hits_in(lambda: x[1:]) == 1


def test_nodes_of_another_shape_env_are_computed_with(mode: FakeTensorMode) -> None:
    other = symbolic_mode()
    foreign = dynamic(other, 5, 7, name="x").shape[0]
    x = dynamic(mode, 4, 6, name="x")
    # The same expression, of another meaning and hint.
    assert str(foreign.node.expr) == str(x.shape[0].node.expr)
    answered(lambda: x.new_empty(x.shape[0]))
    before = hits()
    for _ in range(3):
        assert x.new_empty(foreign).shape[0].node is foreign.node
    assert hits() == before


class DerivedNode(SymNode):
    """A class of nodes that a user derived."""


def test_nodes_of_a_derived_class_are_computed_with(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    base = x.shape[0].node
    before = hits()
    for _ in range(3):
        derived = DerivedNode(base._expr, base.shape_env, int, base._hint)
        assert x.new_empty(torch.SymInt(derived)).shape[0].node is derived
    assert hits() == before


def test_a_hint_that_is_found_later_makes_a_node_another_argument(mode: FakeTensorMode) -> None:
    u = unbacked(mode, 2, 100)
    for _ in range(2):
        torch.empty(u)
    assert hits_in(lambda: torch.empty(u)) == 1
    assert torch.empty(u).shape[0].node.hint is None
    u.node._hint = 7
    assert hits_in(lambda: torch.empty(u)) == 0
    result = torch.empty(u)
    assert result.shape[0].node.hint == 7
    assert result.untyped_storage().nbytes().node.hint == 28
    # Nodes that still have none have none.
    del result
    other = SymNode(u.node._expr, mode.shape_env, int, None)
    assert torch.empty(torch.SymInt(other)).untyped_storage().nbytes().node.hint is None


def test_a_hint_that_is_found_later_for_a_size_of_a_hit_is_noticed(mode: FakeTensorMode) -> None:
    u = unbacked(mode, 2, 100)
    x = torch.empty(u)
    results = [x + 1 for _ in range(3)]
    grown = [torch.cat([results[-1], results[-1]]) for _ in range(3)][-1]
    assert grown.shape[0].node.hint is None
    grown.shape[0].node._hint = 14
    for _ in range(3):
        again = grown.new_empty(grown.shape[0] * 2)
        assert again.shape[0].node.hint == 28
        assert (grown + 1).untyped_storage().nbytes().node.hint == 56


@pytest.mark.parametrize(
    ("attribute", "value"), [("constant", 4), ("constant", False), ("_optimized_summation", True), ("_hint", None)]
)
def test_nodes_that_differ_in_any_attribute_have_different_numbers(
    mode: FakeTensorMode, attribute: str, value: object
) -> None:
    x = dynamic(mode, 4, 6)
    _C.remove_node_methods()  # which number the nodes that they make
    plain = x.shape[0] * 2
    _C.install_node_methods()
    other, same = torch.SymInt(copy.copy(plain.node)), torch.SymInt(copy.copy(plain.node))
    setattr(other.node, attribute, value)
    for size in (plain, other, same):
        assert x.new_empty(size).shape[0].node is size.node
    assert plain.node._fastfake_symbol is same.node._fastfake_symbol
    assert plain.node._fastfake_symbol != other.node._fastfake_symbol


class Meddler:
    """Runs a function once, in the middle of what Python code the native code calls."""

    def __init__(self, name: str, function: Callable[[], object]) -> None:
        self.name, self.function, self.ran = name, function, False

    def __call__(self, frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name == self.name and not self.ran:
            self.ran = True
            self.function()


class Constant:
    """What a node can hold as its constant; comparing it runs the given function once, at the given comparison."""

    def __init__(self, number: int) -> None:
        self.number, self.meddle, self.before = number, None, 0  # type: ignore[var-annotated]

    def __hash__(self) -> int:
        self._compared()
        return 7

    def __eq__(self, other: object) -> bool:
        self._compared()
        return isinstance(other, Constant) and self.number == other.number

    def _compared(self) -> None:
        self.before -= 1
        if self.meddle is not None and self.before == 0:
            self.meddle()


@pytest.mark.parametrize("comparison", range(1, 7))
def test_two_meanings_have_two_numbers_also_if_one_is_numbered_while_the_other_is(
    mode: FakeTensorMode, comparison: int
) -> None:
    """Comparing runs Python code, at which another thread or a finalizer can come in between."""
    x = dynamic(mode, 4, 6)

    def size_with(constant: Constant, factor: int) -> torch.SymInt:
        node = copy.copy((x.shape[0] * factor).node)
        node.constant = constant
        return torch.SymInt(node)

    inner, outer = size_with(Constant(1), 2), size_with(Constant(2), 3)
    outer.node.constant.meddle = lambda: x.new_empty(inner)
    outer.node.constant.before = comparison
    assert x.new_empty(outer).shape[0].node is outer.node
    outer.node.constant.meddle = None
    for _ in range(2):
        assert x.new_empty(inner).untyped_storage().nbytes().node.hint == 32
        assert x.new_empty(outer).untyped_storage().nbytes().node.hint == 48
    assert outer.node._fastfake_symbol != inner.node._fastfake_symbol


def test_expressions_that_are_compared_in_python_while_others_are_numbered(mode: FakeTensorMode) -> None:
    x = dynamic(mode, 4, 6)
    sizes = [x.shape[0] * 3 + offset for offset in range(8)]
    others = [x.shape[0] * 5 + offset for offset in range(8)]
    for size, other in zip(sizes, others, strict=True):
        for name in ("__eq__", "__hash__"):
            sys.setprofile(Meddler(name, lambda other=other: x.new_empty(other)))  # type: ignore[misc]
            try:
                x.new_empty(size)
            finally:
                sys.setprofile(None)
    stamps = {number.node._fastfake_symbol for number in sizes}
    assert len(stamps) == len(sizes)
    for size in (*sizes, *others):
        assert x.new_empty(size).untyped_storage().nbytes().node.hint == 4 * size.node.hint
