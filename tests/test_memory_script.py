"""`python -m fastfake memory run` runs a user's script unchanged until it took some steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastfake.__main__ import main

TRAINING = """
import sys
import torch
from torch import nn

device = "cuda" if torch.cuda.is_available() else "cpu"
print("training on", device, sys.argv)
model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)).to(device)
optimizer = torch.optim.AdamW(model.parameters())
data = torch.utils.data.TensorDataset(torch.randn(64, 1024))
for epoch in range(1000):
    for batch, in torch.utils.data.DataLoader(data, batch_size=16, shuffle=True):
        try:
            optimizer.zero_grad()
            loss = model(batch.to(device)).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            print(f"step: {loss.item():.1f}")
        except Exception:
            print("never here")
"""


def execute(folder: Path, source: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    if source is not None:
        (folder / "train.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "fastfake", "memory", "run", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_script_is_stopped_after_its_steps_and_its_memory_told(tmp_path: Path) -> None:
    done = execute(tmp_path, TRAINING, "--steps", "3", "--json", "-", "train.py", "--lr", "1")
    found = figures(done)
    assert done.stderr.splitlines() == ["training on cuda ['train.py', '--lr', '1']", "step: 0.0", "step: 0.0"]
    weights = 2 * (1024 * 1024 + 1024) * 4
    categories = found["peak"]["by_category"]
    assert (found["steps"], found["device"], found["fits"]) == (3, "cuda:0", True)
    assert (categories["parameter"], categories["gradient"]) == (weights, weights)
    assert categories["optimizer state"] >= 2 * weights
    assert found["title"] == "train.py --lr 1"
    assert "train.py" in found["peak"]["reached_by"]["line"]


FSDP = """
import os
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)
dist.init_process_group("nccl")
assert dist.get_rank() == int(os.environ["RANK"]) == 13 and dist.get_world_size() == 16
model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(4))).cuda()
for layer in model:
    fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.SGD(model.parameters())
while True:
    model(torch.randn(8, 1024, device="cuda")).sum().backward()
    optimizer.step()
"""


@pytest.mark.exhaustive
def test_a_script_for_many_ranks_is_any_one_of_them(tmp_path: Path) -> None:
    done = execute(tmp_path, FSDP, "--ranks", "16", "--rank", "13", "--json", "-", "train.py")
    found = figures(done)
    # It was told to be the sixth of the eight of the second host.
    assert found["device"] == "cuda:5"
    assert found["peak"]["by_category"]["parameter"] == 4 * 1024 * 1024 * 4 // 16


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("source", "code", "part"),
    [
        ("print('nothing')\n", 2, "fastfake memory: train.py allocated nothing"),
        ("import sys; sys.exit(3)\n", 3, ""),
        (None, 2, "can't open file"),
        ("import torch; torch.ones(2).reshape(3)\n", 1, "RuntimeError: "),
    ],
)
def test_ends_without_a_report_have_the_codes_of_python(
    tmp_path: Path, source: str | None, code: int, part: str
) -> None:
    done = execute(tmp_path, source, "train.py")
    assert done.returncode == code
    assert part in done.stderr
    if "Traceback" in done.stderr:
        assert "train.py" in done.stderr.splitlines()[1]


@pytest.mark.exhaustive
def test_a_module_that_ends_early_is_told_as_it_is(tmp_path: Path) -> None:
    source = "import torch\nkept = torch.ones(1 << 20, device='cuda')\nraise SystemExit\n"
    done = execute(tmp_path, source, "-m", "train")
    assert done.returncode == 0
    assert done.stderr == "fastfake memory: train ended after 0 steps\n"
    assert done.stdout.splitlines()[-1] == "Fits in 80.00 GiB."


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "name a script, or a module with -m"),
        (["--rank", "1", "train.py"], "fastfake memory: --rank 1: there are ranks 0 to 0; --ranks says how many"),
        (["--steps", "none", "train.py"], "has to be a positive integer, not 'none'"),
        (["--batch", "2", "train.py"], "unrecognized arguments: --batch"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["memory", "run", *arguments])
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert line in output.err.splitlines()[-1]
