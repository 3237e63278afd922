"""Where a hostile program runs: in a process of its own, on torch's fake tensors or on ours.

Each line's outcome is noted as plain values. Nothing here may depend on the side.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import io
import os
import pickle
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from .interruptions import Interruption, Interruptions
from .tools import Tools

TIME_LIMIT = 60  # seconds
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
# A torch built without CUDA has no guard for its devices, so that its fake tensors on them fail here and there.
CUDA = ("cuda", "cuda:1") if torch.backends.cuda.is_built() else ("cpu", "cpu")
DEVICES = ("cpu", "cpu", "cpu", "meta", *CUDA, "nowhere", "cpu")

_LIBRARY = torch.library.Library("fuzzed", "FRAGMENT")
_LIBRARY.define("scale(Tensor x, Scalar y) -> Tensor")
_LIBRARY.define("broken(Tensor x) -> Tensor")
_LIBRARY.define("reentering(Tensor x) -> Tensor")
_LIBRARY.define("meddling(Tensor x) -> Tensor")
_LIBRARY.define("interrupted(Tensor x) -> Tensor")


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


@torch.library.register_fake("fuzzed::meddling")
def _meddling(x: Tensor) -> Tensor:
    _meddle()
    return x.new_empty(x.shape[:1])


@torch.library.register_fake("fuzzed::interrupted")
def _interrupted(x: Tensor) -> Tensor:
    raise Interruption


def _meddle() -> None:
    """Change under a running call what it may rely on."""
    torch._subclasses.fake_tensor.FakeTensorMode.cache_clear()
    with torch._subclasses.fake_tensor.FakeTensorMode() as mode:
        mode.cache_enabled = False
        torch.empty(2) + 1
    gc.collect()


class Raising(TorchDispatchMode):
    """Raises in each call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # the query that only torch shows to modes
            return func(*args)
        raise BufferError("a mode that raises")


class Passing(TorchDispatchMode):
    """Makes each call, and one of its own."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.prim.device.default:
            torch.empty(2)
        return func(*args, **(kwargs or {}))


class Meddling(TorchDispatchMode):
    """Makes each call, after something that it should not do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.prim.device.default:
            _meddle()
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


class Plain(Tensor):
    """A tensor subclass that changes nothing."""


class Cube(torch.autograd.Function):
    """Has a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute."""
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Differentiate."""
        (x,) = ctx.saved_tensors
        return gradient * x * x * 3


class Failing(Cube):
    """Has a backward pass that raises."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Raise."""
        raise LookupError("a backward pass that raises")


