"""Fake tensors with symbolic sizes, and comparing what the cache answers with what computing gives.

The same program runs on two modes with a ShapeEnv each, of which one has a cache. Symbols are named after their
sources, so that equal programs have equal expressions.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.types import py_sym_types
from torch.utils import _pytree as pytree

from fastfake import FakeTensorMode

# Runs under a mode and yields what is to be compared. The other mode catches up meanwhile, so no block that changes
# the state of the thread may be open at a yield.
Program = Callable[[FakeTensorMode], Iterator[object]]

Question = Callable[[torch.Tensor], object]
Asks = Callable[[torch.Tensor, Question], torch.Tensor]


def symbolic_mode(*, cached: bool = True, **settings: Any) -> FakeTensorMode:
    """Make a mode with a ShapeEnv in which each dynamic dimension has a symbol of its own."""
    allowed = {"allow_scalar_outputs": True, "allow_dynamic_output_shape_ops": True, "duck_shape": False}
    mode = FakeTensorMode(shape_env=ShapeEnv(**{**allowed, **settings}))
    mode.cache_enabled = cached
    return mode


def dynamic(
    mode: FakeTensorMode,
    *shape: int,
    name: str = "x",
    strides: tuple[int, ...] | None = None,
    dtype: torch.dtype = torch.float32,
    static: tuple[int, ...] = (),
    requires_grad: bool = False,
) -> torch.Tensor:
    """Make a fake tensor whose dimensions have symbols as sizes, but for those in ``static``."""
    kinds = [DimDynamic.STATIC if dim in static else DimDynamic.DYNAMIC for dim in range(len(shape))]
    with unset_fake_temporarily():
        real = torch.empty(shape, dtype=dtype) if strides is None else torch.empty_strided(shape, strides, dtype=dtype)
        real.requires_grad_(requires_grad)
        context = StatelessSymbolicContext(dynamic_sizes=kinds)
        return mode.from_tensor(real, source=ConstantSource(name), symbolic_context=context)


def unbacked(mode: FakeTensorMode, least: int | None = None, most: int | None = None) -> torch.SymInt:
    """Make an integer of which only its range is known."""
    number: torch.SymInt = shape_env_of(mode).create_unbacked_symint()
    if least is not None:
        torch._check(number >= least)
    if most is not None:
        torch._check(number <= most)
    shape_env_of(mode).pending_fresh_unbacked_symbols.clear()
    return number


@contextmanager
def operator_that_asks() -> Iterator[Asks]:
    """Make an operator whose result has 2 elements if the answer to a question is true and 1 if not.

    The question is no argument of the operator, so it must be the same for equal calls.
    """
    library = torch.library.Library("aten", "FRAGMENT")
    library.define("fastfake_asks(Tensor x) -> Tensor")
    questions: list[Question] = []
    library.impl("fastfake_asks", lambda x: x.new_empty(1 + bool(questions[-1](x))), "Meta")

    def ask(x: torch.Tensor, question: Question) -> torch.Tensor:
        questions.append(question)
        try:
            result: torch.Tensor = torch.ops.aten.fastfake_asks(x)
        finally:
            questions.pop()
        return result

    try:
        yield ask
    finally:
        library._destroy()


MEMOS = [method for method in vars(ShapeEnv).values() if hasattr(method, "cache_clear")]


def forget_torchs_memos() -> None:
    """Clear the memos of ShapeEnv's methods, which all ShapeEnvs share."""
    for memo in MEMOS:
        memo.cache_clear()


def collect() -> None:
    """Collect garbage, ShapeEnvs that torch's memos hold included."""
    forget_torchs_memos()
    gc.collect()


def shape_env_of(mode: FakeTensorMode) -> ShapeEnv:
    assert mode.shape_env is not None
    return mode.shape_env


def node_of(number: object) -> Any:
    assert isinstance(number, py_sym_types), number
    return number.node


def describe(value: object) -> Any:
    """Tell everything that is to be the same whether computed or remembered."""
    return pytree.tree_map(_describe_leaf, value)


def known_to(shape_env: ShapeEnv) -> dict[str, object]:
    """Tell what a ShapeEnv knows, in the order in which it came to know it."""
    asserted = (each.expr for of_symbol in shape_env.deferred_runtime_asserts.values() for each in of_symbol)
    return {
        "guards": [str(guard.expr) for guard in shape_env.guards],
        "runtime assertions": [str(expression) for expression in asserted],
        "replacements": {str(symbol): str(expression) for symbol, expression in shape_env.replacements.items()},
        "ranges": {str(symbol): str(range_) for symbol, range_ in shape_env.var_to_range.items()},
        "divisible": sorted(map(str, shape_env.divisible)),
        "size-like": sorted(map(str, shape_env.size_like)),
        "fresh": [str(symbol) for symbol in shape_env.pending_fresh_unbacked_symbols],
    }


def hits() -> int:
    return FakeTensorMode.cache_info().hits


def misses() -> int:
    return FakeTensorMode.cache_info().misses


def size() -> int:
    return FakeTensorMode.cache_info().size


def hits_in(call: Callable[[], object]) -> int:
    """Count the answers that come from the cache during ``call``."""
    before = hits()
    call()
    return hits() - before


def assert_as_computed(program: Program, *, entered: bool = True, **settings: Any) -> list[int]:
    """Check that ``program`` sees the same with and without a cache. Returns the hits before each of its yields."""
    with_cache, without = symbolic_mode(**settings), symbolic_mode(cached=False, **settings)
    counts: list[int] = []
    ours, expected = program(with_cache), program(without)
    while True:
        before = hits()
        with with_cache if entered else nullcontext():
            remembered = _next_of(ours)
        with without if entered else nullcontext():
            computed = _next_of(expected)
        counts.append(hits() - before)
        step = len(counts)
        assert remembered == computed, f"step {step}:\nremembered: {remembered}\ncomputed:   {computed}"
        facts, twins = known_to(shape_env_of(with_cache)), known_to(shape_env_of(without))
        assert facts == twins, f"step {step}:\nwith a cache: {facts}\nwithout:      {twins}"
        if computed is None:
            return counts[:-1]


def _next_of(program: Iterator[object]) -> Any:
    try:
        return ("a result", describe(next(program)))
    except StopIteration:
        return None


def _describe_leaf(leaf: object) -> Any:
    if isinstance(leaf, py_sym_types):
        node = leaf.node
        return type(leaf).__name__, str(node._expr), str(node.expr), node.hint, node.constant, node.pytype.__name__
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return (
        type(leaf).__name__,
        str(leaf.dtype),
        str(leaf.device),
        leaf.requires_grad,
        str(torch._C._dispatch_keys(leaf)),
        [describe(number) for number in leaf.shape],
        [describe(number) for number in leaf.stride()],
        describe(leaf.storage_offset()),
        describe(leaf.untyped_storage().nbytes()),
        # Asked for earlier or later, with what is known by then.
        _meaning(leaf.numel()),
    )


def _meaning(number: int | torch.SymInt) -> str:
    return str(number.node.expr) if isinstance(number, torch.SymInt) else str(number)
