"""The layers of a model: what parallelism and checkpointing are applied to one by one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["layers_of"]


def layers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Find a model's layers and their names.

    They are the elements, if they have parameters, of each ``ModuleList``, and of each ``Sequential`` of two or more
    elements that are all of one class, that is not inside of another such element.
    """
    return list(_layers(model, ""))


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if _is_stack(module) and next(child.parameters(), None) is not None:
            yield path, child
        else:
            yield from _layers(child, f"{path}.")


def _is_stack(module: nn.Module) -> bool:
    if isinstance(module, nn.ModuleList):
        return True
    return isinstance(module, nn.Sequential) and len(module) > 1 and len({type(child) for child in module}) == 1
