"""What a step computes and sends: its floating point operations and its collectives."""

from __future__ import annotations

from dataclasses import dataclass

from torch.utils.flop_counter import FlopCounterMode

from .collectives import Collective, CollectiveCounter
from .training import Training

__all__ = ["Counts", "count"]


@dataclass(frozen=True)
class Counts:
    """What one rank does in one step.

    Attributes:
        forward_flops: Floating point operations of the forward pass, as torch's FlopCounterMode counts them: of matrix
            products, convolutions and attention. A multiplication and an addition are two.
        backward_flops: Those of the backward pass, recomputation among them.
        collectives: What it sends, most bytes first.
    """

    forward_flops: int
    backward_flops: int
    collectives: tuple[Collective, ...]

    @property
    def flops(self) -> int:
        """Those of the step."""
        return self.forward_flops + self.backward_flops


def count(training: Training, batch: int) -> Counts:
    """Train a step and count what it does.

    Args:
        training: What to train.
        batch: Samples of the step.

    Raises:
        MemoryCommandError: the model raised an error.
    """
    # On top, so that DTensors are taken apart before operations are counted: one rank does its share of them.
    flops, ledger = FlopCounterMode(display=False), CollectiveCounter(_group_names(training))
    with training.running(batch), flops, ledger:
        loss = training.forward(training.inputs(batch))
        forward = flops.get_total_flops()
        loss.backward()
        training.update()
    return Counts(forward, flops.get_total_flops() - forward, tuple(ledger.collectives))


def _group_names(training: Training) -> dict[str, str]:
    mesh = training.mesh
    if mesh is None or mesh.mesh_dim_names is None:
        return {}
    return {mesh.get_group(name).group_name: name for name in mesh.mesh_dim_names}
