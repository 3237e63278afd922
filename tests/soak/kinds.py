"""Kinds of calls that a program may make without end.

Each is a generator that prepares what it needs and yields a function that makes one call. It names torch's classes:
while fastfake is installed, they are ours.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import ctypes
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch._subclasses.fake_tensor as fake_tensor
import torch.fx.experimental.proxy_tensor as proxy_tensor
import torch.utils.checkpoint
from torch import nn
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._python_dispatch import TorchDispatchMode

Call = Callable[[int], object]
Make = Callable[[], Iterator[Call]]


@dataclass(frozen=True)
class Kind:
    """A kind of call."""

    make: Make
    calls: int  # as many as the test makes
    ours: bool  # of ours alone, so that torch has no such calls
    leaks: bool  # on purpose
    torchs_bytes: int  # that torch keeps at each call, whether it is on fake tensors or not
    as_torch: bool  # torch keeps objects at each call, on its own fake tensors as much as on ours


KINDS: dict[str, Kind] = {}


def in_a_context_of_its_own(call: Call) -> Call:
    """Make a call where its context variables go with it: each patch of torch's settings makes one, which stays."""
    return lambda number: contextvars.copy_context().run(call, number)


def kind(
    calls: int = 8_000, *, ours: bool = False, leaks: bool = False, torchs_bytes: int = 0, as_torch: bool = False
) -> Callable[[Make], Make]:
    """Register a kind of call."""

    def register(make: Make) -> Make:
        KINDS[make.__name__.replace("_", " ")] = Kind(make, calls, ours, leaks, torchs_bytes, as_torch)
        return make

    return register


# Answers from the cache.


def hit(name: str, prepare: Callable[[], Call]) -> None:
    """Register a kind of call, made under one mode, that the cache answers."""

    def make() -> Iterator[Call]:
        with fake_tensor.FakeTensorMode():
            yield prepare()

    make.__name__ = f"hit: {name}"
    kind(16_000)(make)


def on_matrix(call: Callable[[torch.Tensor], object]) -> Callable[[], Call]:
    """Make a call on a tensor of 3 x 4."""

    def prepare() -> Call:
        x = torch.empty(3, 4)
        return lambda number: call(x)

    return prepare


def on_new(call: Callable[[torch.Tensor], object]) -> Callable[[], Call]:
    """Make a call on a tensor of 3 x 4, another each time."""

    def prepare() -> Call:
        return lambda number: call(torch.empty(3, 4))

    return prepare


aten = torch.ops.aten
hit("pointwise", on_matrix(lambda x: x + x))
hit("number", on_matrix(lambda x: x + 1.5))
hit("view", on_matrix(lambda x: x.view(12)))
hit("in place", on_matrix(lambda x: x.add_(1)))
hit("out", on_matrix(lambda x: torch.add(x, 1, out=torch.empty(3, 4))))
hit("two results", on_matrix(lambda x: x.max(dim=1)))
hit("list", on_matrix(lambda x: x.split(1)))
hit("foreach", on_matrix(lambda x: torch._foreach_add([x, x], 1.0)))
hit("foreach in place", on_matrix(lambda x: torch._foreach_mul_([x, x], 2)))
hit("cat", on_matrix(lambda x: torch.cat([x, x])))
hit("indexing", on_matrix(lambda x: x[:, None, 1:3]))
hit("detach", on_matrix(lambda x: x.detach()))
hit("factory", on_matrix(lambda x: torch.rand(3)))
hit("factory on cuda", on_matrix(lambda x: torch.empty(3, device="cuda:1")))
hit("device", on_matrix(lambda x: x.device))
hit("other device", on_matrix(lambda x: x.to("cuda").to("cpu")))
hit("write to a new tensor", on_new(lambda x: x.zero_()))
hit("set data", on_new(lambda x: setattr(x, "data", x.view(4, 3))))
hit("lift", on_matrix(lambda x: torch.tensor(2.0)))
hit("known item", on_matrix(lambda x: torch.tensor(2.0).item()))
hit("known in place", on_matrix(lambda x: torch.tensor(2.0).add_(1)))
hit("dtype text and list", on_matrix(lambda x: torch.einsum("ij,kj->ik", x, x)))


