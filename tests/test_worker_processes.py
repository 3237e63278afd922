"""Processes that a program with fastfake begins do their work, whether they have fastfake too or not."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import fresh_process
import pytest
import torch
from torch import nn


class FakeSizes(torch.utils.data.Dataset[tuple[bool, int, torch.Tensor]]):
    """Its items are what a fake tensor says of itself in the process that loads them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[bool, int, torch.Tensor]:
        from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

        with FakeTensorMode():
            fake = torch.empty(index + 1, 3).sin()
        assert type(fake) is FakeTensor
        return FakeTensor.__module__.startswith("fastfake"), fake.numel(), torch.full((2,), float(index))


def load_data(method: str) -> tuple[list[bool], list[int], list[float]]:
    """Compile a step and run it on what a worker loads, begun by the given method."""
    import fastfake

    fastfake.install()
    step = torch.compile(lambda x: x.sin() + 1, backend="aot_eager", dynamic=True)
    step(torch.ones(5))
    loader = torch.utils.data.DataLoader(FakeSizes(), batch_size=2, num_workers=1, multiprocessing_context=method)
    batches = list(loader)
    torch.testing.assert_close(step(batches[1][2].view(-1)), batches[1][2].view(-1).sin() + 1)
    return tuple([value for batch in batches for value in batch[part].flatten().tolist()] for part in range(3))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("method", "has_fastfake"), [("fork", True), ("spawn", False)])
def test_data_is_loaded_by_workers_that_have_fastfake_if_they_are_forked(method: str, has_fastfake: bool) -> None:
    ours, sizes, data = fresh_process.call(load_data, method)
    assert ours == [has_fastfake] * 4
    assert sizes == [3, 6, 9, 12]
    assert data == [0, 0, 1, 1, 2, 2, 3, 3]


def compile_with_workers(cache: Path, method: str) -> tuple[int, int, torch.Tensor]:
    """Compile while there are worker processes; return a worker's id, their parent's and the result."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    import fastfake

    fastfake.install()
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile

    with config.patch(compile_threads=2, worker_start_method=method, force_disable_caches=True):
        AsyncCompile.warm_pool()
        # Inductor itself gives them kernels of Triton only, which needs a GPU.
        worker = AsyncCompile.process_pool().submit(os.getpid).result(timeout=120)
        result = torch.compile(lambda x: x @ x.T, dynamic=True)(torch.ones(3, 4))
    return worker, os.getpid(), result


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["subprocess", "fork"])
def test_inductors_worker_processes_answer_a_program_with_fastfake(tmp_path: Path, method: str) -> None:
    worker, parent, result = fresh_process.call(compile_with_workers, tmp_path, method)
    assert worker != parent
    torch.testing.assert_close(result, torch.full((3, 3), 4.0))


def compile_elsewhere(cache: Path, mode: str, with_fastfake: bool) -> tuple[torch.Tensor, int, str]:
    """Have Inductor pickle the graph with its fake tensors; the result, how many graphs it did so, and messages."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    # The other process sets every option of Inductor's, deprecated ones too.
    os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning"
    if with_fastfake:
        import fastfake

        fastfake.install()
    from torch._inductor import compile_fx, compile_fx_ext, config

    compile_fx.fx_compile_mode = compile_fx.FxCompileMode[mode]
    sent = []
    deserialize = compile_fx_ext._WireProtocolPickledOutput.deserialize

    def note(self: Any, constants: Any) -> Any:
        sent.append(self)
        return deserialize(self, constants)

    compile_fx_ext._WireProtocolPickledOutput.deserialize = note
    weight = torch.ones(4, 4)
    with fresh_process.captured_stderr() as stderr, config.patch(fx_graph_cache=False), torch.no_grad():
        result = torch.compile(lambda x: x @ weight @ weight, dynamic=True)(torch.ones(3, 4))
        return result, len(sent), stderr()


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", ["SERIALIZE", "SUBPROCESS"])
def test_inductor_sends_graphs_with_our_fake_tensors_to_other_processes(tmp_path: Path, mode: str) -> None:
    result, sent, stderr = fresh_process.call(compile_elsewhere, tmp_path, mode, True)
    torch.testing.assert_close(result, torch.full((3, 4), 16.0))
    assert (sent, stderr) == (1, "")


def distribute(rank: int, directory: Path, with_fastfake: bool) -> list[str]:
    """What DTensor and a compiled parallel model make of real data on one of two ranks."""
    if with_fastfake:
        import fastfake

        fastfake.install()
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    store = dist.FileStore(str(directory / "store"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store, timeout=timedelta(minutes=5))
    try:
        mesh = dist.init_device_mesh("cpu", (2,))
        torch.manual_seed(0)
        x = distribute_tensor(torch.randn(5, 4), mesh, [Shard(0)])
        y = distribute_tensor(torch.randn(4, 6), mesh, [Replicate()])
        partial = DTensor.from_local(torch.ones(2, 2) * (rank + 1), mesh, [Partial()])
        values = [x @ y, (x @ y).sum(0), x.redistribute(mesh, [Shard(1)]), partial.redistribute(mesh, [Replicate()])]
        found = [f"{value._spec} {value.to_local()} {value.full_tensor()}" for value in values]
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model = parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        result = torch.compile(model, backend="aot_eager", dynamic=True)(torch.randn(3, 4))
        result.sum().backward()
        gradients = [parameter.grad.full_tensor() for parameter in model.parameters()]
        return [*found, str(result), *map(str, gradients)]
    finally:
        dist.destroy_process_group()


@pytest.mark.exhaustive
def test_two_ranks_with_fastfake_compute_what_two_without_compute(tmp_path: Path) -> None:
    found = {}
    for with_fastfake in (False, True):
        directory = tmp_path / str(with_fastfake)
        directory.mkdir()
        ranks = [(distribute, rank, directory, with_fastfake) for rank in (0, 1)]
        found[with_fastfake] = fresh_process.calls(*ranks)
    assert len(found[False][0]) == 9
    assert found[True] == found[False]
