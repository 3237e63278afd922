"""The operator calls that the dispatch and allocations suites run: on sizes that are numbers, and on symbolic ones."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """One operator call on small tensors.

    Attributes:
        name: What `--case` selects.
        kind: The group of operators that the report sums the case up with.
        inputs: Statements that make the operands; they run once on every side.
        call: The expression that is measured. It is source rather than a function, because a function would add the
            cost of entering it to calls that take about as long as that.
    """

    name: str
    kind: str
    inputs: str
    call: str

    def namespace(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the operands on the side that is entered, from the same seed on every side.

        Args:
            sizes: The symbolic sizes that the statements may name; none on a side without symbols.
        """
        torch.manual_seed(0)
        names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, **sizes}
        exec(self.inputs, names)
        return names


def select(patterns: Sequence[str], halves: Sequence[str] = ("static",)) -> dict[str, list[Case]]:
    """Returns the cases whose name or kind matches one of the shell patterns, all of them without any pattern.

    Args:
        patterns: The shell patterns.
        halves: The names in HALVES of what to select from.

    Returns:
        The cases of every half; none of a half in which nothing matches.

    Raises:
        LookupError: If a pattern matches nothing in any half.
    """
    for pattern in patterns:
        if not any(_matches(case, pattern) for half in halves for case in HALVES[half]):
            raise LookupError(f"no case and no kind matches {pattern!r}")
    return {
        half: [case for case in HALVES[half] if not patterns or any(_matches(case, pattern) for pattern in patterns)]
        for half in halves
    }


def _matches(case: Case, pattern: str) -> bool:
    return fnmatch.fnmatchcase(case.name, pattern) or fnmatch.fnmatchcase(case.kind, pattern)


_ONE = "x = torch.randn(4, 4)"
_TWO = "x, y = torch.randn(4, 4), torch.randn(4, 4)"
_BATCH = "x, y = torch.randn(2, 4, 4), torch.randn(2, 4, 4)"
_IMAGE = "x = torch.randn(1, 4, 8, 8)"
# Drawn at random because torch keeps the values of torch.tensor([...]) with a fake tensor and then bypasses its cache.
_INDEX = "i = torch.randint(0, 4, (4,))"
_LINEAR = "x, w, b = torch.randn(4, 4), torch.randn(4, 4), torch.randn(4)"
_NORM = "x, w, b = torch.randn(2, 4, 4), torch.randn(4), torch.randn(4)"
_RUNNING = "mean, var = torch.zeros(4), torch.ones(4)"

