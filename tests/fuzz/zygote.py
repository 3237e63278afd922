"""A process that has torch loaded and forks a child for each program: ``python -m fuzz.zygote SIDE``.

Reads programs, a line of JSON each, and answers with a line of JSON: what the child noted of each line, and how it
ended if it came to a bad end.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import torch
import torch._decomp
import torch._dynamo.config
import torch._refs
import torch.fx.experimental.symbolic_shapes
import torch.utils.checkpoint

from .tools import OurTools, Tools

PROCESSOR_TIME = 20  # seconds
MEMORY = 3 * 2**30  # bytes


def main(side: str) -> None:
    """Serve programs until the input ends."""
    if side == "fastfake":
        tools: Tools = OurTools()
    else:
        # With its cache, torch gives some views other storages than it computes.
        torch._dynamo.config.fake_tensor_cache_enabled = False
        tools = Tools()
    from . import world

    torch.set_num_threads(1)
    logging.disable()  # failing meta kernels are logged
    warnings.simplefilter("ignore")
    _warm_up(world, tools)
    tools.install()
    with os.fdopen(_taken_away(sys.stdout), "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            print(json.dumps(_in_child(world, json.loads(line), tools)), file=answers, flush=True)


def _taken_away(stream: TextIO) -> int:
    """Keep a stream's file for answers: what programs write there leads nowhere."""
    stream.flush()
    kept = os.dup(stream.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return kept


_FIRST = (
    "keep((T(0) @ T(1)).softmax(-1).mean())",
    "keep(torch.nn.functional.embedding(T(2), T(1)))",
    "keep(T(0).conj().to_sparse())",
    "make_fx(lambda x: x * 2)(T(0))",
    "keep(in_task(T(0)))",
    "keep(torch.func.jvp(torch.sin, (T(0),), (T(0),))[1])",
    "keep(torch.func.vmap(torch.sin)(T(0)))",
    "torch.optim.AdamW([T(0)], lr=0.1).step()",
    "torch.save([T(0)], io.BytesIO())",
    "with tools.track(): T(0) + 1",
    "copy.deepcopy(T(0))",
    "repr(T(0))",
    "any_operator(0, 0, 0, 0)",
    "note(T(0).shape[0] == T(1).shape[-1])",
)


def _warm_up(world: Any, tools: Tools) -> None:
    """Load what the first calls of each kind would, which takes seconds, so that the children need not."""
    tools.install()
    for beginning in ((), ("begin_symbolic()",)):
        place = world.World(tools)
        for statement in (*beginning, *_FIRST):
            place.run(statement)
        place.close()
    tools.uninstall()


def _in_child(world: Any, program: Sequence[str], tools: Tools) -> Any:
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        faulthandler.enable()
        sys.stderr = io.StringIO()  # what programs write there is theirs
        signal.alarm(world.TIME_LIMIT)
        _limit()
        if not any("install" in statement and statement != "in_fork(uninstall)" for statement in program):
            gc.freeze()  # a collection would look at, and so copy, all that torch is made of; installing has to
        code = 1
        try:
            with open(sender, "w", encoding="utf-8") as pipe:
                _run(world, program, tools, lambda noted: print(json.dumps(noted), file=pipe, flush=True))
            code = 0
        finally:
            os._exit(code)
    os.close(sender)
    with open(receiver, encoding="utf-8") as pipe:
        *outcomes, last = [json.loads(line) for line in pipe] or [None]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or os.WEXITSTATUS(status) != 0:
        code = os.waitstatus_to_exitcode(status)
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return {"ended": ended, "outcomes": outcomes if last is None else [*outcomes, last]}
    return {"outcomes": outcomes, **last}


def _limit() -> None:
    """Let a program that asks for billions of tensors fail before the machine does."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_TIME,) * 2)


def _run(world: Any, program: Sequence[str], tools: Tools, note: Callable[[Any], None]) -> None:
    before = world.dispatch_state()
    place = world.World(tools)
    for statement in program:
        try:
            outcome = place.run(statement)
        except world.Interruption:  # between two lines
            outcome = ["Interruption"]
        note(outcome)
    guards = place.close()
    torch.set_grad_enabled(True)
    after, on = world.dispatch_state(), tools.state()
    # What all of this must not have broken: calls, the cache, and torch's own classes.
    tools.install()
    tools.limit_cache(2**28)
    hits = tools.hits()
    healthy = [_sum(world), _sum(world)]
    answered = tools.hits() - hits
    tools.uninstall()
    healthy.append(_sum(world))
    note({"guards": guards, "left": [before, after], "on": on, "healthy": healthy, "answered": answered})


def _sum(world: Any) -> Any:
    with torch._subclasses.fake_tensor.FakeTensorMode():
        return world.describe(torch.empty(3, dtype=torch.float32) + 1)


if __name__ == "__main__":
    main(sys.argv[1])
