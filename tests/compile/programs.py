"""The programs: each returns, as text, all that torch's compilers made of it."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from . import describe

Program = Callable[[], list[str]]

PROGRAMS: dict[str, Program] = {}
# Those that run by default, those that need transformers, and those whose graphs torch's cache changes.
QUICK: list[str] = []
FAMILIES: list[str] = []
CHANGED_BY_CACHE: list[str] = []


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def quick(function: Program) -> Program:
    QUICK.append(function.__name__)
    return program(function)


def changed_by_cache(function: Program) -> Program:
    CHANGED_BY_CACHE.append(function.__name__)
    return program(function)


class Recorder:
    """A backend that notes Dynamo's graphs and AOTAutograd's, with the symbols of each."""

    def __init__(self) -> None:
        self.sections: list[str] = []
        self._aot = aot_autograd(fw_compiler=self._compiler("forward"), bw_compiler=self._compiler("backward"))

    def _compiler(self, kind: str) -> Callable[..., Any]:
        def compile_graph(module: torch.fx.GraphModule, _examples: object) -> Any:
            self.sections += [kind, describe.graph(module)]
            return module.forward

        return compile_graph

    def __call__(self, module: torch.fx.GraphModule, examples: list[Any]) -> Any:
        self.sections += ["dynamo", describe.graph(module), describe.Describer().value(examples)]
        context = torch._guards.TracingContext.get()
        self.sections += ["symbols", describe.symbols(context.fake_mode.shape_env)]
        return self._aot(module, examples)


def compiled(
    function: Any, *argument_lists: tuple[Any, ...], backward: bool = True, dynamic: bool | None = None, **options: Any
) -> list[str]:
    """Compile, run with each list of arguments, differentiate; return all graphs, guards and results."""
    recorder = Recorder()
    run = torch.compile(function, backend=recorder, dynamic=dynamic, **options)
    results = []
    for arguments in argument_lists:
        try:
            result = run(*arguments)
            tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            differentiable = [tensor for tensor in tensors if tensor.requires_grad]
            if backward and differentiable:
                sum(tensor.float().sum() for tensor in differentiable).backward()
            results.append(describe.Describer().value(result))
            results += [f"{tensor.detach().double().sum().item():.6g}" for tensor in tensors]
        except Exception as error:
            results.append(describe.error(error))
    return [*recorder.sections, "guards", describe.guards(function), "results", *results]


def static_and_dynamic(make: Callable[[], tuple[Any, list[tuple[Any, ...]]]]) -> list[str]:
    """Compile with static shapes, with dynamic ones, and as torch decides."""
    sections = []
    for dynamic in (False, True, None):
        torch._dynamo.reset()
        torch.manual_seed(0)
        function, argument_lists = make()
        sections += [f"dynamic={dynamic}", *compiled(function, *argument_lists, dynamic=dynamic)]
    return sections


@contextlib.contextmanager
def dynamo_config(**values: object) -> Iterator[None]:
    with torch._dynamo.config.patch(**values):
        yield


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.first(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.second(x))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).mean((2, 3)))


# torch.compile


@quick
def perceptron() -> list[str]:
    return static_and_dynamic(lambda: (mlp(), [(torch.randn(5, 8),), (torch.randn(7, 8),)]))


@program
def convolutions_and_batch_norm_in_training() -> list[str]:
    return static_and_dynamic(lambda: (Conv().train(), [(torch.randn(2, 3, 8, 8),), (torch.randn(4, 3, 10, 10),)]))


# torch 2.15 no longer works out the sizes of storages while it traces, which is what hits brought in here.
@(program if torch.__version__ >= (2, 15) else changed_by_cache)
def max_pooling_before_average_pooling() -> list[str]:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = F.max_pool2d(self.first(x).relu(), 3, stride=2)
            return F.adaptive_avg_pool2d(self.second(pooled).relu(), 1)

    return compiled(Pooled(), (torch.randn(2, 3, 48, 40),), dynamic=True)


@changed_by_cache
def flattening_before_a_sum() -> list[str]:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.sin().view(-1).cos().sum()

    return compiled(function, (torch.randn(2, 3, 5, requires_grad=True),), dynamic=True)


@program
def transformer_block() -> list[str]:
    return static_and_dynamic(lambda: (Block(), [(torch.randn(2, 6, 16),), (torch.randn(3, 9, 16),)]))


@program
def graph_breaks() -> list[str]:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x.sin() + y
        torch._dynamo.graph_break()
        x = x * 2
        if x.sum() > 0:
            return x.cos()
        return x.exp()

    arguments = [(torch.randn(4, 3, requires_grad=True), torch.ones(3)) for _ in range(2)]
    return static_and_dynamic(lambda: (function, arguments))


@program
def recompilations() -> list[str]:
    def function(x: torch.Tensor, scale: float, count: int) -> torch.Tensor:
        return torch.cat([x * scale] * count).relu()

    arguments = [
        (torch.randn(3, 2, requires_grad=True), 1.5, 2), (torch.randn(5, 2), 2.5, 2), (torch.randn(6, 4).t(), 2.5, 3),
        (torch.ones(3, 2, dtype=torch.float64), 0.5, 3), (torch.ones(1, 2), 0.5, 1), (torch.ones(0, 2), 0.5, 1),
    ]  # fmt: skip
    return static_and_dynamic(lambda: (function, arguments))


@program
def marked_dimensions() -> list[str]:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x[: y.shape[0]] @ y.T).view(-1)

    x, y = torch.randn(8, 6, requires_grad=True), torch.randn(5, 6)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=64)
    torch._dynamo.maybe_mark_dynamic(y, 0)
    sections = compiled(function, (x, y))
    unbacked = torch.randn(8, 6)
    torch._dynamo.decorators.mark_unbacked(unbacked, 0)
    sections += compiled(lambda x: x.sin().sum(0), (unbacked,))
    specialised = torch.randn(4, 4)
    torch._dynamo.mark_dynamic(specialised, 0)
    return sections + compiled(lambda x: x + torch.ones(4, 4), (specialised,))


@quick
def unbacked_sizes() -> list[str]:
    def function(x: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, ...]:
        size = count.item()
        torch._check(size > 1)
        torch._check(size < 100)
        where = (x > 0).nonzero()
        return torch.zeros(size) + 1, where * 2, x[x > 0].sin(), torch.repeat_interleave(x, 2, dim=0)

    sections = []
    with dynamo_config(capture_scalar_outputs=True, capture_dynamic_output_shape_ops=True):
        for dynamic in (False, True):
            torch._dynamo.reset()
            sections += compiled(function, (torch.randn(4, 3), torch.tensor(7)), dynamic=dynamic)
        torch._dynamo.reset()
        sections += compiled(lambda x: torch.split(x, x.long().tolist()), (torch.tensor([1.0, 2.0]),), fullgraph=True)
        sections += compiled(lambda x: x.unique(return_counts=True), (torch.tensor([3, 3, 1]),))
    return sections


@program
def activation_checkpointing() -> list[str]:
    # Nothing random: torch names the symbol of the generator's state after the size of its memo.
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 8))

    def function(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(model, x, use_reentrant=False).sin()

    return static_and_dynamic(lambda: (function, [(torch.randn(2, 8, requires_grad=True),)]))


@program
def autocast() -> list[str]:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))

    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        return F.softmax(y.float(), -1)

    return static_and_dynamic(lambda: (function, [(torch.randn(3, 8),)]))


@program
def transforms_inside_of_compile() -> list[str]:
    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x @ w).tanh().sum()

    def function(w: torch.Tensor, x: torch.Tensor) -> tuple[Any, ...]:
        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, x)
        return (
            per_sample,
            torch.func.jvp(lambda x: x.sin(), (w,), (torch.ones_like(w),)),
            torch.func.hessian(loss)(w, x[0]),
        )

    return static_and_dynamic(lambda: (function, [(torch.randn(3), torch.randn(4, 3))]))


@program
def mutations_and_views() -> list[str]:
    def function(x: torch.Tensor, buffer: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = x.clone()
        x[0].add_(1)
        buffer.copy_(x.sum(0))
        buffer.view(-1)[::2].mul_(2)
        out = torch.empty_like(buffer)
        torch.add(buffer.detach(), 1, out=out)
        return x.t(), buffer.unsqueeze(0), out, x.view(-1)[1:]

    return static_and_dynamic(lambda: (function, [(torch.randn(4, 6, requires_grad=True), torch.zeros(6))]))


@program
def training_step_with_an_optimizer() -> list[str]:
    model = mlp()
    sections = []
    for make in (lambda p: torch.optim.AdamW(p, foreach=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)):
        torch._dynamo.reset()
        optimizer = make(model.parameters())

        def step(x: torch.Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()

        recorder = Recorder()
        run = torch.compile(step, backend=recorder)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(3, 8)).square().mean().backward()
            run(torch.ones(1))
        sections += recorder.sections
        sections += [describe.Describer().value(dict(state)) for state in optimizer.state.values()]
    return sections


@program
def control_flow_operators() -> list[str]:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chosen = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos() * 2, (x,))
        count, last = torch._higher_order_ops.while_loop(
            lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (torch.tensor(0), x.detach().clone())
        )
        return chosen, count, last

    return static_and_dynamic(lambda: (function, [(torch.randn(4, requires_grad=True),)]))


@program
def subclasses_and_jagged_tensors() -> list[str]:
    def function(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        nested = torch.nested.nested_tensor_from_jagged(values, offsets)
        return (nested.sin() * 2).values()

    arguments = (torch.randn(6, 3, requires_grad=True), torch.tensor([0, 2, 6]))
    return static_and_dynamic(lambda: (function, [arguments]))


@program
def custom_operators() -> list[str]:
    with torch.library._scoped_library("fastfake_compile", "FRAGMENT"):

        @torch.library.custom_op("fastfake_compile::twice", mutates_args=())
        def twice(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        twice.register_fake(torch.empty_like)
        twice.register_autograd(lambda context, grad: grad * 2)

        @torch.library.custom_op("fastfake_compile::some", mutates_args=())
        def some(x: torch.Tensor) -> torch.Tensor:
            return x[x > 0].clone()

        @some.register_fake
        def _(x: torch.Tensor) -> torch.Tensor:
            return x.new_empty(torch.library.get_ctx().new_dynamic_size())

        @torch.library.custom_op("fastfake_compile::absent", mutates_args=())
        def absent(x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        sections = static_and_dynamic(lambda: (lambda x: twice(x).sin(), [(torch.randn(3, requires_grad=True),)]))
        with dynamo_config(capture_dynamic_output_shape_ops=True):
            sections += compiled(lambda x: some(x) + 1, (torch.randn(6),))
        sections += compiled(lambda x: absent(x) + 1, (torch.randn(6),), fullgraph=True)
        checked = torch.library.opcheck(twice, (torch.randn(3, requires_grad=True),), raise_exception=False)
        return [*sections, str(checked), str(torch.library.opcheck(absent, (torch.randn(3),), raise_exception=False))]


@program
def autograd_functions() -> list[str]:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
            signs = x.sign()
            context.save_for_backward(x, signs)
            context.mark_non_differentiable(signs)
            context.factor = factor
            return x * factor, signs

        @staticmethod
        def backward(context: Any, grad: torch.Tensor, _signs: torch.Tensor) -> tuple[torch.Tensor, None]:
            x, signs = context.saved_tensors
            return grad * context.factor * signs + x.sum(), None

    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x**3 + y

        @staticmethod
        def setup_context(context: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            context.save_for_backward(inputs[0])

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
            (x,) = context.saved_tensors
            needs_x, needs_y = context.needs_input_grad
            return grad * 3 * x**2 if needs_x else None, grad if needs_y else None

    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scaled, signs = Scaled.apply(x, 2.5)
        return Cubed.apply(scaled, y), signs, Cubed.apply(x.view(-1), x.detach().view(-1))

    arguments = [(torch.randn(n, 3, requires_grad=True), torch.ones(3)) for n in (4, 5)]
    return static_and_dynamic(lambda: (function, arguments))


@program
def compiled_autograd() -> list[str]:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            context.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(context: Any, grad: torch.Tensor) -> torch.Tensor:
            (x,) = context.saved_tensors
            return grad * 2 + x * 0

    def train(model: nn.Module, x: torch.Tensor) -> None:
        hidden = Doubled.apply(model(x))
        hidden.register_hook(lambda grad: grad * 3)
        hidden.square().sum().backward()

    sections = []
    for dynamic in (False, True):
        torch._dynamo.reset()
        recorder = Recorder()

        def compile_backward(graph: torch.fx.GraphModule, recorder: Recorder = recorder) -> Any:
            recorder.sections += ["backward", describe.graph(graph)]
            return torch.compile(graph, backend=recorder, fullgraph=True)

        model = mlp()
        with torch._dynamo.compiled_autograd._enable(compile_backward, dynamic=dynamic):
            for batch in (3, 5):
                train(model, torch.randn(batch, 8))
        sections += [*recorder.sections, *(f"{parameter.grad.sum():.5g}" for parameter in model.parameters())]
    torch._dynamo.reset()
    recorder, model = Recorder(), mlp()
    with dynamo_config(compiled_autograd=True):
        torch.compile(train, backend=recorder)(model, torch.randn(3, 8))
    return [*sections, *recorder.sections, *(f"{parameter.grad.sum():.5g}" for parameter in model.parameters())]


# Errors


def message(call: Callable[[], object]) -> str:
    try:
        return f"no error: {describe.Describer().value(call())}"
    except Exception as error:
        return describe.error(error)


@program
def messages_of_data_dependent_errors() -> list[str]:
    def branch(x: torch.Tensor) -> torch.Tensor:
        return x.sin() if x.item() > 3 else x.cos()

    def size(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(x.item())[: x.item() - 1]

    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return branch(x)

    sections = []
    with dynamo_config(capture_scalar_outputs=True):
        for function in (branch, size):
            torch._dynamo.reset()
            sections.append(
                message(
                    lambda function=function: torch.compile(function, backend="eager", fullgraph=True)(torch.tensor(5))
                )
            )
    torch._dynamo.reset()
    for function in (
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: x @ torch.ones(7, 7),
        lambda x: x.numpy() + 1,
    ):
        sections.append(
            message(
                lambda function=function: torch.compile(function, backend="eager", fullgraph=True)(torch.ones(3, 3))
            )
        )
    for strict in (True, False):
        sections.append(
            message(lambda strict=strict: torch.export.export(Branch(), (torch.tensor(4.0),), strict=strict))
        )
        sections.append(message(lambda strict=strict: torch.export.export(mlp(), (torch.ones(3, 5),), strict=strict)))
    for mode in ("fake", "symbolic"):
        sections.append(message(lambda mode=mode: make_fx(branch, tracing_mode=mode)(torch.tensor(5))))
        sections.append(message(lambda mode=mode: make_fx(lambda x: x.view(7), tracing_mode=mode)(torch.ones(3, 3))))
    return sections


@program
def messages_of_device_and_operator_errors() -> list[str]:
    def absent(x: torch.Tensor) -> torch.Tensor:
        return torch.ops.fastfake_errors.absent(x) + 1

    def shrinks(x: torch.Tensor) -> torch.Tensor:
        return torch.ops.fastfake_errors.shrinks(x)

    def meta_and_cpu(x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(3, device="meta")

    def meta_index(x: torch.Tensor) -> torch.Tensor:
        return x[torch.zeros(2, dtype=torch.long, device="meta")] @ torch.ones(3)

    def without_meta(x: torch.Tensor) -> torch.Tensor:
        return torch.histogramdd(x, [2, 2, 2]).hist

    class Calls(nn.Module):
        def __init__(self, function: Callable[..., torch.Tensor]) -> None:
            super().__init__()
            self.function = function

        def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
            return self.function(*arguments)

    sections = []
    with torch.library._scoped_library("fastfake_errors", "FRAGMENT") as library:
        for name in ("absent", "shrinks"):
            library.define(f"{name}(Tensor x) -> Tensor")
        library.impl("absent", torch.clone, "CPU")
        library.impl("shrinks", lambda x: x[x > 0], "CPU")
        torch.library.register_fake("fastfake_errors::shrinks", lambda x: x[x > 0], lib=library)
        x = torch.ones(4, 3)
        for function in (absent, shrinks, meta_and_cpu, meta_index, without_meta):
            uses: list[Callable[[], object]] = [
                lambda function=function: torch.compile(function, backend="aot_eager", fullgraph=True)(x),
                lambda function=function: str(torch.export.export(Calls(function), (x,), strict=False)),
                lambda function=function: str(torch.export.export(Calls(function), (x,), strict=True)),
                lambda function=function: describe.graph(make_fx(function, tracing_mode="fake")(x)),
                lambda function=function: describe.graph(make_fx(function, tracing_mode="symbolic")(x)),
            ]
            for use in uses:
                torch._dynamo.reset()
                sections += [function.__name__, message(use)]
    with FakeTensorMode():
        arguments = torch.ones(4, 3), torch.ones(4, 3, device="cuda")
        for function in (torch.add, lambda x, y: torch.cat([x, y]), lambda x, y: x.to(y.device) @ y.T + x.sum()):
            sections += [
                message(lambda function=function: torch.compile(function, backend="aot_eager")(*arguments)),
                message(lambda function=function: str(torch.export.export(Calls(function), arguments))),
                message(lambda function=function: describe.graph(make_fx(function)(*arguments))),
            ]
    return sections


# torch.export


def exported_text(exported: torch.export.ExportedProgram) -> list[str]:
    fake_mode = torch._guards.detect_fake_mode([node.meta.get("val") for node in exported.graph.nodes])
    return [
        str(exported), describe.graph(exported.graph_module), str(exported.range_constraints),
        str(exported.graph_signature), describe.symbols(fake_mode and fake_mode.shape_env),
    ]  # fmt: skip


def export(module: nn.Module, arguments: tuple[Any, ...], *, dynamic_shapes: Any = None) -> list[str]:
    sections = []
    for strict in (False, True):
        torch._dynamo.reset()
        try:
            exported = torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes, strict=strict)
        except Exception as error:
            sections.append(describe.error(error))
            continue
        sections += [f"strict={strict}", *exported_text(exported)]
        decomposed = exported.run_decompositions()
        sections += exported_text(decomposed)
        file = io.BytesIO()
        torch.export.save(exported, file)
        file.seek(0)
        loaded = torch.export.load(file)
        sections += exported_text(loaded)
        sections.append(describe.Describer().value(loaded.module()(*arguments)))
    return sections


@quick
def exported_perceptron() -> list[str]:
    batch = torch.export.Dim("batch", min=2, max=128)
    static = export(mlp(), (torch.randn(4, 8),))
    return static + export(mlp(), (torch.randn(4, 8),), dynamic_shapes=({0: batch},))


@program
def exported_blocks() -> list[str]:
    auto = torch.export.Dim.AUTO
    sections = export(Block(), (torch.randn(2, 6, 16),), dynamic_shapes=({0: auto, 1: auto},))
    sections += export(Conv().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    return sections + export(Conv().train(), (torch.randn(2, 3, 8, 8),))


@program
def exported_with_constraints_that_do_not_hold() -> list[str]:
    dim = torch.export.Dim("dim")
    sections = export(nn.Linear(8, 2), (torch.randn(3, 8),), dynamic_shapes=({1: dim},))

    class Even(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.view(-1, 2) + y[: x.shape[0] // 2, None]

    return sections + export(
        Even(), (torch.randn(8), torch.randn(9)), dynamic_shapes=({0: dim}, {0: torch.export.Dim("other")})
    )


@program
def exported_with_unbacked_sizes() -> list[str]:
    class Select(nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, ...]:
            size = n.item()
            torch._check(size >= 2)
            torch._check(size <= x.shape[0])
            return x[:size].sin(), x[x[:, 0] > 0], torch.full((size,), 1.0)

    auto = torch.export.Dim.AUTO
    return export(Select(), (torch.randn(6, 2), torch.tensor(3)), dynamic_shapes=({0: auto}, None))


@program
def exported_for_training() -> list[str]:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).square().mean()

    from torch.export.experimental import _export_forward_backward

    exported = torch.export.export(Loss(), (torch.randn(3, 8),))
    return exported_text(_export_forward_backward(exported))


# make_fx and fx


def two_layers(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    y = torch.where(x > 0, x, torch.zeros_like(x)) @ w
    return F.softmax(y.view(-1, 2), -1).sum(0) + torch.tensor(2.0)


@quick
def traces_by_make_fx() -> list[str]:
    sections = []
    for mode in ("real", "fake", "symbolic"):
        for pre_dispatch in (False, True):
            traced = make_fx(two_layers, tracing_mode=mode, pre_dispatch=pre_dispatch)(
                torch.randn(4, 3), torch.randn(3, 4)
            )
            sections += [
                f"{mode} {pre_dispatch}",
                describe.graph(traced),
                describe.symbols(getattr(traced, "shape_env", None)),
            ]
    functional = make_fx(torch.func.functionalize(two_layers), tracing_mode="symbolic")(
        torch.randn(4, 3), torch.randn(3, 4)
    )
    gradient = make_fx(torch.func.grad(lambda x, w: two_layers(x, w).sum()), tracing_mode="symbolic")
    decomposed = make_fx(
        two_layers, tracing_mode="symbolic", decomposition_table=torch._decomp.core_aten_decompositions()
    )
    sections += [describe.graph(functional), describe.graph(gradient(torch.randn(4, 3), torch.randn(3, 4)))]
    sections += [describe.graph(decomposed(torch.randn(4, 3), torch.randn(3, 4)))]
    return sections


@program
def traces_with_mutation_and_scalars() -> list[str]:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.clone()
        y[1:].add_(torch.arange(y.shape[1]))
        return y, torch.full((x.shape[0],), 3), x.new_zeros(x.shape[1] * 2), torch.tensor([1, 2]) + y.shape[0]

    sections = []
    for mode in ("real", "fake", "symbolic"):
        traced = make_fx(function, tracing_mode=mode)(torch.randn(4, 3))
        functional = make_fx(torch.func.functionalize(function, remove="mutations_and_views"), tracing_mode=mode)
        sections += [describe.graph(traced), describe.graph(functional(torch.randn(4, 3)))]
    return sections


@quick
def fake_tensor_propagation() -> list[str]:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    sections = []
    for shape_env in (None, ShapeEnv()):
        mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
        traced = torch.fx.symbolic_trace(Conv().eval())
        result = FakeTensorProp(traced, mode).propagate(torch.randn(2, 3, 8, 8))
        sections += [describe.graph(traced), describe.Describer().value(result), describe.symbols(shape_env)]
    return sections


@program
def functional_tensors() -> list[str]:
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    with FakeTensorMode() as mode, FunctionalTensorMode():
        x = FunctionalTensor.to_functional(mode.from_tensor(torch.randn(4, 3)))
        y = x.view(-1)
        y[0].add_(1)
        z = (x.t() @ x).add_(2)
        results = [torch._from_functional_tensor(value.elem) for value in (x, y, z)]
    return [describe.Describer().value(results)]


# Modes and tools


@program
def checks_by_modes() -> list[str]:
    from torch._subclasses import CrossRefFakeMode
    from torch._subclasses.schema_check_mode import SchemaCheckMode
    from torch.utils._mode_utils import no_dispatch
    from torch.utils.flop_counter import FlopCounterMode

    sections = []
    with CrossRefFakeMode():
        model, x = Block(), torch.randn(2, 6, 16)
        sections.append(describe.Describer().value(model(x)))
    with SchemaCheckMode() as checked:
        x = torch.randn(3, 3)
        sections.append(describe.Describer().value(x.add_(1) @ x))
        sections.append(str(checked.ops))
    with FakeTensorMode(), FlopCounterMode(display=False, depth=3) as flops:
        Block()(torch.randn(2, 6, 16)).sum().backward()
        Conv()(torch.randn(2, 3, 8, 8)).sum().backward()
    sections.append(str(flops.get_flop_counts()))
    with FakeTensorMode(), no_dispatch():
        sections.append(describe.Describer().value(torch.ones(2)))
    return sections


@contextlib.contextmanager
def fake_process_group(world_size: int) -> Iterator[None]:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def memory_of_two_steps(
    tracker: Any, model: nn.Module, optimizer: torch.optim.Optimizer, next_input: Callable[[], torch.Tensor]
) -> list[str]:
    """What a memory tracker says of each module after each of two training steps, and of the peak in the end."""
    sections = []
    with tracker:
        for _ in range(2):
            tracker.reset_mod_stats()
            model(next_input()).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            for stats in tracker.memory_tracking.values():
                sections.append(f"{stats.mod_fqn} {stats.local_peak} {stats.snapshots}")
    return [*sections, str(tracker.get_tracker_snapshot("peak"))]


@program
def memory_trackers() -> list[str]:
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode():
        model = nn.Sequential(Block(), Block())
        optimizer = torch.optim.Adam(model.parameters())
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        return memory_of_two_steps(tracker, model, optimizer, lambda: torch.randn(2, 6, 16))


@program
def memory_of_fully_sharded_models() -> list[str]:
    import torch.distributed as dist
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed.fsdp import fully_shard

    with fake_process_group(4):
        mesh = dist.init_device_mesh("cpu", (4,))
        with FakeTensorMode():
            model = nn.Sequential(Block(), Block())
            for part in (*model, model):
                fully_shard(part, mesh=mesh)
            optimizer = torch.optim.Adam(model.parameters(), foreach=False)
            tracker = FSDPMemTracker(model, optimizer)
            x = torch.randn(2, 6, 16)
            tracker.track_inputs((x,))
            return memory_of_two_steps(tracker, model, optimizer, lambda: x)


@program
def runtime_and_checkpointing_estimators() -> list[str]:
    from torch.distributed._tools import runtime_estimator
    from torch.distributed._tools.mod_tracker import ModTracker
    from torch.distributed._tools.sac_estimator import SACEstimator

    # The cost model asks for the peaks of a GPU, and takes torch's queries for a tensor's device for reads of it.
    ignored = runtime_estimator._IGNORE_OPS | {torch.ops.prim.device}
    bandwidth = "get_device_dram_gbps" if torch.__version__ >= (2, 15) else "get_gpu_dram_gbps"
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.utils._runtime_estimation.get_device_tflops", return_value=100.0),
        mock.patch(f"torch.utils._runtime_estimation.{bandwidth}", return_value=1000.0),
        mock.patch.object(runtime_estimator, "_IGNORE_OPS", ignored),
        FakeTensorMode(),
    ):
        model = nn.Sequential(Block(), nn.Dropout(0.5), Block())
        x = torch.randn(2, 6, 16)
        estimator, checkpointing, modules = runtime_estimator.RuntimeEstimator(), SACEstimator(), ModTracker()
        with estimator("operator-level-cost-model"):
            model(x).sum().backward()
        with checkpointing("operator-level-cost-model"):
            model(x).sum()
        seen: list[str] = []

        def note(module: nn.Module, *_values: object) -> None:
            seen.append(f"{modules.get_known_fqn(module)} {sorted(modules.parents)} {modules.is_bw}")

        modules.register_user_hooks(note, note, note, note)
        with modules:
            model(x).sum().backward()
    runtimes = {
        name: {part: f"{ns:.6g}" for part, ns in parts.items()} for name, parts in estimator.mod_runtimes.items()
    }
    return [
        f"{estimator.total_runtime:.6g} {runtimes}",
        f"{estimator.mod_fw_pre_order} {estimator.mod_bw_pre_order}",
        # Which results autograd saved is found by the addresses of storages, also of freed ones: a matter of chance.
        *(f"{name} {replace(stats, saved_autograd_ops=[])}" for name, stats in checkpointing.sac_mod_stats.items()),
        *(str(checkpointing.sac_mod_greedy_order_meta[name]) for name in checkpointing.sac_mod_greedy_order_meta),
        *seen,
    ]


@program
def distributed_tensors_of_a_fake_process_group() -> list[str]:
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    with fake_process_group(4):
        mesh = dist.init_device_mesh("cpu", (4,))

        def describe_distributed(x: DTensor) -> str:
            return f"{x._spec} {describe.Describer().value(x.to_local())}"

        sections = []
        with FakeTensorMode():
            x = distribute_tensor(torch.randn(8, 16), mesh, [Shard(0)])
            y = distribute_tensor(torch.randn(16, 12), mesh, [Replicate()])
            for value in (x @ y, (x @ y).sum(0), x.redistribute(mesh, [Replicate()]), x.sin() + 1, x.t()):
                sections.append(describe_distributed(value))
        model = parallelize_module(mlp(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        return sections + compiled(model, (torch.randn(4, 8),))


@program
def inductor() -> list[str]:
    from torch._inductor import config
    from torch._inductor.utils import run_and_get_code

    sections = []
    # Every graph is compiled, but the C++ compiler need not be run again for the same code.
    with config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        for dynamic in (False, True):
            torch._dynamo.reset()
            compiled_model = torch.compile(Block().eval(), dynamic=dynamic)
            with torch.no_grad():
                result, code = run_and_get_code(compiled_model, torch.randn(2, 6, 16))
            sections += [*code, describe.Describer().value(result)]
    return sections


# Model families of transformers, tiny, with random weights.

TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
FAMILY_SIZES: dict[str, dict[str, Any]] = {
    "llama": TINY,
    "mistral": TINY,
    "qwen2": TINY,
    "gemma": {**TINY, "head_dim": 4},
    "mixtral": {**TINY, "num_local_experts": 2, "num_experts_per_tok": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 64},
    "bert": TINY,
    "roberta": TINY,
    "t5": {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 64},
    "vit": {**TINY, "image_size": 16, "patch_size": 8},
}


def family(name: str) -> list[str]:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(name, **FAMILY_SIZES[name])
    model = AutoModel.from_config(config).eval()
    tokens = torch.randint(1, 60, (2, 8))
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)} if name == "vit" else {"input_ids": tokens}
    if name == "t5":
        inputs["decoder_input_ids"] = tokens
    if "use_cache" in config.to_dict():
        inputs["use_cache"] = False

    class FirstOutput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Any) -> torch.Tensor:
            return self.model(**inputs)[0]

    wrapped = FirstOutput()
    recorder = Recorder()
    sections = []
    for dynamic in (False, True):
        torch._dynamo.reset()
        result = torch.compile(wrapped, backend=recorder, dynamic=dynamic)(**inputs)
        result.sum().backward()
        sections += [
            describe.Describer().value(result),
            f"{result.double().sum().item():.5g}",
            describe.guards(wrapped),
        ]
    sections += exported_text(torch.export.export(wrapped, (), inputs, strict=False))
    return recorder.sections + sections


for name in FAMILY_SIZES:
    FAMILIES.append(f"family_{name}")
    PROGRAMS[FAMILIES[-1]] = functools.partial(family, name)
