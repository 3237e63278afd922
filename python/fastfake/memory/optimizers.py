"""The optimizers that ``--optimizer`` names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from fastfake.demo.errors import one_line

from .errors import MemoryCommandError

__all__ = ["NAMES", "make_optimizer"]

_CLASSES = {
    "adamw": "AdamW",
    "adam": "Adam",
    "sgd": "SGD",
    "sgd-momentum": "SGD",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adamax": "Adamax",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "adafactor": "Adafactor",
}
_SETTINGS: dict[str, dict[str, Any]] = {"sgd-momentum": {"momentum": 0.9}}
_FORMS: dict[str, dict[str, Any]] = {
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "for-loop": {"foreach": False},
}
NAMES = tuple(_CLASSES)


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Make an optimizer of a model's parameters, with torch's defaults.

    Args:
        name: One of `NAMES`, and after a colon, if it is not to be as torch chooses, ``foreach``, ``fused`` or
            ``for-loop``.
        model: The model.

    Raises:
        MemoryCommandError: there is no such optimizer, or not in that form.
    """
    kind, _, form = name.partition(":")
    if kind not in _CLASSES or (form and form not in _FORMS):
        raise MemoryCommandError(
            f"--optimizer {name}: there are {', '.join(NAMES)}, each also with "
            f"{', '.join(f':{form}' for form in _FORMS)}"
        )
    # Torch computes many parameters by one operator if all are DTensors or none is. Tensor parallelism has both.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise MemoryCommandError("the model has no parameters to train")
    distributed = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    others = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    groups = [{"params": group} for group in (distributed, others) if group]
    try:
        made: torch.optim.Optimizer = getattr(torch.optim, _CLASSES[kind])(
            groups, lr=1e-3, **_SETTINGS.get(kind, {}), **_FORMS.get(form, {})
        )
    except (TypeError, RuntimeError, ValueError) as error:
        raise MemoryCommandError(f"--optimizer {name}: {one_line(error)}") from error
    return made
