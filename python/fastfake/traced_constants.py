"""Constants that `make_fx` computes with, where a program moves them to a device that is not there.

Tracing ``torch.tensor(1.0)``, it keeps the real tensor beside the fake one, and does to it what the program does to the
other, so that ``item()`` has an answer. Nothing can be computed on a device that is only imitated. Nor has it to be:
nobody but ``item()`` sees these tensors, so the CPU does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.experimental import proxy_tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from . import rebinding
from .devices import avoid_device_init
from .queries import unset_fake_temporarily

if TYPE_CHECKING:
    from .rebinding import Undo

__all__ = ["put_in_place"]

_CPU = torch.device("cpu")


class _OnCpu(TorchDispatchMode):
    """Runs operators on the CPU that were asked to give tensors on an accelerator."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, settings = pytree.tree_map_only(torch.device, _reachable, (tuple(args), dict(kwargs or {})))
        if settings.get("pin_memory"):
            settings["pin_memory"] = False  # only an accelerator can pin it
        return func(*args, **settings)


def _reachable(device: torch.device) -> torch.device:
    return device if device.type == "meta" else _CPU


@contextlib.contextmanager
def _unset_fake_to_compute_constants() -> Iterator[TorchDispatchMode | None]:
    """Deactivate the fake mode, as `unset_fake_temporarily` does, where constants are computed."""
    with unset_fake_temporarily() as mode, _OnCpu() if avoid_device_init() else contextlib.nullcontext():
        yield mode


def put_in_place(undos: list[Undo]) -> None:
    """Let `make_fx` compute constants this way. ``undos`` gets what takes that back, as long as it holds."""
    rebinding.attribute(proxy_tensor, "unset_fake_temporarily", _unset_fake_to_compute_constants, undos)
