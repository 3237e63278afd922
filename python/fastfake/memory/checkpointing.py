"""Activation checkpointing of a model's layers, by torch's own means."""

from __future__ import annotations

import enum
import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from .layers import layers_of

__all__ = ["Checkpointing", "checkpoint_layers"]


class Checkpointing(str, enum.Enum):
    """What is kept of a forward pass for the backward pass."""

    NONE = "none"
    """All that autograd saves."""
    FULL = "full"
    """What a layer was called with; the backward pass computes the layer again."""
    SELECTIVE = "selective"
    """That and the results of attention, of collectives that reduce and of every second matrix product in the layer.
    The rest is computed again. This is the policy that torchtitan calls "op"."""


_aten = torch.ops.aten
_MATRIX_PRODUCTS = {_aten.mm.default, _aten.addmm.default}


@functools.cache
def _saved() -> frozenset[Any]:
    # Not each release of torch, and not each build, has all of them.
    names = [
        (_aten, "_scaled_dot_product_flash_attention"),
        (_aten, "_scaled_dot_product_efficient_attention"),
        (_aten, "_scaled_dot_product_cudnn_attention"),
        (_aten, "_scaled_dot_product_flash_attention_for_cpu"),
        (_aten, "_scaled_dot_product_fused_attention_overrideable"),
        (torch.ops._c10d_functional, "reduce_scatter_tensor"),
        (torch.ops._c10d_functional, "all_reduce"),
    ]
    packets = [getattr(namespace, name, None) for namespace, name in names]
    return frozenset(packet.default for packet in packets if packet is not None)


def checkpoint_layers(model: nn.Module, checkpointing: Checkpointing) -> int:
    """Have each layer of a model computed again in the backward pass.

    Args:
        model: The model; its layers are wrapped in place.
        checkpointing: What is kept of them.

    Returns:
        The number of layers.
    """
    if checkpointing is Checkpointing.NONE:
        return 0
    options: dict[str, Any] = {}
    if checkpointing is Checkpointing.SELECTIVE:
        options["context_fn"] = _selective_contexts
    layers = layers_of(model)
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        wrapped = checkpoint_wrapper(layer, checkpoint_impl=CheckpointImpl.NO_REENTRANT, **options)
        model.get_submodule(parent).register_module(last, wrapped)
    return len(layers)


def _selective_contexts() -> tuple[Any, Any]:
    return create_selective_checkpoint_contexts(_policy())


def _policy() -> Callable[..., CheckpointPolicy]:
    # Forward and recomputation count for themselves.
    products: Counter[bool] = Counter()

    def choose(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        saves = operator in _saved()
        if operator in _MATRIX_PRODUCTS:
            products[context.is_recompute] += 1
            saves = products[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if saves else CheckpointPolicy.PREFER_RECOMPUTE

    return choose
