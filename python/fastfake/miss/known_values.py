"""Following the values of small tensors, in modes with ``known_values``.

A call's results get their metadata as ever. Where all its arguments have values, the operator runs on those as well,
and the results get what comes out. So metadata do not depend on what is known, except where they are data: of
``item()``, ``nonzero()`` and their like there is no answer without values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
import torch._subclasses.fake_tensor as torch_fake_tensor
from torch import Tensor
from torch._subclasses.meta_utils import is_sparse_any
from torch.types import py_sym_types
from torch.utils import _pytree as pytree

from .. import _C, devices, known_storage
from ..converter import fake_on_meta
from ..errors import DataDependentOutputException, DynamicOutputShapeException
from ..fake_tensor import FakeTensor
from ..known_storage import KnownStorage
from ..logs import log
from ..real_computation import no_dispatch, on_values
from .call import NOT_HANDLED, Call
from .operator_memo import decided_once
from .operator_traits import OperatorTraits, schema_info

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from ..fake_mode import FakeTensorMode

__all__ = ["are_followed", "follow", "keep_lifted", "limit_of", "unfollowed"]

aten = torch.ops.aten
_CPU = torch.device("cpu")

# Their results' values follow from numbers alone. Names, since not every release of torch has all of them.
_FACTORIES = frozenset(
    {
        "aten::arange", "aten::bartlett_window", "aten::blackman_window", "aten::eye", "aten::fft_fftfreq",
        "aten::fft_rfftfreq", "aten::full", "aten::hamming_window", "aten::hann_window", "aten::kaiser_window",
        "aten::linspace", "aten::logspace", "aten::ones", "aten::range", "aten::scalar_tensor", "aten::tril_indices",
        "aten::triu_indices", "aten::zeros", "prims::full", "prims::iota", "prims::scalar_tensor",
    }
)  # fmt: skip
# So do those of these; of a tensor they take only the metadata.
_FACTORIES_LIKE_A_TENSOR = frozenset(
    {
        "aten::full_like", "aten::new_full", "aten::new_ones", "aten::new_zeros", "aten::ones_like",
        "aten::zeros_like", "prims::full_like",
    }
)  # fmt: skip
# Their results are not initialised, or in part.
_UNINITIALISED = frozenset(
    {
        "aten::_resize_output", "aten::_resize_output_", "aten::empty_like", "aten::new_empty",
        "aten::new_empty_strided", "aten::resize", "aten::resize_", "aten::resize_as", "aten::resize_as_",
        "prims::resize",
    }
)  # fmt: skip

# What becomes of values in the calls that a computation makes on its way; see `thread_state.h`. They give none, since
# fake implementations return any numbers, as long as the shape is right. What they write is forgotten, unless the
# call that is computed writes it.
_FOLLOWED, _UNFOLLOWED, _WRITTEN_BY_THE_OUTER_CALL = 0, 1, 2


def limit_of(mode: FakeTensorMode) -> int:
    """Return how many elements a tensor may have for its value to be kept under ``mode``."""
    # torch's limit is read where users set it: those who want larger tensors folded assign to its module's variable.
    own = 0 if _C.following() else mode.known_values or 0
    return max(own, torch_fake_tensor.CONSTANT_NUMEL_LIMIT)


def are_followed(call: Call) -> bool:
    """Whether a call is this module's: the mode follows values, or did when an argument was made."""
    return call.mode.known_values is not None or any(map(_C.owner_of_known_storage, call.fake_args))


def unfollowed(following: int = _UNFOLLOWED) -> AbstractContextManager[None]:
    """Return a context in which what this thread computes gets no values; what is written to forgets its value."""
    return _C.Following(following)


