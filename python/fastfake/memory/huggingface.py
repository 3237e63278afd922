"""Models of transformers as programs to train: what they are called with, and how their loss is found."""

from __future__ import annotations

import contextlib
import enum
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn

from fastfake.demo.errors import DemoError, one_line
from fastfake.demo.huggingface import load_config

from .errors import MemoryCommandError

__all__ = ["HuggingFaceProgram", "Task", "load_program", "program_of_model"]

_IMAGE_SIZE = 224
_LONGEST_DEFAULT = 4096
_PACKING = "find_packed_sequence_indices"


class Task(enum.Enum):
    """What a model is trained for, and the auto class of transformers that makes such models."""

    CAUSAL_LM = "AutoModelForCausalLM"
    MASKED_LM = "AutoModelForMaskedLM"
    SEQUENCE_TO_SEQUENCE = "AutoModelForSeq2SeqLM"
    IMAGE_CLASSIFICATION = "AutoModelForImageClassification"

    @property
    def auto_class(self) -> Any:
        """The class of transformers of this name."""
        import transformers

        return getattr(transformers, self.value)


# The ends of classes' names, as configs have them in `architectures`.
_TASKS = {
    "ForCausalLM": Task.CAUSAL_LM,
    "LMHeadModel": Task.CAUSAL_LM,
    "ForMaskedLM": Task.MASKED_LM,
    "ForConditionalGeneration": Task.SEQUENCE_TO_SEQUENCE,
    "ForImageClassification": Task.IMAGE_CLASSIFICATION,
}
# Where a config names none of these: many encoders have a class for causal language models, too, so that comes last.
_PREFERENCE = (Task.IMAGE_CLASSIFICATION, Task.SEQUENCE_TO_SEQUENCE, Task.MASKED_LM, Task.CAUSAL_LM)


@dataclass(frozen=True)
class HuggingFaceProgram:
    """A training step of a model of transformers.

    Attributes:
        config: The model's ``PretrainedConfig``.
        task: What it is trained for.
        sequence: Tokens in each sample, where the model reads tokens.
    """

    config: Any
    task: Task
    sequence: int
    relies_on_defaults: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """The model's class and the size of a sample."""
        name = self.task.auto_class._model_mapping[type(self.config)].__name__
        size = " x ".join(map(str, self._sample_size()))
        return f"{name}, samples of {size}" + ("" if self._reads_images else " tokens")

    def build(self) -> nn.Module:
        """Make the model, with parameters that nobody has set."""
        with _quiet(), _without_initialization():
            model: Any = self.task.auto_class.from_config(self.config, dtype=torch.get_default_dtype())
            model.tie_weights()
        return model.train()

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """Make random tokens and labels (int64), or pixels (the default dtype) and labels."""
        size = (batch, *self._sample_size())
        if self._reads_images:
            return {"pixel_values": torch.rand(size), "labels": torch.randint(self.config.num_labels, (batch,))}
        tokens = self.config.vocab_size
        return {"input_ids": torch.randint(tokens, size), "labels": torch.randint(tokens, size)}

    def loss(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the loss that the model computes from the labels."""
        with _quiet(), _unpacked():
            loss: Tensor = model(**inputs).loss
        return loss

    @property
    def _reads_images(self) -> bool:
        return self.task is Task.IMAGE_CLASSIFICATION

    def _sample_size(self) -> tuple[int, ...]:
        if not self._reads_images:
            return (self.sequence,)
        side = getattr(self.config, "image_size", _IMAGE_SIZE)
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        return (getattr(self.config, "num_channels", 3), height, width)


def load_program(path: Path, sequence: int | None) -> HuggingFaceProgram:
    """Read a ``config.json`` and find out what its model is trained for.

    Args:
        path: The config file. `architectures` in it chooses between a causal and a masked language model, one that
            turns a sequence into a sequence, and a classifier of images.
        sequence: Tokens in each sample; by default 4096, or as many as the model has positions for if that is fewer.

    Raises:
        MemoryCommandError: transformers is missing, or the config is broken, unknown or unusable.
    """
    try:
        config = load_config(path)
    except DemoError as error:
        raise MemoryCommandError(str(error)) from error
    return _program(str(path), config, sequence)


def program_of_model(model: Any, sequence: int | None) -> HuggingFaceProgram:
    """Find out what a model of transformers that is there already is trained for.

    Args:
        model: The model.
        sequence: As for `load_program`.

    Raises:
        MemoryCommandError: that cannot be said of it.
    """
    model.config.use_cache = False
    model.config.architectures = [type(model).__name__]
    return _program(type(model).__name__, model.config, sequence)


def _program(name: str, config: Any, sequence: int | None) -> HuggingFaceProgram:
    task = _task(config)
    if task is None:
        raise MemoryCommandError(
            f"{name}: cannot tell how {', '.join(config.architectures or ()) or config.model_type} is trained: it is "
            "none of a causal or masked language model, a text-to-text model and an image classifier"
        )
    if task is Task.IMAGE_CLASSIFICATION:
        # Without it, models look at the labels' values to find out, which fake tensors do not have.
        config.problem_type = config.problem_type or "single_label_classification"
        if sequence is not None:
            raise MemoryCommandError(f"{name}: --sequence does not fit: {config.model_type} reads images")
    elif not hasattr(config, "vocab_size"):
        raise MemoryCommandError(f"{name}: {config.model_type} has no vocab_size of its own to make tokens for")
    elif task is Task.SEQUENCE_TO_SEQUENCE and getattr(config, "decoder_start_token_id", None) is None:
        # What sizes do not depend on, and configs often leave to the generation's config.
        config.decoder_start_token_id = 0
    return HuggingFaceProgram(config, task, _sequence_length(name, config, sequence))


def _task(config: Any) -> Task | None:
    architectures = getattr(config, "architectures", None) or ()
    for architecture in architectures:
        for ending, task in _TASKS.items():
            if architecture.endswith(ending) and type(config) in task.auto_class._model_mapping:
                return task
    # A model without a head says nothing; another head is one that there is no task for.
    if any(not architecture.endswith("Model") for architecture in architectures):
        return None
    return next((task for task in _PREFERENCE if type(config) in task.auto_class._model_mapping), None)


def _sequence_length(name: str, config: Any, sequence: int | None) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    longest = positions if isinstance(positions, int) and positions > 0 else None
    if sequence is None:
        return min(_LONGEST_DEFAULT, longest or _LONGEST_DEFAULT)
    if longest is not None and sequence > longest:
        raise MemoryCommandError(f"{name}: --sequence {sequence} is more than the model's {longest} positions")
    return sequence


@contextlib.contextmanager
def _without_initialization() -> Iterator[None]:
    # Some initializers draw again until the values suit them, and fake tensors have no values. It also saves time.
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        from transformers.modeling_utils import no_init_weights

    try:
        with no_init_weights():
            yield
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError, NotImplementedError) as error:
        raise MemoryCommandError(f"transformers cannot make a model of this config: {one_line(error)}") from error


@contextlib.contextmanager
def _unpacked() -> Iterator[None]:
    """Answer for transformers what it cannot read off fake tensors: that a sample is one sequence.

    It then leaves the causal mask to the operator of attention, as it does with real tensors.
    """
    try:
        from transformers import masking_utils
    except ImportError:
        yield
        return
    if not hasattr(masking_utils, _PACKING):
        yield
        return
    with mock.patch.object(masking_utils, _PACKING, lambda *_, **__: None):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # What transformers warns about, such as missing weights, is beside the point for a model of metadata.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
