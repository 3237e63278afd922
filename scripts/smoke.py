"""Tries a wheel in fresh environments, one for each torch that it holds a module for: smoke.py WHEEL.

In each: the module that is loaded is the one for that torch, calls on static and on symbolic sizes are answered by the
cache as torch's class answers them, and the demo runs, which compares all metadata with those of torch's class.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

PROGRAM = """
import sys
import torch
from torch._subclasses.fake_tensor import FakeTensorMode as TorchsMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

def metadata(mode):
    x = mode.from_tensor(torch.ones(8, 3), static_shapes=mode.shape_env is None)
    with mode:
        for _ in range(3):
            y = torch.cat([x, x]).t()[1:].contiguous().view(-1)
    return str((y.shape, y.stride(), y.storage_offset(), y.dtype, y.device))

settings = ({}, {"shape_env": ShapeEnv()})
expected = [metadata(TorchsMode(**each)) for each in settings]
import fastfake
assert [metadata(fastfake.FakeTensorMode(**each)) for each in settings] == expected, expected
info = fastfake.FakeTensorMode.cache_info()
assert info.hits >= 20 and info.misses, info
assert fastfake._C.built_for_torch.rpartition(".")[0] == sys.argv[1], fastfake._C.built_for_torch
print(f"CPython {sys.version.split()[0]}, torch {torch.__version__}: {info.hits} of {info.hits + info.misses} "
      f"calls from the cache, by {fastfake._C.__file__.partition('site-packages/')[2]}")
"""


def torches(wheel: Path) -> list[str]:
    """The minor releases of torch that a wheel holds a module for."""
    with zipfile.ZipFile(wheel) as archive:
        found = (re.match(r"fastfake/native/torch_(\d+)_(\d+)/", name) for name in archive.namelist())
    return sorted({f"{match[1]}.{match[2]}" for match in found if match})


def try_with_each(wheel_and_pythons: Iterable[tuple[Path, str]], except_for: Collection[str] = ()) -> None:
    """Use each wheel, under the interpreter beside it, with each torch that it holds a module for.

    Pairs such as 3.11:2.15 among `except_for` are left out.
    """
    pairs = [
        (torch, wheel.resolve(), python)
        for wheel, python in wheel_and_pythons
        for torch in torches(wheel)
        if f"{version_of(python)}:{torch}" not in except_for
    ]
    # Two at a time: one waits for its downloads while the other computes.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in as_completed([pool.submit(try_with, *pair) for pair in pairs]):
            print(done.result(), flush=True)


def version_of(python: str) -> str:
    """The minor release of an interpreter, such as 3.11."""
    return run(python, "-c", "import sys; print('{}.{}'.format(*sys.version_info))", cwd=Path.cwd()).strip()


def try_with(torch: str, wheel: Path, python: str) -> str:
    """Install a wheel and torch `torch` in a fresh environment and use them. Gives what there is to say of it."""
    started = time.monotonic()
    # Away from the tree, so that what is imported is what the wheel installed.
    with tempfile.TemporaryDirectory() as directory:
        executable = str(Path(directory, "venv", "bin", "python"))
        run("uv", "venv", f"--python={python}", "venv", cwd=directory)
        install = ["uv", "pip", "install", f"--python={executable}", f"torch=={torch}.*"]
        # This torch for this CPython is needed once, and takes gigabytes of a cache; what it needs serves others too.
        run(*install, "--no-cache", "--no-deps", cwd=directory)
        run(*install, f"{wheel}[demo]", cwd=directory)
        hits = run(executable, "-W", "ignore", "-c", PROGRAM, torch, cwd=directory).strip()
        smallest = ["--layers", "1", "--rounds", "1"]
        demo = run(executable, "-W", "ignore", "-m", "fastfake", "demo", *smallest, cwd=directory)
    # Of the demo, that both sides have the same metadata; the rest is a table.
    same = " ".join(demo[demo.index("Same metadata") :].split())
    return f"{hits}\n  {same}\n  Tried in {time.monotonic() - started:.0f} s"


def run(*command: str, cwd: str | Path) -> str:
    """What a command prints.

    Raises:
        SystemExit: it failed; the text is what it printed.
    """
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, metavar="WHEEL")
    parser.add_argument("--python", default=sys.executable, help="the interpreter; without it the one that runs this")
    arguments = parser.parse_args()
    try_with_each([(arguments.wheel, arguments.python)])
