"""What the test modules share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch
    from opinfo.torch_records import TorchRecords

    from fastfake import FakeTensorMode

# The same examples in each run, so that a failure comes of the change that it is seen with; others are drawn with
# --hypothesis-profile=random. No deadline, since machines are busy.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Take pytest's handlers from torch's trace log, which is written whenever it has a handler.

    pytest hangs them on every logger that does not propagate. With them torch describes each guard and the stack
    below it, which takes longer than the rest of a test.
    """
    trace = logging.getLogger("torch.__trace")
    handlers, trace.handlers = trace.handlers, []
    try:
        return (yield)
    finally:
        trace.handlers = handlers


@pytest.fixture
def uninstalled() -> Iterator[None]:
    """Begin without fastfake installed; afterwards it is installed if it was before."""
    import fastfake

    before = fastfake.is_installed()
    fastfake.uninstall()
    yield
    fastfake.uninstall()
    if before:
        fastfake.install()


@pytest.fixture(scope="session")
def device_guards() -> None:
    """Let torch's own FakeTensor have tensors on accelerators, as it has once ours made one, though it runs first."""
    import torch

    import fastfake

    with fastfake.FakeTensorMode():
        for device in ("cuda", "xpu", "mps"):
            torch.empty(1, device=device)


@pytest.fixture
def no_allocator_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without settings of the caching allocator in the environment."""
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)


@pytest.fixture
def mode() -> Iterator[FakeTensorMode]:
    """An active mode on an empty cache."""
    from fastfake import FakeTensorMode

    FakeTensorMode.cache_clear()
    with FakeTensorMode() as active:
        yield active
    FakeTensorMode.cache_clear()


@pytest.fixture
def observe() -> Iterator[Callable[[Callable[[torch.Tensor], object]], None]]:
    """Have the given function called with the next fake tensor that native code makes."""
    from fastfake import _C

    def once(function: Callable[[torch.Tensor], object]) -> None:
        def called(tensor: torch.Tensor) -> None:
            _C.observe_new_tensors(None)
            function(tensor)

        _C.observe_new_tensors(called)

    yield once
    _C.observe_new_tensors(None)


@pytest.fixture
def quiet_fake_tensor_log() -> Iterator[None]:
    """Torch logs a traceback for each error that a meta kernel raises; the comparisons provoke thousands."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


@pytest.fixture(scope="module")
def torch_records(request: pytest.FixtureRequest) -> Iterator[TorchRecords]:
    """Torch's answers for the jobs with which the module's tests are parametrized."""
    # Only here: importing it takes long.
    from opinfo.torch_records import TorchRecords

    import fastfake

    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    items = [item for item in items if "torch_records" in item.fixturenames and item.module is request.module]
    was_installed = fastfake.is_installed()
    yield TorchRecords([item.callspec.params["job"] for item in items])
    if not was_installed:
        fastfake.uninstall()
