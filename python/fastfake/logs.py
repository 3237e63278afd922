"""The loggers of torch's fake tensor module, so that TORCH_LOGS settings keep their meaning."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

import torch._logging
import torch._subclasses.fake_tensor as torch_fake_tensor

from .real_computation import no_dispatch

__all__ = ["IncrementRecursionCount", "hierarchical_compile_log", "log", "log_call", "not_implemented_log", "quiet_log"]

log = logging.getLogger("torch._subclasses.fake_tensor")


def _artifact_logger(name: str) -> logging.Logger:
    """Return torch's logger for an artifact; an ordinary one where this torch does not know the artifact."""
    try:
        return torch._logging.getArtifactLogger(log.name, name)
    except ValueError:
        return logging.getLogger(f"{log.name}.{name}")


not_implemented_log = _artifact_logger("not_implemented")
hierarchical_compile_log = _artifact_logger("hierarchical_compile")


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Keep the traceback of an error that a meta kernel raises out of the log, where it is told in one line."""
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


class IncrementRecursionCount:
    """Counts one dispatch inside another for as long as it lives.

    The count is ``RECURSION_COUNT`` of torch's module, where it can be looked up whoever counts.
    """

    def __init__(self) -> None:
        """Count."""
        torch_fake_tensor.RECURSION_COUNT += 1

    def __del__(self) -> None:
        """Count back."""
        torch_fake_tensor.RECURSION_COUNT -= 1


def log_call(func: object, args: Sequence[object], kwargs: Mapping[str, object]) -> IncrementRecursionCount | None:
    """Log a call that is about to be computed, if anybody reads that.

    Returns:
        What the caller holds until the call is done, so that the calls inside it are logged indented.
    """
    if not log.isEnabledFor(logging.DEBUG):
        return None
    # Formatting a tensor may call operators on it.
    with no_dispatch():
        log.debug("%s %s %s", func, args, kwargs)
    log.debug("%sFakeTensorMode.__torch_dispatch__: %s", " " * torch_fake_tensor.RECURSION_COUNT, func)
    return IncrementRecursionCount()
