"""Training steps of small transformers models, with all that changes what is alive in them."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
import transformers
from bench.transformers_models import MODELS, Size, uninitialized
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import create_selective_checkpoint_contexts

RANKS = 8
# Sizes that are no multiple of what a CUDA device rounds to, but of the number of heads.
SIZE = Size(layers=2, narrow=True, width=80)
Stage = Callable[[str], None]
"""Is called with the name of what was done."""


@dataclass(frozen=True)
class Case:
    """A program.

    Attributes:
        model: What is trained.
        optimizer: What it is trained with.
        checkpointing: Which results of its layers the backward pass computes again: none, all, or all but products.
        device: The device of everything.
        autocast: Whether the forward pass is under autocast.
        batches: How many times gradients are added up before the optimizer takes a step.
        compiled: Whether the model is compiled, with ``aot_eager``.
        sharded: Whether the model is sharded with FSDP2 over a fake process group.
    """

    model: str
    optimizer: str
    checkpointing: str = "none"
    device: str = "cpu"
    autocast: bool = False
    batches: int = 1
    compiled: bool = False
    sharded: bool = False

    def __str__(self) -> str:
        """Name what is not as it is by default."""
        parts = [self.model, self.optimizer]
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(field.name if value is True else f"{field.name} {value}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Program:
    """A case made ready.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        inputs: What the model is called with.
        step: Takes one step of the optimizer, and tells of each stage that it went through.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: dict[str, torch.Tensor]
    step: Callable[[Stage], None]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": functools.partial(torch.optim.SGD, lr=0.1),
    "SGD with momentum": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "Adam, foreach": functools.partial(torch.optim.Adam, foreach=True),
    "Adam, fused": functools.partial(torch.optim.Adam, fused=True),
    "AdamW": torch.optim.AdamW,
}
FACTORS: dict[str, Sequence[Any]] = {
    "model": ("gpt2", "llama", "bert", "vit", "resnet", "t5", "mixtral"),
    "optimizer": tuple(OPTIMIZERS),
    "checkpointing": ("none", "full", "selective"),
    "device": ("cuda", "cpu"),
    "autocast": (False, True),
    "batches": (1, 2),
    "compiled": (False, True),
    "sharded": (False, True),
}


def prepare(case: Case) -> Program:
    """Make the model, its optimizer and its inputs under the fake mode that is active."""
    with torch.device(case.device), uninitialized():
        model, inputs = _BUILD[case.model]()
    model.train()
    layers = _layers(model)
    if case.checkpointing != "none" or case.compiled:
        # A cache of keys and values would grow once more where a layer is recomputed; and it begins with a tensor that
        # is made of numbers, which for a compiler has to be a real one of the device.
        for part in model.modules():
            if isinstance(part, transformers.PreTrainedModel):
                part.config.use_cache = False
    if case.checkpointing != "none":
        _checkpoint(model, layers, case.checkpointing)
    if case.sharded:
        mesh = _mesh(case.device)
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    if case.compiled:
        model.compile(backend="aot_eager")
    optimizer = OPTIMIZERS[case.optimizer](model.parameters())

    def step(stage: Stage) -> None:
        for _ in range(case.batches):
            with torch.autocast(case.device, torch.bfloat16) if case.autocast else contextlib.nullcontext():
                result = model(**inputs)
                loss = result if isinstance(result, torch.Tensor) else result.loss
                del result
            stage("forward")
            loss.backward()
            del loss
            stage("backward")
        optimizer.step()
        stage("optimizer")
        optimizer.zero_grad()
        stage("zero_grad")

    return Program(model, optimizer, inputs, step)