@kind(2000)
def hit_with_a_real_argument() -> Iterator[Call]:
    real = torch.ones(3, 4)
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(3, 4)
        yield lambda number: x + real


@kind()
def a_call_outside_of_the_mode() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)
    yield lambda number: x + x


@kind(2_000)
def a_call_that_the_mode_declines() -> Iterator[Call]:
    from torch.testing._internal.two_tensor import TwoTensor

    with fake_tensor.FakeTensorMode():
        x = TwoTensor(torch.empty(3, 4), torch.empty(3, 4))
        yield lambda number: x + x


@kind(2_000)
def a_mode_of_the_user_above() -> Iterator[Call]:
    class Forwards(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            with Forwards():
                x + x

        yield call


@kind(2_000)
def a_subclass() -> Iterator[Call]:
    class Derived(fake_tensor.FakeTensor):
        pass

    with fake_tensor.FakeTensorMode() as mode:

        def call(number: int) -> None:
            with fake_tensor.in_kernel_invocation_manager(mode), fake_tensor.unset_fake_temporarily():
                meta = torch.empty(3, device="meta")
            Derived(mode, meta, torch.device("cpu")) + 1

        yield call


# Symbolic shapes.


def symbolic_mode() -> Any:
    return fake_tensor.FakeTensorMode(
        shape_env=ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True, duck_shape=False)
    )


def dynamic(mode: Any, *shape: int, name: str = "x") -> torch.Tensor:
    """Make a fake tensor with symbols as sizes."""
    with fake_tensor.unset_fake_temporarily():
        context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(shape))
        return mode.from_tensor(torch.empty(shape), source=ConstantSource(name), symbolic_context=context)


def symbolic(name: str, call: Callable[[torch.Tensor], object], calls: int = 2_000) -> None:
    """Register a kind of call on a tensor of symbolic sizes, which is the same each time."""

    def make() -> Iterator[Call]:
        with symbolic_mode() as mode:
            x = dynamic(mode, 4, 6)
            yield lambda number: call(x)

    make.__name__ = f"symbolic: {name}"
    kind(calls)(make)


symbolic("hit", lambda x: x + x)
symbolic("view", lambda x: x[1:])
symbolic("list", lambda x: x.unbind(1))
symbolic("cat", lambda x: torch.cat([x.view(-1), x.view(-1)]))
symbolic("shape", lambda x: x.shape)
symbolic("arithmetic", lambda x: x.shape[0] * 2 + x.shape[1])
symbolic("decision", lambda x: x.shape[0] > 3 and x.shape[0] == x.shape[0])
symbolic("number of elements", lambda x: x.view(-1).numel())
symbolic("factory", lambda x: torch.empty(x.shape[0] + 1))
symbolic("float", lambda x: torch.full([2], x.shape[0] / 3))
symbolic("tensor of a size", lambda x: torch.tensor(x.shape[0]), 200)
symbolic("error", lambda x: refused(lambda: x.view(x.shape[0], 7)), 100)


@kind(400)
def shape_envs_made_and_dropped() -> Iterator[Call]:
    def call(number: int) -> None:
        with symbolic_mode() as mode:
            x = dynamic(mode, 4, 6)
            for _ in range(3):
                y = x + 1
                torch.cat([y.view(-1), x.view(-1)]).new_empty(x.shape[0] * 3)
                x[1:].t().sum(0)
                x.max(1)
                torch.full([2], x.shape[0] / 3)
            assert x.shape[0] > 2

    yield call


@kind(48)
def sizes_that_depend_on_data() -> Iterator[Call]:
    def call(number: int) -> None:
        with symbolic_mode():
            x = torch.empty(4, 6)
            x.nonzero().sum(0)
            torch.empty(x.sum().to(torch.int64).item())

    yield call


