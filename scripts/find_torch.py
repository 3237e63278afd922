"""Where the torch is that the package is compiled for; prints its directory, or an empty line where there is none."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def torch_directory() -> Path | None:
    """The torch package of the environment that the package is built in, or None.

    The environment's own directory comes first, whatever is on the path: under pip's isolation it still is that of the
    Python that runs pip.
    """
    for directory in _package_directories():
        if (directory / "torch" / "include" / "ATen").is_dir():
            return directory / "torch"
    return None


def _package_directories() -> Iterator[Path]:
    yield Path(sysconfig.get_path("platlib"))
    yield from (Path(entry) for entry in sys.path if entry)


if __name__ == "__main__":
    print(torch_directory() or "")
