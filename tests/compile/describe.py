"""Graphs, guards and symbols as text that is the same in every process."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.fx import GraphModule

# Of objects, and the version of a dictionary in a guard.
ADDRESS = re.compile(r"0x[0-9a-f]{6,}|\d{10,}|(?<=NODES\) == )\d+")
# Sets of classes are ordered by address.
FROZEN_SET = re.compile(r"frozenset\(\{(.*?)\}\)")
STORAGE_SIZE = re.compile(r"bytes=.*? (?=storage=)")


def normalised(text: str) -> str:
    """The text without what may differ between the two sides: addresses, ids, and the module of FakeTensor."""
    text = text.replace("fastfake.fake_tensor.FakeTensor", "torch._subclasses.fake_tensor.FakeTensor")
    text = ADDRESS.sub("ADDRESS", text)
    return FROZEN_SET.sub(lambda found: f"frozenset({sorted(found[1].split(', '))})", text)


def without_storage_sizes(text: str) -> str:
    """The text without the sizes of storages.

    A hit of torch's cache makes a storage anew, just large enough for the result's shape and strides, and drops the
    size that it remembers: of a stepped slice it is smaller than computed, and symbolic ones are written otherwise.
    """
    return STORAGE_SIZE.sub("", text)


class Describer:
    """Describes values; numbers storages in the order in which they appear, so that aliases show."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    def value(self, value: object) -> str:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return f"{type(value).__name__}({value.node.expr}, hint={value.node._hint})"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}({', '.join(self.value(member) for member in value)})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key!r}: {self.value(member)}' for key, member in value.items())}}}"
        return repr(value)

    def _tensor(self, tensor: torch.Tensor) -> str:
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return repr(tensor)
        described = [
            type(tensor).__name__,
            *(str(part) for part in (tensor.dtype, tensor.layout, tensor.device)),
            self.value(tuple(tensor.shape)),
            f"requires_grad={tensor.requires_grad}",
            f"is_leaf={tensor.is_leaf}",
            f"grad={None if not tensor.is_leaf or tensor.grad is None else self.value(tensor.grad)}",
        ]
        if tensor.layout is torch.strided:
            described += [
                self.value(tensor.stride()),
                self.value(tensor.storage_offset()),
                f"bytes={self.value(tensor.untyped_storage().nbytes())}",
                f"storage={self._storages.setdefault(tensor.untyped_storage()._cdata, len(self._storages))}",
                f"bits={tensor.is_conj()}{tensor.is_neg()}{tensor.is_inference()}",
            ]
        if type(tensor) is torch._subclasses.fake_tensor.FakeTensor:
            described.append(f"constant={tensor.constant}")
        return f"Tensor({' '.join(described)})"


def graph(module: torch.nn.Module) -> str:
    """The code of a graph and of the graphs inside it, and each node with its metadata."""
    sections = []
    describer = Describer()
    first_number = None
    for name, part in module.named_modules():
        if not isinstance(part, GraphModule):
            continue
        readable = part.print_readable(print_output=False, include_stride=True, include_device=True)
        lines = [f"graph {name!r}", readable]
        for node in part.graph.nodes:
            lines.append(f"  {node.op} {node.name} {node.target} {node.args} {node.kwargs}")
            for key in sorted(node.meta, key=str):
                value = node.meta[key]
                if key in ("val", "example_value", "tensor_meta", "unbacked_bindings", "fake_result"):
                    lines.append(f"    {key}: {describer.value(value)}")
                elif key in (
                    "stack_trace",
                    "nn_module_stack",
                    "source_fn_stack",
                    "torch_fn",
                    "partitioner_tag",
                ):
                    lines.append(f"    {key}: {value}")
                elif key == "seq_nr":
                    # Autograd counts on from one program to the next.
                    first_number = value if first_number is None else first_number
                    lines.append(f"    {key}: {value - first_number}")
                elif value is not None:
                    # Queries for a device that reach the tracing mode leave an ``original_aten`` of None behind.
                    lines.append(f"    {key}")
        sections.append("\n".join(lines))
    return "\n".join(sections)


def symbols(shape_env: Any) -> str:
    """The symbol table of a ShapeEnv, its guards and its deferred assertions."""
    if shape_env is None:
        return "no ShapeEnv"
    lines = []
    for table in ("backed_var_to_val", "var_to_range", "replacements", "var_to_sources", "unbacked_renamings"):
        if hasattr(shape_env, table):
            lines += [f"{table} {key}: {value}" for key, value in getattr(shape_env, table).items()]
    lines += [f"guard {guard.expr}" for guard in shape_env.guards]
    for symbol, assertions in shape_env.deferred_runtime_asserts.items():
        lines += [f"assertion on {symbol}: {assertion.expr} {assertion.msg}" for assertion in assertions]
    for name in ("unbacked_symint_counter", "unbacked_symfloat_counter", "size_like", "num_deferred_runtime_asserts"):
        lines.append(f"{name} {getattr(shape_env, name, None)}")
    return "\n".join(lines)


def guards(function: Any) -> str:
    """The guards of every compilation of a function, oldest first."""
    code = getattr(function, "__code__", None) or function.forward.__func__.__code__
    entries = torch._dynamo.eval_frame._debug_get_cache_entry_list(code)
    return "\n".join(str(entry.guard_manager) for entry in reversed(entries)) or "no guards"


def error(exception: BaseException) -> str:
    return f"{type(exception).__mro__[0].__name__}: {exception}"
