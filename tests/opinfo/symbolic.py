"""Calls on tensors whose every dimension is symbolic, and what their ShapeEnv learned from them."""

from __future__ import annotations

import dataclasses

import sympy
import torch
import torch._subclasses.fake_tensor as fake_tensor
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy.value_ranges import ValueRanges

from .compare import Difference, differences
from .record import CallRecord, Recorder, error_record, record_call
from .samples import OPS, Case, fake_arguments, sample_cases, thinned

# Torch's C++ reads the sizes of the tensor that it is writing sizes to, freed by then, and may crash.
FREED_SIZES = frozenset({("squeeze", "in-place"), ("squeeze.multiple", "in-place")})


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeEnvRecord:
    """What a ShapeEnv knows, in the order in which it came to know it."""

    guards: tuple[sympy.Basic, ...]
    runtime_assertions: tuple[sympy.Basic, ...]
    replacements: tuple[tuple[sympy.Basic, sympy.Basic], ...]
    ranges: tuple[tuple[sympy.Basic, ValueRanges], ...]
    unbacked: tuple[sympy.Basic, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SymbolicRecord:
    call: CallRecord
    shape_env: ShapeEnvRecord


# So many samples of an operator are also called again. The first call adds guards, the second is remembered if it adds
# none, the third is answered from what was remembered.
REPEATED = 8
CALLS_OF_REPEATED = 3


def may_crash_torch(op_name: str, case: Case) -> bool:
    if (op_name, case.variant) in FREED_SIZES:
        return True
    # Torch's C++ reads the second size of the input whether there is one or not. What lies there is taken for a
    # number with static sizes, and for a pointer with symbolic ones.
    return op_name.startswith("nn.functional.batch_norm") and case.args[0].dim() < 2


def symbolic_cases(op_name: str, dtype: torch.dtype, most: int) -> list[Case]:
    """The samples that differ in more than their values, or `most` of them at even distances."""
    cases: dict[object, Case] = {}
    for case in sample_cases(OPS[op_name], dtype):
        if not may_crash_torch(op_name, case):
            recorder = Recorder()
            arguments = recorder.structure((*case.args, dict(case.kwargs)))
            cases.setdefault((case.variant, arguments, recorder.tensor_records()), case)
    return thinned(list(cases.values()), most)


def record_symbolic_case(case: Case, *, cached: bool = True, calls: int = CALLS_OF_REPEATED) -> list[SymbolicRecord]:
    """Calls with a mode of their own, on the same fake tensors.

    `cached` tells whether the mode may remember results.
    """
    # Sizes 0 and 1, and equal sizes, have symbols of their own: nothing is known of a dimension beforehand.
    shape_env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    mode = fake_tensor.FakeTensorMode(shape_env=shape_env)
    mode.cache_enabled = cached
    number = iter(range(1_000_000))

    def from_tensor(tensor: torch.Tensor) -> torch.Tensor:
        context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * tensor.dim())
        return mode.from_tensor(tensor, source=ConstantSource(f"t{next(number)}"), symbolic_context=context)

    try:
        args, kwargs = fake_arguments(case, from_tensor)
    except Exception as refused:
        return [SymbolicRecord(CallRecord((), ("error", None), None, error_record(refused)), _known_to(shape_env))]
    return [SymbolicRecord(record_call(case.function, args, kwargs, mode), _known_to(shape_env)) for _ in range(calls)]


def symbolic_differences(expected: SymbolicRecord, actual: SymbolicRecord) -> list[Difference]:
    found = differences(expected.call, actual.call)
    for field in dataclasses.fields(ShapeEnvRecord):
        wanted, got = getattr(expected.shape_env, field.name), getattr(actual.shape_env, field.name)
        if wanted != got:
            found.append(Difference(field.name, wanted, got))
    return found


def _known_to(shape_env: ShapeEnv) -> ShapeEnvRecord:
    assertions = (each.expr for of_symbol in shape_env.deferred_runtime_asserts.values() for each in of_symbol)
    return ShapeEnvRecord(
        guards=tuple(guard.expr for guard in shape_env.guards),
        runtime_assertions=tuple(assertions),
        replacements=tuple(shape_env.replacements.items()),
        ranges=tuple(shape_env.var_to_range.items()),
        unbacked=tuple(shape_env.pending_fresh_unbacked_symbols),
    )