@kind(96)
def ever_new_expressions() -> Iterator[Call]:
    mode = symbolic_mode()

    def call(number: int) -> None:
        nonlocal mode
        if number % 12 == 0:
            mode = symbolic_mode()
        with mode:
            x = dynamic(mode, 4, 6, name=f"x{number % 12}")
            for size in range(2):
                torch.empty(x.shape[0] + size)

    yield call


# What the cache does not answer.


@contextlib.contextmanager
def cache_limit(limit: int) -> Iterator[None]:
    """Bound the memory of our cache; torch's has no limit, so it is cleared by the calls."""
    if not is_ours():
        yield
        return
    import fastfake

    before = fastfake.cache_limit()
    fastfake.set_cache_limit(limit)
    try:
        yield
    finally:
        fastfake.set_cache_limit(before)


def misses(name: str, call: Callable[[torch.Tensor, int], object], calls: int = 4_000) -> None:
    """Register a kind of call whose key is ever new."""

    def make() -> Iterator[Call]:
        with cache_limit(16 << 10), fake_tensor.FakeTensorMode() as mode:
            x = torch.empty(1 << 40)

            def one(number: int) -> None:
                call(x, number)
                if number % 50 == 0 and not is_ours():
                    mode.cache_clear()

            yield one

    make.__name__ = f"miss: {name}"
    kind(calls)(make)


def is_ours() -> bool:
    """Whether the classes are those of fastfake."""
    return "fastfake" in fake_tensor.FakeTensorMode.__module__


misses("factory", lambda x, n: torch.empty(n))
misses("view", lambda x, n: x[n:])
misses("list", lambda x, n: x.split_with_sizes([n, (1 << 40) - n]))
misses("operator", lambda x, n: x[n:].sin(), 2_000)
misses("out", lambda x, n: torch.add(x[:n], 1, out=torch.empty(n)), 1_000)
misses("decomposition", lambda x, n: nn.functional.softmax(x[:n], 0), 1_000)


@kind(2_000)
def cache_off() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode() as mode:
        mode.cache_enabled = False
        x = torch.empty(3, 4)
        yield lambda number: x + x


@kind(1_000)
def cache_crosschecked() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode() as mode:
        mode.cache_crosscheck_enabled = True
        x = torch.empty(3, 4)
        yield lambda number: x + x


def bypassed(name: str, call: Callable[[torch.Tensor], object], calls: int = 2_000) -> None:
    """Register a kind of call that is computed each time."""

    def make() -> Iterator[Call]:
        with fake_tensor.FakeTensorMode():
            x = torch.empty(3, 4)
            yield lambda number: call(x)

    make.__name__ = f"bypass: {name}"
    kind(calls)(make)


bypassed("inplace view", lambda x: x.t_())
bypassed("resized", lambda x: torch.empty(3).resize_(5))
bypassed("sparse", lambda x: x.to_sparse().to_dense(), 300)
bypassed("fallback kernel", lambda x: torch.linalg.ldl_factor(torch.empty(3, 3)), 1_000)
bypassed("shared storage", lambda x: torch.empty(0).set_(x.untyped_storage()), 1_000)


@contextlib.contextmanager
def custom_operator(fake: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Any]:
    """Define an operator with a fake implementation."""
    with torch.library._scoped_library("fastfake_soak", "FRAGMENT") as library:
        library.define("custom(Tensor x) -> Tensor")
        torch.library.register_fake("fastfake_soak::custom", fake, lib=library)
        yield torch.ops.fastfake_soak.custom.default


@kind(1_000)
def custom_operators() -> Iterator[Call]:
    with custom_operator(torch.empty_like) as operator, fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)
        yield lambda number: operator(x)


@kind(ours=True)
def scopes_of_cached_operators() -> Iterator[Call]:
    import fastfake

    with custom_operator(torch.empty_like) as operator, fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            with fastfake.cache_operators_temporarily(operator):
                operator(x)

        yield call


# Of a library that is gone, torch keeps the schemas: without fake tensors it is as much.
@kind(100, torchs_bytes=2_000)
def registrations() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            with custom_operator(torch.empty_like) as operator:
                operator(x)
            x + x

        yield call


