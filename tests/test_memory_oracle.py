"""Memory, compared with torch's trackers under the same program, and with real tensors under torch.profiler.

Where torch's trackers are wrong, a program that is small enough to count by hand shows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint

from fastfake import FakeTensorMode
from fastfake.memory import Phase, track

pytest.importorskip("transformers")

from bench.garbage import no_garbage
from memory_oracle import profiled, programs, trackers
from memory_oracle.programs import FACTORS, PLAIN, Case, is_possible, pairwise
from memory_oracle.trackers import our_bytes, torch_bytes

KIB4 = 4096  # bytes of a tensor of 1024 float32

# Before everything else: llama with much at once, a model that is sharded, and one that chooses experts.
QUICK = (
    Case("llama", "AdamW", "full", device="cuda", autocast=True, batches=2),
    Case("gpt2", "SGD with momentum", sharded=True),
    Case("mixtral", "Adam, fused", "selective"),
)


def every(cases: tuple[Case, ...] | list[Case], quick: tuple[Case, ...]) -> list[object]:
    """Leave all but the quick ones to the exhaustive run."""
    others = [pytest.param(case, marks=pytest.mark.exhaustive, id=str(case)) for case in cases if case not in quick]
    return [*(pytest.param(case, id=str(case)) for case in quick), *others]


def tensor(**settings: bool) -> Tensor:
    return torch.empty(1024, **settings)


# Where torch's trackers are right.


def test_the_cases_put_every_two_values_together() -> None:
    cases = pairwise()
    for a, b in itertools.combinations(FACTORS, 2):
        together = {(getattr(case, a), getattr(case, b)) for case in cases}
        assert together >= {(x, y) for x in FACTORS[a] for y in FACTORS[b] if is_possible({a: x, b: y})}
    assert len(cases) < 40


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", every(pairwise(), QUICK))
def test_each_category_is_what_torchs_tracker_counts_to_the_byte(case: Case) -> None:
    stages = trackers.compared(case)
    assert [name for name, _, _ in stages].count("optimizer") == 2
    assert {name: ours for name, _, ours in stages} == {name: theirs for name, theirs, _ in stages}
    for name, theirs, ours in stages:
        assert (name, ours) == (name, theirs)
        assert theirs[trackers.TOTAL] > 0


# Where they are wrong.


def test_torch_takes_what_a_checkpoint_computes_again_outside_of_modules_for_temporary() -> None:
    with FakeTensorMode():
        weight = tensor(requires_grad=True)
        theirs = MemTracker()
        theirs.track_external(weight)
        with track(weight) as ours, theirs:
            out = checkpoint(lambda x: x.sin().cos().sin(), weight, use_reentrant=False)
            out.sum().backward()
    # The peak is in the backward pass of `cos`, which needs what the first `sin` gave, computed again. There are the
    # gradient that came, the sine, its negation and the product of the two. The loss and its gradient have 4 bytes.
    right = {"Other": KIB4, "Activation": KIB4 + 8 + KIB4, "Temp": 4 * KIB4, "Total": 7 * KIB4 + 8}
    assert our_bytes(ours.timeline, "cpu", sharded=False) == right
    assert ours.peak().by("phase")[Phase.RECOMPUTATION.value] == KIB4
    wrong = {"Other": KIB4, "Activation": KIB4 + 8, "Temp": 5 * KIB4, "Total": 7 * KIB4 + 8}
    assert torch_bytes(theirs, "cpu", "peak") == wrong
    del out


def test_torch_misses_a_peak_between_operators() -> None:
    with FakeTensorMode():
        buffer = tensor()
        # Made under ours: it keeps the function that resizes storages as it finds it.
        with track(buffer) as ours, MemTracker() as theirs:
            theirs.track_external(buffer)
            buffer.untyped_storage().resize_(100 * KIB4)
            buffer.untyped_storage().resize_(KIB4)
            out = tensor()
    assert ours.peak().bytes == 100 * KIB4
    assert torch_bytes(theirs, "cpu", "peak")["Total"] == 2 * KIB4
    del out


class Sum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a.sin() + b.exp()


def test_torch_keeps_gradients_alive_itself() -> None:
    """A hook on several tensors, of which it puts one on each module, holds their gradients until it has them all."""

    def program() -> None:
        first, second = tensor(requires_grad=True), tensor(requires_grad=True)
        a, b = first.sin(), second
        for _ in range(3):
            b = b.sigmoid()
        Sum()(a, b).sum().backward()

    with FakeTensorMode():
        with track() as alone:
            program()
        with track() as watched, MemTracker() as theirs:
            program()
    # The peak is in the backward pass of the last sigmoid: the two leaves, `a`, the three sigmoids, their gradients
    # at both arguments of the module, and what it computes. Later the gradient at `b` should be gone, since the node
    # that it was for is done; but the one at `a` is handed on last of all.
    assert alone.peak().bytes == 9 * KIB4 + 8
    assert watched.peak().bytes == torch_bytes(theirs, "cpu", "peak")["Total"] == 10 * KIB4 + 8


def test_torch_leaves_compiled_models_uncompiled_and_their_gradients_unrecognized() -> None:
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(32, 32, bias=False))
        compiled = torch.compile(model, backend="aot_eager")
        x = torch.empty(2, 32)
        theirs = MemTracker()
        theirs.track_external(model, x)
        with pytest.warns(UserWarning, match="global hooks on modules"), track(model, x) as ours, theirs:
            compiled(x).sum().backward()
    gradient = {"Parameter": KIB4, "Gradient": KIB4, "Other": 256, "Total": 2 * KIB4 + 256}
    timeline = ours.timeline
    assert our_bytes(timeline, "cpu", sharded=False, moment=timeline.moments) == gradient
    wrong = {"Parameter": KIB4, "Temp": KIB4, "Other": 256, "Total": 2 * KIB4 + 256}
    assert torch_bytes(theirs, "cpu", "current") == wrong


@pytest.fixture
def ranks() -> Iterator[dist.DeviceMesh]:
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=8)
    yield dist.init_device_mesh("cpu", (8,))
    dist.destroy_process_group()


def test_torch_counts_what_dtensor_computes_to_learn_shapes(ranks: dist.DeviceMesh) -> None:
    with FakeTensorMode():
        x = DTensor.from_local(tensor(), ranks, [Shard(0)])
        theirs = MemTracker()
        theirs.track_external(x)
        with track(x) as ours, theirs:
            out = x.digamma()  # an operator that no other test has DTensor learn
    assert ours.peak().bytes == 2 * KIB4
    # It learns with fake tensors of the size of all eight shards: one, and what the operator makes of it.
    assert torch_bytes(theirs, "cpu", "peak")["Total"] > 8 * KIB4
    del out


class Rows(nn.Module):
    """Has a parameter of one row, of which only the first rank has anything, and one of a row for each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.empty(1, 1024))
        self.eight = nn.Parameter(torch.empty(8, 1024))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one + self.eight.sum()


