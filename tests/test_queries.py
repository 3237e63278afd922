"""Questions about fake tensors, and ways to step out of the mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from both_sides import assert_same
from torch.testing._internal.two_tensor import TwoTensor

FUNCTIONS = ["is_fake", "maybe_get_fake_mode"]


def wrappers(fakes: Any, mode: Any) -> list[Any]:
    fake, real = mode.from_tensor(torch.ones(2)), torch.ones(2)
    functional = torch._to_functional_tensor(fake)
    return [
        fake,
        real,
        3,
        None,
        TwoTensor(fake, fake),
        TwoTensor(real, real),
        TwoTensor(TwoTensor(fake, fake), TwoTensor(fake, fake)),
        functional,
        torch._to_functional_tensor(real),
    ]


def test_fake_tensors_are_told_from_real_ones_in_wrappers_too() -> None:
    def program(fakes: Any) -> Any:
        return [fakes.is_fake(value) for value in wrappers(fakes, fakes.FakeTensorMode())]

    assert True in assert_same(program)


def test_the_mode_is_found_in_wrappers_too() -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        return [fakes.maybe_get_fake_mode(value) is mode for value in wrappers(fakes, mode)]

    assert True in assert_same(program)


def test_a_wrapper_of_vmap_is_looked_into() -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        answers = []

        def inside(tensor: Any) -> Any:
            answers.append((fakes.is_fake(tensor), fakes.maybe_get_fake_mode(tensor) is mode))
            return tensor

        torch.vmap(inside)(mode.from_tensor(torch.ones(2, 3)))
        return answers

    assert assert_same(program) == [(True, True)]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_wrapper_of_a_fake_and_a_real_tensor_is_refused(function: str) -> None:
    def program(fakes: Any) -> Any:
        fake = fakes.FakeTensorMode().from_tensor(torch.ones(2))
        return getattr(fakes, function)(TwoTensor(fake, torch.ones(2))) is not None

    assert assert_same(program).kind == "AssertionError"


def test_plain_tensors_of_wrappers_are_listed_in_order() -> None:
    def program(fakes: Any) -> Any:
        parts = [torch.ones(2) for _ in range(3)]
        nested = TwoTensor(TwoTensor(parts[0], parts[0]), TwoTensor(parts[1], parts[1]))
        out: list[Any] = [7]
        result = fakes.get_plain_tensors(nested, out=out)
        fakes.get_plain_tensors(parts[2], out=out)
        return result is out, [[part is x for part in parts].index(True) for x in out[1:]]

    assert assert_same(program) == (True, [0, 0, 1, 1, 2])


@pytest.mark.parametrize("fails", [True, False])
def test_the_cache_is_disabled_for_a_while(fails: bool) -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        inside = None
        try:
            with fakes.disable_fake_tensor_cache(mode):
                inside = mode.cache_enabled
                if fails:
                    raise KeyError
        except KeyError:
            pass
        return inside, mode.cache_enabled

    assert assert_same(program) == (False, True)


def test_without_the_cache_nothing_is_counted() -> None:
    def program(fakes: Any) -> Any:
        mode = fakes.FakeTensorMode()
        fakes.FakeTensorMode.cache_clear()
        with mode, fakes.disable_fake_tensor_cache(mode):
            torch.empty(2, 3).sin().sin()
        info = fakes.FakeTensorMode.cache_info()
        return info.hits, info.misses, info.bypasses, info.size

    assert assert_same(program) == (0, 0, {}, 0)


@pytest.mark.parametrize("fails", [True, False])
def test_the_mode_is_unset_for_a_while(fails: bool) -> None:
    def program(fakes: Any) -> Any:
        kinds = []
        with fakes.FakeTensorMode() as mode:
            try:
                with fakes.unset_fake_temporarily() as unset:
                    kinds += [type(torch.ones(2)).__name__, unset is mode]
                    if fails:
                        raise KeyError
            except KeyError:
                pass
            kinds.append(type(torch.ones(2)).__name__)
        return kinds

    assert assert_same(program) == ["Tensor", True, "FakeTensor"]


def test_there_may_be_no_mode_to_unset() -> None:
    def program(fakes: Any) -> Any:
        with fakes.unset_fake_temporarily() as unset:
            return unset

    assert assert_same(program) is None


def test_leaves_of_one_type_are_listed() -> None:
    tree = {"numbers": [1, 2.0, (3,)], "text": "x", "flag": True}
    assert assert_same(lambda fakes: fakes.tree_flatten_only(int, tree)) == [1, 3, True]


def test_an_ordered_set_is_a_dictionary_in_order() -> None:
    assert assert_same(lambda fakes: list(fakes.ordered_set(3, 1, 2, 1).items())) == [(3, True), (1, True), (2, True)]


def test_an_ordered_set_may_be_empty() -> None:
    assert assert_same(lambda fakes: fakes.ordered_set()) == {}