@kind(1_000)
def higher_order_operators() -> Iterator[Call]:
    from torch._higher_order_ops.wrap import wrap

    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)
        yield lambda number: wrap(torch.sin, x)


# Errors.


def refused(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        return
    raise AssertionError("no error was raised")


def error(name: str, call: Callable[[torch.Tensor], object], calls: int = 500) -> None:
    """Register a kind of call that fails."""

    def make() -> Iterator[Call]:
        with fake_tensor.FakeTensorMode():
            x = torch.empty(3, 4)
            yield lambda number: refused(lambda: call(x))

    make.__name__ = f"error: {name}"
    kind(calls)(make)


error("no such view", lambda x: x.view(7))
error("type of an argument", lambda x: aten.add.Tensor(x, "text"))
error("shapes", lambda x: torch.cat([x, torch.empty(2)]))
error("dimension", lambda x: x.transpose(0, 5))
error("index", lambda x: x[5])
error("negative size", lambda x: torch.empty(-1))
error("unknown item", lambda x: x[0, 0].item())
error("unknown size", lambda x: x.nonzero())
error("devices", lambda x: x + torch.empty(3, 4, device="cuda"))
error("real tensor", lambda x: x + real_tensor())
error("foreign mode", lambda x: x + fake_tensor.FakeTensorMode().from_tensor(real_tensor()))


def real_tensor(*shape: int) -> torch.Tensor:
    with fake_tensor.unset_fake_temporarily():
        return torch.ones(shape or (3, 4))


@kind(1_000)
def error_in_a_fake_implementation() -> Iterator[Call]:
    def fails(x: torch.Tensor) -> torch.Tensor:
        x.sin()
        raise ValueError("on purpose")

    with custom_operator(fails) as operator, fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)
        yield lambda number: refused(lambda: operator(x))


# Conversion.


@kind(2_000)
def conversion_of_new_tensors() -> Iterator[Call]:
    mode = fake_tensor.FakeTensorMode()
    yield lambda number: mode.from_tensor(torch.ones(3, 4))


@kind(2_000)
def conversion_of_one_tensor() -> Iterator[Call]:
    mode, real = fake_tensor.FakeTensorMode(), torch.ones(3, 4)
    yield lambda number: mode.from_tensor(real)


@kind(300)
def conversion_of_views_and_parameters() -> Iterator[Call]:
    mode = fake_tensor.FakeTensorMode()

    def call(number: int) -> None:
        parameter = nn.Parameter(torch.ones(3, 4))
        mode.from_tensor(parameter)
        mode.from_tensor(parameter.t()[1:])
        mode.from_tensor(torch.ones(3, 4).t())

    yield call


@kind(1_000)
def conversion_of_arguments() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(3, 4)
        yield lambda number: x + real_tensor()


@kind(200)
def conversion_by_modes_of_their_own() -> Iterator[Call]:
    real = torch.ones(3, 4)
    yield lambda number: fake_tensor.FakeTensorMode().from_tensor(real)


@kind(1_000)
def copies_by_fake_copy_mode() -> Iterator[Call]:
    mode, real = fake_tensor.FakeTensorMode(), torch.ones(3, 4)

    def call(number: int) -> None:
        with fake_tensor.FakeCopyMode(mode):
            copy.deepcopy(real)

    yield call


# Copying and pickling.


@kind(2_000)
def copies_of_tensors() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            copy.copy(x)
            copy.deepcopy(x)

        yield call


@kind(200)
def copies_of_modes_and_modules() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        module = nn.Linear(3, 4)

        def call(number: int) -> None:
            copy.deepcopy(module)(torch.empty(2, 3)).sum().backward()
            copy.copy(module)

        yield call


@kind(1_000)
def pickles() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode() as mode:
        x = torch.empty(3, 4)
        dispatched = fake_tensor.FakeTensorMode.cache_info()
        metadata = fake_tensor.extract_tensor_metadata(x)

        def call(number: int) -> None:
            pickle.loads(pickle.dumps((dispatched, metadata)))
            assert mode is x.fake_mode

        yield call


