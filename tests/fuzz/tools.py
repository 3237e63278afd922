"""What one side has and the other has not: fastfake's own functions, and for torch's side others that do nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch


class Tools:
    """Of torch's side."""

    def install(self) -> None:
        """Put fastfake in place."""

    def uninstall(self) -> None:
        """Take fastfake away."""

    def track(self, *tracked: Any) -> AbstractContextManager[Any]:
        """Give a tracker of memory."""
        return contextlib.nullcontext()

    def limit_cache(self, size: int) -> None:
        """Let the cache hold so many bytes."""

    def enable_cache(self, mode: Any, enabled: bool) -> None:
        """Let a mode's calls be answered from the cache. With its own, torch gives some views other storages."""

    def cache_operator(self, operator: Any) -> AbstractContextManager[Any]:
        """Vouch for a custom operator in a scope."""
        return contextlib.nullcontext()

    def pretend(self) -> AbstractContextManager[Any]:
        """Give two devices that are not there."""
        return contextlib.nullcontext()

    def following_mode(self) -> Any:
        """Give a mode that follows values."""
        return torch._subclasses.fake_tensor.FakeTensorMode()

    def state(self) -> Sequence[bool]:
        """Tell what a program must not leave on."""
        return []

    def hits(self) -> int:
        """Count the hits of the cache."""
        return 0


class OurTools(Tools):
    """Of ours."""

    def __init__(self) -> None:
        """Import the package."""
        import fastfake
        from fastfake import _C

        self._package = fastfake
        self._native = _C
        self.install = fastfake.install  # type: ignore[method-assign]
        self.uninstall = fastfake.uninstall  # type: ignore[method-assign]
        self._track = fastfake.memory.track
        self.cache_operator = fastfake.cache_operators_temporarily  # type: ignore[method-assign]

    def track(self, *tracked: Any) -> AbstractContextManager[Any]:
        """Give a tracker of memory, unless one is on: there can be one."""
        return contextlib.nullcontext() if self._native.memory_is_tracked() else self._track(*tracked)

    def limit_cache(self, size: int) -> None:
        """Let the cache hold so many bytes."""
        self._package.set_cache_limit(size)

    def enable_cache(self, mode: Any, enabled: bool) -> None:
        """Let a mode's calls be answered from the cache."""
        mode.cache_enabled = enabled

    def pretend(self) -> AbstractContextManager[Any]:
        """Give two devices that are not there."""
        return self._package.pretend(count=2, memory="80GB")

    def following_mode(self) -> Any:
        """Give a mode that follows values."""
        return self._package.FakeTensorMode(known_values=True, unknown_items=0.0, allow_non_fake_inputs=True)

    def state(self) -> Sequence[bool]:
        """Tell what a program must not leave on."""
        native = self._native
        return [
            native.memory_is_tracked(),
            native.in_kernel_invocation(),
            native.following() != 0,
            native.pretends_cuda(),
        ]

    def hits(self) -> int:
        """Count the hits of the cache."""
        return self._native.cache_statistics()[0]
