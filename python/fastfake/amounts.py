"""Amounts of memory as people write them. Needs no native code: the command line is parsed without."""

from __future__ import annotations

import re

__all__ = ["parse_memory"]

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_memory(memory: int | str) -> int:
    """Give an amount of memory in bytes.

    Args:
        memory: bytes, or a text such as ``80GB``; a GB is 1024**3 bytes.

    Raises:
        ValueError: the text is no amount.
    """
    if isinstance(memory, int):
        return memory
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", memory, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{memory!r} is no amount of memory; one is written like '80GB'")
    return int(float(match[1]) * 1024 ** _UNITS[match[2].upper()])