class World:
    """What the lines of a program see, and what is noted of them."""

    def __init__(self, tools: Tools) -> None:
        """Begin with a few tensors, inside of a mode."""
        fakes = torch._subclasses.fake_tensor
        self._tools = tools
        self._contexts: list[Any] = []
        self._tensors: list[Any] = []
        self._suspended: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._calm = threading.Event()
        self._interruptions = Interruptions()
        self._shape_env: ShapeEnv | None = None
        self._noted: list[Any] = []
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
            "in_tasks_that_overlap": self._in_tasks_that_overlap,
            "suspend": self._suspend,
            "resume": self._resume,
            "in_thread": self._in_thread,
            "in_fork": _in_fork,
            "go_on_in_fork": self._go_on_in_fork,
            "disturb": self._disturb,
            "calm": self._calm_down,
            "interrupt_soon": self._interruptions.by_timer,
            "interrupt_at": lambda i, j, k: self._interruptions.at_place((i + 1) * (j + 1) * (k + 1)),
            "interrupt_from_thread": self._interruptions.from_thread,
            "any_operator": self._any_operator,
            "begin_symbolic": self._begin_symbolic,
            "convert": self._convert,
            "dynamic": self._dynamic,
            "note": lambda value: self._noted.append(str(value)),
            "install": tools.install,
            "uninstall": tools.uninstall,
            "uninstalled": self._uninstalled,
            "tools": tools,
            "following_mode": tools.following_mode(),
            "mode": mode,
            "other_mode": other_mode,
            "FakeTensor": fakes.FakeTensor,
            "FakeTensorMode": fakes.FakeTensorMode,
            "Derived": type("Derived", (fakes.FakeTensor,), {}),
            "library": torch.ops.fuzzed,
            "aten": torch.ops.aten,
            "Raising": Raising,
            "Passing": Passing,
            "Meddling": Meddling,
            "FunctionMode": FunctionMode,
            "Wrapper": Wrapper,
            "Plain": Plain,
            "Cube": Cube,
            "Failing": Failing,
            "torch": torch,
            "deep_copied": _deep_copied,
            "describe": describe,
            "make_fx": make_fx,
            "io": io,
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
        self._noted.clear()
        try:
            self._interruptions.run(compile(statement, "<fuzzed>", "exec"), self._names)
        except (Exception, Interruption) as error:
            return [*self._noted, _kind(error)]
        return [*self._noted, *map(describe, self._tensors[before:])]

    def close(self) -> list[str]:
        """Leave all contexts, forget all tensors, and tell which guards the program made."""
        self._interruptions.close()
        self._calm_down()
        while self._suspended:
            with contextlib.suppress(Exception):
                self._suspended.pop().close()
        while self._contexts:
            with contextlib.suppress(Exception):  # one that the program left on its own
                self._leave()
        guards = [str(guard.expr) for guard in self._shape_env.guards] if self._shape_env is not None else []
        self._tensors.clear()
        self._names.clear()
        return guards

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

    def _in_tasks_that_overlap(self, tensor: Tensor) -> Any:
        async def compute(mode: Any) -> Any:
            with mode:
                await asyncio.sleep(0)
                return tensor - 1

        async def compute_all() -> Any:
            return await asyncio.gather(compute(self._mode), compute(Passing()), compute(self._mode))

        return asyncio.run(compute_all())

    def _suspend(self, context: Any) -> None:
        """Enter a context in a generator that is left suspended."""

        def generate() -> Iterator[None]:
            with context:
                yield
                yield

        if len(self._suspended) < 3:
            generator = generate()
            next(generator)
            self._suspended.append(generator)

    def _resume(self) -> None:
        if self._suspended:
            self._suspended.pop(0).close()

    def _uninstalled(self, function: Callable[[], Any]) -> None:
        """Use what outlives fastfake's installation, which installs it again."""
        self._tools.uninstall()
        try:
            function()
        finally:
            self._tools.install()

    def _in_thread(self, function: Callable[[], Any]) -> Any:
        results: list[Any] = []

        def run() -> None:
            with contextlib.suppress(Exception):
                results.append(function())

        thread = threading.Thread(target=run)
        self._interruptions.start(thread)
        thread.join()
        return results

    def _disturb(self, i: int) -> None:
        """Have another thread do something all the time."""
        function = (
            gc.collect,
            torch._subclasses.fake_tensor.FakeTensorMode.cache_clear,
            lambda: self._tools.limit_cache(random.choice((0, 10_000, 2**28))),
            _compute_apart,
            lambda: torch.library.register_fake("fuzzed::scale", _scale, allow_override=True),
        )[i % 5]

        def run() -> None:
            while not self._calm.wait(1e-4):
                with contextlib.suppress(Exception):
                    function()

        if len(self._threads) < 2:
            self._threads.append(threading.Thread(target=run))
            self._interruptions.start(self._threads[-1])

    def _calm_down(self) -> None:
        self._calm.set()
        while self._threads:
            self._threads.pop().join()
        self._calm.clear()

    def _go_on_in_fork(self) -> None:
        """Run the rest of the program in a child, which has one thread."""
        child = os.fork()
        if child == 0:
            self._threads.clear()
            signal.alarm(TIME_LIMIT)  # which is not inherited
            return
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status < 0:
            os.kill(os.getpid(), -status)
        os._exit(status)

    def _begin_symbolic(self) -> None:
        """Begin anew with a mode that has a ShapeEnv, and tensors of symbolic sizes."""
        fakes = torch._subclasses.fake_tensor
        self._contexts.pop().__exit__(None, None, None)
        self._tensors.clear()
        self._shape_env = ShapeEnv()
        self._mode = fakes.FakeTensorMode(shape_env=self._shape_env, allow_non_fake_inputs=True)
        self._names["mode"] = self._mode
        self._enter(self._mode)
        self._keep([self._dynamic(2, 3), self._dynamic(3, 2), torch.empty(4, dtype=torch.int64)])

    def _dynamic(self, *sizes: int) -> Tensor:
        """Convert a tensor; with a ShapeEnv, its sizes become symbols."""
        with torch._subclasses.fake_tensor.unset_fake_temporarily():
            real = torch.ones(*sizes)
        if self._shape_env is None:
            return self._mode.from_tensor(real)
        return self._convert(
            real, symbolic_context=StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(sizes))
        )

    def _convert(self, tensor: Tensor, **how: Any) -> Tensor:
        # Without a source, a symbol's name follows from how many tensors the converter knows.
        return self._mode.from_tensor(tensor, source=ConstantSource(f"given{len(self._tensors)}"), **how)

    def _any_operator(self, *numbers: int) -> None:
        """Call some operator with arguments of about the types that it takes."""
        schemas = _schemas()
        chance = random.Random(str(numbers))
        schema = schemas[(numbers[0] * 24 * 24 + numbers[1] * 24 + numbers[2]) % len(schemas)]
        packet = getattr(torch.ops.aten, schema.name.removeprefix("aten::"))
        self._noted.append(str(schema).partition("(")[0])
        args, kwargs = [], {}
        for argument in schema.arguments:
            if argument.has_default_value() and chance.random() < 0.5:
                if argument.kwarg_only:
                    continue
                break
            value = self._argument(str(argument.type), chance)
            if argument.kwarg_only:
                kwargs[argument.name] = value
            else:
                args.append(value)
        self._keep(getattr(packet, schema.overload_name or "default")(*args, **kwargs))

    def _argument(self, kind: str, chance: random.Random) -> Any:
        if chance.random() < 0.03:
            kind = chance.choice(("Tensor", "int", "str", "List[int]", "float"))
        if kind.startswith("Optional["):
            return None if chance.random() < 0.4 else self._argument(kind[len("Optional[") : -1], chance)
        if kind.startswith("List["):
            return [self._argument(kind[len("List[") : -1], chance) for _ in range(chance.choice((0, 1, 1, 2, 2, 3)))]
        if kind == "Tensor":
            return chance.choice(self._tensors)
        if kind == "number":
            return chance.choice((1, 2, 0.5, True, -1, 2**40, 1j))
        if kind == "bool":
            return chance.random() < 0.5
        if kind == "float":
            return chance.choice((0.5, 1.0, 0.0, -1.0, 1e30))
        if kind == "str":
            return chance.choice(("mean", "sum", "none", "", "ij,jk->ik", "floor"))
        if kind == "Device":
            return torch.device(chance.choice(("cpu", "meta", CUDA[0])))
        if kind == "int":
            sizes = [size for tensor in self._tensors[:3] for size in tensor.shape]
            return chance.choice((0, 1, 2, 3, -1, 1, 2, 0, chance.choice(NUMBERS), *sizes))
        return None


