"""What a recipe remembers of the results of a call, and which results it refuses to remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from both_sides import on_ours, on_torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fastfake import FakeTensor, FakeTensorMode
from fastfake.miss import pipeline

aten = torch.ops.aten


@pytest.fixture
def computes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Callable[..., object]], None]:
    """Replace what an operator computes."""

    def replace(operator: Any, compute: Callable[..., object]) -> None:
        run = pipeline.run

        def instead(mode: FakeTensorMode, func: Any, args: Any, kwargs: Any) -> object:
            if func is not operator:
                return run(mode, func, args, kwargs)
            with mode:
                return compute(*args)

        monkeypatch.setattr(pipeline, "run", instead)

    return replace


def bypasses(reason: str) -> int:
    return FakeTensorMode.cache_info().bypasses.get(reason, 0)


def meta(**keywords: Any) -> torch.Tensor:
    return torch.empty(3, device="meta", **keywords)


class Derived(FakeTensor):
    """A class of fake tensors that a user derived."""


def with_attribute(mode: FakeTensorMode, name: str, value: object) -> FakeTensor:
    fake = FakeTensor(mode, meta(), torch.device("cpu"))
    setattr(fake, name, value)
    return fake


def quantized(mode: FakeTensorMode) -> FakeTensor:
    """A fake tensor around the constructor, which refuses them: of another class of TensorImpl, with a storage."""
    real = torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)
    fake: FakeTensor = torch.Tensor._make_subclass(FakeTensor, real)
    for name in ("constant", "real_tensor", "pytype", "dispatch_keys", "_memos"):
        setattr(fake, name, None)
    fake.fake_mode, fake._fake_device = mode, torch.device("cpu")
    return fake


# By the rule that refuses it: a result, and the reason that is counted.
REFUSED: dict[str, tuple[Callable[[FakeTensorMode], object], str]] = {
    "rule: result of a derived class": (
        lambda mode: Derived(mode, meta(), torch.device("cpu")),
        "non-FakeTensor output",
    ),
    "rule: result of another mode": (
        lambda mode: FakeTensor(FakeTensorMode(), meta(), torch.device("cpu")),
        "not our fake",
    ),
    "rule: result with a known value": (
        lambda mode: with_attribute(mode, "constant", torch.ones(3)),
        "constant attribute",
    ),
    "rule: result with attributes": (
        lambda mode: with_attribute(mode, "dispatch_keys", torch._C._dispatch_keys(meta())),
        "output with attributes",
    ),
    "rule: result of a special kind": (quantized, "tensor kind"),
    "rule: result that requires grad": (
        lambda mode: FakeTensor(mode, meta(requires_grad=True), torch.device("cpu")),
        "output requires grad",
    ),
}


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
@pytest.mark.parametrize("rule", REFUSED)
def test_a_result_of_which_a_recipe_would_lose_something_is_computed_each_time(
    mode: FakeTensorMode, computes: Callable[..., None], rule: str
) -> None:
    make, reason = REFUSED[rule]
    with torch.inference_mode(False):
        x = torch.empty(3)
        made: list[object] = []

        def compute(x: torch.Tensor) -> object:
            with torch._C._DisableTorchDispatch(), torch._subclasses.fake_tensor.unset_fake_temporarily():
                made.append(make(mode))
            return made[-1]

        computes(aten.sin.default, compute)
        for count in (1, 2):
            x.sin()
            assert len(made) == count
            assert bypasses(reason) == count


@pytest.mark.parametrize(
    ("layout", "reason"),
    [(torch.sparse_coo, "sparse output"), (torch.sparse_csr, "sparse compressed output")],
    ids=str,
)
def test_sparse_results_are_computed_each_time_for_torchs_reason(
    mode: FakeTensorMode, layout: torch.layout, reason: str
) -> None:
    for count in (1, 2):
        assert torch.empty(2, 3, layout=layout).layout is layout
        assert bypasses(reason) == count


def test_a_result_that_is_an_argument_is_that_argument_again(mode: FakeTensorMode) -> None:
    with torch.inference_mode():  # where autograd does not return the argument itself
        for _ in range(2):
            x = torch.empty(3)
            assert aten.add_.Tensor(x, 1) is x
    assert FakeTensorMode.cache_info().hits > 0


def test_a_result_that_comes_twice_is_one_tensor_again(mode: FakeTensorMode, computes: Callable[..., None]) -> None:
    computes(aten.max.dim, lambda x, dim: (twice := torch.empty(3), twice))
    with torch.inference_mode():
        for _ in range(2):
            values, indices = aten.max.dim(torch.empty(3, 3), 1)
            assert values is indices
    # Of the two calls the second.
    assert (FakeTensorMode.cache_info().hits, FakeTensorMode.cache_info().bypasses) == (2, {})


def test_results_on_one_fresh_storage_share_one_again(mode: FakeTensorMode, computes: Callable[..., None]) -> None:
    def compute(x: torch.Tensor, dim: int) -> object:
        base = torch.empty(6)
        return base[:3], base[3:]

    computes(aten.max.dim, compute)
    with torch.inference_mode():
        storages = set()
        kept = []
        for _ in range(2):
            values, indices = aten.max.dim(torch.empty(3, 3), 1)
            assert values.untyped_storage()._cdata == indices.untyped_storage()._cdata
            assert (values.storage_offset(), indices.storage_offset()) == (0, 3)
            storages.add(values.untyped_storage()._cdata)
            kept.append(values)
    assert len(storages) == 2
    assert (FakeTensorMode.cache_info().hits, FakeTensorMode.cache_info().bypasses) == (2, {})


def test_a_view_is_on_the_storage_of_the_argument_that_it_is_given(mode: FakeTensorMode) -> None:
    for _ in range(2):
        x = torch.empty(6)
        assert x.view(2, 3).untyped_storage()._cdata == x.untyped_storage()._cdata
    assert FakeTensorMode.cache_info().hits > 0


def test_a_fresh_storage_is_as_large_as_the_first_one(mode: FakeTensorMode) -> None:
    for _ in range(2):
        assert torch.empty(3).untyped_storage().nbytes() == 12
        assert torch.empty_strided((2,), (3,)).untyped_storage().nbytes() == 16
    assert FakeTensorMode.cache_info().hits == 2


@pytest.mark.parametrize("resized", [False, True])
def test_an_operator_that_changes_its_arguments_is_computed_each_time(mode: FakeTensorMode, resized: bool) -> None:
    for _ in range(3):
        out = torch.empty(0 if resized else 3)
        assert torch.add(torch.empty(3), 1, out=out).shape == (3,)
    assert bypasses("arguments changed") == (3 if resized else 0)


def shared_nodes(fakes: Any) -> list[tuple[bool, bool]]:
    """Of each of two equal calls: whether both results have the same node for a size, and so a view and its base."""
    mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
    fake = mode.from_tensor(torch.ones(2, 3, 8, 9))
    size = fake.numel()
    found = []
    with mode:
        for _ in range(2):
            values, indices = aten.max_pool2d_with_indices(fake, [2, 2])
            flat = aten.view(fake, [-1])
            found.append((values.shape[2].node is indices.shape[2].node, flat.shape[0].node is size.node))
    return found


def test_results_share_the_nodes_of_their_sizes_each_time_and_not_only_when_torch_computes_them() -> None:
    assert on_torch(shared_nodes) == [(True, True), (False, False)]
    assert on_ours(shared_nodes) == [(True, True), (True, True)]
