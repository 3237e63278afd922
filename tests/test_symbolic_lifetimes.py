"""What the cache keeps alive for symbolic shapes: nothing but itself, and that no longer than the ShapeEnv."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from symbolic_tensors import (
    collect,
    describe,
    dynamic,
    hits,
    hits_in,
    known_to,
    shape_env_of,
    size,
    symbolic_mode,
    unbacked,
)
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fastfake import FakeTensorMode


def use(mode: FakeTensorMode) -> torch.Tensor:
    """Fill the cache with answers of each kind, and answer from it."""
    with mode:
        x = dynamic(mode, 4, 6)
        for _ in range(3):
            y = x + 1
            torch.cat([y.view(-1), x.view(-1)]).new_empty(x.shape[0] * 3)
            x[1:].t().sum(0)
            x.max(1)
            torch.full([2], x.shape[0] / 3)
        assert hits_in(functools.partial(torch.add, x, 1)) == 1
    return y


def use_and_drop() -> None:
    use(symbolic_mode())


def rest_of(x: torch.Tensor) -> torch.Tensor:
    return x[1:]


def settled(make: Callable[[], object] = use_and_drop) -> int:
    """The number of entries after a first use, whose entries without symbols stay."""
    make()
    collect()
    return size()


def test_the_entries_of_a_shape_env_go_with_it() -> None:
    before = settled()
    mode = symbolic_mode()
    tensor = use(mode)
    assert size() > before
    reference = weakref.ref(shape_env_of(mode))
    del mode, tensor
    collect()
    assert reference() is None
    assert size() == before


def test_nothing_that_an_entry_was_made_of_stays_alive() -> None:
    mode = symbolic_mode()
    with mode:
        model = nn.Linear(6, 3)
        x = dynamic(mode, 4, 6, name="first")
        size_of_x = x.shape[0]
        result = model(x).view(-1)
        del result
        result = model(x).view(-1)
        assert hits_in(functools.partial(model, x)) > 0
        node = (size_of_x * 2).node
        x.new_empty(torch.SymInt(node))
        references = [weakref.ref(each) for each in (model, model.weight, x, result, node, result.shape[0].node)]
        del model, x, result, node, size_of_x
        collect()
        assert [reference() for reference in references[:5]] == [None] * 5
        # The cache still is full.
        assert mode.shape_env is not None
    reference = weakref.ref(mode)
    del mode
    collect()
    assert reference() is None


def test_a_shape_env_dies_while_its_mode_lives_on() -> None:
    before = settled()
    mode = symbolic_mode()
    use(mode)
    reference = weakref.ref(shape_env_of(mode))
    mode.shape_env = None
    mode.fake_tensor_converter = type(mode.fake_tensor_converter)()
    collect()
    assert reference() is None
    assert size() == before
    with mode:
        assert torch.empty(3).sin().shape == (3,)


def test_a_mode_dies_while_its_shape_env_lives_on_and_the_answers_stay() -> None:
    mode = symbolic_mode()
    with mode:
        x = torch.empty(dynamic(mode, 4, 6).shape)
        shape = x.shape
        for _ in range(2):
            x[1:]
    shape_env, reference = shape_env_of(mode), weakref.ref(mode)
    del mode, x
    collect()
    assert reference() is None
    with FakeTensorMode(shape_env=shape_env):
        y = torch.empty(shape)
        assert hits_in(functools.partial(rest_of, y)) == 1


def test_two_hundred_shape_envs_leave_no_entries_behind() -> None:
    before = settled()
    references = []
    for _ in range(200):
        mode = symbolic_mode()
        use(mode)
        references.append(weakref.ref(shape_env_of(mode)))
    del mode
    collect()
    assert not any(reference() for reference in references)
    assert size() == before


@pytest.mark.exhaustive
def test_a_shape_env_at_the_address_of_one_that_is_gone_has_answers_of_its_own() -> None:
    seen: set[int] = set()
    for number in range(200):
        mode = symbolic_mode()
        is_again = id(mode.shape_env) in seen
        seen.add(id(mode.shape_env))
        with mode:
            x = dynamic(mode, 4 + number, 6)
            before = hits()
            first = x[1:]
            assert hits() == before
            assert first.shape[0].node.hint == 3 + number
            assert x[1:].shape[0].node.hint == 3 + number
            assert hits_in(functools.partial(rest_of, x)) == 1
        del mode, x, first
        collect()
        if is_again:
            break
    else:
        pytest.fail("no ShapeEnv was at the address of an earlier one")


class Resurrected(ShapeEnv):
    """Comes back to life when it dies."""

    kept: ClassVar[list[Resurrected]] = []

    def __del__(self) -> None:
        self.kept.append(self)


def test_a_shape_env_that_comes_back_to_life_is_as_good_as_new() -> None:
    mode = FakeTensorMode(shape_env=Resurrected(duck_shape=False))
    with mode:
        shape = dynamic(mode, 4, 6).shape
        x = torch.empty(shape)
        for _ in range(2):
            x[1:]
    del mode, x, shape
    collect()
    shape_env = Resurrected.kept.pop()
    mode = FakeTensorMode(shape_env=shape_env)
    with mode:
        y = dynamic(mode, 5, 7)
        for _ in range(3):
            assert y[1:].shape[0].node.hint == 4
        assert hits_in(functools.partial(rest_of, y)) == 1
    Resurrected.__del__ = lambda self: None  # type: ignore[method-assign]


class Slotted:
    """Looks like a ShapeEnv, but no weak reference to it can be made."""

    __slots__ = ("_translation_validation_enabled", "should_record_events")

    def __init__(self) -> None:
        self.should_record_events = self._translation_validation_enabled = False


@pytest.mark.parametrize(
    "stranger", [object(), 5, "text", Slotted(), type("Empty", (), {})()], ids=lambda x: type(x).__name__
)
def test_a_mode_whose_shape_env_is_none_computes(stranger: object) -> None:
    mode = symbolic_mode()
    with mode:
        x = dynamic(mode, 4, 6)
        for _ in range(2):
            x.sin()
        shape_env, mode.shape_env = mode.shape_env, stranger  # type: ignore[assignment]
        try:
            before = hits()
            try:
                result = x.sin()
            except (AttributeError, TypeError):
                pass
            else:
                assert describe(result.shape) == describe(x.shape)
            assert hits() == before
        finally:
            mode.shape_env = shape_env
        assert hits_in(x.sin) == 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_used_shape_env_do_not_depend_on_what_the_cache_keeps(copied: Callable[[Any], Any]) -> None:
    mode = symbolic_mode()
    use(mode)
    try:
        twin = copied(mode.shape_env)
    except Exception as refused:
        with pytest.raises(type(refused)):  # torch's do as little
            copied(symbolic_mode().shape_env)
        return
    assert known_to(twin) == known_to(shape_env_of(mode))
    reference = weakref.ref(twin)
    with FakeTensorMode(shape_env=twin) as other:
        y = dynamic(other, 5, 7, name="y")
        for _ in range(3):
            assert y[1:].shape[0].node.shape_env is twin
        assert hits_in(functools.partial(rest_of, y)) == 1
    del twin, other, y
    collect()
    assert reference() is None
    with mode:
        x = dynamic(mode, 4, 6, name="z")
        x.sin()
        assert hits_in(x.sin) == 1


def test_a_clear_in_the_life_of_a_shape_env_leaves_it_usable() -> None:
    mode = symbolic_mode()
    with mode:
        x = dynamic(mode, 4, 6)
        for _ in range(3):
            for _ in range(2):
                x.sin(), x[1:]
            assert hits_in(functools.partial(rest_of, x)) == 1
            FakeTensorMode.cache_clear()
            assert size() == 0
            int(x.shape[0])
            unbacked(mode, 2, 10)
    del mode, x
    collect()
    assert size() >= 0


def test_collecting_a_shape_env_in_the_middle_of_another_call_does_no_harm() -> None:
    mode = symbolic_mode()
    threshold = gc.get_threshold()
    with mode:
        x = dynamic(mode, 4, 6)
        gc.disable()
        for _ in range(5):
            use_and_drop()  # a cycle each
        gc.set_threshold(1)
        try:
            gc.enable()
            for _ in range(5):
                assert x[1:].shape[0].node.hint == 3
                assert torch.cat([x, x]).shape[0].node.hint == 8
        finally:
            gc.set_threshold(*threshold)
            gc.enable()
        assert hits_in(functools.partial(rest_of, x)) == 1