def keep_lifted(mode: FakeTensorMode, t: Tensor) -> object:
    """Return a fake tensor for what ``torch.tensor`` just made, with its value; NOT_HANDLED if that is too large."""
    if mode.known_values is None or _C.following() or not _is_plain(t):
        return NOT_HANDLED
    elements = t.untyped_storage().nbytes() // t.element_size()
    if elements > limit_of(mode):
        return NOT_HANDLED
    with no_dispatch():
        meta = torch.empty(elements, dtype=t.dtype, device="meta").as_strided(t.size(), t.stride(), t.storage_offset())
        fake = fake_on_meta(mode, meta, t.device)
    with on_values():
        value = torch.empty(0, dtype=t.dtype)
        value.set_(t.untyped_storage().clone(), t.storage_offset(), t.size(), t.stride())
    known_storage.give_value(fake, value, KnownStorage())
    return fake


def follow(call: Call, traits: OperatorTraits, compute: Callable[[], object]) -> object:
    """Return the fake results of a call, as ``compute`` gives them, with values where these follow.

    What is written to forgets its value unless the write is followed.
    """
    values = [t.constant for t in call.fake_args]
    computable = _is_computable(call, traits, values)
    following = _C.following()
    if computable and _is_about_elements(call.func) and all(v.numel() <= _limit(call) for v in values if v is not None):
        answer = _answer(call, values)
        if answer is not NOT_HANDLED:
            return answer
    if following != _FOLLOWED or not computable:
        if following != _WRITTEN_BY_THE_OUTER_CALL:
            for t in _written(call):
                known_storage.forget(t)
        by_numbers = _index_by_numbers(call)
        if by_numbers is not NOT_HANDLED:
            return by_numbers
        with unfollowed(following or _UNFOLLOWED):
            results = compute()
        _drop_values(call, results)
        return results
    try:
        with unfollowed(_WRITTEN_BY_THE_OUTER_CALL):
            results = compute()
    except (DataDependentOutputException, DynamicOutputShapeException):
        answer = NOT_HANDLED if _written(call) else _answer(call, values)
        if answer is NOT_HANDLED:
            raise
        return answer
    _drop_values(call, results)
    if not _give_values(call, values, results):
        for t in _written(call):
            known_storage.forget(t)
    return results


def _is_computable(call: Call, traits: OperatorTraits, values: Sequence[Tensor | None]) -> bool:
    """Whether the values of the results follow from what is known."""
    name = call.func._schema.name
    if call.func.namespace in _COMMUNICATIONS:
        return False
    if not (traits.may_fold or traits.is_inplace_view) or traits.is_random or name in _UNINITIALISED:
        return False
    if call.has_symbolic_sizes or any(isinstance(leaf, _NOT_FOR_VALUES) for leaf in call.flat_args):
        return False
    if name in _FACTORIES_LIKE_A_TENSOR:
        return True
    return None not in values if call.fake_args else name in _FACTORIES