def test_torch_takes_a_shard_that_fsdp_pads_for_an_activation(ranks: dist.DeviceMesh) -> None:
    with FakeTensorMode():
        model = Rows()
        fully_shard(model, mesh=ranks)
        with track(model) as ours, FSDPMemTracker(model) as theirs:
            model(tensor())
    # Both are padded to a row on each rank, and both are gathered, with the padding.
    timeline = ours.timeline
    right = {"Sharded Param": 2 * KIB4, "Unsharded Param": 16 * KIB4, "Total": 18 * KIB4}
    assert our_bytes(timeline, "cpu", sharded=True, moment=timeline.moments) == right
    wrong = {"Sharded Param": KIB4, "Activation": KIB4, "Unsharded Param": 16 * KIB4, "Total": 18 * KIB4}
    assert torch_bytes(theirs, "cpu", "current") == wrong


# Against real tensors.

# What operators of the CPU take while they run, and why. Of those that are made of other operators, what is freed
# inside is theirs too; ours knows of it.
SCRATCH = {
    profiled.NUMBER: "Python makes a tensor of the number that an operator is called with",
    "aten::add": "the number, in the type of the result",
    "aten::add_": "the number, in the type of the result",
    "aten::mul": "the number, in the type of the result",
    "aten::mul_": "the number, in the type of the result",
    "aten::div": "the number, in the type of the result",
    "aten::div_": "the number, in the type of the result",
    "aten::eq": "the number, in the type that is compared",
    "aten::gt": "the number, in the type that is compared",
    "aten::lt": "the number, in the type that is compared",
    "aten::embedding": "the indices in one row",
    "aten::embedding_dense_backward": "the indices, or the gradients, in one piece",
    "aten::_safe_softmax": "which rows are hidden altogether",
    "aten::native_layer_norm_backward": "sums of each thread",
    "aten::native_group_norm_backward": "sums of each channel",
    "aten::native_batch_norm": "statistics of each channel",
    "aten::native_batch_norm_backward": "operands in one piece, and statistics of each channel",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "a block of scores of each thread",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "blocks of scores of each thread, and sums of rows",
    "aten::mkldnn_convolution": "operands and results in the order that oneDNN likes",
    "aten::_convolution": "operands in columns",
    "aten::convolution_backward": "operands, gradients and results in the order that oneDNN likes",
    "aten::upsample_nearest2d": "the operand with channels last",
}
# What real tensors are written to in place, if nobody else has them, and fake ones are not: torch asks whether they
# are of a subclass. Where gradients come together, in attention that is made of other operators, and in the backward
# passes of indexing and of gathering.
IN_PLACE = {"aten::add.Tensor", "aten::index_put", "aten::scatter.src"}

PROFILED = [Case(model, "AdamW") for model in (*FACTORS["model"], *PLAIN)]
PROFILED_QUICK = (Case("llama", "AdamW"), Case("convolutions", "AdamW"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", every(PROFILED, PROFILED_QUICK))
def test_live_bytes_are_those_of_the_real_program_but_for_scratch_space(case: Case) -> None:
    with no_garbage():
        programs.prepare(case).step(lambda stage: None)
        program = programs.prepare(case)
        events = profiled.profile(lambda: program.step(lambda stage: None))
    with trackers.surroundings(case):
        program = programs.prepare(case)
        with track(program.model, program.optimizer, *program.inputs.values()) as tracker:
            before = len(tracker.timeline.allocations)
            program.step(lambda stage: None)
    found = profiled.compare(events, tracker.timeline, before)
    assert found.difference == ""
    assert set(found.scratch) <= set(SCRATCH)
    assert set(found.in_place) <= IN_PLACE
    assert found.our_peak >= found.peak_without_scratch
    assert found.our_peak - found.peak_without_scratch <= found.largest_in_place
