"""Which torch runs. What torch does differently from one minor release to the next is decided by this alone.

`csrc/torch_version.h` is the counterpart in native code. Support for a release ends where its name here does.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

__all__ = ["AT_LEAST_2_14", "AT_LEAST_2_15", "MINOR", "of_torch"]

# Of "2.15.0+cpu": (2, 15).
MINOR = tuple(int(part) for part in torch.__version__.split(".")[:2])

AT_LEAST_2_14 = MINOR >= (2, 14)
AT_LEAST_2_15 = MINOR >= (2, 15)


def of_torch(module: str, name: str) -> Any:
    """Look up something that not every supported torch has, or has there.

    Args:
        module: the name of a module of torch.
        name: what to look up in it.

    Returns:
        The object, of a type that type checkers cannot know: they see one torch.
    """
    return getattr(importlib.import_module(module), name)
