"""Runs the model of a Hugging Face ``config.json`` instead of the built-in decoder; needs transformers."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastfake.demo.errors import DemoError, first_cause, one_line

_IMAGE_SIZE = 224
_POSITIVE_SETTINGS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "image_size",
    "patch_size",
    "num_channels",
)


@dataclass(frozen=True)
class HuggingFaceWorkload:
    """One training step of a transformers model with fresh parameters and random inputs.

    Attributes:
        config: The model's ``PretrainedConfig``.
        batch: Samples in the batch.
        sequence: Tokens in each sample, where the model reads tokens.
    """

    config: Any
    batch: int
    sequence: int

    @property
    def title(self) -> str:
        """The model and the input's sizes, for people to read."""
        size = " x ".join(map(str, self._input_size()))
        return f"{self._model_class().__name__} ({self.config.model_type}), {self._input_name()} {size}"

    def build(self) -> nn.Module:
        """Make the model with fresh parameters under the fake mode that is active, ready to train."""
        with _quiet(), _untruncated_initialisation():
            model: nn.Module = self._auto_class().from_config(self.config)
        return model.train()

    def inputs(self) -> Mapping[str, Tensor]:
        """Make random ``input_ids`` (int64) or ``pixel_values`` (the model's float dtype)."""
        name, size = self._input_name(), self._input_size()
        if name == "pixel_values":
            return {name: torch.rand(size, dtype=self.config.dtype)}
        tokens = torch.randint(self.config.vocab_size, size)
        if self.config.is_encoder_decoder:
            return {name: tokens, "decoder_input_ids": tokens}
        return {name: tokens}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the language model's loss, or the mean of the first floating output of other models."""
        with _quiet():
            if self._is_causal_lm():
                loss: Tensor = model(**inputs, labels=inputs["input_ids"]).loss
                return loss
            outputs = tree_leaves(model(**inputs))
        floating = (leaf for leaf in outputs if isinstance(leaf, Tensor) and leaf.is_floating_point())
        return next(floating).float().mean()

    def rehearsal(self) -> HuggingFaceWorkload:
        """Return the same work, as not every architecture has a smaller version."""
        return self

    def _is_causal_lm(self) -> bool:
        architectures = self.config.architectures or ()
        return any("CausalLM" in name or "LMHead" in name for name in architectures)

    def _auto_class(self) -> Any:
        import transformers

        return transformers.AutoModelForCausalLM if self._is_causal_lm() else transformers.AutoModel

    def _model_class(self) -> Any:
        return self._auto_class()._model_mapping[type(self.config)]

    def _input_name(self) -> str:
        return str(self._model_class().main_input_name)

    def _input_size(self) -> tuple[int, ...]:
        if self._input_name() == "input_ids":
            return (self.batch, self.sequence)
        side = getattr(self.config, "image_size", _IMAGE_SIZE)
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        return (self.batch, getattr(self.config, "num_channels", 3), height, width)


def load_workload(path: Path, *, layers: int | None, batch: int, sequence: int | None) -> HuggingFaceWorkload:
    """Read a ``config.json`` and prepare its model.

    Args:
        path: The config file.
        layers: Number of layers to use in place of the config's.
        batch: Samples in the batch.
        sequence: Tokens in each sample; by default 4096 or as many as the model has positions for.

    Returns:
        The work to run; no parameters exist yet.

    Raises:
        DemoError: transformers is missing, or the config is broken, unknown or unusable.
    """
    config = load_config(path)
    _set_layers(path, config, layers)

    workload = HuggingFaceWorkload(config, batch, _sequence_length(path, config, sequence))
    _check_model(path, workload)
    return workload


def load_config(path: Path) -> Any:
    """Read a ``config.json``.

    Args:
        path: The config file.

    Returns:
        The ``PretrainedConfig``, with a dtype and without a cache of keys and values.

    Raises:
        DemoError: transformers is missing, or the config is broken, unknown or unusable.
    """
    settings = _read_settings(path)
    # The environment reaches the processes that measure memory as well. Without a network transformers has nothing
    # to look for there, and its remarks on the config would stand between the demo's lines.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    try:
        import transformers
    except ImportError:
        raise DemoError("--config needs transformers, which is not installed: pip install transformers") from None

    model_type = settings.pop("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        raise DemoError(f"{path}: transformers {transformers.__version__} knows no model_type {model_type!r}")
    try:
        with _quiet():
            config = transformers.AutoConfig.for_model(model_type, **settings)
    except ImportError as error:
        raise DemoError(
            f"{path}: transformers cannot be imported as far as {model_type} needs it: {one_line(first_cause(error))}"
        ) from error
    except Exception as error:
        raise DemoError(f"{path}: not a usable {model_type} config: {one_line(error)}") from error
    _check_settings(path, config)
    config.use_cache = False
    # Without a dtype in the config the model takes torch's default, and so must its inputs.
    config.dtype = getattr(config, "dtype", None) or torch.get_default_dtype()
    return config


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DemoError(f"{path}: cannot read the config: {error.strerror}") from error
    except ValueError as error:
        raise DemoError(f"{path}: not valid JSON: {one_line(error)}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("model_type"), str):
        raise DemoError(f"{path}: the config names no model_type")
    return settings


def _check_settings(path: Path, config: Any) -> None:
    for name in _POSITIVE_SETTINGS:
        value = getattr(config, name, None)
        sizes = value if isinstance(value, (list, tuple)) else (value,)
        if any(size is not None and not (isinstance(size, int) and size > 0) for size in sizes):
            raise DemoError(f"{path}: {name} has to be a positive integer, not {value!r}")


def _set_layers(path: Path, config: Any, layers: int | None) -> None:
    if layers is None:
        return
    if getattr(config, "num_hidden_layers", None) is None:
        raise DemoError(f"{path}: --layers does not fit: {config.model_type} has no num_hidden_layers")
    if isinstance(getattr(config, "layer_types", None), list):
        if layers > len(config.layer_types):
            raise DemoError(f"{path}: --layers {layers} is more than the config's {len(config.layer_types)} layers")
        config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers


def _sequence_length(path: Path, config: Any, sequence: int | None) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    longest = positions if isinstance(positions, int) and positions > 0 else None
    if sequence is None:
        return min(4096, longest or 4096)
    if longest is not None and sequence > longest:
        raise DemoError(f"{path}: --sequence {sequence} is more than the model's {longest} positions")
    return sequence


def _check_model(path: Path, workload: HuggingFaceWorkload) -> None:
    name = workload.config.model_type
    try:
        input_name = workload._input_name()
    except KeyError:
        raise DemoError(f"{path}: transformers has no {workload._auto_class().__name__} for {name}") from None
    if input_name not in ("input_ids", "pixel_values"):
        raise DemoError(f"{path}: {name} reads {input_name}; the demo can make input_ids and pixel_values")
    if input_name == "input_ids" and not hasattr(workload.config, "vocab_size"):
        raise DemoError(f"{path}: {name} has no vocab_size of its own, so the demo cannot make its input_ids")


@contextmanager
def _quiet() -> Iterator[None]:
    # What transformers warns about, such as missing weights, is beside the point for a model of metadata.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _untruncated_initialisation() -> Iterator[None]:
    def fill(tensor: Tensor, mean: float, std: float, *_: Any, **__: Any) -> Tensor:
        with torch.no_grad():
            return tensor.normal_(mean, std)

    # Torch draws truncated normals by looking whether values fell outside, and fake tensors have no values.
    with mock.patch.object(nn.init, "_no_grad_trunc_normal_", fill):
        yield
