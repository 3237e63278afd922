"""The programs that the compile suite compiles: modules that return a loss, and what to call them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from bench import llama

Program = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Model:
    """One model of the suite.

    Attributes:
        layers: How many layers it has unless the suite is told otherwise.
        build: Makes the program with so many layers.
        build_small: Makes it with one layer and other widths and inputs, for what has to be compiled beforehand.
        is_of_transformers: Whether it needs that package.
    """

    layers: int
    build: Callable[[int], Program]
    build_small: Callable[[], Program]
    is_of_transformers: bool


class Loss(nn.Module):
    """Calls a model of transformers with what it was trained on, and returns its loss alone."""

    def __init__(self, model: nn.Module, argument: str) -> None:
        super().__init__()
        self.model = model
        self.argument = argument

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return self.model(**{self.argument: inputs}, labels=labels).loss


def _own(shape: llama.Shape) -> Program:
    module, tokens = llama.model(shape)
    return module, (tokens,)


def _from_transformers(name: str, layers: int, width: int) -> Program:
    # Imported late: the suite's own model does without transformers.
    import torch

    from bench.transformers_models import MODELS, Size

    torch.manual_seed(0)
    model, inputs = MODELS[name](Size(layers, narrow=True, width=width))
    ((argument, values), (_, labels)) = inputs.items()
    # Text is its own label. As one tensor it would be one input of the graph.
    return Loss(model.train(), argument), (values, labels.clone())


def _model_of_transformers(name: str, layers: int) -> Model:
    return Model(
        layers,
        lambda layers: _from_transformers(name, layers, width=64),
        partial(_from_transformers, name, layers=1, width=48),
        is_of_transformers=True,
    )


MODELS: dict[str, Model] = {
    "llama": Model(16, lambda layers: _own(llama.Shape(layers)), partial(_own, llama.SMALL), is_of_transformers=False),
    # As many layers as the published models of the smallest size have.
    "gpt2": _model_of_transformers("gpt2", layers=12),
    "bert": _model_of_transformers("bert", layers=12),
    "t5": _model_of_transformers("t5", layers=6),
    "vit": _model_of_transformers("vit", layers=12),
    # So many blocks in each of four stages.
    "resnet": _model_of_transformers("resnet", layers=3),
}
