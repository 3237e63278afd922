"""Tracing a program that moves a constant to an accelerator which this machine does not have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._subclasses.fake_tensor as torch_fake_tensor
from torch import Tensor
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx

import fastfake
from fastfake import FakeTensorMode

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="torch computes on a device that is there")

aten = torch.ops.aten

# Each makes a constant on the given device.
CONSTANTS: dict[str, Callable[[str], Tensor]] = {
    "tensor of a number": lambda device: torch.tensor(1.5, device=device),
    "tensor of an integer": lambda device: torch.tensor(3, device=device),
    "as_tensor": lambda device: torch.as_tensor(1.5, device=device),
    "moved": lambda device: torch.tensor(1.5).to(device),
    "moved by prims": lambda device: torch.ops.prims.device_put(torch.tensor(1.5), torch.device(device)),
    "with another dtype": lambda device: torch.tensor(3).to(device, torch.bfloat16),
    "to and fro": lambda device: torch.tensor(1.5, device=device).cpu().to(device),
    "computed with": lambda device: torch.tensor(1.5, device=device) * torch.tensor(2.0, device=device) + 1,
    "written to": lambda device: torch.tensor(1.5, device=device).add_(1).mul_(4.0),
    "like a constant": lambda device: torch.full_like(torch.tensor(1.5), 2.0, device=device),
    "new_full": lambda device: torch.tensor(1.5, device=device).new_full((1,), 2.0),
}
# Of more than one element the tracer keeps no value.
WITHOUT_A_VALUE: dict[str, Callable[[str], Tensor]] = {
    "tensor of numbers": lambda device: torch.tensor([1.0, 2.0, 3.0], device=device),
    "asarray": lambda device: torch.asarray([1.0, 2.0, 3.0], device=device),
    "no numbers": lambda device: torch.tensor([], device=device).sum(),
    "zeros": lambda device: torch.zeros(3, device=device),
    "scalar_tensor": lambda device: torch.scalar_tensor(1.5, device=device),
}


def described(t: Any) -> Any:
    return type(t), t.device, t.dtype, t.shape, t.stride()


@pytest.mark.parametrize("device", ["cuda", "xpu:1"])
@pytest.mark.parametrize(
    "constant", [*CONSTANTS.values(), *WITHOUT_A_VALUE.values()], ids=[*CONSTANTS, *WITHOUT_A_VALUE]
)
def test_constants_on_an_absent_accelerator_can_be_traced(constant: Callable[[str], Tensor], device: str) -> None:
    def program(x: Tensor) -> Tensor:
        return x * constant(device)

    with FakeTensorMode():
        x = torch.ones(3, device=device)
        expected = program(x)
        graph = make_fx(program)(x)
        assert described(graph(x)) == described(expected)


@pytest.mark.parametrize("constant", CONSTANTS.values(), ids=CONSTANTS)
def test_the_values_of_traced_constants_are_those_of_the_cpu(constant: Callable[[str], Tensor]) -> None:
    items: list[float] = []

    def program(x: Tensor) -> Tensor:
        items.append(constant("cuda").item())
        return x * items[-1]

    with FakeTensorMode():
        make_fx(program)(torch.ones(3, device="cuda"))
    assert items == [constant("cpu").item()]


def test_constants_can_be_pinned() -> None:
    with FakeTensorMode():
        x = torch.ones((), device="cuda")
        graph = make_fx(lambda x: x * aten.new_zeros.default(torch.tensor(1.5, device="cuda"), [], pin_memory=True))(x)
    assert "pin_memory = True" in graph.code


def test_functions_with_such_constants_can_be_compiled() -> None:
    def program(x: Tensor) -> Tensor:
        scale = torch.tensor(2.0, device="cuda") + torch.as_tensor(1, device="cuda")
        return (x * scale / torch.tensor([1.0, 2.0, 3.0], device="cuda")).sum()

    with fastfake.pretend(), FakeTensorMode():
        x = torch.ones(4, 3, device="cuda", requires_grad=True)
        # Where no size is dynamic torch compiles the backward pass later, under the mode that is active then, and
        # copies constants meanwhile, which fails on the CPU and with torch's own mode as well.
        result = torch.compile(program, backend="aot_eager", fullgraph=True, dynamic=True)(x)
        result.backward()
        assert described(result) == described(program(x))
        assert described(x.grad) == described(x.detach())


def test_where_a_device_is_used_for_real_torch_computes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfake.traced_constants.avoid_device_init", lambda: False)
    with FakeTensorMode(), pytest.raises((NotImplementedError, RuntimeError), match=r"(?i)cuda|nvidia"):
        make_fx(lambda x: x * torch.tensor(1.5, device="cuda"))(torch.ones(3, device="cuda"))


def test_torchs_function_is_back_after_uninstalling(uninstalled: None) -> None:
    before = proxy_tensor.unset_fake_temporarily
    fastfake.install()
    assert proxy_tensor.unset_fake_temporarily is not before
    fastfake.uninstall()
    assert proxy_tensor.unset_fake_temporarily is before is torch_fake_tensor.unset_fake_temporarily


def test_what_somebody_put_in_its_place_stays(uninstalled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Torch's, for the next test: what is undone last comes back.
    monkeypatch.setattr(proxy_tensor, "unset_fake_temporarily", proxy_tensor.unset_fake_temporarily)
    fastfake.install()
    theirs = contextlib.nullcontext
    monkeypatch.setattr(proxy_tensor, "unset_fake_temporarily", theirs)
    fastfake.uninstall()
    assert proxy_tensor.unset_fake_temporarily is theirs
