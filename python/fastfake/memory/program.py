"""What ``python -m fastfake memory`` trains: how a model, its inputs and its loss are made."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from fastfake.demo.errors import one_line

from .errors import MemoryCommandError

__all__ = ["FunctionProgram", "Program", "find_function"]


class Program(Protocol):
    """A model with inputs and a loss, for any number of samples.

    Attributes:
        relies_on_defaults: Whether also in a step, tensors for which no device and type are named are to be on the
            device that is looked at, of the type of the parameters; not only while the model and inputs are made.
    """

    relies_on_defaults: ClassVar[bool]

    @property
    def title(self) -> str:
        """The model, for people to read."""

    def build(self) -> nn.Module:
        """Make the model under the fake mode and on the default device that are active, ready to train."""

    def inputs(self, batch: int) -> Any:
        """Make the inputs of a step on so many samples."""

    def loss(self, model: nn.Module, inputs: Any) -> Tensor:
        """Run the model forward and return a scalar to differentiate."""


Loss = Callable[..., Tensor]


class FunctionProgram:
    """A program that a function of the user makes.

    The function takes no arguments and returns a pair of a model and a function ``loss``, or a model of transformers
    alone. ``loss(batch)`` makes inputs of so many samples, calls the model and returns the loss, a scalar tensor. If
    a length of sequences is asked for, it is called as ``loss(batch, sequence)``. Both functions run under a fake mode,
    and what they make without naming a device is on the one that is looked at.
    """

    relies_on_defaults: ClassVar[bool] = True

    def __init__(self, name: str, function: Callable[[], Any], sequence: int | None) -> None:
        """Take the function, its name as it was typed, and the length of sequences, if one was asked for."""
        self.name = name
        self.function = function
        self.sequence = sequence
        self._loss: Loss | None = None
        self._made: Program | None = None

    @property
    def title(self) -> str:
        """The function, and where it is a model of transformers, that."""
        return self.name if self._made is None else f"{self.name}: {self._made.title}"

    def build(self) -> nn.Module:
        """Call the function.

        Raises:
            MemoryCommandError: it returned something else.
        """
        made = self.function()
        if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1]):
            model, self._loss = made
            return model.train()
        if isinstance(made, nn.Module) and hasattr(made, "config"):
            from .huggingface import program_of_model

            self._made = program_of_model(made, self.sequence)
            return made.train()
        raise MemoryCommandError(
            f"{self.name} returned {_kind(made)}; it has to return a pair (model, loss), where loss(batch) gives the "
            "loss of so many samples, or a model of transformers"
        )

    def inputs(self, batch: int) -> Any:
        """Make the inputs of a model of transformers; other functions make theirs when they compute the loss."""
        return batch if self._made is None else self._made.inputs(batch)

    def loss(self, model: nn.Module, inputs: Any) -> Tensor:
        """Call the function ``loss``.

        Raises:
            MemoryCommandError: it gave no scalar.
        """
        if self._made is not None:
            return self._made.loss(model, inputs)
        assert self._loss is not None, "built before"
        loss = self._loss(inputs) if self.sequence is None else self._loss(inputs, self.sequence)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise MemoryCommandError(f"the loss of {self.name} is {_kind(loss)}, not a scalar that has gradients")
        return loss


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}" + ("" if value.requires_grad else " without gradients")
    return f"an object of type {type(value).__name__}"


def find_function(name: str) -> Callable[[], Any]:
    """Import a function.

    Args:
        name: ``module:function``, where the module is importable from here, or ``path/to/file.py:function``.

    Raises:
        MemoryCommandError: there is no such function, or the module raised an error.
    """
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise MemoryCommandError(f"{name!r} names no function: write it as module:function or file.py:function")
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _import(module_name)
    function: Any = module
    for part in attribute.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise MemoryCommandError(f"{module_name} has no function {attribute}")
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise MemoryCommandError(f"{name} has to be callable without arguments") from None
    except ValueError:
        pass  # written in C: it says so when it is called
    return function


def _import(name: str) -> Any:
    # `python -m` put the current folder on the path, and a console script does not.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise MemoryCommandError(f"cannot import {name}: {one_line(error)}") from error


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MemoryCommandError(f"{path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    # As for a script: its neighbours can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MemoryCommandError(f"cannot load {path}: {one_line(error)}") from error
    return module