# Settings.


@kind(1_000)
def settings_changed() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            torch.use_deterministic_algorithms(number % 2 == 0)
            torch.set_default_dtype(torch.float64 if number % 3 else torch.float32)
            with torch.no_grad() if number % 5 else torch.inference_mode():
                torch.rand(3) + 1
            with torch.device("cuda" if number % 2 else "cpu"), torch.autocast("cpu", enabled=number % 4 > 1):
                torch.empty(3, 3)
                x @ x.t()

        yield call


@kind(1_000)
def configurations_patched() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode() as mode:
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            with torch._functorch.config.patch(fake_tensor_allow_meta=bool(number % 2)):
                x + 1
            with mock.patch.object(mode, "allow_meta", bool(number % 2)):
                x + 1
            mode.epoch += 1
            mode.allow_non_fake_inputs = bool(number % 2)

        yield in_a_context_of_its_own(call)


@kind(64, ours=True)
def install_and_uninstall() -> Iterator[Call]:
    import fastfake

    def call(number: int) -> None:
        fastfake.uninstall()
        fastfake.install()
        with fake_tensor.FakeTensorMode():
            torch.empty(3) + 1

    yield call


@kind(48, ours=True)
def installed_temporarily() -> Iterator[Call]:
    import fastfake

    fastfake.uninstall()

    def call(number: int) -> None:
        with fastfake.install_temporarily(), fake_tensor.FakeTensorMode():
            torch.empty(3) + 1

    yield call


@kind(1_000)
def cache_clears() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode() as mode:
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            x + x
            mode.cache_clear()

        yield call


@kind(300, ours=True)
def cache_limits() -> Iterator[Call]:
    import fastfake

    with fake_tensor.FakeTensorMode():
        x = torch.empty(1 << 40)

        def call(number: int) -> None:
            fastfake.set_cache_limit((0, 1 << 20, 1 << 10)[number % 3])
            x[number:] + 1

        yield call


@kind(300)
def what_the_cache_shows() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode() as mode:
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            x + x
            mode.cache_info()
            for key, entry in list(mode.cache.items()):
                assert mode.cache.get(key) is not None and entry is not None

        yield call


# Modes.


@kind(10_000)
def modes_made_and_dropped() -> Iterator[Call]:
    def call(number: int) -> None:
        with fake_tensor.FakeTensorMode() as mode:
            torch.empty(3, 4).sin()
            assert mode.stack

    yield call


@kind()
def modes_entered_and_left() -> Iterator[Call]:
    outer, inner = fake_tensor.FakeTensorMode(), fake_tensor.FakeTensorMode()

    def call(number: int) -> None:
        with outer, inner, outer, fake_tensor.unset_fake_temporarily():
            pass

    yield call


@kind(2_000)
def modes_left_by_an_error() -> Iterator[Call]:
    mode = fake_tensor.FakeTensorMode()

    def leave_by_error() -> None:
        with mode, fake_tensor.in_kernel_invocation_manager(mode):
            raise ValueError

    yield lambda number: refused(leave_by_error)


@kind(2_000)
def modes_of_generators() -> Iterator[Call]:
    mode = fake_tensor.FakeTensorMode()

    def values() -> Iterator[torch.Tensor]:
        with mode:
            yield torch.empty(3)
            yield torch.empty(4)

    def call(number: int) -> None:
        started = values()
        next(started)
        started.close()

    yield call


@kind(200, ours=True)
def known_values() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode(known_values=True, unknown_items=0.0):  # type: ignore[call-arg]

        def call(number: int) -> None:
            x = torch.arange(4)
            x[1:].add_(2)
            assert x.tolist() == [0, 3, 4, 5]
            x.copy_(torch.empty(4))
            x[0].item()

        yield call


