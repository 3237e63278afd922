"""torch's configuration flags that the fake tensor system reads.

torch keeps them in ``torch._functorch.config`` and ``torch._dynamo.config``. The latter's package takes
long to import, so it is imported at the first use of a mode and not with fastfake.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import torch._functorch.config as functorch_config
import torch.fx.experimental._config as experimental_config
from torch.utils._config_module import _UNSET_SENTINEL

__all__ = [
    "RESULTS_DEPEND_ON",
    "custom_ops_profile",
    "custom_ops_profile_override",
    "dynamo_config",
    "functorch_config",
    "preferred_device_type",
]


def _override_of(module: Any, name: str) -> ContextVar[Any]:
    """Return the variable in which torch keeps the value that a user gave to a flag."""
    variable: ContextVar[Any] = module._config[name].user_override
    return variable


# Flags that meta kernels and decompositions read each time, and those by which ShapeEnvs decide conditions.
RESULTS_DEPEND_ON = (
    _override_of(experimental_config, "aggressive_guard_free_semantics"),
    _override_of(experimental_config, "backed_size_oblivious"),
    _override_of(experimental_config, "skip_dtype_check_in_meta_registrations"),
    _override_of(experimental_config, "unify_view_symbols_bso_meta"),
    _override_of(functorch_config, "fake_tensor_prefer_device_type"),
)


@functools.cache
def dynamo_config() -> ModuleType:
    """Return ``torch._dynamo.config``."""
    import torch._dynamo.config as module

    return module


def preferred_device_type() -> object:
    """The device type that wins when argument devices differ, or whatever the user set for it; None by default."""
    return functorch_config.fake_tensor_prefer_device_type


def custom_ops_profile() -> Any:
    """The recorded profiles of custom operators that stand in for fake implementations, or None."""
    return dynamo_config()._custom_ops_profile


def custom_ops_profile_override() -> tuple[ContextVar[Any], object]:
    """The variable in which torch keeps those profiles where a user set them, and its value where nobody did."""
    return _override_of(dynamo_config(), "_custom_ops_profile"), _UNSET_SENTINEL
