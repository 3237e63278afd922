"""What was alive when: the allocations of a program in the order in which they were made."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Allocation", "Category", "Phase", "Timeline", "Usage"]


class Phase(str, enum.Enum):
    """What a program was doing when it allocated."""

    FORWARD = "forward"
    """Whatever is none of the others, building the model among it."""
    BACKWARD = "backward"
    """In autograd's engine."""
    RECOMPUTATION = "recomputation"
    """In autograd's engine, in a forward pass that a checkpoint runs again."""
    OPTIMIZER = "optimizer"
    """In the ``step`` of an optimizer."""


class Category(str, enum.Enum):
    """What memory is for. A storage has the category of the last of these that it came to be, from its birth on."""

    PARAMETER = "parameter"
    """Of a module. Under FSDP2, the shard that this rank keeps."""
    GATHERED_PARAMETER = "gathered parameter"
    """Under FSDP2, a whole parameter while it is there."""
    BUFFER = "buffer"
    """Of a module."""
    GRADIENT = "gradient"
    """Of a parameter: in its ``grad``, or on the way to being added to that. Under FSDP2, of the shard."""
    WHOLE_GRADIENT = "whole gradient"
    """Under FSDP2, the gradient of a gathered parameter, before it is reduced and scattered."""
    OPTIMIZER_STATE = "optimizer state"
    """In the ``state`` of an optimizer."""
    INPUT = "input"
    """What a model was called with, where no operator of the same program made it from parameters."""
    ACTIVATION = "activation"
    """Made in a forward pass, or a recomputation, and still alive when the backward pass went on."""
    ALL_GATHER = "all-gather"
    """Under FSDP2, what an all-gather writes to."""
    REDUCE_SCATTER = "reduce-scatter"
    """Under FSDP2, what a reduce-scatter reads from."""
    TEMPORARY = "temporary"
    """Everything else."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Memory that was asked for at one moment and given back at another.

    A storage that is resized to nothing and back, as FSDP2 does with whole parameters, is an allocation each time.

    Attributes:
        number: Place in the timeline, from 0.
        device: Such as ``cuda:0``.
        bytes: What it counts: on CUDA the size rounded up to the 512 bytes that the caching allocator rounds to, as in
            ``torch.cuda.memory_allocated``; elsewhere the size itself.
        size: Bytes of the storage.
        born: The moment from which on it is alive.
        died: The moment from which on it is not, or None if it still is.
        operator: What allocated it, such as ``aten::mm``; empty if that was no operator.
        module: Such as ``model.layers.0.mlp``: whose parameter, buffer, gradient or optimizer state it is; for other
            memory the innermost module that was running, in the backward pass that of which the node was that ran. The
            class of the root stands for the root. Empty outside of modules.
        line: The innermost line of Python outside of torch and fastfake, as ``path/file.py:12 in function``.
        phase: What the program was doing.
        category: What the memory is for.
        step: How many steps optimizers had taken.
        roles: What the memory turned out to be for, and at which moments, as far as it was said; the last one is the
            category.
    """

    number: int
    device: str
    bytes: int
    size: int
    born: int
    died: int | None
    operator: str
    module: str
    line: str
    phase: Phase
    category: Category
    step: int
    roles: tuple[tuple[int, Category], ...] = ()


@dataclass(frozen=True)
class Usage:
    """What is alive on one device at one moment.

    Attributes:
        device: Such as ``cuda:0``.
        moment: The moment, see Timeline.
        allocations: What is alive, in the order of birth.
    """

    device: str
    moment: int
    allocations: tuple[Allocation, ...]

    @property
    def bytes(self) -> int:
        """All that is alive."""
        return sum(allocation.bytes for allocation in self.allocations)

    def by(self, key: str | Callable[[Allocation], str]) -> dict[str, int]:
        """Add up bytes, most first.

        Args:
            key: The name of an attribute of Allocation, such as ``category``, ``module`` or ``operator``, or a function
                of an allocation.
        """
        sums: dict[str, int] = {}
        for allocation in self.allocations:
            value = getattr(allocation, key) if isinstance(key, str) else key(allocation)
            name = value.value if isinstance(value, enum.Enum) else str(value)
            sums[name] = sums.get(name, 0) + allocation.bytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def largest(self) -> list[Allocation]:
        """Give what is alive, largest first."""
        return sorted(self.allocations, key=lambda allocation: -allocation.bytes)


class Timeline:
    """The allocations of a program.

    Moments are numbers from 0: at each, one allocation was made or given back, or something else was noted. What was
    alive before the tracker was on was made at the first moments.
    """

    def __init__(self, allocations: Sequence[Allocation], moments: int) -> None:
        """Take allocations in the order in which they were made, and the number of moments."""
        self.allocations = tuple(allocations)
        self.moments = moments

    def rows(self) -> list[dict[str, Any]]:
        """Give a dictionary of numbers and texts for each allocation, as ``pandas.DataFrame`` takes them."""
        names = [field.name for field in dataclasses.fields(Allocation) if field.name != "roles"]
        return [
            {
                name: value.value if isinstance(value := getattr(allocation, name), enum.Enum) else value
                for name in names
            }
            for allocation in self.allocations
        ]

    @property
    def devices(self) -> list[str]:
        """The devices that there were allocations on, in the order of the first ones."""
        return list(dict.fromkeys(allocation.device for allocation in self.allocations))

    def main_device(self) -> str:
        """Give the device with the highest peak: what is meant where none is named. ``cpu`` if there is none."""
        return max(self.devices, key=lambda device: max(self.curve(device), default=(0, 0))[0], default="cpu")

    def events(self, device: str) -> Iterator[tuple[int, bool, Allocation]]:
        """Give what happens on a device in order: the moment, whether it is a birth, and the allocation."""
        found: list[tuple[int, bool, Allocation]] = []
        for allocation in self.allocations:
            if allocation.device == device:
                found.append((allocation.born, True, allocation))
                if allocation.died is not None:
                    found.append((allocation.died, False, allocation))
        found.sort(key=lambda event: event[0])
        return iter(found)

    def curve(self, device: str) -> list[tuple[int, int]]:
        """Give pairs of the bytes that are alive on a device and the moment from which on."""
        live, curve = 0, []
        for moment, is_birth, allocation in self.events(device):
            live += allocation.bytes if is_birth else -allocation.bytes
            curve.append((live, moment))
        return curve

    def at(self, moment: int, device: str | None = None) -> Usage:
        """Give what is alive on a device after a moment."""
        device = device or self.main_device()
        return Usage(
            device,
            moment,
            tuple(
                allocation
                for allocation in self.allocations
                if allocation.device == device
                and allocation.born <= moment
                and (allocation.died is None or allocation.died > moment)
            ),
        )

    def peak(self, device: str | None = None) -> Usage:
        """Give what is alive on a device at the first moment at which the most is."""
        device = device or self.main_device()
        curve = self.curve(device)
        highest = max((live for live, _ in curve), default=0)
        return self.at(next((moment for live, moment in curve if live == highest), 0), device)
