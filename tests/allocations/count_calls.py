"""Prints how often a hit calls malloc, for each call in the arguments. To be run with malloc_counter.c preloaded."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable

import torch

from fastfake import FakeTensorMode

CALLS = 1000


def mallocs_per_call(call: Callable[[], object]) -> float:
    counter = ctypes.PyDLL(None)
    counter.stop_counting.restype = ctypes.c_long
    for _ in range(100):
        call()
    gc.disable()
    counter.start_counting()
    for _ in range(CALLS):
        call()
    mallocs: int = counter.stop_counting()
    gc.enable()
    return mallocs / CALLS


if __name__ == "__main__":
    with FakeTensorMode():
        names = {"torch": torch, "x": torch.randn(4, 4), "y": torch.randn(4, 4)}
        print(json.dumps({text: mallocs_per_call(eval(f"lambda: {text}", names)) for text in sys.argv[1:]}))
