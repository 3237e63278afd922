"""Running one program on torch's FakeTensor and on ours, and comparing what can be seen of it."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.types import py_sym_types
from torch.utils import _pytree as pytree

import fastfake

# What pickling raises for an object that Python's pickle has no way to describe.
NOT_PICKLED = "PicklingError" if sys.version_info >= (3, 14) else "AttributeError"


@dataclass(frozen=True)
class Failure:
    """An exception, as far as it is to be the same on both sides."""

    kind: str
    text: str


def on_torch(program: Callable[[Any], Any]) -> Any:
    """Run ``program`` on torch's own FakeTensor. It is given the module with the classes to use."""
    with _uninstalled():
        return outcome(program)


def on_ours(program: Callable[[Any], Any]) -> Any:
    """Run ``program`` on our FakeTensor, under the same names."""
    with fastfake.install_temporarily():
        return outcome(program)


def outcome(program: Callable[[Any], Any]) -> Any:
    """Describe what ``program`` returns or raises."""
    fakes = torch._subclasses.fake_tensor
    try:
        return describe(program(fakes))
    except Exception as error:
        return Failure(type(error).__name__, without_addresses(str(error)))


def assert_same(program: Callable[[Any], Any]) -> Any:
    """Check that both sides agree, and return what they agree on."""
    theirs = on_torch(program)
    ours = on_ours(program)
    assert ours == theirs, f"\nours:    {ours}\ntorch's: {theirs}"
    return theirs


def assert_all_same(programs: Mapping[str, Callable[[Any], Any]]) -> None:
    """Check that both sides agree on each of several programs, for the price of one installation."""

    def run_all(fakes: Any) -> dict[str, Any]:
        return {name: outcome(program) for name, program in programs.items()}

    theirs, ours = on_torch(run_all), on_ours(run_all)
    different = [
        f"{name}\nours:    {ours[name]}\ntorch's: {theirs[name]}" for name in programs if ours[name] != theirs[name]
    ]
    assert programs and not different, "\n" + "\n".join(different)


def describe(value: Any) -> Any:
    """Turn tensors and symbolic numbers, wherever they are in ``value``, into plain values."""
    return pytree.tree_map(_describe_leaf, value)


def without_addresses(text: str) -> str:
    text = text.partition(": the value of a fake tensor is asked for")[0]  # see tests/test_unknown_items.py
    return re.sub(r"0x[0-9a-f]+", "0x", text.replace("fastfake.fake_mode", "torch._subclasses.fake_tensor"))


def new_mode(fakes: Any, **settings: bool) -> Any:
    """Make a mode with a ShapeEnv that allows data-dependent results unless ``settings`` say otherwise."""
    allowed = {"allow_scalar_outputs": True, "allow_dynamic_output_shape_ops": True}
    return fakes.FakeTensorMode(shape_env=ShapeEnv(**{**allowed, **settings}), static_shapes=True)


def fake_ones(mode: Any, *shape: int, dtype: torch.dtype = torch.float32, **conversion: Any) -> torch.Tensor:
    """Convert a real tensor, also while a mode is active."""
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        return mode.from_tensor(torch.ones(*shape, dtype=dtype), **conversion)


def pending(mode: Any) -> list[str]:
    """Name the unbacked symbols that wait for a binding. Their order is that of a set in torch."""
    return sorted(str(symbol) for symbol in mode.shape_env.pending_fresh_unbacked_symbols)


def _describe_leaf(leaf: Any) -> Any:
    if isinstance(leaf, py_sym_types):
        return type(leaf).__name__, str(leaf.node.expr)
    if not isinstance(leaf, torch.Tensor):
        return leaf
    facts = [
        type(leaf).__name__,
        str(leaf.dtype),
        str(leaf.device),
        str(leaf.layout),
        leaf.requires_grad,
        [str(size) for size in leaf.shape],
    ]
    if leaf.layout == torch.strided:
        facts += [[str(stride) for stride in leaf.stride()], str(leaf.storage_offset())]
    for companion in ("constant", "real_tensor"):
        known = getattr(leaf, companion, None)
        facts.append(None if known is None else (str(known.dtype), known.tolist()))
    return facts


@contextmanager
def _uninstalled() -> Iterator[None]:
    before = fastfake.is_installed()
    fastfake.uninstall()
    try:
        yield
    finally:
        if before:
            fastfake.install()
