"""The differences between two records of the same call."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from .record import CallRecord, ErrorRecord, TensorRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    where: str
    expected: object
    actual: object

    def __str__(self) -> str:
        return f"{self.where}: expected {_shown(self.expected)}, got {_shown(self.actual)}"


def _shown(value: object) -> str:
    return f"{value.types[0]}({value.text!r})" if isinstance(value, ErrorRecord) else repr(value)


# What a fake tensor need not share with the real tensor that it stands for.
ONLY_BETWEEN_FAKES = frozenset({"cls", "has_constant"})


def differences(
    expected: CallRecord, actual: CallRecord, ignored_fields: Collection[str] = frozenset()
) -> list[Difference]:
    """All differences, the ones that explain others first: error, structure, tensors."""
    found = []
    for name in ("error", "inputs", "result"):
        wanted, got = getattr(expected, name), getattr(actual, name)
        if wanted != got:
            found.append(Difference(name, wanted, got))
    if len(expected.tensors) != len(actual.tensors):
        found.append(Difference("number of tensors", len(expected.tensors), len(actual.tensors)))
    # With another structure the numbers of the tensors no longer correspond.
    if not found or expected.inputs == actual.inputs:
        for number, (wanted, got) in enumerate(zip(expected.tensors, actual.tensors, strict=False)):
            found += _tensor_differences(number, wanted, got, ignored_fields)
    return found


def _tensor_differences(
    number: int, expected: TensorRecord, actual: TensorRecord, ignored_fields: Collection[str]
) -> list[Difference]:
    return [
        Difference(f"tensor {number} {field.name}", getattr(expected, field.name), getattr(actual, field.name))
        for field in dataclasses.fields(TensorRecord)
        if field.name not in ignored_fields and getattr(expected, field.name) != getattr(actual, field.name)
    ]


def with_significant_places(record: CallRecord) -> CallRecord:
    """The record with strides only of dimensions that are stepped along, and offsets only of tensors with elements.

    In the rest torch's FakeTensor differs from eager, for example in view(); no element's place depends on it.
    """
    return dataclasses.replace(record, tensors=tuple(_with_significant_places(tensor) for tensor in record.tensors))


def _with_significant_places(tensor: TensorRecord) -> TensorRecord:
    if tensor.stride is None:
        return tensor
    if 0 in tensor.shape:
        return dataclasses.replace(tensor, stride=(0,) * len(tensor.shape), storage_offset=0)
    stride = tuple(0 if size == 1 else step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    return dataclasses.replace(tensor, stride=stride)
