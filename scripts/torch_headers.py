"""Fetches what compiling for a torch takes, without installing it: torch_headers.py DIRECTORY MINOR...

DIRECTORY/MINOR gets the headers of the newest patch release of torch MINOR, such as 2.15, and the file that tells its
version: what `-C cmake.define.FASTFAKE_TORCH=DIRECTORY/MINOR` asks for. They do not depend on the CPython that a torch
was built for, so that one download serves all. What is there already stays.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def provide(directory: Path, minors: list[str]) -> None:
    """Fetch into `directory` what is not there yet of the torches `minors`."""
    for minor in minors:
        target = directory / minor
        if not target.exists():
            print(f"Fetching the headers of torch {minor}", flush=True)
            fetch(minor, target)


def fetch(minor: str, target: Path) -> None:
    """Make the directory `target` of the headers and the version of torch `minor`."""
    with tempfile.TemporaryDirectory() as temporary:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, f"--dest={temporary}", f"torch=={minor}.*"], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        unpacked = Path(temporary, "unpacked")
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.startswith(("torch/include/", "torch/version.py"))]
            archive.extractall(unpacked, wanted)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Last, so that what an interrupted run leaves behind is not taken for the whole.
        shutil.move(unpacked / "torch", target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("minors", nargs="+", metavar="MINOR")
    arguments = parser.parse_args()
    provide(arguments.directory, arguments.minors)
