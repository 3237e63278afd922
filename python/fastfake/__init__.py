"""fastfake: PyTorch's FakeTensor, native.

`FakeTensorMode` and its companions have the names, arguments, results and errors of
``torch._subclasses.fake_tensor``. The first use of a mode installs them in the place of torch's; `install`,
`uninstall` and `install_temporarily` do so at a time of the user's choosing. Under a torch that the package has no
native code for, a line in the log says so, and all names are torch's own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import main_interpreter as _main_interpreter  # noqa: F401  # before torch is imported

# isort: split
from . import compatibility as _compatibility
from .version import __version__ as __version__

if _compatibility.load_native_code() or TYPE_CHECKING:
    if TYPE_CHECKING:
        from . import memory as memory
    from . import _C
    from . import collectives as _collectives
    from . import config as _config
    from . import operator_rules as _operator_rules
    from . import registrations as _registrations
    from . import symbols as _symbols
    from .cache import DispatchCacheInfo, bypassed_operators, cache_limit, declined_calls, set_cache_limit
    from .cached_operators import cache_operator, cache_operators_temporarily
    from .converter import FakeTensorConverter
    from .copy_mode import FakeCopyMode
    from .errors import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorDeviceMismatchError,
        MetadataMismatchError,
        UnsupportedFakeTensorException,
        UnsupportedMutationAliasingException,
        UnsupportedOperatorException,
    )
    from .fake_mode import FakeTensorMode
    from .fake_tensor import FakeTensor, FakeTensorConfig
    from .installation import install, install_temporarily, is_disabled, is_installed, uninstall
    from .kernel_invocation import in_kernel_invocation_manager
    from .memo import SymNumberMemoDescriptor
    from .metadata import TensorMetadata, extract_tensor_metadata
    from .miss import constants as _constants
    from .miss import conversion as _conversion
    from .miss import crosscheck as _crosscheck
    from .pretend import pretend
    from .queries import (
        disable_fake_tensor_cache,
        get_plain_tensors,
        is_fake,
        maybe_get_fake_mode,
        unset_fake_temporarily,
    )

    _C.watch_settings(_config.RESULTS_DEPEND_ON)
    _C.watch_tables(_registrations.TABLES, _registrations.RULES, _registrations.has_dispatch_rule)
    _C.register_classes(
        FakeTensor,
        FakeTensorMode,
        _crosscheck.compare,
        _conversion.convert_for_cache,
        _constants.is_given_back,
        _constants.lift_plain,
    )
    _symbols.register()
    _C.register_rules(_operator_rules.rules_of, _collectives.new_work)

    _leaves_to_torch = is_disabled()
else:
    from .without_native_code import (
        bypassed_operators,
        cache_limit,
        cache_operator,
        cache_operators_temporarily,
        declined_calls,
        install,
        install_temporarily,
        is_installed,
        pretend,
        set_cache_limit,
        uninstall,
    )

    _leaves_to_torch = True

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
    "bypassed_operators",
    "cache_limit",
    "cache_operator",
    "cache_operators_temporarily",
    "declined_calls",
    "disable_fake_tensor_cache",
    "extract_tensor_metadata",
    "get_plain_tensors",
    "in_kernel_invocation_manager",
    "install",
    "install_temporarily",
    "is_fake",
    "is_installed",
    "maybe_get_fake_mode",
    "pretend",
    "set_cache_limit",
    "uninstall",
    "unset_fake_temporarily",
]


def __getattr__(name: str) -> Any:
    """Import `fastfake.memory` when it is first named: most programs do not."""
    if name == "memory":
        return importlib.import_module(f"{__name__}.memory")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is for users; modules of the package are attributes too, once they are imported."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


if _leaves_to_torch:
    # A program that names fastfake's classes runs on torch's own then, so that the two can be compared.
    import torch._subclasses.fake_tensor as _torch_fake_tensor

    globals().update({name: getattr(_torch_fake_tensor, name) for name in __all__ if hasattr(_torch_fake_tensor, name)})
