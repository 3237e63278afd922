"""The build backend: scikit-build-core's, which compiles for the torch that is installed where the package will be.

pip builds in an environment of its own. A torch named among the requirements of the build would be downloaded and
unpacked there a second time, and might be another release than the one that the package will run with.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from find_torch import torch_directory
from scikit_build_core import build as scikit_build
from scikit_build_core.build import *  # noqa: F403 - the hooks that pip looks for

_Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: _Settings = None) -> list[str]:
    """What the build needs beyond pyproject.toml: the newest torch that is supported, where there is none."""
    required: list[str] = scikit_build.get_requires_for_build_wheel(config_settings)
    if torch_directory() is None and "cmake.define.FASTFAKE_TORCH" not in (config_settings or {}):
        required.append(_supported_torch())
    return required


def get_requires_for_build_editable(config_settings: _Settings = None) -> list[str]:
    """The same for an editable installation."""
    return get_requires_for_build_wheel(config_settings)


def _supported_torch() -> str:
    text = (Path(__file__).parent.parent / "CMakeLists.txt").read_text()
    minors = re.search(r"set\(FASTFAKE_TORCH_MINORS ([^)]*)\)", text)
    if minors is None:
        raise RuntimeError("CMakeLists.txt does not list the supported releases of torch")
    oldest, *_, newest = minors[1].split()
    return f"torch>={oldest},<={newest}.999"
