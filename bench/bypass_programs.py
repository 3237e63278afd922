"""The programs that the bypasses suite counts the calls of.

Training steps of distributed and of single models, steps of optimizers, exports, quantized and sparse models.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

WORLD_SIZE = 64
TENSOR_PARALLEL = 8
LAYERS = 4
BATCH, LENGTH = 2, 128

Step = Callable[[], object]


@dataclass(frozen=True)
class Program:
    """A program whose steps are alike, so that the second and all later ones find a warm cache.

    Attributes:
        kind: The group that the report sums it up with.
        name: What `--program` selects.
        prepare: Makes what the steps share, under the fake mode that is active, and returns a step.
        is_timed: Whether the suite also measures a warm step against torch's.
        requires: The package that it needs besides torch.
    """

    kind: str
    name: str
    prepare: Callable[[], Step]
    is_timed: bool = False
    requires: str | None = None

    @property
    def is_available(self) -> bool:
        """Whether the package that it needs is installed."""
        return self.requires is None or importlib.util.find_spec(self.requires) is not None


def training_step(model: nn.Module, inputs: dict[str, torch.Tensor], optimizer: Any = None) -> Step:
    """Puts together forward, loss, backward and, where there is an optimizer, its step."""

    def step() -> None:
        result = model(**inputs)
        loss = result if isinstance(result, torch.Tensor) else result.loss
        loss.sum().backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()

    return step


# Distributed: a Llama of transformers, on a process group of which this process plays the first rank.


@functools.cache
def mesh(*names_and_sizes: tuple[str, int]) -> Any:
    """Makes a device mesh of all ranks of the fake process group, with the names and the sizes of its dimensions."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    # Its ranks are real numbers, which it reads.
    with unset_fake_temporarily():
        if not dist.is_initialized():
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=WORLD_SIZE)
        names, sizes = zip(*names_and_sizes, strict=True)
        return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def llama() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Makes a Llama with few and narrow layers, and inputs for it."""
    import transformers

    config = transformers.LlamaConfig(
        num_hidden_layers=LAYERS, hidden_size=1024, intermediate_size=2816, num_attention_heads=16, vocab_size=32000
    )
    tokens = torch.randint(0, config.vocab_size, (BATCH, LENGTH))
    return _made(lambda: transformers.LlamaForCausalLM(config)), {"input_ids": tokens, "labels": tokens}


def _made(build: Callable[[], nn.Module]) -> nn.Module:
    from bench.transformers_models import uninitialized

    with uninitialized():
        return build().train()


def sharded_llama(data: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Makes a Llama that FSDP2 shards over a mesh, and inputs for it."""
    from torch.distributed.fsdp import fully_shard

    model: Any
    model, inputs = llama()
    for layer in model.model.layers:
        fully_shard(layer, mesh=data)
    fully_shard(model, mesh=data)
    return model, inputs


def _fsdp2() -> Step:
    model, inputs = sharded_llama(mesh(("data", WORLD_SIZE)))
    return training_step(model, inputs, torch.optim.AdamW(model.parameters()))


def _tensor_parallel() -> Step:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    ranks = mesh(("data", WORLD_SIZE // TENSOR_PARALLEL), ("tensor", TENSOR_PARALLEL))["tensor"]
    model: Any
    model, inputs = llama()
    columns = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    rows = ("self_attn.o_proj", "mlp.down_proj")
    plan: Any = {**{name: ColwiseParallel() for name in columns}, **{name: RowwiseParallel() for name in rows}}
    for layer in model.model.layers:
        parallelize_module(layer, ranks, plan)
    return training_step(model, inputs, torch.optim.AdamW(model.parameters()))


# Models of timm and of transformers.


def _timm(name: str) -> Step:
    import timm

    # They read small numbers while they are built.
    with unset_fake_temporarily():
        real = timm.create_model(name).train()
    model = _converted(real)
    size = real.default_cfg["input_size"][-1]
    return training_step(model, {"x": torch.randn(BATCH, 3, size, size)})


def _converted(module: nn.Module) -> nn.Module:
    mode: Any = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    with unset_fake_temporarily():
        for part in module.modules():
            for name, parameter in list(part._parameters.items()):
                if parameter is not None:
                    part._parameters[name] = mode.from_tensor(parameter)
            for name, buffer in list(part._buffers.items()):
                if buffer is not None:
                    part._buffers[name] = mode.from_tensor(buffer)
    return module


def _transformers(
    model_name: str, config_name: str, inputs: Callable[[], dict[str, torch.Tensor]], **sizes: Any
) -> Step:
    import transformers

    config = getattr(transformers, config_name)(**sizes)
    model = _made(lambda: getattr(transformers, model_name)(config))
    return training_step(model, inputs())


def _text() -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, 512, (BATCH, LENGTH))
    return {"input_ids": tokens, "labels": tokens}


def _text_to_text() -> dict[str, torch.Tensor]:
    return {**_text(), "decoder_input_ids": torch.randint(0, 512, (BATCH, LENGTH))}


def _images() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(BATCH, 3, 64, 64), "labels": torch.randint(0, 2, (BATCH,))}


