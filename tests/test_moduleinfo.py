"""Every module of torch's ModuleInfo database, made and run under a fake mode, gives what it gives on torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from opinfo.compare import differences
from opinfo.record import CallRecord, record_call
from opinfo.samples import MOST_SAMPLES, Case, fake_arguments, thinned
from opinfo.sides import clear_cache, ours, record_case
from opinfo.torch_records import TorchRecords
from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.utils._pytree import tree_leaves

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("quiet_fake_tensor_log")]

# The second call of the same kind is answered from the cache.
CALLS = 2

MODULES: dict[str, ModuleInfo] = {info.name: info for info in module_db}


# Their constructors deep-copy layers. Torch's copies of fake tensors belong to another mode and cannot be used; those
# of fastfake can, so that the module works as with real tensors.
REFUSED_BY_TORCH = frozenset({"nn.Transformer"})


@dataclass(frozen=True)
class ModuleJob:
    """One module's samples, in training or not."""

    name: str
    training: bool

    def __str__(self) -> str:
        return f"{self.name}-{'train' if self.training else 'eval'}"

    def record(self) -> list[tuple[Case, CallRecord]]:
        recorded = []
        for case in module_cases(MODULES[self.name], training=self.training):
            clear_cache()
            recorded.append((case, record_case(case)))
        return recorded


JOBS = [
    ModuleJob(name, training)
    for name, info in MODULES.items()
    for training in ((True, False) if info.train_and_eval_differ else (True,))
    if torch.float32 in info.supported_dtypes("cpu")
]


def module_cases(info: ModuleInfo, *, training: bool) -> list[Case]:
    """The samples as calls that make the module, run it forward, and run backward from all that it gives."""

    def make_and_run(
        made_of: tuple[Sequence[object], Mapping[str, object]],
        called_with: tuple[Sequence[object], Mapping[str, object]],
    ) -> object:
        module = info.module_cls(*made_of[0], **made_of[1]).train(training)
        result = module(*called_with[0], **called_with[1])
        ends = [end for end in tree_leaves(result) if isinstance(end, torch.Tensor) and end.requires_grad]
        if ends:
            torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
        return result, dict(module.state_dict(keep_vars=True))

    torch.manual_seed(0)
    samples = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training)
    cases = []
    for number, sample in enumerate(samples):
        made_of, called_with = sample.constructor_input, sample.forward_input
        if called_with is not None:
            args = ((made_of.args, made_of.kwargs), (called_with.args, called_with.kwargs))
            cases.append(Case("module", number, make_and_run, args, {}))
    return thinned(cases, MOST_SAMPLES)


def record_eagerly(case: Case) -> CallRecord:
    args, kwargs = fake_arguments(case, lambda t: t.detach().clone().requires_grad_(t.requires_grad))
    return record_call(case.function, args, kwargs, contextlib.nullcontext())


def outcome(record: CallRecord) -> object:
    """The result's shape, and for each parameter its shape and whether it has a gradient."""
    assert record.error is None and record.result is not None, record.error
    (_, output), (_, state) = record.result[1]
    tensors = record.tensors
    return tensors[output].shape, [(name, tensors[n].shape, tensors[n].grad is None) for name, (_, n) in state]


@pytest.mark.parametrize("job", [job for job in JOBS if job.name in REFUSED_BY_TORCH], ids=str)
def test_module_that_copies_layers_works_as_on_real_tensors(job: ModuleJob, torch_records: TorchRecords) -> None:
    ran = 0
    for case, refused in torch_records.of(job):
        assert refused.error is not None and "Mixing fake modes" in refused.error.text
        with ours():
            record = record_case(case)
        # A module that is given a mask reads it to see whether it is a causal one.
        if record.error is None or record.error.types[0] != "DataDependentOutputException":
            assert outcome(record) == outcome(record_eagerly(case))
            ran += 1
    assert ran


@pytest.mark.parametrize("job", [job for job in JOBS if job.name not in REFUSED_BY_TORCH], ids=str)
def test_module_and_its_backward_give_what_torch_gives(job: ModuleJob, torch_records: TorchRecords) -> None:
    recorded = torch_records.of(job)
    assert recorded, f"{job} has no sample: nothing was compared"
    found = []
    with ours():
        clear_cache()
        for call in range(1, CALLS + 1):
            for case, expected in recorded:
                found += [f"sample {case.number}, call {call}: {d}" for d in differences(expected, record_case(case))]
    assert not found, "\n  ".join([f"{job}: {len(found)} differences", *found[:12]])
