"""What the compile suite asks of torch's compilers, and how many graph nodes came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule


@dataclass(frozen=True)
class Job:
    """One compilation.

    Attributes:
        compile: Does it, when called the first time.
        runs: Whether `compile` runs the program too; a further call then does nothing but run it.
        nodes: The number of nodes of every graph that was made, filled by `compile`.
    """

    compile: Callable[[], object]
    runs: bool
    nodes: list[int] = field(default_factory=list)


Target = Callable[[nn.Module, tuple[Tensor, ...]], Job]
CountingBackend = Callable[[list[int]], Callable[[GraphModule, list[Tensor]], Any]]


def _aot_eager(nodes: list[int]) -> Callable[[GraphModule, list[Tensor]], Any]:
    from torch._dynamo.backends.debugging import aot_eager, boxed_nop

    def counted(graph: GraphModule, inputs: list[Tensor]) -> Any:
        nodes.append(len(graph.graph.nodes))
        return boxed_nop(graph, inputs)

    return partial(aot_eager, fw_compiler=counted, bw_compiler=counted)


def _inductor(nodes: list[int]) -> Callable[[GraphModule, list[Tensor]], Any]:
    from torch._inductor import async_compile, config
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    config.force_disable_caches = True
    # Or else Inductor starts processes that would go on to import torch while the compilation is measured.
    config.compile_threads = 1
    # The C++ compiler is no part of torch, and its time is the same on both sides. What the kernels would compute is
    # of no interest, and neither is whether the compiler knows the machine's vector instructions.
    config.cpp.vec_isa_ok = True
    async_compile.AsyncCompile.cpp_pybinding = lambda *_: _compute_nothing  # type: ignore[method-assign]

    def counted(graph: GraphModule, *arguments: Any, **options: Any) -> Any:
        nodes.append(len(graph.graph.nodes))
        return compile_fx_inner(graph, *arguments, **options)

    return partial(compile_fx, inner_compile=counted)


def _compute_nothing(*_: object) -> None:
    pass


def _compiled(module: nn.Module, inputs: tuple[Tensor, ...], backend: CountingBackend, dynamic: bool) -> Job:
    nodes: list[int] = []
    compiled = torch.compile(module, backend=backend(nodes), dynamic=dynamic, fullgraph=True)

    def step() -> None:
        module.zero_grad(set_to_none=True)
        compiled(*inputs).backward()

    return Job(step, runs=True, nodes=nodes)


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], dynamic: bool) -> Job:
    nodes: list[int] = []
    # Each size is a symbol unless the program needs a number there.
    sizes = tuple({dim: torch.export.Dim.AUTO for dim in range(tensor.dim())} for tensor in inputs)

    def export() -> None:
        program = torch.export.export(module, inputs, dynamic_shapes=sizes if dynamic else None, strict=False)
        nodes.append(len(program.graph.nodes))

    return Job(export, runs=False, nodes=nodes)


def _traced(module: nn.Module, inputs: tuple[Tensor, ...], tracing_mode: Literal["fake", "symbolic"]) -> Job:
    from torch.fx.experimental.proxy_tensor import make_fx

    nodes: list[int] = []
    weights = dict(module.named_parameters())

    def forward_and_backward(
        weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        loss = torch.func.functional_call(module, (weights, buffers), inputs)
        # Some models have weights that this loss has no use for.
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return (loss, *(gradient for gradient in gradients if gradient is not None))

    def trace() -> None:
        graph = make_fx(forward_and_backward, tracing_mode=tracing_mode)(weights, dict(module.named_buffers()), inputs)
        nodes.append(len(graph.graph.nodes))

    return Job(trace, runs=False, nodes=nodes)


TARGETS: dict[str, Target] = {
    "aot_eager static": partial(_compiled, backend=_aot_eager, dynamic=False),
    "aot_eager dynamic": partial(_compiled, backend=_aot_eager, dynamic=True),
    "inductor": partial(_compiled, backend=_inductor, dynamic=False),
    "inductor dynamic": partial(_compiled, backend=_inductor, dynamic=True),
    "export": partial(_exported, dynamic=False),
    "export dynamic": partial(_exported, dynamic=True),
    "make_fx fake": partial(_traced, tracing_mode="fake"),
    "make_fx symbolic": partial(_traced, tracing_mode="symbolic"),
}

# The others take as long again together.
DEFAULT_TARGETS = ("aot_eager static", "aot_eager dynamic", "inductor", "export", "make_fx fake", "make_fx symbolic")
