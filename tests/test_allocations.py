"""How many blocks of memory a hit takes, counted by a library that stands before malloc."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOM = pathlib.Path(__file__).parent / "allocations"

# Each new tensor is three blocks, besides its Python object: TensorImpl, StorageImpl unless it is a view, and the
# counter of its versions. The rest are torch's: the boxed arguments, lists of sizes, autograd's records of views,
# and the tensor that stands for a Python number.
BUDGETS = {
    "None": 0,
    "torch.add(x, y)": 5,
    "torch.mm(x, y)": 5,
    "torch.sum(x)": 5,
    "torch.max(x, 1)": 8,
    "torch.cat([x, y])": 12,
    "torch.empty(4, 4)": 7,
    "x.add_(0)": 6,
    "x.detach()": 4,
    "x.view(2, 8)": 19,
    "x.split(2)": 20,
}


@pytest.mark.skipif(
    shutil.which("cc") is None, reason="the counter is compiled by the test, and there is no C compiler"
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the counter calls functions of glibc")
def test_a_hit_takes_no_more_blocks_than_it_is_allowed(tmp_path: pathlib.Path) -> None:
    counter = tmp_path / "malloc_counter.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", counter, ROOM / "malloc_counter.c"], check=True)
    counted = subprocess.run(
        [sys.executable, ROOM / "count_calls.py", *BUDGETS],
        env=os.environ | {"LD_PRELOAD": str(counter)},
        check=True,
        capture_output=True,
        text=True,
    )
    mallocs = json.loads(counted.stdout)
    # Now and then an allocator of Python's takes a new arena.
    assert {call: round(mallocs[call]) for call in BUDGETS if round(mallocs[call]) > BUDGETS[call]} == {}
    assert mallocs["torch.add(x, y)"] >= 3
