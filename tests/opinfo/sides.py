"""The two implementations compared: torch's own FakeTensor, and ours standing in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch._subclasses.fake_tensor as fake_tensor

import fastfake

from .record import CallRecord, record_call
from .samples import Case, fake_arguments

TORCHS_MODULE = "torch._subclasses.fake_tensor"


@contextmanager
def torchs_own() -> Iterator[None]:
    """Torch's classes in their place, whatever was installed before."""
    was_installed = fastfake.is_installed()
    if was_installed:
        fastfake.uninstall()
    try:
        assert fake_tensor.FakeTensorMode.__module__ == TORCHS_MODULE
        yield
    finally:
        if was_installed:
            fastfake.install()


@contextmanager
def ours() -> Iterator[None]:
    """Our classes in the place of torch's."""
    with fastfake.install_temporarily():
        assert fake_tensor.FakeTensorMode is fastfake.FakeTensorMode
        assert fake_tensor.FakeTensor is fastfake.FakeTensor
        yield


def clear_cache() -> None:
    fake_tensor.FakeTensorMode.cache_clear()


def record_case(case: Case) -> CallRecord:
    """One call on fresh fake inputs; a mode of its own, since a mode gives the same fake for a tensor each time."""
    mode = fake_tensor.FakeTensorMode()
    args, kwargs = fake_arguments(case, mode.from_tensor)
    return record_call(case.function, args, kwargs, mode)
