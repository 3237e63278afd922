"""Models of transformers with random weights, and inputs for them. Nothing is downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import transformers


@dataclass(frozen=True)
class Size:
    """How large the models are.

    Attributes:
        layers: The layers of transformers, and the blocks in each of ResNet's four stages.
        narrow: Whether widths are cut down to what eager torch computes quickly.
        width: The width of narrow models, a multiple of 16; other widths and the inputs are in proportion to it.
    """

    layers: int
    narrow: bool
    width: int = 64


@contextlib.contextmanager
def uninitialized() -> Iterator[None]:
    """Leaves the weights of models that are made meanwhile as torch's modules draw them.

    Some initializers of transformers draw again until the values suit them, and fake tensors have no values.
    """
    with patch.object(transformers.PreTrainedModel, "_initialize_weights", lambda *_: None):
        yield


Inputs = dict[str, torch.Tensor]
Build = Callable[[Size], tuple[torch.nn.Module, Inputs]]
BATCH = 2


def _gpt2(size: Size) -> tuple[torch.nn.Module, Inputs]:
    widths: dict[str, int] = {}
    if size.narrow:
        widths = {"n_embd": size.width, "n_head": 4, "vocab_size": 4 * size.width}
    config = transformers.GPT2Config(n_layer=size.layers, **widths)
    model = transformers.GPT2LMHeadModel(config)
    # What it takes anyway, but with a warning, which Dynamo does not trace.
    model.loss_type = "ForCausalLM"
    return model, _text(config.vocab_size, size)


def _llama(size: Size) -> tuple[torch.nn.Module, Inputs]:
    widths = {**_narrow_blocks(size), "vocab_size": 4 * size.width} if size.narrow else {}
    config = transformers.LlamaConfig(num_hidden_layers=size.layers, **widths)
    return transformers.LlamaForCausalLM(config), _text(config.vocab_size, size)


def _bert(size: Size) -> tuple[torch.nn.Module, Inputs]:
    widths = {**_narrow_blocks(size), "vocab_size": 4 * size.width} if size.narrow else {}
    config = transformers.BertConfig(num_hidden_layers=size.layers, **widths)
    return transformers.BertForMaskedLM(config), _text(config.vocab_size, size)


def _t5(size: Size) -> tuple[torch.nn.Module, Inputs]:
    widths: dict[str, int] = {}
    if size.narrow:
        widths = {
            "d_model": size.width,
            "d_ff": 2 * size.width,
            "d_kv": size.width // 4,
            "num_heads": 4,
            "vocab_size": 4 * size.width,
        }
    # So many layers in the encoder, and as many in the decoder.
    config = transformers.T5Config(num_layers=size.layers, decoder_start_token_id=0, **widths)
    return transformers.T5ForConditionalGeneration(config), _text(config.vocab_size, size)


def _resnet(size: Size) -> tuple[torch.nn.Module, Inputs]:
    widths: dict[str, Any] = {}
    if size.narrow:
        first = size.width // 4
        widths = {"embedding_size": first, "hidden_sizes": [first, 2 * first, 4 * first, 8 * first]}
    config = transformers.ResNetConfig(depths=[size.layers] * 4, **_labels(), **widths)
    return transformers.ResNetForImageClassification(config), _images(size.width if size.narrow else 224)


def _vit(size: Size) -> tuple[torch.nn.Module, Inputs]:
    widths = {**_narrow_blocks(size), "image_size": size.width} if size.narrow else {}
    config = transformers.ViTConfig(num_hidden_layers=size.layers, **_labels(), **widths)
    return transformers.ViTForImageClassification(config), _images(config.image_size)


def _narrow_blocks(size: Size) -> dict[str, int]:
    return {"hidden_size": size.width, "intermediate_size": 2 * size.width, "num_attention_heads": 4}


def _labels() -> dict[str, Any]:
    # Without a type of problem, models look at the labels' values, which fake tensors do not have.
    return {"num_labels": 10, "problem_type": "single_label_classification"}


def _text(vocabulary: int, size: Size) -> Inputs:
    tokens = torch.randint(0, vocabulary, (BATCH, size.width // 4 if size.narrow else 128))
    return {"input_ids": tokens, "labels": tokens}


def _images(width: int) -> Inputs:
    return {"pixel_values": torch.randn(BATCH, 3, width, width), "labels": torch.randint(0, 10, (BATCH,))}


MODELS: dict[str, Build] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "bert": _bert,
    "t5": _t5,
    "resnet": _resnet,
    "vit": _vit,
}
