"""Aliases of fake tensors for tracers, which note one down for each value that they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch._subclasses import fake_impls

from . import _C

if TYPE_CHECKING:
    from torch import Tensor

    from .fake_mode import FakeTensorMode

__all__ = ["TORCHS", "fast_detach"]

# torch's function, in whose place ours is while fastfake is installed.
TORCHS = fake_impls.fast_detach


def fast_detach(fake_mode: FakeTensorMode, x: Tensor, include_real: bool = False) -> Tensor:
    """Make an alias of ``x`` under ``fake_mode``, as ``torch._subclasses.fake_impls.fast_detach`` does.

    Args:
        fake_mode: the mode of the alias.
        x: a fake tensor.
        include_real: whether the alias gets the real tensor of ``x``.
    """
    # What refers to this function may outlive an installation, and be given a mode of torch's.
    if isinstance(fake_mode, _C.ModeState) and x.fake_mode is fake_mode and not fake_mode._tracks_leaks:  # type: ignore[attr-defined]
        alias = _C.alias_of_fake(x)
        if alias is not None:
            return alias
    return TORCHS(fake_mode, x, include_real)  # type: ignore[arg-type]