class Recurrent(nn.Module):
    """Reads a sequence with a GRU, and tells what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.GRU(24, 40, num_layers=2)
        self.head = nn.Linear(40, 24)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """Give the loss."""
        hidden, _ = self.layers(sequence)
        return nn.functional.l1_loss(self.head(hidden[:-1]), sequence[1:])


class Encoder(nn.Module):
    """torch's own transformer, which reads a sequence and classifies it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(40, 4, 80, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(40, 10)

    def forward(self, sequence: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Give the loss."""
        return nn.functional.cross_entropy(self.head(self.layers(sequence).mean(1)), labels)


class Convolutions(nn.Module):
    """Convolutions over an image and its enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 10, 3, stride=2), nn.GroupNorm(2, 10), nn.SiLU(), nn.MaxPool2d(2))
        self.up = nn.Sequential(nn.ConvTranspose2d(10, 6, 2, stride=2), nn.PReLU(), nn.Upsample(size=(20, 20)))
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give the loss."""
        return self.head(self.up(self.down(image))).sigmoid().mean()


PLAIN: dict[str, Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]] = {
    "gru": lambda: (Recurrent(), {"sequence": torch.randn(7, 3, 24)}),
    "encoder": lambda: (Encoder(), {"sequence": torch.randn(3, 9, 40), "labels": torch.randint(0, 10, (3,))}),
    "convolutions": lambda: (Convolutions(), {"image": torch.randn(2, 3, 20, 20)}),
}
"""Models that are not of transformers."""


def _mixtral() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.MixtralConfig(
        num_hidden_layers=SIZE.layers,
        hidden_size=SIZE.width,
        intermediate_size=2 * SIZE.width,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        vocab_size=4 * SIZE.width,
        # The other ways of calling experts ask for values that fake tensors do not have.
        experts_implementation="batched_mm",
    )
    tokens = torch.randint(0, config.vocab_size, (2, SIZE.width // 4))
    return transformers.MixtralForCausalLM(config), {"input_ids": tokens, "labels": tokens}


_BUILD: dict[str, Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]] = {
    **{name: functools.partial(build, SIZE) for name, build in MODELS.items()},
    "mixtral": _mixtral,
    **PLAIN,
}


def _layers(model: nn.Module) -> list[nn.Module]:
    """Find the innermost lists of equal layers."""
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    layers = [layer for part in lists for layer in part]
    outermost = [layer for layer in layers if not any(layer is not other and _holds(other, layer) for other in layers)]
    return outermost


def _holds(outer: nn.Module, inner: nn.Module) -> bool:
    return any(part is inner for part in outer.modules())


def _checkpoint(model: nn.Module, layers: list[nn.Module], which: str) -> None:
    kept = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.convolution.default]
    context = functools.partial(create_selective_checkpoint_contexts, kept)
    settings = {"context_fn": context} if which == "selective" else {}
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=functools.partial(checkpoint_wrapper, **settings),
        check_fn=lambda part: any(part is layer for layer in layers),
    )


def _mesh(device: str) -> Any:
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    # Its ranks are real numbers, which it reads.
    with unset_fake_temporarily():
        return dist.init_device_mesh(device, (RANKS,))


@contextlib.contextmanager
def process_group(case: Case) -> Iterator[None]:
    """Have a fake process group while a sharded program lives."""
    if not case.sharded:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=RANKS)
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_possible(values: Mapping[str, Any]) -> bool:
    """Tell whether a combination of factors, or a part of one, makes a program that torch's trackers can watch."""
    if values.get("compiled"):
        return values.get("checkpointing", "none") == "none" and not values.get("sharded")
    return True


def pairwise() -> list[Case]:
    """Choose few cases in which every two values of two factors come together that can."""
    left = {
        frozenset({(a, x), (b, y)})
        for a, b in itertools.combinations(FACTORS, 2)
        for x, y in itertools.product(FACTORS[a], FACTORS[b])
        if is_possible({a: x, b: y})
    }
    cases = []
    while left:
        chosen: dict[str, Any] = {}
        # Begin with a pair that is left, and give each other factor what covers the most of the rest.
        for name, value in min(left, key=lambda pair: sorted(map(str, pair))):
            chosen[name] = value
        for name in FACTORS:
            if name not in chosen:
                possible = [value for value in FACTORS[name] if is_possible({**chosen, name: value})]
                chosen[name] = max(possible, key=lambda value: len(_pairs({**chosen, name: value}) & left))
        left -= _pairs(chosen)
        cases.append(Case(**chosen))
    return cases


def _pairs(chosen: Mapping[str, Any]) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}
