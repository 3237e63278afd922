"""fastfake: PyTorch's FakeTensor, native.

`FakeTensorMode` and its companions have the names, arguments, results and errors of
``torch._subclasses.fake_tensor``. The first use of a mode installs them in the place of torch's; `install`,
`uninstall` and `install_temporarily` do so at a time of the user's choosing.
"""

from __future__ import annotations

from . import compatibility as _compatibility
from .version import __version__ as __version__

_compatibility.check_before_native_code()

from . import _C  # noqa: E402

_compatibility.check_native_code()

from . import config as _config  # noqa: E402
from . import registrations as _registrations  # noqa: E402
from . import symbols as _symbols  # noqa: E402
from .cache import DispatchCacheInfo, cache_limit, set_cache_limit  # noqa: E402
from .converter import FakeTensorConverter  # noqa: E402
from .copy_mode import FakeCopyMode  # noqa: E402
from .errors import (  # noqa: E402
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    MetadataMismatchError,
    UnsupportedFakeTensorException,
    UnsupportedMutationAliasingException,
    UnsupportedOperatorException,
)
from .fake_mode import FakeTensorMode  # noqa: E402
from .fake_tensor import FakeTensor, FakeTensorConfig  # noqa: E402
from .installation import install, install_temporarily, is_disabled, is_installed, uninstall  # noqa: E402
from .kernel_invocation import in_kernel_invocation_manager  # noqa: E402
from .memo import SymNumberMemoDescriptor  # noqa: E402
from .metadata import TensorMetadata, extract_tensor_metadata  # noqa: E402
from .miss import crosscheck as _crosscheck  # noqa: E402
from .queries import (  # noqa: E402
    disable_fake_tensor_cache,
    get_plain_tensors,
    is_fake,
    maybe_get_fake_mode,
    unset_fake_temporarily,
)

_C.watch_settings(_config.RESULTS_DEPEND_ON)
_C.watch_tables(_registrations.TABLES, _registrations.RULES)
_C.register_classes(FakeTensor, FakeTensorMode, _crosscheck.compare)
_symbols.register()

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


def __dir__() -> list[str]:
    """List what is for users; modules of the package are attributes too, once they are imported."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


if is_disabled():
    # A program that names fastfake's classes runs on torch's own then, so that the two can be compared.
    import torch._subclasses.fake_tensor as _torch_fake_tensor

    globals().update({name: getattr(_torch_fake_tensor, name) for name in __all__ if hasattr(_torch_fake_tensor, name)})
