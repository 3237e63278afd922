"""FSDP2 and tensor parallelism, torch's own, on torch's fake process group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from .errors import MemoryCommandError
from .layers import layers_of

__all__ = ["Parallelism", "parallelize"]

FSDP, TENSOR = "fsdp", "tensor"


@dataclass(frozen=True)
class Parallelism:
    """How a model is spread over ranks, of which one is looked at.

    Attributes:
        fsdp: Ranks that the parameters are sharded over by FSDP2.
        tensor: Ranks that each layer is split over by tensor parallelism.
        rank: The rank that is looked at, of ``fsdp * tensor``; those that share layers are neighbours.
    """

    fsdp: int = 1
    tensor: int = 1
    rank: int = 0

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self.fsdp * self.tensor

    def check(self) -> None:
        """Make sure that the rank is one of them.

        Raises:
            MemoryCommandError: it is not.
        """
        if not 0 <= self.rank < self.ranks:
            ranks = "there is rank 0 alone" if self.ranks == 1 else f"there are ranks 0 to {self.ranks - 1}"
            raise MemoryCommandError(
                f"--rank {self.rank}: {ranks} with --fsdp {self.fsdp} --tensor-parallel {self.tensor}"
            )

    @contextlib.contextmanager
    def mesh(self, device: str) -> Iterator[DeviceMesh | None]:
        """Have a process group and its mesh, with the dimensions ``fsdp`` and ``tensor``, while the ``with`` lasts.

        Args:
            device: The type of the devices.

        Yields:
            The mesh, or None where there is one rank.
        """
        if self.ranks == 1:
            yield None
            return
        from torch.testing._internal.distributed.fake_pg import FakeStore

        torch.distributed.init_process_group("fake", store=FakeStore(), rank=self.rank, world_size=self.ranks)
        try:
            yield init_device_mesh(device, (self.fsdp, self.tensor), mesh_dim_names=(FSDP, TENSOR))
        finally:
            torch.distributed.destroy_process_group()


def parallelize(model: nn.Module, mesh: DeviceMesh, parallelism: Parallelism) -> None:
    """Split a model's layers by tensor parallelism.

    Args:
        model: The model.
        mesh: The mesh of `Parallelism.mesh`.
        parallelism: How many ranks there are.

    Raises:
        MemoryCommandError: there is no plan for the model, or torch has no counterpart of one.
    """
    if parallelism.tensor == 1:
        return
    from torch.distributed.tensor.parallel import parallelize_module

    plan = _plan_of_transformers(model) or _plan_by_names(model)
    if not plan:
        raise MemoryCommandError(
            f"--tensor-parallel {parallelism.tensor}: {type(model).__name__} has no plan for it, and no modules named "
            "as those of a Llama"
        )
    tied = _tie_plan(model, plan)
    for name, style in plan.items():
        _check_divisible(name, model.get_submodule(name), style, parallelism.tensor)
    parallelize_module(model, mesh[TENSOR], plan)
    for name, other in tied.items():
        model.get_submodule(name).register_parameter("weight", model.get_parameter(f"{other}.weight"))


def shard(model: nn.Module, mesh: DeviceMesh, parallelism: Parallelism, policy: Any) -> None:
    """Shard a model's parameters by FSDP2, each layer's and then all others.

    Args:
        model: The model.
        mesh: The mesh of `Parallelism.mesh`.
        parallelism: How many ranks there are.
        policy: The ``MixedPrecisionPolicy``.
    """
    if parallelism.fsdp == 1:
        return
    from torch.distributed.fsdp import fully_shard

    for _, layer in layers_of(model):
        fully_shard(layer, mesh=mesh[FSDP], mp_policy=policy)
    fully_shard(model, mesh=mesh[FSDP], mp_policy=policy)


# The last parts of the names that Llama's modules have in transformers and in torchtitan.
_BY_COLUMNS = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "wq", "wk", "wv", "w1", "w3"}
_BY_ROWS = {"o_proj", "down_proj", "wo", "w2"}


def _plan_by_names(model: nn.Module) -> dict[str, Any]:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    plan: dict[str, Any] = {}
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Linear) and last in _BY_COLUMNS | _BY_ROWS:
            plan[name] = ColwiseParallel() if last in _BY_COLUMNS else RowwiseParallel()
    return plan


def _plan_of_transformers(model: Any) -> dict[str, Any]:
    """Put the plan that a model of transformers has, which names styles, in torch's words."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    # Other names are those of earlier releases. What is replicated stays as it is; that the gradients of such a norm's
    # few parameters are added up over the ranks is left out.
    styles = {
        "colwise": lambda: ColwiseParallel(),
        "rowwise": lambda: RowwiseParallel(),
        "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
        "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
        "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
        "rowwise_rep": lambda: RowwiseParallel(input_layouts=Replicate()),
        "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
        "replicate": lambda: None,
        "replicated_with_grad_allreduce": lambda: None,
    }
    base = getattr(model, "base_model_prefix", "")
    prefix = f"{base}." if base and hasattr(model, base) else ""
    named = {f"{prefix}{name}": style for name, style in (_base_plan(model) or {}).items()}
    if not named:
        return {}
    named |= getattr(type(model), "_tp_plan", None) or {}
    plan: dict[str, Any] = {}
    for name, module in model.named_modules():
        style = named.get(_pattern(name))
        if style is None or not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        if style not in styles:
            raise MemoryCommandError(
                f"--tensor-parallel: transformers' plan for {type(model).__name__} has {name} as {style!r}, "
                "for which torch has no style"
            )
        made = styles[style]()
        if made is not None:
            plan[name] = made
    return plan


def _base_plan(model: Any) -> dict[str, str] | None:
    return getattr(getattr(model, "config", None), "base_model_tp_plan", None)


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _tie_plan(model: nn.Module, plan: dict[str, Any]) -> dict[str, str]:
    """Put embeddings in the plan that share their weight with a module in it; give the names of such pairs."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import RowwiseParallel

    planned = {id(model.get_submodule(name).weight): name for name in plan}
    tied = {
        name: planned[id(module.weight)]
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and planned.get(id(module.weight), name) != name
    }
    # By rows of an embedding is by columns of the product with its weight.
    plan |= {name: RowwiseParallel(input_layouts=Replicate()) for name in tied}
    return tied


def _check_divisible(name: str, module: Any, style: Any, ranks: int) -> None:
    from torch.distributed.tensor.parallel import RowwiseParallel

    split = 1 if isinstance(style, RowwiseParallel) and isinstance(module, nn.Linear) else 0
    size = module.weight.shape[split]
    if size % ranks:
        raise MemoryCommandError(f"--tensor-parallel {ranks}: does not divide the {size} channels of {name}")
