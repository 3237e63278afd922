"""Methods in the place of SymNode's give what torch's give, in every state of a ShapeEnv."""

from __future__ import annotations

import operator
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    guard_or_false,
    guard_or_true,
    statically_known_true,
)

import fastfake
from fastfake import _C

METHODS = (
    *("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge", "neg", "int_floordiv", "sym_min", "sym_max"),
    *("and_", "or_", "sym_not", "wrap_int", "guard_bool", "guard_or_false", "guard_or_true", "guard_size_oblivious"),
    *("statically_known_true", "expect_true", "maybe_as_int", "clone", "has_hint", "is_int", "is_float", "is_bool"),
    "expr",
)


@pytest.fixture
def remembering() -> Iterator[None]:
    _C.install_node_methods()
    yield
    _C.remove_node_methods()


def symbols(shape_env: ShapeEnv, *hints: int) -> list[Any]:
    made = []
    for number, hint in enumerate(hints):
        source = ConstantSource(f"s{number}")
        symbol = shape_env.create_symbol(hint, source, DimDynamic.DYNAMIC, constraint_dim=None)
        made.append(shape_env.create_symintnode(symbol, hint=hint, source=source))
    return made


def described(value: Any) -> object:
    if isinstance(value, torch.SymInt | torch.SymBool | torch.SymFloat):
        node = value.node
        return type(value), str(node.expr), str(node._expr), node.pytype, node._hint, node.constant
    return type(value), value


def known_to(shape_env: ShapeEnv) -> object:
    return (
        [str(guard.expr) for guard in shape_env.guards],
        {str(symbol): str(value) for symbol, value in shape_env.replacements.items()},
        {str(symbol): str(value) for symbol, value in shape_env.var_to_range.items()},
        sorted(map(str, shape_env.divisible)),
        len(shape_env.axioms),
    )


ARITHMETIC: list[Callable[[Any, Any], Any]] = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.ge,
    torch.sym_max,
    torch.sym_min,
    lambda one, _: -one,
    lambda one, other: torch.sym_not(one == other),
    lambda one, other: (one < other) & (one != 3),
]
DECISIONS: list[Callable[[Any], Any]] = [
    guard_or_false,
    guard_or_true,
    statically_known_true,
    bool,
    lambda condition: torch._check(condition, lambda: "") if condition.node._hint else None,
]


def run_program(seed: int, steps: int) -> tuple[list[object], object]:
    """Compute on a few symbols, decide conditions on the way, and do everything three times."""
    draw = random.Random(seed)
    shape_env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    numbers: list[Any] = [*symbols(shape_env, 4, 4, 6, 9), 1, 2, 3]
    log: list[object] = []
    for _ in range(steps):
        one, other = draw.choice(numbers[:4] + numbers[-4:]), draw.choice(numbers)
        function = draw.choice(ARITHMETIC)
        if not isinstance(one, torch.SymInt):
            continue
        for _ in range(3):
            try:
                result = function(one, other)
            except Exception as error:
                log.append(type(error))
                break
            log.append(described(result))
            if isinstance(result, torch.SymBool) and draw.random() < 0.5:
                log.append(draw.choice(DECISIONS)(result))
        else:
            if isinstance(result, torch.SymInt) and abs(result.node._hint or 0) < 10_000:
                numbers.append(result)
    return log, known_to(shape_env)


@pytest.mark.parametrize("seed", range(40))
def test_programs_on_symbols_compute_decide_and_guard_as_without_them(seed: int) -> None:
    expected = run_program(seed, steps=60)
    _C.install_node_methods()
    try:
        actual = run_program(seed, steps=60)
    finally:
        _C.remove_node_methods()
    assert actual == expected


