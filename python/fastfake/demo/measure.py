"""Runs one side's model: timings, cache counters, dispatched operators and tensor metadata."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastfake.demo.compare import Record, record_parameters, recorded_outputs
from fastfake.demo.side import Side
from fastfake.demo.workload import Workload

if TYPE_CHECKING:
    from fastfake.memory import Usage


@dataclass(frozen=True)
class CacheCounts:
    """How often a mode's dispatch cache was hit, filled and passed by.

    An operator that passes by the cache may run others inside, and those count too.
    """

    hits: int
    misses: int
    bypasses: int

    def since(self, earlier: CacheCounts) -> CacheCounts:
        """Return what was counted after ``earlier``."""
        return CacheCounts(self.hits - earlier.hits, self.misses - earlier.misses, self.bypasses - earlier.bypasses)


@dataclass(frozen=True)
class Timed:
    """One timed piece of work: seconds of wall time and the cache's counts meanwhile."""

    seconds: float
    cache: CacheCounts


@dataclass(frozen=True)
class Inspection:
    """What one untimed forward and backward pass showed.

    Attributes:
        parameters: Number of the model's parameters.
        parameter_bytes: Bytes that they would take if they were real.
        operators: Operators that reached the fake mode in one forward and backward pass.
        record: Metadata of every module's outputs, every parameter, gradient and buffer.
    """

    parameters: int
    parameter_bytes: int
    operators: int
    record: Record


class OperatorCounter(TorchDispatchMode):
    """Counts the operators on their way to the fake mode below."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count ``func`` and pass it on."""
        # Namespace prim holds questions such as "which device?", which are no operators.
        if func.namespace != "prim":
            self.operators += 1
        return func(*args, **(kwargs or {}))


class _Stopwatch:
    """Times a block and reads the side's cache around it, with a freshly collected heap for either side alike."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def __enter__(self) -> _Stopwatch:
        gc.collect()
        self._counts = cache_counts(self._side)
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._start
        self.timed = Timed(seconds, cache_counts(self._side).since(self._counts))


class SideRun:
    """One side's mode, model and inputs, kept over all rounds.

    Args:
        side: The implementation of fake tensors.
        workload: The model and its loss.
    """

    def __init__(self, side: Side, workload: Workload) -> None:
        self._side = side
        self._workload = workload
        with side.active():
            self._mode = side.mode_class()
        self._model: nn.Module = nn.Module()
        self._inputs: Mapping[str, Tensor] = {}

    def cold(self) -> Timed:
        """Empty the cache, build the model and its inputs, and run the first forward and backward pass.

        Returns:
            Time and cache counts of all of that.
        """
        with self._side.active():
            self._side.mode_class.cache_clear()
            with _Stopwatch(self._side) as stopwatch, self._mode:
                self._model = self._workload.build()
                self._inputs = self._workload.inputs()
                self._forward_backward()
            self._model.zero_grad(set_to_none=True)
        return stopwatch.timed

    def warm(self) -> Timed:
        """Run one more forward and backward pass of the model that ``cold`` has built.

        Returns:
            Time and cache counts of that pass.
        """
        with self._side.active():
            with _Stopwatch(self._side) as stopwatch, self._mode:
                self._forward_backward()
            self._model.zero_grad(set_to_none=True)
        return stopwatch.timed

    def inspect(self) -> Inspection:
        """Run a forward and backward pass, untimed, and write down its operators and metadata.

        Returns:
            What the pass showed; ``cold`` comes first.
        """
        counter = OperatorCounter()
        with self._side.active():
            fake_class = self._side.tensor_class
            with self._mode, recorded_outputs(self._model, fake_class) as record:
                with counter:
                    self._forward_backward()
                record |= record_parameters(self._model, fake_class)
                parameters = list(self._model.parameters())
                inspection = Inspection(
                    parameters=sum(parameter.numel() for parameter in parameters),
                    parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
                    operators=counter.operators,
                    record=record,
                )
            self._model.zero_grad(set_to_none=True)
        return inspection

    def peak(self) -> Usage:
        """Run a forward and backward pass that is watched for its memory; the side has to be fastfake's.

        Returns:
            What would be alive when the most is, were the tensors real; ``cold`` comes first.
        """
        from fastfake.memory import track

        with self._side.active():
            with self._mode, track(self._model, *self._inputs.values()) as tracker:
                self._forward_backward()
            self._model.zero_grad(set_to_none=True)
        return tracker.peak()

    def _forward_backward(self) -> None:
        self._workload.loss(self._model, self._inputs).backward()


def cache_counts(side: Side) -> CacheCounts:
    """Read a side's cache counters.

    Args:
        side: The side whose mode class is asked.

    Returns:
        The counts since the cache was last cleared.
    """
    info = side.mode_class.cache_info()
    return CacheCounts(info.hits, info.misses, sum(info.bypasses.values()))
