"""Fake tensors on accelerators that are not there; and programs without them notice nothing."""

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

# Asks in all the ways of programs without fake tensors for devices that are not there, and prints what comes of it.
ASK_FOR_ABSENT_DEVICES = """
import torch
meta, cpu = torch.ones(2, 2, device="meta"), torch.ones(2, 2)
calls = {
    "Stream": lambda device: torch.Stream(device=device),
    "Event": lambda device: torch.Event(device=device),
    "recorded Event": lambda device: torch.Event(device=device).record(),
    "Future": lambda device: torch.futures.Future(devices=[device]),
    "meta.to": lambda device: meta.to(device),
    "cpu.to": lambda device: cpu.to(device),
    "to with dtype": lambda device: meta.to(device=device, dtype=torch.float64, non_blocking=True),
    "Linear.to": lambda device: torch.nn.Linear(2, 2).to(device),
    "tensor": lambda device: torch.tensor([1.0], device=device),
    "empty": lambda device: torch.empty(2, device=device),
    "new_tensor": lambda device: meta.new_tensor([2], device=device),
    "new_empty": lambda device: meta.new_empty(2, device=device),
    "sparse": lambda device: torch.sparse_coo_tensor([[0]], [1.0], (2,), device=device),
    "Generator": lambda device: torch.Generator(device=device),
    "storage": lambda device: torch.UntypedStorage(4, device=device),
    "record_stream": lambda device: cpu.record_stream(torch.Stream(device=device)),
}

def tell(name, device):
    try:
        answer = type(calls[name](device)).__name__
    except Exception as error:
        # Without the list of the kernels that are registered, in which ours is too.
        answer = f"{type(error).__name__}: {error}".partition(" is only available for these backends")[0]
    print(device, name, answer.partition("\\n")[0])

for device in ("cuda", "cuda:1", "xpu", "mps", "hpu", "mtia", "xla", "privateuseone"):
    for name in calls:
        if name not in left_out:
            tell(name, device)
print(torch.__config__.show(), torch.accelerator.current_accelerator(), torch.cuda.is_available())
"""

# In the parent the engine starts its threads, if there are devices; in the child it does not work if it has some.
FORK_AND_GO_BACKWARD = """
import os, sys
import torch
x = torch.ones(3, requires_grad=True)
(x * 2).sum().backward()
sys.stdout.flush()
if os.fork() == 0:
    (x * 3).sum().backward()
    print(x.grad)
    sys.stdout.flush()
    os._exit(0)
status = os.wait()[1]
print("child", status)
"""

IMPORT = "import fastfake"
INSTALL = "import fastfake; fastfake.install()"
COMPILE = (
    INSTALL
    + """
import torch
torch.compile(lambda x: x.sin() + 1, backend="aot_eager")(torch.ones(3, requires_grad=True)).sum().backward()
assert fastfake.FakeTensorMode.cache_info().misses
"""
)
MAKE_FAKE_TENSORS = (
    INSTALL
    + """
import torch
for _ in range(2):
    with fastfake.FakeTensorMode():
        for device in ("cuda", "xpu", "mps", "hpu:0", "mtia", "xla"):
            (torch.empty(2, 3, device=device, requires_grad=True) * 2).sum()
"""
)
# Where there are fake tensors on a device, autograd can ask for its guard at any time. These notice: an event and a
# future can be made, since that asks the guard for nothing.
KNOW_OF_GUARDS = ("Event", "Future")
# This one is refused in words of torch's that other calls get, since the guard has nothing against an index.
OTHER_WORDS = {
    "cuda:1 sparse AssertionError: Torch not compiled with CUDA enabled",
    "cuda:1 sparse RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
    "installed a driver from http://www.nvidia.com/Download/index.aspx",
}

knows_cuda = torch.backends.cuda.is_built()


@pytest.mark.parametrize(
    "before", [pytest.param("", marks=pytest.mark.exhaustive), "with mode: torch.empty(2, device=device)"]
)
def test_a_device_without_an_index_is_the_first_outside_of_modes_too(before: str) -> None:
    program = f"""
{INSTALL}
import torch
mode = fastfake.FakeTensorMode()
with mode:
    x = torch.empty(2, 3)
for device in ("cuda", "xpu"):
    {before or "pass"}
    print([x.new_empty(3, device=device).device.index for _ in range(2)])
print(fastfake.FakeTensorMode.cache_info().hits)
"""
    assert run_program(program).stdout == "[0, 0]\n[0, 0]\n2\n"


@pytest.mark.parametrize("device", ACCELERATORS)
def test_a_forward_pass_with_gradients_runs_on_any_accelerator(device: str) -> None:
    with FakeTensorMode():
        layer = torch.nn.Conv2d(3, 4, 3, device=device)
        out = torch.nn.BatchNorm2d(4, device=device)(layer(torch.empty(2, 3, 8, 8, device=device))).relu()
        assert out.device == torch.device(device, 0)
        assert out.requires_grad
        assert out.shape == (2, 4, 6, 6)


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def run(*, ours: bool) -> subprocess.CompletedProcess[str]:
    return run_program(BACKWARD_ON_CUDA.format(ours=ours))


