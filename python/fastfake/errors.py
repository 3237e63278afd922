"""The exceptions of the fake tensor system.

Names, fields, base classes and texts are those of ``torch._subclasses.fake_tensor``, since torch's
compilers decide by them whether to break a graph and what to tell the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch._ops import OpOverload

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensorDeviceMismatchError",
    "MetadataMismatchError",
    "UnsupportedFakeTensorException",
    "UnsupportedMutationAliasingException",
    "UnsupportedOperatorException",
]


@dataclass
class DataDependentOutputException(RuntimeError):
    """The result of ``func`` is a value that only the data of its arguments tells."""

    func: OpOverload


@dataclass
class DynamicOutputShapeException(RuntimeError):
    """The shape of the result of ``func`` depends on the data of its arguments."""

    func: OpOverload


@dataclass
class UnsupportedOperatorException(RuntimeError):
    """``func`` has neither a meta kernel nor a fake implementation, and may not run on zeros."""

    func: OpOverload


@dataclass
class UnsupportedFakeTensorException(RuntimeError):
    """A real tensor is of a kind that cannot be made fake."""

    reason: str


@dataclass
class UnsupportedMutationAliasingException(RuntimeError):
    """A program mutates or aliases its inputs in a way that a compiler cannot keep."""

    reason: str


@dataclass
class MetadataMismatchError(RuntimeError):
    """A fake result and the real one of the same call differ in metadata."""

    reason: str


class FakeTensorDeviceMismatchError(RuntimeError):
    """The tensor arguments of ``func`` are on two devices that do not mix.

    Args:
        func: the operator.
        common_device: the device of the arguments before the offending one.
        device: the device of the offending argument.
    """

    def __init__(self, func: OpOverload, common_device: torch.device, device: torch.device) -> None:
        """Keep the three as fields and word the message as eager PyTorch does."""
        super().__init__(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{common_device} and {device}!"
        )
        self.func, self.common_device, self.device = func, common_device, device
