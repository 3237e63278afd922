"""Devices that fake tensors imitate, present on this machine or not."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch._ops import OpOverload
from torch._utils import _is_privateuse1_backend_available

from . import _C, config
from .errors import FakeTensorDeviceMismatchError

__all__ = [
    "avoid_device_init",
    "common_device",
    "init_gpu_context",
    "normalize_device",
    "should_allow_numbers_as_tensors",
]

aten = torch.ops.aten
_INDEXED_DEVICE_TYPES = frozenset({"cuda", "hpu", "xpu", "mps", "mtia"})


@functools.cache
def init_gpu_context(device: torch.device) -> None:
    """Make the accelerator's context, if ``device`` is one of the machine's, once.

    Autograd's device threads need a context even for tensors without data.
    """
    if _C.pretends_cuda():
        return
    accelerator = torch.accelerator.current_accelerator(True)
    if accelerator is not None and accelerator.type == device.type:
        make = torch.empty if torch.version.hip is None else torch.zeros
        make(1, device=device)


def normalize_device(device: torch.device) -> torch.device:
    """Give a device of an indexed type the index that a real tensor on it would show.

    Args:
        device: for example ``cuda``; the current device's index is taken if the type is initialised, else 0.
    """
    kind = device.type
    if kind in ("cuda", "xpu"):
        init_gpu_context(device)
    if device.index is not None:
        return device
    if kind not in _INDEXED_DEVICE_TYPES and kind != torch._C._get_privateuse1_backend_name():
        return device
    if kind != "mps":
        module = getattr(torch, kind)
        if module.is_initialized():
            return torch.device(kind, module.current_device())
    return torch.device(kind, 0)


def avoid_device_init() -> bool:
    """Whether no accelerator is usable here, so that nothing may be materialised on one."""
    if torch.xpu._is_compiled():
        if torch.cuda._is_compiled():
            raise AssertionError("Cannot have both xpu and cuda compiled")
        return not torch.xpu.is_available()
    hpu = getattr(torch, "hpu", None)
    usable = (torch.cuda.is_available() and not _C.pretends_cuda()) or (hpu is not None and hpu.is_available())
    return not (usable or _is_privateuse1_backend_available())


@functools.cache
def should_allow_numbers_as_tensors(func: OpOverload) -> bool:
    """Whether Python numbers bind to tensor arguments of ``func``, as in ``torch.add(1, 2)``."""
    name = func.name().rpartition("::")[2].partition(".")[0]
    return bool(torch._C._should_allow_numbers_as_tensors(name))


# Operators for which "all on one device" is not the rule.
_ZERO_DIM_CPU_TENSORS_DO_NOT_MIX = frozenset({aten.nextafter.default})
_MIXES_WITH = {
    aten._foreach_copy.default: torch.device("cpu"),
    aten.add_.Tensor: torch.device("meta"),
}


def common_device(func: OpOverload, flat_args: Sequence[object]) -> tuple[torch.device, bool]:
    """Find the device on which the results of ``func`` live.

    Args:
        func: the operator.
        flat_args: its arguments, nested containers flattened.

    Returns:
        The device, and whether there were no tensors but only numbers (the device is the CPU then).

    Raises:
        FakeTensorDeviceMismatchError: two tensors are on devices that do not mix.
        TypeError: two tensors are on different devices, and the preference that the user set is no text.
    """
    preference = config.preferred_device_type()
    device, mismatch = _C.common_device(
        flat_args,
        scalars_mix=func not in _ZERO_DIM_CPU_TENSORS_DO_NOT_MIX,
        mixes_freely=_MIXES_WITH.get(func),
        preferred=preference if isinstance(preference, str) else "",
    )
    if device is not None:
        if mismatch is not None:
            if not isinstance(preference, str | None):
                raise TypeError(f"'in <string>' requires string as left operand, not {type(preference).__name__}")
            raise FakeTensorDeviceMismatchError(func, device, mismatch)
        return device, False
    if should_allow_numbers_as_tensors(func):
        return torch.device("cpu"), True
    raise AssertionError(f"Could not find common device for {func}")