CASES: tuple[Case, ...] = (
    Case("add", "pointwise", _TWO, "torch.add(x, y)"),
    Case("operator +", "pointwise", _TWO, "x + y"),
    Case("add, broadcast", "pointwise", "x, y = torch.randn(4, 4), torch.randn(4)", "torch.add(x, y)"),
    Case("mul, scalar", "pointwise", _ONE, "torch.mul(x, 2.0)"),
    Case("relu", "pointwise", _ONE, "torch.relu(x)"),
    Case("gelu", "pointwise", _ONE, "F.gelu(x)"),
    Case("where", "pointwise", f"{_TWO}; c = torch.gt(x, y)", "torch.where(c, x, y)"),
    Case("gt", "comparison", _TWO, "torch.gt(x, y)"),
    Case("eq, scalar", "comparison", _ONE, "torch.eq(x, 0)"),
    Case("sum", "reduction", _ONE, "torch.sum(x)"),
    Case("mean, dim", "reduction", _ONE, "torch.mean(x, 1)"),
    Case("softmax", "reduction", _ONE, "torch.softmax(x, -1)"),
    Case("max, dim", "reduction", _ONE, "torch.max(x, 1)"),
    Case("mm", "matrix", _TWO, "torch.mm(x, y)"),
    Case("bmm", "matrix", _BATCH, "torch.bmm(x, y)"),
    Case("addmm", "matrix", _LINEAR, "torch.addmm(b, x, w)"),
    Case("linear", "matrix", _LINEAR, "F.linear(x, w, b)"),
    Case("matmul", "matrix", "x, y = torch.randn(2, 4, 4), torch.randn(4, 4)", "torch.matmul(x, y)"),
    Case(
        "conv2d", "layer", f"{_IMAGE}; w, b = torch.randn(4, 4, 3, 3), torch.randn(4)", "F.conv2d(x, w, b, padding=1)"
    ),
    Case("max_pool2d", "layer", _IMAGE, "F.max_pool2d(x, 2)"),
    Case("layer_norm", "layer", _NORM, "F.layer_norm(x, (4,), w, b)"),
    Case("batch_norm, eval", "layer", f"{_NORM}; {_RUNNING}", "F.batch_norm(x, mean, var, w, b)"),
    Case("batch_norm, training", "layer", f"{_NORM}; {_RUNNING}", "F.batch_norm(x, mean, var, w, b, training=True)"),
    Case(
        "scaled_dot_product_attention",
        "layer",
        "q, k, v = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8)",
        "F.scaled_dot_product_attention(q, k, v)",
    ),
    Case("cross_entropy", "layer", f"{_ONE}; {_INDEX}", "F.cross_entropy(x, i)"),
    Case("embedding", "indexing", f"{_ONE}; {_INDEX}", "F.embedding(i, x)"),
    Case("index_select", "indexing", f"{_ONE}; {_INDEX}", "torch.index_select(x, 0, i)"),
    Case("gather", "indexing", f"{_ONE}; i = torch.randint(0, 4, (4, 4))", "torch.gather(x, 1, i)"),
    Case("index, tensor", "indexing", f"{_ONE}; {_INDEX}", "x[i]"),
    Case("topk", "indexing", _ONE, "torch.topk(x, 2)"),
    Case("sort", "indexing", _ONE, "torch.sort(x)"),
    Case("cat", "joining", f"{_TWO}; xs = [x, y]", "torch.cat(xs)"),
    Case("stack", "joining", f"{_TWO}; xs = [x, y]", "torch.stack(xs)"),
    Case("split", "joining", _ONE, "torch.split(x, 2)"),
    Case("view", "view", _ONE, "x.view(2, 8)"),
    Case("reshape", "view", _ONE, "x.reshape(16)"),
    Case("transpose", "view", _ONE, "x.transpose(0, 1)"),
    Case("permute", "view", "x = torch.randn(2, 4, 4)", "x.permute(2, 0, 1)"),
    Case("slice", "view", _ONE, "x[1:3]"),
    Case("expand", "view", "x = torch.randn(4, 1)", "x.expand(4, 4)"),
    Case("unsqueeze", "view", _ONE, "x.unsqueeze(0)"),
    Case("detach", "view", _ONE, "x.detach()"),
    # The operands of mutating calls leave the values as they are: a value that grows or shrinks call by call ends at
    # infinity or among the denormal numbers, and eager torch is slower there.
    Case("add_", "mutation", _ONE, "x.add_(0)"),
    Case("mul_", "mutation", f"{_ONE}; y = torch.ones(4, 4)", "x.mul_(y)"),
    Case("copy_", "mutation", _TWO, "x.copy_(y)"),
    Case("add, out", "mutation", f"{_TWO}; z = torch.empty(4, 4)", "torch.add(x, y, out=z)"),
    Case("empty", "factory", "", "torch.empty(4, 4)"),
    Case("zeros", "factory", "", "torch.zeros(4, 4)"),
    Case("full", "factory", "", "torch.full((4, 4), 1.0)"),
    Case("arange", "factory", "", "torch.arange(8)"),
    Case("zeros_like", "factory", _ONE, "torch.zeros_like(x)"),
    Case("dropout", "random", _ONE, "F.dropout(x, 0.5)"),
    Case("rand_like", "random", _ONE, "torch.rand_like(x)"),
    Case("to, dtype", "copy", _ONE, "x.to(torch.float64)"),
    Case("clone", "copy", _ONE, "x.clone()"),
    Case("contiguous, transposed", "copy", "x = torch.randn(4, 8).t()", "x.contiguous()"),
    Case("foreach_add", "foreach", f"{_TWO}; xs, ys = [x, y], [y, x]", "torch._foreach_add(xs, ys)"),
    Case("mul, with grad", "autograd", f"{_TWO}; x.requires_grad_()", "torch.mul(x, y)"),
    Case("linear, with grad", "autograd", f"{_LINEAR}; w.requires_grad_(); b.requires_grad_()", "F.linear(x, w, b)"),
)

