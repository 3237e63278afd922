"""torch's own caching allocator, its compiled code, on a CUDA runtime that has no device.

The allocator is in ``libc10_cuda.so`` of builds of torch for CUDA. It is linked to a small program that reads what to
do (replay.cpp), and loaded along with a library that stands in for CUDA's runtime (fake_cuda_runtime.cpp).
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

ROOM = pathlib.Path(__file__).parent

Operation = tuple[str, int, int]
"""``malloc`` with a number and bytes, ``free`` with a number, or ``empty_cache``; 0 for what there is not."""


@dataclass(frozen=True)
class Trace:
    """What the allocator did, as replay.cpp writes it."""

    steps: list[str]
    segments: list[str]


class RealAllocator:
    """The allocator of an installed torch.

    Attributes:
        why_not: Why it cannot be had, or an empty string.
    """

    def __init__(self, packages: pathlib.Path, folder: pathlib.Path) -> None:
        """Take the site-packages with torch in it, and a folder for what is compiled."""
        self._libraries = packages / "torch/lib"
        self._headers = [
            packages / "torch/include",
            *packages.glob("nvidia/cu*/include"),
            packages / "triton/backends/nvidia/include",
        ]
        self._folder = folder
        self.why_not = ""
        if not (self._libraries / "libc10_cuda.so").exists():
            self.why_not = "this torch is not built for CUDA"
        elif not any((headers / "crt/host_defines.h").exists() for headers in self._headers):
            self.why_not = "there are no headers of CUDA"
        elif shutil.which("g++") is None or shutil.which("nm") is None:
            self.why_not = "there is no C++ compiler"

    def build(self) -> None:
        """Compile the runtime and the program."""
        includes = [f"-I{headers}" for headers in self._headers]
        symbols = subprocess.run(
            ["nm", "-D", "--undefined-only", self._libraries / "libc10_cuda.so"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        needed = dict(re.findall(r"\bU (cuda\w+)@(libcudart\.so\.\d+)", symbols))
        soname = next(iter(needed.values()))
        source = ROOM / "fake_cuda_runtime.cpp"
        faked = set(re.findall(r"\b(cuda\w+)\(", source.read_text()))
        missing = needed.keys() - faked
        (self._folder / "missing.c").write_text(
            "#include <err.h>\n"
            + "".join(f'void {name}(void) {{ errx(1, "{name} is not faked"); }}\n' for name in missing)
        )
        (self._folder / "versions").write_text(f"{soname} {{ global: cuda*; local: *; }};\n")
        self._run("g++", "-O1", "-fPIC", "-c", *includes, source, "-o", "runtime.o")
        self._run("gcc", "-fPIC", "-c", "missing.c", "-o", "missing.o")
        self._run(
            "g++", "-shared", "runtime.o", "missing.o", f"-Wl,-soname,{soname}", "-Wl,--version-script=versions",
            "-o", "libcudart.so",
        )  # fmt: skip
        self._run(
            "g++", "-std=c++20", "-O1", *includes, ROOM / "replay.cpp", f"-L{self._libraries}", "-lc10_cuda", "-lc10",
            "./libcudart.so", f"-Wl,-rpath,{self._libraries}", "-o", "replay",
        )  # fmt: skip

    def replay(self, operations: Sequence[Operation], settings: str, memory: int, available: int) -> Trace:
        """Have the allocator do operations.

        Args:
            operations: What to do. What did not fit is not freed.
            settings: As in ``PYTORCH_CUDA_ALLOC_CONF``.
            memory: Bytes of the device.
            available: Bytes of them that the allocator can have.
        """
        environment = os.environ | {
            "PYTORCH_CUDA_ALLOC_CONF": settings,
            "FAKE_CUDA_MEMORY": str(memory),
            "FAKE_CUDA_AVAILABLE": str(available),
            "LD_PRELOAD": str(self._folder / "libcudart.so"),
        }
        text = "".join(
            {"malloc": f"malloc {number} {size}\n", "free": f"free {number}\n"}.get(name, "empty_cache\n")
            for name, number, size in operations
        )
        done = subprocess.run(
            [self._folder / "replay"], input=text, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"torch's allocator ended with {done.returncode}: {done.stderr}")
        lines = done.stdout.splitlines()
        return Trace(lines[: len(operations)], sorted(lines[len(operations) :]))

    def _run(self, *command: str | pathlib.Path) -> None:
        subprocess.run(command, cwd=self._folder, check=True)
