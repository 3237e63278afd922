"""FakeTensorMode: entering, leaving, options, and the way of a call that the cache does not answer."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.nested._internal.nested_tensor as nested_tensor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._stats import count
from torch.utils._traceback import CapturedTraceback

from . import _C, cache_entries, cached_operators, config, devices, in_use
from .cache import DispatchCacheInfo, Statistic, bypasses_or_zero, cache_clear, cache_info
from .converter import FakeTensorConverter
from .fake_tensor import ATTRIBUTE_QUERIES, FakeTensor
from .kernel_invocation import in_kernel_invocation_manager
from .logs import log, log_call
from .miss import (
    constants,
    conversion,
    fallback_kernel,
    higher_order_rules,
    meta_kernel,
    operator_traits,
    pipeline,
    real_crosscheck,
    unknown_items,
)
from .origins import hide_from_dynamo, hide_from_symbols
from .thread_state import EnterStack, Entry, leaks_are_detected
from .torch_version import AT_LEAST_2_14

if TYPE_CHECKING:
    from torch._guards import Source
    from torch._ops import OpOverload
    from torch.fx.experimental.symbolic_shapes import ShapeEnv, SymbolicContext
    from torch.types import IntLikeType
    from torch.utils._pytree import KeyPath, TreeSpec

__all__ = ["FakeTensorMode"]

# Whether a kernel runs is the thread's state, not the mode's, and no part of a copy.
_NATIVE_STATE = sorted(name for name, kind in vars(_C.ModeState).items() if inspect.isgetsetdescriptor(kind))
_NATIVE_STATE.remove("in_kernel_invocation")


class FakeTensorMode(TorchDispatchMode, _C.ModeState):
    """A mode under which tensor programs run on fake tensors.

    Operators called under the mode return fake tensors; so do factories. Calls are answered by native code
    from the dispatch cache where possible and reach Python only the first time.

    The flags (``cache_enabled``, ``allow_meta``, ``allow_fallback_kernels``, ...), ``shape_env`` and ``epoch``
    are attributes of the native base class and may be set at any time.

    Attributes:
        fake_tensor_converter: converts real tensors and remembers them.
        nt_tensor_id_counter: the number of the next jagged tensor made while tracing.
        nt_tensor_id_initial_count: what ``reset_nt_tensor_id_counter`` goes back to.
    """

    lift_fns = operator_traits.LIFT_OPERATORS

    cache = cache_entries.CacheView()
    cache_hits = Statistic(lambda info: info.hits)
    cache_misses = Statistic(lambda info: info.misses)
    cache_bypasses = Statistic(bypasses_or_zero)

    nt_tensor_id_counter = -1
    nt_tensor_id_initial_count = -1

    def __init__(
        self,
        *,
        allow_fallback_kernels: bool = True,
        allow_non_fake_inputs: bool = False,
        shape_env: ShapeEnv | None = None,
        static_shapes: bool | None = None,  # by default, as there is a ShapeEnv or not
        export: bool = False,
        known_values: bool | int | None = None,  # how many elements, at most
        unknown_items: float | None = None,
    ) -> None:
        """Make a mode.

        Args:
            allow_fallback_kernels: run operators that have no meta kernel on zeros instead of refusing them.
            allow_non_fake_inputs: convert real tensors among the arguments instead of refusing them.
            shape_env: gives symbolic shapes to converted tensors.
            static_shapes: give integer shapes to converted tensors; by default so without a ShapeEnv.
            export: the mode serves torch.export, which does not want values of inputs to be remembered.
            known_values: follow the values of tensors of at most so many elements, from the numbers that they are
                made of through operators and writes, so that ``item()``, ``tolist()``, ``unique`` and conditions
                tell the truth. True means 1024 elements; None, torch's rule, those of one element from
                ``torch.tensor``, without factories. See `miss.known_values`.
            unknown_items: what ``item()``, ``int()``, ``bool()`` and their like give for a tensor whose value is not
                known, instead of raising an error: ``bool(unknown_items)`` for a bool tensor, ``int(unknown_items)``
                for an integer one, ``float(unknown_items)`` and ``complex(unknown_items)`` for the others.

        Raises:
            TypeError: ``known_values`` or ``unknown_items`` is no number.
            ValueError: ``known_values`` is not positive, or ``unknown_items`` is not finite.
        """
        in_use.ensure_installed()
        hide_from_dynamo()
        cached_operators.watch()
        super().__init__()
        functorch_config, dynamo_config = config.functorch_config, config.dynamo_config()
        # In the instance's dictionary, where TorchDispatchMode.__exit__ looks for it: without, leaving this mode
        # would deactivate the user's mode that surrounds it.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        self.allow_fallback_kernels = allow_fallback_kernels
        self.allow_non_fake_inputs = allow_non_fake_inputs
        if shape_env is not None:
            hide_from_symbols()
        self.shape_env = shape_env
        self.static_shapes = shape_env is None if static_shapes is None else static_shapes
        self.known_values = known_values
        self.unknown_items = unknown_items
        self.propagate_real_tensors = functorch_config.fake_tensor_propagate_real_tensors
        self.allow_meta = functorch_config.fake_tensor_allow_meta
        self._allow_unsafe_data_ptr_access = functorch_config.fake_tensor_allow_unsafe_data_ptr_access
        self.cache_enabled = dynamo_config.fake_tensor_cache_enabled and not self.propagate_real_tensors
        self.cache_crosscheck_enabled = dynamo_config.fake_tensor_cache_crosscheck_enabled
        self.fake_tensor_converter = FakeTensorConverter(copy_data=self.propagate_real_tensors, export=export)
        self._enter_stack = EnterStack()
        self._tracks_leaks = leaks_are_detected()
        self.nt_tensor_id_initial_count = nested_tensor._tensor_id_counter
        self.nt_tensor_id_counter = self.nt_tensor_id_initial_count
        # Frames only; they become text when `stack` is asked for.
        self._stack_trace = CapturedTraceback.extract()
        self._stack: str | None = None
        log.debug("create_mode 0x%x", id(self))

    @property
    def unknown_items(self) -> float | None:
        """The number that stands for those that ``item()`` cannot know; None where it raises an error."""
        return self._unknown_items

    @unknown_items.setter
    def unknown_items(self, number: float | None) -> None:
        self._unknown_items = unknown_items.checked_stand_in(number)

    @property
    def stack(self) -> str:
        """Where the mode was made, as text, outermost frame first."""
        if self._stack is None:
            self._stack = "".join(traceback.format_list(self._stack_trace.summary()))
        return self._stack

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what a copy is to have: the dictionary, and the attributes of the native base class.

        Frames cannot be copied, so a copy gets the text of `stack`.
        """
        return vars(self) | {"_stack": self.stack}, {name: getattr(self, name) for name in _NATIVE_STATE}

    @property
    def avoid_device_init(self) -> bool:
        """Whether this machine has no usable accelerator, so that nothing may be materialised on one."""
        return devices.avoid_device_init()

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Return True: modes of users and tracing modes come before this one."""
        return True

    @classmethod
    def cache_info(cls) -> DispatchCacheInfo:
        """Return the statistics of the dispatch cache, which all modes share."""
        return cache_info()

    @classmethod
    def cache_clear(cls) -> None:
        """Empty the dispatch cache and its statistics."""
        cache_clear()

    def is_our_fake(self, t: object) -> TypeGuard[FakeTensor]:
        """Whether ``t`` is a fake tensor of this mode; other modes' fake tensors are foreign to it."""
        return isinstance(t, FakeTensor) and t.fake_mode is self

    # Entering and leaving.

    @property
    def enter_stack(self) -> list[Entry]:
        """What each ``with`` of this thread on this mode has to undo; see `thread_state.EnterStack`."""
        return self._enter_stack.entries

    # Entering the mode that is active already changes nothing; entering another replaces it until the exit.
    # Without an accelerator, ``torch.tensor`` keeps its data on the CPU and CUDA guards do nothing, so that
    # programs for a GPU run. TorchDispatchMode's methods are Python functions, which an interrupt may leave half-done.
    __enter__ = _C.ModeState.__enter__
    __exit__ = _C.ModeState.__exit__

    def _prepare_to_enter(self) -> tuple[list[Entry], bool, bool, bool]:
        """Do what entering needs of Python; native code calls it while nothing is changed yet.

        Returns:
            This thread's entries, whether there is no accelerator, and what tells other modes from this one:
            whether it is a user's, and whether it sees the operators of compiled code.
        """
        in_use.ensure_installed()
        if self.known_values is not None:
            higher_order_rules.give_no_values(FakeTensorMode)
        self._tracks_leaks = leaks_are_detected()
        return self.enter_stack, self.avoid_device_init, not self.is_infra_mode(), not self.ignore_compile_internals()

    # Dispatching. Native code comes first and calls these for what it does not answer.

    @count
    @in_use.computes
    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Compute the fake results of one call of ``func``; the cache is not asked."""
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            raise AssertionError(f"FakeTensorMode should not be set when dispatching {func}")
        if _C.memory_is_tracked() and not _C.came_through_the_hook():
            # Another thread uninstalled fastfake. The tracker would take what a kernel makes on the way for a result.
            in_use.ensure_installed()
            if _C.interpreter_hook_installed():  # which it is no longer while the interpreter ends
                with self:
                    return func(*args, **kwargs or {})
        in_use.begin()
        try:
            return self.dispatch(func, types, args, kwargs or {})
        except TypeError:
            log.exception("fake tensor raised TypeError")
            raise

    def dispatch(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Compute the fake results of one call, queries about a tensor's own attributes included."""
        _nested = log_call(func, args, kwargs or {})
        query = ATTRIBUTE_QUERIES.get(func)
        if query is not None:
            return query(args)
        kwargs = kwargs or {}
        if func in operator_traits.RUN_DIRECTLY:
            with in_kernel_invocation_manager(self):
                return func(*args, **kwargs)
        return self._dispatch_impl(func, types, args, kwargs)

    def _dispatch_impl(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> object:
        """Compute the fake results of one call, step by step; see `miss.pipeline`."""
        return pipeline.run(self, func, args, kwargs)

    def _cache_key(
        self, state: object, func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> cache_entries._DispatchCacheKey:
        """Return the key of a call; native code needs none of the ``state`` that torch collects on the way."""
        del state
        return cache_entries.key_of_call(self, func, args, kwargs)

    # The parts of the miss path that torch's code and its users reach as methods of the mode.

    def can_run_unsafe_fallback(self, func: OpOverload) -> bool:
        """Whether ``func`` may run on zeros for want of a meta kernel."""
        return fallback_kernel.is_allowed(self, func)

    def validate_and_convert_non_fake_tensors(
        self, func: OpOverload, converter: FakeTensorConverter, flat_args: Sequence[object], args_spec: TreeSpec
    ) -> tuple[list[object], list[FakeTensor]]:
        """Replace real tensors among the arguments by fake ones, or refuse them; see `miss.conversion`."""
        return conversion.convert_real_tensors(self, func, converter, flat_args, args_spec)

    def wrap_meta_outputs_with_default_device_logic(
        self, r: object, func: OpOverload, flat_args: Sequence[object], device: torch.device
    ) -> Any:
        """Turn the meta tensors in ``r`` into fake ones on the operator's common device, or on ``device``."""
        return meta_kernel.wrap_results(self, r, func, flat_args, device)

    def cpp_meta_supports_symint(self, func: OpOverload) -> bool:
        """Whether the C++ meta kernel of ``func`` takes symbolic sizes."""
        return operator_traits.cpp_meta_supports_symint(func)

    def may_turn_const(self, t: Tensor) -> bool:
        """Whether the value of a real tensor is worth remembering."""
        return constants.may_be_remembered(self, t)

    def invalidate_written_to_constants(
        self,
        func: OpOverload,
        flat_arg_fake_tensors: Sequence[FakeTensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Forget the values of fake tensors that ``func`` writes to, and of their aliases."""
        constants.forget_written(self, func, flat_arg_fake_tensors, args, kwargs)

    def _maybe_infer_fake(self, func: OpOverload, path: KeyPath, fake: object, real: object) -> tuple[Any, bool]:
        """Check one fake result against the real one; see `miss.real_crosscheck.check_leaf`."""
        return real_crosscheck.check_leaf(self, func, path, fake, real)

    def _maybe_infer_fake_kernel_from_pytree_out(
        self, func: OpOverload, fake_in: object, real_in: object, fake_out: object, real_out: object
    ) -> Any:
        """Check all fake results of a call against the real ones; see `miss.real_crosscheck.check_results`."""
        return real_crosscheck.check_results(self, func, fake_in, real_in, fake_out, real_out)

    # Jagged tensors.

    def reset_nt_tensor_id_counter(self) -> None:
        """Number jagged tensors from the start again; to be called before a retrace on this mode."""
        self.nt_tensor_id_counter = self.nt_tensor_id_initial_count

    def create_symbolic_nested_int(self, *, nt_tensor_id: int | None = None) -> IntLikeType:
        """Make the symbol for the ragged dimension of a jagged tensor.

        Args:
            nt_tensor_id: number of the tensor; the next free one of this mode if None.
        """
        from torch._dynamo.source import EphemeralSource
        from torch.nested._internal.nested_int import NestedIntNode

        if nt_tensor_id is None:
            if not self.enter_stack:
                raise AssertionError("should only be called while FakeTensorMode is active")
            nt_tensor_id = self.nt_tensor_id_counter
            self.nt_tensor_id_counter += 1
        if self.shape_env is None:
            raise AssertionError("self.shape_env must not be None")
        hint = torch.SymInt(NestedIntNode(nt_tensor_id, 1))
        source = EphemeralSource("intermediate_offsets_or_lengths")
        symbol = self.shape_env.create_symbol(val=hint, source=source)
        return self.shape_env.create_symintnode(sym=symbol, hint=hint, source=source)

    # Conversion.

    @in_use.computes
    def from_tensor(
        self,
        tensor: Tensor,
        *,
        static_shapes: bool | None = None,  # as the mode has it
        source: Source | None = None,
        symbolic_context: SymbolicContext | None = None,
        trace: bool = True,
    ) -> FakeTensor:
        """Convert a real tensor; the same tensor twice gives the same fake tensor, views share storage.

        Args:
            tensor: a tensor of any kind that torch's meta converter takes.
            static_shapes: give it integer sizes; the mode's setting if None.
            source: where a traced program gets the tensor from, for its guards.
            symbolic_context: which of its sizes are dynamic.
            trace: record the conversion in torch's structured trace.

        Raises:
            UnsupportedFakeTensorException: tensors of this kind cannot be made fake.
        """
        is_default = static_shapes is None and source is None and symbolic_context is None
        if AT_LEAST_2_14 and is_default and self.is_our_fake(tensor):
            return tensor
        if static_shapes is None:
            static_shapes = self.static_shapes
        if static_shapes and symbolic_context is not None:
            raise AssertionError("cannot set both static_shapes and symbolic_context")
        in_use.begin()
        return self.fake_tensor_converter.from_real_tensor(
            self,
            tensor,
            shape_env=None if static_shapes else self.shape_env,
            source=source,
            symbolic_context=symbolic_context,
            trace=trace,
        )


# Programs with DTensors make about as many calls that the mode declines as others, and native code knows them.
FakeTensorMode.__torch_dispatch__ = _C.declining_method(FakeTensorMode.__torch_dispatch__)  # type: ignore[method-assign]
