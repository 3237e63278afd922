"""A Llama in plain torch, with small widths and random weights, for the compilers to work on.

Compilers take as long for small tensors as for large ones, and running the program takes next to nothing. It is written
here, rather than taken from transformers, so that the suite runs without and measures the same program everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The sizes of a model and of its tokens.

    Attributes:
        layers: The decoder layers.
        heads: The query heads; a pair of them shares a key and a value.
        head_width: The width of a head.
        vocabulary: The number of different tokens.
        batch: The number of sequences.
        length: The tokens of a sequence.
    """

    layers: int
    heads: int = 4
    head_width: int = 16
    vocabulary: int = 256
    batch: int = 2
    length: int = 24

    @property
    def width(self) -> int:
        """The width of what the layers hand on."""
        return self.heads * self.head_width


SMALL = Shape(layers=1, heads=2, head_width=12, vocabulary=40, batch=3, length=10)
"""Differs from other models in every size."""


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        values = hidden.float()
        scale = torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (values * scale).to(hidden.dtype)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.head_width = shape.heads, shape.head_width
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, shape.width // 2, bias=False)
        self.value = nn.Linear(shape.width, shape.width // 2, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        query = _rotate(self._split(self.query(hidden)), cosine, sine)
        key = _rotate(self._split(self.key(hidden)), cosine, sine)
        attended = F.scaled_dot_product_attention(
            query, _for_pairs(key), _for_pairs(self._split(self.value(hidden))), is_causal=True
        )
        return self.output(attended.transpose(1, 2).reshape(batch, length, width))

    def _split(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], -1, self.head_width).transpose(1, 2)


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine


def _for_pairs(heads: Tensor) -> Tensor:
    batch, count, length, width = heads.shape
    return heads[:, :, None].expand(batch, count, 2, length, width).reshape(batch, count * 2, length, width)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width)
        self.attention = Attention(shape)
        self.feed_forward_norm = RMSNorm(shape.width)
        self.feed_forward = FeedForward(shape.width)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), cosine, sine)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))


class Llama(nn.Module):
    """The model; a call returns the loss of predicting each token from those before it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float)
        exponents = torch.arange(0, self.head_width, 2, device=tokens.device, dtype=torch.float) / self.head_width
        angles = torch.outer(positions, 10000.0**-exponents)
        angles = torch.cat((angles, angles), dim=-1)
        cosine, sine = angles.cos(), angles.sin()
        for layer in self.layers:
            hidden = layer(hidden, cosine, sine)
        logits = self.head(self.norm(hidden))[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def model(shape: Shape) -> tuple[Llama, Tensor]:
    """Makes a model and tokens for it, from the same seed at every call."""
    torch.manual_seed(0)
    return Llama(shape), torch.randint(0, shape.vocabulary, (shape.batch, shape.length))
