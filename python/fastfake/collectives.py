"""What a program waits for a collective with, under a fake mode."""

from __future__ import annotations

__all__ = ["new_work"]


def new_work() -> object:
    """Make one as torch's meta kernels do: each has a number of its own, which torch draws at random."""
    import torch.distributed._meta_registrations as kernels

    return kernels.create_fakework((), return_first_arg=False)
