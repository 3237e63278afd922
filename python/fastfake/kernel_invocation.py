"""Running torch's kernels on fake tensors as if they were meta tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _C

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .fake_mode import FakeTensorMode

__all__ = ["in_kernel_invocation_manager"]


def in_kernel_invocation_manager(fake_mode: FakeTensorMode) -> AbstractContextManager[None]:
    """Return a context in which calls reach meta kernels and fake tensors say that they are on ``meta``.

    Args:
        fake_mode: the mode on whose behalf the kernel runs. The state belongs to the thread, so the mode
            only names the caller, as torch's function of this name has it.
    """
    del fake_mode
    return _C.KernelInvocation()
