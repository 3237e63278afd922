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

from fastfake.torch_version import AT_LEAST_2_14

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

# Before torch 2.14: in-place operators whose decomposition writes the broadcast result back. torch resizes the tensor
# written to, where eager raises, and does nothing of the kind when it answers from its cache.
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


@dataclass(frozen=True)
class SymbolicChange:
    """A call on symbolic sizes that torch answers otherwise with its cache than without, and where."""

    op_name: str
    variant: str
    sample: int
    call: int
    where: frozenset[str]


# One for each kind. Torch makes a cached result from its strides: its storage gets a size that is written otherwise,
# or wrong (-4 bytes for an empty matrix); a view grows the storage of its argument; and the guards differ, since
# making the entry asks about the sizes. Where that fails, the call itself does, also the first one.
_CHANGED: tuple[SymbolicChange, ...] = (
    SymbolicChange("ceil", "function", 0, 2, frozenset({"tensor 1 storage_bytes"})),
    SymbolicChange("cholesky_inverse", "function", 0, 2, frozenset({"tensor 1 storage_bytes"})),
    SymbolicChange("combinations", "function", 0, 1, frozenset({"tensor 0 storage_bytes"})),
    SymbolicChange("cdist", "function", 255, 1, frozenset({"guards"})),
    SymbolicChange("cholesky", "function", 15, 2, frozenset({"tensor 1 storage_bytes", "guards", "ranges"})),
    SymbolicChange("bitwise_not", "in-place", 1, 2, frozenset({"guards"})),
    SymbolicChange(
        "atan2",
        "in-place",
        8,
        1,
        frozenset({"error", "result", "tensor 0 storage_bytes", "tensor 0 version", "ranges"}),
    ),
)

# torch answers atan2 alike since 2.14, whose OpInfos of the other two have other samples.
CHANGED_BY_TORCHS_SYMBOLIC_CACHE: tuple[SymbolicChange, ...] = tuple(
    change for change in _CHANGED if not (AT_LEAST_2_14 and change.op_name in ("atan2", "cdist", "cholesky"))
)

# Operator and form of call that torch's FakeTensor answers otherwise from its cache than the first time.
CHANGED_BY_TORCHS_CACHE: tuple[tuple[str, str], ...] = (
    *((op, "in-place") for op in _RESIZED_BY_THE_DECOMPOSITION if not AT_LEAST_2_14),
    *((op, "out= resized") for op in _RESIZED_ONLY_WHEN_COMPUTED),
)
