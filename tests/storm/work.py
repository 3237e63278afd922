"""What the threads of a storm do: pieces of work whose results depend on nothing but a small number.

Each gives plain values, so that those of a thread in the storm can be compared with those of one that was alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from opinfo.record import record_call
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import fastfake
from fastfake import FakeTensorMode

# How many pieces there are of each kind of work.
VARIANTS = 12

# There is one tracker at a time, and one claim of devices.
tracking = threading.Lock()
claiming = threading.Lock()
# Held by who exchanges torch's classes.
exchanging = threading.Lock()
# torch's compiler is for one thread at a time: `torch._dynamo.reset()` in one takes away what another is about to run,
# and the process ends by SIGSEGV or SIGFPE, without fastfake too. Nor may classes and devices change under a compiler.
compiling = (exchanging, claiming)

_REAL = [torch.ones(2, number + 1) for number in range(VARIANTS)]
_VIEWS = [real.t()[number // 2 :] for number, real in enumerate(_REAL)]

_LIBRARY = torch.library.Library("storm", "FRAGMENT")
_LIBRARY.define("turn(Tensor x, int by) -> Tensor")


@torch.library.register_fake("storm::turn")
def _turn(x: Tensor, by: int) -> Tensor:
    return x.new_empty((*x.shape[::-1], by)).sum(-1)


def told(*tensors: Tensor) -> list[object]:
    """What is to be equal: metadata, gradients, aliases and what is known of values."""
    record = record_call(lambda: list(tensors), (), {}, ExitStack())
    assert record.error is None, record.error
    return [record]


def hits_and_views(mode: FakeTensorMode, number: int) -> list[object]:
    with mode:
        x = torch.empty(number + 2, 4)
        y = (x @ torch.empty(4, 3)).relu_().t()
        parts = [*y.split(2), *torch._foreach_add([y, y.sum(0)], 1.5)]
        x.t().mul_(2)
        return told(x, y, *parts, x.to("cuda"), torch.tensor(number) + 1)


def misses(mode: FakeTensorMode, number: int) -> list[object]:
    """Sizes that come once in a while, on a mode that answers nothing from the cache every other time."""
    with mode:
        x = torch.empty(number + 1, 1 + _next() % 1000)
        return told((x + x).sum(1), x.new_zeros(number))


def errors(mode: FakeTensorMode, number: int) -> list[object]:
    with mode:
        found = []
        for call in (
            lambda: torch.empty(2, 3) @ torch.empty(number + 5),
            lambda: torch.empty(number + 2).nonzero(),
            lambda: torch.empty(3).item(),
            lambda: torch.empty(3, device="cuda") + torch.empty(3),
        ):
            try:
                call()
            except Exception as error:
                found.append((type(error).__name__, str(error).partition("\n")[0]))
        assert len(found) == 4
        return [found]


def known_values(mode: FakeTensorMode, number: int) -> list[object]:
    with mode:
        known = torch.tensor(number) * 3
        known.add_(1)
        return [known.item(), (torch.tensor([1.5])).item(), int(torch.tensor(number + 1).pow(2))]


def backward(mode: FakeTensorMode, number: int) -> list[object]:
    with mode:
        model = nn.Sequential(nn.Linear(4, number + 1), nn.GELU(), nn.LayerNorm(number + 1))
        x = torch.empty(3, 4, requires_grad=True)
        (model(x) ** 2).sum().backward()
        assert x.grad is not None
        return told(x, x.grad, *model.parameters())


def backward_on_an_absent_device(mode: FakeTensorMode, number: int) -> list[object]:
    with mode:
        x = torch.empty(number + 1, 4, device="cuda", requires_grad=True)
        weight = torch.empty(4, 4, device="cuda", requires_grad=True)
        (gradient,) = torch.autograd.grad((x @ weight).sin().sum(), x, create_graph=True)
        gradient.sum().backward()
        return told(x, gradient.detach(), weight)


def symbolic(mode: FakeTensorMode, number: int) -> list[object]:
    """In a mode of its own always: a ShapeEnv is for one thread."""
    symbols = FakeTensorMode(shape_env=ShapeEnv())
    x = symbols.from_tensor(torch.ones(number + 4, 3))
    with symbols:
        results = []
        for _ in range(3):  # the first time adds guards
            y = torch.cat([x, x * 2]).view(-1, 3)
            results += [str(y.shape), str((y.t() @ y).shape), str(x[1:].reshape(-1).shape), y.shape[0] > 5]
        guards = sorted(str(guard.expr) for guard in symbols.shape_env.guards)
    return [results, guards]


def conversions(mode: FakeTensorMode, number: int) -> list[object]:
    real, view = _REAL[number], _VIEWS[number]
    fake, fake_view = mode.from_tensor(real), mode.from_tensor(view)
    assert mode.from_tensor(real) is fake and mode.from_tensor(view) is fake_view
    assert fake_view.untyped_storage()._cdata == fake.untyped_storage()._cdata
    return told(fake, fake_view)


def mixed_with_real(mode: FakeTensorMode, number: int) -> list[object]:
    real = torch.ones(number + 1)
    own = FakeTensorMode(allow_non_fake_inputs=True)
    with own:
        return told(torch.empty(2, number + 1) + real, torch.add(real, 1))


def custom_operator(mode: FakeTensorMode, number: int) -> list[object]:
    with mode:
        return told(torch.ops.storm.turn(torch.empty(number + 1, 3), 2))


def tracked(mode: FakeTensorMode, number: int) -> list[object]:
    """One tracker at a time; it follows one mode, whatever the other threads do.

    While any thread compiles, most of torch's optimizers take another way in all threads.
    """
    own = FakeTensorMode()
    with tracking, own:
        model = nn.Sequential(nn.Linear(8, 16 + number), nn.ReLU(), nn.Linear(16 + number, 2))
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, foreach=False)
        with fastfake.memory.track(model, optimizer) as tracker:
            for _ in range(2):
                model(torch.empty(5, 8)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    peak = tracker.peak()
    rows = [(row["bytes"], row["category"], row["phase"], row["module"], row["operator"]) for row in tracker.rows()]
    return [peak.bytes, sorted(peak.by("category").items()), rows]


def pretending(mode: FakeTensorMode, number: int) -> list[object]:
    """One claim at a time, and to the whole process: what others compile meanwhile would ask for a stream later.

    The rest of the work neither asks torch.cuda nor calls what depends on the claim.
    """
    with claiming, fastfake.pretend(count=number + 1), FakeTensorMode():
        torch.cuda.set_device(number)
        x = torch.empty(2, 4, 8, 16, device="cuda", dtype=torch.bfloat16)
        y = nn.functional.scaled_dot_product_attention(x, x, x)
        return [torch.cuda.device_count(), torch.cuda.current_device(), *told(x, y)]


def in_a_generator(mode: FakeTensorMode, number: int) -> list[object]:
    """Enters the mode in one step and leaves it in a later one."""

    def steps() -> Iterator[list[object]]:
        with mode:
            for size in range(number % 3 + 1):
                yield told(torch.empty(size, number))
        yield [type(torch.empty(1)).__name__]

    return list(steps())


def in_tasks(mode: FakeTensorMode, number: int) -> list[object]:
    """Tasks that take turns inside of one mode."""

    async def task(size: int) -> list[object]:
        with mode:
            x = torch.empty(size, number)
            await asyncio.sleep(0)
            return told(x + 1)

    async def all_tasks() -> list[object]:
        return list(await asyncio.gather(*(task(size) for size in range(4))))

    return asyncio.run(all_tasks())


def compiled(mode: FakeTensorMode, number: int) -> list[object]:
    """With dynamic shapes every other time."""

    def function(x: Tensor) -> Tensor:
        return (x.view(-1, 2) * number).sum(0) + x.shape[0]

    with ExitStack() as stack:
        for lock in compiling:
            stack.enter_context(lock)
        graphs: list[str] = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            graphs.append(" ".join(f"{node.op}:{node.target}" for node in graph.graph.nodes))
            return graph.forward

        x = torch.ones(2 * number + 4)
        result = torch.compile(function, backend=backend, dynamic=number % 2 == 0)(x)
        torch._dynamo.reset()
    assert torch.equal(result, function(x))
    return [graphs]


WORK: dict[str, Callable[[FakeTensorMode, int], list[object]]] = {
    work.__name__: work
    for work in (
        hits_and_views,
        misses,
        errors,
        known_values,
        backward,
        backward_on_an_absent_device,
        symbolic,
        conversions,
        mixed_with_real,
        custom_operator,
        tracked,
        pretending,
        in_a_generator,
        in_tasks,
        compiled,
    )
}

# The locks that pieces of work hold.
LOCKS = {"tracked": (tracking,), "pretending": (claiming,), "compiled": compiling}

_numbers = iter(range(2**62))


def _next() -> int:
    return next(_numbers)
