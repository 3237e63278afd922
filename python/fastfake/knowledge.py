"""What a ShapeEnv knows of its symbols, and what it learned since.

Answers of the dispatch cache for symbolic shapes hold for what the ShapeEnv knew when they were recorded. A new fact
can change what torch computes only for numbers in which all its symbols occur: conditions are decided, and
expressions simplified, by the facts about the symbols in them. So only such answers have to go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sympy import Basic, Symbol
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["Knowledge", "news"]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What was known at one time. Holds no reference to the ShapeEnv."""

    settings: object
    guards: int
    axioms: Mapping[Basic, Basic]
    replacements: Mapping[Symbol, Basic]
    ranges: Mapping[Symbol, object]
    unbacked_values: Mapping[Symbol, object]
    divisible: Set[Basic]
    size_like: Set[Symbol]

    @classmethod
    def of(cls, shape_env: ShapeEnv) -> Knowledge:
        """Copy what ``shape_env`` knows now."""
        return cls(
            settings=shape_env.settings,
            guards=len(shape_env.guards),
            axioms=dict(shape_env.axioms),
            replacements=dict(shape_env.replacements),
            ranges=dict(shape_env.var_to_range),
            unbacked_values=dict(shape_env.real_tensor_prop_unbacked_vals),
            divisible=set(shape_env.divisible),
            size_like=set(shape_env.size_like),
        )


def news(shape_env: ShapeEnv, before: Knowledge | None) -> tuple[Knowledge, set[frozenset[Symbol]] | None]:
    """Tell what changed.

    Args:
        shape_env: the ShapeEnv.
        before: what it knew, as this function returned it; None at the first time.

    Returns:
        What it knows, and for each change the symbols that it is about. None if they cannot be told.
    """
    now = Knowledge.of(shape_env)
    if before is None or now.settings is not before.settings or now.guards < before.guards:
        return now, None
    about = {frozenset(guard.expr.free_symbols) for guard in shape_env.guards[before.guards : now.guards]}
    about.update(frozenset(fact.free_symbols) for fact in _changed_keys(before.axioms, now.axioms))
    about.update(frozenset(fact.free_symbols) for fact in before.divisible ^ now.divisible)
    for name in ("replacements", "ranges", "unbacked_values"):
        about.update(frozenset((symbol,)) for symbol in _changed_keys(getattr(before, name), getattr(now, name)))
    about.update(frozenset((symbol,)) for symbol in before.size_like ^ now.size_like)
    about.discard(frozenset())  # about no symbol: about numbers, of which everything is known
    return now, about


def _changed_keys(before: Mapping[Any, object], now: Mapping[Any, object]) -> Iterator[Any]:
    """Yield the keys that are new, gone, or have another value."""
    missing = object()
    yield from (key for key, value in now.items() if before.get(key, missing) is not value)
    yield from before.keys() - now.keys()
