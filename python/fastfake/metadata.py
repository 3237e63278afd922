"""The metadata of a tensor as a value: what two fake tensors must share to be interchangeable."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._prims_common import suggest_memory_format
from torch._subclasses.meta_utils import is_sparse_any
from torch.types import IntLikeType

from .version import __version__

if TYPE_CHECKING:
    from torch._subclasses._fake_tensor_utils import _CacheKeyState

    from .fake_mode import FakeTensorMode

__all__ = ["TensorMetadata", "extract_tensor_metadata"]


@dataclass(slots=True)
class TensorMetadata:
    """Metadata of one tensor. Field names and order are torch's, which other parts of torch pickle.

    Sizes and strides count elements, ``storage_bytes`` counts bytes and is None where a tensor has no
    storage of its own (sparse layouts). ``stride`` is empty for tensors that are not strided.
    """

    dtype: torch.dtype
    shape: tuple[IntLikeType, ...]
    stride: tuple[IntLikeType, ...]
    device: torch.device
    layout: torch.layout
    memory_format: torch.memory_format | None
    storage_offset: IntLikeType
    storage_bytes: IntLikeType | None
    requires_grad: bool
    is_quantized: bool
    is_conj: bool
    is_neg: bool  # the negative bit, not the sign
    is_inference: bool
    is_sparse: bool  # in the COO layout
    is_coalesced: bool | None
    dense_dim: int | None
    sparse_dim: int | None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields, and the release of fastfake with them.

        torch pickles metadata into the keys of its caches of compiled graphs. A graph that another release traced
        is not to be found by them.
        """
        return _restored, (__version__, *(getattr(self, field.name) for field in dataclasses.fields(self)))

    def _flatten_into(self, result: list[object], mode: FakeTensorMode, state: _CacheKeyState) -> None:
        """Append to ``result`` what can be compared and hashed; torch's higher-order operators do both.

        Args:
            result: gets the fields, those with several elements preceded by how many.
            mode: the mode of the tensor; torch passes it.
            state: takes over symbolic sizes, which are not hashable as they are.
        """
        del mode
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                result.append(len(value))
            for element in value if isinstance(value, tuple) else (value,):
                if isinstance(element, torch.SymInt):
                    state.convert_sym_int(result, element)
                else:
                    result.append(element)


def _restored(_release: str, *fields: Any) -> TensorMetadata:
    """Make metadata from what was pickled, by whatever release."""
    return TensorMetadata(*fields)


def extract_tensor_metadata(t: torch.Tensor) -> TensorMetadata:
    """Read the metadata of a tensor, fake or real.

    Args:
        t: a tensor of any layout. Symbolic sizes are kept as they are and no guard is made.
    """
    sparse = is_sparse_any(t)
    coo = t.is_sparse
    return TensorMetadata(
        dtype=t.dtype,
        shape=t.shape,
        stride=t.stride() if t.layout == torch.strided else (),
        device=t.device,
        layout=t.layout,
        memory_format=None if sparse else _memory_format(t),
        storage_offset=t.storage_offset(),
        storage_bytes=None if sparse else t.untyped_storage().nbytes(),
        requires_grad=t.requires_grad,
        is_quantized=t.is_quantized,
        is_conj=t.is_conj(),
        is_neg=t.is_neg(),
        is_inference=t.is_inference(),
        is_sparse=coo,
        is_coalesced=t.is_coalesced() if coo else None,
        dense_dim=t.dense_dim() if sparse else None,
        sparse_dim=t.sparse_dim() if sparse else None,
    )


def _memory_format(t: torch.Tensor) -> torch.memory_format | None:
    """The memory format in which a dense tensor is contiguous, if any; unknown for symbolic shapes."""
    if t._has_symbolic_sizes_strides:
        return None
    suggested = suggest_memory_format(t)
    return suggested if t.is_contiguous(memory_format=suggested) else None