# The calls that programs consist of, whose figures are summed up by themselves, and further ones.
_COMMON, _FURTHER = "common", "further"
_TWO_SYMBOLIC = "x, y = torch.randn(a, b), torch.randn(a, b)"
_ONE_SYMBOLIC = "x = torch.randn(a, b)"

# Symbolic sizes among the arguments are computed once, with the operands: a program does arithmetic on sizes also where
# it calls no operator.
SYMBOLIC_CASES: tuple[Case, ...] = (
    Case("add", _COMMON, _TWO_SYMBOLIC, "torch.add(x, y)"),
    Case("mm", _COMMON, "x, y = torch.randn(a, b), torch.randn(b, c)", "torch.mm(x, y)"),
    Case("transpose", _COMMON, _ONE_SYMBOLIC, "x.transpose(0, 1)"),
    Case("view", _COMMON, "x, n = torch.randn(a, b, c), b * c", "x.view(a, n)"),
    Case("slice", _COMMON, f"{_ONE_SYMBOLIC}; n = a - 2", "x[1:n]"),
    Case("sum", _COMMON, _ONE_SYMBOLIC, "torch.sum(x)"),
    Case("clone", _COMMON, _ONE_SYMBOLIC, "x.clone()"),
    Case("cat", _COMMON, "xs = [torch.randn(a, b), torch.randn(c, b)]", "torch.cat(xs)"),
    Case("expand", _COMMON, "x = torch.randn(b)", "x.expand(a, b)"),
    Case("reshape", _COMMON, f"{_ONE_SYMBOLIC}; n = a * b", "x.reshape(n)"),
    Case("mul, scalar", _FURTHER, _ONE_SYMBOLIC, "torch.mul(x, 2.0)"),
    Case("mul, symbolic number", _FURTHER, f"{_ONE_SYMBOLIC}; n = a / b", "torch.mul(x, n)"),
    Case("relu", _FURTHER, _ONE_SYMBOLIC, "torch.relu(x)"),
    Case("mean, dim", _FURTHER, _ONE_SYMBOLIC, "torch.mean(x, 1)"),
    Case("softmax", _FURTHER, _ONE_SYMBOLIC, "torch.softmax(x, -1)"),
    Case("bmm", _FURTHER, "x, y = torch.randn(a, b, c), torch.randn(a, c, b)", "torch.bmm(x, y)"),
    Case("linear", _FURTHER, "x, w = torch.randn(a, b), torch.randn(c, b)", "F.linear(x, w)"),
    Case("matmul", _FURTHER, "x, y = torch.randn(a, b, c), torch.randn(c, b)", "torch.matmul(x, y)"),
    Case("layer_norm", _FURTHER, f"{_ONE_SYMBOLIC}; w = torch.randn(b)", "F.layer_norm(x, (b,), w)"),
    Case("embedding", _FURTHER, f"{_ONE_SYMBOLIC}; i = torch.randint(0, 4, (c,))", "F.embedding(i, x)"),
    Case("split", _FURTHER, "x, sizes = torch.randn(a + c, b), [a, c]", "torch.split(x, sizes)"),
    Case("permute", _FURTHER, "x = torch.randn(a, b, c)", "x.permute(2, 0, 1)"),
    Case("unsqueeze", _FURTHER, _ONE_SYMBOLIC, "x.unsqueeze(0)"),
    Case("detach", _FURTHER, _ONE_SYMBOLIC, "x.detach()"),
    Case("add_", _FURTHER, _ONE_SYMBOLIC, "x.add_(0)"),
    Case("add, out", _FURTHER, f"{_TWO_SYMBOLIC}; z = torch.empty(a, b)", "torch.add(x, y, out=z)"),
    Case("empty", _FURTHER, "", "torch.empty(a, b)"),
    Case("to, dtype", _FURTHER, _ONE_SYMBOLIC, "x.to(torch.float64)"),
    Case("mul, with grad", _FURTHER, f"{_TWO_SYMBOLIC}; x.requires_grad_()", "torch.mul(x, y)"),
)

HALVES: dict[str, tuple[Case, ...]] = {"static": CASES, "symbolic": SYMBOLIC_CASES}
"""The cases by what the sizes of their tensors are."""