@kind(200)
def real_values_propagated() -> Iterator[Call]:
    with torch._functorch.config.patch(fake_tensor_propagate_real_tensors=True):
        mode = fake_tensor.FakeTensorMode()
    real = torch.ones(3, 4)

    def call(number: int) -> None:
        x = mode.from_tensor(real)
        with mode:
            (x + 1).sum()

    yield call


# References.


@kind()
def weak_references() -> Iterator[Call]:
    died: list[int] = []
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            y = x + x
            reference = weakref.ref(y, lambda _: died.append(number))
            y.attribute = y  # a cycle, which the collector finds
            del y
            if number % 1_000 == 0:
                gc.collect()
                assert reference() is None
                died.clear()

        yield call


@kind()
def objects_that_come_and_go() -> Iterator[Call]:
    class Holder:
        pass

    holder = Holder()
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            # The object goes while C++ holds the tensor, and comes back.
            views = x.split(1)
            holder.graph = (views[0].requires_grad_() * 2).grad_fn  # type: ignore[attr-defined]
            holder.again = holder.graph.next_functions[0][0].variable  # type: ignore[attr-defined]

        yield call


@kind(4_000)
def threads() -> Iterator[Call]:
    mode = fake_tensor.FakeTensorMode()

    def work() -> None:
        with mode:
            x = torch.empty(3, 4, requires_grad=True)
            (x * 2).sum().backward()
        with fake_tensor.FakeTensorMode():
            torch.empty(3) + 1

    def call(number: int) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    yield call


# Autograd.


def backward_on(device: str) -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        x = torch.empty(8, 8, requires_grad=True, device=device)

        def call(number: int) -> None:
            (x.view(-1).sin() * 2).sum().backward()
            x.grad = None

        yield call


@kind(2_000)
def backward_passes() -> Iterator[Call]:
    yield from backward_on("cpu")


@kind(1_000, ours=True)
def backward_passes_on_cuda() -> Iterator[Call]:
    yield from backward_on("cuda")


@kind(500)
def gradients_of_gradients_and_hooks() -> Iterator[Call]:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 2 + x.detach()

    with fake_tensor.FakeTensorMode():
        x = torch.empty(8, 8, requires_grad=True)

        def call(number: int) -> None:
            y = Doubled.apply(x).sin()
            y.register_hook(lambda grad: grad * 2)
            (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            torch.autograd.grad(grad.sum(), x)

        yield call


@kind(500)
def checkpoints() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        module = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        x = torch.empty(8, 8, requires_grad=True)

        def call(number: int) -> None:
            torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).sum().backward()
            module.zero_grad()
            x.grad = None

        yield call


@kind(200)
def failing_backward_passes() -> Iterator[Call]:
    def fails(grad: torch.Tensor) -> None:
        raise ValueError("on purpose")

    with fake_tensor.FakeTensorMode():
        x = torch.empty(8, 8, requires_grad=True)

        def call(number: int) -> None:
            y = x * 2
            y.register_hook(fails)
            refused(lambda: y.sum().backward())

        yield call


@kind(200)
def training_steps() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        optimizer = torch.optim.AdamW(module.parameters())

        def call(number: int) -> None:
            module(torch.empty(2, 4, 8)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        yield call


@kind(500)
def functional_transforms() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            torch.func.vmap(torch.sin)(x)
            torch.func.grad(lambda y: y.sin().sum())(x)

        yield call


# Memory and claimed devices.


@kind(100, ours=True)
def trackers_on_and_off() -> Iterator[Call]:
    import fastfake

    with fake_tensor.FakeTensorMode():
        module = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        optimizer = torch.optim.AdamW(module.parameters())

        def call(number: int) -> None:
            with fastfake.memory.track(module, optimizer) as tracker:
                module(torch.empty(4, 8)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            assert tracker.peak().by("category")

        yield call


@kind(1_000, ours=True)
def calls_between_trackers() -> Iterator[Call]:
    import fastfake

    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)

        def call(number: int) -> None:
            with fastfake.memory.track(x):
                kept = x + x
            x + kept  # what the tracker knew dies when it is off

        yield call


@kind(100, ours=True)
def claimed_devices() -> Iterator[Call]:
    import fastfake

    def call(number: int) -> None:
        with fastfake.pretend(count=2, memory="8GB"), fake_tensor.FakeTensorMode():
            assert torch.cuda.is_available()
            with torch.cuda.stream(torch.cuda.Stream(1)), torch.cuda.device(1):
                torch.cuda.Event(enable_timing=True).record()
                x = torch.empty(3, 3, device="cuda", requires_grad=True)
                (x @ x).sum().backward()
            torch.cuda.manual_seed_all(number)

    yield call


# Compilers. torch keeps the ShapeEnv of what is compiled for dynamic shapes, the source of each function that it
# generates, and the types of what torch.jit traces.


def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.sin() * 2, y.cos()[1:]]).sum(0)


