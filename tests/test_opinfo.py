"""Every operator of torch's OpInfo database gives on our FakeTensor what it gives on torch's."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
import torch
import torch._dynamo.config as dynamo_config
from opinfo.compare import ONLY_BETWEEN_FAKES, Difference, differences
from opinfo.record import CallRecord, record_call
from opinfo.samples import (
    MOST_SAMPLES,
    OPS,
    WITHOUT_CPU_SAMPLES,
    Case,
    backward_cases,
    error_cases,
    out_cases,
    sample_cases,
    thinned,
    usual_dtype,
)
from opinfo.sides import clear_cache, ours, record_case, torchs_own
from opinfo.symbolic import (
    CALLS_OF_REPEATED,
    REPEATED,
    SymbolicRecord,
    record_symbolic_case,
    symbolic_cases,
    symbolic_differences,
)
from opinfo.torch_defects import (
    CHANGED_BY_TORCHS_CACHE,
    CHANGED_BY_TORCHS_SYMBOLIC_CACHE,
    DEFECTS,
    Defect,
    SymbolicChange,
)
from opinfo.torch_records import TorchRecords

pytestmark = pytest.mark.usefixtures("quiet_fake_tensor_log")

# Whether each of the calls of a sample is cross-checked: computed again and compared by torch's own rules. The first
# call fills the cache, the second reads it, and a third would show that reading changed something.
CALLS = (False, False, True)
TWO_CALLS = (False, True)
DIFFERENCES_SHOWN = 12

OTHER_DTYPES = (torch.float64, torch.bfloat16, torch.complex64, torch.int64, torch.bool)

# So many of each operator; the exhaustive run takes all.
FEWER_SAMPLES = 3

Recorded = list[tuple[Case, CallRecord]]
AJob = TypeVar("AJob", bound="OperatorJob")


@dataclass(frozen=True)
class OperatorJob:
    """One operator's calls of one kind."""

    op_name: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.op_name}-{str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Job(OperatorJob):
    """Calls on tensors of static sizes, with a backward pass or without."""

    backward: bool = False
    # Fewer cases, at even distances among those that are to give results.
    most: int | None = None

    def cases(self) -> list[Case]:
        op = OPS[self.op_name]
        if self.backward:
            return thinned(backward_cases(op, self.dtype), self.most)
        return thinned(sample_cases(op, self.dtype), self.most) + (
            error_cases(op) if self.dtype == usual_dtype(op) else []
        )

    def record(self) -> Recorded:
        return record_torch(self.cases(), with_out=OPS[self.op_name].supports_out and not self.backward)


@dataclass(frozen=True)
class SymbolicJob(OperatorJob):
    """Calls on tensors whose every dimension is symbolic."""

    # Fewer for dtypes after the first: symbols and dtypes have little to do with each other.
    most: int = MOST_SAMPLES

    def record(self) -> list[tuple[Case, list[SymbolicRecord]]]:
        cases = symbolic_cases(self.op_name, self.dtype, self.most)
        return [
            (case, record_symbolic_case(case, cached=False, calls=CALLS_OF_REPEATED if number < REPEATED else 1))
            for number, case in enumerate(cases)
        ]


# Few of their samples may show the defect.
WITH_DEFECTS = {name for defect in DEFECTS for name in defect.ops}
USUAL_JOBS = [
    Job(name, dtype, most=None if name in WITH_DEFECTS else FEWER_SAMPLES)
    for name, op in OPS.items()
    if (dtype := usual_dtype(op)) is not None
]
WHOLE_JOBS = [replace(job, most=None) for job in USUAL_JOBS if job.most is not None]
OTHER_JOBS = [
    Job(name, dtype)
    for name, op in OPS.items()
    for dtype in OTHER_DTYPES
    if op.supports_dtype(dtype, "cpu") and dtype != usual_dtype(op)
]
SYMBOLIC_JOBS = [SymbolicJob(job.op_name, job.dtype) for job in USUAL_JOBS]
SYMBOLIC_OTHER_JOBS = [SymbolicJob(job.op_name, job.dtype, most=2) for job in OTHER_JOBS]
BACKWARD_JOBS = [
    Job(name, torch.float32, backward=True, most=None if name in WITH_DEFECTS else MOST_SAMPLES)
    for name, op in OPS.items()
    if op.supports_autograd and op.supports_dtype(torch.float32, "cpu")
]


def one_dtype_in_turn(jobs: list[AJob]) -> list[Any]:
    """Leave all but one dtype of each operator to scripts/nightly; another for each, so that all have their share."""
    marked = []
    for number, (_, of_operator) in enumerate(itertools.groupby(jobs, lambda job: job.op_name)):
        each = list(of_operator)
        marks = [pytest.mark.nightly] * len(each)
        marks[number % len(each)] = pytest.mark.exhaustive
        marked += [pytest.param(job, marks=mark) for job, mark in zip(each, marks, strict=True)]
    return marked


def record_torch(cases: list[Case], *, with_out: bool) -> Recorded:
    """Torch's answers, each from an empty cache: what torch computes is the measure, not what it remembers."""
    recorded = []

    def record(case: Case) -> CallRecord:
        clear_cache()
        recorded.append((case, record_case(case)))
        return recorded[-1][1]

    for case in cases:
        given = record(case)
        if with_out and case.variant == "function":
            for out_case in out_cases(case, given):
                record(out_case)
    return recorded


def compare(
    job: Job, recorded: Recorded, calls: tuple[bool, ...], ignored_fields: frozenset[str] = frozenset()
) -> None:
    assert recorded, f"{job} has no sample: nothing was compared"
    variants = {case.variant for case, _ in recorded}
    allowances = [d for d in DEFECTS if d.dtype == job.dtype and job.op_name in d.ops and d.variant in variants]
    used: Counter[Defect] = Counter()
    found = []
    with ours():
        # Cleared once: an entry made by one sample must not answer for another.
        clear_cache()
        for call, crosscheck in enumerate(calls, start=1):
            with dynamo_config.patch(fake_tensor_cache_crosscheck_enabled=crosscheck):
                for case, expected in recorded:
                    for difference in differences(expected, record_case(case), ignored_fields):
                        defect = next((d for d in allowances if d.allows(case.variant, difference.where)), None)
                        if defect is None:
                            found.append((case, call, difference))
                        else:
                            used[defect] += 1
    if found:
        pytest.fail(report(job, found), pytrace=False)
    stale = [defect.why for defect in allowances if not used[defect]]
    assert not stale, f"{job}: no difference matches any more: {stale}"


def report(job: object, found: list[tuple[Case, int, Difference]]) -> str:
    """One line for each place that differs in a form of call, with its first difference."""
    times = Counter((case.variant, difference.where) for case, _, difference in found)
    lines = []
    for case, call, difference in found:
        count = times.pop((case.variant, difference.where), 0)
        if count:
            lines.append(f"{case.variant}, sample {case.number}, call {call} and {count - 1} more: {difference}")
    shown = "\n  ".join(lines[:DIFFERENCES_SHOWN])
    return f"{job}: {len(found)} differences from torch's FakeTensor\n  {shown}"


@pytest.mark.exhaustive
@pytest.mark.parametrize("job", WHOLE_JOBS, ids=lambda job: job.op_name)
def test_operator_gives_for_all_samples_what_torch_gives(job: Job, torch_records: TorchRecords) -> None:
    compare(job, torch_records.of(job), CALLS)


@pytest.mark.parametrize("job", USUAL_JOBS, ids=lambda job: job.op_name)
def test_operator_gives_the_metadata_aliasing_and_errors_of_torch(job: Job, torch_records: TorchRecords) -> None:
    compare(job, torch_records.of(job), CALLS)


def test_every_operator_is_compared_except_those_without_cpu_samples() -> None:
    assert {job.op_name for job in USUAL_JOBS} | WITHOUT_CPU_SAMPLES == OPS.keys()
    assert WITHOUT_CPU_SAMPLES.isdisjoint(job.op_name for job in USUAL_JOBS)


@pytest.mark.parametrize("job", one_dtype_in_turn(OTHER_JOBS), ids=str)
def test_operator_gives_in_other_dtypes_what_torch_gives(job: Job, torch_records: TorchRecords) -> None:
    compare(job, torch_records.of(job), TWO_CALLS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("job", BACKWARD_JOBS, ids=str)
def test_operator_and_its_backward_give_what_torch_gives(job: Job, torch_records: TorchRecords) -> None:
    # Versions of gradients: torch counts one for some when it computes them and none when it remembers them.
    compare(job, torch_records.of(job), TWO_CALLS, ignored_fields=frozenset({"version"}))


@pytest.mark.parametrize(
    "job",
    [
        *(pytest.param(job, marks=pytest.mark.exhaustive) for job in SYMBOLIC_JOBS),
        *one_dtype_in_turn(SYMBOLIC_OTHER_JOBS),
    ],
    ids=str,
)
def test_operator_on_symbolic_sizes_gives_the_expressions_and_guards_of_torch(
    job: SymbolicJob, torch_records: TorchRecords
) -> None:
    recorded = torch_records.of(job)
    assert recorded, f"{job} has no sample: nothing was compared"
    found = []
    with ours():
        for case, expected in recorded:
            actual = record_symbolic_case(case, calls=len(expected))
            for call, (wanted, got) in enumerate(zip(expected, actual, strict=True), start=1):
                found += [(case, call, difference) for difference in symbolic_differences(wanted, got)]
    if found:
        pytest.fail(report(job, found), pytrace=False)


@pytest.mark.parametrize("change", CHANGED_BY_TORCHS_SYMBOLIC_CACHE, ids=lambda change: change.op_name)
def test_torch_answers_symbolic_calls_otherwise_with_its_cache(change: SymbolicChange) -> None:
    dtype = usual_dtype(OPS[change.op_name])
    assert dtype is not None
    cases = sample_cases(OPS[change.op_name], dtype)
    case = next(case for case in cases if (case.variant, case.number) == (change.variant, change.sample))
    with torchs_own():
        computed = record_symbolic_case(case, cached=False)[change.call - 1]
        remembered = record_symbolic_case(case, cached=True)[change.call - 1]
    with ours():
        assert symbolic_differences(computed, record_symbolic_case(case)[change.call - 1]) == []
    assert {difference.where for difference in symbolic_differences(computed, remembered)} == change.where


@pytest.mark.parametrize(("op_name", "variant"), CHANGED_BY_TORCHS_CACHE)
def test_torch_answers_otherwise_from_its_cache(op_name: str, variant: str) -> None:
    op = OPS[op_name]
    dtype = usual_dtype(op)
    assert dtype is not None
    with torchs_own():
        recorded = record_torch(sample_cases(op, dtype), with_out=op.supports_out)
        changed = set()
        for case, expected in recorded:
            clear_cache()
            record_case(case)
            if differences(expected, record_case(case)):
                changed.add(case.variant)
    assert changed == {variant}


def test_where_torch_disagrees_with_the_real_operator_ours_agrees_with_it() -> None:
    for defect in DEFECTS:
        eager = record_program(defect, lambda tensor: tensor, contextlib.nullcontext())
        with torchs_own():
            of_torch = record_fake_program(defect)
        assert differences(eager, of_torch, ONLY_BETWEEN_FAKES), f"torch is right, so remove: {defect.why}"
        with ours():
            clear_cache()
            for _ in CALLS:
                found = differences(eager, record_fake_program(defect), ONLY_BETWEEN_FAKES)
                assert not found, f"{defect.why}\n  " + "\n  ".join(map(str, found))


def record_fake_program(defect: Defect) -> CallRecord:
    mode = torch._subclasses.fake_tensor.FakeTensorMode()
    return record_program(defect, mode.from_tensor, mode)


def record_program(
    defect: Defect,
    from_tensor: Callable[[torch.Tensor], torch.Tensor],
    context: contextlib.AbstractContextManager[object],
) -> CallRecord:
    return record_call(lambda: defect.program(from_tensor), (), {}, context)
