"""Running a program on torch's fake tensors and on ours, each in a process of its own, and comparing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Side:
    """A zygote of one side."""

    def __init__(self, name: str) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.zygote", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def run(self, program: Sequence[str]) -> Any:
        """Give what the child noted of a program, or how it ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(program) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


HEALTHY = ["FakeTensor", [3], [1], 0, "torch.float32", "cpu", False, True, 0, 12]


def harm(ours: Any) -> str | None:
    """Tell what harm a program did to the process, or to its thread's state; None if it did none."""
    if "ended" in ours:
        return f"ours ended {ours['ended']}"
    if ours["left"][0] != ours["left"][1]:
        return f"ours left thread state behind: {ours['left'][0]} became {ours['left'][1]}"
    if ours["healthy"] != HEALTHY:
        return f"afterwards, ours gives {ours['healthy']} where a sum is {HEALTHY}"
    return None


def difference(program: Sequence[str], theirs: Any, ours: Any) -> str | None:
    """Tell how ours differs from torch's; None where it does not, or where torch itself comes to a bad end."""
    if harmed := harm(ours):
        return harmed
    if "ended" in theirs:
        return None
    for statement, their, our in zip(program, theirs["outcomes"], ours["outcomes"], strict=True):
        if their != our:
            return f"{statement}\n  torch: {their}\n  ours:  {our}"
    return None
