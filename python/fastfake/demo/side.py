"""The two sides that the demo compares: torch's fake tensors and fastfake's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch._subclasses.fake_tensor as torch_fake_tensor

import fastfake


@dataclass(frozen=True)
class Side:
    """One implementation of fake tensors.

    Attributes:
        name: How the side is called in the report.
        mode_class: Its ``FakeTensorMode``, with ``cache_info`` and ``cache_clear``.
        tensor_class: Its ``FakeTensor``.
        active: Makes a context in which torch's own modules use this side's classes.
    """

    name: str
    mode_class: Any
    tensor_class: type
    active: Callable[[], AbstractContextManager[object]]


@contextmanager
def uninstalled() -> Iterator[None]:
    """Run a block on torch's own classes, whether or not fastfake's are installed around it."""
    before = fastfake.is_installed()
    fastfake.uninstall()
    try:
        yield
    finally:
        if before:
            fastfake.install()


@contextmanager
def installed() -> Iterator[None]:
    """Run a block on fastfake's classes, without the warning that the other side's tensors exist: they are to."""
    with ExitStack() as installation:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fake tensors of torch's own class exist already")
            installation.enter_context(fastfake.install_temporarily())
        yield


with uninstalled():
    TORCH = Side("torch", torch_fake_tensor.FakeTensorMode, torch_fake_tensor.FakeTensor, uninstalled)
FASTFAKE = Side("fastfake", fastfake.FakeTensorMode, fastfake.FakeTensor, installed)
SIDES = {side.name: side for side in (TORCH, FASTFAKE)}
