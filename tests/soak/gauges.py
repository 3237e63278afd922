"""What a process holds: bytes, objects by type, references to each object, entries of the cache, threads, files."""

from __future__ import annotations

import gc
import os
import sys
import threading
from array import array
from collections import Counter
from collections.abc import Callable

import torch
from malloc_info import bytes_in_use
from sympy.core.cache import clear_cache as forget_sympys_memos
from torch.fx.experimental.symbolic_shapes import ShapeEnv

# Such as native code has one object for, too.
_DEVICES = [torch.device(name) for name in ("cpu", "meta", "cuda", "cuda:0", "cuda:1")]
_SHAPE_ENV_MEMOS = [method for method in vars(ShapeEnv).values() if hasattr(method, "cache_clear")]


_there_already: list[object] = []


def set_aside() -> None:
    """Leave what there is out of later collections of garbage, which are quick then; references to it count."""
    _collect()
    _there_already.extend(gc.get_objects())
    gc.freeze()


class Gauges:
    """Readings of what is held. What they keep themselves is not counted."""

    def __init__(self, readings: int, cache_sizes: Callable[[], dict[str, int]]) -> None:
        """Begin, with all objects that there are.

        Args:
            readings: How many there will be.
            cache_sizes: Gives what the cache holds; of ``bytes`` it is known what they are for.
        """
        self._cache_sizes = cache_sizes
        _collect()
        dtypes = {id(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}.values()
        shared = [None, True, False, Ellipsis, (), torch.strided, *dtypes, *_DEVICES]
        self._watched = [*_there_already, *gc.get_objects(), *shared]
        self._references = [array("q", bytes(8 * len(self._watched))) for _ in range(readings)]
        self._numbers: list[dict[str, int]] = []
        # What is there now is left out when objects are counted, and when garbage is looked for.
        gc.freeze()
        self._own_bytes = 0

    def read(self) -> None:
        """Take a reading."""
        _collect()
        held = bytes_in_use()
        sizes = self._cache_sizes()
        numbers = {"bytes": held - self._own_bytes - sizes.get("bytes", 0)}
        numbers |= {f"cache: {name}": size for name, size in sizes.items()}
        numbers["threads"] = threading.active_count()
        numbers["files"] = len(os.listdir("/proc/self/fd"))
        numbers |= {f"objects: {name}": count for name, count in Counter(map(_name_of_type, gc.get_objects())).items()}
        self._references[len(self._numbers)][:] = array("q", map(sys.getrefcount, self._watched))
        self._numbers.append(numbers)
        self._own_bytes += bytes_in_use() - held

    def numbers(self) -> dict[str, list[int]]:
        """Give all numbers by name, in the order of the readings; references where there are more or fewer of them."""
        names = dict.fromkeys(name for numbers in self._numbers for name in numbers)
        found = {name: [numbers.get(name, 0) for numbers in self._numbers] for name in names}
        first, last = self._references[0], self._references[-1]
        for index in (index for index, (before, after) in enumerate(zip(first, last, strict=True)) if before != after):
            name = f"references: {_describe(self._watched[index])} #{index}"
            found[name] = [references[index] for references in self._references]
        return found


def _collect() -> None:
    """Collect garbage, what the memos of ShapeEnvs' methods and of sympy hold included."""
    for memo in _SHAPE_ENV_MEMOS:
        memo.cache_clear()
    forget_sympys_memos()
    # What a weak reference's callback drops may be garbage in turn.
    while gc.collect():
        pass


def _name_of_type(thing: object) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _describe(thing: object) -> str:
    # A text of some things is made by calls that ought to be measured, and some have none.
    if isinstance(thing, (str, int, float, torch.dtype, torch.device, type(None), type(Ellipsis))):
        return repr(thing)[:80]
    name = getattr(thing, "__qualname__", None) if isinstance(thing, (type, type(_describe))) else None
    return f"{_name_of_type(thing)} {name or ''}".strip()
