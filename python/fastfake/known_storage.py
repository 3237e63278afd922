"""Values of fake tensors that are known, in modes with ``known_values``.

The value of a fake tensor is a real tensor of the same geometry on the CPU, in its ``constant``. Fake tensors that
share a storage have values that share one too, so that what is written through one is seen by all. Whether a value
is known is therefore a fact of the storage, and `KnownStorage` stands for it: when a write cannot be followed, all
values on the storage are forgotten at once, without a list of the tensors that have them. Such a list would hold
weak references, and `torch.utils.swap_tensors`, and so ``Module.to``, refuses tensors with weak references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import _C

if TYPE_CHECKING:
    from .fake_tensor import FakeTensor

__all__ = ["KnownStorage", "forget", "give_value", "have_same_geometry", "is_current", "of_value", "take_over"]

# Where a value keeps its KnownStorage: an attribute of the real tensor, so that copies of one bring the other along.
_ATTRIBUTE = "_known_storage"


class KnownStorage:
    """What fake tensors on one storage have in common while their values are known.

    It lives as long as one of the values. Native code knows the storages of all that are alive, and asks Python about
    each call with a tensor on one of them.
    """

    __slots__ = ("__weakref__", "_storages")

    # The class keeps it: when the interpreter exits, the module's names may be gone before the last value is.
    _forget = staticmethod(_C.forget_known_storage)

    def __init__(self) -> None:
        """Begin without a storage."""
        self._storages: list[int] = []

    def add(self, fake: FakeTensor) -> None:
        """Note that the value of ``fake`` is known. Copies have other storages than what they are copies of."""
        storage = _C.note_known_storage(fake, self)
        if storage and storage not in self._storages:
            self._storages.append(storage)

    def forget(self) -> None:
        """Make the values of all fake tensors on the storage unknown, for good."""
        while self._storages:
            self._forget(self._storages.pop())

    def __del__(self) -> None:
        """Let native code know that nothing is left to be written to."""
        self.forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownStorage:
        """Return what the copies of values on this storage have in common."""
        del memo
        return KnownStorage()

    def __reduce__(self) -> tuple[type[KnownStorage], tuple[()]]:
        """Let pickles have one of their own; storages are of this process."""
        return KnownStorage, ()


def of_value(value: Tensor) -> KnownStorage | None:
    """Return what stands for the storage of a known value; None if the value is kept as torch keeps its constants."""
    return getattr(value, _ATTRIBUTE, None)


def give_value(fake: FakeTensor, value: Tensor, storage: KnownStorage) -> None:
    """Let ``value``, a real tensor that nobody else has, be what is known of ``fake``."""
    setattr(value, _ATTRIBUTE, storage)
    storage.add(fake)
    fake.constant = value


def take_over(fake: FakeTensor) -> bool:
    """Let a copy that was made together with its value rely on it. False if it is no value of this kind."""
    value = fake._constant
    storage = None if value is None else of_value(value)
    if storage is None:
        return False
    storage.add(fake)
    return True


def is_current(fake: FakeTensor, value: Tensor) -> bool:
    """Whether ``value``, once given to ``fake``, is still what its storage holds."""
    storage = of_value(value)
    if storage is None:
        return True
    if _C.owner_of_known_storage(fake) is not storage:
        return False
    # Assignment to `data`, and operators that are not followed, change the metadata without asking.
    with torch._C.DisableTorchFunction():
        return have_same_geometry(fake, value)


def have_same_geometry(fake: Tensor, value: Tensor) -> bool:
    """Whether two tensors have the same dtype and the same elements of their storages."""
    return (
        fake.dtype == value.dtype
        and fake.size() == value.size()
        and fake.stride() == value.stride()
        and fake.storage_offset() == value.storage_offset()
        and fake.is_conj() == value.is_conj()
        and fake.is_neg() == value.is_neg()
    )


def forget(fake: FakeTensor) -> None:
    """Make unknown what the storage of a fake tensor holds. It need not have a value itself."""
    value = fake.constant
    storage = _C.owner_of_known_storage(fake)
    if storage is not None:
        storage.forget()
    if value is not None:
        fake.fake_mode.fake_tensor_converter.invalidate_constant_aliases(value)
