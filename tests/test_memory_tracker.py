"""The tracker notes each storage of a fake mode from birth to death, and what it is for."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.checkpoint import checkpoint

import fastfake
from fastfake import FakeTensorMode
from fastfake.memory import Allocation, Category, Phase, Timeline, Tracker, track

KIB = 1024  # bytes of a tensor of 256 float32


def floats(count: int = 256, device: str = "cpu", **settings: bool) -> Tensor:
    return torch.empty(count, device=device, **settings)


def made_by(timeline: Timeline, operator: str) -> list[Allocation]:
    return [allocation for allocation in timeline.allocations if allocation.operator == operator]


def test_a_storage_lives_from_the_call_that_made_it_until_nobody_has_it() -> None:
    with FakeTensorMode(), track() as tracker:
        first = floats()
        view = first[:10]
        del first
        second = floats(512)
        del view
        third = floats()
    assert [(a.bytes, a.operator, a.category) for a in tracker.timeline.allocations] == [
        (KIB, "aten::empty.memory_format", Category.TEMPORARY),
        (2 * KIB, "aten::empty.memory_format", Category.TEMPORARY),
        (KIB, "aten::empty.memory_format", Category.TEMPORARY),
    ]
    first_died = tracker.timeline.allocations[0].died
    assert first_died is not None
    assert tracker.timeline.allocations[1].born < first_died < tracker.timeline.allocations[2].born
    assert tracker.peak().bytes == 3 * KIB
    assert [a.died for a in tracker.timeline.allocations[1:]] == [None, None]
    del second, third


def test_the_first_call_of_an_operator_and_an_answered_one_note_the_same() -> None:
    with FakeTensorMode():
        FakeTensorMode.cache_clear()
        peaks = []
        for _ in range(2):  # a decomposition makes tensors of its own when it is computed
            with track() as tracker:
                out = nn.functional.gelu(floats()) + torch.addcmul(floats(), floats(), floats())
                del out
            peaks.append([(a.operator, a.bytes, a.born, a.died) for a in tracker.timeline.allocations])
    assert peaks[0] == peaks[1]


def test_what_is_kept_for_the_backward_pass_is_an_activation() -> None:
    with FakeTensorMode():
        start = floats(requires_grad=True)
        with track() as tracker:
            kept = start.exp()  # the result is kept for the backward pass
            passing = kept + 1
            out = passing.sum()
            del kept, passing
            out.backward()
    (exp,), (add,) = made_by(tracker.timeline, "aten::exp"), made_by(tracker.timeline, "aten::add.Tensor")
    assert (exp.category, exp.phase) == (Category.ACTIVATION, Phase.FORWARD)
    assert (add.category, add.phase) == (Category.TEMPORARY, Phase.FORWARD)
    (product,) = made_by(tracker.timeline, "aten::mul.Tensor")
    assert product.phase is Phase.BACKWARD


def test_a_training_step_has_all_categories_and_modules() -> None:
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
        optimizer = torch.optim.Adam(model.parameters())
        batch = torch.empty(8, 16)
        with track(model, optimizer) as tracker:
            for _ in range(2):
                model(batch).sum().backward()
                optimizer.step()
            assert tracker.steps == 2
        usage = tracker.timeline.at(tracker.timeline.moments)
    parameters = sum(4 * parameter.numel() for parameter in model.parameters())
    sums = usage.by("category")
    assert sums["parameter"] == sums["gradient"] == parameters
    assert sums["optimizer state"] == 2 * parameters + 4 * len(list(model.parameters()))
    assert sums["buffer"] == sum(b.numel() * b.element_size() for b in model.buffers())
    assert sums["input"] == 4 * 8 * 16
    gradients = [a for a in tracker.timeline.allocations if a.category is Category.GRADIENT]
    assert {a.module for a in gradients} == {"0", "1", "2"}
    assert {a.phase for a in gradients} == {Phase.BACKWARD}
    owned = {"parameter", "buffer", "gradient", "optimizer state"}
    assert usage.by(lambda a: f"{a.category.value} of {a.module}" if a.category.value in owned else "") == {
        **{f"parameter of {name}": size for name, size in (("0", 1088), ("1", 128), ("2", 272))},
        **{f"gradient of {name}": size for name, size in (("0", 1088), ("1", 128), ("2", 272))},
        **{f"optimizer state of {name}": 2 * size + 8 for name, size in (("0", 1088), ("1", 128), ("2", 272))},
        "buffer of 1": 2 * 64 + 8,
        "": usage.bytes - sum(usage.by("category")[name] for name in owned),
    }
    states = [a for a in tracker.timeline.allocations if a.category is Category.OPTIMIZER_STATE]
    assert {(a.phase, a.step) for a in states} == {(Phase.OPTIMIZER, 0)}


def test_inputs_by_keyword_are_inputs() -> None:
    class Scale(nn.Module):
        def forward(self, *, batch: Tensor) -> Tensor:
            return batch * 2

    with FakeTensorMode():
        model = Scale()
        with track(model) as tracker:
            model(batch=floats())
    assert [a.category for a in made_by(tracker.timeline, "aten::empty.memory_format")] == [Category.INPUT]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_computes_again_in_a_phase_of_its_own(use_reentrant: bool) -> None:
    with FakeTensorMode():
        start = floats(requires_grad=True)
        block = nn.Sequential(nn.ReLU(), nn.Sigmoid())
        with track() as tracker:
            checkpoint(block, start * 2, use_reentrant=use_reentrant).sum().backward()
    phases = [a.phase for a in made_by(tracker.timeline, "aten::sigmoid")]
    assert phases[0] is Phase.FORWARD
    assert set(phases[1:]) <= {Phase.RECOMPUTATION}
    relus = made_by(tracker.timeline, "aten::relu")
    assert [a.phase for a in relus] == [Phase.FORWARD, Phase.RECOMPUTATION]
    assert [a.category for a in relus] == [Category.TEMPORARY, Category.ACTIVATION]
    assert {a.phase for a in made_by(tracker.timeline, "aten::threshold_backward")} == {Phase.BACKWARD}


def test_a_pass_that_can_be_differentiated_again_is_no_recomputation() -> None:
    with FakeTensorMode():
        start = floats(requires_grad=True)
        with track() as tracker:
            (gradient,) = torch.autograd.grad(start.sin().sum(), start, create_graph=True)
            gradient.sum().backward()
    assert {a.phase for a in made_by(tracker.timeline, "aten::cos")} == {Phase.BACKWARD}


def test_storages_that_are_resized_count_what_they_hold() -> None:
    with FakeTensorMode(), track() as tracker:
        tensor = floats()
        storage = tensor.untyped_storage()
        storage.resize_(0)
        storage.resize_(2 * KIB)
        tensor.resize_(1024)  # an operator
    assert [a.size for a in tracker.timeline.allocations] == [KIB, 2 * KIB, 4 * KIB]
    first, second, third = tracker.timeline.allocations
    assert first.died is not None and first.died < second.born
    assert second.died == third.born
    assert (second.operator, third.operator) == ("UntypedStorage.resize_", "aten::resize_")
    assert torch.UntypedStorage.resize_.__name__ == "resize_"


def test_cuda_counts_in_blocks_of_512_bytes() -> None:
    with FakeTensorMode(), track() as tracker:
        tensors = [floats(1, "cuda"), floats(129, "cuda"), floats(0, "cuda")]
    assert [(a.device, a.bytes, a.size) for a in tracker.timeline.allocations] == [
        ("cuda:0", 512, 4),
        ("cuda:0", 1024, 516),
    ]
    del tensors


def test_what_was_there_before_counts_from_its_first_use() -> None:
    with FakeTensorMode():
        before, unused = floats(), floats()
        with track() as tracker:
            before + 1
    assert [(a.operator, a.category) for a in tracker.timeline.allocations] == [
        ("", Category.TEMPORARY),
        ("aten::add.Tensor", Category.TEMPORARY),
    ]
    del unused


def test_conversions_count_and_other_modes_do_not() -> None:
    mode, other = FakeTensorMode(), FakeTensorMode()
    with track(mode=mode) as tracker:
        other.from_tensor(torch.ones(256))
        with other:
            floats()
        converted = mode.from_tensor(torch.ones(256))
    assert [(a.bytes, a.operator) for a in tracker.timeline.allocations] == [(KIB, "")]
    del converted


def test_lines_are_the_users() -> None:
    with FakeTensorMode(), track() as tracker:
        nn.functional.layer_norm(floats(), [256])  # of Python, in torch
    (line,) = {a.line.partition(":")[0] for a in tracker.timeline.allocations if a.operator}
    assert line == __file__
    assert tracker.timeline.allocations[0].line.endswith(" in floats")


def test_a_symbolic_size_counts_its_hint() -> None:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv())
    real = torch.ones(6, 5)
    torch._dynamo.mark_dynamic(real, 0)
    with track(mode=mode) as tracker:
        tensor = mode.from_tensor(real)
        with mode:
            tensor * 2
    assert [a.size for a in tracker.timeline.allocations] == [120, 120]


def test_storages_may_die_in_other_threads_and_after_the_tracker() -> None:
    with FakeTensorMode():
        with track() as tracker:
            tensors = [floats() for _ in range(100)]
            thread = threading.Thread(target=tensors.clear)
            thread.start()
            thread.join()
            left = floats()
        assert [a.died is None for a in tracker.timeline.allocations] == [False] * 100 + [True]
        del left
        gc.collect()
        assert tracker.timeline.allocations[-1].died is None
        with track() as second:
            floats()
    assert len(second.timeline.allocations) == 1


def test_modules_of_another_mode_do_not_take_the_names_of_the_tracked_ones() -> None:
    mode = FakeTensorMode()
    with track(mode=mode) as tracker:
        with FakeTensorMode():
            nn.Linear(2, 2)(torch.empty(1, 2))
        with mode:
            nn.Sequential(nn.Linear(4, 8))(torch.empty(3, 4))
    modules = [each.module for each in tracker.timeline.allocations if each.category is Category.PARAMETER]
    assert modules == ["0", "0"]


class EndsATracker(nn.Linear):
    """Like a module of which the tracker looks at the parts when another thread ends it."""

    tracker: Tracker | None = None

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        tracker, self.tracker = self.tracker, None
        if tracker is not None:
            tracker.__exit__(None, None, None)
        return super().named_modules(*args, **kwargs)


@pytest.mark.parametrize("goes_on", [False, True], ids=["none afterwards", "another one afterwards"])
def test_a_tracker_that_ends_while_a_module_is_named_leaves_nothing(goes_on: bool) -> None:
    with FakeTensorMode() as mode, contextlib.ExitStack() as later:
        model = EndsATracker(2, 3)
        x = torch.empty(1, 2)
        model.tracker = track(mode=mode).__enter__()
        assert model(x).shape == (1, 3)
        if goes_on:
            later.enter_context(track(mode=mode))
        assert model(x).shape == (1, 3)
    assert not model._forward_pre_hooks
    assert not model.weight._backward_hooks
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_modules_and_optimizers_of_other_threads_are_theirs() -> None:
    begun, ended = threading.Barrier(3), threading.Barrier(3)

    def wait(*args: object) -> None:
        begun.wait(60)
        ended.wait(60)

    module = nn.Identity()
    module.register_forward_pre_hook(wait)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)])
    optimizer.register_step_pre_hook(wait)
    threads = [threading.Thread(target=module, args=(None,)), threading.Thread(target=optimizer.step)]
    with FakeTensorMode(), track() as tracker:
        for thread in threads:
            thread.start()
        begun.wait(60)
        floats()
        ended.wait(60)
        for thread in threads:
            thread.join()
        floats()
    assert [(a.module, a.phase, a.step) for a in tracker.timeline.allocations] == [("", Phase.FORWARD, 0)] * 2
    assert tracker.steps == 0


def test_a_storage_that_two_trackers_meet_is_one_of_each() -> None:
    with FakeTensorMode():
        tensor = floats()
        for _ in range(2):
            with track(tensor) as tracker:
                pass
            assert [a.category for a in tracker.timeline.allocations] == [Category.INPUT]


def test_one_tracker_at_a_time_is_on_and_each_once() -> None:
    with track() as tracker:
        with pytest.raises(RuntimeError, match="is on already"), track():
            pass
        with FakeTensorMode():
            kept = floats()
    with pytest.raises(RuntimeError, match="entered once"), tracker:
        pass
    assert len(tracker.timeline.allocations) == 1
    del kept
    with pytest.raises(TypeError, match="not dict"):
        Tracker({})  # type: ignore[arg-type]


def test_a_tracker_that_could_not_be_entered_can_be_entered_later() -> None:
    class Unready(nn.Linear):
        ready = False

        def named_modules(self, *args: Any, **kwargs: Any) -> Any:
            if not self.ready and fastfake._C.memory_is_tracked():
                raise ValueError("not ready")
            return super().named_modules(*args, **kwargs)

    with FakeTensorMode():
        model = Unready(2, 3)
        tracker = track(model)
        with pytest.raises(ValueError, match="not ready"), tracker:
            pass
        assert not fastfake._C.memory_is_tracked() and not tracker.timeline.allocations
        model.ready = True
        with tracker:
            model(torch.empty(1, 2)).sum().backward()
    assert {a.category for a in tracker.timeline.allocations} >= {Category.PARAMETER, Category.GRADIENT}


def test_calls_are_noted_as_ever_whoever_uninstalls_fastfake_meanwhile() -> None:
    def noted(change: Callable[[], None]) -> list[tuple[int, str, str]]:
        with FakeTensorMode(), track() as tracker:
            kept = [torch.empty(4, 4)]
            for call in (torch.cosh, torch.nn.functional.gelu, lambda x: torch.linalg.vector_norm(x, dim=0)):
                change()
                FakeTensorMode.cache_clear()  # a kernel makes more than its results
                kept.append(call(kept[0]))
        return [(a.bytes, a.category.value, a.operator) for a in tracker.timeline.allocations]

    assert noted(fastfake.uninstall) == noted(lambda: None)


def test_symbolic_sizes_are_told_outside_of_a_call_as_without_a_tracker() -> None:
    """torch asks for them without its dispatcher, here for the text of an error."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    point, tangent = mode.from_tensor(torch.empty(2, 3)), mode.from_tensor(torch.empty(4, 5))
    with mode, track(), pytest.raises(RuntimeError, match="forward gradient that has a different size"):
        torch.func.jvp(torch.sin, (point,), (tangent,))


