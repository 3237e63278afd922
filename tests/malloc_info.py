"""How much memory the C library has handed out."""

from __future__ import annotations

import ctypes


class _MallocInfo(ctypes.Structure):
    """What mallinfo2 of the C library returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


_mallinfo = ctypes.CDLL(None).mallinfo2
_mallinfo.restype = _MallocInfo


def bytes_in_use() -> int:
    """Give what is in use; under ``PYTHONMALLOC=malloc`` this is Python's memory, too."""
    info = _mallinfo()
    return int(info.uordblks + info.hblkhd)
