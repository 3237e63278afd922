"""What ``python -m fastfake run --stats`` prints when the program ends."""

from __future__ import annotations

import sys
import time

import torch
import torch._subclasses.fake_tensor as torch_fake_tensor

from fastfake import cache, installation

__all__ = ["print_report"]

CALLS = 300


def print_report() -> None:
    """Print to standard error what the cache did, and how much time that saved."""
    if not installation.is_installed():
        print("fastfake: not installed at exit: no statistics", file=sys.stderr)
        return
    info = cache.cache_info()
    bypasses = ", ".join(
        f"{count:,} {reason}" for reason, count in sorted(info.bypasses.items(), key=lambda item: -item[1])
    )
    lines = [
        f"{info.hits:,} calls answered from the cache, {info.misses:,} computed and kept in {info.size:,} entries",
        f"{sum(info.bypasses.values()):,} calls not cacheable" + (f": {bypasses}" if bypasses else ""),
    ]
    try:
        ours, theirs = _seconds_per_call()
    except Exception as error:  # the program may have left anything behind
        lines.append(f"no estimate of the time saved: {error}")
    else:
        lines.append(
            f"about {info.hits * max(theirs - ours, 0):.2g} s saved, if a call takes torch {theirs * 1e6:.1f} us and "
            f"fastfake {ours * 1e6:.1f} us, as a cached add does here and now"
        )
    for line in lines:
        print(f"fastfake: {line}", file=sys.stderr)


def _seconds_per_call() -> tuple[float, float]:
    """Measure a cached call on our fake tensors, then on torch's; leaves torch's classes in place."""
    ours = _seconds_per_add()
    installation.uninstall()
    return ours, _seconds_per_add()


def _seconds_per_add() -> float:
    with torch_fake_tensor.FakeTensorMode(), torch.no_grad():
        tensor = torch.empty(8)
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(CALLS):
                torch.add(tensor, tensor)
            rounds.append((time.perf_counter() - start) / CALLS)
    return min(rounds)