@kind(16, as_torch=True)
def compiled_functions_reset() -> Iterator[Call]:
    x, y = torch.ones(3, 4, requires_grad=True), torch.ones(5, 4)

    def call(number: int) -> None:
        torch._dynamo.reset()
        torch.compile(program, backend="aot_eager", dynamic=bool(number % 2))(x, y).sum().backward()

    yield in_a_context_of_its_own(call)


@kind(32, as_torch=True)
def exports() -> Iterator[Call]:
    class Module(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return program(x, y)

    arguments = torch.ones(3, 4), torch.ones(5, 4)
    rows = {0: torch.export.Dim.DYNAMIC}

    def call(number: int) -> None:
        torch._dynamo.reset()
        torch.export.export(Module(), arguments, dynamic_shapes=(rows, rows) if number % 2 else None)

    yield in_a_context_of_its_own(call)


@kind(48, as_torch=True)
def traces() -> Iterator[Call]:
    arguments = torch.ones(3, 4), torch.ones(5, 4)

    def call(number: int) -> None:
        proxy_tensor.make_fx(program, tracing_mode="symbolic" if number % 2 else "fake")(*arguments)

    yield in_a_context_of_its_own(call)


@kind(96, as_torch=True)
def traces_by_jit() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        module, x = nn.Linear(4, 4), torch.empty(3, 4)
        yield lambda number: torch.jit.trace(module, (x,), check_trace=False)


# torch remembers the number of each object that a program waits with.
@kind(200, torchs_bytes=200)
def collectives() -> Iterator[Call]:
    import torch.distributed as dist
    from torch.distributed._functional_collectives import all_reduce
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        mesh = init_device_mesh("cpu", (4,))
        with fake_tensor.FakeTensorMode():
            sharded = distribute_tensor(torch.empty(8, 8), mesh, [Shard(0)])
            x = torch.empty(8)

            def call(number: int) -> None:
                (sharded @ sharded).redistribute(mesh, [Replicate()])
                all_reduce(x, "sum", mesh)
                dist.all_reduce(x, async_op=True).wait()

            yield call
    finally:
        dist.destroy_process_group()


# What leaks on purpose, to see that it is noticed.


@kind(16_000, leaks=True)
def leaks_an_object() -> Iterator[Call]:
    kept: list[object] = []
    yield lambda number: kept.append([])


@kind(16_000, leaks=True)
def leaks_a_tensor() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        x = torch.empty(3, 4)
        kept: list[object] = []
        yield lambda number: kept.append(x + x)


@kind(16_000, leaks=True)
def leaks_a_reference() -> Iterator[Call]:
    # Python 3.12 counts no references to None.
    yield lambda number: ctypes.pythonapi.Py_IncRef(ctypes.py_object(torch.float32))


@kind(16_000, leaks=True)
def leaks_16_bytes() -> Iterator[Call]:
    allocate = ctypes.CDLL(None).malloc
    allocate.restype = ctypes.c_void_p
    yield lambda number: allocate(16)


@kind(16_000, leaks=True)
def leaks_an_entry_of_the_cache() -> Iterator[Call]:
    with fake_tensor.FakeTensorMode():
        yield lambda number: torch.empty(number)
