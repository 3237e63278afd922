"""Builds the wheels that cibuildwheel would, with the interpreters of this machine instead of a container's.

A wheel for each CPython, with a module for each torch that there is for it: both as [tool.cibuildwheel] in
pyproject.toml says. Afterwards each wheel is tried in fresh environments, one for each of its torches.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import smoke
import tomllib
import torch_headers
from smoke import run

ROOT = Path(__file__).parent.parent
HEADERS = ROOT / "build" / "torch"


def main() -> int:
    """Build what the arguments ask for, and say what each wheel is and what could not be made."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    versions = [f"3.{selector.removeprefix('cp3').rstrip('-*')}" for selector in settings["build"]]

    parser = argparse.ArgumentParser(prog="scripts/wheels", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--python",
        action="append",
        metavar="PYTHON",
        help=f"a version or the path of an interpreter; may be repeated; without it {', '.join(versions)}, "
        "as far as they are found on the path or among pyenv's",
    )
    parser.add_argument("--directory", type=Path, default=ROOT / "dist", help="where the wheels go; without it dist/")
    parser.add_argument(
        "--tested",
        action="append",
        default=[],
        metavar="PYTHON:TORCH",
        help="do not try this pair, such as 3.11:2.15; may be repeated",
    )
    parser.add_argument("--no-smoke", action="store_true", help="do not try the wheels")
    arguments = parser.parse_args()

    made, missing = [], []
    for wanted in arguments.python or versions:
        python = interpreter(wanted)
        if python is None:
            missing.append(wanted)
            continue
        started = time.monotonic()
        wheel = build(python, settings, arguments.directory)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {time.monotonic() - started:.0f} s", flush=True)
        run(sys.executable, str(ROOT / ".ci" / "check_wheel.py"), str(wheel), cwd=ROOT)
        made.append((wheel, python))
    if not arguments.no_smoke:
        smoke.try_with_each(made, except_for=arguments.tested)
    if missing:
        print(f"No interpreter found for CPython {', '.join(missing)}", file=sys.stderr)
    return 2 if arguments.python and missing else 0


def interpreter(wanted: str) -> str | None:
    """The path of the interpreter `wanted`, a version such as 3.12 or a path, or None where there is none."""
    if "/" in wanted:
        candidates = [wanted]
    else:
        pyenv = Path.home() / ".pyenv" / "versions"
        candidates = [f"python{wanted}", *sorted(map(str, pyenv.glob(f"{wanted}.*/bin/python")))]
    for candidate in candidates:
        found = shutil.which(candidate)
        # A name on the path may be pyenv's stand-in for a version that is not selected, which fails.
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    return None


def build(python: str, settings: dict[str, Any], directory: Path) -> Path:
    """Build the wheel for the interpreter `python` in `directory`, and give its path."""
    version = run(python, "-c", "import sys; print('cp{}{}-manylinux'.format(*sys.version_info))", cwd=ROOT)
    identifier = version.strip()
    config = dict(settings["config-settings"])
    for override in settings["overrides"]:
        if fnmatch.fnmatch(identifier, override["select"]):
            config |= override["config-settings"]
    minors = sorted(set(re.findall(r"\{project\}/build/torch/([\d.]+)", config["cmake.define.FASTFAKE_TORCH"])))
    torch_headers.provide(HEADERS, minors)

    with tempfile.TemporaryDirectory() as temporary:
        command = ["uv", "build", "--wheel", f"--python={python}", f"--out-dir={temporary}"]
        for name, value in config.items():
            command += ["--config-setting", f"{name}={value.replace('{project}', str(ROOT))}"]
        run(*command, str(ROOT), cwd=ROOT)
        (built,) = Path(temporary).glob("*.whl")
        repaired = Path(temporary) / "repaired"
        repair = settings["linux"]["repair-wheel-command"]
        run("sh", "-c", repair.format(dest_dir=repaired, wheel=built), cwd=ROOT)
        (wheel,) = repaired.glob("*.whl")
        directory.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, directory / wheel.name))


if __name__ == "__main__":
    sys.exit(main())
