"""Writes down the metadata of a model's tensors and tells where two such records differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Metadata:
    """Everything that a fake tensor knows about itself.

    Attributes:
        fake: Whether the tensor is an instance of its side's fake tensor class.
        shape: Sizes of the dimensions.
        stride: Strides of the dimensions, in elements.
        dtype: Element type, as text.
        device: Device that the tensor claims, as text.
        layout: Memory layout, as text.
        storage_offset: Offset into the storage, in elements.
        storage_bytes: Size of the storage, in bytes.
        requires_grad: Whether gradients are recorded.
    """

    fake: bool
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    device: str
    layout: str
    storage_offset: int
    storage_bytes: int
    requires_grad: bool


Record = dict[str, Metadata | None]


def describe(tensor: Tensor, fake_class: type) -> Metadata:
    """Return a tensor's metadata.

    Args:
        tensor: Any strided tensor.
        fake_class: The class that the tensor should be an instance of.
    """
    return Metadata(
        fake=isinstance(tensor, fake_class),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        dtype=str(tensor.dtype),
        device=str(tensor.device),
        layout=str(tensor.layout),
        storage_offset=int(tensor.storage_offset()),
        storage_bytes=int(tensor.untyped_storage().nbytes()),
        requires_grad=tensor.requires_grad,
    )


@contextmanager
def recorded_outputs(model: nn.Module, fake_class: type) -> Iterator[Record]:
    """Record the metadata of every module's outputs while the context is open.

    Args:
        model: The model whose modules are watched, itself included.
        fake_class: The fake tensor class of the side that runs.

    Yields:
        The record, filled as modules return; one entry per tensor, in the order of the calls.
    """
    record: Record = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            for index, tensor in enumerate(tensors):
                # The running number keeps a module that is called twice from overwriting its first entry.
                record[f"output {index} of {name} (entry {len(record)})"] = describe(tensor, fake_class)

        return module.register_forward_hook(note)

    handles = [watch(name or "the model", module) for name, module in model.named_modules()]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def record_parameters(model: nn.Module, fake_class: type) -> Record:
    """Return the metadata of every parameter, its gradient (None where it has none) and every buffer.

    Args:
        model: A model after a backward pass.
        fake_class: The fake tensor class of the side that ran.
    """
    record: Record = {}
    for name, parameter in model.named_parameters():
        record[f"parameter {name}"] = describe(parameter, fake_class)
        record[f"gradient of {name}"] = None if parameter.grad is None else describe(parameter.grad, fake_class)
    for name, buffer in model.named_buffers():
        record[f"buffer {name}"] = describe(buffer, fake_class)
    return record


def differences(torch_record: Mapping[str, Metadata | None], ours: Mapping[str, Metadata | None]) -> list[str]:
    """Return one line for each entry in which the records differ.

    Args:
        torch_record: What torch's side wrote down.
        ours: What fastfake's side wrote down.

    Returns:
        Lines that name the tensor and each differing field with torch's value first; empty if all is the same.
    """
    lines = []
    for name in [*torch_record, *(name for name in ours if name not in torch_record)]:
        if name not in ours:
            lines.append(f"{name}: only on torch's side")
        elif name not in torch_record:
            lines.append(f"{name}: only on fastfake's side")
        elif torch_record[name] != ours[name]:
            lines.append(f"{name}: {_disagreement(torch_record[name], ours[name])}")
    return lines


def _disagreement(torch_entry: Metadata | None, our_entry: Metadata | None) -> str:
    if torch_entry is None or our_entry is None:
        present, missing = ("fastfake", "torch") if torch_entry is None else ("torch", "fastfake")
        return f"{present} has one, {missing} has none"
    return ", ".join(
        f"{field.name} is {getattr(torch_entry, field.name)} on torch and {getattr(our_entry, field.name)} on fastfake"
        for field in fields(Metadata)
        if getattr(torch_entry, field.name) != getattr(our_entry, field.name)
    )