# What other processes send is not known, whatever a fake group leaves in its place.
_COMMUNICATIONS = frozenset({"c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "symm_mem"})
_NOT_FOR_VALUES = (*py_sym_types, torch.UntypedStorage, torch.TypedStorage)


def _limit(call: Call) -> int:
    """Return how large values may be to be computed with."""
    # Kernels of users run no oftener than torch runs them.
    builtin = call.func.namespace in ("aten", "prims", "prim")
    return limit_of(call.mode) if builtin else torch_fake_tensor.CONSTANT_NUMEL_LIMIT


@decided_once
def _is_about_elements(func: OpOverload) -> bool:
    """Whether the results of an operator, or their sizes, depend on the elements of its arguments."""
    if schema_info(func).is_mutable():
        return False
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


@decided_once
def _names_of_written(func: OpOverload) -> frozenset[str]:
    arguments = func._schema.arguments
    if func.namespace == "c10d":
        # What is received is written to, of which these schemas tell nothing.
        return frozenset(a.name for a in arguments)
    # The schemas of batch normalisations do not tell all; torch's analysis does.
    info = schema_info(func)
    return frozenset(
        a.name for a in arguments if (a.alias_info is not None and a.alias_info.is_write) or info.is_mutable(a.name)
    )


def _written(call: Call) -> list[FakeTensor]:
    """Return the fake tensors that a call writes to, those in lists too."""
    names = _names_of_written(call.func)
    if not names:
        return []
    given = dict(zip((a.name for a in call.func._schema.arguments), call.args, strict=False)) | dict(call.kwargs)
    return [leaf for name in names for leaf in pytree.tree_leaves(given.get(name)) if call.mode.is_our_fake(leaf)]


def _run_on(call: Call, values: Sequence[Tensor | None]) -> object:
    """Run the operator on values. They are on the CPU, whatever device the call is about."""
    rest = iter(values)

    def real(leaf: object) -> object:
        if call.mode.is_our_fake(leaf):
            value = next(rest)
            # Of an argument without a value only the metadata is used.
            return torch.empty((), dtype=leaf.dtype).expand(leaf.shape) if value is None else value
        return _CPU if isinstance(leaf, torch.device) else leaf

    args, kwargs = call.nest([real(leaf) for leaf in call.flat_args])
    kwargs = dict(kwargs)
    if _takes_device(call.func):
        kwargs["device"] = _CPU
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    return call.func(*args, **kwargs)


@decided_once
def _takes_device(func: OpOverload) -> bool:
    return any(a.name == "device" and a.kwarg_only for a in func._schema.arguments)


def _answer(call: Call, values: Sequence[Tensor | None]) -> object:
    """Return the results of a call that is about elements: numbers, and fake tensors of the sizes that come out.

    NOT_HANDLED if they are no such.
    """
    limit = _limit(call)
    if call.func is aten.bincount.default and _largest(values[0]) >= limit:
        return NOT_HANDLED
    if call.func is aten.repeat_interleave.Tensor and call.kwargs.get("output_size") is None:
        assert values[0] is not None
        with on_values():
            size = int(values[0].sum())
        if size > limit:
            with call.mode:
                return call.func(*call.args, output_size=size)
    with on_values():
        results = _run_on(call, values)
    leaves = [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
    if not all(map(_is_plain, leaves)):
        return NOT_HANDLED
    device = devices.common_device(call.func, call.flat_args)[0] if leaves else _CPU

    def wrap(t: Tensor) -> Tensor:
        with no_dispatch():
            meta = torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device="meta")
            fake = fake_on_meta(call.mode, meta, device)
        if t.numel() <= limit and not _C.following():
            with on_values():
                value = _copy_like(fake, t)
            known_storage.give_value(fake, value, KnownStorage())
        return fake

    return pytree.tree_map_only(Tensor, wrap, results)


def _largest(value: Tensor | None) -> int:
    if value is None or value.numel() == 0:
        return 0
    with on_values():
        return int(value.max())


def _index_by_numbers(call: Call) -> object:
    """Index by known masks: the numbers of their true elements tell how large the result is.

    NOT_HANDLED if the call is another, or no mask is known.
    """
    if call.has_symbolic_sizes:
        return NOT_HANDLED
    if call.func is aten.masked_select.default:
        t, mask = call.args
        if mask.constant is None:
            return NOT_HANDLED
        with call.mode:
            shape = torch.broadcast_shapes(t.shape, mask.shape)
            return aten.index.Tensor(t.expand(shape), list(mask.expand(shape).nonzero().unbind(1)))
    if call.func is not aten.index.Tensor:
        return NOT_HANDLED
    t, indices = call.args
    masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
    if not masks or any(mask.constant is None for mask in masks):
        return NOT_HANDLED
    numbers: list[Tensor | None] = []
    with call.mode:
        for index in indices:
            numbers += index.nonzero().unbind(1) if any(index is mask for mask in masks) else [index]
        return aten.index.Tensor(t, numbers)


def _is_plain(t: Tensor) -> bool:
    """Whether a real tensor is one whose storage holds its elements, and nothing else tells of them."""
    if type(t) is not Tensor or t.device.type != "cpu" or t.layout != torch.strided:
        return False
    return not (is_sparse_any(t) or t.is_quantized or t.is_nested or t._is_zerotensor() or t.is_mkldnn)


def _new_results(call: Call, results: object) -> list[FakeTensor]:
    arguments = set(map(id, call.fake_args))
    leaves = pytree.tree_leaves(results)
    return [leaf for leaf in leaves if call.mode.is_our_fake(leaf) and id(leaf) not in arguments]


def _drop_values(call: Call, results: object) -> None:
    """Drop the values that new results may have got on the way, as those of ``torch.tensor`` in an implementation."""
    for t in _new_results(call, results):
        if t._constant is not None:
            t.constant = None


def _give_values(call: Call, values: Sequence[Tensor | None], results: object) -> bool:
    """Compute with the values of the arguments, and give what comes out to the fake ``results``.

    Returns whether it was computed. Then what the call writes to has the right value.
    """
    limit = _limit(call)
    new = _new_results(call, results)
    are_views = all(map(_C.owner_of_known_storage, new))
    if any(value is not None and value.numel() > limit for value in values) and not (
        are_views and new and not _written(call)
    ):
        return False
    if any(t.numel() > limit for t in new) and not are_views:
        return False
    if any(t.fake_device.type == "meta" for t in (*new, *call.fake_args)):
        return False
    try:
        with on_values():
            computed = _run_on(call, values)
            _pair(call, values, results, computed)
    except Exception:
        # What is wrong with the elements, as a singular matrix, is no error of a program on fake tensors.
        log.debug("the value of %s cannot be computed", call.func, exc_info=True)
        return False
    return True


def _pair(call: Call, values: Sequence[Tensor | None], results: object, computed: object) -> None:
    """Give the values among ``computed`` to the fake tensors in their places."""
    # What stands for the storages of values, by the address of the real one.
    taken: dict[int, KnownStorage] = {}
    for t, value in zip(call.fake_args, values, strict=True):
        if value is not None:
            taken[value.untyped_storage()._cdata] = _storage_of(t, value)
    arguments = set(map(id, call.fake_args))
    fakes, reals = pytree.tree_leaves(results), pytree.tree_leaves(computed)
    if len(fakes) != len(reals):
        return
    for fake, value in zip(fakes, reals, strict=True):
        if not call.mode.is_our_fake(fake) or id(fake) in arguments or not isinstance(value, Tensor):
            continue
        if not _is_plain(value) or value.size() != fake.size() or value.dtype != fake.dtype:
            continue
        storage: KnownStorage | None = _C.owner_of_known_storage(fake)
        of_real = taken.get(value.untyped_storage()._cdata)
        if storage is not None:
            # On the storage of an argument, or of an earlier result. Whether it is at the same place there is seen
            # each time that the value is asked for.
            if storage is of_real:
                known_storage.give_value(fake, aten.alias.default(value), storage)
            continue
        if of_real is not None or not known_storage.have_same_geometry(fake, value):
            value = _copy_like(fake, value)
        fresh = taken[value.untyped_storage()._cdata] = KnownStorage()
        known_storage.give_value(fake, value, fresh)


def _storage_of(t: FakeTensor, value: Tensor) -> KnownStorage:
    """Return what stands for the storage of an argument's value, also where that was kept as torch keeps constants."""
    storage = known_storage.of_value(value)
    if storage is None:
        storage = KnownStorage()
        known_storage.give_value(t, value, storage)
    return storage


def _copy_like(fake: FakeTensor, value: Tensor) -> Tensor:
    """Return the elements of ``value`` on a storage of their own, in the places that they have in ``fake``."""
    last = fake.storage_offset() + sum((n - 1) * step for n, step in zip(fake.size(), fake.stride(), strict=True))
    storage = torch.empty(last + 1 if value.numel() else 0, dtype=value.dtype)
    copy = storage.as_strided(fake.size(), fake.stride(), fake.storage_offset())
    copy.copy_(value)
    return copy
