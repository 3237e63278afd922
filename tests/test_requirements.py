"""What only commands need is not needed by programs that use fake tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fastfake

WITHOUT = """
import sys
from importlib.machinery import PathFinder

class FindsAllButSome(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in ("numpy", "rich")
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = FindsAllButSome
"""

FAKE_TENSORS = """
import torch, fastfake
with fastfake.FakeTensorMode(allow_non_fake_inputs=True) as mode:
    layer = torch.nn.Linear(4, 3)
    for _ in range(2):
        layer(torch.empty(2, 4)).relu().sum().backward()
    assert layer.weight.grad.shape == (3, 4)
    assert (torch.tensor(3) + 1).item() == 4
    assert (torch.ones(2) @ mode.from_tensor(torch.ones(2, 5))).shape == (5,)
fastfake.uninstall()
print("done")
"""


def run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    # torch warns of a missing numpy by itself.
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT + program]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.exhaustive
def test_modes_work_without_numpy_and_rich(tmp_path: Path) -> None:
    done = run(FAKE_TENSORS, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_programs_run_without_numpy_and_rich(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FAKE_TENSORS)
    start = "from fastfake.__main__ import main\nsys.exit(main(['run', '--stats', 'program.py']))"
    done = run(start, tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_the_demo_names_what_it_lacks(tmp_path: Path) -> None:
    done = run("from fastfake.__main__ import main\nsys.exit(main(['demo', '--layers', '1']))", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "fastfake demo: prints its tables with rich, which is not installed: pip install 'fastfake[demo]'\n"
    )


def test_the_version_is_told_without_numpy_and_rich(tmp_path: Path) -> None:
    done = run("from fastfake.__main__ import main\nmain(['--version'])", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"fastfake {fastfake.__version__}\n")
