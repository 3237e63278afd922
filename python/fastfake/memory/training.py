"""A model with its optimizer, ready to be trained for a step, on fake tensors of a device that need not be there."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

import fastfake
from fastfake.demo.errors import one_line
from fastfake.logs import quiet_log

from .checkpointing import Checkpointing, checkpoint_layers
from .errors import MemoryCommandError
from .foreach_propagation import arguments_searched_once
from .optimizers import make_optimizer
from .parallel import Parallelism, parallelize, shard
from .program import Program

__all__ = ["Precision", "Setup", "Training", "prepared"]


class Precision(str, enum.Enum):
    """The element types of a training."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    MIXED = "mixed"
    """Parameters, gradients and the optimizer's state in float32, and computed in bfloat16: with FSDP2 by its
    ``MixedPrecisionPolicy``, which gathers in bfloat16 and reduces in float32, otherwise by autocast."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        dtype: torch.dtype = getattr(torch, "float32" if self is Precision.MIXED else self.value)
        return dtype


@dataclass(frozen=True)
class Setup:
    """How a program is trained.

    Attributes:
        program: The model, its inputs and loss.
        precision: The element types.
        optimizer: As `make_optimizer` takes it.
        checkpointing: What is kept for the backward pass.
        parallelism: How it is spread over ranks.
        device: The type of the device, ``cuda`` or ``cpu``.
        device_memory: Bytes of the device.
    """

    program: Program
    precision: Precision
    optimizer: str
    checkpointing: Checkpointing
    parallelism: Parallelism
    device: str
    device_memory: int


@dataclass
class Training:
    """A model and its optimizer, under the fake mode that `prepared` made.

    Attributes:
        setup: How they were made.
        model: The model, in the shape that parallelism and checkpointing gave it.
        optimizer: The optimizer.
        mesh: The ranks, if there are several.
        mode: The fake mode.
    """

    setup: Setup
    model: nn.Module
    optimizer: torch.optim.Optimizer
    mesh: DeviceMesh | None
    mode: Any

    def inputs(self, batch: int) -> Any:
        """Make inputs of so many samples."""
        with self._defaults():
            return self.setup.program.inputs(batch)

    def forward(self, inputs: Any) -> Tensor:
        """Compute the loss."""
        setup = self.setup
        # FSDP2 does by itself what autocast does.
        uses_autocast = setup.precision is Precision.MIXED and setup.parallelism.fsdp == 1
        with torch.autocast(setup.device, torch.bfloat16, enabled=uses_autocast):
            return setup.program.loss(self.model, inputs)

    def update(self) -> None:
        """Take a step of the optimizer and drop the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batch: int) -> None:
        """Train on so many samples.

        Raises:
            MemoryCommandError: the model raised an error.
        """
        with self.running(batch):
            inputs = self.inputs(batch)
            self.forward(inputs).backward()
            self.update()

    def forget(self) -> None:
        """Drop gradients and what the optimizer keeps, so that the next step is a first one."""
        self.optimizer.zero_grad()
        self.optimizer.state.clear()

    @contextlib.contextmanager
    def running(self, batch: int) -> Iterator[None]:
        """Have what a program may rely on in a step, and turn what it raises into a MemoryCommandError."""
        try:
            with self._defaults() if self.setup.program.relies_on_defaults else contextlib.nullcontext():
                yield
        except MemoryCommandError:
            raise
        except Exception as error:
            raise MemoryCommandError(
                f"{self.setup.program.title}: a step with --batch {batch} failed: {one_line(error)}"
            ) from error

    @contextlib.contextmanager
    def _defaults(self) -> Iterator[None]:
        """Have new tensors on the device, in the type of the parameters."""
        with _default_dtype(self.setup.precision.dtype), torch.device(self.setup.device):
            yield


@contextlib.contextmanager
def prepared(setup: Setup) -> Iterator[Training]:
    """Make a model and its optimizer, on fake tensors; all that is done with them has to be done inside.

    The process claims to have the device, if that is CUDA, and to be the rank that is looked at.

    Raises:
        MemoryCommandError: the model cannot be made, or not be made parallel as asked for.
    """
    setup.parallelism.check()
    with contextlib.ExitStack() as stack:
        if setup.device == "cuda":
            # The device of this rank.
            stack.enter_context(fastfake.pretend(count=1, memory=setup.device_memory))
        stack.enter_context(quiet_log())
        # Programs print their loss, and a mesh reads the numbers of its ranks: small tensors keep their values.
        mode = stack.enter_context(fastfake.FakeTensorMode(known_values=True, unknown_items=0.0))
        mesh = stack.enter_context(setup.parallelism.mesh(setup.device))
        stack.enter_context(arguments_searched_once())
        try:
            with _default_dtype(setup.precision.dtype), torch.device(setup.device):
                model = setup.program.build()
            if mesh is not None:
                parallelize(model, mesh, setup.parallelism)
            checkpoint_layers(model, setup.checkpointing)
            if mesh is not None:
                shard(model, mesh, setup.parallelism, _policy(setup.precision))
            optimizer = make_optimizer(setup.optimizer, model)
        except MemoryCommandError:
            raise
        except Exception as error:
            raise MemoryCommandError(f"{setup.program.title}: cannot be made: {one_line(error)}") from error
        yield Training(setup, model, optimizer, mesh, mode)


def _policy(precision: Precision) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if precision is Precision.MIXED:
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
