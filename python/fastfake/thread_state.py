"""State of the fake tensor system that belongs to a thread and that torch sets from outside."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fake_tensor import FakeTensor

__all__ = ["FakeTensorTLS", "fake_tensor_tls", "track_if_leak_detection_is_on"]


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


def track_if_leak_detection_is_on(tensor: FakeTensor) -> None:
    """Remember a tensor made during non-strict export, if the export is to report leaked ones."""
    import torch._export.config

    if torch._export.config.detect_non_strict_fake_tensor_leaks:
        fake_tensor_tls.non_strict_export_fake_tensor_tracker.add(tensor)
