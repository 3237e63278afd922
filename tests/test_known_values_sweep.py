"""Every operator of torch's OpInfo database, on known values: values as in a real run, metadata as without them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from opinfo.compare import differences
from opinfo.record import CallRecord, record_call
from opinfo.samples import OPS, Case, fake_arguments, sample_cases, thinned, usual_dtype
from opinfo.sides import ours
from torch.utils._pytree import tree_leaves

from fastfake import FakeTensor, FakeTensorMode, known_storage

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("quiet_fake_tensor_log")]

MOST = 8
LIMIT = 10_000
JOBS = [(name, dtype) for name, op in OPS.items() if (dtype := usual_dtype(op)) is not None]

# For subclasses of tensors these take the algorithm that also gives vectors, or make one product of the matrices of a
# batch. That rounds otherwise; the products, on some processors only.
COMPUTED_OTHERWISE_FOR_SUBCLASSES = frozenset(
    {
        "__rmatmul__",
        "linalg.cond",
        "linalg.eigvalsh",
        "linalg.lstsq",
        "linalg.lstsq.grad_oriented",
        "linalg.matrix_norm",
        "linalg.svdvals",
        "matmul",
        "norm.nuc",
    }
)

# What only reads elements raises without known values, and so has no metadata to compare.
NEEDS_VALUES = ("DataDependentOutputException", "DynamicOutputShapeException")


class Known:
    """Makes fake tensors with the values of real ones, which share storages as those do."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self.storages: dict[int, tuple[torch.UntypedStorage, known_storage.KnownStorage]] = {}

    def of(self, t: torch.Tensor) -> FakeTensor:
        fake = self.mode.from_tensor(t)
        if t.layout != torch.strided or t.is_quantized or t.is_nested or fake.constant is not None:
            return fake
        key = t.untyped_storage()._cdata
        if key not in self.storages:
            self.storages[key] = (t.untyped_storage().clone(), known_storage.KnownStorage())
        storage, known = self.storages[key]
        value = torch.empty(0, dtype=t.dtype).set_(storage, t.storage_offset(), t.size(), t.stride())
        if t.is_conj():
            torch._C._set_conj(value, True)
        if t.is_neg():
            torch._C._set_neg(value, True)
        known_storage.give_value(fake, value, known)
        return fake


def run(case: Case, limit: int | None) -> tuple[CallRecord, list[object]]:
    """Return the record of the call, and its result and arguments."""
    mode = FakeTensorMode(known_values=limit)
    args, kwargs = fake_arguments(case, mode.from_tensor if limit is None else Known(mode).of)
    results: list[object] = []

    def function(*args: object, **kwargs: object) -> object:
        results.append(case.function(*args, **kwargs))
        return results[0]

    record = record_call(function, args, kwargs, mode)
    return record, tree_leaves((results, args, kwargs))


def run_for_real(case: Case) -> list[object] | None:
    args, kwargs = fake_arguments(case, copied())
    try:
        return tree_leaves(([case.function(*args, **kwargs)], args, kwargs))
    except Exception:
        return None


def copied() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what copies tensors such that copies share storages as the originals do, and are the same twice."""
    memo: dict[int, object] = {}

    def copy_of(t: torch.Tensor) -> torch.Tensor:
        detached = t.detach()
        copied = copy.deepcopy(detached, memo) if t.layout == torch.strided else detached.clone()
        return copied.requires_grad_(t.requires_grad)

    return copy_of


def wrong_values(fakes: list[object], reals: list[object], *, rounded: bool) -> list[str]:
    error = 1e-4 if rounded else 0
    found = []
    for number, (fake, real) in enumerate(zip(fakes, reals, strict=True)):
        value = fake.constant if isinstance(fake, FakeTensor) else None
        if value is None or not isinstance(real, torch.Tensor):
            continue
        with contextlib.suppress(AssertionError):
            torch.testing.assert_close(value, real.detach(), rtol=error, atol=error, equal_nan=True)
            continue
        found.append(f"leaf {number}: {value.flatten()[:6].tolist()} instead of {real.flatten()[:6].tolist()}")
    return found


@pytest.mark.parametrize(("name", "dtype"), JOBS, ids=lambda part: str(part).removeprefix("torch."))
def test_an_operator_gives_the_values_of_a_real_run_and_the_metadata_of_one_without(
    name: str, dtype: torch.dtype
) -> None:
    rounded = name in COMPUTED_OTHERWISE_FOR_SUBCLASSES
    found = []
    with ours():
        for case in thinned(sample_cases(OPS[name], dtype), MOST):
            plain, _ = run(case, None)
            known, fakes = run(case, LIMIT)
            needs_values = plain.error is not None and plain.error.types[0] in NEEDS_VALUES
            if not needs_values:
                found += [
                    (case.variant, case.number, str(d)) for d in differences(plain, known, frozenset({"has_constant"}))
                ]
            reals = run_for_real(case)
            if reals is not None and known.error is None:
                found += [(case.variant, case.number, wrong) for wrong in wrong_values(fakes, reals, rounded=rounded)]
    assert not found, "\n".join(map(str, found[:12]))
