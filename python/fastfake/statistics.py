"""What ``python -m fastfake run --stats`` prints when the program ends."""

from __future__ import annotations

import sys

import fastfake

__all__ = ["print_report"]


def print_report() -> None:
    """Print to standard error what the cache did."""
    if not fastfake.is_installed():
        print("fastfake: not installed at exit: no statistics", file=sys.stderr)
        return
    from fastfake import cache  # which needs native code

    info = cache.cache_info()
    bypasses = ", ".join(
        f"{count:,} {reason}" for reason, count in sorted(info.bypasses.items(), key=lambda item: -item[1])
    )
    lines = [
        f"{info.hits:,} calls answered from the cache, {info.misses:,} computed and kept in {info.size:,} entries",
        f"{sum(info.bypasses.values()):,} calls not cacheable" + (f": {bypasses}" if bypasses else ""),
    ]
    for line in lines:
        print(f"fastfake: {line}", file=sys.stderr)
