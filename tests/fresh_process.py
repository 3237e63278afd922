"""Calling a function in a process of its own that has torch's compilers loaded already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

# One server imports torch, which takes seconds; each process is forked from it and has compiled nothing yet.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch._inductor.compile_fx", "torch._functorch.aot_autograd", "torch.export", "torch.distributed.tensor"]
)


def call(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what the function returns in another process, or raise what it raises."""
    return calls((function, *arguments))[0]


def calls(*invocations: tuple[Any, ...]) -> list[Any]:
    """Call several functions at the same time, each in a process of its own."""
    with contextlib.ExitStack() as pools:
        futures: list[Future[Any]] = []
        for function, *arguments in invocations:
            pool = pools.enter_context(ProcessPoolExecutor(1, mp_context=_CONTEXT))
            futures.append(pool.submit(function, *arguments))
        return [future.result() for future in futures]


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch what is written to standard error, by native code and by processes begun meanwhile too."""
    with tempfile.TemporaryFile("w+") as file:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)

        def read() -> str:
            sys.stderr.flush()
            file.seek(0)
            return file.read()

        try:
            yield read
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
