"""Checking fake results against the real results of the same call.

A difference is an error of the fake implementation. It is raised, or with
``torch._functorch.config.generate_fake_kernels_from_real_mismatches`` the fake result is replaced by one
inferred from the real one and the difference goes to torch's structured trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import SymFloat, SymInt, Tensor
from torch._logging import dtrace_structured
from torch.utils import _pytree as pytree

from ..config import functorch_config
from ..errors import MetadataMismatchError
from .inferred_kernel import infer_tensor

if TYPE_CHECKING:
    import sympy
    from torch._ops import OpOverload
    from torch.utils._pytree import KeyPath

    from ..fake_mode import FakeTensorMode

__all__ = ["check_leaf", "check_results"]


def check_results(
    mode: FakeTensorMode, func: OpOverload, fake_in: object, real_in: object, fake_out: object, real_out: object
) -> Any:
    """Compare the results of one call and how they alias its arguments.

    Args:
        mode: the mode of the call.
        func: its operator.
        fake_in: the fake arguments, nested in any containers, like the others below.
        real_in: the real arguments.
        fake_out: the fake results.
        real_out: the real results.

    Returns:
        The fake results, those that differ replaced by inferred ones.

    Raises:
        MetadataMismatchError: they differ, and nothing may be inferred.
    """
    from torch._subclasses.fake_utils import _check_alias_info

    pending_before = [] if mode.shape_env is None else list(mode.shape_env.pending_fresh_unbacked_symbols)
    try:
        _check_alias_info("Real tensor propagation found", real_out, real_in, fake_out, fake_in)
    except MetadataMismatchError as mismatch:
        if not _may_infer():
            raise MetadataMismatchError(
                "Real tensor propagation found an aliasing mismatch between "
                f"fake output {fake_out} and real output {real_out},  for func: {func}"
            ) from mismatch
        _trace(func, f"Mismatched aliasing spec between fake kernel and real kernel: {mismatch.reason}")
        # Custom operators may not alias their arguments, so it is the fake implementation that does.
        _forget_pending(mode, pending_before)
        return pytree.tree_map(lambda real: infer_tensor(mode, func, real), real_out)

    paths_and_fakes, spec = pytree.tree_flatten_with_path(fake_out)
    leaves = []
    any_replaced = False
    for (path, fake), real in zip(paths_and_fakes, pytree.tree_leaves(real_out), strict=False):
        leaf, replaced = check_leaf(mode, func, path, fake, real)
        leaves.append(leaf)
        any_replaced = any_replaced or replaced
    if any_replaced:
        _forget_pending(mode, pending_before)
    return pytree.tree_unflatten(leaves, spec)


def check_leaf(mode: FakeTensorMode, func: OpOverload, path: KeyPath, fake: Any, real: Any) -> tuple[Any, bool]:
    """Compare one fake result with the real one.

    Args:
        mode: the mode of the call.
        func: its operator.
        path: where among the results this one is, for messages.
        fake: the fake result.
        real: the real result.

    Returns:
        The fake result or one inferred in its place, and whether it is an inferred one.

    Raises:
        MetadataMismatchError: they differ, and nothing may be inferred. Numbers cannot be inferred.
    """
    difference = _difference(mode, f"output{pytree.keystr(path)}", fake, real)
    if difference is None:
        return fake, False
    if _may_infer() and (fake is None or isinstance(fake, Tensor)):
        _trace(func, difference.reason)
        return infer_tensor(mode, func, real), True
    message = f"Real tensor propagation found {difference.text}, for func: {func}"
    raise MetadataMismatchError(message) from difference.cause


class _Difference(NamedTuple):
    """A difference between a fake result and the real one: in full, in short, and the error that told of it."""

    text: str
    reason: str
    cause: MetadataMismatchError | None


def _difference(mode: FakeTensorMode, place: str, fake: Any, real: Any) -> _Difference | None:
    if isinstance(fake, Tensor):
        return _difference_of_tensors(mode, place, fake, real)
    if fake is None and real is not None:
        reason = _numbers_differ(fake, real)
        return _Difference(_metadata_mismatch(place, fake, real), reason, None)
    try:
        _check_number(mode, fake, real)
    except MetadataMismatchError as mismatch:
        text = f"an output value mismatch between fake output value {fake} and real output value {real}, at {place}"
        return _Difference(text, mismatch.reason, mismatch)
    return None


def _difference_of_tensors(mode: FakeTensorMode, place: str, fake: Any, real: Tensor) -> _Difference | None:
    from torch._subclasses.fake_utils import _check_fake_real_tensors

    try:
        # Sizes may be symbolic and are compared below. Strides are not compared: kernels choose them as they
        # like. Nor is requires_grad, which conversion does not always preserve.
        _check_fake_real_tensors(
            real, fake, context="Real tensor propagation found", sizes=False, strides=False, requires_grad=False
        )
    except MetadataMismatchError as mismatch:
        return _Difference(_metadata_mismatch(place, fake, real), mismatch.reason, mismatch)
    for dim, (size, real_size) in enumerate(zip(fake.size(), real.size(), strict=False)):
        try:
            _check_number(mode, size, real_size)
        except MetadataMismatchError as mismatch:
            shapes = f"fake shape {size} and real shape {real_size}"
            text = f"an output size mismatch between {shapes}, at {place}.size({dim})"
            return _Difference(text, mismatch.reason, mismatch)
    return None


def _check_number(mode: FakeTensorMode, fake: Any, real: Any) -> None:
    """Raise if a number, possibly symbolic, cannot have the value ``real``.

    A symbolic number is compared where the values of all its symbols are known.
    """
    if isinstance(fake, SymInt | SymFloat):
        # Not before symbols exist: sympy takes long to import.
        import sympy

        shape_env = mode.shape_env
        if shape_env is None:
            raise AssertionError("self.shape_env must not be None for symbolic values")
        expr = fake.node.expr
        known = shape_env.backed_var_to_val.keys() | shape_env.real_tensor_prop_unbacked_vals.keys()
        if expr.free_symbols - known:
            return
        same = shape_env._maybe_evaluate_static(sympy.Eq(expr, real), compute_hint=True) is sympy.S.true
    elif isinstance(fake, int | float | bool):
        same = fake == real
    else:
        return
    if not same:
        # The space at the end is torch's too.
        raise MetadataMismatchError(f"{_numbers_differ(fake, real)} ")


def _metadata_mismatch(place: str, fake: object, real: object) -> str:
    return f"a metadata mismatch between fake tensor {fake} and real tensor {real},  at {place}"


def _numbers_differ(fake: object, real: object) -> str:
    return f"mismatch between fake value {fake} and real value {real}"


def _may_infer() -> bool:
    return functorch_config.generate_fake_kernels_from_real_mismatches


def _trace(func: OpOverload, reason: str) -> None:
    dtrace_structured("mismatched_fake_kernel", metadata_fn=lambda: {"op": str(func), "reason": reason})


def _forget_pending(mode: FakeTensorMode, symbols: list[sympy.Symbol]) -> None:
    """Let ``symbols`` no longer wait for a binding: the results that had them are replaced."""
    if mode.shape_env is not None:
        pending = mode.shape_env.pending_fresh_unbacked_symbols
        mode.shape_env.pending_fresh_unbacked_symbols = [symbol for symbol in pending if symbol not in symbols]
