"""FakeCopyMode: deep copies that are fake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from .fake_mode import FakeTensorMode

__all__ = ["FakeCopyMode"]


class FakeCopyMode(TorchFunctionMode):
    """Under this mode ``copy.deepcopy(module)`` gives the module with fake parameters and buffers.

    Meant for copying modules and nothing else: it turns clones and deep copies into conversions.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        """Convert with ``fake_mode``, to static shapes."""
        super().__init__()
        self.fake_mode = fake_mode

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Convert where a tensor would be copied; run anything else as it is."""
        kwargs = kwargs or {}
        if func is torch._C.TensorBase.clone:
            if not isinstance(args[0], Tensor):
                raise AssertionError(f"Expected Tensor, got {type(args[0])}")
            return func(self._convert(args[0]), **kwargs)
        if func is Tensor.__deepcopy__:
            if len(args) != 2 or kwargs:
                raise AssertionError(
                    f"Expected 2 args and 0 kwargs for __deepcopy__, got {len(args)} args and {len(kwargs)} kwargs"
                )
            original, memo = args
            if id(original) not in memo:
                memo[id(original)] = self._convert(original)
            return memo[id(original)]
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def _convert(self, t: Tensor) -> Tensor:
        return self.fake_mode.from_tensor(t, static_shapes=True)