def test_a_mode_with_a_dispatch_of_its_own_can_be_tracked() -> None:
    class Own(FakeTensorMode):
        def __torch_dispatch__(self, *args: Any, **kwargs: Any) -> object:
            return super().__torch_dispatch__(*args, **kwargs)

    with Own(), track() as tracker:
        kept = torch.empty(4, 4).cosh()
    assert {a.size for a in tracker.timeline.allocations} == {kept.nbytes}


def test_an_error_in_a_model_leaves_no_module_behind() -> None:
    class Broken(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise ValueError("broken")

    with FakeTensorMode(), track() as tracker:
        with pytest.raises(ValueError, match="broken"):
            nn.Sequential(Broken())(floats())
        floats(2)
    assert tracker.timeline.allocations[-1].module == ""


def test_fsdp_gathers_parameters_and_scatters_gradients() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    with fastfake.pretend(count=8), FakeTensorMode(known_values=True):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
        try:
            mesh = init_device_mesh("cuda", (8,))
            model = nn.Sequential(*(nn.Linear(256, 256, bias=False, device="cuda") for _ in range(2)))
            for layer in model:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            optimizer = torch.optim.SGD(model.parameters())
            with track(model, optimizer) as tracker:
                for _ in range(2):
                    model(torch.empty(1, 256, device="cuda")).sum().backward()
                    optimizer.step()
                    optimizer.zero_grad()
        finally:
            torch.distributed.destroy_process_group()
    whole = 4 * 256 * 256  # of a layer
    peak: dict[Category, int] = {}
    for moment in range(tracker.timeline.moments):
        for name, count in tracker.timeline.at(moment).by("category").items():
            peak[Category(name)] = max(peak.get(Category(name), 0), count)
    assert peak[Category.PARAMETER] == 2 * whole // 8
    assert peak[Category.GRADIENT] == 2 * whole // 8
    assert whole <= peak[Category.GATHERED_PARAMETER] <= 2 * whole
    assert peak[Category.ALL_GATHER] >= whole
    assert peak[Category.REDUCE_SCATTER] >= whole
    assert whole <= peak[Category.WHOLE_GRADIENT] <= 2 * whole
    gathered = [a for a in tracker.timeline.allocations if a.category is Category.GATHERED_PARAMETER]
    assert len(gathered) == 2 * 2 * 2  # of two layers, in forward and backward, of two steps
    assert all(a.died is not None for a in gathered)


def test_what_dtensor_computes_to_learn_shapes_takes_no_memory() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    with fastfake.pretend(count=8), FakeTensorMode(known_values=True):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
        try:
            mesh = init_device_mesh("cuda", (8,))
            tensor = distribute_tensor(torch.empty(8 * 128, device="cuda"), mesh, [Shard(0)])
            with track() as tracker:
                torch.erfinv(tensor)
        finally:
            torch.distributed.destroy_process_group()
    assert {a.bytes for a in tracker.timeline.allocations} == {512}


def test_hooks_are_gone_afterwards() -> None:
    with FakeTensorMode():
        model = nn.Linear(2, 2)
        resize = torch.UntypedStorage.resize_
        with track(model):
            model(torch.empty(1, 2)).sum().backward()
    from torch.nn.modules import module

    assert not module._global_forward_hooks and not module._global_forward_pre_hooks
    assert not model._forward_pre_hooks
    assert not model.weight._backward_hooks and not model.weight._post_accumulate_grad_hooks
    assert torch.UntypedStorage.resize_ is resize


def test_rows_and_json_tell_all(tmp_path: Path) -> None:
    with FakeTensorMode(), track() as tracker:
        kept = floats()
    del kept
    (row,) = tracker.rows()
    assert row["bytes"] == KIB and row["category"] == "temporary" and row["phase"] == "forward"
    tracker.save(tmp_path / "step.json")
    report = json.loads((tmp_path / "step.json").read_text())
    assert report["allocations"] == [row]
    assert report["peaks"]["cpu"]["bytes"] == KIB


@pytest.mark.exhaustive
def test_a_disabled_fastfake_tracks_nothing_and_says_so() -> None:
    program = "import fastfake\nwith fastfake.memory.track(): pass"
    process = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"FASTFAKE_DISABLE": "1"}, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "FASTFAKE_DISABLE leaves everything to torch" in process.stderr


@pytest.mark.exhaustive
def test_the_package_offers_the_module_without_importing_it() -> None:
    program = "import sys, fastfake; assert 'fastfake.memory' not in sys.modules; print(fastfake.memory.track.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "track\n"
    with pytest.raises(AttributeError, match="no attribute 'memories'"):
        fastfake.memories  # noqa: B018
