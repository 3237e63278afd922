"""Symbolic sizes for operands, as a compiler gives them to a dynamic program."""

from __future__ import annotations

from torch import SymInt
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

# The values that the program was called with. All different, since a ShapeEnv gives one symbol to equal values.
HINTS = {"a": 6, "b": 8, "c": 10}


def make(shape_env: ShapeEnv) -> dict[str, SymInt | int]:
    """Makes a size of unknown value for every name in HINTS.

    Args:
        shape_env: What is to know the symbols.

    Returns:
        The sizes under their names.
    """
    sizes = {}
    for name, hint in HINTS.items():
        source = ConstantSource(name)
        symbol = shape_env.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        sizes[name] = shape_env.create_symintnode(symbol, hint=hint, source=source)
    return sizes
