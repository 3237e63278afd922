"""The operators of torch.distributed: answered from the cache as torch computes them, as long as torch's kernels do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import both_sides
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils import _pytree as pytree

import fastfake
from fastfake import FakeTensorMode

functional = torch.ops._c10d_functional
RANKS = 4


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=RANKS)
    yield
    dist.destroy_process_group()


def world() -> str:
    assert dist.group.WORLD is not None
    return dist.group.WORLD.group_name


def some(*shape: int, device: str = "cpu") -> torch.Tensor:
    return torch.empty(*shape, device=device)


def columns(rows: int) -> torch.Tensor:
    """A tensor that is not contiguous."""
    return torch.empty(3, rows).t()


Call = Callable[[], tuple[list[torch.Tensor], Any]]


def with_arguments(call: Callable[..., Any], *arguments: Any) -> tuple[list[torch.Tensor], Any]:
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    return tensors, call(*arguments)


def several(*shape: int) -> list[torch.Tensor]:
    return [some(*shape) for _ in range(RANKS)]


# Each makes its arguments and returns the tensors among them, and the results.
CALLS: dict[str, Call] = {
    "allreduce_": lambda: with_arguments(lambda x: dist.all_reduce(x, async_op=True), some(2, 3)),
    "broadcast_": lambda: with_arguments(lambda x: dist.broadcast(x, 0, async_op=True), some(2, 3)),
    "reduce_": lambda: with_arguments(lambda x: dist.reduce(x, 0, async_op=True), some(2, 3)),
    "_allgather_base_": lambda: with_arguments(
        lambda out, x: dist.all_gather_into_tensor(out, x, async_op=True), some(8, 3), some(2, 3)
    ),
    "_reduce_scatter_base_": lambda: with_arguments(
        lambda out, x: dist.reduce_scatter_tensor(out, x, async_op=True), some(2, 3), some(8, 3)
    ),
    "allgather_": lambda: with_arguments(
        lambda out, x: dist.all_gather(out, x, async_op=True), several(2, 3), some(2, 3)
    ),
    "reduce_scatter_": lambda: with_arguments(
        lambda out, x: dist.reduce_scatter(out, x, async_op=True), some(2, 3), several(2, 3)
    ),
    "gather_": lambda: with_arguments(lambda x: dist.gather(x, None, 0, async_op=True), some(2, 3)),
    "scatter_": lambda: with_arguments(lambda x: dist.scatter(x, None, 0, async_op=True), some(2, 3)),
    "alltoall_": lambda: with_arguments(
        lambda out, x: dist.all_to_all(out, x, async_op=True), several(2, 3), several(2, 3)
    ),
    "alltoall_base_": lambda: with_arguments(
        lambda out, x: dist.all_to_all_single(out, x, async_op=True), some(8, 3), some(8, 3)
    ),
    "barrier": lambda: with_arguments(lambda: dist.barrier(async_op=True)),
    "send": lambda: with_arguments(lambda x: dist.isend(x, 0), some(2, 3)),
    "recv_": lambda: with_arguments(lambda x: dist.irecv(x, 0), some(2, 3)),
    "on an accelerator": lambda: with_arguments(functional.all_reduce, some(2, 3, device="cuda"), "sum", world()),
    "broadcast": lambda: with_arguments(functional.broadcast, columns(2), 0, world()),
    "broadcast in place": lambda: with_arguments(functional.broadcast_, columns(2), 0, world()),
    "all_reduce": lambda: with_arguments(functional.all_reduce, columns(2), "sum", world()),
    "all_reduce in place": lambda: with_arguments(functional.all_reduce_, columns(2), "sum", world()),
    "all_reduce_coalesced": lambda: with_arguments(functional.all_reduce_coalesced, several(2, 3), "sum", world()),
    "all_reduce_coalesced in place": lambda: with_arguments(
        functional.all_reduce_coalesced_, several(2, 3), "sum", world()
    ),
    "all_gather_into_tensor": lambda: with_arguments(functional.all_gather_into_tensor, columns(2), RANKS, world()),
    "all_gather_into_tensor_coalesced": lambda: with_arguments(
        functional.all_gather_into_tensor_coalesced, several(2, 3), RANKS, world()
    ),
    "reduce_scatter_tensor": lambda: with_arguments(
        functional.reduce_scatter_tensor, columns(8), "sum", RANKS, world()
    ),
    "all_to_all_single": lambda: with_arguments(
        functional.all_to_all_single, some(8, 3), [2, 0, 3, 1], [2, 2, 2, 2], world()
    ),
    "wait_tensor": lambda: with_arguments(functional.wait_tensor, columns(2)),
    "shard_dim_alltoall": lambda: with_arguments(
        torch.ops._dtensor.shard_dim_alltoall, some(8, 3), 0, 1, world()
    ),
    "fsdp::all_gather_copy_in": lambda: with_arguments(
        torch.ops.fsdp.all_gather_copy_in, [some(2), some(3)], some(20), [2, 3], 5, 1
    ),
    "fsdp::split_with_sizes_copy": lambda: with_arguments(
        lambda x, *out: torch.ops.fsdp.split_with_sizes_copy(x, [2, 3], 1, out=out), some(4, 5), some(4, 2), some(4, 3)
    ),
    "fsdp::chunk_cat": lambda: with_arguments(
        lambda *tensors: torch.ops.fsdp.chunk_cat(tensors[1:], 0, RANKS, out=tensors[0]),
        some(RANKS, 5), some(8), some(12),
    ),
    "fsdp::copy_": lambda: with_arguments(torch.ops.fsdp.copy_, some(2, 3), some(2, 3)),
}  # fmt: skip


def described(tensors: list[torch.Tensor], results: Any) -> Any:
    """What can be seen of the results: for tensors metadata, and which argument they are or share the storage of."""

    def describe(result: Any) -> Any:
        if not isinstance(result, torch.Tensor):
            return type(result).__name__
        storages = [tensor.untyped_storage()._cdata for tensor in tensors]
        return (
            both_sides.describe(result),
            [result is tensor for tensor in tensors],
            [result.untyped_storage()._cdata == storage for storage in storages],
            result._version,
        )

    return pytree.tree_map(describe, results), [(both_sides.describe(t), t._version) for t in tensors]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_answers_from_the_cache_are_what_torch_computes() -> None:
    def three_times(call: Call) -> Callable[[Any], Any]:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                return [described(*call()) for _ in range(3)]

        return program

    FakeTensorMode.cache_clear()
    both_sides.assert_all_same({name: three_times(call) for name, call in CALLS.items()})
    assert FakeTensorMode.cache_info().bypasses == {}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_only_the_first_call_is_computed(mode: FakeTensorMode, name: str) -> None:
    CALLS[name]()
    before = FakeTensorMode.cache_info()
    CALLS[name]()
    after = FakeTensorMode.cache_info()
    assert after.misses == before.misses
    assert after.bypasses == {}
    assert after.hits > before.hits


def test_each_call_is_waited_for_by_a_work_of_its_own(mode: FakeTensorMode) -> None:
    from torch._C._distributed_c10d import FakeWork

    numbers = set()
    for _ in range(4):
        group = dist.group.WORLD
        assert group is not None
        _, work = torch.ops.c10d._allgather_base_(some(8, 3), some(2, 3), group.boxed())
        numbers.add(FakeWork.unbox(work).seq_id)
    assert len(numbers) == 4
    assert min(numbers) > 0
    assert FakeTensorMode.cache_info().bypasses == {}


def test_calls_on_other_groups_and_sizes_are_other_calls(mode: FakeTensorMode) -> None:
    x = some(8, 3)
    half = dist.new_group([0, 1]).group_name
    for _ in range(2):
        assert functional.all_gather_into_tensor(x, RANKS, world()).shape == (32, 3)
        assert functional.all_gather_into_tensor(x, 2, half).shape == (16, 3)
        assert functional.reduce_scatter_tensor(x, "sum", RANKS, world()).shape == (2, 3)
        assert functional.reduce_scatter_tensor(x, "sum", 2, half).shape == (4, 3)
        assert functional.all_to_all_single(x, [1, 1, 1, 1], [2, 2, 2, 2], world()).shape == (4, 3)
        assert functional.all_to_all_single(x, [4, 0, 0, 0], [2, 2, 2, 2], world()).shape == (4, 3)
    misses = FakeTensorMode.cache_info().misses
    functional.all_reduce(x, "sum", world())
    functional.all_reduce(x, "sum", half)
    assert FakeTensorMode.cache_info().misses == misses + 2


def test_a_program_with_dtensors_has_the_same_results_and_few_bypasses() -> None:
    mesh = init_device_mesh("cpu", (RANKS,))

    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode():
            weight = distribute_tensor(torch.empty(8, 6, requires_grad=True), mesh, [Shard(0)])
            weight = torch.nn.Parameter(weight.detach())
            found = []
            for _ in range(3):
                x = DTensor.from_local(torch.empty(5, 6), mesh, [Replicate()])
                out = torch.nn.functional.linear(x, weight).redistribute(placements=[Replicate()])
                out.sum().backward()
                found.append([out.to_local(), weight.grad.to_local()])
                weight.grad = None
            return found

    FakeTensorMode.cache_clear()
    both_sides.assert_same(program)
    assert fastfake.declined_calls() > 0
    assert FakeTensorMode.cache_info().bypasses == {}


def test_calls_on_tensors_of_a_class_that_is_asked_first_count_as_declined(mode: FakeTensorMode) -> None:
    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls: Any, inner: torch.Tensor) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

        def __init__(self, inner: torch.Tensor) -> None:
            self.inner = inner

        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            args, kwargs = pytree.tree_map_only(Wrapper, lambda wrapper: wrapper.inner, (args, kwargs or {}))
            return func(*args, **kwargs)

    x = Wrapper(torch.empty(3))
    FakeTensorMode.cache_clear()
    for count in (1, 2, 3):
        assert x.sin().shape == (3,)
        assert torch.cat([x, x]).shape == (6,)
        info = FakeTensorMode.cache_info()
        assert (fastfake.declined_calls(), info.bypasses) == (2 * count, {})
    assert (info.misses, info.hits) == (2, 4)


def test_a_sharded_model_is_trained_almost_entirely_from_the_cache() -> None:
    mesh = init_device_mesh("cpu", (RANKS,))

    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode():
            model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
            for layer in model:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            optimizer = torch.optim.AdamW(model.parameters())
            infos = []
            for _ in range(4):
                model(torch.empty(2, 8)).sum().backward()
                optimizer.step()
                gradients = [parameter.grad.to_local() for parameter in model.parameters()]
                optimizer.zero_grad()
                infos.append(fakes.FakeTensorMode.cache_info())
            return gradients, infos

    theirs = both_sides.on_torch(lambda fakes: program(fakes)[0])
    gradients, infos = both_sides.on_ours(program)
    assert gradients == theirs
    before, after = infos[-2:]
    hits, bypassed = (after.hits - before.hits), sum(after.bypasses.values()) - sum(before.bypasses.values())
    assert hits > 100
    assert bypassed < 0.02 * hits


def test_a_kernel_that_a_program_puts_in_the_place_of_torchs_is_asked_each_time(mode: FakeTensorMode) -> None:
    x = some(2, 3)
    sent: list[int] = []

    def ledger(tensors: list[torch.Tensor], *rest: object) -> Any:
        sent.append(tensors[0].numel())
        return torch.distributed._meta_registrations.create_fakework((), return_first_arg=False)

    dist.isend(x, 0), dist.isend(x, 0)
    with torch.library._scoped_library("c10d", "IMPL") as library, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl("send", ledger, "Meta", allow_override=True)
        for _ in range(3):
            dist.isend(x, 0)
    # An operator that the tests after this one do not call: torch goes on calling the kernel when the library is gone.
    assert sent == [6, 6, 6]
    assert FakeTensorMode.cache_info().bypasses == {"non-builtin": 3}


def test_a_fake_implementation_that_a_program_registers_is_asked_each_time(mode: FakeTensorMode) -> None:
    x = some(2, 3)
    asked = []

    def implementation(tensor: torch.Tensor, *rest: object) -> torch.Tensor:
        asked.append(1)
        return tensor.new_empty(1)

    # An operator that no other test calls: torch leaves a kernel behind that asks for the implementation.
    def shapes() -> list[torch.Size]:
        return [functional.irecv(x, 0, 0, world()).shape for _ in range(3)]

    assert shapes() == [(2, 3)] * 3
    with torch.library._scoped_library("_c10d_functional", "FRAGMENT") as library:
        torch.library.register_fake("_c10d_functional::irecv", implementation, lib=library, allow_override=True)
        assert shapes() == [(1,)] * 3
        assert len(asked) == 3
        # Whoever vouches for it may have it cached.
        with fastfake.cache_operators_temporarily(functional.irecv.default):
            assert shapes() == [(1,)] * 3
        assert len(asked) == 4
        assert shapes() == [(1,)] * 3
        assert len(asked) == 7
