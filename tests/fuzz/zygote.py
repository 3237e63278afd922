"""A process that has torch loaded and forks a child for each program: ``python -m fuzz.zygote SIDE``.

Reads programs, a line of JSON each, and answers with a line of JSON: what the child noted, or how it ended.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch._decomp
import torch._dynamo.config
import torch._refs
import torch.fx.experimental.symbolic_shapes
import torch.utils.checkpoint

TIME_LIMIT = 60  # seconds


def main(side: str) -> None:
    """Serve programs until the input ends."""
    if side == "fastfake":
        import fastfake

        install, uninstall = fastfake.install, fastfake.uninstall
    else:
        # With its cache, torch gives some views other storages than it computes.
        torch._dynamo.config.fake_tensor_cache_enabled = False

        def install() -> None: ...

        uninstall = install
    from . import world

    torch.set_num_threads(1)
    logging.disable()  # failing meta kernels are logged
    _warm_up(install, uninstall)
    for line in sys.stdin:
        print(json.dumps(_in_child(world, json.loads(line), install, uninstall)), flush=True)


def _warm_up(install: Any, uninstall: Any) -> None:
    """Load what the first computed calls would, which takes seconds, so that the children need not."""
    install()
    with torch._subclasses.fake_tensor.FakeTensorMode():
        x = torch.empty(2, 2)
        torch.nn.functional.softmax(x @ x, -1).sum().mean().expand(2, 2).to(torch.int64)
        torch.nn.functional.embedding(torch.zeros(2, dtype=torch.int64), x)
    uninstall()


def _in_child(world: Any, program: Sequence[str], install: Any, uninstall: Any) -> Any:
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        faulthandler.enable()
        signal.alarm(TIME_LIMIT)
        code = 1
        try:
            outcome = _run(world, program, install, uninstall)
            with open(sender, "w", encoding="utf-8") as pipe:
                json.dump(outcome, pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(sender)
    with open(receiver, encoding="utf-8") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"ended": f"by {signal.Signals(os.WTERMSIG(status)).name}"}
    if os.WEXITSTATUS(status) != 0:
        return {"ended": f"with exit code {os.WEXITSTATUS(status)}"}
    return json.loads(answer)


def _run(world: Any, program: Sequence[str], install: Any, uninstall: Any) -> Any:
    install()
    before = world.dispatch_state()
    place = world.World(install, uninstall)
    outcomes = [place.run(statement) for statement in program]
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    place.close()
    torch.set_grad_enabled(True)
    after = world.dispatch_state()
    # What all of this must not have broken.
    with torch._subclasses.fake_tensor.FakeTensorMode():
        healthy = world.describe(torch.empty(3, dtype=torch.float32) + 1)
    return {"outcomes": outcomes, "left": [list(before), list(after)], "healthy": healthy}


if __name__ == "__main__":
    main(sys.argv[1])
