"""Models of torchvision and timm can be built and trained under a mode with known values, as on the CPU; on CUDA, too.

Many read small tensors while they are built: rates of stochastic depth are `torch.linspace(0, rate, depth).tolist()`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from fastfake import FakeTensorMode, pretend

pytestmark = pytest.mark.exhaustive

CUDA = torch.device("cuda:0")


class Metadata(NamedTuple):
    """What is compared of a tensor."""

    shape: tuple[int, ...]
    strides: tuple[int | None, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Model:
    """A model, and the batch that it is given.

    Attributes:
        library: where it is from.
        name: under which the library makes it.
        size: of the square images, in pixels.
        settings: for the library.
        shape: of the batch, where it is no batch of images.
    """

    library: str
    name: str
    size: int = 64
    settings: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.library}-{self.name}"

    def make(self) -> torch.nn.Module:
        model: torch.nn.Module = makers()[self.library](self.name, **dict(self.settings))
        return model

    def batch(self) -> torch.Tensor:
        return torch.randn(self.shape or (2, 3, self.size, self.size))


def torchvision(name: str, size: int = 64, shape: tuple[int, ...] | None = None, **settings: Any) -> Model:
    return Model("torchvision", name, size, (("weights", None), *settings.items()), shape)


def timm(name: str, size: int = 64, **settings: Any) -> Model:
    return Model("timm", name, size, (("pretrained", False), *settings.items()))


MODELS = [
    torchvision("alexnet"),
    torchvision("convnext_tiny"),
    torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None),
    torchvision("densenet121"),
    torchvision("efficientnet_b0"),
    torchvision("efficientnet_v2_s"),
    torchvision("googlenet", init_weights=False),
    torchvision("inception_v3", 75, init_weights=False, aux_logits=False),
    torchvision("lraspp_mobilenet_v3_large", weights_backbone=None),
    torchvision("mnasnet0_5"),
    torchvision("mobilenet_v2"),
    torchvision("mobilenet_v3_small"),
    torchvision("r3d_18", shape=(1, 3, 4, 32, 32)),
    torchvision("regnet_y_400mf"),
    torchvision("resnet18"),
    torchvision("shufflenet_v2_x0_5"),
    torchvision("squeezenet1_0"),
    torchvision("squeezenet1_1"),
    torchvision("swin3d_t", shape=(1, 3, 4, 32, 32)),
    torchvision("swin_t"),
    torchvision("swin_v2_t"),
    torchvision("vgg11_bn"),
    torchvision("vit_b_32", image_size=64),
    timm("cait_xxs24_224", img_size=64),
    timm("coat_lite_tiny", img_size=64),
    timm("convit_tiny", img_size=64),
    timm("convnextv2_atto"),
    timm("crossvit_tiny_240", 240),
    timm("davit_tiny"),
    timm("deit_tiny_distilled_patch16_224", img_size=64),
    timm("edgenext_xx_small"),
    timm("efficientformer_l1", 224),
    timm("eva02_tiny_patch14_224", 56, img_size=56),
    timm("fastvit_t8"),
    timm("focalnet_tiny_srf"),
    timm("gcvit_xxtiny", 224),
    timm("ghostnet_050"),
    timm("hgnetv2_b0"),
    timm("hrnet_w18_small"),
    timm("inception_next_atto"),
    timm("lcnet_050"),
    timm("levit_128s", 224),
    timm("mambaout_femto"),
    timm("mixer_s32_224", img_size=64),
    timm("mobilevit_xxs"),
    timm("nest_tiny", img_size=64),
    timm("pit_ti_224", 224),
    timm("poolformer_s12"),
    timm("pvt_v2_b0"),
    timm("regnetz_005"),
    timm("repvgg_a0"),
    timm("resnest14d"),
    timm("starnet_s1"),
    timm("swinv2_cr_tiny_ns_224", img_size=64, window_size=2),
    timm("tiny_vit_5m_224", 224),
    timm("tnt_s_patch16_224", 224),
    timm("twins_pcpvt_small", 224),
    timm("visformer_tiny", 224),
    timm("volo_d1_224", 224),
    timm("xcit_nano_12_p16_224", img_size=64),
]

# They draw weights again until all are within bounds, which is not to be known.
DRAW_UNTIL_ALL_FIT = frozenset({"convnext_tiny", "swin3d_t", "swin_t", "swin_v2_t", "vit_b_32"})


@functools.cache
def makers() -> dict[str, Any]:
    """Return what makes the models of each library. Skips where one is not installed."""
    # A torchvision whose native part does not fit this torch cannot be imported otherwise. No model here calls these.
    for name, arguments in (("nms", "float iou_threshold"), ("qnms", "float iou_threshold")):
        with contextlib.suppress(RuntimeError):
            torch.library.define(f"torchvision::{name}", f"(Tensor dets, Tensor scores, {arguments}) -> Tensor")
    vision = pytest.importorskip("torchvision", reason="torchvision is an extra of the exhaustive tests")
    image_models = pytest.importorskip("timm", reason="timm is an extra of the exhaustive tests")
    return {"torchvision": vision.models.get_model, "timm": image_models.create_model}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread, since the tests beside this one compute too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def metadata(t: torch.Tensor) -> Metadata:
    # Where nothing is stepped along, torch's meta kernels do not always give the stride that real ones give.
    strides = tuple(step if n > 1 else None for n, step in zip(t.shape, t.stride(), strict=True))
    return Metadata(tuple(t.shape), strides, t.dtype, t.device)


@contextlib.contextmanager
def recorded_outputs(model: torch.nn.Module) -> Iterator[list[tuple[str, list[Metadata]]]]:
    """Note what each module gives."""
    outputs: list[tuple[str, list[Metadata]]] = []

    def note(name: str, result: object) -> None:
        outputs.append((name, [metadata(t) for t in tree_leaves(result) if isinstance(t, torch.Tensor)]))

    hooks = [
        module.register_forward_hook(lambda _module, _arguments, result, name=name: note(name, result))
        for name, module in model.named_modules()
    ]
    yield outputs
    for hook in hooks:
        hook.remove()


def trained(spec: Model) -> dict[str, Any]:
    """Build the model, run it forward and backward, and tell the metadata of all that comes up."""
    model = spec.make()
    with recorded_outputs(model) as outputs:
        result = model(spec.batch())
    sum(t.float().sum() for t in tree_leaves(result) if isinstance(t, torch.Tensor)).backward()
    return {
        "outputs": outputs,
        "parameters": {name: metadata(p) for name, p in model.named_parameters()},
        "buffers": {name: metadata(b) for name, b in model.named_buffers()},
        "gradients": {name: None if p.grad is None else metadata(p.grad) for name, p in model.named_parameters()},
    }


def test_there_are_sixty_models_of_which_few_need_numbers_that_are_not_known() -> None:
    assert len(set(map(str, MODELS))) == 60
    assert len(DRAW_UNTIL_ALL_FIT) <= 5


@pytest.mark.parametrize("spec", MODELS, ids=str)
def test_a_model_is_built_and_trained_with_the_metadata_of_a_real_one(spec: Model) -> None:
    makers()
    stand_in = 0.0 if spec.library == "torchvision" and spec.name in DRAW_UNTIL_ALL_FIT else None
    real = trained(spec)
    with FakeTensorMode(known_values=True, unknown_items=stand_in):
        fake = trained(spec)
    for part, expected in real.items():
        assert fake[part] == expected, part
    with pretend(), FakeTensorMode(known_values=True, unknown_items=stand_in), torch.device("cuda"):
        on_cuda = trained(spec)
    for part, expected in real.items():
        assert on_cpu(on_cuda[part]) == without_strides(expected), part


def without_strides(part: Any) -> Any:
    """Return metadata but for strides: after a convolution they are those of cuDNN, if torch was built with it."""
    return tree_map(lambda leaf: leaf[:1] + leaf[2:], part, is_leaf=lambda node: isinstance(node, Metadata))


def on_cpu(part: Any) -> Any:
    """Return metadata of tensors on the first CUDA device as those of tensors on the CPU, but for strides."""
    return tree_map(lambda leaf: torch.device("cpu") if leaf == CUDA else leaf, without_strides(part))
