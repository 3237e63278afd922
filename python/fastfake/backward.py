"""Backward passes through fake tensors on devices that are not there.

torch's autograd engine wants threads and streams of each device type but the CPU's. All passes that Python starts go
through one object, which is this module's while fastfake is installed; native code has the engine do without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.variable import Variable

from . import _C, rebinding

if TYPE_CHECKING:
    from .rebinding import Undo

__all__ = ["put_in_place"]


class Engine(torch._C._ImperativeEngine):
    """torch's engine; it also goes backward on devices that are not there."""

    def run_backward(self, tensors: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Compute gradients. The arguments are those of torch's method of this name."""
        return _C.run_backward(super().run_backward, tensors, args, kwargs)


_ENGINE = Engine()


def put_in_place(undos: list[Undo]) -> None:
    """Let torch use this engine. ``undos`` gets what takes that back, unless somebody put another in place since.

    Where there were fake tensors on devices that are not there, it stays, as their device guards do: another thread may
    be about to go backward. torch's engine would give what it has to compute to the pass that is under way, and wait
    for ever.
    """
    rebinding.attribute(Variable, "_execution_engine", _ENGINE, undos, stays=_C.absent_devices_were_used)
