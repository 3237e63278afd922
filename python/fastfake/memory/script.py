"""``memory run``: a script of the user's, unchanged, on fake tensors, until its optimizers took some steps."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import fastfake
from fastfake import run as runner

from .errors import MemoryCommandError
from .estimate import Estimate, judge
from .tracker import track

__all__ = ["estimate_script"]

_DEVICES_OF_A_HOST = 8


class EnoughSteps(BaseException):
    """Ends a program after its last step that is looked at. No ``except Exception`` of the program stops it."""


def estimate_script(arguments: argparse.Namespace) -> Estimate | int:
    """Run a program until its optimizers took some steps, and find out what memory it takes.

    Args:
        arguments: Parsed arguments of ``python -m fastfake memory run``.

    Returns:
        What was found out; or the exit code of a program that ended with another one than 0.

    Raises:
        MemoryCommandError: the program allocated nothing, or there is no such rank.
        BaseException: whatever the program raised.
    """
    # The program may change its arguments, and has the path of a module among them.
    command = list(arguments.module or arguments.script)
    ranks = arguments.ranks or 1
    if not 0 <= arguments.rank < ranks:
        raise MemoryCommandError(f"--rank {arguments.rank}: there are ranks 0 to {ranks - 1}; --ranks says how many")
    with _environment(arguments) as mode, track(mode=mode) as tracker, _stopped_after(arguments.steps):
        code = _program(arguments)
    if code:
        return code
    timeline = tracker.timeline
    if not timeline.allocations:
        raise MemoryCommandError(f"{command[0]} allocated nothing")
    if tracker.steps < arguments.steps:
        print(f"fastfake memory: {command[0]} ended after {tracker.steps} steps", file=sys.stderr)
    title = " ".join(command)
    return Estimate(title, timeline, tracker.steps, judge(timeline, arguments.device_memory))


def _program(arguments: argparse.Namespace) -> int:
    """Run the program until it ends or has taken its steps; return the code of an end that is none."""
    named = argparse.Namespace(module=arguments.module, script=arguments.script, stats=False, parser=arguments.parser)
    # The report alone is on the standard output, for another program to read.
    output = contextlib.redirect_stdout(sys.stderr) if arguments.json == "-" else contextlib.nullcontext()
    try:
        with output:
            return runner.run(named)
    except EnoughSteps:
        return 0
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
        return 0


@contextlib.contextmanager
def _environment(arguments: argparse.Namespace) -> Iterator[Any]:
    """Have the devices, ranks and fake mode that the program is to see; give the mode."""
    ranks = arguments.ranks or 1
    with contextlib.ExitStack() as stack:
        if arguments.device == "cuda":
            count = min(ranks, _DEVICES_OF_A_HOST)
            stack.enter_context(fastfake.pretend(count=count, memory=arguments.device_memory))
        if arguments.ranks is not None:
            stack.enter_context(_as_started_by_torchrun(ranks, arguments.rank))
        # The program reads data, prints its loss and clips by the norm of gradients.
        yield stack.enter_context(
            fastfake.FakeTensorMode(known_values=True, unknown_items=0.0, allow_non_fake_inputs=True)
        )


@contextlib.contextmanager
def _as_started_by_torchrun(ranks: int, rank: int) -> Iterator[None]:
    import torch.distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    make = torch.distributed.init_process_group
    local = min(ranks, _DEVICES_OF_A_HOST)
    variables = {
        "RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_RANK": rank % local,
        "LOCAL_WORLD_SIZE": local,
        "GROUP_RANK": rank // local,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 29500,
    }

    def make_fake(*_: Any, **__: Any) -> None:
        make("fake", store=FakeStore(), rank=rank, world_size=ranks)

    with (
        mock.patch.dict(os.environ, {name: str(value) for name, value in variables.items()}),
        mock.patch.object(torch.distributed, "init_process_group", make_fake),
        mock.patch.object(torch.distributed.distributed_c10d, "init_process_group", make_fake),
        mock.patch.object(torch.distributed.device_mesh, "init_process_group", make_fake),
    ):
        try:
            yield
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _stopped_after(steps: int) -> Iterator[None]:
    """Raise EnoughSteps in the program after so many steps of optimizers, and after each one from then on."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    taken = 0

    def count(*_: Any) -> None:
        nonlocal taken
        taken += 1
        if taken >= steps:
            raise EnoughSteps

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()
