"""Where torch's FakeTensor is wrong, proved against the real operator, and ours therefore may differ from it.

An entry allows one kind of difference of some operators. It brings a program in which the eager run and torch's
FakeTensor disagree; test_opinfo.py checks that ours agrees with the eager run there. An entry that matches
no difference any more fails the operator's test: the list cannot go stale.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

FromTensor = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Defect:
    # Full names of OpInfos; one program stands for all of them.
    ops: tuple[str, ...]
    variant: str
    # A regular expression for the whole of Difference.where
    where: str
    why: str
    # Runs the operator on tensors passed through the argument: unchanged for eager, converted for the fakes.
    program: Callable[[FromTensor], object]
    dtype: torch.dtype = torch.float32

    def allows(self, variant: str, where: str) -> bool:
        return variant == self.variant and re.fullmatch(self.where, where) is not None


DEFECTS: tuple[Defect, ...] = ()

# In-place operators whose decomposition writes the broadcast result back: torch resizes the tensor written to, where
# eager raises, and does nothing of the kind when it answers from its cache.
_RESIZED_BY_THE_DECOMPOSITION = (
    "addr", "atan2", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "clamp_max", "clamp_min", "copysign", "div.floor_rounding", "div.trunc_rounding", "eq", "floor_divide", "fmod",
    "gcd", "ge", "gt", "heaviside", "hypot", "igamma", "igammac", "lcm", "le", "lt", "ne", "nextafter", "pow",
    "remainder", "xlogy",
)  # fmt: skip

# Operators that resize their out= arguments when torch computes them, and leave them as they are on a cache hit.
_RESIZED_ONLY_WHEN_COMPUTED = (
    "linalg.solve", "linalg.solve_ex", "slice_scatter", "split_with_sizes_copy", "unbind_copy",
)  # fmt: skip

# Operator and form of call that torch's FakeTensor answers otherwise from its cache than the first time.
CHANGED_BY_TORCHS_CACHE: tuple[tuple[str, str], ...] = (
    *((op, "in-place") for op in _RESIZED_BY_THE_DECOMPOSITION),
    *((op, "out= resized") for op in _RESIZED_ONLY_WHEN_COMPUTED),
)
