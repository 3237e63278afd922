"""Metadata as a value."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
import torch
from both_sides import assert_same
from torch._subclasses._fake_tensor_utils import _CacheKeyState
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import fastfake

REAL = {
    "dense": lambda: torch.ones(2, 3),
    "transposed": lambda: torch.ones(2, 3).t(),
    "channels last": lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "slice": lambda: torch.ones(5, 3)[1:4, ::2],
    "requires grad": lambda: torch.ones(2, requires_grad=True),
    "conjugate": lambda: torch.ones(2, dtype=torch.complex64).conj(),
    "negative": lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
    "sparse": lambda: torch.ones(2, 3).to_sparse(),
    "coalesced": lambda: torch.ones(2, 3).to_sparse().coalesce(),
    "compressed": lambda: torch.ones(2, 3).to_sparse_csr(),
}


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("fake", [True, False])
def test_it_is_what_torch_extracts(kind: str, fake: bool) -> None:
    def program(fakes: Any) -> Any:
        tensor = REAL[kind]()
        tensor = fakes.FakeTensorMode().from_tensor(tensor) if fake else tensor
        metadata = fakes.extract_tensor_metadata(tensor)
        return dataclasses.asdict(metadata), metadata == fakes.extract_tensor_metadata(tensor)

    assert_same(program)


def test_it_can_be_pickled() -> None:
    def program(fakes: Any) -> Any:
        metadata = fakes.extract_tensor_metadata(torch.ones(2, 3))
        return pickle.loads(pickle.dumps(metadata)) == metadata

    assert assert_same(program) is True


def test_a_pickle_names_the_release_and_is_read_by_any(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = fastfake.extract_tensor_metadata(torch.ones(2, 3))
    now = pickle.dumps(ours)
    monkeypatch.setattr("fastfake.metadata.__version__", "0.0.1")
    earlier = pickle.dumps(ours)
    assert now != earlier
    assert pickle.loads(now) == pickle.loads(earlier) == ours


def flat(fakes: Any, mode: Any, tensor: Any) -> list[Any]:
    result: list[Any] = []
    fakes.extract_tensor_metadata(tensor)._flatten_into(result, mode, _CacheKeyState(mode.shape_env))
    return result


def test_flattened_it_is_equal_where_the_metadata_is() -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        tensors = [make() for make in REAL.values()] + [torch.ones(2, 3), torch.ones(2), torch.ones(2, 2)]
        values = [flat(fakes, mode, mode.from_tensor(tensor)) for tensor in tensors]
        return [[one == other for one in values] for other in values]

    assert_same(program)


def test_flattened_it_can_be_hashed_with_symbolic_sizes_too() -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode(shape_env=ShapeEnv())
        tensors = [mode.from_tensor(torch.ones(size)) for size in [(3, 4), (3, 4), (5, 5)]]
        keys = [tuple(flat(fakes, mode, tensor)) for tensor in tensors]
        again = tuple(flat(fakes, mode, tensors[0]))
        return [hash(key) == hash(again) for key in keys], [key == again for key in keys]

    assert assert_same(program) == ([True, True, False], [True, True, False])
