"""Random programs over a few tensors, run alike on real and on fake ones.

A program is a list of instructions; each names an operation and the integers that pick its operands and parameters.
Picks are taken modulo what there is to pick, so that every list of integers is a program, and hypothesis can shrink it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Instruction:
    operation: str
    operands: tuple[int, int]
    parameters: tuple[int, int, int]


Step = Callable[[Tensor, Tensor, tuple[int, int, int]], object]

START_SHAPES: tuple[tuple[int, ...], ...] = ((2, 3), (3, 2), (4,), (1, 3), (2, 3, 2), ())
# Programs that grow without bound would only be slow.
LARGEST_NUMEL = 4096


def _dim(x: Tensor, pick: int) -> int:
    return pick % x.dim() if x.dim() else 0


def _slice(x: Tensor, dim: int, start: int, step: int) -> Tensor:
    return x[(slice(None),) * _dim(x, dim) + (slice(start % 3, None, step % 2 + 1),)]


def _permute(x: Tensor, pick: int) -> Tensor:
    shift = pick % max(x.dim(), 1)
    return x.permute(*range(shift, x.dim()), *range(shift))


def _as_strided(x: Tensor, size: int, stride: int, offset: int) -> Tensor:
    size, stride, offset = size % 3 + 1, stride % 3 + 1, offset % 2
    # The meta kernel grows the storage where the real one raises.
    if (offset + (size - 1) * stride + 2) * x.element_size() > x.untyped_storage().nbytes():
        raise IndexError("outside of the storage")
    return x.as_strided((size, 2), (stride, 1), offset)


def _view(x: Tensor, *shape: int) -> Tensor:
    # Torch's meta kernel joins dimensions that do not adjoin when one of size 1 stands between them.
    if 1 in x.shape and not x.is_contiguous():
        raise ValueError("not compared")
    return x.view(*shape)


def _view_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    # Torch's meta kernels give a last dimension of size 1 another stride, on which it depends for smaller elements
    # whether this is an error.
    if x.shape[-1:] == (1,) and dtype.itemsize < x.element_size():
        raise ValueError("not compared")
    return x.view(dtype)


def _take_rows(x: Tensor, count: int) -> Tensor:
    # Only the real kernel sees that an index is out of bounds.
    return x[torch.zeros(count if x.shape[0] else 0, dtype=torch.int64)]


def _set(x: Tensor, y: Tensor) -> Tensor:
    return x.set_(y)


VIEWS: dict[str, Step] = {
    "t": lambda x, y, p: x.mT,
    "transpose": lambda x, y, p: x.transpose(_dim(x, p[0]), _dim(x, p[1])),
    "permute": lambda x, y, p: _permute(x, p[0]),
    "select": lambda x, y, p: x.select(_dim(x, p[0]), p[1] % 2),
    "slice": lambda x, y, p: _slice(x, *p),
    "narrow": lambda x, y, p: x.narrow(_dim(x, p[0]), p[1] % 2, p[2] % 3),
    "flat view": lambda x, y, p: _view(x, -1),
    "view of columns": lambda x, y, p: _view(x, -1, p[0] % 3 + 1),
    "reshape": lambda x, y, p: x.reshape(-1, p[0] % 3 + 1),
    "flatten": lambda x, y, p: x.flatten(),
    "unsqueeze": lambda x, y, p: x.unsqueeze(p[0] % (x.dim() + 1)),
    "squeeze": lambda x, y, p: x.squeeze(),
    "expand": lambda x, y, p: x.expand(p[0] % 3 + 1, *x.shape),
    "expand_as": lambda x, y, p: x.expand_as(y),
    "diagonal": lambda x, y, p: x.diagonal(p[0] % 3 - 1),
    "unfold": lambda x, y, p: x.unfold(_dim(x, p[0]), p[1] % 2 + 1, p[2] % 2 + 1),
    "as_strided": lambda x, y, p: _as_strided(x, *p),
    "detach": lambda x, y, p: x.detach(),
    "alias": lambda x, y, p: torch.ops.aten.alias(x),
    "itself": lambda x, y, p: x,
    "split": lambda x, y, p: x.split(p[0] % 2 + 1, _dim(x, p[1])),
    "chunk": lambda x, y, p: x.chunk(p[0] % 3 + 1, _dim(x, p[1])),
    "unbind": lambda x, y, p: x.unbind(_dim(x, p[0])),
    "int32 view": lambda x, y, p: _view_dtype(x, torch.int32),
    "float16 view": lambda x, y, p: _view_dtype(x, torch.float16),
    "float32 view": lambda x, y, p: _view_dtype(x, torch.float32),
}

WRITES: dict[str, Step] = {
    "add_ scalar": lambda x, y, p: x.add_(p[0]),
    "mul_ tensor": lambda x, y, p: x.mul_(y.clone()),
    "sub_ tensor": lambda x, y, p: x.sub_(y.clone(), alpha=2),
    "copy_": lambda x, y, p: x.copy_(y.clone()),
    "zero_": lambda x, y, p: x.zero_(),
    "fill_": lambda x, y, p: x.fill_(p[0]),
    "relu_": lambda x, y, p: x.relu_(),
    "masked_fill_": lambda x, y, p: x.masked_fill_(x.detach() > 0, p[0]),
    "setitem": lambda x, y, p: x.__setitem__(p[0] % 2, p[1]),
    "out=": lambda x, y, p: torch.sin(x.clone(), out=x),
}

METADATA_WRITES: dict[str, Step] = {
    "transpose_": lambda x, y, p: x.transpose_(_dim(x, p[0]), _dim(x, p[1])),
    "unsqueeze_": lambda x, y, p: x.unsqueeze_(p[0] % (x.dim() + 1)),
    "squeeze_": lambda x, y, p: x.squeeze_(),
    "resize_": lambda x, y, p: x.resize_(p[0] % 3 + 1, p[1] % 4 + 1),
    "set_": lambda x, y, p: _set(x, y),
}

COMPUTATIONS: dict[str, Step] = {
    "add": lambda x, y, p: x + y,
    "mul": lambda x, y, p: x * y,
    "add scalar": lambda x, y, p: x + p[0],
    "divide": lambda x, y, p: x / (p[0] + 1),
    "sin": lambda x, y, p: x.sin(),
    "compare": lambda x, y, p: x > y,
    "where": lambda x, y, p: torch.where(x > 0, x, y),
    "sum": lambda x, y, p: x.sum(_dim(x, p[0]), keepdim=p[1] % 2 == 0),
    "mean": lambda x, y, p: x.mean(),
    "max": lambda x, y, p: x.max(_dim(x, p[0])),
    "cumsum": lambda x, y, p: x.cumsum(_dim(x, p[0])),
    "softmax": lambda x, y, p: x.softmax(_dim(x, p[0])),
    "matmul": lambda x, y, p: x @ y.to(x.dtype),
    "cat": lambda x, y, p: torch.cat([x, y], _dim(x, p[0])),
    "stack": lambda x, y, p: torch.stack([x, x], p[0] % (x.dim() + 1)),
    "clone": lambda x, y, p: x.clone(),
    "contiguous": lambda x, y, p: x.contiguous(),
    "double": lambda x, y, p: x.double(),
    "float": lambda x, y, p: x.float(),
    "zeros_like": lambda x, y, p: torch.zeros_like(x),
    "new_empty": lambda x, y, p: x.new_empty(p[0] % 3, p[1] % 3),
    "take rows": lambda x, y, p: _take_rows(x, p[0] % 3),
    "flip": lambda x, y, p: x.flip(_dim(x, p[0])),
}

OPERATIONS: dict[str, Step] = {**VIEWS, **WRITES, **METADATA_WRITES, **COMPUTATIONS}


def execute(program: Sequence[Instruction], start: Sequence[Tensor]) -> list[object]:
    """The results of all steps; the program goes on after a step that raises."""
    live = list(start)
    results: list[object] = []
    for instruction in program:
        x, y = (live[pick % len(live)] for pick in instruction.operands)
        if instruction.operation in WRITES and has_internal_overlap(x):
            continue
        try:
            result = OPERATIONS[instruction.operation](x, y, instruction.parameters)
        except Exception:
            # Meta kernels word their errors otherwise and raise other classes; that one is raised is the same.
            results.append("an error")
            continue
        results.append(result)
        tensors = [result] if isinstance(result, Tensor) else result if isinstance(result, (tuple, list)) else []
        live += [tensor for tensor in tensors if _goes_on(tensor)]
    return results


def _goes_on(x: Tensor) -> bool:
    """Real kernels refuse dtypes, and tensors without elements, that meta kernels let pass: no step uses these."""
    return 0 < x.numel() <= LARGEST_NUMEL and x.is_floating_point()


def has_internal_overlap(x: Tensor) -> bool:
    """Whether two elements may share memory. What a write to such a tensor does depends on the kernel."""
    reach = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and stride < reach:
            return True
        reach += stride * (size - 1)
    return False
