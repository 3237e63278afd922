"""What is run on both sides: how a model, its inputs and its loss are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastfake.demo.model import Decoder, DecoderConfig


class Workload(Protocol):
    """A model with its inputs and loss, buildable under any fake mode.

    Implementations are picklable, since the memory of each side is measured in a process of its own.
    """

    @property
    def title(self) -> str:
        """The model and the input's sizes, for people to read."""

    def build(self) -> nn.Module:
        """Make the model with fresh parameters under the fake mode that is active."""

    def inputs(self) -> Mapping[str, Tensor]:
        """Make the model's inputs, by name, under the fake mode that is active."""

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model forward and return a scalar to differentiate."""

    def rehearsal(self) -> Workload:
        """Return work of the same kind, if possible smaller, that triggers the same lazy imports."""


@dataclass(frozen=True)
class DecoderWorkload:
    """Next-token training of the plain decoder on one batch of token ids."""

    config: DecoderConfig
    batch: int
    sequence: int

    @property
    def title(self) -> str:
        """The model and the input's sizes, for people to read."""
        layers = "1 layer" if self.config.layers == 1 else f"{self.config.layers} layers"
        dtype = str(self.config.dtype).removeprefix("torch.")
        return (
            f"Llama 3 decoder, {layers} x {self.config.hidden} channels, {dtype}, {self.batch} x {self.sequence} tokens"
        )

    def build(self) -> nn.Module:
        """Make the decoder with fresh parameters under the fake mode that is active."""
        return Decoder(self.config)

    def inputs(self) -> Mapping[str, Tensor]:
        """Make random token ids and targets, each ``[batch, sequence]``, int64."""
        size = (self.batch, self.sequence)
        return {name: torch.randint(self.config.vocabulary, size) for name in ("tokens", "targets")}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of the logits, computed in float32."""
        logits = model(inputs["tokens"])
        return F.cross_entropy(logits.flatten(0, 1).float(), inputs["targets"].flatten())

    def rehearsal(self) -> DecoderWorkload:
        """Return the same decoder with a single layer."""
        return replace(self, config=replace(self.config, layers=1))
