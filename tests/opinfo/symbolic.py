"""Calls on tensors whose every dimension is symbolic, and what their ShapeEnv learned from them."""

from __future__ import annotations

import dataclasses

import torch
import torch._subclasses.fake_tensor as fake_tensor
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from .compare import Difference, differences
from .record import CallRecord, error_record, record_call
from .samples import OPS, Case, fake_arguments, sample_cases

# Samples of an operator that are compared, at even distances: what symbols add depends little on the sizes.
MOST_CASES = 8

# Torch's C++ reads the sizes of the tensor that it is writing sizes to, freed by then, and may crash.
FREED_SIZES = frozenset({("squeeze", "in-place"), ("squeeze.multiple", "in-place")})


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeEnvRecord:
    """What a ShapeEnv knows, in the order in which it came to know it."""

    guards: tuple[str, ...]
    runtime_assertions: tuple[str, ...]
    replacements: tuple[str, ...]
    ranges: tuple[str, ...]
    unbacked: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SymbolicRecord:
    call: CallRecord
    shape_env: ShapeEnvRecord


# A second call of a mode on the same arguments meets torch's cache of symbolic results, which the ShapeEnv holds.
CALLS = 2


def may_crash_torch(op_name: str, case: Case) -> bool:
    if (op_name, case.variant) in FREED_SIZES:
        return True
    # Torch's C++ reads the second size of the input whether there is one or not. What lies there is taken for a
    # number with static sizes, and for a pointer with symbolic ones.
    return op_name.startswith("nn.functional.batch_norm") and case.args[0].dim() < 2


def symbolic_cases(op_name: str, dtype: torch.dtype) -> list[Case]:
    cases = [case for case in sample_cases(OPS[op_name], dtype) if not may_crash_torch(op_name, case)]
    if len(cases) <= MOST_CASES:
        return cases
    return [cases[number * (len(cases) - 1) // (MOST_CASES - 1)] for number in range(MOST_CASES)]


def record_symbolic_case(case: Case, *, cached: bool = True) -> list[SymbolicRecord]:
    """The first and a repeated call of a mode of their own, on the same fake tensors.

    `cached` tells whether the mode may remember results. Ours does not remember symbolic ones.
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
    records = []
    for _ in range(CALLS):
        # The guards are read first: describing the tensors must not add to them.
        records.append(SymbolicRecord(record_call(case.function, args, kwargs, mode), _known_to(shape_env)))
    return records


def symbolic_differences(expected: SymbolicRecord, actual: SymbolicRecord) -> list[Difference]:
    found = differences(expected.call, actual.call)
    for field in dataclasses.fields(ShapeEnvRecord):
        wanted, got = getattr(expected.shape_env, field.name), getattr(actual.shape_env, field.name)
        if wanted != got:
            found.append(Difference(field.name, wanted, got))
    return found


def _known_to(shape_env: ShapeEnv) -> ShapeEnvRecord:
    assertions = (f"{a.expr}" for symbol in shape_env.deferred_runtime_asserts.values() for a in symbol)
    return ShapeEnvRecord(
        guards=tuple(str(guard.expr) for guard in shape_env.guards),
        runtime_assertions=tuple(assertions),
        replacements=tuple(f"{symbol}: {value}" for symbol, value in shape_env.replacements.items()),
        ranges=tuple(f"{symbol}: {values}" for symbol, values in shape_env.var_to_range.items()),
        unbacked=tuple(map(str, shape_env.pending_fresh_unbacked_symbols)),
    )
