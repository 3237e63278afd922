"""Real tensor propagation: calls are computed for real as well, as far as the real values are known.

With ``torch._functorch.config.fake_tensor_propagate_real_tensors`` fake tensors carry the real tensors that
they stand for. What each call returns on those tells the values of unbacked symbols, checks the fake
results, and stands in for fake implementations that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._library import utils as library_utils
from torch._library.fake_class_registry import FakeScriptObject
from torch._logging import dtrace_structured
from torch.types import py_sym_types
from torch.utils import _pytree as pytree

from ..config import functorch_config
from ..fake_tensor import FakeTensor
from ..logs import log
from ..torch_version import AT_LEAST_2_15
from .call import NOT_HANDLED, Call
from .inferred_kernel import infer_result
from .real_crosscheck import check_results

if TYPE_CHECKING:
    from ..fake_mode import FakeTensorMode

__all__ = ["RealRun", "infer_fake_kernel", "infer_missing_fake_kernel", "propagate", "run_for_real"]


@dataclass(frozen=True, slots=True)
class RealRun:
    """A call as it went on real tensors.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        result: what it returned.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any


def run_for_real(call: Call) -> RealRun | None:
    """Run the operator on the real values of the arguments.

    Custom operators are watched: that they write to the arguments that their schema says, and that their
    results do not share storage.

    Returns:
        The run, or None without real propagation, if a value is not known, or if the operator divided by
        zero. Values are unknown where a data-dependent operator's own fake implementation makes a tensor
        whose size is a symbol that is new.

    Raises:
        RuntimeError: a custom operator breaks its schema.
    """
    mode, func = call.mode, call.func
    if not mode.propagate_real_tensors:
        return None
    if any(t.real_tensor is None for t in call.fake_args) or any(_is_unknown(mode, leaf) for leaf in call.flat_args):
        log.debug("no real tensors to propagate through %s(%s)", func, call.flat_args)
        return None
    leaves = [_real_value(mode, leaf) for leaf in call.flat_args]
    args, kwargs = call.nest(leaves)
    is_custom = not library_utils.is_builtin(func)
    written = library_utils.MutationChecker(func, leaves, call.args_spec) if is_custom else None
    run = None
    try:
        run = RealRun(args, kwargs, func(*args, **kwargs))
    except ZeroDivisionError as error:
        log.debug("%s cannot run on real tensors: %s", func, error)
    if written is not None:
        written.check()
        library_utils.check_aliasing_constraint(func._name, call.flat_args, None if run is None else run.result)
    return run


def propagate(call: Call, fake_out: Any) -> Any:
    """Check the fake results against the real ones, and attach those.

    Returns:
        The fake results; where they differ from the real ones and the user wants so, inferred ones.

    Raises:
        MetadataMismatchError: they differ.
    """
    from torch.fx.experimental.symbolic_shapes import compute_unbacked_bindings

    run, mode = call.real_run, call.mode
    if run is None:
        return fake_out
    checked = check_results(mode, call.func, (call.args, call.kwargs), (run.args, run.kwargs), fake_out, run.result)
    if functorch_config.generate_fake_kernels_from_real_mismatches:
        fake_out = checked
    if isinstance(fake_out, Tensor) or isinstance(run.result, Tensor) or type(fake_out) is type(run.result):
        pytree.tree_map_(lambda fake, real: _attach(mode, fake, real), fake_out, run.result)
    else:
        # Decompositions return other containers than kernels do, a tuple for a named tuple, say.
        for fake, real in zip(pytree.tree_leaves(fake_out), pytree.tree_leaves(run.result), strict=True):
            _attach(mode, fake, real)
    # An operator inside a decomposition needs the values of its symbols before the outer call returns.
    compute_unbacked_bindings(mode.shape_env, fake_out, peek=True)
    return fake_out


def infer_missing_fake_kernel(call: Call) -> object:
    """Infer the results of a custom operator without a fake implementation from the real ones."""
    if call.real_run is None or library_utils.is_builtin(call.func) or library_utils.has_fake_kernel(call.func):
        return NOT_HANDLED
    return infer_fake_kernel(call)


def infer_fake_kernel(call: Call) -> object:
    """Infer the results of a custom operator from the real ones, if there are any and sizes may be symbols."""
    if call.real_run is None or library_utils.is_builtin(call.func) or call.mode.shape_env is None:
        return NOT_HANDLED
    result = infer_result(call.mode, call.func, call.real_run.result)
    dtrace_structured("missing_fake_kernel", metadata_fn=lambda: {"op": str(call.func)})
    return result


def _is_unknown(mode: FakeTensorMode, leaf: object) -> bool:
    """Whether ``leaf`` is a symbolic number with a symbol whose real value nobody recorded."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    if mode.shape_env is None or not isinstance(leaf, py_sym_types):
        return False
    return not free_unbacked_symbols(leaf) <= mode.shape_env.real_tensor_prop_unbacked_vals.keys()


def _real_value(mode: FakeTensorMode, leaf: Any) -> Any:
    if isinstance(leaf, FakeTensor):
        return leaf.real_tensor
    if isinstance(leaf, FakeScriptObject):
        return leaf.real_obj
    if not isinstance(leaf, py_sym_types):
        return leaf
    if mode.shape_env is None:
        raise AssertionError("self.shape_env must not be None for symbolic types")
    expr = leaf.node.expr.xreplace(mode.shape_env.backed_var_to_val)
    return leaf.node.pytype(expr.xreplace(mode.shape_env.real_tensor_prop_unbacked_vals))


def _attach(mode: FakeTensorMode, fake: Any, real: Any) -> None:
    """Give a fake result its real one, and the symbols in it their values."""
    if not isinstance(fake, FakeTensor):
        _learn(mode, fake, real)
        return
    fake.real_tensor = real
    for size, real_size in zip(fake.size(), real.size(), strict=False):
        _learn(mode, size, real_size)
    if AT_LEAST_2_15 and fake.layout != torch.strided:
        return
    for stride, real_stride in zip(fake.stride(), real.stride(), strict=False):
        _learn(mode, stride, real_stride)
    _learn(mode, fake.storage_offset(), real.storage_offset())


def _learn(mode: FakeTensorMode, number: Any, real: Any) -> None:
    """Record the value of a number that is an unbacked symbol, or the truth of one that stands for a bool."""
    import sympy
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    if not isinstance(number, py_sym_types) or not free_unbacked_symbols(number):
        return
    expr = number.node.expr
    stands_for_bool = isinstance(expr, sympy.Eq) and isinstance(expr.lhs, sympy.Symbol) and expr.rhs == 1
    if isinstance(expr, sympy.Symbol) or stands_for_bool:
        if mode.shape_env is None:
            raise AssertionError("self.shape_env must not be None for symbolic Symbol")
        mode.shape_env.set_real_tensor_prop_unbacked_vals(expr, real)
