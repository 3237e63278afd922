"""Tracking a program: what is told to the native ledger, and what that noted."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._pytree import tree_leaves

from .. import _C
from ..fake_mode import FakeTensorMode
from ..installation import is_disabled
from ..queries import maybe_get_fake_mode
from .allocator import CONTEXT_BYTES
from .allocator_settings import AllocatorSettings
from .events import timeline_of
from .fsdp import is_gathered, roles_under_fsdp
from .plain_tensors import plain_tensors
from .propagation import propagation_unnoticed
from .resizing import resizing_noticed
from .roles import note_gradient, note_role
from .snapshot import write_snapshot
from .timeline import Allocation, Category, Timeline, Usage

__all__ = ["Tracker", "track"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_NOT_THE_USERS = [os.path.dirname(os.path.abspath(torch.__file__)) + os.sep, _PACKAGE + os.sep, "<"]


class Tracker:
    """What a program on fake tensors allocated while the tracker was on.

    A context that can be entered once. Inside it, any number of training steps may be taken, with any models. Models,
    optimizers and tensors that are there before should be named, so that their memory counts from the beginning;
    whatever else is there counts from when it is first used.

    Args:
        *tracked: Modules, optimizers and tensors that are there already. Tensors are inputs.
        mode: The fake mode whose tensors count. By default that of what is tracked; or the one that is active; or the
            first one that computes something.

    Raises:
        TypeError: Something else was to be tracked.
        RuntimeError: On entering, if a tracker is on in this process already, or this one was, or fastfake is disabled.
    """

    def __init__(self, *tracked: nn.Module | Optimizer | Tensor, mode: FakeTensorMode | None = None) -> None:
        for thing in tracked:
            if not isinstance(thing, (nn.Module, Optimizer, Tensor)):
                raise TypeError(
                    f"track() takes modules, optimizers and tensors, not {type(thing).__name__}; give others by keyword"
                )
        self._tracked = tracked
        self._mode = mode
        self._undo: contextlib.ExitStack | None = None
        self._timeline: Timeline | None = None
        self._steps = 0
        self._roots: list[nn.Module] = []
        self._names: dict[int, str] = {}
        self._owners: dict[int, nn.Module] = {}
        self._hooked: set[int] = set()

    @property
    def timeline(self) -> Timeline:
        """What was allocated so far."""
        if self._timeline is not None:
            return self._timeline
        if self._undo is None:
            return Timeline([], 0)
        self._note_roots()
        return timeline_of(*_C.memory_events())

    @property
    def steps(self) -> int:
        """How many steps optimizers have taken."""
        return self._steps if self._undo is None else _C.memory_steps()

    def peak(self, device: str | None = None) -> Usage:
        """Give what was alive when the most was, on the device with the highest peak unless one is named."""
        return self.timeline.peak(device)

    def at_peak(self, device: str | None = None) -> list[Allocation]:
        """Give what was alive when the most was, largest first."""
        return self.peak(device).largest()

    def rows(self) -> list[dict[str, Any]]:
        """Give a dictionary for each allocation, as ``pandas.DataFrame`` takes them."""
        return self.timeline.rows()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the peaks by device and category, and all allocations, as JSON."""
        timeline = self.timeline
        peaks = {device: timeline.peak(device) for device in timeline.devices}
        report = {
            "steps": self.steps,
            "moments": timeline.moments,
            "peaks": {
                device: {"bytes": peak.bytes, "moment": peak.moment, "categories": peak.by("category")}
                for device, peak in peaks.items()
            },
            "allocations": timeline.rows(),
        }
        Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def snapshot(
        self,
        path: str | os.PathLike[str],
        device: str | None = None,
        settings: AllocatorSettings | str | None = None,
        memory: int | None = None,
        context: int = CONTEXT_BYTES,
    ) -> None:
        """Write what torch's caching allocator makes of the program, for https://pytorch.org/memory_viz.

        Args:
            path: Of the file.
            device: A CUDA device; by default the one with the highest peak.
            settings: Of the allocator, as in ``PYTORCH_CUDA_ALLOC_CONF``, which is the default.
            memory: Bytes of the device, or None for one that never runs out.
            context: Bytes of them that tensors cannot have.

        Raises:
            ValueError: If settings are not possible, or nothing was allocated on a CUDA device.
        """
        write_snapshot(self.timeline, path, device, settings, memory, context)

    def __enter__(self) -> Tracker:
        """Begin."""
        if self._undo is not None or self._timeline is not None:
            raise RuntimeError("a tracker can be entered once: what it noted is of one program")
        if is_disabled():
            raise RuntimeError("FASTFAKE_DISABLE leaves everything to torch, whose own fake tensors are not tracked")
        _C.memory_start(self._followed_mode(), self._name_of, self._root_called, _NOT_THE_USERS)
        undo = self._undo = contextlib.ExitStack()
        try:
            undo.callback(self._forget)
            undo.callback(_C.memory_stop)
            for context in (resizing_noticed(), propagation_unnoticed(), roles_under_fsdp()):
                undo.enter_context(context)
            for thing in self._tracked:
                if isinstance(thing, nn.Module):
                    self._add_root(thing)
                elif isinstance(thing, Optimizer):
                    self._note_state(thing)
                else:
                    note_role(thing, Category.INPUT)
            # Last, as other threads call modules, too, of which none is to be the first root.
            for handle in (
                register_module_forward_pre_hook(_C.memory_enter_module),
                register_module_forward_hook(_C.memory_leave_module, always_call=True),
                register_optimizer_step_pre_hook(self._before_step),
                register_optimizer_step_post_hook(self._after_step),
            ):
                undo.callback(handle.remove)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """End. What was noted stays."""
        assert self._undo is not None
        try:
            self._timeline = self.timeline
            self._steps = _C.memory_steps()
        finally:
            self._end()

    def _end(self) -> None:
        undo, self._undo = self._undo, None
        assert undo is not None
        undo.close()

    def _at_end(self, undo_one: Callable[[], object]) -> None:
        """Have something undone at the end, or now if another thread has come to it."""
        undo = self._undo
        if undo is not None:
            undo.callback(undo_one)
        if undo is None or undo is not self._undo:
            undo_one()

    def _forget(self) -> None:
        self._roots.clear()
        self._names.clear()
        self._owners.clear()
        self._hooked.clear()

    def _followed_mode(self) -> FakeTensorMode | None:
        if self._mode is not None:
            return self._mode
        for thing in self._tracked:
            for tensor in _tensors_of(thing):
                if (mode := maybe_get_fake_mode(tensor)) is not None:
                    return mode
        return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)

    def _name_of(self, module: nn.Module) -> str:
        """Name a module that is called for the first time, on whatever thread; the tracker may end meanwhile."""
        if id(module) not in self._names:
            if _is_of_another_program(module):
                return type(module).__name__
            self._add_root(module)
        return self._names.get(id(module), type(module).__name__)

    def _add_root(self, root: nn.Module) -> None:
        # Of the first root, names are the usual ones.
        prefix = f"{type(root).__name__}." if self._roots else ""
        for name, module in root.named_modules():
            self._names.setdefault(id(module), prefix + name if name else type(root).__name__)
        self._roots.append(root)
        # The hook for all modules is not told of keywords.
        self._at_end(root.register_forward_pre_hook(_note_keywords, with_kwargs=True).remove)
        self._note(root)
        if self._undo is None:
            self._forget()

    def _note_roots(self) -> None:
        for root in self._roots:
            self._note(root)

    def _note(self, root: nn.Module) -> None:
        """Say what the parameters, gradients and buffers of a model are; some may be new."""
        for module in root.modules():
            for parameter in module._parameters.values():
                if parameter is None:
                    continue
                self._owners[id(parameter)] = module
                if is_gathered(parameter):
                    note_role(parameter, Category.GATHERED_PARAMETER, module=module)
                    continue
                note_role(parameter, Category.PARAMETER, module=module)
                if parameter.grad is not None:
                    note_role(parameter.grad, Category.GRADIENT, module=module)
                if parameter.requires_grad and parameter.is_leaf and id(parameter) not in self._hooked:
                    self._hook(parameter)
            for buffer in module._buffers.values():
                if buffer is not None:
                    note_role(buffer, Category.BUFFER, module=module)

    def _hook(self, parameter: Tensor) -> None:
        self._hooked.add(id(parameter))
        # When its gradient is computed, and when that has become `grad`.
        self._at_end(parameter.register_hook(note_gradient).remove)
        self._at_end(parameter.register_post_accumulate_grad_hook(_note_grad).remove)

    def _root_called(self, root: nn.Module, args: tuple[object, ...]) -> None:
        _note_inputs(args)

    # The hooks are for all optimizers of the process.

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        if _is_followed(optimizer):
            self._note_roots()
            _C.memory_enter_optimizer()

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        if _is_followed(optimizer):
            self._note_state(optimizer)
            _C.memory_leave_optimizer()

    def _note_state(self, optimizer: Optimizer) -> None:
        for parameter, state in optimizer.state.items():
            for value in tree_leaves(state):
                if isinstance(value, Tensor):
                    module = self._owners.get(id(parameter))
                    note_role(value, Category.OPTIMIZER_STATE, unless_it_has_one=True, module=module)


