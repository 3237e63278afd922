"""Makes calls without end and tells what a process holds more of after each: ``python -m soak`` in tests/.

``python -m soak --calls 1000000 --seconds 60`` makes a million calls of each kind, or as many as a minute has room for.
Names of kinds, or parts of names, choose among them; ``--side torch`` makes the same calls on torch's FakeTensor, which
tells whether what grows is ours. ``--list`` names the kinds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import traceback
import warnings
from typing import Any

# Python's own allocator keeps memory back from the C library, and so do the latter's threads, unless told otherwise.
ALLOCATORS = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


def main(arguments: list[str]) -> int:
    """Run kinds of calls, each in a process of its own.

    Returns:
        1 if something grew.
    """
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="parts of names of kinds; all that do not leak on purpose if none")
    parser.add_argument("--calls", type=int, help="calls of each kind; by default some thousand, fewer of slow ones")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long a kind may take, about")
    parser.add_argument("--side", choices=("fastfake", "torch"), default="fastfake")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each kind")
    parser.add_argument("--list", action="store_true", help="print the names of the kinds")
    options = parser.parse_args(arguments)
    if not ALLOCATORS.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "soak", *arguments], os.environ | ALLOCATORS)

    from . import gauges
    from .kinds import KINDS

    chosen = {
        name: kind
        for name, kind in KINDS.items()
        if (any(part in name for part in options.kinds) or (not options.kinds and not kind.leaks))
        and not (kind.ours and options.side == "torch")
    }
    if options.list:
        print(*chosen, sep="\n")
        return 0
    _load(options.side)
    gauges.set_aside()
    failed = False
    if not options.json:
        print(f"{'kind of call':<40}{'calls':>10}{'seconds':>9}{'us/call':>10}{'bytes/call':>12}  what grows, per call")
    for name, kind in chosen.items():
        told = _in_child(kind, options.calls or kind.calls, options.seconds)
        failed |= bool(told.get("ended") or told["grown"])
        print(json.dumps({"kind": name} | told) if options.json else _row(name, told), flush=True)
    return failed


def _row(name: str, told: dict[str, Any]) -> str:
    if "ended" in told:
        return f"{name:<40} {told['ended']}"
    grown = ", ".join(f"{each['what']}: {each['per_call']:.3g}" for each in told["grown"][:8])
    if len(told["grown"]) > 8:
        grown += f", and {len(told['grown']) - 8} others"
    each = told["seconds"] / told["calls"] * 1e6
    numbers = f"{told['calls']:>10,}{told['seconds']:>9.1f}{each:>10.2f}{told['bytes_per_call']:>12.3f}"
    return f"{name:<40}{numbers}  {grown or 'nothing'}"


def _load(side: str) -> None:
    """Import what kinds would, once for all of them. Nothing may go backward here: no thread survives a fork."""
    import torch
    import torch._dynamo
    import torch._functorch.aot_autograd
    import torch.distributed.tensor
    import torch.export

    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    if side == "fastfake":
        import fastfake
        import fastfake.memory

        fastfake.install()
    with torch._subclasses.fake_tensor.FakeTensorMode():
        (torch.empty(2, 2) @ torch.empty(2, 2)).sum().mean()


def _cache_sizes(side: str) -> dict[str, int]:
    from torch._subclasses import fake_tensor

    if side == "fastfake":
        import fastfake

        operators = fastfake.bypassed_operators()
        info = fastfake.FakeTensorMode.cache_info()
        return {
            "bytes": fastfake._C.cache_bytes(),
            "entries": info.size,
            "reasons": len(info.bypasses),
            "operators": len(operators),
        }
    return {"entries": fake_tensor.FakeTensorMode.cache_info().size}


def _in_child(kind: Any, calls: int, seconds: float) -> dict[str, Any]:
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        code = 1
        try:
            with open(sender, "w", encoding="utf-8") as pipe:
                json.dump(_course(kind, calls, seconds), pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(sender)
    with open(receiver, encoding="utf-8") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        return {"ended": f"ended with exit code {os.waitstatus_to_exitcode(status)}"}
    told: dict[str, Any] = json.loads(answer)
    return told


def _course(kind: Any, calls: int, seconds: float) -> dict[str, Any]:
    import contextlib

    import torch

    from . import course

    side = "fastfake" if "fastfake" in torch._subclasses.fake_tensor.FakeTensorMode.__module__ else "torch"
    with contextlib.contextmanager(kind.make)() as call:
        done = course.run(call, calls, seconds, lambda: _cache_sizes(side), kind.torchs_bytes)
    told = dataclasses.asdict(done)
    grown = {each.what for each in done.grown}
    told["numbers"] = {
        name: readings for name, readings in done.numbers.items() if name in grown or "references" not in name
    }
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
