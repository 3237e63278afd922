"""What checkpointing keeps of layers for the backward pass, and what it computes again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastfake.memory.checkpointing import Checkpointing, checkpoint_layers


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.reshape(1, 4, 2, 4).transpose(1, 2)
        x = nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(1, 4, 8)
        for part in self.parts:
            x = part(x).relu()
        return x


class OperatorCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._opname] += 1
        return func(*args, **(kwargs or {}))


def calls_of_a_pass(checkpointing: Checkpointing) -> Counter[str]:
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    assert checkpoint_layers(model, checkpointing) == (0 if checkpointing is Checkpointing.NONE else 2)
    with OperatorCounter() as counter:
        model(torch.ones(1, 4, 8, requires_grad=True)).sum().backward()
    return counter.calls


@pytest.mark.parametrize(
    ("checkpointing", "products", "attentions"),
    [(Checkpointing.NONE, 0, 0), (Checkpointing.FULL, 4, 1), (Checkpointing.SELECTIVE, 2, 0)],
)
def test_layers_compute_again_what_is_not_kept(checkpointing: Checkpointing, products: int, attentions: int) -> None:
    plain, calls = calls_of_a_pass(Checkpointing.NONE), calls_of_a_pass(checkpointing)
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    assert plain["mm"] == 2 * 3 * 4
    assert calls["mm"] - plain["mm"] == 2 * products
    assert calls[attention] - plain[attention] == 2 * attentions


def test_gradients_stay_the_same() -> None:
    gradients = []
    for checkpointing in Checkpointing:
        torch.manual_seed(0)
        model = nn.Sequential(Block(), Block())
        checkpoint_layers(model, checkpointing)
        start = torch.ones(1, 4, 8, requires_grad=True)
        model(start).sum().backward()
        gradients.append(start.grad)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])
