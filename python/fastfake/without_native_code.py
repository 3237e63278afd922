"""What the package offers where it has no native code for the torch that runs: torch's own, and nothing to install.

A program that names fastfake's classes, or imports `fastfake.shim`, runs as if it had named torch's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DispatchCacheInfo,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorConfig,
    FakeTensorConverter,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    MetadataMismatchError,
    SymNumberMemoDescriptor,
    TensorMetadata,
    UnsupportedFakeTensorException,
    UnsupportedMutationAliasingException,
    UnsupportedOperatorException,
    disable_fake_tensor_cache,
    extract_tensor_metadata,
    get_plain_tensors,
    in_kernel_invocation_manager,
    is_fake,
    maybe_get_fake_mode,
    unset_fake_temporarily,
)

__all__ = [
    "DataDependentOutputException",
    "DispatchCacheInfo",
    "DynamicOutputShapeException",
    "FakeCopyMode",
    "FakeTensor",
    "FakeTensorConfig",
    "FakeTensorConverter",
    "FakeTensorDeviceMismatchError",
    "FakeTensorMode",
    "MetadataMismatchError",
    "SymNumberMemoDescriptor",
    "TensorMetadata",
    "UnsupportedFakeTensorException",
    "UnsupportedMutationAliasingException",
    "UnsupportedOperatorException",
    "cache_limit",
    "disable_fake_tensor_cache",
    "extract_tensor_metadata",
    "get_plain_tensors",
    "in_kernel_invocation_manager",
    "install",
    "install_temporarily",
    "is_fake",
    "is_installed",
    "maybe_get_fake_mode",
    "set_cache_limit",
    "uninstall",
    "unset_fake_temporarily",
]


def install() -> None:
    """Do nothing, as the warning at the import said."""


def uninstall() -> None:
    """Do nothing: nothing was installed."""


def is_installed() -> bool:
    """Whether fastfake's classes are in the place of torch's: they never are."""
    return False


@contextlib.contextmanager
def install_temporarily() -> Iterator[None]:
    """Do nothing for a while."""
    yield


def cache_limit() -> int:
    """How many bytes the dispatch cache may hold: torch's own has no limit."""
    return sys.maxsize


def set_cache_limit(limit: int) -> None:
    """Do nothing: torch's own cache has no limit."""
