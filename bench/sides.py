"""The three ways of running an operator that the benchmarks compare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

# Means torch's class only while fastfake is not installed: installing replaces it in every module, this one included.
from torch._subclasses.fake_tensor import FakeTensorMode as TorchFakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import fastfake
from bench import symbols


class Side(ABC):
    """One way of running an operator.

    A side keeps its mode for its whole life, so that every round of a benchmark meets the same inputs and caches.
    """

    name: ClassVar[str]

    @property
    def sizes(self) -> Mapping[str, Any]:
        """The symbolic sizes that operands can have, under their names; none without symbols."""
        return {}

    @abstractmethod
    def entered(self) -> AbstractContextManager[Any]:
        """Makes this side the one that operators called inside of the context run on."""

    @abstractmethod
    def forget(self) -> None:
        """Empties the dispatch cache, so that the next call of every operator is a cold one."""

    @abstractmethod
    def cache_use(self, call: Callable[[], object]) -> str:
        """Tells how the dispatch cache served `call`: `hit`, `miss`, `bypass: REASON`, or nothing without a cache."""


class FakeSide(Side):
    """What the two implementations of FakeTensorMode have in common.

    Args:
        symbolic: Whether the mode has a ShapeEnv, with symbols for the sizes of operands.
    """

    mode: Any

    def __init__(self, symbolic: bool = False) -> None:
        shape_env = ShapeEnv() if symbolic else None
        self._sizes = {} if shape_env is None else symbols.make(shape_env)
        self.mode = self._make_mode(shape_env)

    @abstractmethod
    def _make_mode(self, shape_env: ShapeEnv | None) -> Any: ...

    @property
    def sizes(self) -> Mapping[str, Any]:
        return self._sizes

    def forget(self) -> None:
        with self.entered():
            type(self.mode).cache_clear()

    def cache_use(self, call: Callable[[], object]) -> str:
        mode_class = type(self.mode)
        with self.entered():
            before = mode_class.cache_info()
            call()
            after = mode_class.cache_info()
        reasons = [reason for reason, count in after.bypasses.items() if count > before.bypasses.get(reason, 0)]
        if reasons:
            return f"bypass: {', '.join(sorted(reasons))}"
        if after.misses > before.misses:
            return "miss"
        return "hit" if after.hits > before.hits else ""


class Torch(FakeSide):
    """torch's own FakeTensor, with fastfake not installed."""

    name = "torch"

    def _make_mode(self, shape_env: ShapeEnv | None) -> Any:
        return TorchFakeTensorMode(shape_env=shape_env)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.mode:
            yield


class Fastfake(FakeSide):
    """fastfake, installed for as long as the side is entered."""

    name = "fastfake"

    def _make_mode(self, shape_env: ShapeEnv | None) -> Any:
        with fastfake.install_temporarily():
            return fastfake.FakeTensorMode(shape_env=shape_env)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with fastfake.install_temporarily(), self.mode:
            yield


class Eager(Side):
    """Plain torch, computing real values."""

    name = "eager"

    def entered(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def forget(self) -> None:
        pass

    def cache_use(self, call: Callable[[], object]) -> str:
        return ""


RATIOS: Sequence[tuple[str, str]] = (("torch", "fastfake"), ("fastfake", "eager"))
"""The ratios that reports show, as names of the sides above and below the line."""
