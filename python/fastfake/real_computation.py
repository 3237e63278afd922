"""Computing with real tensors, whatever modes are active.

The contexts are native: torch's own of the same purpose are generators, and an interrupt while one is being left has it
put back the state of the thread later, out of turn.
"""

from __future__ import annotations

import torch

from . import _C

__all__ = ["no_dispatch", "on_values"]

# Calls reach the kernels: no mode, and no `__torch_dispatch__` of a class, sees them.
no_dispatch = torch._C._DisableTorchDispatch

# The same without autograd, inference mode and `__torch_function__`.
on_values = _C.RealComputation