def track(*tracked: nn.Module | Optimizer | Tensor, mode: FakeTensorMode | None = None) -> Tracker:
    """Track the memory of a program on fake tensors.

    Args:
        *tracked: Modules, optimizers and tensors that are there already; see Tracker.
        mode: The fake mode whose tensors count; see Tracker.

    Returns:
        A context; what it noted can be asked for inside and afterwards.
    """
    return Tracker(*tracked, mode=mode)


def _tensors_of(thing: nn.Module | Optimizer | Tensor) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield from plain_tensors(thing)
    elif isinstance(thing, nn.Module):
        for tensor in (*thing.parameters(), *thing.buffers()):
            yield from plain_tensors(tensor)
    else:
        for group in thing.param_groups:
            for tensor in group["params"]:
                yield from plain_tensors(tensor)


def _is_of_another_program(module: nn.Module) -> bool:
    """Whether it has fake tensors, all of another mode. Other threads call what they like under the same hooks."""
    return not _is_followed(module) and any(maybe_get_fake_mode(tensor) is not None for tensor in _tensors_of(module))


def _is_followed(thing: nn.Module | Optimizer) -> bool:
    return any(_C.memory_follows(tensor) for tensor in _tensors_of(thing))


def _note_grad(parameter: Tensor) -> None:
    if parameter.grad is not None:
        note_gradient(parameter.grad)


def _note_inputs(arguments: object) -> None:
    for value in tree_leaves(arguments):
        # What a model gave, another may be called with.
        if isinstance(value, Tensor) and not value.requires_grad:
            note_role(value, Category.INPUT, unless_it_has_one=True)


def _note_keywords(module: nn.Module, args: object, kwargs: object) -> None:
    _note_inputs(kwargs)
