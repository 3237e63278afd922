"""`torch.jit.trace` of programs on fake tensors writes the graph that it writes for real ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from both_sides import on_torch
from torch import nn

from fastfake import FakeTensorMode


def graph_of(build: Callable[[], nn.Module], size: tuple[int, ...]) -> str:
    graph = torch.jit._get_trace_graph(build().eval(), (torch.randn(size),))[0]
    return re.sub(r" # .*", "", str(torch._C._jit_pass_canonicalize(graph, False)))


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), nn.Flatten())


PROGRAMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU()), (2, 3)),
    "convolutions": (convolutions, (1, 3, 8, 8)),
    "convolution along one dimension": (lambda: nn.Conv1d(3, 4, 3, bias=False, groups=1), (1, 3, 8)),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_graph_is_that_of_real_tensors(program: str) -> None:
    expected = graph_of(*PROGRAMS[program])
    with FakeTensorMode():
        for _ in range(2):  # the second time from the cache
            assert graph_of(*PROGRAMS[program]) == expected
        assert torch._C._get_tracing_state() is None


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torch_does_not_trace_a_convolution() -> None:
    def trace(fakes: Any) -> str:
        with fakes.FakeTensorMode():
            return graph_of(*PROGRAMS["convolutions"])

    failure = on_torch(trace)
    assert failure.kind == "AssertionError"
    assert failure.text.startswith("Expected bool")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_error_while_tracing_leaves_nothing_behind() -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match="channels"):
        graph_of(lambda: nn.Conv2d(3, 4, 3), (1, 5, 8, 8))
    assert torch._C._get_tracing_state() is None
    assert not torch._C._dispatch_tls_is_dispatch_key_excluded("Tracer")
    graph_of(convolutions, (1, 3, 8, 8))
