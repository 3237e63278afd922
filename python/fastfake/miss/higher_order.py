"""Higher-order operators that have a registered fake function."""

from __future__ import annotations

import contextlib

from torch._higher_order_ops.utils import registered_hop_fake_fns

from .call import Call

__all__ = ["run"]


def run(call: Call) -> object:
    """Run the fake function of a higher-order operator, under the mode.

    Symbols that it makes belong to its body and are not the call's to report.

    Raises:
        NotImplementedError: none is registered. Operators with a rule of their own for the mode (``cond``,
            ``while_loop``) do not come here, and torch refuses those with neither.
    """
    function = registered_hop_fake_fns.get(call.func)
    if function is None:
        raise NotImplementedError(
            f"There was no rule registered for HigherOrderOperator {call.func} and FakeTensorMode"
        )
    shape_env = call.mode.shape_env
    ignore_symbols = contextlib.nullcontext() if shape_env is None else shape_env.ignore_fresh_unbacked_symbols()
    with call.mode, ignore_symbols:
        return function(*call.args, **call.kwargs)
