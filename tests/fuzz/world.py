"""Where a hostile program runs: in a process of its own, on torch's fake tensors or on ours.

Each line's outcome is noted as plain values. Nothing here may depend on the side.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import io
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

SIZES = (2, 3, 0, 1, 4, 6, 5, 8)
NUMBERS = (
    0,
    1,
    2,
    3,
    -1,
    -2,
    4,
    6,
    0,
    1,
    2,
    3,
    -1,
    5,
    1.5,
    True,
    None,
    "2",
    2**31,
    -(2**31),
    2**40,
    2**63 - 1,
    -(2**63),
    12,
)
TYPES = (
    torch.float32,
    torch.float32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.bfloat16,
    torch.uint8,
    torch.float64,
)
DEVICES = ("cpu", "cpu", "cpu", "meta", "cuda", "cuda:1", "nowhere", "cpu")

_LIBRARY = torch.library.Library("fuzzed", "FRAGMENT")
_LIBRARY.define("scale(Tensor x, Scalar y) -> Tensor")
_LIBRARY.define("broken(Tensor x) -> Tensor")
_LIBRARY.define("reentering(Tensor x) -> Tensor")


@torch.library.register_fake("fuzzed::scale")
def _scale(x: Tensor, y: float) -> Tensor:
    return x.new_empty(x.shape[::-1])


@torch.library.register_fake("fuzzed::broken")
def _broken(x: Tensor) -> Tensor:
    raise LookupError("a fake kernel that raises")


@torch.library.register_fake("fuzzed::reentering")
def _reentering(x: Tensor) -> Tensor:
    x.sum()
    torch.empty(3)
    gc.collect()
    return x + x.detach()


class Raising(TorchDispatchMode):
    """Raises in each call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise BufferError("a mode that raises")


class Passing(TorchDispatchMode):
    """Makes each call, and one of its own."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        torch.empty(2)
        return func(*args, **(kwargs or {}))


class FunctionMode(TorchFunctionMode):
    """Makes each call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Wrapper(Tensor):
    """A tensor subclass that has a tensor inside."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        """Look like the tensor inside."""
        self = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call with what is inside."""
        unwrap = lambda value: value.inner if isinstance(value, Wrapper) else value  # noqa: E731
        result = func(*(unwrap(value) for value in args), **{k: unwrap(v) for k, v in (kwargs or {}).items()})
        return Wrapper(result) if isinstance(result, Tensor) else result


class World:
    """What the lines of a program see, and what is noted of them."""

    def __init__(self, install: Callable[[], None], uninstall: Callable[[], None]) -> None:
        """Begin with a few tensors, inside of a mode."""
        fakes = torch._subclasses.fake_tensor
        self._contexts: list[Any] = []
        self._tensors: list[Any] = []
        mode = fakes.FakeTensorMode(allow_non_fake_inputs=True)
        other_mode = fakes.FakeTensorMode()
        self._names: dict[str, Any] = {
            "T": lambda i: self._tensors[i % len(self._tensors)],
            "N": lambda i: NUMBERS[i % len(NUMBERS)],
            "S": lambda i: SIZES[i % len(SIZES)],
            "D": lambda i: TYPES[i % len(TYPES)],
            "V": lambda i: DEVICES[i % len(DEVICES)],
            "keep": self._keep,
            "forget": lambda i: self._tensors.pop(i % len(self._tensors)) if len(self._tensors) > 1 else None,
            "enter": self._enter,
            "leave": self._leave,
            "raising": self._raising,
            "reentering": lambda gradient: (gradient * 2).sum() + gradient,
            "in_generator": self._in_generator,
            "in_task": self._in_task,
            "in_thread": _in_thread,
            "in_fork": _in_fork,
            "interrupt_soon": _interrupt_soon,
            "install": install,
            "uninstall": uninstall,
            "mode": mode,
            "other_mode": other_mode,
            "FakeTensor": fakes.FakeTensor,
            "FakeTensorMode": fakes.FakeTensorMode,
            "Derived": type("Derived", (fakes.FakeTensor,), {}),
            "library": torch.ops.fuzzed,
            "aten": torch.ops.aten,
            "Raising": Raising,
            "Passing": Passing,
            "FunctionMode": FunctionMode,
            "Wrapper": Wrapper,
            "torch": torch,
            "copy": copy,
            "gc": gc,
            "os": os,
            "pickle": pickle,
        }
        self._mode = mode
        self._enter(mode)
        self._keep([torch.empty(2, 3), torch.empty(3, 2, requires_grad=True), torch.empty(4, dtype=torch.int64)])

    def run(self, statement: str) -> Any:
        """Run a line and describe what came of it."""
        before = len(self._tensors)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                exec(compile(statement, "<fuzzed>", "exec"), self._names)
        except (Exception, Interruption) as error:
            return type(error).__name__
        return [describe(tensor) for tensor in self._tensors[before:]]

    def close(self) -> None:
        """Leave all contexts, and forget all tensors."""
        while self._contexts:
            with contextlib.suppress(Exception):  # one that the program left on its own
                self._leave()
        self._tensors.clear()
        self._names.clear()

    def _keep(self, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            self._tensors += [element for element in value[:4] if isinstance(element, Tensor)]
        elif isinstance(value, Tensor):
            self._tensors.append(value)

    def _enter(self, context: Any) -> None:
        if len(self._contexts) < 6:
            context.__enter__()
            self._contexts.append(context)

    def _leave(self) -> None:
        if self._contexts:
            self._contexts.pop().__exit__(None, None, None)

    def _raising(self, gradient: Tensor) -> Tensor:
        raise LookupError("a hook that raises")

    def _in_generator(self, tensor: Tensor) -> Any:
        def generate() -> Iterator[Any]:
            with self._mode:
                yield tensor + 1
                yield tensor * 2

        generator = generate()
        first = next(generator)
        generator.close()
        return first

    def _in_task(self, tensor: Tensor) -> Any:
        async def compute() -> Any:
            with self._mode:
                return tensor - 1

        async def compute_all() -> Any:
            return await asyncio.gather(compute(), compute())

        return asyncio.run(compute_all())


class Interruption(BaseException):
    """What a timer raises, wherever the program is."""


def _interrupt_soon(hundreds: int) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise Interruption

    signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, (hundreds + 1) * 1e-4)


def _in_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []

    def run() -> None:
        with contextlib.suppress(Exception):
            results.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results


def _in_fork(function: Callable[[], Any]) -> None:
    child = os.fork()
    if child == 0:
        try:
            with contextlib.suppress(Exception):
                function()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemError("the child of a fork ended badly")


def describe(tensor: Any) -> Any:
    """Tell all that both sides should agree on of a tensor."""
    told: list[Any] = [type(tensor).__name__]
    for attribute in (
        lambda: tuple(tensor.shape),
        lambda: tensor.stride(),
        lambda: tensor.storage_offset(),
        lambda: str(tensor.dtype),
        lambda: str(tensor.device),
        lambda: tensor.requires_grad,
        lambda: tensor.is_leaf,
        lambda: tensor._version,
        lambda: tensor.untyped_storage().nbytes(),
    ):
        try:
            told.append(attribute())
        except Exception as error:
            told.append(type(error).__name__)
    return told


def dispatch_state() -> Sequence[Any]:
    """Tell all of this thread's state that a program could leave behind."""
    return [
        len(_get_current_dispatch_mode_stack()),
        str(torch._C._dispatch_tls_local_include_set()),
        str(torch._C._dispatch_tls_local_exclude_set()),
        torch._C._only_lift_cpu_tensors(),
        torch.is_inference_mode_enabled(),
    ]
