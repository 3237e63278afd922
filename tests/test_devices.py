"""Devices that this machine lacks, and how tensors on different devices mix, agree with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._subclasses.fake_tensor as fake_tensor
from both_sides import on_torch
from opinfo.programs import attempt, same_as_torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastfake

pytestmark = pytest.mark.usefixtures("quiet_fake_tensor_log", "device_guards")

aten = torch.ops.aten
DEVICES = ["cpu", "cuda", "cuda:1", "xpu", "mps", "hpu", "mtia", "meta", "xla", "ipu", "vulkan", "privateuseone:1"]


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_are_made_and_computed_with_on_any_device(device: str) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        with mode:
            makers: list[Callable[[], object]] = [
                lambda: torch.empty(2, 3, device=device),
                lambda: torch.ones(3, device=torch.device(device)),
                lambda: torch.arange(3, device=device),
                lambda: torch.rand(2, device=device),
                lambda: torch.full((2,), 1.5, device=device),
                lambda: torch.empty_strided((2, 3), (1, 2), device=device),
                lambda: torch.eye(3, device=device),
                lambda: torch.tensor([1.0, 2.0], device=device),
                lambda: torch.tensor(1, device=device),
                lambda: torch.zeros_like(torch.ones(2), device=device),
                lambda: torch.ones(2).new_empty(3, device=device),
                lambda: torch.randint(3, (2,), device=device),
            ]
            made = [attempt(make) for make in makers]
            tensors = [t for t in made if isinstance(t, torch.Tensor)]
            computed = [attempt(lambda t=t: (t + 1).sum()) for t in tensors]
            computed += [attempt(lambda t=t: t.cpu()) for t in tensors[:2]]
            computed += [attempt(lambda t=t: [t.is_cuda, t.is_cpu, t.is_meta, t.get_device()]) for t in tensors[:1]]
        return [made, computed]

    program()


@pytest.mark.parametrize("device", DEVICES)
def test_the_constructor_and_the_attribute_give_a_device_its_index(device: str) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        meta = torch.empty(3, device="meta")
        made = attempt(lambda: fake_tensor.FakeTensor(mode, meta, torch.device(device)))
        assigned = fake_tensor.FakeTensor(mode, meta, torch.device("cpu"))
        error = attempt(lambda: setattr(assigned, "fake_device", torch.device(device)))
        read = [attempt(lambda: str(assigned.fake_device)), attempt(lambda: str(assigned.device))]
        normalised = attempt(lambda: str(fake_tensor.FakeTensor._normalize_fake_device(torch.device(device))))
        return [made, error, read, normalised]

    program()


@same_as_torch
def test_mismatched_devices_raise_torchs_error_with_its_fields(mode: Any) -> object:
    def mismatch(call: Callable[[], object]) -> object:
        try:
            return call()
        except fake_tensor.FakeTensorDeviceMismatchError as error:
            return [str(error), str(error.func), str(error.common_device), str(error.device), error.args]
        except Exception as error:
            return [type(error).__name__, str(error)]

    with mode:
        cpu, cuda, other = (torch.ones(2, 2, device=device) for device in ("cpu", "cuda", "cuda:1"))
        index = torch.zeros(1, dtype=torch.int64)
        calls: list[Callable[[], object]] = [
            lambda: cpu + cuda,
            lambda: cuda + cpu,
            lambda: cuda @ other,
            lambda: cuda.add_(cpu),
            lambda: torch.cat([cuda, cuda, cpu]),
            lambda: torch.stack([cpu, cuda]),
            lambda: torch._foreach_add([cpu, cuda], [cuda, cuda]),
            lambda: torch.where(cpu > 0, cuda, cuda),
            lambda: torch.addmm(cuda, cuda, cpu),
            lambda: nn.functional.linear(cuda, cpu),
            lambda: nn.functional.embedding(index, cuda),
            lambda: nn.functional.layer_norm(cuda, (2,), cpu[0]),
            lambda: torch.add(cpu, cpu, out=cuda),
            lambda: cuda[index],
            lambda: cuda[index.to("cuda:1")],
            lambda: cuda.index_select(0, index),
            lambda: cuda.gather(0, index[None]),
            lambda: cuda.scatter(0, index[None], cpu),
            lambda: cuda.masked_fill(cpu > 0, 1.0),
            lambda: cuda.index_put_((index,), cpu[0]),
            lambda: cuda.copy_(cpu),
            lambda: torch.bmm(cuda[None], other[None]),
            lambda: nn.functional.scaled_dot_product_attention(cuda[None], cpu[None], cuda[None]),
        ]
        # Each twice: an error must not be cached, nor a success replace it.
        return [[mismatch(call) for call in calls for _ in range(2)], cpu, cuda]


@same_as_torch
def test_scalars_of_the_cpu_mix_and_others_do_not(mode: Any) -> object:
    with mode:
        scalar, one = torch.ones(()), torch.ones(1)
        cuda, cuda_scalar = torch.ones(2, device="cuda"), torch.ones((), device="cuda:1")
        calls: list[Callable[[], object]] = [
            lambda: scalar + cuda,
            lambda: cuda * scalar,
            lambda: scalar + scalar,
            lambda: one + cuda,
            lambda: cuda_scalar + cuda,
            lambda: cuda_scalar + scalar,
            lambda: cuda_scalar + one,
            lambda: torch.where(cuda > 0, scalar, scalar),
            lambda: torch.clamp(cuda, scalar, scalar),
            lambda: cuda.lerp(cuda, scalar),
            lambda: cuda.fill_(scalar),
            lambda: cuda.div_(scalar),
            lambda: scalar.clone().add_(cuda[0]),
            lambda: torch.cat([cuda, scalar[None]]),
            lambda: cuda == scalar,
            lambda: torch.pow(scalar, cuda),
            lambda: torch.addcmul(cuda, cuda, scalar),
            lambda: torch._foreach_mul([cuda, cuda], scalar),
            lambda: torch.tensor(2.0) * cuda,
        ]
        return [attempt(call) for call in calls for _ in range(2)]


@same_as_torch
def test_operators_with_rules_of_their_own_mix_devices_as_in_torch(mode: Any) -> object:
    with mode:
        cpu, cuda, meta = (torch.ones(2, device=device) for device in ("cpu", "cuda", "meta"))
        scalar = torch.ones(())
        calls: list[Callable[[], object]] = [
            lambda: torch.nextafter(cuda, scalar),
            lambda: torch.nextafter(scalar, cuda),
            lambda: torch.nextafter(cuda, cuda),
            lambda: aten._foreach_copy.default([cpu, cuda], [cuda, cpu]),
            lambda: aten._foreach_copy.default([cuda, meta], [meta, cuda]),
            lambda: torch._foreach_copy_([cpu, cuda], [cuda, cpu]),
            lambda: cpu.clone().add_(meta),
            lambda: cuda.clone().add_(meta),
            lambda: meta.clone().add_(cpu),
            lambda: cpu.clone().add_(cuda),
            lambda: cpu + meta,
            lambda: meta + cuda,
            lambda: cpu.clone().sub_(meta),
            lambda: cpu.clone().copy_(meta),
        ]
        return [attempt(call) for call in calls for _ in range(2)]


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "xpu", "meta", "cpu", "mps"])
def test_moving_tensors_agrees(device: str) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        with mode:
            x, there = torch.ones(2, 3), torch.ones(2, 3, device="cuda:1")
            calls: list[Callable[[], object]] = [
                lambda: x.to(device),
                lambda: there.to(device),
                lambda: x.to(device, torch.float64, non_blocking=True),
                lambda: x.t().to(device, copy=True),
                lambda: x.to(device=device, memory_format=torch.contiguous_format),
                lambda: x.t().to(device),
                lambda: x.new_tensor([1, 2], device=device),
                lambda: torch.asarray([1.0, 2.0], device=device),
                lambda: torch.as_tensor(x, device=device),
                lambda: list(nn.Linear(3, 2, device=device).parameters()),
                lambda: x.is_pinned(),
                lambda: x.type(),
                lambda: there.cpu(),
                lambda: x.cuda(),
                lambda: x.cuda(1),
                lambda: there.cuda(),
                lambda: x.xpu(),
                lambda: there.type_as(x),
                lambda: torch.empty_like(there, device=device),
                lambda: x.numpy(force=True),
            ]
            return [attempt(call) for call in calls for _ in range(2)]

    program()


@same_as_torch
def test_pinned_memory_agrees(mode: Any) -> object:
    with mode:
        x = torch.ones(2)
        calls: list[Callable[[], object]] = [
            x.is_pinned,
            lambda: torch.empty(2, pin_memory=True),
            lambda: torch.ones(2, pin_memory=True),
            lambda: torch.empty_like(x, pin_memory=True),
            lambda: x.new_zeros(2, pin_memory=True),
            lambda: torch.tensor([1.0], pin_memory=True),
            lambda: torch.empty(2, device="cuda", pin_memory=True),
        ]
        return [attempt(call) for call in calls for _ in range(2)]


def test_a_copy_in_pinned_memory_has_the_geometry_of_the_tensor_where_torch_raises() -> None:
    def pinned(fakes: Any) -> Any:
        with fakes.FakeTensorMode():
            x = torch.ones(4, 6).t()[1:]
            copy = x.pin_memory()
            return copy, copy.untyped_storage()._cdata == x.untyped_storage()._cdata

    assert on_torch(pinned).text.startswith("NYI")
    with fastfake.install_temporarily():
        copy, is_shared = pinned(fake_tensor)
    assert (copy.shape, copy.stride(), copy.storage_offset(), copy.device.type) == ((5, 4), (1, 6), 0, "cpu")
    assert not is_shared


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "xpu", "meta", "cpu"])
def test_default_devices_set_for_good_or_for_a_while_apply(device: str) -> None:
    @same_as_torch
    def program(mode: Any) -> object:
        def made() -> list[object]:
            calls: list[Callable[[], object]] = [
                lambda: torch.empty(2),
                lambda: torch.tensor([1.0, 2.0]),
                lambda: torch.tensor(1),
                lambda: torch.arange(3) + 1,
                lambda: torch.ones(2, device="cpu"),
                lambda: nn.Linear(2, 2).weight,
                lambda: torch.randn(2, 2).to("cpu"),
            ]
            return [attempt(call) for call in calls]

        with mode:
            before = made()
            with torch.device(device):
                inside = made()
            between = made()
        with torch.device(device), mode:
            around = made()
        torch.set_default_device(device)
        try:
            with mode:
                default = made()
        finally:
            torch.set_default_device(None)
        with mode:
            after = made()
        return [before, inside, between, around, default, after]

    program()


@same_as_torch
def test_device_guards_and_queries_work_without_the_hardware(mode: Any) -> object:
    with mode:
        x = torch.ones(2, device="cuda:1", requires_grad=True)
        calls: list[Callable[[], object]] = [
            lambda: torch.cuda.device(1).__enter__(),
            lambda: torch.cuda.current_device(),
            lambda: torch.cuda.is_available(),
            lambda: x.get_device(),
            lambda: x.device.index,
            lambda: torch.empty(2, device=1),
            lambda: torch.get_default_device(),
            lambda: x.untyped_storage().device,
            lambda: x.storage().device,
        ]
        results = [attempt(call) for call in calls]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            half = torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            unchanged = torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")
    return [x, results, half, unchanged]


def test_the_mismatch_error_is_torchs_while_installed() -> None:
    with fastfake.install_temporarily():
        assert fake_tensor.FakeTensorDeviceMismatchError is fastfake.FakeTensorDeviceMismatchError
        assert issubclass(fastfake.FakeTensorDeviceMismatchError, RuntimeError)


def test_modes_of_users_see_no_queries_for_a_device() -> None:
    seen: list[object] = []

    class Records(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with fastfake.FakeTensorMode():
        x = torch.empty(3, device="cuda", requires_grad=True)
        with Records():
            assert (x.device, x.is_cuda) == (torch.device("cuda:0"), True)
            x.sin()
    assert seen == [aten.sin.default]
