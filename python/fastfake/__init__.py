"""fastfake: PyTorch's FakeTensor, native.

`FakeTensorMode` and its companions have the names, arguments, results and errors of
``torch._subclasses.fake_tensor``. The first use of a mode installs them in the place of torch's; `install`,
`uninstall` and `install_temporarily` do so at a time of the user's choosing. Under a torch that the package has no
native code for, a warning says so, and all names are torch's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import compatibility as _compatibility
from .version import __version__ as __version__

if _compatibility.load_native_code() or TYPE_CHECKING:
    from .public import *
    from .public import __all__ as __all__
else:
    from .without_native_code import *
    from .without_native_code import __all__ as __all__


def __dir__() -> list[str]:
    """List what is for users; modules of the package are attributes too, once they are imported."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
