"""The error that ``python -m fastfake memory`` reports in one line instead of a traceback."""

__all__ = ["MemoryCommandError"]


class MemoryCommandError(Exception):
    """What was asked for cannot be run: a broken config, a missing package, an unusable size."""
