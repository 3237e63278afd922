"""The calls that an OpInfo gives: its samples, and the in-place and out= forms of them."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from unittest import mock

import numpy as np
import torch
from torch.testing._internal import common_utils
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo import core
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves, tree_map_only

from .record import CallRecord, TensorRecord

OPS: dict[str, OpInfo] = {op.full_name: op for op in op_db}
# One test an operator, found by name: two of one name would hide one.
assert len(OPS) == len(op_db)

# Operators without a float32 kernel on CPU are compared in the first of these that they have.
_INSTEAD_OF_FLOAT32 = (torch.int64, torch.complex64, torch.bfloat16, torch.float8_e4m3fn)

# OpInfos of kernels that only CUDA has: torch offers no CPU sample of any dtype.
WITHOUT_CPU_SAMPLES = frozenset(
    {
        "nn.functional.batch_norm.without_cudnn",
        "torch.ops.aten._efficient_attention_forward",
        "torch.ops.aten._flash_attention_forward",
    }
)


@dataclass(frozen=True)
class Case:
    """One call with real arguments; each run converts them into fresh fake tensors."""

    variant: str
    number: int
    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]


def usual_dtype(op: OpInfo) -> torch.dtype | None:
    """float32, or a stand-in for operators that do not know it, or None for those without a CPU kernel."""
    for dtype in (torch.float32, *_INSTEAD_OF_FLOAT32):
        if op.supports_dtype(dtype, "cpu"):
            return dtype
    return None


_T = TypeVar("_T")


def _drawn(samples: Callable[[], Iterable[_T]]) -> list[_T]:
    """The samples that torch's tests get, without two steps of theirs that cost more than the samples.

    Torch walks the Python stack for the running unittest, to tell it the sample, and seeds the generators of every
    kind of accelerator for each sample, of which each keeps the stack until it is initialised.
    """
    drawn = []
    with contextlib.ExitStack() as stack:
        for module in (common_utils, core):
            stack.enter_context(mock.patch.object(module, "extract_test_fn", lambda: None))
        source = iter(samples())
        while True:
            torch.default_generator.manual_seed(common_utils.SEED)
            random.seed(common_utils.SEED)
            np.random.seed(common_utils.SEED)
            try:
                drawn.append(next(source))
            except StopIteration:
                return drawn


def sample_cases(op: OpInfo, dtype: torch.dtype) -> list[Case]:
    """The samples as they are, and as calls of the in-place method where there is one."""
    cases = []
    for number, sample in enumerate(_drawn(lambda: op.sample_inputs("cpu", dtype, set_seed=False))):
        args = (sample.input, *sample.args)
        cases.append(Case("function", number, op.op, args, sample.kwargs))
        if op.inplace_variant is not None and isinstance(sample.input, torch.Tensor):
            cases.append(Case("in-place", number, op.inplace_variant, args, sample.kwargs))
    return cases


# So many samples of the sweeps that take longest; scripts/nightly asks for all.
MOST_SAMPLES = int(os.environ.get("OPINFO_SAMPLES", "8"))


def thinned(cases: list[Case], most: int | None) -> list[Case]:
    """All cases, or `most` of them at even distances."""
    if most is None or len(cases) <= most:
        return cases
    return [cases[number * (len(cases) - 1) // (most - 1)] for number in range(most)]


def error_cases(op: OpInfo) -> list[Case]:
    """Calls that the eager operator refuses. What a fake does with them may be another thing."""
    if op.error_inputs_func is None:
        return []
    errors = _drawn(lambda: op.error_inputs("cpu", set_seed=False))
    samples = [error_input.sample_input for error_input in errors]
    return [Case("error", number, op.op, (s.input, *s.args), s.kwargs) for number, s in enumerate(samples)]


def backward_cases(op: OpInfo, dtype: torch.dtype) -> list[Case]:
    """The samples with inputs that require gradients, each followed by a backward pass from all its results."""

    def forward_and_backward(*args: object, **kwargs: object) -> object:
        result = op.op(*args, **kwargs)
        ends = [end for end in tree_leaves(result) if isinstance(end, torch.Tensor) and end.requires_grad]
        if ends:
            torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
        return result

    samples = _drawn(lambda: op.sample_inputs("cpu", dtype, requires_grad=True, set_seed=False))
    return [
        Case("backward", number, forward_and_backward, (s.input, *s.args), s.kwargs) for number, s in enumerate(samples)
    ]


def out_cases(case: Case, recorded: CallRecord) -> Iterator[Case]:
    """The out= forms of a case whose result is known: fitting, resized, and of a dtype that may not fit."""
    results = _plain_results(recorded)
    if results is None:
        return
    single = recorded.result is not None and recorded.result[0] == "tensor"

    def with_out(variant: str, outs: Sequence[torch.Tensor]) -> Case:
        out = outs[0] if single else tuple(outs)
        return Case(variant, case.number, case.function, case.args, {**case.kwargs, "out": out})

    dtypes = [getattr(torch, result.dtype.removeprefix("torch.")) for result in results]
    fitting = [
        torch.empty_strided(result.shape, result.stride, dtype=dtype)
        for result, dtype in zip(results, dtypes, strict=True)
    ]
    yield with_out("out=", fitting)
    yield with_out("out= resized", [torch.empty(0, dtype=dtype) for dtype in dtypes])
    if case.number == 0:
        # Mostly an error, and then the same one for every sample.
        yield with_out("out= of int32", [torch.empty_like(out, dtype=torch.int32) for out in fitting])


def fake_arguments(case: Case, from_tensor: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[object], dict]:
    """Each tensor of the arguments converted; the mode's memo keeps identities and shared storages."""
    return tree_map_only(torch.Tensor, from_tensor, ([*case.args], dict(case.kwargs)))


def _plain_results(recorded: CallRecord) -> list[TensorRecord] | None:
    """The result's tensors, or None unless it is one strided tensor or a flat sequence of them, all new."""
    if recorded.result is None:
        return None
    kind, content = recorded.result
    parts = [recorded.result] if kind == "tensor" else content
    if not isinstance(parts, (tuple, list)) or not parts:
        return None
    numbers = [part[1] for part in parts if isinstance(part, tuple) and part[0] == "tensor"]
    inputs = _tensor_numbers(recorded.inputs)
    if len(numbers) != len(parts) or not inputs.isdisjoint(numbers):
        return None
    results = [recorded.tensors[number] for number in numbers]
    return results if all(result.stride is not None for result in results) else None


def _tensor_numbers(structure: object) -> set[int]:
    if not isinstance(structure, tuple):
        return set()
    if len(structure) == 2 and structure[0] == "tensor":
        return {structure[1]}
    return set().union(*(_tensor_numbers(part) for part in structure))
