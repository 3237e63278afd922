"""Backward passes on devices that are not there give what they give on the CPU, on the fake device."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fresh_process
import pytest
import torch
from both_sides import on_torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.autograd.variable import Variable
from torch.utils.checkpoint import checkpoint

import fastfake
from fastfake import FakeTensorMode

# torch was built for one accelerator or none, and an engine that knows one does not take another for it.
accelerator = torch.accelerator.current_accelerator()
ACCELERATORS = ("cuda", "cuda:1", "xpu", "mps", "mtia") if accelerator is None else ("cuda", "cuda:1")
needs_absent_devices = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="what is done on devices that are there is torch's"
)
pytestmark = needs_absent_devices


def model(device: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, device=device),
        nn.BatchNorm2d(4, device=device),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 5, device=device),
    )


def images(device: str) -> Tensor:
    return torch.randn(2, 3, 8, 8, device=device)


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in module.parameters()]


def a_module(device: str) -> Iterable[Tensor | None]:
    module = model(device)
    module(images(device)).sum().backward()
    module(images(device)).logsumexp(0).mean().backward()  # onto what is there
    return gradients(module)


def a_second_derivative(device: str) -> Iterable[Tensor | None]:
    module = model(device)
    first = torch.autograd.grad(module(images(device)).pow(2).sum(), list(module.parameters()), create_graph=True)
    torch.stack([gradient.pow(2).sum() for gradient in first]).sum().backward()
    return [*first, *gradients(module)]


def parameters_without_dimensions(device: str) -> Iterable[Tensor | None]:
    scale = nn.Parameter(torch.ones((), device=device))
    (scale * images(device) + scale).sum().backward()
    return [scale.grad, *torch.autograd.grad(scale * 2 + scale, scale)]


def hooks(device: str) -> Iterable[Tensor | None]:
    module, seen = model(device), []
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad))
    module[0].register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    out = module(images(device))
    out.register_hook(lambda gradient: seen.append(gradient.cpu()) or gradient.cpu().to(device) * 2)
    out.sum().backward()
    return [*seen[1:], *gradients(module)]


def checkpoints(device: str) -> Iterable[Tensor | None]:
    results: list[Tensor | None] = []
    for use_reentrant in (True, False):
        module, start = model(device), images(device).requires_grad_()
        dropped = checkpoint(
            nn.Sequential(module, nn.Dropout()), start, use_reentrant=use_reentrant, preserve_rng_state=device == "cpu"
        )
        dropped.sum().backward()
        results += [start.grad, *gradients(module)]
    return results


def passes_within_passes(device: str) -> Iterable[Tensor | None]:
    """Deeper than the engine recurses: other threads go on."""

    def nested(depth: int, tensor: Tensor) -> Tensor:
        if depth == 0:
            return tensor.sin()
        return checkpoint(lambda t: nested(depth - 1, t), tensor, use_reentrant=True, preserve_rng_state=False)

    start = images(device).requires_grad_()
    nested(70, start).sum().backward()
    return [start.grad]


def gradient_edges(device: str) -> Iterable[Tensor | None]:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(context: object, tensor: Tensor) -> Tensor:
            return tensor * 2

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            return gradient * 2

    start = images(device).requires_grad_()
    out = []
    for end in (start.exp(), Double.apply(start.exp())):
        out += torch.autograd.grad(get_gradient_edge(end), start, torch.ones_like(end))
    return out


def inputs_on_both_sides(device: str) -> Iterable[Tensor | None]:
    here, there = torch.ones(3, requires_grad=True), torch.ones(3, device=device, requires_grad=True)
    (here.to(device) * there + there.cpu().to(device)).sum().cpu().backward()
    return [there.grad, here.grad.to(device)]


PROGRAMS = (
    a_module,
    a_second_derivative,
    parameters_without_dimensions,
    hooks,
    checkpoints,
    passes_within_passes,
    gradient_edges,
    inputs_on_both_sides,
)


def metadata(tensors: Iterable[Tensor | None]) -> list[tuple[object, ...] | None]:
    return [None if t is None else (t.shape, t.stride(), t.storage_offset(), t.dtype) for t in tensors]


@pytest.mark.parametrize("device", ACCELERATORS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_gradients_are_those_of_the_cpu_on_the_fake_device(
    program: Callable[[str], Iterable[Tensor | None]], device: str
) -> None:
    with FakeTensorMode():
        fake = list(program(device))
    assert metadata(fake) == metadata(program("cpu"))
    assert {tensor.device for tensor in fake if tensor is not None} == {
        torch.device(device if ":" in device else f"{device}:0")
    }


def test_a_pass_needs_no_mode() -> None:
    with FakeTensorMode():
        start = images("cuda").requires_grad_()
    (start * 2 + start).sum().backward()
    assert start.grad is not None
    assert start.grad.device == torch.device("cuda:0")


def real_gradient() -> list[float]:
    start = torch.ones(3, requires_grad=True)
    (start * 2 + start).sum().backward()
    assert start.grad is not None
    return start.grad.tolist()


def what_torch_says_of_accelerators() -> Iterator[object]:
    yield torch.accelerator.current_accelerator()
    yield torch.accelerator.is_available()
    yield torch.cuda.is_available()
    try:
        torch.Stream("cuda")
    except RuntimeError as error:
        yield str(error)


def test_torch_knows_no_more_of_accelerators_after_a_pass_than_before() -> None:
    before = list(what_torch_says_of_accelerators())
    with FakeTensorMode():
        list(a_module("cuda"))
    assert list(what_torch_says_of_accelerators()) == before
    assert real_gradient() == [3, 3, 3]


def test_a_real_pass_in_the_middle_of_a_fake_one_is_a_real_one_and_the_other_way_round() -> None:
    with FakeTensorMode() as mode:
        start = images("cuda").requires_grad_()
        seen = []

        def go_backward_for_real(gradient: Tensor) -> None:
            with torch.utils._python_dispatch._disable_current_modes(), torch.enable_grad():
                seen.append(real_gradient())

        start.register_hook(go_backward_for_real)
        (start * 2 + start).sum().backward()
    assert seen == [[3, 3, 3]]

    def go_backward_on_fakes(gradient: Tensor) -> None:
        with mode, torch.enable_grad():
            seen.append(metadata(a_module("cuda")))

    real = torch.ones(3, requires_grad=True)
    real.register_hook(go_backward_on_fakes)
    (real * 2 + real).sum().backward()
    assert real.grad is not None
    assert real.grad.tolist() == [3, 3, 3]
    assert seen[1] == metadata(a_module("cpu"))


def test_an_error_in_a_hook_ends_the_pass_and_the_next_one_works() -> None:
    class Stop(Exception):
        pass

    def stop(gradient: Tensor) -> None:
        raise Stop

    with FakeTensorMode():
        start = images("cuda").requires_grad_()
        out = (start * 2 + start).sin()
        handle = out.register_hook(stop)
        for _ in range(2):
            with pytest.raises(Stop):
                out.sum().backward(retain_graph=True)
            assert torch.accelerator.current_accelerator() == accelerator
        handle.remove()
        out.sum().backward()
        assert start.grad is not None
    assert real_gradient() == [3, 3, 3]


def test_threads_take_turns() -> None:
    failures = []

    def work() -> None:
        try:
            for _ in range(5):
                with FakeTensorMode():
                    assert all(gradient is not None and gradient.is_cuda for gradient in a_module("cuda"))
                assert real_gradient() == [3, 3, 3]
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def go_backward_in_a_child_that_is_forked_in_the_middle() -> int:
    within, done = threading.Event(), threading.Event()

    def wait(gradient: Tensor) -> None:
        within.set()
        done.wait(60)

    def go_backward_slowly() -> None:
        with FakeTensorMode():
            start = images("cuda").requires_grad_()
            start.register_hook(wait)
            (start * 2 + start).sum().backward()

    thread = threading.Thread(target=go_backward_slowly)
    thread.start()
    assert within.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        with FakeTensorMode():
            list(a_module("cuda"))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    return status


def test_the_child_of_a_fork_in_the_middle_of_another_threads_pass_goes_backward() -> None:
    # Away from the tests above: the engine refuses to work in a child of a process where it had threads.
    assert fresh_process.call(go_backward_in_a_child_that_is_forked_in_the_middle) == 0


def test_passes_go_on_after_torchs_own_mode_put_its_guard_in_place() -> None:
    def enter(fakes: Any) -> None:
        with fakes.FakeTensorMode():
            torch.empty(2)

    with FakeTensorMode():
        start = images("cuda").requires_grad_()
    on_torch(enter)
    (start * 2 + start).sum().backward()
    assert start.grad is not None
    assert start.grad.device == torch.device("cuda:0")
    on_torch(enter)
    with FakeTensorMode():
        assert metadata(a_module("cuda")) == metadata(a_module("cpu"))


def passes_with_the_threads_of_devices_that_are_not_there() -> tuple[Any, Any]:
    torch._C._ensureCUDADeviceGuardSet()  # as torch's own mode does
    here = torch.ones(3, requires_grad=True)
    here.exp().sum().backward()  # which starts the engine's threads
    with FakeTensorMode():
        start = torch.ones(3, device="cuda", requires_grad=True)
        checkpoint(torch.exp, start * 2, use_reentrant=True, preserve_rng_state=False).sum().backward()
        device = str(start.grad.device)
    here.exp().sum().backward()
    return device, here.grad.tolist()


def test_threads_of_the_devices_that_torchs_own_mode_counts_take_no_part() -> None:
    device, gradient = fresh_process.call(passes_with_the_threads_of_devices_that_are_not_there)
    assert device == "cuda:0"
    assert gradient == (2 * torch.ones(3).exp()).tolist()


def goes_backward_after_uninstalling() -> tuple[bool, str]:
    torchs_engine = Variable._execution_engine
    with FakeTensorMode():
        torch.ones(3, requires_grad=True).sum().backward()
    fastfake.uninstall()
    is_back = Variable._execution_engine is torchs_engine
    with FakeTensorMode():
        start = torch.ones(3, device="cuda", requires_grad=True)
        end = start.exp().sum()
        gradient = torch.ones_like(end)
    # As another thread may, just before torch looks up its engine.
    fastfake.uninstall()
    end.backward(gradient)
    assert start.grad is not None
    return is_back, str(start.grad.device)


def test_a_pass_on_an_absent_device_may_begin_after_uninstalling() -> None:
    torchs_engine_is_back, device = fresh_process.call(goes_backward_after_uninstalling)
    assert torchs_engine_is_back
    assert device == "cuda:0"
