"""The names of torch's settings, as far as Python can reach them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator

import torch
import torch.backends

_ACCESSOR = re.compile(r"_?(?:get|set|is|are|has)_(\w+)")


def native() -> set[str]:
    """What torch._C has a getter or a setter for, at::Context's settings among them."""
    return {match[1] for name in dir(torch._C) if (match := _ACCESSOR.fullmatch(name))}


def backends() -> set[str]:
    """Properties and functions of the modules in torch.backends, as module.name."""
    return {f"{name}.{member}" for name, module in _backend_modules() for member in _members(module)}


def _backend_modules() -> Iterator[tuple[str, types.ModuleType]]:
    prefix = torch.backends.__name__
    for name, value in vars(torch.backends).items():
        if name == "m":  # the package itself, wrapped
            continue
        kind = type(value)
        if kind.__module__.startswith(prefix) or (kind is types.ModuleType and value.__name__.startswith(prefix + ".")):
            yield name, value


def _members(module: types.ModuleType) -> set[str]:
    """Wrapped modules keep their properties in their class and their functions in the module that they wrap."""
    inner = vars(module).get("m", module)
    properties = {
        name for kind in type(module).__mro__ if kind.__module__.startswith("torch.backends") for name in vars(kind)
    }
    functions = {
        name
        for name, value in vars(inner).items()
        if callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == inner.__name__
    }
    return {name for name in properties | functions if not name.startswith("__")}
