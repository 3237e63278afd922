"""How much memory a program on fake tensors takes: what is alive when, what for, and whether a device can hold it."""

from .timeline import Allocation, Category, Phase, Timeline, Usage

__all__ = ["Allocation", "Category", "Phase", "Timeline", "Usage"]