def test_equal_operations_are_computed_once_and_give_nodes_of_their_own(
    remembering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = symbols(ShapeEnv(), 4, 6)
    first = one * other
    monkeypatch.setattr(SymNode, "_mul", None)  # which torch's method calls
    second, third = one * other, one * other
    assert str(second.node.expr) == str(third.node.expr) == str(first.node.expr)
    assert second.node._hint == 24
    assert len({id(product.node) for product in (first, second, third)}) == 3


def test_a_replacement_between_two_equal_operations_shows_in_the_second(remembering: None) -> None:
    shape_env = ShapeEnv(duck_shape=False)
    one, other = symbols(shape_env, 4, 4)
    before = one + other
    assert bool(one == other)
    after = one + other
    assert len(before.node._expr.free_symbols) == 2
    assert len(after.node._expr.free_symbols) == 1


def test_a_decision_is_asked_again_when_something_new_is_known(remembering: None) -> None:
    one, other = symbols(ShapeEnv(duck_shape=False), 4, 6)
    condition = one < other
    assert [statically_known_true(condition) for _ in range(3)] == [False] * 3
    assert bool(condition)  # a guard
    assert statically_known_true(condition)


def test_a_decision_under_suppressed_guards_is_not_remembered(remembering: None) -> None:
    shape_env = ShapeEnv(duck_shape=False)
    one, other = symbols(shape_env, 4, 6)
    condition = one < other
    with shape_env.suppress_guards():
        assert bool(condition)
    assert not shape_env.guards
    assert bool(condition)
    assert len(shape_env.guards) == 1


def test_tracing_sees_every_operation(remembering: None) -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(x.shape[0] * x.shape[1]) + x.new_ones(x.shape[0] * x.shape[1])

    def graph() -> str:
        return make_fx(program, tracing_mode="symbolic")(torch.ones(4, 6)).code

    remembered = [graph() for _ in range(2)]
    _C.remove_node_methods()
    assert remembered == [graph()] * 2
    assert remembered[0].count("operator.mul") + remembered[0].count(" * ") >= 2


def test_numbers_of_different_shape_envs_are_kept_apart(remembering: None) -> None:
    (one,), (other,) = symbols(ShapeEnv(), 4), symbols(ShapeEnv(), 5)
    assert (one + 1).node._hint == 5
    assert (other + 1).node._hint == 6
    assert (one + 1).node.shape_env is one.node.shape_env


def test_torchs_methods_are_back_after_uninstalling(uninstalled: None) -> None:
    torchs = {name: vars(SymNode)[name] for name in METHODS}
    fastfake.install()
    try:
        assert all(vars(SymNode)[name] is not torchs[name] for name in METHODS)
    finally:
        fastfake.uninstall()
    assert all(vars(SymNode)[name] is torchs[name] for name in METHODS)


def test_a_method_that_somebody_replaced_meanwhile_stays() -> None:
    torchs = SymNode.add
    _C.install_node_methods()

    def replacement(self: SymNode, other: SymNode) -> SymNode:
        return torchs(self, other)

    SymNode.add = replacement  # type: ignore[method-assign]
    try:
        _C.remove_node_methods()
        assert SymNode.add is replacement
    finally:
        SymNode.add = torchs  # type: ignore[method-assign]


@pytest.mark.exhaustive
def test_an_environment_variable_leaves_torchs_methods_in_place() -> None:
    program = (
        "import fastfake; from torch.fx.experimental.sym_node import SymNode; add = SymNode.add; fastfake.install();"
        "print(SymNode.add is add)"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "FASTFAKE_SYMBOL_MEMO": value},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for value in ("0", "1")
    ]
    assert found == ["True", "False"]


@pytest.mark.parametrize("operand", [3, None, "text", 2.5], ids=repr)
def test_operands_that_are_no_nodes_have_torchs_error(remembering: None, operand: object) -> None:
    (one,) = symbols(ShapeEnv(), 4)

    def failure() -> tuple[type, str]:
        with pytest.raises(Exception) as caught:
            one.node.add(operand)
        return caught.type, str(caught.value)

    ours = failure()
    _C.remove_node_methods()
    assert failure() == ours
