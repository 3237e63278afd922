"""Operations on symbolic numbers: what native code has to know of torch's, and whether it remembers their results."""

from __future__ import annotations

import os

import torch._logging._internal
import torch._ops
from torch.fx.experimental.sym_node import SymNode

from . import _C, knowledge

__all__ = ["register", "remember_if_wanted"]


def register() -> None:
    """Tell native code about torch's symbolic numbers. To be called once."""
    state = torch._ops._mode_stack_state_for_pre_dispatch
    modes = vars(state)["_ModeStackStateForPreDispatch__infra_modes"]
    _C.register_symbols(SymNode, knowledge.news, modes, torch._logging._internal)


def remember_if_wanted() -> None:
    """Let SymNode remember the results of its operations, unless FASTFAKE_SYMBOL_MEMO=0 is in the environment."""
    if os.environ.get("FASTFAKE_SYMBOL_MEMO", "1") not in ("", "0"):
        _C.install_node_methods()
