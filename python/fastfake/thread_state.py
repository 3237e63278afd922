"""State of the fake tensor system that belongs to a thread and that torch sets from outside."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode

    from .fake_tensor import FakeTensor

__all__ = ["EnterStack", "Entry", "FakeTensorTLS", "fake_tensor_tls", "leaks_are_detected", "track_if_exporting"]


class FakeTensorTLS(threading.local):
    """Per-thread overrides.

    Attributes:
        allow_non_fake_inputs_override: overrides every mode's ``allow_non_fake_inputs`` unless None.
        non_strict_export_fake_tensor_tracker: the fake tensors made while exporting, for leak reports.
    """

    def __init__(self) -> None:
        """Start a thread without overrides."""
        self.allow_non_fake_inputs_override: bool | None = None
        self.non_strict_export_fake_tensor_tracker: weakref.WeakSet[FakeTensor] = weakref.WeakSet()


fake_tensor_tls = FakeTensorTLS()


# What one ``with`` on a mode has to undo: whether it activated the mode, which mode it replaced, torch's flag that
# keeps ``torch.tensor`` on the CPU (None where an accelerator is usable), and which of torch's flags the entry claims.
Entry: TypeAlias = "tuple[bool, TorchDispatchMode | None, bool | None, tuple[bool, bool, bool]]"


class EnterStack(threading.local):
    """What each ``with`` on one mode has to undo, for each thread by itself.

    Attributes:
        entries: an `Entry` for each ``with``.
    """

    def __init__(self) -> None:
        """Start a thread in which the mode was not entered."""
        self.entries: list[Entry] = []

    def __reduce__(self) -> tuple[type[EnterStack], tuple[()], dict[str, Any]]:
        """Let copies of a mode have the entries of the thread that makes them."""
        return EnterStack, (), vars(self)


def leaks_are_detected() -> bool:
    """Whether exports are to report the fake tensors that they leave alive."""
    # Nobody can have asked for it before the module is loaded, which takes long.
    export_config = sys.modules.get("torch._export.config")
    return export_config is not None and export_config.detect_non_strict_fake_tensor_leaks


def track_if_exporting(tensor: FakeTensor) -> None:
    """Remember a tensor made during non-strict export, if the export is to report leaked ones."""
    if torch.compiler.is_exporting() and leaks_are_detected():
        fake_tensor_tls.non_strict_export_fake_tensor_tracker.add(tensor)
