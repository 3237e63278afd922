"""Running a program on torch's fake tensors and on ours, each in a process of its own, and comparing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Side:
    """A zygote of one side."""

    def __init__(self, name: str) -> None:
        """Start it, with all new memory zero: what is in real empty tensors is the same on both sides."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.zygote", name],
            env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.perturb=255"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )

    def run(self, program: Sequence[str]) -> Any:
        """Give what the child noted of a program, or how it ended."""
        self.begin(program)
        return self.answer()

    def begin(self, program: Sequence[str]) -> None:
        """Have it run a program."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(program) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for what comes of it."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


SUM = ["FakeTensor", [3], [1], 0, "torch.float32", "cpu", False, True, 0, 12]


def harm(ours: Any) -> str | None:
    """Tell what harm a program did to the process, or to its thread's state; None if it did none."""
    if "ended" in ours:
        return f"ours ended {ours['ended']}"
    if ours["left"][0] != ours["left"][1]:
        return f"ours left thread state behind: {ours['left'][0]} became {ours['left'][1]}"
    if any(ours["on"]):
        return f"of tracking, a kernel, following and pretending, ours left on {ours['on']}"
    if ours["healthy"] != [SUM] * 3:
        return f"afterwards, ours gives {ours['healthy']} where a sum is {SUM}"
    if not ours["answered"]:
        return "afterwards, the cache answers no call"
    return None


def is_torchs(theirs: Any, ours: Any) -> bool:
    """Whether torch without fastfake comes to as bad an end, at the same line or before, or leaves as much behind."""
    if "ended" in theirs:
        return len(theirs["outcomes"]) <= len(ours["outcomes"])
    if "ended" in ours or any(ours["on"]):
        return False
    before, after = ours["left"]
    return before != after and all(
        our in (was, their) for was, our, their in zip(before, after, theirs["left"][1], strict=True)
    )


def difference(program: Sequence[str], theirs: Any, ours: Any) -> str | None:
    """Tell how ours differs from torch's, up to where torch itself comes to a bad end; None where it does not."""
    if (harmed := harm(ours)) and not is_torchs(theirs, ours):
        return harmed
    for statement, their, our in zip(program, theirs["outcomes"], ours["outcomes"], strict=False):
        # A child of a fork is a process, which comes to an end as this one does; some results are to be had from ours
        # alone (docs/differences.md), and later lines have tensors that torch lacks.
        if their[-1:] in (["ChildEndedBadly"], ["Refused"]):
            return None
        if their != our:
            return f"{statement}\n  torch: {their}\n  ours:  {our}"
    if (their := theirs.get("guards")) is not None and (our := ours.get("guards")) is not None and their != our:
        return f"guards\n  torch: {their}\n  ours:  {our}"
    return None
