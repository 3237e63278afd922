"""The key of a call has in it whatever of torch's settings the results of operators depend on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
import torch._dynamo.config as dynamo_config
import torch._functorch.config as functorch_config
import torch._subclasses.fake_tensor as torch_fake_tensor
import torch.fx.experimental._config as symbolic_config
from opinfo.compare import differences
from opinfo.record import CallRecord, record_call
from opinfo.samples import OPS, Case, fake_arguments, sample_cases, usual_dtype
from opinfo.sides import ours
from process_settings import judgements, names
from process_settings.changes import CHANGES
from process_settings.judgements import Judgements
from torch.utils._pytree import tree_leaves

from fastfake import FakeTensorMode

pytestmark = pytest.mark.usefixtures("quiet_fake_tensor_log")


@pytest.mark.parametrize(
    ("found", "table"),
    [
        pytest.param(names.native(), judgements.NATIVE, id="torch._C"),
        pytest.param(names.backends(), judgements.BACKENDS, id="torch.backends"),
        pytest.param(set(functorch_config._config), judgements.FUNCTORCH_CONFIG, id="functorch"),
        pytest.param(set(symbolic_config._config), judgements.SYMBOLIC_CONFIG, id="symbolic shapes"),
        pytest.param(set(dynamo_config._config), judgements.DYNAMO_CONFIG, id="Dynamo"),
        pytest.param(
            {name for name in vars(torch_fake_tensor.FakeTensorConfig) if not name.startswith("__")},
            judgements.FAKE_TENSOR_CONFIG,
            id="fake tensors",
        ),
    ],
)
def test_every_setting_of_torch_has_been_judged(found: set[str], table: Judgements) -> None:
    judged = judgements.judged(table)
    assert found, "no setting was found: nothing was judged"
    assert sorted(found - judged.keys()) == []
    assert sorted(judged.keys() - found - judgements.NOT_IN_EVERY_RELEASE) == []


# Operators that ask for settings, in their kernels, their decompositions or Python code that they run.
SENSITIVE = (
    "bernoulli",
    "cumsum",
    "einsum",
    "index_put",
    "linspace",
    "nn.functional.batch_norm",
    "nn.functional.conv2d",
    "nn.functional.linear",
    "nn.functional.scaled_dot_product_attention",
    "scatter_add",
    "std",
    "true_divide",
    "view",
)


def first_samples(name: str) -> list[Case]:
    dtype = usual_dtype(OPS[name])
    assert dtype is not None
    cases = [case for case in sample_cases(OPS[name], dtype) if case.number == 0]
    return [case for case in cases if case.variant == "function"]


def answer(case: Case, device: str, *, cached: bool) -> CallRecord:
    """What one call gives on tensors of the device, made for it."""
    with dynamo_config.patch(fake_tensor_cache_enabled=cached):
        mode = FakeTensorMode()
    with mode:
        args, kwargs = fake_arguments(case, lambda tensor: _fake(mode, tensor, device))
    return record_call(case.function, args, kwargs, mode)


def _fake(mode: FakeTensorMode, tensor: torch.Tensor, device: str) -> torch.Tensor:
    with torch_fake_tensor.unset_fake_temporarily():
        fake = mode.from_tensor(tensor)
    return fake if device == "cpu" else fake.to(device)


def wrong_answers(case: Case, device: str, base: Callable[[], AbstractContextManager[object]]) -> Iterator[str]:
    """Fill the cache under `base`, and ask it under each change of a setting."""
    FakeTensorMode.cache_clear()
    with base():
        answer(case, device, cached=True)
        for change in CHANGES:
            with change.context():
                cached, computed = answer(case, device, cached=True), answer(case, device, cached=False)
            for difference in differences(computed, cached):
                yield f"{case.variant} on {device}, {change}: {difference}"


def devices_of(case: Case) -> tuple[str, ...]:
    """Where the call is made. Sparse tensors come from real ones and cannot be moved to a device that is not there."""
    tensors = [leaf for leaf in tree_leaves((case.args, case.kwargs)) if isinstance(leaf, torch.Tensor)]
    return ("cpu", "cuda") if all(tensor.layout == torch.strided for tensor in tensors) else ("cpu",)


def check(name: str, base: Callable[[], AbstractContextManager[object]]) -> None:
    cases = first_samples(name)
    assert cases, f"{name} has no sample: nothing was compared"
    with ours():
        wrong = [text for case in cases for device in devices_of(case) for text in wrong_answers(case, device, base)]
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("base", [contextlib.nullcontext, torch.inference_mode])
@pytest.mark.parametrize("name", SENSITIVE)
def test_no_answer_of_an_operator_that_asks_for_settings_outlives_them(
    name: str, base: Callable[[], AbstractContextManager[object]]
) -> None:
    check(name, base)


# Operators that decompose are whole only below autograd, so inference mode finds more.
@pytest.mark.parametrize(
    "base",
    [
        pytest.param(contextlib.nullcontext, marks=pytest.mark.nightly),
        pytest.param(torch.inference_mode, marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("name", [name for name, op in OPS.items() if usual_dtype(op) and name not in SENSITIVE])
def test_no_answer_outlives_the_settings_that_it_was_computed_under(
    name: str, base: Callable[[], AbstractContextManager[object]]
) -> None:
    check(name, base)
