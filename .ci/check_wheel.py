"""Checks that a wheel holds what it should, and nothing unexpectedly big: check_wheel.py WHEEL."""

import re
import sys
import zipfile
from pathlib import Path

MAX_BYTES = 3_000_000
REQUIRED = {
    "fastfake/__init__.py",
    "fastfake/_C.pyi",
    "fastfake/memory/page.css",
    "fastfake/memory/page.html",
    "fastfake/memory/page.js",
    "fastfake/py.typed",
}


def problems(wheel: Path) -> list[str]:
    """Says, a string each, what is wrong with the wheel."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = [name for name in names if name.endswith(".so")]
    if not modules or not all(re.fullmatch(r"fastfake/native/torch_\d+_\d+/_C\.[^/]+", name) for name in modules):
        found.append(f"should hold a compiled module for each torch, fastfake/native/torch_*/_C, but holds {modules}")
    if missing := REQUIRED.difference(names):
        found.append(f"lacks {sorted(missing)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        found.append("lacks the license")
    if strays := [n for n in names if not n.startswith(("fastfake/", "fastfake-"))]:
        found.append(f"would install outside of its own package: {strays}")
    if (size := wheel.stat().st_size) >= MAX_BYTES:
        found.append(f"takes {size:,} bytes, {MAX_BYTES:,} or more")
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1])
    found = problems(path)
    for problem in found:
        print(f"{path.name} {problem}", file=sys.stderr)
    if not found:
        print(f"{path.name}: {path.stat().st_size:,} bytes, as it should be")
    sys.exit(bool(found))