@pytest.mark.exhaustive
def test_backward_on_an_unknown_accelerator_works_in_a_process_that_did_nothing_else() -> None:
    done = run(ours=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cuda:0", "cuda:0"]


@pytest.mark.skipif(knows_cuda, reason="torch's defect shows only in builds of torch without CUDA")
def test_torchs_own_fake_tensor_takes_the_process_down() -> None:
    assert run(ours=False).returncode < 0


def printed(prelude: str, program: str, left_out: tuple[str, ...] = ()) -> str:
    done = run_program(f"{prelude}\nleft_out = {left_out}\n{program}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def torchs_answers() -> dict[tuple[str, ...], str]:
    return {left_out: printed("", ASK_FOR_ABSENT_DEVICES, left_out) for left_out in ((), KNOW_OF_GUARDS)}


@pytest.mark.parametrize(
    "prelude",
    [pytest.param(IMPORT, marks=pytest.mark.exhaustive), INSTALL, pytest.param(COMPILE, marks=pytest.mark.exhaustive)],
    ids=["imported", "installed", "compiled with"],
)
def test_programs_without_fake_tensors_on_absent_devices_get_torchs_answers(
    prelude: str, torchs_answers: dict[tuple[str, ...], str]
) -> None:
    assert printed(prelude, ASK_FOR_ABSENT_DEVICES) == torchs_answers[()]


def test_real_calls_get_torchs_answers_also_in_programs_with_fake_tensors_on_absent_devices(
    torchs_answers: dict[tuple[str, ...], str],
) -> None:
    theirs = torchs_answers[KNOW_OF_GUARDS].splitlines()
    ours = printed(MAKE_FAKE_TENSORS, ASK_FOR_ABSENT_DEVICES, KNOW_OF_GUARDS).splitlines()
    assert {our for our, their in zip(ours, theirs, strict=True) if our != their} <= OTHER_WORDS


@pytest.mark.parametrize(
    "prelude",
    [MAKE_FAKE_TENSORS, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("", IMPORT, INSTALL, COMPILE))],
)
def test_autograd_works_in_a_child_process_after_a_backward_pass_in_the_parent(prelude: str) -> None:
    assert printed(prelude, FORK_AND_GO_BACKWARD) == "tensor([5., 5., 5.])\nchild 0\n"


@pytest.mark.exhaustive
@pytest.mark.skipif(not knows_cuda, reason="torch's mode gives devices to builds with CUDA only")
def test_torchs_mode_ends_autograd_in_child_processes() -> None:
    enter = "import torch\nwith torch._subclasses.fake_tensor.FakeTensorMode(): torch.empty(2)"
    done = run_program(f"{enter}\n{FORK_AND_GO_BACKWARD}")
    assert "tensor([5., 5., 5.])" not in done.stdout
    assert "Unable to handle autograd's threading" in done.stderr or "Invalid thread pool" in done.stderr


@pytest.mark.exhaustive
def test_modules_move_to_an_absent_device_under_a_mode_before_there_is_any_tensor_on_it() -> None:
    program = """
import torch
from fastfake import FakeTensorMode
for device in ("cuda", "xpu", "mps"):
    with FakeTensorMode():
        print(torch.nn.Linear(2, 2).to(device).weight.device, torch.ones(2).to(device, torch.float64).device)
"""
    assert printed("", program).split() == ["cuda:0"] * 2 + ["xpu:0"] * 2 + ["mps:0"] * 2


@pytest.mark.exhaustive
def test_a_fake_tensor_that_requires_grad_on_a_device_without_a_guard_does_not_end_the_process() -> None:
    program = """
import torch
from fastfake import FakeTensorMode
for device in ("xla", "ve", "vulkan", "privateuseone:0"):
    with FakeTensorMode():
        print((torch.empty(2, 3, device=device, requires_grad=True) * 2).sum().requires_grad)
"""
    assert printed("", program) == "True\n" * 4


@pytest.mark.exhaustive
@pytest.mark.skipif(knows_cuda, reason="where torch was built with CUDA, its mode replaces any guard without devices")
def test_torchs_mode_does_not_replace_the_guard_by_one_with_devices() -> None:
    enter_torchs = "from torch._subclasses.fake_tensor import FakeTensorMode as Theirs\n"
    enter_torchs += MAKE_FAKE_TENSORS + "\nfastfake.uninstall()\nwith Theirs(): torch.empty(2)\n"
    assert printed(enter_torchs, FORK_AND_GO_BACKWARD) == "tensor([5., 5., 5.])\nchild 0\n"
