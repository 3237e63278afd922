"""Fake tensors on accelerators that this build of torch does not know end in an error, never in a crash."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fastfake import FakeTensorMode

ACCELERATORS = ("cuda", "xpu", "mps", "mtia")

# torch's FakeTensor takes the process down here: its autograd asks for the device guard in a noexcept function.
BACKWARD_ON_CUDA = """
import sys
if {ours}:
    from fastfake import FakeTensorMode
else:
    from torch._subclasses.fake_tensor import FakeTensorMode
import torch
with FakeTensorMode():
    x = torch.empty(2, 3, device="cuda", requires_grad=True)
    try:
        y = (x * 2).sum()
        print(y.device)
        y.backward()
    except RuntimeError as error:
        print("error")
    print(x.grad is None or x.grad.device)
"""

knows_cuda = torch.backends.cuda.is_built()


@pytest.mark.parametrize("device", ACCELERATORS)
def test_a_forward_pass_with_gradients_runs_on_any_accelerator(device: str) -> None:
    with FakeTensorMode():
        layer = torch.nn.Conv2d(3, 4, 3, device=device)
        out = torch.nn.BatchNorm2d(4, device=device)(layer(torch.empty(2, 3, 8, 8, device=device))).relu()
        assert out.device == torch.device(device, 0)
        assert out.requires_grad
        assert out.shape == (2, 4, 6, 6)


def run(*, ours: bool) -> subprocess.CompletedProcess[str]:
    program = BACKWARD_ON_CUDA.format(ours=ours)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def test_backward_on_an_unknown_accelerator_does_not_take_the_process_down() -> None:
    done = run(ours=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "cuda:0"


@pytest.mark.skipif(knows_cuda, reason="torch's defect shows only in builds of torch without CUDA")
def test_torchs_own_fake_tensor_takes_the_process_down() -> None:
    assert run(ours=False).returncode < 0
