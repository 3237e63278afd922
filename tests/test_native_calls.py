"""Calls that native code answers without the cache: with values that are known, and marks for the profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import both_sides
import pytest
import torch
import torch._subclasses.fake_tensor
from torch.library import Library

from fastfake import FakeTensorMode

aten = torch.ops.aten

VALUES = (3, 2.5, True, 1 + 2j, [7], [2.0])


def as_known(mode: Any, value: Any, **settings: Any) -> Any:
    return torch.tensor(value, **settings)


def described(tensor: Any) -> Any:
    return both_sides.describe(tensor), tensor._version, tensor.constant is not None and tensor.constant._version


# What is done with a tensor whose value is known. Each returns what can be seen of it.
PROGRAMS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "item": lambda fakes, x: (x.item(), type(x.item())),
    "tolist": lambda fakes, x: x.tolist(),
    "added to": lambda fakes, x: (x.add_(2), x.item(), x.add_(0.0) if x.dtype.is_floating_point else x),
    "gives itself": lambda fakes, x: [x.add_(1) is x, x.mul_(2) is x, x.fill_(5) is x, x.item()],
    "by a known tensor": lambda fakes, x: (x.mul_(torch.tensor(3)), x.item()),
    "by itself": lambda fakes, x: (x.add_(x), x.item()),
    "twice": lambda fakes, x: [x.add_(1).item() for _ in range(4)],
    "seen by a view": lambda fakes, x: (lambda view: (x.add_(1).item(), view.item()))(x.view(1, 1)),
    "through a view": lambda fakes, x: (x.view(1, 1).add_(1), x.item()),
    "forgotten": lambda fakes, x: (x.add_(torch.empty(())), x.constant is None),
    "refused": lambda fakes, x: x.add_(torch.tensor([1, 2, 3])),
    "of another type": lambda fakes, x: x.add_(1j),
    "at random": lambda fakes, x: x.to(torch.float32).uniform_().constant is None,
    "to be copied": lambda fakes, x: (x.copy_(torch.tensor(4)), x.item()),
    "zeroed": lambda fakes, x: (x.zero_(), x.item()),
    "clamped": lambda fakes, x: x.clamp_(0, 1) if not x.dtype.is_complex else None,
    "by a scalar of another dtype": lambda fakes, x: (x.div_(2), x.item()),
    "in a copy": lambda fakes, x: (lambda copy: (copy.add_(1).item(), x.item(), copy.add_(1) is copy))(
        __import__("copy").deepcopy(x)
    ),
}


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"in a copy"}))
def test_what_becomes_of_known_values_is_what_torch_computes(name: str) -> None:
    def on(value: Any) -> Callable[[Any], Any]:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode():
                x = torch.tensor(value)
                result = both_sides.outcome(lambda fakes: PROGRAMS[name](fakes, x))
                return result, described(x)

        return program

    both_sides.assert_all_same({str(value): on(value) for value in VALUES})


def test_a_copy_of_a_known_tensor_keeps_its_own_value(mode: FakeTensorMode) -> None:
    # Under a mode torch refuses to copy one.
    copied, item, is_itself = PROGRAMS["in a copy"](None, torch.tensor(3))
    assert (copied, item) == (4, 3)
    assert is_itself in (True, False)


def test_they_count_as_answered_and_run_no_python_dispatch(mode: FakeTensorMode) -> None:
    x = torch.tensor(3.0)
    x.add_(1), x.item()
    before = FakeTensorMode.cache_info()
    for count in range(5):
        x.add_(1)
        assert x.item() == 5 + count
    after = FakeTensorMode.cache_info()
    assert (after.hits, after.misses, after.bypasses) == (before.hits + 10, before.misses, before.bypasses)


def test_a_tensor_of_another_mode_is_refused(mode: FakeTensorMode) -> None:
    other = FakeTensorMode()
    with other:
        x = torch.tensor(3)
    for _ in range(2):
        with pytest.raises(AssertionError, match="Mixing fake modes"):
            aten.add_.Tensor(torch.tensor(1), x)


def test_values_are_forgotten_where_torch_is_told_to_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(fakes: Any) -> Any:
        with fakes.FakeTensorMode():
            x = torch.tensor(3)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch._subclasses.fake_tensor, "CONSTANT_NUMEL_LIMIT", 0)
                x.add_(1)
            return x.constant is None

    both_sides.assert_same(program)


def test_with_crosschecks_they_are_computed(mode: FakeTensorMode) -> None:
    mode.cache_crosscheck_enabled = True
    x = torch.tensor(3)
    assert x.add_(1).item() == 4
    assert FakeTensorMode.cache_info().bypasses == {"lift": 1, "constant attribute": 1, "data dependent output": 1}


def test_a_rule_that_comes_before_the_mode_is_asked(mode: FakeTensorMode) -> None:
    x = torch.tensor(3)
    asked = []

    def rule(mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        asked.append(func)
        return args[0]

    assert x.neg_().item() == -3
    with torch.library._scoped_library("aten", "FRAGMENT") as library:
        torch.library.register_torch_dispatch("aten::neg_", FakeTensorMode, rule, lib=library)
        assert x.neg_().item() == -3
    assert len(asked) == 1


def test_marks_for_the_profiler_reach_it(mode: FakeTensorMode) -> None:
    x = torch.empty(3)
    with torch.profiler.record_function("warm"):
        x.sin()
    before = FakeTensorMode.cache_info()
    with torch.profiler.profile() as profile, torch.profiler.record_function("marked"):
        x.sin()
    assert "marked" in [event.name for event in profile.events()]
    after = FakeTensorMode.cache_info()
    assert after.bypasses == before.bypasses
    assert after.hits == before.hits + 3


def test_an_implementation_that_a_program_gives_for_a_mark_is_asked(mode: FakeTensorMode) -> None:
    asked = []
    enter = torch.ops.profiler._record_function_enter_new.default
    enter("first", None)
    library = Library("profiler", "FRAGMENT")
    rules = torch._subclasses.fake_impls.op_implementations_dict
    torchs = rules[enter]

    def rule(fake_mode: Any, func: Any, name: str, args: Any = None) -> Any:
        asked.append(name)
        return torchs(fake_mode, func, name, args)

    rules[enter] = rule
    try:
        enter("second", None)
    finally:
        rules[enter] = torchs
        library._destroy()
    enter("third", None)
    assert asked == ["second"]