@functools.cache
def _schemas() -> list[Any]:
    """All operators of aten, but those that are about files, processes and Python's own state."""
    schemas = [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("aten::")]
    found = (getattr(torch.ops.aten, schema.name.removeprefix("aten::"), None) for schema in schemas)
    known = [
        schema
        for schema, packet in zip(schemas, found, strict=True)
        if any(str(argument.type) == "Tensor" for argument in schema.arguments)
        and (schema.overload_name or "default") in getattr(packet, "overloads", list)()
    ]
    return sorted(known, key=str)


def _compute_apart() -> None:
    with torch._subclasses.fake_tensor.FakeTensorMode():
        (torch.empty(2, 3, requires_grad=True) * 2).sum().backward()


# What torch says where ours has a result (docs/differences.md). The first two are of its engine for gradients, in a
# build with CUDA: of a device that is not there, and in the child of a process that went backward.
_REFUSALS = (
    "hasPrimaryContext expects a valid device index",
    "Unable to handle autograd's threading in combination with fork-based multiprocessing",
    "NYI: aten._pin_memory.default",
    "Could not run 'aten::record_stream'",
)


def _kind(error: BaseException) -> str:
    return "Refused" if str(error).startswith(_REFUSALS) else type(error).__name__


class ChildEndedBadly(Exception):
    """The child of a fork came to no good end."""


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
        raise ChildEndedBadly


def _deep_copied(tensor: Any) -> Any:
    # Torch gives the copy a mode of its own, and refuses to copy known values.
    return None if getattr(tensor, "constant", None) is not None else describe(copy.deepcopy(tensor))


def describe(tensor: Any) -> Any:
    """Tell all that both sides should agree on of a tensor."""
    told: list[Any] = [type(tensor).__name__]
    for attribute in (
        lambda: [_plain(size) for size in tensor.shape],
        lambda: [_plain(stride) for stride in tensor.stride()],
        lambda: _plain(tensor.storage_offset()),
        lambda: str(tensor.dtype),
        lambda: str(tensor.device),
        lambda: tensor.requires_grad,
        lambda: tensor.is_leaf,
        lambda: tensor._version,
        lambda: _plain(tensor.untyped_storage().nbytes()),
    ):
        try:
            told.append(attribute())
        except Exception as error:
            told.append(type(error).__name__)
    return told


def _plain(number: Any) -> Any:
    return number if isinstance(number, int) else str(number)


def dispatch_state() -> Sequence[Any]:
    """Tell all of this thread's state that a program could leave behind."""
    return [
        len(_get_current_dispatch_mode_stack()),
        str(torch._C._dispatch_tls_local_include_set()),
        str(torch._C._dispatch_tls_local_exclude_set()),
        torch._C._only_lift_cpu_tensors(),
        torch.is_inference_mode_enabled(),
        torch._C._len_torch_function_stack(),
        torch.is_autocast_enabled("cpu"),
    ]