_BLOCKS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "vocab_size": 512,
}
_LABELS = {"num_labels": 2, "problem_type": "single_label_classification"}
FAMILIES: dict[str, tuple[str, str, Callable[[], dict[str, torch.Tensor]], dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _text, _BLOCKS),
    "mistral": ("MistralForCausalLM", "MistralConfig", _text, {**_BLOCKS, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _text, {**_BLOCKS, "num_key_value_heads": 2}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _text, {**_BLOCKS, "num_key_value_heads": 2, "head_dim": 16}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _text, {**_BLOCKS, "num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        _text,
        {"n_embd": 64, "n_head": 4, "n_layer": LAYERS, "vocab_size": 512},
    ),
    "bert": ("BertForMaskedLM", "BertConfig", _text, _BLOCKS),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        _text_to_text,
        {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": LAYERS, "vocab_size": 512},
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        _text_to_text,
        {"d_model": 64, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "vocab_size": 512},
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        _images,
        {**{name: size for name, size in _BLOCKS.items() if name != "vocab_size"}, "image_size": 64, **_LABELS},
    ),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", _images, _LABELS),
}
TIMM_MODELS = (
    "resnet50",
    "vit_small_patch16_224",
    "convnext_tiny",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_100",
    "mixer_s32_224",
    "regnety_002",
)


# Optimizers.


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adadelta": {},
    "Adagrad": {},
    "Adam": {},
    "AdamW": {},
    "Adamax": {},
    "ASGD": {},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9},
    "Rprop": {},
    "SGD": {"momentum": 0.9},
}
VARIANTS: dict[str, dict[str, bool]] = {
    "for loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"foreach": True, "capturable": True},
}
_FUSED = ("Adagrad", "Adam", "AdamW", "SGD")
_NOT_CAPTURABLE = ("Adagrad", "SGD")
# It looks at values that fake tensors do not have.
_ONLY_CAPTURABLE = ("ASGD",)


def _optimizer(name: str, variant: dict[str, bool]) -> Step:
    # Capturable ones want tensors of an accelerator, and fused ones tensors that have kernels for it.
    device = "cuda" if "capturable" in variant else "cpu"
    weights = [torch.empty(16, 16, device=device, requires_grad=True) for _ in range(8)]
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    optimizer = getattr(torch.optim, name)(weights, lr=0.01, **OPTIMIZERS[name], **variant)
    return lambda: optimizer.step()


# Exports.


def _export(build: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]) -> Step:
    # It makes a mode of its own.
    with unset_fake_temporarily():
        model, inputs = build()

    def step() -> None:
        with unset_fake_temporarily():
            torch.export.export(model, inputs).run_decompositions()

    return step


def _convolutions() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2704, 10)]
    return nn.Sequential(*layers).eval(), (torch.randn(BATCH, 3, 28, 28),)


def _transformer() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(), (torch.randn(BATCH, 16, 64),)


# Quantized and sparse models.


def _quantized() -> Step:
    weight, scales = torch.empty(64, 64, dtype=torch.int8), torch.empty(64)
    zeros = torch.zeros(64, dtype=torch.int64)
    decomposed = importlib.import_module("torch.ao.quantization.fx._decomposed")
    assert decomposed is not None  # which registers the operators
    quantized = torch.ops.quantized_decomposed
    x = torch.empty(BATCH, 64)

    def step() -> None:
        inner = quantized.quantize_per_tensor.default(x, 0.1, 0, -128, 127, torch.int8)
        restored = quantized.dequantize_per_tensor.default(inner, 0.1, 0, -128, 127, torch.int8)
        wide = quantized.dequantize_per_channel.default(weight, scales, zeros, 0, -128, 127, torch.int8)
        nn.functional.linear(restored, wide)
        torch._int_mm(inner.repeat(16, 1), weight.t())
        torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)

    return step


def _sparse() -> Step:
    indices, values = torch.zeros(2, 8, dtype=torch.int64), torch.empty(8)
    x = torch.empty(16, 4, requires_grad=True)

    def step() -> None:
        matrix = torch.sparse_coo_tensor(indices, values, (16, 16), is_coalesced=True, check_invariants=False)
        torch.sparse.mm(matrix, x).sum().backward()

    return step


def _sparse_embedding() -> Step:
    table = nn.Embedding(100, 16, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    tokens = torch.zeros(BATCH, 8, dtype=torch.int64)

    def step() -> None:
        table(tokens).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _programs() -> list[Program]:
    programs = [
        Program("distributed", "FSDP2 of 64", _fsdp2, is_timed=True, requires="transformers"),
        Program("distributed", "TP of 8", _tensor_parallel, is_timed=True, requires="transformers"),
    ]
    for name in TIMM_MODELS:
        programs.append(Program("timm", name, functools.partial(_timm, name), requires="timm"))
    for name, (model, config, inputs, sizes) in FAMILIES.items():
        prepare = functools.partial(_transformers, model, config, inputs, **sizes)
        programs.append(Program("transformers", name, prepare, requires="transformers"))
    for variant, settings in VARIANTS.items():
        for name in OPTIMIZERS:
            lacking = {"fused": set(OPTIMIZERS) - set(_FUSED), "capturable": set(_NOT_CAPTURABLE)}
            if name in lacking.get(variant, _ONLY_CAPTURABLE):
                continue
            programs.append(Program("optimizers", f"{name}, {variant}", functools.partial(_optimizer, name, settings)))
    programs += [
        Program("export", "convolutions, decomposed", functools.partial(_export, _convolutions)),
        Program("export", "transformer, decomposed", functools.partial(_export, _transformer)),
        Program("quantized", "decomposed quantization", _quantized),
        Program("sparse", "COO matrix", _sparse),
        Program("sparse", "embedding", _sparse_embedding),
    ]
    return programs


PROGRAMS = {program.name: program for program in _programs()}
