"""A Llama-style decoder in plain torch modules, by default in the shape of Llama 3 70B."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder; the defaults are those published for Llama 3 70B."""

    layers: int = 80
    hidden: int = 8192
    intermediate: int = 28672
    heads: int = 64
    key_value_heads: int = 8
    vocabulary: int = 128256
    rope_theta: float = 500000.0
    rms_eps: float = 1e-5
    dtype: torch.dtype = torch.bfloat16

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden // self.heads


class RMSNorm(nn.Module):
    """Root mean square normalisation, computed in float32 and scaled per channel."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.eps = config.rms_eps
        self.weight = nn.Parameter(torch.ones(config.hidden, dtype=config.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x`` ``[..., hidden]``; the dtype of ``x`` is kept."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class RotaryEmbedding(nn.Module):
    """The angles that encode a token's position in queries and keys."""

    inverse_frequencies: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.dtype = config.dtype
        exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
        self.register_buffer("inverse_frequencies", config.rope_theta**-exponents, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine, each ``[sequence, head_size]``, for ``positions`` ``[sequence]``."""
        angles = torch.outer(positions.float(), self.inverse_frequencies)
        both_halves = torch.cat((angles, angles), dim=-1)
        return both_halves.cos().to(self.dtype), both_halves.sin().to(self.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn every head's channel pairs by their position's angles.

    Args:
        x: Queries or keys, ``[batch, heads, sequence, head_size]``.
        cosine: ``[sequence, head_size]``, as :class:`RotaryEmbedding` makes it.
        sine: As ``cosine``.

    Returns:
        A tensor shaped like ``x``.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class Attention(nn.Module):
    """Causal self-attention in which several query heads share one key/value head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        key_value_width = config.key_value_heads * config.head_size
        self.query = nn.Linear(config.hidden, config.hidden, bias=False, dtype=config.dtype)
        self.key = nn.Linear(config.hidden, key_value_width, bias=False, dtype=config.dtype)
        self.value = nn.Linear(config.hidden, key_value_width, bias=False, dtype=config.dtype)
        self.output = nn.Linear(config.hidden, config.hidden, bias=False, dtype=config.dtype)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Attend over ``x`` ``[batch, sequence, hidden]``; the result has the same shape."""
        batch, sequence, hidden = x.shape
        query, key, value = (
            projected.view(batch, sequence, -1, self.head_size).transpose(1, 2)
            for projected in (self.query(x), self.key(x), self.value(x))
        )
        mixed = F.scaled_dot_product_attention(
            rotate(query, cosine, sine), rotate(key, cosine, sine), value, is_causal=True, enable_gqa=True
        )
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, sequence, hidden))
        return output


class GatedMLP(nn.Module):
    """The SwiGLU feed-forward block."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden, config.intermediate, bias=False, dtype=config.dtype)
        self.up = nn.Linear(config.hidden, config.intermediate, bias=False, dtype=config.dtype)
        self.down = nn.Linear(config.intermediate, config.hidden, bias=False, dtype=config.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` ``[..., hidden]`` to the same shape."""
        output: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return output


class DecoderLayer(nn.Module):
    """One pre-normalised block: attention, then the feed-forward part, each added to its input."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Map ``x`` ``[batch, sequence, hidden]`` to the same shape."""
        x = x + self.attention(self.attention_norm(x), cosine, sine)
        output: Tensor = x + self.mlp(self.mlp_norm(x))
        return output


class Decoder(nn.Module):
    """Token embedding, decoder layers, a last norm and an untied head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.hidden, dtype=config.dtype)
        self.rotary = RotaryEmbedding(config)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config)
        self.head = nn.Linear(config.hidden, config.vocabulary, bias=False, dtype=config.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[batch, sequence, vocabulary]`` for token ids ``[batch, sequence]``."""
        x = self.embedding(tokens)
        cosine, sine = self.rotary(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x, cosine, sine)
        logits: Tensor = self.head(self.norm(x))
        return logits
