"""FakeTensorConverter: real tensors to fake ones, each once.

torch's MetaConverter makes the meta tensors and keeps the memo, including views that share storage and
subclasses; here they become fake tensors, and values worth knowing are attached.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch._subclasses.meta_utils import MetaConverter
from torch.multiprocessing.reductions import StorageWeakRef

from . import _C, conversion_lock, known_storage
from .errors import UnsupportedFakeTensorException
from .fake_tensor import FakeTensor
from .real_computation import no_dispatch
from .torch_version import AT_LEAST_2_14

if TYPE_CHECKING:
    from torch._guards import Source
    from torch.fx.experimental.symbolic_shapes import ShapeEnv, SymbolicContext

    from .fake_mode import FakeTensorMode

__all__ = ["FakeTensorConverter", "fake_on_meta"]

# Values of these dtypes mean the same in a Python number. float32 does not: arithmetic on a Python float
# rounds differently, which a program could observe.
_DTYPES_WITH_EXACT_ITEM = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.float64})

# So many fake tensors with known values are noted before it is looked for those that are gone.
_FEW_CONSTANTS = 64


class FakeTensorConverter:
    """Converts real tensors under one mode and remembers them.

    The memo is weak in both directions: it keeps neither real nor fake tensors alive.

    Attributes:
        meta_converter: torch's converter, which holds the memo.
        constant_storage_mapping: for each storage of a known value, the fake tensors that rely on it.
        export: whether values of inputs are not to be remembered.
    """

    def __init__(self, *, copy_data: bool = False, export: bool = False) -> None:
        """Make a converter.

        Args:
            copy_data: copy the data of converted tensors, for real tensor propagation.
            export: the converter serves torch.export.
        """
        self.meta_converter: MetaConverter[FakeTensor] = MetaConverter(copy_data=copy_data)
        self.export = export
        self.constant_storage_mapping: dict[StorageWeakRef, list[weakref.ReferenceType[FakeTensor]]] = {}
        self._noted_constants = 0
        self._most_noted_constants = _FEW_CONSTANTS

    @property
    def tensor_memo(self) -> weakref.WeakValueDictionary[Any, FakeTensor]:
        """The fake tensors made so far, by the id that the meta converter gave to the real one."""
        return self.meta_converter.tensor_memo

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeTensorConverter:
        """Return a converter that remembers nothing yet.

        What this one remembers is tensors of its mode, and weak references that cannot be duplicated.
        """
        del memo
        return FakeTensorConverter(copy_data=self.meta_converter.copy_data, export=self.export)

    # The memo.

    def _get_memo(self, t: Tensor) -> FakeTensor | None:
        tensor_id = self.meta_converter.describer.lookup_tensor.get(t)
        return None if tensor_id is None else self.tensor_memo.get(tensor_id)

    def known_fake(self, t: Tensor) -> FakeTensor | None:
        """The fake tensor that `from_real_tensor` would give for ``t`` without making one."""
        numbers = self.meta_converter.describer.lookup_tensor.data
        # Its keys are weak references, which tensors know. Making one to compare it takes several times as long.
        for reference in weakref.getweakrefs(t):
            tensor_id = numbers.get(reference)
            if tensor_id is not None:
                return self.tensor_memo.get(tensor_id)
        return None

    def set_tensor_memo(self, t: Tensor, v: FakeTensor) -> None:
        """Remember ``v`` as the fake tensor of ``t``."""
        with conversion_lock.held():
            self.tensor_memo[self.meta_converter.describer.get_tensor_id(t)] = v

    # Constants.

    def add_constant_storage_mapping(self, fake_tensor: FakeTensor) -> None:
        """Note that the value of ``fake_tensor`` is on the storage of its constant.

        A write through any alias of that storage makes the value of all of them unknown.
        """
        if not isinstance(fake_tensor, FakeTensor) or fake_tensor.constant is None:
            raise AssertionError("fake_tensor must be a FakeTensor with a constant")
        storage = StorageWeakRef(fake_tensor.constant.untyped_storage())
        # The lock keeps a reference from being added to a list that is about to be dropped.
        with conversion_lock.held():
            if self._noted_constants >= self._most_noted_constants:
                self._drop_dead_constants()
            self.constant_storage_mapping.setdefault(storage, []).append(weakref.ref(fake_tensor))
            self._noted_constants += 1

    def _drop_dead_constants(self) -> None:
        """Drop what is noted of fake tensors that are gone or whose value was forgotten.

        Done again when there are twice as many as remain, this takes a constant time for each tensor.
        """
        for storage, references in list(self.constant_storage_mapping.items()):
            live = [r for r in references if (fake := r()) is not None and fake.constant is not None]
            if live:
                self.constant_storage_mapping[storage] = live
            else:
                self.constant_storage_mapping.pop(storage, None)
        self._noted_constants = sum(map(len, list(self.constant_storage_mapping.values())))
        self._most_noted_constants = 2 * self._noted_constants + _FEW_CONSTANTS

    def invalidate_constant_aliases(self, tensor: Tensor) -> None:
        """Forget the value of every fake tensor whose constant shares the storage of ``tensor``, a real tensor."""
        if isinstance(tensor, FakeTensor):
            raise AssertionError("Expected a real tensor, not a FakeTensor")
        storage = known_storage.of_value(tensor)
        if storage is not None:
            storage.forget()
        relying = self.constant_storage_mapping.pop(StorageWeakRef(tensor._typed_storage()), ())
        for reference in relying:
            fake = reference()
            if fake is not None:
                # The weak reference may have revived an object that only C++ kept.
                fake._fix_weakref()  # type: ignore[attr-defined]
                fake.constant = None

    def clear_non_cpu_constants(self) -> None:
        """Forget values that hold accelerator memory; those on the CPU stay for folding."""
        with conversion_lock.held():
            self._drop_dead_constants()
        for references in list(self.constant_storage_mapping.values()):
            first = references[0]()
            constant = None if first is None else first.constant
            if constant is not None and constant.device.type != "cpu":
                self.invalidate_constant_aliases(constant)

    # Conversion.

    def from_real_tensor(
        self,
        fake_mode: FakeTensorMode,
        t: Tensor,
        make_constant: bool = False,  # `t` is the known value
        shape_env: ShapeEnv | None = None,
        *,
        source: Source | None = None,
        symbolic_context: SymbolicContext | None = None,  # which sizes are dynamic
        trace: bool = True,
    ) -> FakeTensor:
        """Return the fake tensor for a real one, the same as last time if there was one.

        Args:
            fake_mode: the mode of the fake tensor.
            t: a real tensor, or a meta tensor that imitates one.
            make_constant: keep ``t`` as the known value.
            shape_env: gives symbolic sizes; static ones if None.
            source: where a traced program gets the tensor from.
            symbolic_context: which sizes are dynamic.
            trace: record the conversion in torch's structured trace.

        Raises:
            UnsupportedFakeTensorException: the tensor is quantised, or of a kind unknown to the meta converter.
        """
        if shape_env is not None and symbolic_context is None and source is None:
            symbolic_context, source = _context_of_earlier_trace(t)
        with conversion_lock.held():
            return self._convert(fake_mode, t, make_constant, shape_env, source, symbolic_context, trace)

    def _convert(
        self,
        fake_mode: FakeTensorMode,
        t: Tensor,
        make_constant: bool,
        shape_env: ShapeEnv | None,
        source: Source | None,
        symbolic_context: SymbolicContext | None,
        trace: bool,
    ) -> FakeTensor:
        known = self._get_memo(t)
        if known is not None:
            if AT_LEAST_2_14 and t.is_mkldnn and not known.is_mkldnn:
                known.dispatch_keys = torch._C._dispatch_keys(t)
            return known
        if t.is_quantized:
            raise UnsupportedFakeTensorException("quantized nyi in meta tensors")
        if make_constant and type(t) is torch.nn.Parameter:
            raise AssertionError("make_constant must be False for nn.Parameter")

        def make_fake(make_meta: Callable[[], Tensor], device: torch.device | str) -> FakeTensor:
            # Not in a kernel invocation: making the meta tensor may compute with constants.
            with no_dispatch():
                return FakeTensor(fake_mode, make_meta(), device, constant=t if make_constant else None)

        fake = self.meta_converter(
            t, shape_env=shape_env, callback=make_fake, source=source, symbolic_context=symbolic_context, trace=trace
        )
        if fake is NotImplemented:
            raise UnsupportedFakeTensorException("meta converter nyi")
        if AT_LEAST_2_14 and t.is_mkldnn:
            fake.dispatch_keys = torch._C._dispatch_keys(t)
        _carry_grad_dtype(t, fake)
        if shape_env is not None and source is not None:
            self._remember_item(t, fake, shape_env, source, symbolic_context)
        elif AT_LEAST_2_14 and source is None and fake_mode.shape_env is None:
            self._remember_number(t, fake)
        if make_constant:
            self.add_constant_storage_mapping(fake)
        return fake

    def from_plain_tensor(self, fake_mode: FakeTensorMode, t: Tensor, *, make_constant: bool) -> FakeTensor | None:
        """Do as `from_real_tensor` with a tensor of which all is known, so that it need not be described.

        Args:
            fake_mode: the mode of the fake tensor.
            t: a strided tensor on the CPU that is no view, requires no grad, and has a storage of its own. Neither is
                known to this converter.
            make_constant: keep ``t`` as the known value.

        Returns:
            The fake tensor; None if it takes `from_real_tensor`.
        """
        meta, describer = self.meta_converter, self.meta_converter.describer
        if type(meta) is not MetaConverter or meta.copy_data:
            return None
        with conversion_lock.held():
            fake: FakeTensor = _C.fake_of_plain(fake_mode, t)
            meta.hit += 1
            meta.storage_memo[describer.get_storage_id(t.untyped_storage())] = fake.untyped_storage()
            meta.tensor_memo[describer.get_tensor_id(t)] = fake
            if AT_LEAST_2_14 and fake_mode.shape_env is None:
                self._remember_number(t, fake)
            if make_constant:
                fake.constant = t
                self.add_constant_storage_mapping(fake)
        return fake

    def from_meta_and_device(
        self,
        fake_mode: FakeTensorMode,
        t: Tensor,
        device: torch.device,
        pytype: type[Tensor] | None = None,
        dispatch_keys: torch.DispatchKeySet | None = None,
    ) -> FakeTensor:
        """Return a fake tensor on the storage of a meta tensor, the same as last time if there was one.

        Args:
            fake_mode: the mode of the fake tensor.
            t: a meta tensor.
            device: the device to imitate.
            pytype: the class that the tensor stands for.
            dispatch_keys: the dispatch keys that the tensor stands for.
        """
        known = self._get_memo(t)
        if known is not None:
            return known
        fake = fake_on_meta(fake_mode, t, device, pytype, dispatch_keys)
        self.set_tensor_memo(t, fake)
        return fake

    def _remember_number(self, t: Tensor, fake: FakeTensor) -> None:
        """Give a zero-dimensional tensor its number for ``item()``: without symbols and outside of tracing only."""
        if self.export or torch._guards.TracingContext.try_get() is not None or not _has_exact_item(t):
            return
        with no_dispatch():
            value = t.item()
        if not math.isnan(value) and not math.isinf(value):
            fake.item_memo = value

    def _remember_item(
        self,
        t: Tensor,
        fake: FakeTensor,
        shape_env: ShapeEnv,
        source: Source,
        symbolic_context: SymbolicContext | None,
    ) -> None:
        """Give a zero-dimensional input of a traced program a symbol for ``item()``.

        Export wants ``item()`` to stay a runtime assertion, and numbers drawn at random must not become
        part of a trace, so these get none.
        """
        from torch._dynamo.source import CallMethodItemSource, FloatTensorSource, RandomValueSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic

        if self.export or isinstance(source, RandomValueSource):
            return
        if not _has_exact_item(t):
            return
        with no_dispatch():
            value = t.item()
        if math.isnan(value) or math.isinf(value):
            return
        # A tensor made of a float input gives that float back.
        item_source = source.base if isinstance(source, FloatTensorSource) else CallMethodItemSource(source)
        symbol = shape_env.create_unspecified_symbol(
            value, source=item_source, dynamic_dim=DimDynamic.DYNAMIC, symbolic_context=symbolic_context
        )
        if t.dtype == torch.int64:
            fake.item_memo = shape_env.create_symintnode(symbol, hint=value, source=item_source)
        elif t.dtype == torch.float64:
            fake.item_memo = shape_env.create_symfloatnode(symbol, hint=value, source=item_source)


def fake_on_meta(
    mode: FakeTensorMode,
    t: Tensor,
    device: torch.device,
    pytype: type[Tensor] | None = None,
    dispatch_keys: torch.DispatchKeySet | None = None,
) -> FakeTensor:
    """Return a new fake tensor on the storage of ``t``, which must be a meta tensor, and remember nothing."""
    if t.device.type != "meta":
        raise AssertionError(f"tensor's device must be `meta`, got {t.device.type} instead")
    return FakeTensor(mode, t, device, pytype=pytype, dispatch_keys=dispatch_keys)


def _context_of_earlier_trace(t: Tensor) -> tuple[SymbolicContext | None, Source | None]:
    """Find how the current trace made ``t`` fake before, so that a second mode makes the same symbols."""
    tracing = torch._guards.TracingContext.try_get()
    if tracing is None or t not in tracing.tensor_to_context:
        return None, None
    from torch.fx.experimental.symbolic_shapes import StatefulSymbolicContext

    context = tracing.tensor_to_context[t]
    if not isinstance(context, StatefulSymbolicContext):
        raise AssertionError(f"Expected StatefulSymbolicContext, got {type(context)}")
    return context, context.tensor_source


def _carry_grad_dtype(t: Tensor, fake: Tensor) -> None:
    """Copy the dtype that gradients of a leaf are to have; meta tensors do not carry it."""
    # Asking a functional tensor about its history replays views, which needs its mode; its inner tensor knows.
    inner = torch._from_functional_tensor(t.elem) if isinstance(t, FunctionalTensor) else t
    if inner.requires_grad and inner.is_leaf and fake.is_leaf and inner.grad_dtype != inner.dtype:
        fake.grad_dtype = inner.grad_dtype


def _has_exact_item(t: Tensor) -> bool:
    exact = t.dtype in _DTYPES_WITH_EXACT_ITEM
    return exact and _is_plain_tensor(t) and t.dim() == 0 and t.device.type == "cpu"


def _is_plain_tensor(t: Tensor) -> bool:
    """Whether ``t`` is an ordinary strided tensor whose data is its value."""
    if type(t) is not Tensor or t.layout != torch.strided or t.is_nested:
        return False
    return not (is_functorch_wrapped_tensor(t) or is_legacy_batchedtensor(t) or torch._is_functional_tensor(t))
